"""Lesson 0: what an LSTM computes in one step, with the numbers of the grammar model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pruner.examples import embedded_reber
from pruner.examples.embedded_reber import encode
from pruner.lessons.course import Answer, Lesson
from pruner.lessons.model import GRAMMAR, model
from pruner.lstm.gates import GATE_TITLES, GATES
from pruner.lstm.traces import Weights, layers_of, trace

READ = "BPBPTVPSEP"  # all of a string of the grammar but its last symbol
TWIN = "BTBPTVPSET"


def step(
    weights: Weights, read: Tensor, h: Tensor, c: Tensor, frozen: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """One step of an LSTM on what it reads (B, I): its gates, each (B, H), and the new h and c (B, H). Frozen gates have the
    values (H,) that are given."""
    i, f, g, o = (F.linear(read, weights.ih, weights.bias) + F.linear(h, weights.hh)).chunk(4, -1)
    gates = {"i": i.sigmoid(), "f": f.sigmoid(), "g": g.tanh(), "o": o.sigmoid(), **frozen}
    c = gates["f"] * c + gates["i"] * gates["g"]
    h = gates["o"] * c.tanh()
    return gates, h, c


@cache
def grammar_weights() -> Weights:
    example = model(GRAMMAR)
    return layers_of(example.lstm, example.tensors)[0][0]


@cache
def means() -> dict[str, Tensor]:
    """Of every gate (H,) its mean over all steps of the training strings."""
    example = model(GRAMMAR)
    groups = example.example.calibration(example.checkpoint).sequences[example.lstm.name]
    gates = torch.cat([trace(grammar_weights(), group.transpose(0, 1)).gates.flatten(0, 1) for group in groups])
    return dict(zip(GATES, gates.mean(0).chunk(len(GATES)), strict=True))


class Cell(nn.Module):
    """The LSTM of the grammar model, one step after the other, with gates frozen at their means and without some units."""

    def __init__(self, frozen: str = "", removed: Sequence[int] = ()) -> None:
        super().__init__()
        whole = grammar_weights()
        stays = torch.ones(whole.hidden_size)
        stays[list(removed)] = 0  # weights and biases of zero leave c and h at zero
        rows = stays.repeat(len(GATES))
        self.weights = Weights(whole.ih * rows[:, None], whole.hh * rows[:, None], whole.bias * rows)
        self.frozen = {gate: means()[gate] * stays for gate in frozen}

    @torch.inference_mode()
    def forward(self, inputs: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Inputs (B, T, I) -> h (B, T, H), as an `nn.LSTM` does, and beside it the gates (B, T, 4, H) and c (B, T, H)."""
        h = c = inputs.new_zeros(len(inputs), self.weights.hidden_size)
        steps = []
        for read in inputs.unbind(1):
            gates, h, c = step(self.weights, read, h, c, self.frozen)
            steps.append((h, torch.stack([gates[gate].expand_as(h) for gate in GATES], 1), c))
        found = [torch.stack(each, 1) for each in zip(*steps, strict=True)]
        return found[0], (found[1], found[2])


@dataclass(frozen=True)
class Walk:
    """The grammar model on its way through a string: by step T, its gates (T, 4, H), c and h (T, H), what it gives each
    symbol (T, 7), and the symbols that the grammar allows; and the share of all held-out strings that it gets right."""

    read: str
    frozen: str
    removed: tuple[int, ...]
    gates: Tensor
    cells: Tensor
    hidden: Tensor
    shares: Tensor
    legal: list[str]
    quality: float


def walk(read: str = READ, frozen: str = "", removed: tuple[int, ...] = ()) -> Walk:
    """Read a string, step by step."""
    tensors, cell = model(GRAMMAR).tensors, Cell(frozen, removed)
    hidden, (gates, cells) = cell(encode([f"{read}E"])[0])
    shares = F.linear(hidden[0], tensors["linear.weight"], tensors["linear.bias"]).softmax(-1)
    quality = embedded_reber.strings_right(tensors, cell)
    return Walk(read, frozen, removed, gates[0], cells[0], hidden[0], shares, _legal(read), quality)


