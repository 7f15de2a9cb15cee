"""The calibration inputs of the open model, and what was gathered from them, kept in the visitor's session.

What was gathered holds for the LSTMs, the tensors that read them and the task that it was gathered with; when one of these
changes, it must be gathered again.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import streamlit as st

from pruner import PrunerError, Recipe
from pruner.calibration.inputs import Calibration, gaussian, read_calibration, sampled
from pruner.calibration.observations import Statistics
from pruner.dashboard import state
from pruner.dashboard.text import plain
from pruner.examples import Example
from pruner.files.checkpoint import Checkpoint
from pruner.files.consumers import suggestions
from pruner.lstm.find import DTYPES
from pruner.lstm.lstm import LSTM
from pruner.pipeline import gather_statistics
from pruner.progress import Progress

FILE_TYPES = ("npy", "npz", "csv", "safetensors", "pt")
MAX_MEGABYTES = 200


@dataclass(frozen=True)
class Wanted:
    """Where inputs shall come from, as the controls say it, for a thread that cannot ask the session."""

    source: str
    embedding: str | None = None
    time_major: bool = False
    file: tuple[str, bytes] | None = None  # its name and what it holds
    before: Calibration | None = None  # the file read last, for when only the readers have changed


@dataclass(frozen=True)
class Gathered:
    """Calibration inputs, and what the LSTMs of a recipe do on them."""

    calibration: Calibration
    statistics: Mapping[str, Statistics]
    recipe: Recipe

    @property
    def key(self) -> str:
        """What scores from it can be cached on."""
        return f"{self.calibration.sha256} {self.calibration.embedding} {_held_by(self.recipe)}"


def _held_by(recipe: Recipe) -> tuple[tuple[str, ...] | None, tuple[str, ...], str | None]:
    return recipe.lstms, recipe.consumers, recipe.task


def present() -> Gathered | None:
    """What was gathered last from the open model, whether or not it still holds."""
    session = st.session_state
    job = session.gathering
    if job is not None and job.status.result is not None and job.status.result is not session.gathered:
        session.gathered = job.status.result
        session.input_upload += 1  # an uploader with a new key lets the file go
    return session.gathered


def current() -> Gathered | None:
    """What was gathered, if it holds for the LSTMs, the readers and the task that are chosen now."""
    gathered = present()
    if gathered is None or _held_by(gathered.recipe) != _held_by(state.readers()):
        return None
    return gathered


def gather(
    checkpoint: Checkpoint, example: Example | None, wanted: Wanted, recipe: Recipe, progress: Progress
) -> Gathered:
    """Read, sample or draw inputs, run the recipe's LSTMs over them, and keep what they did. Raises PrunerError."""
    progress(0.0, "Reading the inputs")
    calibration = _inputs(checkpoint, example, wanted, recipe, lambda done, what: progress(0.4 * done, what))
    start = 0.4 if wanted.source == "sampled" else 0.05
    statistics = gather_statistics(
        checkpoint, recipe, calibration, progress=lambda done, what: progress(start + (1 - start) * done, what)
    )
    return Gathered(calibration, statistics, recipe)


def _inputs(
    checkpoint: Checkpoint, example: Example | None, wanted: Wanted, recipe: Recipe, progress: Progress
) -> Calibration:
    lstms = checkpoint.select(recipe.lstms)
    if wanted.source == "example" and example is not None:
        return example.calibration(checkpoint)
    if wanted.source == "gaussian":
        return gaussian(checkpoint, lstms, wanted.embedding)
    if wanted.source == "sampled":
        if wanted.embedding is None or len(recipe.consumers) != 1:
            raise PrunerError(
                "expected an embedding and the one tensor that reads the output to sample from the model, found "
                f"{'an' if wanted.embedding else 'no'} embedding and {len(recipe.consumers)} tensors; name both"
            )
        return sampled(checkpoint, lstms[0], wanted.embedding, recipe.consumers[0], progress)
    if wanted.file is not None:
        name, data = wanted.file
        return read_calibration(data, name, checkpoint, lstms, wanted.embedding, wanted.time_major)
    if wanted.before is not None:
        return wanted.before
    raise PrunerError("expected a file of inputs, found none; drop one first, or choose other inputs")


def embeddings(checkpoint: Checkpoint, lstms: list[LSTM]) -> list[str]:
    """Tensors that could turn token ids into inputs of these LSTMs: a row a token, as wide as the input."""
    widths = {lstm.input_size for lstm in lstms}
    own = {name for lstm in checkpoint.lstms for name in lstm.tensors.values()}
    found = [
        name
        for name, tensor in checkpoint.tensors.items()
        if name not in own and tensor.dim() == 2 and {tensor.shape[1]} == widths and tensor.dtype in DTYPES
    ]
    return sorted(found, key=lambda name: ("emb" not in name.lower(), name))


def sources(checkpoint: Checkpoint, lstms: list[LSTM], example: Example | None) -> list[str]:
    """Where inputs can come from: the best first."""
    generates = (
        len(lstms) == 1
        and not lstms[0].bidirectional
        and bool(embeddings(checkpoint, lstms))
        and bool(suggestions(checkpoint, lstms))
    )
    return [*(["example"] if example else []), "file", *(["sampled"] if generates else []), "gaussian"]


def told(source: str, name: str) -> str:
    """What inputs are, in words that fit into a sentence."""
    return {
        "example": f"the example’s own inputs ({plain(name)})",
        "file": f"inputs from {plain(name)}",
        "sampled": "inputs sampled from the model",
        "gaussian": "random numbers, not real inputs",
    }[source]
