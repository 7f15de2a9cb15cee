"""What pruning costs the Python-docs example, by criterion and compensation: held-out bits per character above dense.

python -m benchmarks.quality [--sparsities 0.25,0.5,0.75]

In one process, about half an hour, most of it for the compensation `heal`, which is therefore tried with the criteria in
`HEALED` only, and for the times that the columns say. Criteria that need data get the example's own calibration inputs; of
`random` the lowest and the highest of three seeds are shown. The last lines are `torch.ao.pruning`'s own class: its masks,
and what its `prune()` makes.
"""

import argparse
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor, nn
from torch.ao.pruning._experimental.pruner.lstm_saliency_pruner import LSTMSaliencyPruner as Upstream

from pruner import Recipe, examples
from pruner.lstm.module import build
from pruner.pipeline import gather_statistics, prune
from pruner.recipe import CRITERIA, ROW_CRITERIA

SEEDS = (0, 1, 2)
COLUMNS: dict[str, dict[str, Any]] = {
    "none": {"compensation": "none"},
    "fold": {"compensation": "fold"},
    "heal, 30 s": {"compensation": "heal", "budget": 30.0},
    "heal, 2 min": {"compensation": "heal", "budget": 120.0},
}
HEALED = (("units", "uniform", "obs"), ("rows", "global", "fisher"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sparsities", default="0.25,0.5,0.75")
    sparsities = [float(text) for text in parser.parse_args().sparsities.split(",")]
    bench = _Bench()
    print(f"dense: {bench.dense:.4f} bits per character; below, what is added to it\n")
    header = " | ".join(f"{share:.0%} {column}" for column in COLUMNS for share in sparsities)
    print(f"| | {header} |\n|---|{'---|' * (len(sparsities) * len(COLUMNS))}")
    for granularity, allocation, criterion in _lines():
        cells = []
        for settings in COLUMNS.values():
            tried = settings["compensation"] != "heal" or (granularity, allocation, criterion) in HEALED
            recipes = [Recipe(share, granularity, criterion, allocation, **settings) for share in sparsities]
            cells += [bench.told(recipe) if tried else "" for recipe in recipes]
        print(
            f"| {granularity}, {criterion}{', global' if allocation == 'global' else ''} | {' | '.join(cells)} |",
            flush=True,
        )
    blank = " | ".join("" for _ in sparsities)
    for title, pruned in (("upstream's masks", False), ("upstream's `prune()`", True)):
        cells = [f"{bench.upstream(share, pruned):+.3f}" for share in sparsities]
        print(f"| {title} | {' | '.join(cells)} | {' | '.join([blank] * (len(COLUMNS) - 1))} |", flush=True)


def _lines() -> list[tuple[str, str, str]]:
    lines = [("units", "uniform", criterion) for criterion in CRITERIA]
    lines += [("units", "global", "obs")]
    lines += [("rows", "uniform", criterion) for criterion in ROW_CRITERIA]
    return [*lines, ("rows", "global", "fisher")]


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

    def told(self, recipe: Recipe) -> str:
        """Bits above dense, of `random` the lowest and highest of the seeds."""
        if recipe.criterion != "random":
            return f"{self.loss(recipe):+.3f}"
        losses = [self.loss(replace(recipe, seed=seed)) for seed in SEEDS]
        return f"{min(losses):+.3f} … {max(losses):+.3f}"

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
