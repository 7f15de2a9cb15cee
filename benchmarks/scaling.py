"""How every stage grows with the weights: CPU seconds over hidden sizes and layers, and the exponent that fits them.

    python -m benchmarks.scaling

One layer of H = 64 to 8192 units (4096 where memory or disk is short of 8192), then one to eight layers of 512, one thread.
An exponent of 1 means that twice the weights take twice the time. It is fitted to the larger half of the sizes, because the
small ones tell of calls and not of numbers.
"""

import math
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from benchmarks.rows import Row
from pruner import Recipe, open_checkpoint
from pruner.compact.costs import cost_of_form
from pruner.exports.certificate import as_stored, certify, length_to_certify
from pruner.files.writing import write
from pruner.importance.scores import score_lstm
from pruner.pipeline import prune

TAKES = 150
HIDDEN_SIZES, LAYERS, OF_LAYERS = (64, 128, 256, 512, 1024, 2048, 4096, 8192), (1, 2, 4, 8), 512
MOST_EXPONENT = 1.1
WARM = 2**25  # weights, below which a stage is timed several times: all layers of one series, or none
TURNS, LONG = 5, 1.0  # at least, and as many more as take so many seconds together


def seconds_of(do: Callable[[Path], Any], folder: Path, warm: bool) -> float:
    """The least CPU time of several turns, or of one that is not warm; each is given a path in `folder` of its own."""
    times = list[float]()
    while not times or (warm and (len(times) < TURNS or sum(times) < LONG)):
        own = folder / f"turn-{len(times)}"
        started = time.process_time()
        do(own)
        times.append(time.process_time() - started)
        own.unlink(missing_ok=True)
    return min(times)


def stages(folder: Path, hidden_size: int, layers: int) -> tuple[int, dict[str, float]]:
    """(weights of an LSTM, seconds by stage) from opening its file to the certificate."""
    torch.manual_seed(0)
    lstm = nn.LSTM(hidden_size, hidden_size, layers)
    weights = sum(parameter.numel() for parameter in lstm.parameters())
    path, written = folder / "model.safetensors", folder / "pruned"
    save_file({f"lstm.{name}": tensor for name, tensor in lstm.state_dict().items()}, path)
    del lstm
    times: dict[str, float] = {}

    def timed(stage: str, do: Callable[[Path], Any]) -> None:
        times[stage] = seconds_of(do, folder, weights < WARM)

    checkpoint = open_checkpoint(path)
    timed("hash", lambda own: open_checkpoint(path).sha256)
    timed("saliency and ranks", lambda own: score_lstm(checkpoint.lstms[0], checkpoint.tensors, "l1"))
    for granularity, form in (("rows", "masked"), ("units", "compact")):
        pruned = prune(checkpoint, Recipe(0.5, granularity=granularity))
        made = pruned.forms[form]
        timed(f"count, {form}", lambda own, made=made: cost_of_form(checkpoint, made))
        timed(f"write, {form}", partial(write, checkpoint, made.changed))
        written.unlink(missing_ok=True)
        write(checkpoint, made.changed, written)
        masked, again = pruned.forms["masked"].layouts, open_checkpoint(written)

        def certificate(
            own: Path, pruned: Any = pruned, masked: Any = masked, made: Any = made, again: Any = again
        ) -> Any:
            reference = as_stored(masked, pruned.tensors(), checkpoint.source)
            stored = as_stored(made.layouts, again.tensors, again.source)
            return certify(reference, stored, made.layouts, length_to_certify(made.layouts))

        timed(f"certificate, {form}", certificate)
    return weights, times


def exponent(points: list[tuple[int, float]]) -> float:
    """The slope of log(seconds) over log(weights) in the larger half of the points."""
    larger = points[len(points) // 2 :]
    weights, seconds = ([math.log(max(each, 1e-6)) for each in values] for values in zip(*larger, strict=True))
    return statistics.linear_regression(weights, seconds).slope


def rows() -> Iterator[Row]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        largest = 4 * 4 * HIDDEN_SIZES[-1] * 2 * HIDDEN_SIZES[-1]  # bytes
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
        roomy = memory > 4 * largest and shutil.disk_usage(name).free > 4 * largest
        hidden_sizes = HIDDEN_SIZES if roomy else HIDDEN_SIZES[:-1]
        sizes = {
            f"H = {hidden_sizes[0]} to {hidden_sizes[-1]}": [(hidden, 1) for hidden in hidden_sizes],
            f"{LAYERS[0]} to {LAYERS[-1]} layers of {OF_LAYERS}": [(OF_LAYERS, layers) for layers in LAYERS],
        }
        for title, each in sizes.items():
            points: dict[str, list[tuple[int, float]]] = {}
            for hidden_size, layers in each:
                weights, times = stages(Path(name), hidden_size, layers)
                for stage, seconds in times.items():
                    points.setdefault(stage, []).append((weights, seconds))
            for stage, found in points.items():
                yield Row(f"{title}: exponent of {stage}", exponent(found), MOST_EXPONENT, "")
                yield Row(f"{title}: {stage} at the largest", found[-1][1], None, "s")
    torch.set_num_threads(threads)


def main() -> None:
    for row in rows():
        print(row.told(), flush=True)


if __name__ == "__main__":
    main()
