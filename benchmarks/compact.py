"""How much faster a compact LSTM is than the dense and the masked one: paired runs in one process, CPU, one thread.

python -m benchmarks.compact
"""

import copy
import statistics
import time

import torch
from torch import Tensor, nn

from pruner import LSTMSaliencyPruner

INPUT_SIZE, NUM_LAYERS, LENGTH = 256, 2, 64
RUNS = {1: 40, 32: 12}  # by batch size


def pruned(dense: nn.Module, sparsity: float) -> tuple[nn.Module, nn.Module]:
    """(masked, compact) copies of a module that holds an `nn.LSTM`."""
    forms = []
    for finish in ("squash_mask", "prune"):
        model = copy.deepcopy(dense)
        pruner = LSTMSaliencyPruner({"sparsity_level": sparsity}, granularity="units")
        pruner.prepare(model)
        pruner.enable_mask_update = True
        pruner.step()
        getattr(pruner, finish)()
        forms.append(model)
    return forms[0], forms[1]


def arithmetic(hidden_size: int, sparsity: float) -> float:
    """The ratio of multiply-accumulates, dense to compact."""

    def work(units: int) -> int:
        return sum(4 * units * (width + units) for width in [INPUT_SIZE, *[units] * (NUM_LAYERS - 1)])

    return work(hidden_size) / work(hidden_size - int(hidden_size * sparsity))


@torch.inference_mode()
def seconds(models: dict[str, nn.Module], inputs: Tensor, runs: int) -> dict[str, list[float]]:
    """Times of every model, taken in turns so that a slow moment of the machine meets all of them."""
    times: dict[str, list[float]] = {name: [] for name in models}
    for run in range(runs + 2):
        for name, model in models.items():
            started = time.perf_counter()
            model["lstm"](inputs)
            if run >= 2:  # the first two runs warm up
                times[name].append(time.perf_counter() - started)
    return times


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print("    H  dropped  batch   masked  compact   (10 to 90 %)   arithmetic")
    for hidden_size in (512, 1024):
        dense = nn.ModuleDict({"lstm": nn.LSTM(INPUT_SIZE, hidden_size, NUM_LAYERS)}).eval()
        for sparsity in (0.5, 0.75):
            masked, compact = pruned(dense, sparsity)
            for batch_size, runs in RUNS.items():
                inputs = torch.randn(LENGTH, batch_size, INPUT_SIZE)
                times = seconds({"dense": dense, "masked": masked, "compact": compact}, inputs, runs)
                ratios = {
                    name: sorted(a / b for a, b in zip(times["dense"], times[name], strict=True))
                    for name in ("masked", "compact")
                }
                tenth = len(ratios["compact"]) // 10
                print(
                    f"{hidden_size:5}  {sparsity:7.0%}  {batch_size:5}  {statistics.median(ratios['masked']):6.2f}x "
                    f"{statistics.median(ratios['compact']):7.2f}x  {ratios['compact'][tenth]:5.2f} - "
                    f"{ratios['compact'][-1 - tenth]:5.2f}   {arithmetic(hidden_size, sparsity):9.2f}x"
                )


if __name__ == "__main__":
    main()
