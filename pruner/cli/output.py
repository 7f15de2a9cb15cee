"""Where commands write: files that are whole or not there, tables, JSON, progress."""

import argparse
import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import pandas as pd

from pruner.errors import PrunerError
from pruner.files.staging import Staging, temporary
from pruner.progress import Progress


def show_progress(fraction: float, what: str) -> None:
    if sys.stderr.isatty():
        print(f"\r{fraction:4.0%} {what:<60}", end="\n" if fraction == 1 else "", file=sys.stderr, flush=True)


class Terminated(KeyboardInterrupt):
    """SIGTERM: the command is to stop as after Ctrl-C."""


def terminate(*_: object) -> NoReturn:
    """What SIGTERM does, wherever the command is."""
    raise Terminated


@contextmanager
def ended_early() -> Iterator[Progress]:
    """The progress of work that the first Ctrl-C or SIGTERM ends early, with what it has reached; the second stops it as
    ever."""
    if threading.current_thread() is not threading.main_thread():
        yield show_progress  # where no signal arrives
        return
    enough = threading.Event()

    def end(*_: object) -> None:
        enough.set()
        as_before()
        print("ending early with what is reached; Ctrl-C again writes nothing", file=sys.stderr)

    def as_before() -> None:
        for which, handler in before.items():
            signal.signal(which, handler)

    def progress(fraction: float, what: str) -> bool:
        show_progress(fraction, what)
        return enough.is_set()

    before = {which: signal.signal(which, end) for which in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield progress
    finally:
        as_before()


def print_json(value: Any) -> None:
    print(json.dumps(value, indent=2))


def check_place(output: str | None) -> None:
    """Before long work, not after it."""
    if output is not None and not (parent := Path(output).absolute().parent).is_dir():
        raise PrunerError(f"expected a place to write {output}, found no folder {parent}; make it first")


def check_table(output: str | None) -> None:
    if output is not None and not output.endswith((".csv", ".json")):
        raise PrunerError(f"expected --output as a .csv or .json file, found {output!r}; change its suffix")
    check_place(output)


def put_table(options: argparse.Namespace, table: pd.DataFrame, measure: str) -> None:
    """A table as CSV or JSON by the file's suffix, or on the screen with what its values are."""
    if options.output is None:
        print(f"value: {measure}")
        print(table.to_string(index=False, na_rep=""))
    elif options.output.endswith(".json"):
        write(options.output, lambda path: table.to_json(path, orient="records", indent=2), options.checkpoint)
    else:
        write(options.output, lambda path: table.to_csv(path, index=False), options.checkpoint)


def write(output: str, write: Callable[[Path], Any], source: str | Path) -> None:
    """Write a file under a temporary name beside its place, then rename it: never a partial file, never the source. What is
    there and is no file, a pipe or a device, is written to."""
    try:
        target = Path(os.path.realpath(output))
        if target.is_dir():
            raise PrunerError(f"expected a place to write a file, found the folder {output!r}; add the name of a file")
        if target.exists() and target.samefile(source):
            raise PrunerError(f"expected another file than the source, found {output!r} for both; choose another name")
        stream = Path(output).exists() and not Path(output).is_file()
        with temporary() if stream else Staging(target.parent, target.name) as staging:
            written = staging.files / "written"
            write(written)
            if stream:
                Path(output).write_bytes(written.read_bytes())
            else:
                written.chmod(0o644)
                written.replace(target)
    except (OSError, ValueError) as error:
        raise PrunerError(f"expected a place to write {output}, found {error}; choose another") from error
