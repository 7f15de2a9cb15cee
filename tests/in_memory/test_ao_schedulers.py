"""Scripts for torch.ao.pruning's class with the import changed: its schedulers, its masks, its type."""

import subprocess
import sys
import textwrap
from typing import Any

import pytest
import torch
from torch import nn
from torch.ao.pruning import BaseSparsifier, CubicSL, LambdaSL
from torch.ao.pruning._experimental.pruner.lstm_saliency_pruner import LSTMSaliencyPruner as Upstream

from pruner import LSTMSaliencyPruner
from tests.helpers.project import PROJECT
from tests.helpers.training import loss_of, seeded

CONFIG = [{"tensor_fqn": "lstm.weight_ih_l0"}, {"tensor_fqn": "lstm.weight_hh_l0"}]


def script(kind: Any, scheduler: Any, steps: int = 20) -> list[dict[str, torch.Tensor]]:
    """Train under a schedule, as one does with torch.ao.pruning; the masks after every step."""
    model = seeded()
    pruner = kind({"sparsity_level": 0.8})
    pruner.prepare(model, CONFIG)
    growing = scheduler(pruner)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    masks = []
    for step in range(steps):
        optimizer.zero_grad()
        loss_of(model, step).backward()
        optimizer.step()
        pruner.step()
        growing.step()
        own = model.lstm.parametrizations
        masks.append({name: own[name][0].mask.clone() for name in ("weight_ih_l0", "weight_hh_l0")})
    return masks


SCHEDULERS = {
    "cubic": lambda pruner: CubicSL(pruner, init_sl=0.0, init_t=0, delta_t=1, total_t=18),
    "cubic, late": lambda pruner: CubicSL(pruner, init_sl=0.1, init_t=4, delta_t=2, total_t=5, initially_zero=True),
    "lambda": lambda pruner: LambdaSL(pruner, sl_lambda=lambda epoch: min(1.0, epoch / 15)),
}


@pytest.mark.parametrize("scheduler", SCHEDULERS.values(), ids=SCHEDULERS)
def test_masks_over_20_steps_of_a_schedule_are_those_of_upstream(scheduler: Any) -> None:
    class Ours(LSTMSaliencyPruner):
        def __init__(self, defaults: Any) -> None:
            super().__init__(defaults, regrow=False)

    ours, theirs = script(Ours, scheduler), script(Upstream, scheduler)
    for step, (own, other) in enumerate(zip(ours, theirs, strict=True)):
        assert all(torch.equal(own[name], other[name]) for name in own), step
    assert not ours[-1]["weight_hh_l0"].all()


def test_what_fell_may_come_back_by_default() -> None:
    falling = lambda pruner: LambdaSL(pruner, sl_lambda=lambda epoch: max(0.0, 1 - epoch / 10))  # noqa: E731
    ours, theirs = script(LSTMSaliencyPruner, falling), script(Upstream, falling)
    assert ours[-1]["weight_hh_l0"].all() and not theirs[-1]["weight_hh_l0"].all()


def test_a_pruner_and_its_subclasses_are_sparsifiers() -> None:
    class Own(LSTMSaliencyPruner):
        pass

    assert isinstance(LSTMSaliencyPruner(), BaseSparsifier) and isinstance(Own(), BaseSparsifier)


def test_a_scheduler_in_units_sets_every_layer() -> None:
    pruner = LSTMSaliencyPruner({"sparsity_level": 0.5}, "units")
    pruner.prepare(seeded(layers=2))
    scheduler = CubicSL(pruner, total_t=1, delta_t=1)
    for _ in range(3):
        pruner.step()
        scheduler.step()
    assert scheduler.get_last_sl() == [0.5, 0.5]
    assert [int(mask.sum()) for mask in pruner.masks().values()] == [16] * 8


def test_it_works_where_torch_has_dropped_its_pruning() -> None:
    program = """
    import sys
    for name in ("torch.ao.pruning", "torch.ao.pruning.sparsifier", "torch.ao.pruning.sparsifier.base_sparsifier"):
        sys.modules[name] = None
    import torch
    from pruner import LSTMSaliencyPruner
    pruner = LSTMSaliencyPruner(granularity="units")
    lstm = torch.nn.LSTM(3, 8)
    pruner.prepare(lstm)
    pruner.step()
    print(type(pruner.prune()).__name__)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], cwd=PROJECT, capture_output=True, text=True, check=True
    )
    assert done.stdout == "CompactLSTM\n"


def test_a_copy_of_a_scheduled_pruner_steps_by_itself() -> None:
    import copy

    model = nn.ModuleDict({"lstm": nn.LSTM(3, 8)})
    pruner = LSTMSaliencyPruner({"sparsity_level": 0.5})
    pruner.prepare(model)
    CubicSL(pruner, total_t=1, delta_t=1)
    twin_model, twin = copy.deepcopy((model, pruner))
    for group in twin.groups:
        group["sparsity_level"] = 0.5
    twin.step()
    assert twin.groups[0]["module"] is twin_model["lstm"]
    assert not all(mask.all() for mask in twin.masks().values())
    assert all(mask.all() for mask in pruner.masks().values())
