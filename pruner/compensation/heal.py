"""Train what is left of a pruned LSTM to answer as the dense one does, without labels.

Distillation (Hinton, Vinyals & Dean 2015, "Distilling the knowledge in a neural network") at temperature 1, from the
dense model to itself with units or rows removed. It begins from the fold: from weights that nothing was done to it takes
many times as long.
"""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor, nn

from pruner.progress import Progress
from pruner.recipe import Recipe

RATE, RATE_WITHOUT_CONSUMERS = 8e-3, 1e-3
BETAS, DECAY, NORM, WARM_UP = (0.9, 0.99), 0.03, 1.0, 0.05
LOOKS = (0.2, 0.4, 0.6, 0.75, 0.85, 0.95, 1.0)  # shares of the budget after which what is held back is looked at
WATCHED = (0.03, 0.06, *(step / 10 for step in range(1, 10)), 1.0)  # where somebody watches: most happens early


@dataclass(frozen=True)
class Budget:
    """How long to heal: so many seconds, or so many updates, which give the same numbers on every run; and the shares of it
    after which what is held back is looked at."""

    seconds: float = 60.0
    updates: int | None = None
    looks: tuple[float, ...] = LOOKS

    @classmethod
    def of(cls, recipe: Recipe, lstms: int) -> "Budget":
        """The budget of one of so many LSTMs of a recipe, which share its seconds; its updates are those of each."""
        return cls(recipe.budget / lstms, recipe.steps)

    def spent(self, started: float, done: int) -> float:
        """The share of the budget that is gone, 0 to 1."""
        if self.updates is not None:
            return min(1.0, done / self.updates)
        return min(1.0, (time.monotonic() - started) / self.seconds)


Left = TypeVar("Left")  # what is left of an LSTM and its consumers, or of several
LeftCo = TypeVar("LeftCo", covariant=True)


class Learner(Protocol[LeftCo]):
    """What trains: see `student.Student`."""

    weights: nn.ParameterList  # of its consumers

    def __call__(self, inputs: Any, state: Any) -> tuple[Any, Any]: ...

    def parameters(self) -> Iterator[nn.Parameter]: ...

    def shrunk(self) -> LeftCo: ...


class Teacher(Protocol):
    """What it learns from: see `lessons.Lessons`."""

    def windows(self) -> Iterator[tuple[Any, Any, bool]]: ...

    def loss(self, found: Any, wanted: Any) -> Tensor: ...


@dataclass(frozen=True)
class Healed(Generic[Left]):
    """What is left after healing, with the seconds and updates it took, the losses on what was held back (before, then at
    each look) and whether it was stopped early."""

    shrunk: Left
    seconds: float
    updates: int
    losses: list[float]
    stopped: bool


def heal(
    student: Learner[Left],
    lessons: Teacher,
    loss_of: Callable[[Left], float],
    budget: Budget,
    progress: Progress,
    title: str,
) -> Healed[Left]:
    """Train a student on its lessons, and return the best of it that was seen by `loss_of`, on what is held back.

    AdamW (Loshchilov & Hutter 2019, "Decoupled weight decay regularization") with a warm-up and a cosine
    down to zero over the budget. `progress` may return True: what was reached is then kept. Where nothing betters the
    start, the start is what is returned.
    """
    trained = [parameter for parameter in student.parameters() if parameter.requires_grad]
    rate = RATE if len(student.weights) else RATE_WITHOUT_CONSUMERS
    optimizer = torch.optim.AdamW(trained, rate, BETAS, weight_decay=DECAY)
    reached = _Reached(student.shrunk(), loss_of)
    started, done, looks, state, stopped = time.monotonic(), 0, list(budget.looks), None, False
    for inputs, answers, begins in lessons.windows():
        spent = budget.spent(started, done)
        if done and spent >= looks[0]:
            looks = [look for look in looks if look > spent]
            reached.look(student.shrunk())
        stopped = bool(
            progress(spent, f"Healing {title}: loss {reached.losses[-1]:.4g}, at first {reached.losses[0]:.4g}")
        )
        if stopped or spent >= 1:
            break
        for group in optimizer.param_groups:
            group["lr"] = rate * _schedule(spent)
        found, state = student(inputs, None if begins else state)
        optimizer.zero_grad()
        lessons.loss(found, answers).backward()
        torch.nn.utils.clip_grad_norm_(trained, NORM)
        optimizer.step()
        state = [(h.detach(), c.detach()) for h, c in state]
        done += 1
    if stopped and done:
        reached.look(student.shrunk())
    return Healed(reached.best, time.monotonic() - started, done, reached.losses, stopped)


def _schedule(spent: float) -> float:
    """The share of the learning rate that is used when this share of the budget is gone."""
    if spent < WARM_UP:
        return max(spent / WARM_UP, 0.02)
    return (1 + math.cos(math.pi * (spent - WARM_UP) / (1 - WARM_UP))) / 2


@dataclass
class _Reached(Generic[Left]):
    """The best that was seen on what is held back, with all losses that were."""

    best: Left
    loss_of: Callable[[Left], float]
    losses: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.losses.append(self.loss_of(self.best))

    def look(self, now: Left) -> None:
        loss = self.loss_of(now)
        if loss < min(self.losses):
            self.best = now
        self.losses.append(loss)
