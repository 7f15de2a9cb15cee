"""What a pruned LSTM learns from: calibration inputs with the dense model's answers to them, in an order of their own."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from pruner.calibration.calibration import Calibration
from pruner.calibration.gathering import WINDOW
from pruner.lstm.lstm import LSTM

BATCH, STEPS = 32, 128  # sequences read side by side, and time steps between two updates
LONG = 8 * STEPS  # steps of a sequence from which on a zero state at its begin, or what went before, matters little
MAX_ANSWERS = 2**29  # numbers of the dense model's answers that are kept; beyond, they are computed in passing
SEED = 0


class Lessons:
    """Batches of sequences with the dense model's answers, window after window, without end.

    `teacher` gives the dense model's answers (T, B, V) to inputs (T, B, I) and the state to go on from, which it also takes;
    `widths` are the parts of V, one a consumer. With the task `softmax` answers are log-probabilities of each part, else
    what the teacher gives. Long sequences are laid end to end and read as streams, which begin elsewhere each time.
    """

    def __init__(
        self,
        lstm: LSTM,
        tensors: Mapping[str, Tensor],
        calibration: Calibration,
        teacher: Callable[[Tensor, Any], tuple[Tensor, Any]],
        widths: list[int],
        task: str | None,
        device: str,
    ) -> None:
        self._tensors, self._calibration, self._teacher, self._device = tensors, calibration, teacher, device
        self._widths = widths if task == "softmax" else None
        # The reverse direction reads from the end, so that it must see all of a sequence at once.
        self._whole, self._steps = lstm.bidirectional, WINDOW if lstm.bidirectional else STEPS
        groups = calibration.sequences[lstm.name]
        steps = sum(group.shape[0] * group.shape[1] for group in groups)
        room = steps * sum(widths) <= MAX_ANSWERS
        self._texts = [text for group in groups for text in self._laid_out(group, room)]

    def windows(self) -> Iterator[tuple[Tensor, Tensor, bool]]:
        """Without end: inputs (T, B, I), the answers to them (T, B, V), and whether sequences begin here; if not, they go on
        where the window before ended. Each time they are cut elsewhere."""
        generator = torch.Generator().manual_seed(SEED)
        while True:
            batches = [(text, places) for text in self._texts for places in text.batches(generator)]
            for index in torch.randperm(len(batches), generator=generator).tolist():
                text, places = batches[index]
                state = None
                for first, last in pairwise(self._bounds(len(places), generator)):
                    inputs = self._inputs(text.steps[places[first:last]])
                    if text.answers is None:
                        answers, state = self._answer(inputs, state)
                    else:
                        answers = text.answers[places[first:last]]
                    yield inputs, answers.to(self._device), first == 0

    def loss(self, found: Tensor, wanted: Tensor) -> Tensor:
        return difference(found, wanted, self._widths)

    def _bounds(self, length: int, generator: torch.Generator) -> list[int]:
        """Where windows begin and end. The first is at least half as long as the others: a few steps teach little, and
        move as much."""
        if length <= self._steps:
            return [0, length]
        first = self._steps - int(torch.randint(self._steps // 2, (1,), generator=generator))
        return [0, *range(first, length, self._steps), length]

    def _inputs(self, steps: Tensor) -> Tensor:
        return self._calibration.looked_up(steps, self._tensors).to(self._device)

    def _laid_out(self, group: Tensor, room: bool) -> Iterator["_Text"]:
        """The sequences of a group, with the answers to them where there is room for those."""
        streams, pieces = not self._whole and group.shape[1] >= LONG, [group]
        if streams:
            steps = group.flatten(0, 1)
            count = min(BATCH, len(steps) // WINDOW)
            pieces = [steps[: len(steps) // count * count].unflatten(0, (count, -1))]
        elif self._whole:
            pieces = [piece for piece in group.split(WINDOW, 1) if piece.shape[1] > 1]
        for piece in pieces:
            yield _Text(piece.flatten(0, 1), piece.shape[1], self._all(piece) if room else None, streams)

    @torch.no_grad()
    def _answer(self, inputs: Tensor, state: Any) -> tuple[Tensor, Any]:
        found, state = self._teacher(inputs, state)
        if self._widths is None:
            return found, state
        return torch.cat([own.log_softmax(-1) for own in found.split(self._widths, -1)], -1), state

    def _all(self, piece: Tensor) -> Tensor:
        """The answers (N * T, V) to all sequences of a piece; log-probabilities need no more than half precision."""
        return torch.cat([self._of_batch(batch).transpose(0, 1).flatten(0, 1) for batch in piece.split(BATCH)])

    def _of_batch(self, batch: Tensor) -> Tensor:
        found, state = [], None
        for window in batch.split(batch.shape[1] if self._whole else WINDOW, 1):
            answers, state = self._answer(self._inputs(window.transpose(0, 1)), state)
            found.append(answers.half() if self._widths else answers)
        return torch.cat(found)


@dataclass(frozen=True)
class _Text:
    """Sequences of one length, end to end: `steps` (N * T, ...) and the `answers` (N * T, V) to them. Of `streams` each may
    begin anywhere."""

    steps: Tensor
    length: int
    answers: Tensor | None
    streams: bool

    def batches(self, generator: torch.Generator) -> Iterator[Tensor]:
        """The places (T, B) of the steps of sequences that are read side by side, all of them once."""
        steps, count = torch.arange(self.length)[:, None], len(self.steps) // self.length
        if self.streams:
            begin = int(torch.randint(len(self.steps), (1,), generator=generator))
            yield (steps + self.length * torch.arange(count) + begin) % len(self.steps)
        else:
            for chosen in torch.randperm(count, generator=generator).tensor_split(math.ceil(count / BATCH)):
                yield steps + self.length * chosen


def difference(found: Tensor, wanted: Tensor, widths: list[int] | None) -> Tensor:
    """How far what is found is from the answers (..., V): the divergence, in nats, of the parts of these widths, whose
    answers are log-probabilities; without widths the mean squared error over the mean square."""
    if widths is None:
        return F.mse_loss(found, wanted) / wanted.square().mean().clamp(min=torch.finfo(wanted.dtype).tiny)
    pairs = zip(found.split(widths, -1), wanted.float().split(widths, -1), strict=True)
    each = [F.kl_div(own.log_softmax(-1), answer, reduction="sum", log_target=True) for own, answer in pairs]
    return torch.stack(each).sum() / found[..., 0].numel()
