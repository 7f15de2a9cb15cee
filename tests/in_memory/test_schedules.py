"""Schedules of sparsity, and the penalty that drives whole units to zero."""

from typing import Any

import pytest
import torch
from torch import nn
from torch.ao.pruning import CubicSL

from pruner import LSTMSaliencyPruner, PrunerError, unit_penalty
from pruner.in_memory.schedules import Schedule
from tests.helpers.training import H, loss_of, seeded, stepped


@pytest.mark.parametrize("taken", range(12))
def test_cubic_is_that_of_zhu_and_gupta(taken: int) -> None:
    theirs = CubicSL.sparsity_compute_fn(s_0=0.1, s_f=0.8, t=taken, t_0=2, dt=1, n=6)
    wanted = 0.8 if taken > 8 else max(0.1, theirs)
    assert Schedule("cubic", 6, begin=2, initial=0.1).level(taken, 0.8) == pytest.approx(wanted)


def test_linear_and_constant() -> None:
    linear, constant = Schedule("linear", 4, begin=1), Schedule("constant", 4, begin=2, initial=0.1)
    assert [linear.level(taken, 0.8) for taken in range(7)] == pytest.approx([0, 0, 0.2, 0.4, 0.6, 0.8, 0.8])
    assert [constant.level(taken, 0.8) for taken in range(4)] == [0.1, 0.1, 0.8, 0.8]


def test_masks_follow_every_so_many_steps_and_at_the_end() -> None:
    schedule = Schedule("linear", 5, begin=2, every=3)
    assert [taken for taken in range(15) if schedule.is_due(taken)] == [2, 5, 7, 8, 11, 14]


def test_a_pruner_follows_its_schedule_to_each_group_s_own_level() -> None:
    model = seeded()
    pruner = LSTMSaliencyPruner()
    pruner.prepare(
        model,
        [{"tensor_fqn": "lstm.weight_ih_l0", "sparsity_level": 0.75}, {"tensor_fqn": "lstm.weight_hh_l0"}],
    )
    pruner.schedule("linear", steps=4)
    dropped = []
    for _ in range(6):
        pruner.step()
        dropped.append([int((~mask).sum()) // 4 for mask in pruner.masks().values()])
    assert dropped == [[1, 1], [3, 2], [4, 3], [6, 4], [6, 4], [6, 4]]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"shape": "square"}, "expected a schedule among constant, linear, cubic; found 'square'"),
        ({"shape": "cubic", "steps": 0}, "expected the steps of a schedule from 1"),
        ({"shape": "cubic", "begin": -1}, "expected the first step of a schedule from 0"),
        ({"shape": "cubic", "every": 1.5}, "expected steps between two masks from 1"),
        ({"shape": "cubic", "initial": 2}, "expected the initial sparsity between 0 and 1"),
    ],
)
def test_unusable_schedules_are_told(settings: dict[str, Any], message: str) -> None:
    pruner = stepped(seeded())
    with pytest.raises(PrunerError, match=message):
        pruner.schedule(**settings)


def test_a_schedule_needs_a_model() -> None:
    with pytest.raises(PrunerError, match="expected a prepared pruner"):
        LSTMSaliencyPruner().schedule("cubic")


@pytest.mark.parametrize("kind", ["plain", "deep", "projection", "cell"])
def test_a_penalty_is_the_sum_of_the_norms_of_units(kind: str) -> None:
    torch.manual_seed(0)
    lstms: dict[str, Any] = {
        "plain": nn.LSTM(3, 4),
        "deep": nn.LSTM(3, 4, 2, bidirectional=True, bias=False),
        "projection": nn.LSTM(3, 4, proj_size=2),
        "cell": nn.LSTMCell(3, 4),
    }
    lstm, reader = lstms[kind], torch.randn(5, 8 if kind == "deep" else 4)
    state = dict(lstm.named_parameters())
    wanted = 0.0
    for end in ["", "_l0", "_l0_reverse", "_l1", "_l1_reverse"]:
        if f"weight_ih{end}" not in state:
            continue
        start = 4 if "reverse" in end else 0
        for unit in range(4):
            parts = [state[f"{what}{end}"].view(4, 4, -1)[:, unit] for what in ("weight_ih", "weight_hh")]
            parts += [state[f"bias_{side}{end}"].view(4, 4)[:, unit] for side in ("ih", "hh") if lstm.bias]
            if kind == "projection":
                parts.append(state["weight_hr_l0"][:, unit])
            else:
                parts.append(state[f"weight_hh{end}"][:, unit])
                if kind == "deep" and "_l0" in end:
                    parts += [state[f"weight_ih_l1{each}"][:, start + unit] for each in ("", "_reverse")]
                else:
                    parts.append(reader[:, start + unit])
            wanted += float(torch.cat([part.detach().flatten() for part in parts]).norm())
    assert float(unit_penalty(lstm, [reader]).detach()) == pytest.approx(wanted, rel=1e-5)


def test_a_penalty_drives_whole_units_to_zero_and_the_others_keep_the_task() -> None:
    model = seeded()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    rates = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 400)  # the smaller the steps, the nearer to zero
    for _ in range(400):
        optimizer.zero_grad()
        (loss_of(model) + 0.02 * unit_penalty(model.lstm, [model.head.weight])).backward()
        optimizer.step()
        rates.step()
    weights = [model.lstm.weight_ih_l0.view(4, H, -1), model.lstm.weight_hh_l0.view(4, H, -1)]
    norms = torch.stack([weight.detach().square().sum((0, 2)) for weight in weights]).sum(0).sqrt()
    gone = int((norms < 1e-4).sum())
    assert 2 <= gone < H and norms[norms >= 1e-4].min() > 0.5
    before = loss_of(model).item()
    stepped(model, sparsity=gone / H, criterion="group").prune()
    assert model.lstm.hidden_size == H - gone
    assert loss_of(model).item() == pytest.approx(before, rel=1e-3)


def test_a_penalty_is_of_an_lstm() -> None:
    with pytest.raises(
        PrunerError, match=r"expected an nn\.LSTM or nn\.LSTMCell, found Tagger; penalise the LSTM inside"
    ):
        unit_penalty(seeded())


def test_a_penalty_falls_with_what_is_masked_and_gone() -> None:
    """Under masks the columns that read a unit are left of it; after prune nothing."""
    model = seeded()
    dense = float(unit_penalty(model.lstm).detach())
    pruner = stepped(model)
    masked = float(unit_penalty(model.lstm).detach())
    pruner.prune()
    assert float(unit_penalty(model.lstm).detach()) < masked < dense
