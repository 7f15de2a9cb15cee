"""The process that times contenders: they come in pickled from the process that started it, times go out, a line a setting.

Run as a script, so that neither the server's threads nor its settings of PyTorch's are those of what is timed.
"""

import json
import pickle
import sys
from pathlib import Path
from types import ModuleType


def main(parent: int) -> None:
    """Answer with how many settings follow, then with each: batch size, threads, and the seconds of every turn; as long as
    the process of the number `parent` is there to hear it."""
    package = ModuleType("pruner")  # in place of the real one, which imports all of it
    package.__path__ = [str(Path(__file__).parents[2])]
    sys.modules["pruner"] = package
    import torch

    from pruner.exports.speed.apart import BATCH_SIZES, Asked
    from pruner.files.orphans import end_with
    from pruner.lstm.timing import in_turns

    end_with(parent)
    asked: Asked = pickle.load(sys.stdin.buffer)  # noqa: S301 - from our own process
    settings = [
        (batch_size, threads) for threads in dict.fromkeys((1, torch.get_num_threads())) for batch_size in BATCH_SIZES
    ]
    _say(len(settings))
    for batch_size, threads in settings:
        torch.set_num_threads(threads)
        calls = {name: contender.call(batch_size, threads) for name, contender in asked.contenders.items()}
        _say([batch_size, threads, in_turns(calls, asked.seconds)])


def _say(what: object) -> None:
    sys.stdout.write(f"{json.dumps(what)}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(int(sys.argv[1]))
