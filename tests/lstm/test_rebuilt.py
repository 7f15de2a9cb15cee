"""Units that an earlier round removed, rebuilt in the output from those that are left."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_sequence

from pruner.lstm.module import build
from pruner.lstm.rebuilt import Rebuilt, names_of_maps, rebuilt_of, without
from tests.helpers.models import found_in, named, random_lstm, random_steps

SIZE = 7
KEPT = [torch.tensor([0, 2, 3, 6]), torch.tensor([1, 2, 4])]


def maps(*kept: Tensor, seed: int = 0) -> list[tuple[Tensor, Tensor]]:
    """Of each direction a random weight (R, K) and bias (R,)."""
    gone = [SIZE - len(units) for units in kept]
    weights = [random_steps(count, len(units), seed=seed) for count, units in zip(gone, kept, strict=True)]
    return [(weight, random_steps(len(weight), seed=seed + 1)) for weight in weights]


def spread(outputs: list[Tensor], kept: list[Tensor]) -> Tensor:
    """(N, K) of each direction -> (N, D*H), zeros where units are gone."""
    pairs = zip(outputs, kept, strict=True)
    return torch.cat([own.new_zeros(len(own), SIZE).index_copy(1, units, own) for own, units in pairs], 1)


def test_kept_units_stay_and_the_others_are_what_the_maps_say() -> None:
    before = Rebuilt(SIZE, KEPT, maps(*KEPT))
    outputs = [random_steps(5, len(units), seed=9) for units in KEPT]
    found = before.fill(spread(outputs, KEPT)).split(SIZE, 1)
    for own, units, (weight, bias), wide in zip(outputs, KEPT, before.maps, found, strict=True):
        assert torch.equal(wide[:, units], own)
        torch.testing.assert_close(wide[:, without(units, SIZE)], own @ weight.t() + bias)


@pytest.mark.parametrize("told", [True, False])
def test_two_rounds_are_one_map(told: bool) -> None:
    """What is left tells the units of the second round, and all that are left with these those of the first."""
    before, now = Rebuilt(SIZE, KEPT, maps(*KEPT)), [torch.tensor([2, 6]), torch.tensor([4])]
    again = maps(*now, seed=5) if told else None
    outputs = [random_steps(5, len(units), seed=9) for units in now]
    second = spread(outputs, now)
    if again is not None:
        second = Rebuilt(SIZE, now, again).fill(second)
    twice = before.fill(second)  # reads what of the first round's units is left or was told
    once = Rebuilt(SIZE, now, before.after(now, again)).fill(spread(outputs, now))
    torch.testing.assert_close(once, twice)


def file_of(**changes: Any) -> dict[str, Tensor]:
    tensors = named(random_lstm(hidden_size=SIZE), "rnn.")
    weight, bias = (part.float() for part in maps(KEPT[0])[0])
    own = {"kept_0": KEPT[0], "reconstruction.0.weight": weight, "reconstruction.0.bias": bias} | changes
    return tensors | {f"rnn.{name}": tensor for name, tensor in own.items() if tensor is not None}


BROKEN: dict[str, dict[str, Any]] = {
    "no units": {"kept_0": None},
    "no weight": {"reconstruction.0.weight": None},
    "no bias": {"reconstruction.0.bias": None},
    "units that fall": {"kept_0": torch.tensor([2, 0, 3, 6])},
    "one twice": {"kept_0": torch.tensor([0, 0, 3, 6])},
    "units beyond": {"kept_0": torch.tensor([0, 2, 3, SIZE])},
    "negative units": {"kept_0": torch.tensor([-1, 2, 3, 6])},
    "none left": {"kept_0": torch.tensor([], dtype=torch.int64)},
    "units that are no integers": {"kept_0": torch.tensor([0.0, 2.0, 3.0, 6.0])},
    "a matrix of units": {"kept_0": torch.tensor([[0, 2], [3, 6]])},
    "a weight of another shape": {"reconstruction.0.weight": torch.ones(3, 3)},
    "a bias of another shape": {"reconstruction.0.bias": torch.ones(2)},
    "another type": {"reconstruction.0.bias": torch.ones(3, dtype=torch.float64)},
}


@pytest.mark.parametrize("case", BROKEN)
def test_what_is_not_whole_rebuilds_nothing(case: str) -> None:
    lstm, _ = found_in(random_lstm(hidden_size=SIZE), "rnn.")
    assert rebuilt_of(lstm, file_of()) is not None
    assert rebuilt_of(lstm, file_of(**BROKEN[case])) is None


def test_a_real_lstm_gives_what_is_gone_however_it_is_called() -> None:
    tensors = file_of()
    lstm, _ = found_in(random_lstm(hidden_size=SIZE), "rnn.")
    rebuilt, module = rebuilt_of(lstm, tensors), build(lstm, tensors)
    assert rebuilt is not None and set(names_of_maps(lstm).values()) < tensors.keys()
    plain = nn.LSTM(3, SIZE, batch_first=True)
    plain.load_state_dict({name: tensors[f"rnn.{name}"] for name in plain.state_dict()})
    steps = random_steps(2, 5, 3, dtype=torch.float32)
    (output, (h_n, c_n)), (bare, (h, c)) = module(steps), plain(steps)
    assert torch.equal(output, rebuilt.fill(bare)) and torch.equal(c_n, c)
    torch.testing.assert_close(h_n[0], output[:, -1])
    assert not torch.equal(h_n, h)
    packed = module(pack_sequence([*steps]))[0]
    assert torch.equal(packed.data, rebuilt.fill(plain(pack_sequence([*steps]))[0].data))
