"""Worker processes, each a fork of one process that has imported all that they need and computed nothing: a worker is there
at once, takes memory only for what it does, and gives all of it back."""

import atexit
import json
import socket
import subprocess
import sys
import threading
from pathlib import Path

_FORKED = Path(__file__).with_name("forked.py")  # a script, so that nobody else's main module is imported
CAN_FORK = sys.platform == "linux"  # elsewhere what has imported so much may not survive it, or there is no such thing


class Forks:
    """The process that is forked, begun when it is first needed, and anew should it have died. It ends when this one does,
    however that ends."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        atexit.register(self._end)

    def begin(self) -> None:
        """Let it import before anybody waits for it."""
        with self._lock:
            self._running()

    def worker(self) -> socket.socket:
        """A socket to a new worker, in which `worker.serve` waits for work; its end is read there if none could be made."""
        ours, theirs = socket.socketpair()
        with self._lock, theirs:
            try:
                socket.send_fds(self._running(), [b"-"], [theirs.fileno()])
            except OSError:
                self._end()
                socket.send_fds(self._running(), [b"-"], [theirs.fileno()])
        return ours

    def _running(self) -> socket.socket:
        if self._control is None:
            self._control, theirs = socket.socketpair()
            command = [sys.executable, "-P", str(_FORKED), str(theirs.fileno()), json.dumps(sys.path)]
            with theirs:
                self._process = subprocess.Popen(  # noqa: S603 - our own interpreter and script
                    command, stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()]
                )
        return self._control

    def _end(self) -> None:
        if self._control is not None and self._process is not None:
            self._control.close()
            self._control = None
            self._process.kill()
            self._process.wait()