def settings(at: str, frozen: str, removed: str) -> tuple[int, str, tuple[int, ...]]:
    """What a link says, as far as it fits the model: the step, from 1, the frozen gates, and the removed units."""
    units = {int(unit) for unit in removed.split(",") if unit.isascii() and unit.isdigit() and len(unit) < 4}
    number = int(at) if at.isascii() and at.isdigit() and len(at) < 4 else 1
    return (
        min(max(number, 1), len(READ)),
        "".join(gate for gate in GATES if gate in frozen),
        tuple(sorted(unit for unit in units if unit < grammar_weights().hidden_size)),
    )


def _legal(read: str) -> list[str]:
    """The symbols that may follow each symbol of a string."""
    training, held_out = embedded_reber.strings()
    return dict([*training, *held_out])[f"{read}E"]


@cache
def frozen_alone() -> dict[str, float]:
    """The share of held-out strings that stay right when one gate of all units, each in turn, is frozen."""
    return {gate: embedded_reber.strings_right(model(GRAMMAR).tensors, Cell(gate)) for gate in GATES}


@cache
def keeper() -> tuple[int, float, float]:
    """The unit whose cell state tells `READ` from `TWIN` best where the second symbol must come again, and that state in
    both."""
    here, there = (Cell()(encode([f"{read}E"])[0])[1][1][0, -2] for read in (READ, TWIN))
    unit = int((here - there).abs().argmax())
    return unit, float(here[unit]), float(there[unit])


def notice(found: Walk) -> list[str]:
    unit, here, there = keeper()
    alone = frozen_alone()
    worst = min(alone, key=lambda gate: alone[gate])
    each = ", ".join(f"{gate} {share:.0%}" for gate, share in alone.items())
    changed = [f"gate {gate} frozen" for gate in found.frozen]
    changed += [f"unit {each} removed" for each in found.removed]
    return [
        f"Frozen at its mean, one gate at a time, of all held-out strings stay wholly right: {each}. Without the "
        f"{GATE_TITLES[worst]} gate {worst} the model is lost.",
        f"The second symbol must come again before the end. Where it does, the cell state of unit {unit} is {here:.2f}; in "
        f"{TWIN}, which has T for P, it is {there:.2f}. No other unit tells the two so far apart.",
        f"As it is set above ({' and '.join(changed) or 'nothing frozen, nothing removed'}), **{found.quality:.1%}** of "
        "the held-out strings are predicted wholly right.",
    ]


LESSON = Lesson(
    name="cell",
    title="One step of an LSTM",
    question="A network reads a string, one symbol at a time, and says what comes next. What does it keep in mind, and how?",
    introduction=(
        "It has two memories of 32 numbers, the **cell state** c and the hidden state h, which it shows; each place in them "
        "is a **hidden unit**, one column below. At a step, eight blocks of weights read the symbol and the h before it and "
        "give every unit four **gates**: i, how much it takes in; g, what; f, how much of c it keeps; o, how much it shows. "
        "The second symbol must return at the end."
    ),
    code=(step,),
    check="A gate is frozen: whatever is read, it stays at its mean. Which of these three, frozen, leaves no string right?",
    answers=(
        Answer(
            "The input gate i",
            False,
            "It says how much is taken in. At its mean every step takes in some of what g says, which is still different "
            "for every symbol.",
        ),
        Answer(
            "The forget gate f",
            False,
            "It says how much is kept. At its mean, all units keep most of their cell state, those that should clear it, "
            "too; many strings survive that.",
        ),
        Answer(
            "The cell gate g",
            True,
            "It is what is written. Frozen, it writes the same at every step, whichever symbol came; the others only say "
            "how much of it.",
        ),
    ),
    terms=("hidden unit", "gate", "cell state"),
    sources=("lstm", "forget", "torch"),
)
