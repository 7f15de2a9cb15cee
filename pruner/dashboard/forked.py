"""The process that workers are forked from: a script, run with a socket that asks for them and the paths to import from."""

import importlib
import json
import os
import signal
import socket
import sys
from contextlib import suppress
from pathlib import Path

NEEDED = ("pruner.dashboard.given", "pruner.dashboard.speeds", "pruner.lessons")
NICE = 10  # that of workers: as nice as the server, all of them at work make a slider take more than twice as long
FIRST_TO_GO = "500"  # of 1000: where memory ends, the system takes a worker and leaves the server


def main(descriptor: int) -> None:
    """Make a worker for each socket that comes, until there is nobody any more to send one."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process of a terminal; the server decides
    from pruner.dashboard.worker import serve
    from pruner.examples import embedded_reber

    for name in NEEDED:
        importlib.import_module(name)
    embedded_reber.strings()  # half a second that no worker needs to spend again
    os.nice(NICE)
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(FIRST_TO_GO)
    control = socket.socket(fileno=descriptor)
    while True:
        asked, streams, *_ = socket.recv_fds(control, 1, 1)
        if not asked:
            return
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # workers that have ended are not waited for
        if _forked():
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            control.close()
            serve(socket.socket(fileno=streams[0]))
        os.close(streams[0])


def _forked() -> bool:
    """Whether this is the new process; also False where there is no room for one."""
    try:
        return os.fork() == 0
    except OSError:
        return False


if __name__ == "__main__":
    sys.path[:] = json.loads(sys.argv[2])
    main(int(sys.argv[1]))
