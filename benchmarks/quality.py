"""What pruning costs the Python-docs example, by criterion and compensation: held-out bits per character above dense.

python -m benchmarks.quality [--sparsities 0.25,0.5,0.75] [--threads 1]

The quality table of the README, in one process, in about an hour, most of it for the compensation `heal`: its columns name
the seconds, and `HEALED` the lines that it is tried in. Criteria that need data get the example's own calibration inputs; of
`random` the lowest and the highest of three seeds are shown. For reference: `torch.ao.pruning`'s own class, its masks and
what its `prune()` makes, and every packed weight in two factors (a truncated SVD, from weights alone) that take as many
multiply-accumulates as what `units` leave; there is no faster kernel behind those.
"""

import argparse
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.ao.pruning._experimental.pruner.lstm_saliency_pruner import LSTMSaliencyPruner as Upstream

from pruner import Recipe, examples
from pruner.compact.costs import size_of_file, size_of_form
from pruner.lstm.module import build
from pruner.pipeline import gather_statistics, prune
from pruner.recipe import CRITERIA, ROW_CRITERIA
from pruner.search.references import two_factors

SEEDS = (0, 1, 2)
COLUMNS: dict[str, dict[str, Any]] = {
    "no compensation": {"compensation": "none"},
    "`fold`": {"compensation": "fold"},
    "`heal`, 30 s": {"compensation": "heal", "budget": 30.0},
    "`heal`, 2 min": {"compensation": "heal", "budget": 120.0},
    "`heal`, 5 min": {"compensation": "heal", "budget": 300.0},
}
Line = tuple[str, str, str]  # granularity, allocation, criterion
HEALED: dict[Line, float] = {  # the longest healing that is tried
    ("units", "uniform", "obs"): 300.0,
    ("rows", "uniform", "l1"): 120.0,
    ("rows", "global", "fisher"): 120.0,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sparsities", default="0.25,0.5,0.75")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    sparsities = [float(text) for text in options.sparsities.split(",")]
    started, bench = time.monotonic(), _Bench()
    told = " / ".join(f"{100 * share:.0f}" for share in sparsities)
    print(f"{processor()}, {options.threads} thread(s), torch {torch.__version__}")
    print(f"dense: {bench.dense:.4f} bits per character; below, what is added to it at {told} %\n")
    print(f"| | {' | '.join(COLUMNS)} |\n|---|{'---|' * len(COLUMNS)}")
    _print("upstream's masks", [bench.cell(sparsities, lambda share: bench.upstream(share, False))])
    _print("upstream's `prune()`", [bench.cell(sparsities, lambda share: bench.upstream(share, True))])
    _print("two factors a weight", [bench.cell(sparsities, bench.factors)])
    for line in _lines():
        _print(_title(line), [bench.tried(line, sparsities, settings) for settings in COLUMNS.values()])
    print(f"\n{time.monotonic() - started:.0f} seconds in all")


def _print(title: str, cells: Sequence[str]) -> None:
    padded = [*cells, *[""] * (len(COLUMNS) - len(cells))]
    print(f"| {title} | {' | '.join(padded)} |", flush=True)


def _lines() -> list[Line]:
    lines = [("units", "uniform", criterion) for criterion in CRITERIA] + [("units", "global", "obs")]
    return [*lines, *(("rows", "uniform", criterion) for criterion in ROW_CRITERIA), ("rows", "global", "fisher")]


def _title(line: Line) -> str:
    granularity, allocation, criterion = line
    return f"`{granularity}`, `{criterion}`{', global' if allocation == 'global' else ''}"


def processor() -> str:
    """What the processor is called, where the system tells."""
    told = Path("/proc/cpuinfo")
    names = [line.partition(":")[2].strip() for line in told.open() if "model name" in line] if told.exists() else []
    return names[0] if names else platform.processor() or platform.machine()


class _Bench:
    """The example with its calibration inputs and statistics, gathered once."""

    def __init__(self) -> None:
        self.example = examples.named("pydocs-chars")
        self.checkpoint = self.example.open()
        self.calibration = self.example.calibration(self.checkpoint)
        recipe = self.example.complete(Recipe(0.5, "units", "obs"))
        self.statistics = gather_statistics(self.checkpoint, recipe, self.calibration)
        lstms = {"lstm": build(self.checkpoint.lstms[0], self.checkpoint.tensors)}
        self.dense = self.example.quality(self.checkpoint.tensors, lstms)

    def tried(self, line: Line, sparsities: Sequence[float], settings: Mapping[str, Any]) -> str:
        """The cell of a line under the settings of a column; empty where healing is not tried for so long."""
        if settings["compensation"] == "heal" and settings["budget"] > HEALED.get(line, 0.0):
            return ""
        granularity, allocation, criterion = line
        if criterion != "random":
            return self.cell(
                sparsities, lambda share: self.loss(Recipe(share, granularity, criterion, allocation, **settings))
            )
        cells = []
        for share in sparsities:
            drawn = Recipe(share, granularity, criterion, allocation, **settings)
            losses = [self.loss(replace(drawn, seed=seed)) for seed in SEEDS]
            cells.append(f"{_figure(min(losses))}–{_figure(max(losses))}")
        return " / ".join(cells)

    def cell(self, sparsities: Sequence[float], loss: Callable[[float], float]) -> str:
        return " / ".join(_figure(loss(share)) for share in sparsities)

    def loss(self, recipe: Recipe) -> float:
        recipe = self.example.complete(recipe)
        pruned = prune(self.checkpoint, recipe, self.calibration, self.statistics)
        return self.example.quality(pruned.tensors(), pruned.modules("compact")) - self.dense

    def upstream(self, sparsity: float, pruned: bool) -> float:
        """Bits above dense of upstream's class: masked, or after its `prune()`."""
        lstm = build(self.checkpoint.lstms[0], self.checkpoint.tensors).requires_grad_(True)
        small = _pruned_upstream(_Tagger(lstm, self.checkpoint.tensors), sparsity, pruned)
        tensors = {**self.checkpoint.tensors, "linear.weight": small.linear.weight, "linear.bias": small.linear.bias}
        return self.example.quality(tensors, {"lstm": small.lstm}) - self.dense

    def factors(self, sparsity: float) -> float:
        """Bits above dense with each packed weight as the product of two, as large together as what `units` leave of it."""
        recipe = self.example.complete(Recipe(sparsity, "units", "obs"))
        left = size_of_form(
            self.checkpoint, prune(self.checkpoint, recipe, self.calibration, self.statistics).forms["compact"]
        )
        share = left.macs_per_step / size_of_file(self.checkpoint).macs_per_step
        lstm = self.checkpoint.lstms[0]
        tensors = {**self.checkpoint.tensors} | two_factors(self.checkpoint.tensors, [lstm], share)
        return self.example.quality(tensors, {"lstm": build(lstm, tensors)}) - self.dense


def _figure(loss: float) -> str:
    return f"{loss:.2f}" if abs(loss) >= 0.1 else f"{loss:.3f}"


class _Tagger(nn.Module):
    """The example as upstream's tracer understands it: an LSTM, its output, a linear layer."""

    def __init__(self, lstm: nn.LSTM, tensors: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.lstm = lstm
        self.linear = nn.Linear(lstm.hidden_size, len(tensors["linear.weight"]))
        self.linear.load_state_dict({name: tensors[f"linear.{name}"] for name in ("weight", "bias")})

    def forward(self, inputs: Tensor) -> Tensor:
        output, _ = self.lstm(inputs)
        return self.linear(output)


def _pruned_upstream(model: nn.Module, sparsity: float, pruned: bool) -> Any:
    weights = [f"lstm.{name}" for name, _ in model.lstm.named_parameters() if name.startswith("weight")]
    pruner = Upstream({"sparsity_level": sparsity})
    pruner.prepare(model, [{"tensor_fqn": name} for name in weights])
    pruner.enable_mask_update = True
    pruner.step()
    if pruned:
        return pruner.prune().eval()
    pruner.squash_mask()
    return model.eval()


if __name__ == "__main__":
    main()
