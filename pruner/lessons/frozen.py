"""Lesson 5: what a masked row does to its gate, and a unit whose forget gate decides the prediction."""

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional as F

from pruner.examples import embedded_reber
from pruner.examples.embedded_reber import SYMBOLS, encode
from pruner.importance.masks import drop_rows
from pruner.lessons.course import Answer, Lesson
from pruner.lessons.model import GRAMMAR, Model, model
from pruner.lstm.gates import GATE_TITLES, GATES, SIDES
from pruner.lstm.module import build
from pruner.lstm.traces import layers_of, trace

ROWS = {"none": (), "weight_ih": ("ih",), "weight_hh": ("hh",), "both": SIDES}


def mask_rows(example: Model, gate: str, unit: int, sides: tuple[str, ...]) -> dict[str, Tensor]:
    """{name in the file: (4H,) mask} that drops one row of each of the packed weights named by `sides`."""
    masks = {}
    for side in sides:
        mask = torch.ones(len(GATES) * example.lstm.hidden_size, dtype=torch.bool)
        mask[GATES.index(gate) * example.lstm.hidden_size + unit] = False
        masks[example.weight(side)] = mask
    return masks


def quality_without(gate: str) -> Tensor:
    """(H,): the share of strings wholly right when both rows of that gate of each unit, one unit at a time, are masked."""
    example = model(GRAMMAR)
    units = range(example.lstm.hidden_size)
    return torch.tensor([example.quality(example.masked(mask_rows(example, gate, unit, SIDES))) for unit in units])


def held_outer(example: Model, tensors: dict[str, Tensor]) -> Tensor:
    """(N,) bool: for each held-out string, whether its second symbol, T or P, is preferred to the other one where it must
    come again."""
    texts = [text for text, _ in embedded_reber.strings()[1]]
    with torch.inference_mode():
        hidden, _ = build(example.lstm, tensors)(encode(texts)[0])
        scores = F.linear(hidden, tensors["linear.weight"], tensors["linear.bias"])
    at = torch.tensor([len(text) - 3 for text in texts])
    found = scores[torch.arange(len(texts)), at][:, [SYMBOLS.index("T"), SYMBOLS.index("P")]]
    return (found[:, 0] > found[:, 1]) == torch.tensor([text[1] == "T" for text in texts])


@dataclass(frozen=True)
class Decider:
    """The unit whose frozen forget gate costs the most, what is left then (H,) for each unit, and a string it costs."""

    unit: int
    quality: Tensor
    text: str


@cache
def find_decider() -> Decider:
    """Freeze the forget gate of every unit in turn and measure; take a string that its loss turns wrong."""
    example = model(GRAMMAR)
    quality = quality_without("f")
    unit = int(quality.argmin())
    held = held_outer(example, example.masked(mask_rows(example, "f", unit, SIDES)))
    texts = [text for text, _ in embedded_reber.strings()[1]]
    lost = [text for text, still in zip(texts, held.tolist(), strict=True) if not still]
    return Decider(unit, quality, min(lost or texts, key=len))


@dataclass(frozen=True)
class Watched:
    """One gate of one unit while the model reads a string, whole and with rows masked."""

    text: str
    gate: str
    unit: int
    values: dict[str, Tensor]  # (T,) of the gate, by "whole" and "masked"
    cells: dict[str, Tensor]  # (T,) of the unit's cell state, likewise
    shares: dict[str, dict[str, float]]  # of T and P where one of them must come again, likewise
    constant: float  # what the bias alone gives
    quality: dict[str, float]

    @property
    def outer(self) -> str:
        """The symbol that must be remembered."""
        return self.text[1]


def watch(text: str, gate: str, unit: int, rows: str) -> Watched:
    """Run the grammar model over a string, as it is and with rows of one gate of one unit masked."""
    example = model(GRAMMAR)
    inputs = encode([text])[0].transpose(0, 1)
    place = GATES.index(gate) * example.lstm.hidden_size + unit
    values, cells, shares, quality = {}, {}, {}, {}
    bias = torch.zeros(())
    for name, sides in (("whole", ()), ("masked", ROWS[rows])):
        tensors = example.masked(mask_rows(example, gate, unit, sides))
        weights = layers_of(example.lstm, tensors)[0][0]
        traced = trace(weights, inputs)
        values[name], cells[name] = traced.gates[:, 0, place], traced.cells[1:, 0, unit]
        scores = F.linear(traced.outputs[-2, 0], tensors["linear.weight"], tensors["linear.bias"]).softmax(0)
        shares[name] = {symbol: float(scores[SYMBOLS.index(symbol)]) for symbol in "TP"}
        quality[name] = example.quality(tensors)
        bias = weights.bias[place]
    constant = float(bias.tanh() if gate == "g" else bias.sigmoid())
    return Watched(text, gate, unit, values, cells, shares, constant, quality)


def notice(found: Watched, rows: str) -> list[str]:
    function = "tanh" if found.gate == "g" else "sigmoid"
    title = f"{GATE_TITLES[found.gate]} gate of unit {found.unit}"
    first = {
        "none": f"Nothing is masked. The {title} moves between {found.values['whole'].min():.2f} and "
        f"{found.values['whole'].max():.2f} while the model reads.",
        "both": f"With both rows masked, the {title} reads nothing any more and stays at {function}(b) = "
        f"{found.constant:.2f}, whatever comes. b is the sum of its two biases, which no mask of rows touches.",
    }.get(
        rows,
        f"With one of its two rows masked, the {title} still reads with the other and goes on moving. Only both together "
        "freeze it.",
    )
    before, after = (found.shares[name][found.outer] for name in ("whole", "masked"))
    return [
        first,
        f"Where {found.outer} must come again, the whole model gives it {before:.0%}, the masked one {after:.0%}.",
        f"Of all held-out strings {found.quality['masked']:.1%} are still predicted wholly right, of "
        f"{found.quality['whole']:.1%} before. The unit is still there: its other three gates go on reading and computing.",
    ]


LESSON = Lesson(
    name="frozen",
    title="A masked row is not a removed unit",
    question="A gate has lost its rows. What does it do now?",
    introduction=(
        "The grammar model reads strings like BTBTXSETE: the second symbol, T or P, must come again just before the "
        "end, so the model has to remember it across everything in between (embedded Reber grammar, Hochreiter & "
        "Schmidhuber 1997). A forget gate near 1 keeps a unit’s cell state, a value near 0 clears it (Gers, "
        "Schmidhuber & Cummins 2000). Mask the rows of one gate of one unit and watch."
    ),
    code=(drop_rows,),
    check="Both rows of a forget gate are masked, its biases add up to 2. What does this gate do?",
    answers=(
        Answer(
            "It closes: its value is 0",
            False,
            "Weights of zero leave the bias: sigmoid(0 + 2) = 0.88. The gate stays open.",
        ),
        Answer(
            "It is gone, and the unit with it",
            False,
            "The unit still has its input, cell and output gate, and its forget gate has a constant value.",
        ),
        Answer(
            "It stays at sigmoid(2) = 0.88",
            True,
            "Nothing is read any more, and the bias is all that is left. At every step the unit keeps 88 % of its "
            "cell state.",
        ),
    ),
    terms=(),
    sources=("lstm", "forget"),
)
