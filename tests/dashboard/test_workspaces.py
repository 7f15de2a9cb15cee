"""The workspaces of visitors: what is found under which secret, for how long, and for how many."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pruner.dashboard.growing import Growing, GrowingMap
from pruner.dashboard.jobs import Job
from pruner.dashboard.limits import Limits
from pruner.dashboard.pinned import Pinned
from pruner.dashboard.workspaces import Workspaces, same
from pruner.files.checkpoint import Checkpoint
from pruner.files.opening import open_checkpoint
from tests.helpers.files import saved
from tests.helpers.models import named, random_lstm
from tests.helpers.pages import endless, wait

USUAL = Limits()
IDLE = USUAL.idle_seconds


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    return open_checkpoint(saved(named(random_lstm())), "small.pt")


def room_for(size: int) -> Limits:
    """In bytes, where a server is given megabytes."""
    return Limits(model_megabytes=size / 2**20)


def keep(workspaces: Workspaces, secret: str, model: str, **values: Any) -> Any:
    return workspaces.join(secret, model, values, values)


def test_a_secret_finds_what_was_kept_under_it_and_no_other_does(clock: Clock) -> None:
    workspaces = Workspaces(USUAL, clock)
    keep(workspaces, "mine", "model", mark="mine")
    assert workspaces.find("mine", "model") == workspaces.find("mine", None) == "model"
    assert workspaces.find("mine", "other") is None
    assert workspaces.find("yours", "model") is workspaces.find("yours", None) is None
    assert keep(workspaces, "yours", "model", mark="yours") == {"mark": "yours"}
    assert keep(workspaces, "mine", "model", mark="new") == {"mark": "mine"}


@pytest.mark.parametrize("kind", [Growing, GrowingMap])
def test_what_grows_in_place_is_kept_from_its_begin(clock: Clock, kind: type[Any]) -> None:
    workspaces, before, begun = Workspaces(USUAL, clock), {"tried": kind()}, {"tried": kind()}
    workspaces.join("mine", "model", before, before)
    held = workspaces.join("mine", "model", begun, before)
    assert held["tried"] is begun["tried"]
    assert workspaces.join("mine", "model", begun, held)["tried"] is begun["tried"]


def test_without_a_name_the_model_that_was_used_last_is_found(clock: Clock) -> None:
    workspaces = Workspaces(USUAL, clock)
    keep(workspaces, "mine", "first")
    keep(workspaces, "mine", "second")
    keep(workspaces, "yours", "third")
    assert workspaces.find("mine", None) == "second"
    assert workspaces.find("mine", "first") == "first"
    assert workspaces.find("mine", None) == "first"
    workspaces.drop("mine", "first")
    workspaces.drop("mine", "never")
    assert workspaces.find("mine", None) == "second"


def test_what_is_not_used_for_an_hour_is_forgotten_and_stopped(clock: Clock) -> None:
    workspaces, idle, used = Workspaces(USUAL, clock), Job(endless), Job(endless)
    keep(workspaces, "mine", "idle", run=idle)
    keep(workspaces, "mine", "used", run=used)
    clock.now = IDLE - 1
    assert workspaces.find("mine", "used") == "used"
    workspaces.forget_idle()
    assert idle.status.state == "running"
    clock.now = IDLE
    workspaces.forget_idle()
    assert wait(idle).status.state == "cancelled"
    assert workspaces.find("mine", "idle") is None
    assert workspaces.find("mine", "used") == "used"
    assert used.status.state == "running"
    used.cancel()


def test_the_longest_unused_goes_when_there_are_too_many_and_what_it_runs_goes_on(clock: Clock) -> None:
    workspaces, job = Workspaces(Limits(models=2), clock), Job(endless)
    keep(workspaces, "a", "model", run=job)
    keep(workspaces, "b", "model")
    assert workspaces.find("a", None) == "model"  # used last now
    keep(workspaces, "c", "model")
    assert [workspaces.find(secret, None) for secret in "abc"] == ["model", None, "model"]
    keep(workspaces, "d", "model")
    assert [workspaces.find(secret, None) for secret in "abcd"] == [None, None, "model", "model"]
    assert job.status.state == "running"
    job.cancel()


def test_models_have_limited_room_each_file_counted_once(clock: Clock, checkpoint: Checkpoint) -> None:
    workspaces = Workspaces(room_for(2 * checkpoint.size), clock)
    other = open_checkpoint(bytes(checkpoint.source.data), "other.pt")
    keep(workspaces, "a", "model", checkpoint=checkpoint, pinned=Pinned("A", None, checkpoint))
    keep(workspaces, "b", "model", checkpoint=checkpoint)
    assert [workspaces.find(secret, None) for secret in "ab"] == ["model", "model"]
    keep(workspaces, "c", "model", checkpoint=checkpoint, pinned=Pinned("other", None, other))
    assert [workspaces.find(secret, None) for secret in "abc"] == [None, None, "model"]


def test_a_model_larger_than_all_room_is_not_kept_and_takes_nobody_elses(clock: Clock, checkpoint: Checkpoint) -> None:
    workspaces = Workspaces(room_for(checkpoint.size - 1), clock)
    keep(workspaces, "a", "small")
    keep(workspaces, "b", "large", checkpoint=checkpoint)
    assert [workspaces.find(secret, None) for secret in "ab"] == ["small", None]


def test_who_has_many_models_loses_the_one_they_used_least(clock: Clock) -> None:
    workspaces = Workspaces(Limits(models_a_visitor=2), clock)
    keep(workspaces, "b", "other")
    for model in ("first", "second", "third"):
        keep(workspaces, "a", model)
    assert [workspaces.find("a", model) for model in ("first", "second", "third")] == [None, "second", "third"]
    assert workspaces.find("b", None) == "other"


def test_two_tabs_come_to_hold_the_same(clock: Clock) -> None:
    workspaces = Workspaces(USUAL, clock)
    first = keep(workspaces, "mine", "model", x=1, y=1)
    assert workspaces.join("mine", "model", {"x": 2, "y": 1}, first) == {"x": 2, "y": 1}
    # The other tab has not heard of it yet, and has changed something else.
    assert workspaces.join("mine", "model", {"x": 1, "y": 3}, first) == {"x": 2, "y": 3}
    # What both have changed is as the last one says.
    assert workspaces.join("mine", "model", {"x": 4, "y": 1}, first) == {"x": 4, "y": 3}


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        (1, 1, True),
        (1, 2, False),
        (1, True, False),
        ("a", "".join(["a"]), True),
        (None, None, True),
        (None, [], False),
        ([1, {"a": (2.0,)}], [1, {"a": (2.0,)}], True),
        ([1], [1, 2], False),
        ({"a": 1}, {"b": 1}, False),
        ((1,), [1], False),
        (object(), object(), False),
    ],
)
def test_plain_values_are_compared(one: Any, other: Any, expected: bool) -> None:
    assert same(one, other) is expected


def test_other_objects_are_only_told_apart() -> None:
    """Two results may hold tensors, of which nobody can say in one word whether they are equal."""

    class Result:
        def __eq__(self, other: object) -> bool:
            raise AssertionError("compared")

        __hash__ = None  # type: ignore[assignment]

    one, other = Result(), Result()
    assert same([one], [one]) and not same([one], [other])


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["join", "find", "drop", "wait"]),
        st.sampled_from(["a", "b", "c"]),
        st.sampled_from(["one", "two"]),
        st.integers(0, 2),
    ),
    max_size=40,
)


@given(STEPS)
def test_whatever_happens_nobody_gets_what_is_anothers_or_too_old(steps: list[tuple[str, str, str, int]]) -> None:
    clock = Clock()
    workspaces, used = Workspaces(Limits(models=3), clock), dict[tuple[str, str], float]()
    for what, secret, model, number in steps:
        if what == "wait":
            clock.now += number * IDLE / 3
        elif what == "drop":
            workspaces.drop(secret, model)
            used.pop((secret, model), None)
        elif what == "find":
            found = workspaces.find(secret, model if number else None)
            assert found is None or clock.now - used[secret, found] < IDLE
            if found is not None:
                used[secret, found] = clock.now
        else:
            values = workspaces.join(secret, model, {"mark": (secret, model)}, {"mark": (secret, model)})
            assert values == {"mark": (secret, model)}
            used[secret, model] = clock.now
            assert workspaces.find(secret, None) == model
            held = [key for key in used if clock.now - used[key] < IDLE and workspaces.find(*key)]
            assert (secret, model) in held and len(held) <= 3
            used |= dict.fromkeys(held, clock.now)
