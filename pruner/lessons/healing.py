"""Lesson 8: a ruined model learns to write again, from the answers of the model that it was."""

import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from itertools import count

from torch import Tensor

from pruner.calibration.calibration import Calibration
from pruner.calibration.observations import Statistics
from pruner.compensation.lessons import difference
from pruner.examples.speaking import CHARACTERS, PROMPT, written
from pruner.lessons.course import Answer, Lesson
from pruner.lessons.model import TEXT, model
from pruner.lessons.moment import Moment
from pruner.lstm.module import build
from pruner.pipeline import gather_statistics, prune
from pruner.progress import Progress, silent
from pruner.recipe import Recipe

SHARE, SECONDS = 0.5, 30.0
PIECES, FOLDED_ON = 20, 4  # pieces of the training text that it heals on; fewer are enough for the fold
SHORT = 512  # characters of the parts of these that are read side by side
STAGES = ("Half removed", "Compensated", "Healed")


def recipe(compensation: str = "heal", steps: int | None = None) -> Recipe:
    """Half of the units of the text model, the lightest ones; it heals for `SECONDS`, or for so many updates."""
    chosen = Recipe(SHARE, granularity="units", compensation=compensation)
    if compensation == "heal":
        chosen = replace(chosen, budget=SECONDS, steps=steps)
    return model(TEXT).example.complete(chosen)


def write(tensors: Mapping[str, Tensor]) -> str:
    """What the text model with these tensors writes after `PROMPT`, always with the same dice."""
    example = model(TEXT)
    alphabet = json.loads(example.checkpoint.metadata["alphabet"])
    return written(tensors, build(example.lstm, tensors), alphabet, PROMPT, CHARACTERS)


@cache
def calibration() -> Calibration:
    """Pieces of the training text."""
    example = model(TEXT)
    whole = example.example.calibration(example.checkpoint)
    return replace(whole, sequences={name: [groups[0][:PIECES]] for name, groups in whole.sequences.items()})


@cache
def gathered() -> dict[str, Statistics]:
    """What the units do on the first pieces: all that compensation needs to know."""
    few = {name: [groups[0][:FOLDED_ON].reshape(-1, SHORT)] for name, groups in calibration().sequences.items()}
    return gather_statistics(model(TEXT).checkpoint, recipe("fold"), replace(calibration(), sequences=few))


def ruined() -> dict[str, str]:
    """What the whole model writes, and what is left of that without half of its units."""
    example = model(TEXT)
    return {
        "Whole": write(example.tensors),
        STAGES[0]: write(prune(example.checkpoint, recipe("none")).tensors()),
    }


def heal(seen: Callable[[Moment], object], progress: Progress = silent, steps: int | None = None) -> list[Moment]:
    """Remove half of the units, compensate, heal; each moment is `seen` as it comes. `progress` may end it early."""
    example, moments, calls, began = model(TEXT), list[Moment](), count(), 0.0
    progress(0.0, "Measuring what the units do")
    statistics = gathered()

    def look(changed: dict[str, Tensor], loss: float) -> None:
        nonlocal began
        call = next(calls)
        if call == len(STAGES) - 1:  # it begins to learn, from what compensation gave
            began = time.monotonic()
            return
        seconds = time.monotonic() - began if began else 0.0
        text = write({**example.tensors, **changed})
        moments.append(Moment(STAGES[min(call, len(STAGES) - 1)], seconds, loss / math.log(2), text))
        seen(moments[-1])

    def tell(fraction: float, what: str) -> bool | None:
        return progress(
            fraction, f"Healing: {moments[-1].loss:.2f} bits lost a character" if len(moments) > 1 else what
        )

    prune(example.checkpoint, recipe(steps=steps), calibration(), statistics, progress=tell, seen=look)
    return moments


def notice(moments: list[Moment]) -> list[str]:
    told = [
        "It gets no labels. At every letter the whole model says how likely each next letter is, and what is left is "
        "trained to say the same: all of its expectations, not only the letter that came.",
    ]
    by_stage = {moment.stage: moment for moment in moments}
    if set(by_stage) == set(STAGES):
        half, folded, healed = (by_stage[stage] for stage in STAGES)
        told.append(
            f"Without half of its units the model loses {half.loss:.2f} bits a character; compensation leaves "
            f"{folded.loss:.2f} of that, {healed.seconds:.0f} seconds of learning **{min(m.loss for m in moments):.2f}**."
        )
    else:
        told.append("What each step wins is measured while it heals, on the page of this lesson.")
    return [
        *told,
        "It begins where compensation ends, and changes weights only: the size stays what it was.",
        "Letters that read like words say little; the loss, on text that was held back, says how much is back.",
    ]


LESSON = Lesson(
    name="healing",
    title="Healing",
    question="Half of the units are gone, and what is left writes rubbish. Can it learn to write again?",
    introduction=(
        "A larger model has learnt to write like Python’s own documentation. The half of its hidden units with the "
        "smallest weights is removed. First what stays is compensated; then it is trained, for half a minute, here and "
        "now; that is **healing**. Its loss is how far its expectations are from the whole model’s."
    ),
    code=(difference,),
    check="The halved model reads text again while it heals. What does it learn from?",
    answers=(
        Answer(
            "From the letter that comes next in the text",
            False,
            "That would be learning from labels, as the whole model once did. One letter says less than what the whole "
            "model expected at that place.",
        ),
        Answer(
            "From all that the whole model expects there",
            True,
            "The whole model knows that after “th” an e is likely, an a possible, a z not. Every step teaches all of that, "
            "and needs no labels: any text of the kind will do.",
        ),
        Answer(
            "From what it wrote itself before",
            False,
            "It would only be confirmed in its errors. What it writes is shown for you; it learns nothing from it.",
        ),
    ),
    terms=("healing",),
    sources=("distillation",),
    example=TEXT,
)
