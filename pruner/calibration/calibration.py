"""Inputs of LSTMs as sequences, split into those to fit on and those held back to judge by."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from pruner.errors import PrunerError
from pruner.lstm.lstm import LSTM, title_of

SOURCES = ("example", "file", "sampled", "gaussian", "model")
LEAST_STEPS = 10  # on either side of a split
BURN_IN = 20  # steps after which little of a zero state is left
ENOUGH_HELD_BACK = 2**13  # time steps; more judge no better, and are missed where models learn


@dataclass(frozen=True)
class Calibration:
    """Inputs of LSTMs. `sequences` holds, by LSTM name, groups of sequences of one length, batch first.

    A group is float32 inputs (N, T, I), or int64 token ids (N, T) that `embedding` turns into inputs. Random inputs name
    the embedding that they resemble. Inputs that were observed in a model know the `batches` that the model read meanwhile,
    and those that are `held_back` are apart from the first. Some LSTMs are `fed` by others, whose outputs they read (see
    `fed.complete`).
    """

    source: str  # one of SOURCES
    sequences: dict[str, list[Tensor]]
    embedding: str | None = None  # the tensor (V, I) of the checkpoint
    burn_in: int = 0  # first steps of each sequence that statistics leave out: a zero state still shows in them
    name: str = ""  # what the file is called
    fed: Mapping[str, str] = field(default_factory=dict)
    batches: Sequence[Any] | None = None
    held_back: "Calibration | None" = None

    @property
    def is_real(self) -> bool:
        """Whether these are like what a model reads in use: random numbers neither heal it nor tell what it is worth."""
        return self.source != "gaussian"

    @cached_property
    def sha256(self) -> str:
        """A hash over names, shapes, dtypes and values: the same for the same sequences, whatever format held them, and
        whatever machine computed others from them."""
        digest = hashlib.sha256()
        for name, groups in sorted(self.sequences.items()):
            if name in self.fed:
                continue
            facts = [name, *((list(group.shape), str(group.dtype)) for group in groups)]
            digest.update(json.dumps(facts).encode() + b"\n")
            for group in groups:
                digest.update(group.contiguous().numpy().data)
        return digest.hexdigest()

    def steps(self) -> dict[str, int]:
        """Time steps by LSTM name, those of all sequences together, without the burn-in."""
        return {
            name: sum(len(group) * max(group.shape[1] - self.burn_in, 0) for group in groups)
            for name, groups in self.sequences.items()
        }

    def inputs(self, lstm: LSTM, tensors: Mapping[str, Tensor], batch_size: int = 64) -> Iterator[Tensor]:
        """Batches (B, T, I) of float32 for one LSTM, B at most `batch_size`; `tensors` are those of the checkpoint.

        Token ids become inputs one batch at a time, so that memory does not grow with the data.
        """
        for group in self.sequences[lstm.name]:
            for batch in group.split(batch_size):
                yield self.looked_up(batch, tensors)

    def looked_up(self, batch: Tensor, tensors: Mapping[str, Tensor]) -> Tensor:
        """Float32 inputs (B, T, I) of a part of a group: token ids become the rows of the embedding."""
        if self.embedding is None or batch.is_floating_point():
            return batch
        return F.embedding(batch, tensors[self.embedding]).float()

    def read_by_models(self, lstm: LSTM, batch_size: int) -> list[Any]:
        """What a forward pass of a model reads: the batches that were observed, else sequences of an LSTM as they are."""
        if self.batches is not None:
            return list(self.batches)
        return [batch for group in self.sequences[lstm.name] for batch in group.split(batch_size)]

    def sample(self, count: int, steps: int) -> "Calibration":
        """A small part: of the last `count` sequences of each LSTM the first `steps` steps after the burn-in."""
        found = {}
        for name, groups in self.sequences.items():
            last = _cut(groups, max(sum(map(len, groups)) - count, 0))[1]
            found[name] = [group[:, : self.burn_in + steps] for group in last]
        return replace(self, sequences=found)

    def split(self, share: float = 0.2) -> tuple["Calibration", "Calibration"]:
        """(to fit on, held back): what is apart already, else about `share` of the sequences of each LSTM, its last ones.

        At least one is, and no more than hold `ENOUGH_HELD_BACK` steps. Of a single sequence the last steps are. Raises
        PrunerError where a side gets fewer than `LEAST_STEPS` steps.
        """
        if self.held_back is not None:
            return _checked(replace(self, held_back=None), self.held_back)
        fit, held = {}, {}
        for name, groups in self.sequences.items():
            count, every = sum(map(len, groups)), sum(group.shape[0] * group.shape[1] for group in groups)
            share_here = min(share, ENOUGH_HELD_BACK / every) if every else share
            if count == 1:
                steps = groups[0].shape[1]
                cut = steps - max(1, round(steps * share_here))
                fit[name], held[name] = [groups[0][:, :cut]], [groups[0][:, cut:]]
            else:
                fit[name], held[name] = _cut(groups, count - min(max(1, round(count * share_here)), count - 1))
        return _checked(replace(self, sequences=fit), replace(self, sequences=held))


def _checked(fit_on: Calibration, held_back: Calibration) -> tuple[Calibration, Calibration]:
    """Both sides of a split. Raises PrunerError where one has too few steps."""
    for side, purpose in ((fit_on, "fit on"), (held_back, "hold back")):
        for name, steps in side.steps().items():
            if steps < LEAST_STEPS:
                raise PrunerError(
                    f"expected at least {LEAST_STEPS} time steps of {title_of(name)} to {purpose}, found {steps}; "
                    "give more or longer sequences"
                )
    return fit_on, held_back


def _cut(groups: list[Tensor], count: int) -> tuple[list[Tensor], list[Tensor]]:
    """The first `count` sequences and the others."""
    before, after = [], []
    for group in groups:
        before += [group[:count]] if count else []
        after += [group[count:]] if count < len(group) else []
        count = max(count - len(group), 0)
    return before, after
