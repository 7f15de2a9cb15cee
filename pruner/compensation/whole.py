"""Healing inside a model that calls its LSTMs itself: lessons, judge and students for any forward pass.

The forward pass stands in for "LSTM, then consumers". It is given whole batches, those that were observed in a model or the
calibration inputs as they are, and calls the LSTMs as `nn.LSTM`s with `batch_first`, from a zero state or its own.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pruner.calibration.calibration import Calibration
from pruner.compensation.fold import Shrunk
from pruner.compensation.judge import HELD_BACK_STEPS
from pruner.compensation.lessons import MAX_ANSWERS, SEED, difference
from pruner.compensation.student import Student
from pruner.errors import PrunerError
from pruner.files.checkpoint import Checkpoint
from pruner.lstm.lstm import LSTM
from pruner.lstm.measure import ForwardPass
from pruner.lstm.module import build

BATCH = 32  # sequences read side by side


class Model:
    """A forward pass with what it needs but the LSTMs that are healed, tensors of the checkpoint and its other LSTMs, and
    what these gave before: a teacher for each of `lstms`."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        lstms: Sequence[LSTM],
        teachers: Sequence[Student],
        forward: ForwardPass,
        device: str,
    ) -> None:
        self._forward, self._device = forward, device
        self._tensors = {name: tensor.to(device) for name, tensor in checkpoint.tensors.items()}
        self._lstms, self._teachers = lstms, teachers
        healed = {lstm.name for lstm in lstms}
        self._others = {
            each.name: build(each, self._tensors, device) for each in checkpoint.lstms if each.name not in healed
        }

    def answers(self, students: Sequence[Student], batch: Any) -> list[Tensor]:
        """What the forward pass gives with students in place of its LSTMs and of the consumers trained with them."""
        tensors, lstms = dict(self._tensors), dict[str, Callable[..., Any]](self._others)
        for lstm, student in zip(self._lstms, students, strict=True):
            tensors |= student.trained(self._tensors)
            lstms[lstm.name] = student.called
        return self._forward(tensors, lstms, batch.to(self._device) if isinstance(batch, Tensor) else batch)

    @torch.no_grad()
    def wanted(self, batch: Any) -> list[Tensor]:
        """The dense model's answers; with the task softmax as log-probabilities."""
        answers = self.answers(self._teachers, batch)
        return [each.log_softmax(-1) for each in answers] if self._forward.task == "softmax" else answers

    def loss(self, found: Sequence[Tensor], wanted: Sequence[Tensor]) -> Tensor:
        """How far all answers are from the dense model's, together."""
        by_task = self._forward.task == "softmax"
        losses = [
            difference(one, other.to(one), [other.shape[-1]] if by_task else None)
            for one, other in zip(found, wanted, strict=True)
        ]
        return torch.stack([loss.float() for loss in losses]).sum()


class Whole(nn.Module):
    """Students inside a model, which train like one: `heal.heal` gives it batches and no state."""

    def __init__(self, students: Sequence[Student], model: Model) -> None:
        super().__init__()
        self.students, self._model = nn.ModuleList(students), model
        self._all = list(students)
        self.weights = nn.ParameterList(weight for student in students for weight in student.weights)

    def forward(self, batch: Any, state: Any = None) -> tuple[list[Tensor], list[Any]]:
        answers = self._model.answers(self._all, batch)
        if not any(each.requires_grad for each in answers):
            raise PrunerError(
                "expected a forward pass through which gradients come back, found none in its answers; take torch.no_grad() "
                "and detach() out of it"
            )
        return answers, []

    def shrunk(self) -> list[Shrunk]:
        """What is left of each LSTM, as it is trained so far."""
        return [student.shrunk() for student in self._all]


class Batches:
    """Batches of the calibration with the dense model's answers, in an order of their own, without end."""

    def __init__(self, model: Model, calibration: Calibration, lstm: LSTM) -> None:
        self._model, self._calibration, self._lstm = model, calibration, lstm
        self._answers: dict[int, list[Tensor]] = {}  # to the batches that were observed
        self._room = MAX_ANSWERS

    def windows(self) -> Iterator[tuple[Any, list[Tensor], bool]]:
        """Batches as the calibration has them, the answers to them, and that sequences begin here."""
        generator = torch.Generator().manual_seed(SEED)
        while True:
            batches = self._drawn(generator)
            for place in torch.randperm(len(batches), generator=generator).tolist():
                yield batches[place], self._wanted(place, batches[place]), True

    def loss(self, found: Sequence[Tensor], wanted: Sequence[Tensor]) -> Tensor:
        return self._model.loss(found, wanted)

    def _drawn(self, generator: torch.Generator) -> list[Any]:
        """Those that were observed, else the sequences in batches that are others each time."""
        if self._calibration.batches is not None:
            return list(self._calibration.batches)
        return [
            group[chosen]
            for group in self._calibration.sequences[self._lstm.name]
            for chosen in torch.randperm(len(group), generator=generator).split(BATCH)
        ]

    def _wanted(self, place: int, batch: Any) -> list[Tensor]:
        """The answers to a batch, which are kept where it comes again and there is room."""
        if place in self._answers:
            return self._answers[place]
        wanted = self._model.wanted(batch)
        numbers = sum(each.numel() for each in wanted)
        if self._calibration.batches is not None and numbers <= self._room:
            self._answers[place] = wanted
            self._room -= numbers
        return wanted


def judge(
    model: Model, lstm: LSTM, students_of: Sequence[Callable[[Shrunk], Student]], held_back: Calibration
) -> Callable[[Sequence[Shrunk]], float]:
    """The loss of what is left of LSTMs, made students one by one, on batches that were held back (of one `lstm`, where they
    are not whole ones); infinite where it is not a number."""
    batches, wanted, steps = list[Any](), list[list[Tensor]](), 0
    for batch in held_back.read_by_models(lstm, BATCH):
        if steps < HELD_BACK_STEPS:
            batches.append(batch)
            wanted.append(model.wanted(batch))
            steps += _answered(wanted[-1])

    @torch.no_grad()
    def loss(shrunk: Sequence[Shrunk]) -> float:
        students = [student_of(each) for student_of, each in zip(students_of, shrunk, strict=True)]
        losses = [
            float(model.loss(model.answers(students, batch), answers)) * _answered(answers)
            for batch, answers in zip(batches, wanted, strict=True)
        ]
        total = sum(losses) / sum(map(_answered, wanted))
        return total if total == total else float("inf")

    return loss


def _answered(answers: Sequence[Tensor]) -> int:
    """How many steps or sequences are answered."""
    return max(each.numel() // each.shape[-1] for each in answers)
