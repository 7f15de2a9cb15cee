"""Open every hostile file in this process, and say of each what came of it and what it cost, a JSON line a file.

`python -m tests.hostile.measured`; the process has 4 GB of addresses, as much as a small server leaves to it.
"""

import gc
import json
import resource
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pruner import PrunerError, open_checkpoint
from tests.hostile.others import OTHER_CASES
from tests.hostile.pickled_tensors import PICKLES

CASES = {**PICKLES, **OTHER_CASES}
ADDRESSES = 4 * 10**9


def memory(field: str) -> int:
    """Bytes of memory: `VmRSS` now, or `VmHWM` at most since `forget_peak`."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))


def forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def measured(data: bytes) -> dict[str, Any]:
    """What opening a file gives: a message ("" where it opens), CPU seconds, bytes of memory beyond those before."""
    gc.collect()
    forget_peak()
    before, started = memory("VmRSS"), time.process_time()
    try:
        open_checkpoint(data, "file")
        message = ""
    except PrunerError as error:
        message = str(error)
    except BaseException as error:  # whatever it is, it should not be
        message = f"{type(error).__name__}: {error}"
    return {"message": message, "seconds": time.process_time() - started, "memory": memory("VmHWM") - before}


def all_measured() -> Iterator[dict[str, Any]]:
    for name, (make, _) in CASES.items():
        data = make()
        yield {"name": name, "size": len(data), **measured(data)}


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESSES, ADDRESSES))
    gc.freeze()  # what was imported is not looked through before each file
    for found in all_measured():
        print(json.dumps(found), flush=True)  # noqa: T201 - what it is for
    sys.exit(0)
