"""Calibration inputs in parts: what is held back, batches, steps after the burn-in."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from pruner.calibration.calibration import Calibration
from pruner.errors import PrunerError
from tests.helpers.files import npy
from tests.helpers.input_files import IDS, LANGUAGE_MODEL, language_model, read

group_shapes = st.lists(st.tuples(st.integers(1, 5), st.integers(2, 30)), min_size=1, max_size=5)


def numbered(shapes: list[tuple[int, int]], name: str = "lstm") -> dict[str, list[Tensor]]:
    """Groups (N, T, 3) whose values tell every step of every sequence apart."""
    total = sum(count * steps for count, steps in shapes)
    values = torch.arange(total).float()[:, None].expand(total, 3)
    parts = values.split([count * steps for count, steps in shapes])
    return {name: [part.reshape(*shape, 3) for part, shape in zip(parts, shapes, strict=True)]}


def all_steps(groups: list[Tensor]) -> list[float]:
    return [value for group in groups for value in group[..., 0].flatten().tolist()]


@given(group_shapes, st.integers(1, 30), st.integers(1, 40), st.integers(0, 3))
def test_a_sample_is_the_beginning_of_the_last_sequences(
    shapes: list[tuple[int, int]], count: int, steps: int, burn_in: int
) -> None:
    whole = Calibration("file", numbered(shapes), burn_in=burn_in)
    sequences = [sequence for group in whole.sequences["lstm"] for sequence in group][-count:]
    wanted = [sequence[: burn_in + steps, 0].tolist() for sequence in sequences]
    found = [sequence[:, 0].tolist() for group in whole.sample(count, steps).sequences["lstm"] for sequence in group]
    assert found == wanted


@given(group_shapes, st.floats(0.01, 0.99))
def test_a_split_loses_and_repeats_nothing(shapes: list[tuple[int, int]], share: float) -> None:
    whole = Calibration("file", numbered(shapes), "embed.weight", name="x")
    lengths = [steps for count, steps in shapes for _ in range(count)]
    last = min(max(1, round(len(lengths) * share)), len(lengths) - 1)
    expected = sum(lengths[-last:]) if last else max(1, round(lengths[0] * share))
    if min(expected, sum(lengths) - expected) < 10:
        with pytest.raises(PrunerError, match="expected at least 10 time steps of lstm to "):
            whole.split(share)
        return
    fit, held = whole.split(share)
    assert held.steps()["lstm"] == expected
    assert all_steps(fit.sequences["lstm"]) + all_steps(held.sequences["lstm"]) == all_steps(whole.sequences["lstm"])
    assert (
        (fit.source, fit.embedding, fit.name)
        == (held.source, held.embedding, held.name)
        == ("file", "embed.weight", "x")
    )
    assert fit.steps()["lstm"] + held.steps()["lstm"] == whole.steps()["lstm"]


@pytest.mark.parametrize(
    ("shapes", "share", "fit", "held"),
    [
        ([(10, 20)], 0.2, [(8, 20)], [(2, 20)]),
        ([(3, 20), (2, 30)], 0.2, [(3, 20), (1, 30)], [(1, 30)]),
        ([(3, 20), (2, 30)], 0.6, [(2, 20)], [(1, 20), (2, 30)]),
        ([(2, 20)], 0.01, [(1, 20)], [(1, 20)]),
        ([(2, 20)], 0.99, [(1, 20)], [(1, 20)]),
        ([(1, 100)], 0.2, [(1, 80)], [(1, 20)]),
    ],
    ids=str,
)
def test_splits_by_hand(shapes: Any, share: float, fit: Any, held: Any) -> None:
    sides = Calibration("file", numbered(shapes)).split(share)
    assert [[tuple(group.shape[:2]) for group in side.sequences["lstm"]] for side in sides] == [fit, held]


@pytest.mark.parametrize(
    ("whole", "message"),
    [
        (Calibration("file", numbered([(1, 30)])), "10 time steps of lstm to hold back, found 6; give more or longer"),
        (Calibration("file", numbered([(1, 9), (1, 20)], "")), r"10 time steps of \(root\) to fit on, found 9"),
        (Calibration("file", numbered([(2, 25)]), burn_in=21), "10 time steps of lstm to fit on, found 4"),
    ],
    ids=["one sequence", "two", "burn-in"],
)
def test_too_little_to_split(whole: Calibration, message: str) -> None:
    with pytest.raises(PrunerError, match=f"expected at least {message}"):
        whole.split()


@given(group_shapes, st.integers(1, 7))
def test_batches_hold_every_step_once(shapes: list[tuple[int, int]], batch_size: int) -> None:
    (lstm,) = LANGUAGE_MODEL.lstms
    whole = Calibration("file", numbered(shapes))
    batches = list(whole.inputs(lstm, LANGUAGE_MODEL.tensors, batch_size))
    assert all(len(batch) <= batch_size and batch.dtype == torch.float32 for batch in batches)
    assert all_steps(batches) == all_steps(whole.sequences["lstm"])
    assert whole.steps()["lstm"] == sum(batch.shape[0] * batch.shape[1] for batch in batches)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_token_ids_become_rows_of_the_embedding(dtype: torch.dtype) -> None:
    model = language_model(dtype)
    found = read(npy(IDS), checkpoint=model, embedding="embed.weight")
    (first, second) = found.inputs(model.lstms[0], model.tensors, 1)
    expected = model.tensors["embed.weight"].float()
    assert torch.equal(torch.cat([first, second]), expected[torch.from_numpy(IDS)])
    assert first.dtype == torch.float32
    changed = {**model.tensors, "embed.weight": torch.zeros(11, 3, dtype=dtype)}
    assert not next(found.inputs(model.lstms[0], changed)).count_nonzero()


def test_steps_leave_the_burn_in_out() -> None:
    assert Calibration("file", numbered([(2, 5), (3, 2)]), burn_in=3).steps() == {"lstm": 4}
