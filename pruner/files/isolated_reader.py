"""The process that reads one file: its bytes come in as the standard input, a regular file; what it holds goes out.

Run as a script, it imports of this project only what reads files, which needs no torch, and sets its limits before it
touches a byte.
"""

import json
import mmap
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pruner.files.contents import Contents


def main(kind: str, name: str, parent: int) -> None:
    """Read the standard input as one of the kinds that `_readers` knows, and write what it holds, as long as the process
    of the number `parent` is there to read it."""
    package = ModuleType("pruner")  # in place of the real one, which imports torch
    package.__path__ = [str(Path(__file__).parents[1])]
    sys.modules["pruner"] = package
    from pruner.errors import PrunerError
    from pruner.files.orphans import end_with
    from pruner.files.transport import send, send_error

    end_with(parent)
    reader = _readers()[kind]
    file = mmap.mmap(sys.stdin.fileno(), 0, access=mmap.ACCESS_COPY)
    limit(len(file))
    data = memoryview(file)
    try:
        send(reader(data, name), data, sys.stdout.buffer)
    except PrunerError as error:
        send_error(str(error), sys.stdout.buffer)
    sys.stdout.buffer.flush()


def _readers() -> dict[str, Callable[[memoryview, str], "Contents"]]:
    from pruner.files import formats, input_arrays, keras_whole
    from pruner.files.naming import named

    def checkpoint(data: memoryview, name: str) -> "Contents":
        contents = formats.read(data, name)
        named(contents, len(data), name)  # which raises here already what it would raise
        return contents

    return {"checkpoint": checkpoint, "inputs": input_arrays.read, "keras": keras_whole.read}


def limit(size: int, seconds: int | None = None) -> None:
    """Limits of the operating system, where it has them, on what this process may take to read a file of a size, in as many
    `seconds` of a processor, if it is not the size that says how many."""
    try:
        import resource
    except ImportError:
        return
    from pruner.files.limits import cpu_seconds, memory

    wanted = {resource.RLIMIT_CORE: 0, resource.RLIMIT_CPU: seconds or cpu_seconds(size)}
    pages = Path("/proc/self/statm")
    if pages.exists():
        now = int(pages.read_text().split()[0]) * resource.getpagesize()
        wanted[resource.RLIMIT_AS] = now + memory(size)
    for limit, most in wanted.items():
        _, hard = resource.getrlimit(limit)
        resource.setrlimit(limit, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))


if __name__ == "__main__":
    main(sys.argv[1], json.loads(sys.argv[2]), int(sys.argv[3]))
