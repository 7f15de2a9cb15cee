"""Two small trained models, ready to open, and how good they are at their tasks."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path

import torch
from torch import Tensor, nn

from pruner.calibration.alphabet import Alphabet
from pruner.calibration.calibration import BURN_IN, Calibration
from pruner.errors import PrunerError
from pruner.examples import embedded_reber, pydocs_chars, speaking
from pruner.files.checkpoint import Checkpoint
from pruner.files.learned import with_batch_first
from pruner.files.opening import open_checkpoint
from pruner.lstm.measure import Quality
from pruner.progress import Progress
from pruner.recipe import Recipe

SAMPLE = 128  # characters of each stream, or strings: a small part of what is held out


@dataclass(frozen=True)
class Example:
    """A trained model that ships with the project, and the quality it is judged by on held-out data."""

    name: str
    title: str
    description: str
    file: Path
    quality: Quality
    sample: Quality  # the same on a small fixed part of the held-out data, in a fraction of a second
    calibration: Callable[[Checkpoint], Calibration]
    speech: speaking.Speech
    alphabet: Callable[[], Alphabet]
    lstm: str = "lstm"
    consumer: str = "linear.weight"
    task: str = "softmax"
    batch_first: bool = True

    @property
    def quality_name(self) -> str:
        return self.quality.name

    @property
    def higher_is_better(self) -> bool:
        return self.quality.higher_is_better

    def open(self) -> Checkpoint:
        return with_batch_first(open_checkpoint(self.file), self.batch_first)

    def complete(self, recipe: Recipe) -> Recipe:
        """The recipe with what is known of an example, its consumer and its task, where scores from data or compensation ask
        for them and it names no others."""
        if not recipe.needs_data or recipe.consumers not in ((), (self.consumer,)):
            return recipe
        return replace(recipe, consumers=(self.consumer,), task=recipe.task or self.task)


def _bits_per_character(
    tensors: Mapping[str, Tensor], lstms: Mapping[str, nn.Module], characters: int | None = None
) -> float:
    alphabet = json.loads(_metadata("pydocs-chars")["alphabet"])
    return pydocs_chars.bits_per_character(tensors, lstms["lstm"], alphabet, characters)


def _strings_right(tensors: Mapping[str, Tensor], lstms: Mapping[str, nn.Module], count: int | None = None) -> float:
    return embedded_reber.strings_right(tensors, lstms["lstm"], count)


def _written(
    tensors: Mapping[str, Tensor], lstms: Mapping[str, nn.Module], prompt: str, progress: Progress
) -> list[speaking.Line]:
    alphabet = json.loads(_metadata("pydocs-chars")["alphabet"])
    return [speaking.Line(prompt + speaking.written(tensors, lstms["lstm"], alphabet, prompt, progress=progress))]


def _spelled(
    tensors: Mapping[str, Tensor], lstms: Mapping[str, nn.Module], prompt: str, progress: Progress
) -> list[speaking.Line]:
    return [speaking.judged(text) for text in speaking.spelled(tensors, lstms["lstm"], progress)]


def _training_text(checkpoint: Checkpoint) -> Calibration:
    """The documentation topics of the training text in pieces, shuffled, so that those held back are like the others."""
    pieces = pydocs_chars.training_pieces(json.loads(_metadata("pydocs-chars")["alphabet"]))
    return Calibration("example", {"lstm": [pieces]}, "embedding.weight", BURN_IN, "training text")


def _training_strings(checkpoint: Checkpoint) -> Calibration:
    """The training strings, those of one length together."""
    by_length: dict[int, list[str]] = {}
    for text, _ in embedded_reber.strings()[0]:
        by_length.setdefault(len(text), []).append(text)
    groups = [embedded_reber.encode(texts)[0] for _, texts in sorted(by_length.items())]
    return Calibration("example", {"lstm": groups}, name="training strings")


def _characters() -> Alphabet:
    symbols = tuple(json.loads(_metadata("pydocs-chars")["alphabet"]))
    return Alphabet("text", symbols, "embedding.weight", pydocs_chars.BEGIN)


def _symbols() -> Alphabet:
    return Alphabet("grammar", tuple(embedded_reber.SYMBOLS), None, embedded_reber.BEGIN)


EXAMPLES = {
    example.name: example
    for example in (
        Example(
            "pydocs-chars",
            "Python-docs characters",
            "A 2-layer LSTM with 256 hidden units that predicts the next character of Python's own documentation.",
            pydocs_chars.FILE,
            Quality("bits per character", False, _bits_per_character, Path(pydocs_chars.__file__)),
            Quality("bits per character", False, partial(_bits_per_character, characters=SAMPLE)),
            _training_text,
            speaking.Speech(_written, speaking.PROMPT),
            _characters,
        ),
        Example(
            "embedded-reber",
            "Embedded Reber grammar",
            "A 1-layer LSTM with 32 hidden units, small enough to see every one, that must remember one symbol to the end.",
            embedded_reber.FILE,
            Quality("strings wholly right", True, _strings_right, Path(embedded_reber.__file__)),
            Quality("strings wholly right", True, partial(_strings_right, count=SAMPLE)),
            _training_strings,
            speaking.Speech(_spelled),
            _symbols,
        ),
    )
}


def named(name: str) -> Example:
    """Raises PrunerError if there is no example of this name."""
    if name not in EXAMPLES:
        raise PrunerError(f"expected an example among {', '.join(EXAMPLES)}; found {name!r}")
    return EXAMPLES[name]


def example_of(checkpoint: Checkpoint) -> Example | None:
    """The example that a checkpoint is, or was pruned from: its metadata says so and its tensors have the same shapes and
    dtypes."""
    example = EXAMPLES.get(checkpoint.metadata.get("example", ""))
    if example and _shapes(checkpoint) == _shapes(_opened(example.name)):
        return example
    return None


def quality_of(checkpoint: Checkpoint) -> Quality | None:
    """What a checkpoint is judged by, where it is one of the examples or was pruned from one."""
    example = example_of(checkpoint)
    return example.quality if example else None


def data_note(example: Example) -> str | None:
    """A sentence if the data at hand is not quite that of the training: another Python has slightly other documents."""
    if example.name == "pydocs-chars" and pydocs_chars.corpus_sha256() != _metadata(example.name)["corpus_sha256"]:
        return (
            f"The model was trained on the documentation of Python {_metadata(example.name)['python']}; this Python's "
            "differs, so its bits per character can differ slightly from the published ones."
        )
    return None


@cache
def _opened(name: str) -> Checkpoint:
    return EXAMPLES[name].open()


def _metadata(name: str) -> dict[str, str]:
    return _opened(name).metadata


def _shapes(checkpoint: Checkpoint) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
    return {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in checkpoint.tensors.items()}
