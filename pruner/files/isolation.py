"""Reading a file in a process of its own, whose memory, time and output are limited: nothing that the file does can take
this process along."""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import IO

from pruner.errors import PrunerError, shown
from pruner.files.contents import Contents
from pruner.files.limits import cpu_seconds, memory
from pruner.files.source import Source
from pruner.files.transport import Garbled, receive

_READER = Path(__file__).with_name("isolated_reader.py")  # a script: what it imports stays in its own process
_PATIENCE = 30  # seconds to wait beyond those that the reader may compute, where the machine or the disk is busy
_MOST_TEXT = 2**26  # bytes that a small file may be described in


def read_isolated(kind: str, source: Source, name: str) -> Contents:
    """What a reader of `isolated_reader` makes of a file, whose source is still open.

    Raises PrunerError for a file that is refused, and for one that takes more than its share or stops its reader.
    """
    with (
        subprocess.Popen(  # noqa: S603 - our own interpreter and script
            [sys.executable, "-P", str(_READER), kind, json.dumps(name[:1000]), str(os.getpid())],
            stdin=source.file,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
        ) as process
    ):
        stopper = threading.Timer(_PATIENCE + cpu_seconds(source.size), process.kill)
        stopper.start()
        try:
            sent = _read(process.stdout, memory(source.size) + _MOST_TEXT)
        finally:
            stopper.cancel()
            process.kill()
    status = process.returncode
    try:
        return receive(sent, source.data)
    except Garbled as error:
        raise PrunerError(
            f"expected a file that {memory(source.size) // 2**20:,} MiB of memory and {cpu_seconds(source.size)} seconds "
            f"suffice to read, found one that took more or stopped its reader ({status}): {shown(name)}; save the weights "
            "alone, as .safetensors or with torch.save"
        ) from error


def _read(stream: IO[bytes] | None, most: int) -> bytearray:
    """All of a stream; nothing if it is longer than `most`."""
    found = bytearray()
    while stream is not None and (part := stream.read(2**20)):
        found += part
        if len(found) > most:
            return bytearray()
    return found
