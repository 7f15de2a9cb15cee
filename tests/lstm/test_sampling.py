"""Symbols that a model draws one by one."""

from itertools import islice

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pruner.lstm.sampling import by_dice, drawn, thrown


@pytest.mark.parametrize(
    ("shares", "dice", "expected"),
    [
        ([0.2, 0.3, 0.5], 0.0, 0),
        ([0.2, 0.3, 0.5], 0.19, 0),
        ([0.2, 0.3, 0.5], 0.21, 1),
        ([0.2, 0.3, 0.5], 0.9999999, 2),
        ([0.0, 1.0, 0.0], 0.0, 1),
        ([1.0, 0.0, 0.0], 0.9999999, 0),
    ],
)
def test_dice_fall_on_shares(shares: list[float], dice: float, expected: int) -> None:
    draw = by_dice(torch.tensor([[dice], [dice]]))
    assert draw(torch.tensor([shares, shares])).tolist() == [[expected], [expected]]


def test_dice_are_the_same_for_the_same_seed() -> None:
    assert torch.equal(thrown(2, 3), thrown(2, 3)) and not torch.equal(thrown(2, 3), thrown(2, 3, 1))


def test_each_id_is_drawn_from_what_was_read_before() -> None:
    """Beside the same computed anew from the first id on, at every step."""
    torch.manual_seed(0)
    lstm, head, begun = nn.LSTM(5, 8, batch_first=True), nn.Linear(8, 5), torch.tensor([[1, 2], [3, 0]])
    dice, read = thrown(2, 6), lambda ids: F.one_hot(ids, 5).float()
    found = torch.cat([begun, *islice(drawn(begun, read, lstm, head, by_dice(dice), 0.5), 6)], 1)
    for step in range(6):
        with torch.no_grad():
            shares = (head(lstm(read(found[:, : 2 + step]))[0][:, -1]) / 0.5).softmax(1)
        again = by_dice(dice[:, step : step + 1])(shares)
        assert torch.equal(found[:, 2 + step : 3 + step], again)
    assert len(set(found.flatten().tolist())) > 2


def test_a_lower_temperature_favours_what_is_likely() -> None:
    seen: list[Tensor] = []

    def draw(shares: Tensor) -> Tensor:
        seen.append(shares)
        return torch.zeros(1, 1, dtype=torch.int64)

    lstm, head = nn.LSTM(5, 8, batch_first=True), nn.Linear(8, 5)
    for temperature in (1.0, 0.1):
        next(
            drawn(
                torch.zeros(1, 1, dtype=torch.int64),
                lambda ids: F.one_hot(ids, 5).float(),
                lstm,
                head,
                draw,
                temperature,
            )
        )
    assert seen[1].amax() > seen[0].amax()
