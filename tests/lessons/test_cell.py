"""The animated cell: what it shows is what `nn.LSTM` computes, whatever is frozen or removed."""

import pytest
import torch
from torch import Tensor, nn

from pruner import examples
from pruner.dashboard.cell_canvas import packed
from pruner.examples.embedded_reber import SYMBOLS, encode, strings
from pruner.lessons import cell
from pruner.lessons.model import GRAMMAR


def grammar_model() -> tuple[nn.LSTM, nn.Linear]:
    tensors = examples.named(GRAMMAR).open().tensors
    lstm, linear = nn.LSTM(7, 32, batch_first=True), nn.Linear(32, 7)
    for module, name in ((lstm, "lstm."), (linear, "linear.")):
        module.load_state_dict({key.removeprefix(name): t for key, t in tensors.items() if key.startswith(name)})
        module.requires_grad_(False)
    return lstm, linear


def one_hot(read: str) -> Tensor:
    return torch.eye(7)[[SYMBOLS.index(symbol) for symbol in read]][None]


@pytest.mark.parametrize("removed", [(), (2,), (0, 9, 31)])
@pytest.mark.parametrize("read", [cell.READ, cell.TWIN])
def test_every_step_is_that_of_torch(read: str, removed: tuple[int, ...]) -> None:
    found = cell.walk(read, removed=removed)
    lstm, linear = grammar_model()
    for parameter in lstm.parameters():
        parameter.view(4, 32, -1)[:, list(removed)] = 0
    hidden, _ = lstm(one_hot(read))
    torch.testing.assert_close(found.hidden, hidden[0], rtol=0, atol=1e-5)
    torch.testing.assert_close(found.shares, linear(hidden[0]).softmax(-1), rtol=0, atol=1e-5)
    state = None
    for at, symbol in enumerate(one_hot(read)[0]):
        _, state = lstm(symbol[None, None], state)
        torch.testing.assert_close(found.cells[at], state[1][0, 0], rtol=0, atol=1e-5)


def test_a_frozen_gate_stays_at_its_mean_and_the_others_go_on() -> None:
    found = cell.walk(frozen="f", removed=(4,))
    lstm, _ = grammar_model()
    rows = torch.cat([torch.arange(4 * 32)[gate * 32 : gate * 32 + 32] for gate in (1,)])
    values = []
    for text, _ in strings()[0]:
        hidden, _ = lstm(one_hot(text[:-1]))
        before = torch.cat([torch.zeros(1, 32), hidden[0, :-1]])
        gates = one_hot(text[:-1])[0] @ lstm.weight_ih_l0.t() + before @ lstm.weight_hh_l0.t()
        values.append((gates + lstm.bias_ih_l0 + lstm.bias_hh_l0)[:, rows].sigmoid())
    mean = torch.cat(values).mean(0)
    mean[4] = 0
    torch.testing.assert_close(found.gates[:, 1], mean.expand(10, 32), rtol=0, atol=1e-5)
    assert float(found.gates[:, 0].std(0).max()) > 0.1
    assert found.cells[:, 4].abs().max() == found.hidden[:, 4].abs().max() == 0
    torch.testing.assert_close(found.cells[1], mean * found.cells[0] + found.gates[1, 0] * found.gates[1, 2])


def test_the_whole_cell_is_as_good_as_the_example() -> None:
    assert cell.walk().quality == examples.named(GRAMMAR).quality(
        examples.named(GRAMMAR).open().tensors, {"lstm": grammar_model()[0]}
    )
    assert cell.walk(frozen="g").quality < 0.1


def test_the_keeper_tells_the_two_strings_apart() -> None:
    unit, here, there = cell.keeper()
    cells = [cell.Cell()(encode([f"{read}E"])[0])[1][1][0, 8] for read in (cell.READ, cell.TWIN)]
    assert (here, there) == (float(cells[0][unit]), float(cells[1][unit]))
    assert abs(here - there) == float((cells[0] - cells[1]).abs().max())


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        (("", "", ""), (1, "", ())),
        (("7", "of", "3,1,3"), (7, "fo", (1, 3))),
        (("99", "x", "32,31,-1,a,²"), (10, "", (31,))),
        (("0", "iiii", "999999999999"), (1, "i", ())),
        (("²", "<b>", ","), (1, "", ())),
    ],
)
def test_a_link_is_taken_as_far_as_it_fits(
    told: tuple[str, str, str], expected: tuple[int, str, tuple[int, ...]]
) -> None:
    assert cell.settings(*told) == expected


def test_the_picture_gets_what_was_computed() -> None:
    found = cell.walk(frozen="i", removed=(5,))
    sent = packed(found, 4)
    assert (sent["at"], sent["frozen"], sent["removed"], sent["legal"]) == (4, ["i"], [5], found.legal)
    for name, tensor in (("c", found.cells), ("h", found.hidden), ("shares", found.shares), ("gates", found.gates)):
        shown = torch.tensor([values[name] for values in sent["values"]])
        torch.testing.assert_close(shown, tensor, rtol=0, atol=1e-6)
    weight = grammar_model()[0].weight_ih_l0
    for gate, row, unit in ((0, 3, 7), (2, 6, 31)):
        shade, value = sent["ih"][gate][row][unit], float(weight[gate * 32 + unit, row])
        assert abs(shade) == 100 or shade == pytest.approx(100 * value / 1.9, abs=abs(shade) * 0.2 + 1)
        assert shade * value >= 0
