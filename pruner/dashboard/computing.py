"""How pages begin heavy work of their visitor."""

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from pruner.dashboard.jobs import Job
from pruner.dashboard.queueing import queue
from pruner.dashboard.session import session
from pruner.progress import Progress

Made = TypeVar("Made")


def begin(work: Callable[[Progress], Made]) -> Job[Made]:
    """A job that computes in a worker of its own when this visitor's turn comes. `work` must pickle: a function of a module,
    with what it is to be called with."""
    return begin_seen(partial(_unseen, work), lambda found: None)


def begin_seen(work: Callable[[Callable[[Any], object], Progress], Made], seen: Callable[[Any], object]) -> Job[Made]:
    """The same of `work(seen, progress)`; what it shows on its way is `seen` here, in the thread of the job."""
    return Job(partial(queue().compute, session.secret, work, seen))


def _unseen(work: Callable[[Progress], Made], seen: Callable[[Any], object], progress: Progress) -> Made:
    return work(progress)
