"""Healing inside a model that calls its LSTMs itself: lessons, judge and student for any forward pass.

The forward pass stands in for "LSTM, then consumers". It is given whole batches of the calibration inputs as they are, token
ids or numbers, and calls the LSTMs as `nn.LSTM`s with `batch_first`, from a zero state or its own.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from pruner.calibration.calibration import Calibration
from pruner.compensation.fold import Shrunk
from pruner.compensation.judge import HELD_BACK_STEPS
from pruner.compensation.lessons import SEED, difference
from pruner.compensation.student import Student
from pruner.files.checkpoint import Checkpoint
from pruner.lstm.kept import Kept, consumer_part
from pruner.lstm.lstm import LSTM
from pruner.lstm.measure import Forward
from pruner.lstm.module import build

BATCH = 32  # sequences read side by side


@dataclass(frozen=True)
class Model:
    """A forward pass with what it needs but the LSTM that is healed: tensors of the checkpoint and its other LSTMs."""

    forward: Forward
    tensors: Mapping[str, Tensor]
    others: Mapping[str, nn.Module]
    lstm: LSTM
    task: str | None

    @classmethod
    def of(cls, checkpoint: Checkpoint, lstm: LSTM, forward: Forward, task: str | None, device: str) -> "Model":
        tensors = {name: tensor.to(device) for name, tensor in checkpoint.tensors.items()}
        others = [each for each in checkpoint.lstms if each.name != lstm.name]
        return cls(forward, tensors, {each.name: build(each, tensors, device) for each in others}, lstm, task)

    def answers(self, student: Student, kept: Kept | None, batch: Tensor) -> Tensor:
        """What the forward pass gives with a student in place of its LSTM and of the consumers that are trained with it."""
        part = consumer_part(self.lstm, kept) if kept is not None else None
        trained = {
            name: tensor if part is None or tensor.dim() < 2 else part.widen(tensor, self.tensors[name].shape)
            for name, tensor in student.trained().items()
        }
        lstms: dict[str, Callable[..., Any]] = {**self.others, self.lstm.name: student.called}
        return self.forward({**self.tensors, **trained}, lstms, batch)

    def loss(self, found: Tensor, wanted: Tensor) -> Tensor:
        return difference(found, wanted, [wanted.shape[-1]] if self.task == "softmax" else None)

    def wanted(self, teacher: Student, batch: Tensor) -> Tensor:
        with torch.no_grad():
            answers = self.answers(teacher, None, batch)
        return answers.log_softmax(-1) if self.task == "softmax" else answers


class Whole(nn.Module):
    """A student inside a model, which trains like a student: `heal.heal` gives it batches and no state."""

    def __init__(self, student: Student, model: Model, kept: Kept | None) -> None:
        super().__init__()
        self.student, self._answers = student, partial(model.answers, student, kept)
        self.weights, self.shrunk = student.weights, student.shrunk

    def forward(self, batch: Tensor, state: Any = None) -> tuple[Tensor, list[Any]]:
        return self._answers(batch), []


class Batches:
    """Batches of the calibration inputs with the dense model's answers, in an order of their own, without end."""

    def __init__(self, model: Model, teacher: Student, calibration: Calibration, device: str) -> None:
        self._model, self._teacher, self._device = model, teacher, device
        self._groups = calibration.sequences[model.lstm.name]

    def windows(self) -> Iterator[tuple[Tensor, Tensor, bool]]:
        """Inputs (B, T, ...) as the calibration has them, the answers to them, and that sequences begin here."""
        generator = torch.Generator().manual_seed(SEED)
        while True:
            batches = [
                group[chosen]
                for group in self._groups
                for chosen in torch.randperm(len(group), generator=generator).split(BATCH)
            ]
            for place in torch.randperm(len(batches), generator=generator).tolist():
                batch = batches[place].to(self._device)
                yield batch, self._model.wanted(self._teacher, batch), True

    def loss(self, found: Tensor, wanted: Tensor) -> Tensor:
        return self._model.loss(found, wanted)


def judge(
    model: Model,
    teacher: Student,
    student_of: Callable[[Shrunk], Student],
    kept: Kept | None,
    held_back: Calibration,
    device: str,
) -> Callable[[Shrunk], float]:
    """The loss of what is left of an LSTM on inputs that were held back; infinite where it is not a number."""
    batches, steps = list[Tensor](), 0
    for group in held_back.sequences[model.lstm.name]:
        for batch in group.split(BATCH):
            if steps < HELD_BACK_STEPS:
                batches.append(batch.to(device))
                steps += batch.shape[0] * batch.shape[1]
    wanted = [model.wanted(teacher, batch) for batch in batches]

    @torch.no_grad()
    def loss(shrunk: Shrunk) -> float:
        student = student_of(shrunk)
        losses = [
            float(model.loss(model.answers(student, kept, batch), answers)) * len(batch)
            for batch, answers in zip(batches, wanted, strict=True)
        ]
        total = sum(losses) / sum(map(len, batches))
        return total if total == total else float("inf")

    return loss
