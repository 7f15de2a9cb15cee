"""Lesson 6: from a mask to a smaller model, by gluing what is left and by removing whole hidden units."""

from dataclasses import dataclass
from statistics import mode

import torch
from torch import Tensor, nn

from pruner.examples import embedded_reber
from pruner.importance.masks import unit_agreement
from pruner.lessons.course import Answer, Lesson
from pruner.lessons.model import GRAMMAR, TEXT, Model, model
from pruner.lstm.gates import SIDES, split_gates
from pruner.lstm.measure import SEQUENCE_LENGTH, Drift, difference, latency, outputs
from pruner.lstm.module import build
from pruner.lstm.sizes import parameters
from pruner.pipeline import choose_masks, prune
from pruner.recipe import Recipe

SHARES = tuple(step / 100 for step in range(5, 80, 5))
SHARE = 0.25
TURNS = 8  # of the models that are timed

WAYS = {
    "whole": "As trained",
    "rows": "Rows masked, nothing removed",
    "glued": "Rows removed, the rest glued",
    "units": "Units removed",
}


def glued(example: Model, share: float) -> tuple[dict[str, Tensor], nn.LSTM]:
    """Remove each gate's own rows and close the ranks, as torch.ao.pruning's `prune()` does: (tensors with a narrower
    output layer, smaller LSTM).

    Row 0 of one gate may then belong to another unit than row 0 of the next.
    """
    lstm, tensors = example.lstm, dict(example.tensors)
    masks = choose_masks(example.checkpoint, Recipe(share))
    small = nn.LSTM(
        lstm.input_size, lstm.hidden_size - int(lstm.hidden_size * share), lstm.num_layers, batch_first=True
    )
    state, columns = {}, torch.arange(lstm.input_size)
    for layer in range(lstm.num_layers):
        for side in SIDES:
            name, keep = example.weight(side, layer), masks[example.weight(side, layer)]
            bias = lstm.bias_name(layer, 0, side)
            assert bias is not None  # noqa: S101 - both examples have biases
            state[f"bias_{side}_l{layer}"] = tensors[bias][keep]
            if side == "ih":
                state[f"weight_ih_l{layer}"] = tensors[name][keep][:, columns]
                continue
            # Each gate reads the units that it kept itself, so the four read different ones.
            gates = zip(split_gates(tensors[name]), split_gates(keep), strict=True)
            state[f"weight_hh_l{layer}"] = torch.cat([gate[own][:, own] for gate, own in gates])
            columns = split_gates(keep)[-1].nonzero().flatten()
    small.load_state_dict(state)
    tensors["linear.weight"] = tensors["linear.weight"][:, columns]
    return tensors, small.eval().requires_grad_(False)


def held_out_strings() -> Tensor:
    """The held-out strings of the most frequent length (B, T, 7)."""
    texts = [text for text, _ in embedded_reber.strings()[1]]
    length = mode(map(len, texts))
    return embedded_reber.encode([text for text in texts if len(text) == length])[0]


@dataclass(frozen=True)
class Smaller:
    """What becomes of the grammar model at one sparsity.

    `agreement` (H,) counts how many of a unit's eight rows the masks of rows keep. `quality` and `drift` are by `WAYS`;
    the glued model's outputs belong to no unit, so they have no drift. `compact` compares the model without units to the one
    that only masks them.
    """

    agreement: Tensor
    parameters: dict[str, int]
    quality: dict[str, float]
    drift: dict[str, float]
    compact: Drift

    @property
    def removable(self) -> int:
        """Units that all eight blocks drop."""
        return int((self.agreement == 0).sum())


