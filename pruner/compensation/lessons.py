"""What a pruned LSTM learns from: calibration inputs with the dense model's answers to them, in an order of their own."""

import math
from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from pruner.calibration.calibration import Calibration
from pruner.calibration.gathering import WINDOW
from pruner.lstm.lstm import LSTM

BATCH, STEPS = 32, 128  # sequences read side by side, and time steps between two updates
MAX_ANSWERS = 2**29  # numbers of the dense model's answers that are kept; beyond, they are computed in passing
SEED = 0


class Lessons:
    """Batches of sequences with the dense model's answers, window after window, without end.

    `teacher` gives the dense model's answers (T, B, V) to inputs (T, B, I) and the state to go on from, which it also takes;
    `widths` are the parts of V, one a consumer. With the task `softmax` answers are log-probabilities of each part, else
    what the teacher gives.
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
        self._pieces = [piece for group in calibration.sequences[lstm.name] for piece in self._cut(group)]
        steps = sum(piece.shape[0] * piece.shape[1] for piece in self._pieces)
        room = steps * sum(widths) <= MAX_ANSWERS
        self._answers: list[Tensor | None] = [self._all(piece) if room else None for piece in self._pieces]

    def windows(self) -> Iterator[tuple[Tensor, Tensor, bool]]:
        """Without end: inputs (T, B, I), the answers to them (T, B, V), and whether sequences begin here; if not, they go on
        where the window before ended. Each time they are cut elsewhere."""
        generator = torch.Generator().manual_seed(SEED)
        while True:
            batches = [
                (index, chosen)
                for index, piece in enumerate(self._pieces)
                for chosen in torch.randperm(len(piece), generator=generator).tensor_split(_batches(piece))
            ]
            for place in torch.randperm(len(batches), generator=generator).tolist():
                index, chosen = batches[place]
                inputs = self._inputs(self._pieces[index][chosen])
                kept, state = self._answers[index], None
                offset = int(torch.randint(self._steps, (1,), generator=generator)) if self._steps < len(inputs) else 0
                bounds = [0, *range(offset or self._steps, len(inputs), self._steps), len(inputs)]
                for first, last in pairwise(bounds):
                    if kept is None:
                        answers, state = self._answer(inputs[first:last], state)
                    else:
                        answers = kept[first:last, chosen]
                    yield inputs[first:last], answers.to(self._device), first == 0

    def loss(self, found: Tensor, wanted: Tensor) -> Tensor:
        return difference(found, wanted, self._widths)

    def _inputs(self, piece: Tensor) -> Tensor:
        return self._calibration.looked_up(piece, self._tensors).to(self._device).transpose(0, 1)

    def _cut(self, group: Tensor) -> tuple[Tensor, ...]:
        """Pieces of a group's sequences, so long that they still fill a batch: few long ones are read side by side."""
        longest = WINDOW if self._whole else max(WINDOW, math.ceil(group.shape[0] * group.shape[1] / BATCH))
        return tuple(piece for piece in group.split(longest, 1) if piece.shape[1] > 1)

    @torch.no_grad()
    def _answer(self, inputs: Tensor, state: Any) -> tuple[Tensor, Any]:
        found, state = self._teacher(inputs, state)
        if self._widths is None:
            return found, state
        return torch.cat([own.log_softmax(-1) for own in found.split(self._widths, -1)], -1), state

    def _all(self, piece: Tensor) -> Tensor:
        """The answers (T, N, V) to all sequences of a piece; log-probabilities need no more than half precision."""
        return torch.cat([self._of_batch(self._inputs(batch)) for batch in piece.split(BATCH)], 1)

    def _of_batch(self, inputs: Tensor) -> Tensor:
        found, state = [], None
        for window in inputs.split(len(inputs) if self._whole else WINDOW):
            answers, state = self._answer(window, state)
            found.append(answers.half() if self._widths else answers)
        return torch.cat(found)


def difference(found: Tensor, wanted: Tensor, widths: list[int] | None) -> Tensor:
    """How far what is found is from the answers (..., V): the divergence, in nats, of the parts of these widths, whose
    answers are log-probabilities; without widths the mean squared error over the mean square."""
    if widths is None:
        return F.mse_loss(found, wanted) / wanted.square().mean().clamp(min=torch.finfo(wanted.dtype).tiny)
    pairs = zip(found.split(widths, -1), wanted.float().split(widths, -1), strict=True)
    each = [F.kl_div(own.log_softmax(-1), answer, reduction="sum", log_target=True) for own, answer in pairs]
    return torch.stack(each).sum() / found[..., 0].numel()


def _batches(piece: Tensor) -> int:
    """Into how many batches of about one size its sequences go."""
    return math.ceil(len(piece) / BATCH)
