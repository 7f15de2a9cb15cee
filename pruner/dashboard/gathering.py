"""Calibration inputs of the open model, from wherever they come, and what the LSTMs do on them."""

from dataclasses import dataclass

from pruner.calibration.calibration import Calibration
from pruner.calibration.fed import complete
from pruner.calibration.inputs import gaussian, read_calibration, sampled
from pruner.dashboard.gathered import Gathered
from pruner.dashboard.text import plain
from pruner.errors import PrunerError
from pruner.examples import Example
from pruner.files.checkpoint import Checkpoint
from pruner.files.consumer_choice import consumers_of, feeders, suggestions
from pruner.lstm.lstm import DTYPES, LSTM
from pruner.pipeline import gather_statistics
from pruner.progress import Progress, split
from pruner.recipe import Recipe

FILE_TYPES = ("npy", "npz", "csv", "safetensors", "pt")


@dataclass(frozen=True)
class Wanted:
    """Where inputs shall come from, as the controls say it, for a thread that cannot ask the session."""

    source: str
    embedding: str | None = None
    time_major: bool = False
    file: tuple[str, bytes] | None = None  # its name and what it holds
    before: Calibration | None = None  # the file read last, for when only the consumers have changed


def gather(
    checkpoint: Checkpoint, example: Example | None, wanted: Wanted, recipe: Recipe, progress: Progress
) -> Gathered:
    """Read, sample or draw inputs, run the recipe's LSTMs over them, and keep what they did. Raises PrunerError."""
    reading, running = split(progress, 2 if wanted.source == "sampled" else 0.2, 3)
    reading(0.0, "Reading the inputs")
    calibration = complete(_inputs(checkpoint, example, wanted, recipe, reading), checkpoint, recipe)
    return Gathered(calibration, gather_statistics(checkpoint, recipe, calibration, progress=running), recipe)


def _inputs(
    checkpoint: Checkpoint, example: Example | None, wanted: Wanted, recipe: Recipe, progress: Progress
) -> Calibration:
    lstms, fed = checkpoint.select(recipe.lstms), feeders(checkpoint, consumers_of(checkpoint, recipe))
    if wanted.source == "example" and example is not None:
        return example.calibration(checkpoint)
    if wanted.source == "gaussian":
        return gaussian(checkpoint, [lstm for lstm in lstms if lstm.name not in fed], wanted.embedding)
    if wanted.source == "sampled":
        if wanted.embedding is None or len(recipe.consumers) != 1:
            raise PrunerError(
                "expected an embedding and the one tensor that reads the output to sample from the model, found "
                f"{'an' if wanted.embedding else 'no'} embedding and {len(recipe.consumers)} tensors; name both"
            )
        return sampled(checkpoint, lstms[0], wanted.embedding, recipe.consumers[0], progress)
    if wanted.file is not None:
        name, data = wanted.file
        settings = wanted.embedding, wanted.time_major
        return read_calibration(data, name, checkpoint, lstms, *settings, fed=fed, isolated=True)
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