def shrink(share: float) -> Smaller:
    """Shrink the grammar model in three ways and measure each."""
    example = model(GRAMMAR)
    dense = build(example.lstm, example.tensors)
    masks = choose_masks(example.checkpoint, Recipe(share))
    by_rows = example.masked(masks)
    narrow, small = glued(example, share)
    recipe = Recipe(share, granularity="units")
    pruned = prune(example.checkpoint, recipe)
    by_units = pruned.tensors()
    compact = pruned.modules("compact")[example.lstm.name]
    inputs = held_out_strings()
    reference, _, _ = outputs(dense, inputs)
    zeroed, _, _ = outputs(build(example.lstm, by_units), inputs)
    without, _, _ = outputs(compact, inputs)
    kept_rows, _, _ = outputs(build(example.lstm, by_rows), inputs)
    return Smaller(
        agreement=unit_agreement(list(masks.values())),
        parameters={
            "whole": example.lstm.parameters,
            "rows": example.lstm.parameters,
            "glued": parameters(small.parameters()),
            "units": parameters(compact.parameters()),
        },
        quality={
            "whole": example.quality(example.tensors),
            "rows": example.quality(by_rows),
            "glued": example.example.quality(narrow, {example.lstm.name: small}),
            "units": example.example.quality(by_units, {example.lstm.name: compact}),
        },
        drift={
            "rows": difference([reference], [kept_rows]).relative,
            "units": difference([reference], [zeroed]).relative,
        },
        compact=difference([zeroed], [without]),
    )


def speed(share: float) -> dict[str, float]:
    """Milliseconds that the text model takes to read `SEQUENCE_LENGTH` steps, batch 1, by `WAYS`."""
    example = model(TEXT)
    recipe = Recipe(share, granularity="units")
    by_rows = example.masked(choose_masks(example.checkpoint, Recipe(share)))
    _, small = glued(example, share)
    name = example.lstm.name
    modules: dict[str, dict[str, nn.Module]] = {
        "whole": {name: build(example.lstm, example.tensors)},
        "rows": {name: build(example.lstm, by_rows)},
        "glued": {name: small},
        "units": prune(example.checkpoint, recipe).modules("compact"),
    }
    return {way: each.typical for way, each in latency(modules, [example.lstm], turns=TURNS, seconds=1.0).items()}


def notice(found: Smaller, share: float) -> list[str]:
    hidden_size = len(found.agreement)
    return [
        f"Each of the eight blocks (four gates in each of two weights) drops {int(hidden_size * share)} of {hidden_size} "
        f"rows, but all eight agree on **{found.removable}** units. Only those could be removed.",
        f"Gluing takes the rows out all the same. A gate’s first row may then meet the first row of another unit’s gate: "
        f"**{found.quality['glued']:.0%}** of the strings are right, where masking the same rows leaves "
        f"{found.quality['rows']:.0%}.",
        "Removing whole units makes a model of the same size as gluing does and leaves "
        f"**{found.quality['units']:.0%}**. It computes what the model with those units masked computes: the largest "
        f"difference in its output is {found.compact.max_abs_difference:.1g}.",
        f"On held-out strings its output has moved by {found.drift['units']:.0%} all the same. That is its **drift**: the "
        "size of the change relative to the size of the output. It comes from the mask, not from removing; the next lesson "
        "repairs it.",
    ]


LESSON = Lesson(
    name="smaller",
    title="From mask to smaller model",
    question="Why can the dropped rows not simply be taken out?",
    introduction=(
        "A masked model is as large and as slow as before: its zeros are stored and multiplied. To make it smaller, "
        "something must be taken out, and the **granularity**, what is dropped as one piece, decides what that may be: "
        "single **rows**, where each gate chooses its own, or whole hidden **units**, all eight rows of each. A "
        "model without what its mask drops is called **compact**."
    ),
    code=(unit_agreement,),
    check="In layer 0, unit 7 keeps seven of its eight rows. What must a smaller LSTM of the ordinary kind do with it?",
    answers=(
        Answer(
            "Keep seven rows of it",
            False,
            "In an ordinary LSTM, every hidden unit has a row in each of the four gates of both weights. Seven rows "
            "do not fit.",
        ),
        Answer(
            "Keep all of the unit",
            True,
            "A unit goes as a whole or stays as a whole. With one row left the unit still has a cell state and an "
            "output.",
        ),
        Answer(
            "Move its rows up into the gap",
            False,
            "That is gluing: the eighth gate would then work with the cell state of another unit.",
        ),
    ),
    terms=("granularity", "compact", "drift"),
    sources=("iss", "upstream"),
)

SPEED_CAPTION = (
    f"Time of a larger trained model, which reads text, for {SEQUENCE_LENGTH} steps, batch 1, one CPU thread, "
    "measured just now. The grammar model is too small to gain time."
)
