"""Lesson 1: which row of a packed tensor belongs to which gate of which hidden unit."""

from dataclasses import dataclass

import torch
from torch import Tensor

from pruner.lessons.course import Answer, Lesson
from pruner.lstm.gates import GATE_TITLES, GATES, split_gates


@dataclass(frozen=True)
class Place:
    """A gate of a hidden unit."""

    gate: str
    unit: int

    def __str__(self) -> str:
        return f"the {GATE_TITLES[self.gate]} gate {self.gate} of unit {self.unit}"


def place(row: int, hidden_size: int) -> Place:
    """Where a row of a packed tensor belongs: `row = gate * H + unit`."""
    gate, unit = divmod(row, hidden_size)
    return Place(GATES[gate], unit)


def wrong_place(row: int) -> Place:
    """Where `view(H, 4, -1)` takes the same row to be: `row = unit * 4 + gate`."""
    unit, gate = divmod(row, len(GATES))
    return Place(GATES[gate], unit)


@dataclass(frozen=True)
class Reshaped:
    """The row numbers (4, H) that two reshapes put at each gate and unit."""

    right: Tensor  # packed.view(4, H, -1)
    wrong: Tensor  # packed.view(H, 4, -1), turned so that gates come first

    @property
    def hidden_size(self) -> int:
        return self.right.shape[1]

    @property
    def agreeing(self) -> int:
        """How many rows both put at the same place."""
        return int((self.right == self.wrong).sum())


def reshape(hidden_size: int) -> Reshaped:
    """Put the rows of a packed tensor of H hidden units into gates, rightly and wrongly."""
    rows = torch.arange(len(GATES) * hidden_size)
    return Reshaped(split_gates(rows), rows.view(hidden_size, len(GATES)).t())


def notice(row: int, reshaped: Reshaped) -> list[str]:
    hidden_size = reshaped.hidden_size
    return [
        f"Row {row} is {place(row, hidden_size)}, because {row} = {row // hidden_size} × {hidden_size} + "
        f"{row % hidden_size}. The hidden unit is the remainder.",
        f"`view({hidden_size}, 4, -1)` would call the same row {wrong_place(row)}. Both reshapes hold the same number of "
        "rows, so neither raises an error.",
        f"Of {reshaped.right.numel()} rows the wrong reshape puts {reshaped.agreeing} where they belong. Look at its "
        "colours: what it calls one gate is made of all four.",
    ]


FIRST_ROW = 5
EXAMPLE_ROW, EXAMPLE_SIZE = 70, 32  # of the check question

LESSON = Lesson(
    name="packed",
    title="One tensor, four layers",
    question="An LSTM has four gates, PyTorch keeps their weights in one tensor. Which row belongs to which gate?",
    introduction=(
        "At every step a hidden unit computes its four gates: input i, forget f, cell g and output o. Each reads the input "
        "with a **row** of weights of its own, kept in the tensor weight_ih, and the hidden state of the step before with "
        "another row, kept in weight_hh. PyTorch packs the rows of all four gates into one tensor, gate after gate: H "
        "hidden units make 4H rows. That is easily missed: in one known project the four were filled with first values as "
        "if they were one matrix (CleanRL, issue 358)."
    ),
    code=(split_gates,),
    check=f"H is {EXAMPLE_SIZE}. What is row {EXAMPLE_ROW} of `weight_hh_l0`?",
    answers=(
        Answer(
            str(wrong_place(EXAMPLE_ROW)).capitalize(),
            False,
            "That is how the wrong reshape counts: four gates of unit 0, then four of unit 1. PyTorch puts all of "
            "gate i first.",
        ),
        Answer(
            str(Place("o", EXAMPLE_ROW % EXAMPLE_SIZE)).capitalize(),
            False,
            "The unit is right. But the order of the gates is i, f, g, o, and only two whole gates come before row 70.",
        ),
        Answer(
            str(place(EXAMPLE_ROW, EXAMPLE_SIZE)).capitalize(),
            True,
            f"{EXAMPLE_ROW} = {EXAMPLE_ROW // EXAMPLE_SIZE} × {EXAMPLE_SIZE} + {EXAMPLE_ROW % EXAMPLE_SIZE}: two "
            f"whole gates, i and f, come before it, and then {EXAMPLE_ROW % EXAMPLE_SIZE} units.",
        ),
    ),
    terms=("row",),
    sources=("torch", "forum", "cleanrl", "lstm"),
)
