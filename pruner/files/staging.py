"""Folders to write in until all is whole, which whoever comes next clears away if their writer died.

Each is `.export-…` beside the place that it is for, and holds a lock, which ends with its writer, however that ends; the
files that are written; and, once they are on their way into a folder that was there before, a list of these.
"""

import errno
import json
import os
import shutil
import stat
import tempfile
import time
from contextlib import nullcontext, suppress
from hashlib import sha256
from pathlib import Path, PurePath
from uuid import uuid4

from pruner.errors import PrunerError

try:
    import fcntl
except ImportError:  # where there are no locks of this kind, nothing is known to be dead, and nothing cleared away
    fcntl = None  # type: ignore[assignment]

_LOCK, _FILES, _MOVING = "lock", "files", "moving.json"
_PATIENCE = 1.0  # seconds
_NAMES = ".export-" + "[0-9a-f]" * 16


class Staging:
    """A folder within `parent` for what is to have a `name` there, or for the parent itself (`""`); `files` is written to.

    Raises PrunerError while another process, or thread, has it, and OSError where none can be made.
    """

    def __init__(self, parent: Path, name: str) -> None:
        clear_dead(parent)
        self._folder = parent / f".export-{sha256(os.fsencode(name)).hexdigest()[:16]}"
        self._lock = _taken(self._folder)
        if self._lock is None:
            raise PrunerError(
                f"expected a place that nobody else writes to, found {parent / name} being written by another process; "
                "wait until it has ended, or choose another place"
            )
        self.files = self._folder / _FILES
        try:
            _clear(self._folder)
            self.files.mkdir()
        except OSError:
            self.close()
            raise

    def __enter__(self) -> "Staging":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def others(self) -> bool:
        """Whether anything else lies where it lies."""
        return any(path != self._folder for path in self._folder.parent.iterdir())

    def settle(self) -> None:
        """Wait until all that was written lies on the disk, which may be full only then."""
        for path in (*self.files.rglob("*"), self.files):
            with nullcontext() if path.is_file() else suppress(OSError):  # not every disk can do so with a folder
                file = os.open(path, os.O_RDONLY)
                try:
                    os.fsync(file)
                finally:
                    os.close(file)

    def replace(self, target: Path) -> None:
        """Make the folder of the files the target, at once."""
        self.files.chmod(0o755)
        self.files.replace(target)

    def move_in(self, last: str) -> None:
        """Move the files into the folder that this lies in; once `last`, one of them, is there, all of them are."""
        paths = [str(file.relative_to(self.files)) for file in sorted(self.files.rglob("*")) if file.is_file()]
        paths.sort(key=last.__eq__)
        listed = [[path, *_identity(self.files / path)] for path in paths]
        (self._folder / _MOVING).write_text(json.dumps(listed), encoding="utf-8")
        for path in paths:
            target = self._folder.parent / path
            target.parent.mkdir(exist_ok=True)
            (self.files / path).replace(target)

    def close(self) -> None:
        """Remove it with all that is left in it, and what was moved out of it if that was not all."""
        if self._lock is not None:
            _remove(self._folder, self._lock)
            self._lock = None


def temporary() -> Staging:
    """One of its own among the temporary files of this machine."""
    return Staging(Path(tempfile.gettempdir()), uuid4().hex)


def clear_dead(parent: Path) -> None:
    """Remove from a folder what writers left there that died, and nothing else."""
    for folder in parent.glob(_NAMES):
        with suppress(OSError):  # somebody else's, or just gone
            if stat.S_ISDIR(folder.lstat().st_mode) and (lock := _locked(folder / _LOCK)) is not None:
                _remove(folder, lock)


def _taken(folder: Path) -> int | None:
    """The lock of a folder, which is made if it is not there; None if another has it, and is not just clearing it away."""
    until = time.monotonic() + _PATIENCE
    while True:
        folder.mkdir(mode=0o700, exist_ok=True)
        with suppress(FileNotFoundError):  # it has just been cleared away
            lock = _locked(folder / _LOCK)
            if lock is not None and os.path.samestat(os.fstat(lock), (folder / _LOCK).lstat()):
                return lock
            if lock is not None:
                os.close(lock)
            elif time.monotonic() > until:
                return None
        time.sleep(0.01)


def _locked(path: Path) -> int | None:
    """A lock on a file, held until it is closed or this process ends; None if another holds it, or that cannot be told."""
    flags = os.O_RDWR | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    try:
        file, new = os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o600), True
    except FileExistsError:
        file, new = os.open(path, flags), False
    try:
        if fcntl is None:
            raise OSError(errno.ENOSYS, "no locks")
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if isinstance(error, BlockingIOError) or not new:
            os.close(file)
            return None
    return file


def _remove(folder: Path, lock: int) -> None:
    """Remove a folder whose lock is held; what somebody else put there stays."""
    with suppress(OSError):
        _clear(folder)
    if fcntl is None:  # nor can a file be removed that is open
        os.close(lock)
    with suppress(OSError):
        (folder / _LOCK).unlink()
    if fcntl is not None:
        os.close(lock)
    with suppress(OSError):
        folder.rmdir()


def _clear(folder: Path) -> None:
    """Empty a folder whose lock is held, but for the lock; what was moved out of it goes too, unless that was all."""
    moved = _moved(folder)
    if moved and not (folder.parent / moved[-1][0]).exists():
        for path, identity in moved:
            if _is(folder.parent / path, identity):
                (folder.parent / path).unlink()
        for inner in {path.parent for path, _ in moved} - {PurePath()}:
            with suppress(OSError):  # not there yet, or in use
                (folder.parent / inner).rmdir()
    (folder / _MOVING).unlink(missing_ok=True)
    if (folder / _FILES).exists():
        shutil.rmtree(folder / _FILES)


def _moved(folder: Path) -> list[tuple[PurePath, list[int]]]:
    """What was, or was to be, moved out of a folder, each with what it is known by; nothing if the list was not finished, or
    is that of another user, who may name anything of ours."""
    try:
        if hasattr(os, "geteuid") and folder.lstat().st_uid != os.geteuid():
            return []
        listed = json.loads((folder / _MOVING).read_text(encoding="utf-8"))
        found = [(PurePath(path), identity) for path, *identity in listed]
    except (OSError, ValueError, TypeError, RecursionError):
        return []
    return [each for each in found if ".." not in each[0].parts and not each[0].is_absolute()]


def _is(path: Path, identity: list[int]) -> bool:
    """Whether a file is the one that was moved there, and not another of its name."""
    try:
        return _identity(path) == identity
    except (OSError, ValueError):
        return False


def _identity(path: Path) -> list[int]:
    found = path.lstat()
    return [found.st_ino, found.st_size, found.st_mtime_ns]
