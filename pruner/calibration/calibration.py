"""Inputs of LSTMs as sequences, split into those to fit on and those held back to judge by."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from torch import Tensor
from torch.nn import functional as F

from pruner.errors import PrunerError
from pruner.lstm.lstm import LSTM, title_of

SOURCES = ("example", "file", "sampled", "gaussian")
LEAST_STEPS = 10  # on either side of a split
BURN_IN = 20  # steps after which little of a zero state is left
ENOUGH_HELD_BACK = 2**15  # time steps; more judge no better, and are missed where models learn


@dataclass(frozen=True)
class Calibration:
    """Inputs of LSTMs. `sequences` holds, by LSTM name, groups of sequences of one length, batch first.

    A group is float32 inputs (N, T, I), or int64 token ids (N, T) that `embedding` turns into inputs. Random inputs name
    the embedding that they resemble.
    """

    source: str  # one of SOURCES
    sequences: dict[str, list[Tensor]]
    embedding: str | None = None  # the tensor (V, I) of the checkpoint
    burn_in: int = 0  # first steps of each sequence that statistics leave out: a zero state still shows in them
    name: str = ""  # what the file is called

    @cached_property
    def sha256(self) -> str:
        """A hash over names, shapes, dtypes and values: the same for the same sequences, whatever format held them."""
        digest = hashlib.sha256()
        for name, groups in sorted(self.sequences.items()):
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

    def sample(self, count: int, steps: int) -> "Calibration":
        """A small part: of the last `count` sequences of each LSTM the first `steps` steps after the burn-in."""
        found = {}
        for name, groups in self.sequences.items():
            last = _cut(groups, max(sum(map(len, groups)) - count, 0))[1]
            found[name] = [group[:, : self.burn_in + steps] for group in last]
        return replace(self, sequences=found)

    def split(self, share: float = 0.2) -> tuple["Calibration", "Calibration"]:
        """(to fit on, held back): about `share` of the sequences of each LSTM are held back, its last ones.

        At least one is, and no more than hold `ENOUGH_HELD_BACK` steps. Of a single sequence the last steps are. Raises
        PrunerError where a side gets fewer than `LEAST_STEPS` steps.
        """
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
        sides = replace(self, sequences=fit), replace(self, sequences=held)
        for side, purpose in zip(sides, ("fit on", "hold back"), strict=True):
            for name, steps in side.steps().items():
                if steps < LEAST_STEPS:
                    raise PrunerError(
                        f"expected at least {LEAST_STEPS} time steps of {title_of(name)} to {purpose}, found {steps}; "
                        "give more or longer sequences"
                    )
        return sides


def _cut(groups: list[Tensor], count: int) -> tuple[list[Tensor], list[Tensor]]:
    """The first `count` sequences and the others."""
    before, after = [], []
    for group in groups:
        before += [group[:count]] if count else []
        after += [group[count:]] if count < len(group) else []
        count = max(count - len(group), 0)
    return before, after
