"""Times in turns, from clocks that tell what a test wants: no test here depends on how fast anything is."""

import random
from collections.abc import Callable

import pytest

from pruner.lstm.timing import PARTS, PATIENCE, TOO_NOISY, in_turns, in_words, times_as_fast, typical

Times = tuple[
    list[float], list[float]
]  # of a base, and of another that is three times as fast where nothing disturbs it


class Clock:
    """A clock that calls move on."""

    def __init__(self) -> None:
        self.now = 0.0
        self.called: list[str] = []

    def __call__(self) -> float:
        return self.now

    def call(self, name: str, *takes: float) -> Callable[[], None]:
        """A call that takes so many seconds, the last of them from then on."""
        left = list(takes)

        def run() -> None:
            self.called.append(name)
            self.now += left.pop(0) if len(left) > 1 else left[0]

        return run


def test_calls_come_in_turns_and_the_first_of_each_two_does_not_count() -> None:
    clock = Clock()
    calls = {"a": clock.call("a", 9, 5, 1), "b": clock.call("b", 9, 5, 2, 5, 3)}
    assert in_turns(calls, 100, most=2, clock=clock) == {"a": [1, 1], "b": [2, 3]}
    assert clock.called == list("ab" + "aabb" * 2)


@pytest.mark.parametrize(
    ("takes", "seconds", "turns"),
    [(1, 20, 10), (1, 5, PARTS), (1, 0.1, 1), (10, 5, 1), (5, 2 * 5 * PARTS / PATIENCE, PARTS)],
    ids=["until the time is up", "but some turns", "unless they take much longer", "never none", "just not too long"],
)
def test_turns_fill_the_time(takes: float, seconds: float, turns: int) -> None:
    clock = Clock()
    assert len(in_turns({"a": clock.call("a", takes)}, seconds, clock=clock)["a"]) == turns


@pytest.mark.parametrize(
    ("times", "expected"),
    [([3], 3), ([5, 1, 9], 1), ([8, 7, 6, 5, 4, 3, 2, 1], 1.5), (list(range(1, 13)), 2)],
    ids=str,
)
def test_the_median_of_the_lowest_quarter_is_typical(times: list[float], expected: float) -> None:
    assert typical(times) == expected


def pairs(turns: int, disturbed: Callable[[float], tuple[float, float]]) -> Times:
    """Times of which each is disturbed by a factor, which is told from how much of the time has gone by."""
    factors = [disturbed(turn / turns) for turn in range(turns)]
    return [3 * one for one, _ in factors], [another for _, another in factors]


def wobbling(share: float) -> tuple[float, float]:
    return DICE.uniform(1, 1.06), DICE.uniform(1, 1.06)


def slowing_down(share: float) -> tuple[float, float]:
    return tuple((1 + share) * each for each in wobbling(share))  # type: ignore[return-value]


def now_and_then_busy(share: float) -> tuple[float, float]:
    return tuple(each * DICE.choice([1] * 5 + [4]) for each in wobbling(share))  # type: ignore[return-value]


def busy(share: float) -> tuple[float, float]:
    return DICE.lognormvariate(0, 0.8), DICE.lognormvariate(0, 0.8)


def shared(share: float) -> tuple[float, float]:
    """Where threads wait for each other on a core that is busy, most of the time."""
    return 1 + DICE.choice([0, 1, 1, 1]) * DICE.uniform(1, 20), 1


def slower_and_slower(share: float) -> tuple[float, float]:
    return 1 + share, 1


def suddenly_slower(share: float) -> tuple[float, float]:
    return 1, 1 if share < 0.5 else 1.5


DICE = random.Random(0)


@pytest.mark.parametrize("turns", [PARTS, 16, 300])
@pytest.mark.parametrize("machine", [wobbling, slowing_down], ids=lambda each: each.__name__)
def test_a_quiet_machine_and_one_that_slows_down_for_all_give_a_figure(
    machine: Callable[[float], tuple[float, float]], turns: int
) -> None:
    for _ in range(20):
        assert times_as_fast(*pairs(turns, machine)) == pytest.approx(3, rel=0.15)


def test_a_machine_that_is_busy_now_and_then_does_so_too() -> None:
    assert times_as_fast(*pairs(60, now_and_then_busy)) == pytest.approx(3, rel=0.1)


@pytest.mark.parametrize("turns", [16, 300])
@pytest.mark.parametrize("machine", [busy, shared, slower_and_slower, suddenly_slower], ids=lambda each: each.__name__)
def test_a_machine_that_disturbs_most_turns_or_one_of_two_gives_none(
    machine: Callable[[float], tuple[float, float]], turns: int
) -> None:
    for _ in range(20):
        found = times_as_fast(*pairs(turns, machine))
        assert found is None or (machine is shared and found == pytest.approx(3, rel=0.1))


def test_few_turns_give_no_figure() -> None:
    few = [1.0] * (PARTS - 1)
    assert times_as_fast(few, few) is None
    assert times_as_fast([*few, 1.0], [*few, 1.0]) == 1


@pytest.mark.parametrize(
    ("figure", "words"),
    [(None, TOO_NOISY), (0.66, "0.7×"), (1.0, "1.0×"), (9.94, "9.9×"), (9.96, "10×"), (23.4, "23×")],
)
def test_figures_in_words_are_as_exact_as_they_are_sure(figure: float | None, words: str) -> None:
    assert in_words(figure) == words
