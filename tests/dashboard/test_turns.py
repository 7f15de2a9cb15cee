"""Who computes next, and who stands where in the line, without any process."""

from hypothesis import given
from hypothesis import strategies as st

from pruner.dashboard.turns import Turn, Turns


def order(turns: Turns, waiting: list[Turn]) -> list[int]:
    """Which of those that wait begin, one after the other, as the one before ends."""
    found: list[int] = []
    while len(found) < len(waiting):
        (begun,) = [each for each in waiting if each.began.is_set() and not each.ended]
        found.append(waiting.index(begun))
        begun.end()
    return found


def test_as_many_begin_as_there_are_workers_and_the_next_one_as_one_ends() -> None:
    began: list[str] = []
    turns = Turns(2)
    asked = [turns.ask(visitor, lambda visitor=visitor: began.append(visitor)) for visitor in "abcd"]
    assert began == ["a", "b"] and [turn.place for turn in asked] == [0, 0, 1, 2]
    asked[1].end()
    assert began == ["a", "b", "c"] and [turn.place for turn in asked] == [0, 0, 0, 1]
    asked[1].end()  # twice is once
    assert began == ["a", "b", "c"]


def test_who_asks_for_much_does_not_keep_others_waiting() -> None:
    turns = Turns(1)
    first = turns.ask("other")
    waiting = [turns.ask(visitor) for visitor in ("much", "much", "much", "little", "some", "some")]
    assert [turn.place for turn in waiting] == [1, 4, 6, 2, 3, 5]
    first.end()
    assert order(turns, waiting) == [0, 3, 4, 1, 5, 2]


def test_who_has_just_had_a_turn_goes_behind_those_who_wait() -> None:
    turns = Turns(1)
    first, waits = turns.ask("a"), turns.ask("b")
    again = turns.ask("a")
    first.end()
    assert waits.began.is_set() and again.place == 1


def test_who_waits_no_longer_leaves_the_line_and_takes_no_place() -> None:
    turns = Turns(1)
    first = turns.ask("a")
    waiting = [turns.ask(visitor) for visitor in "bcbd"]
    waiting[0].end()
    waiting[1].end()
    assert [turn.place for turn in waiting] == [0, 0, 1, 2]
    first.end()
    assert [turn.began.is_set() for turn in waiting] == [False, False, True, False]
    waiting[2].end()
    waiting[3].end()
    assert turns.ask("e").began.is_set()


STEPS = st.lists(st.tuples(st.sampled_from(["ask", "end"]), st.sampled_from("abc"), st.integers(0, 9)), max_size=60)


@given(STEPS, st.integers(1, 3))
def test_whatever_happens_workers_are_used_and_places_tell_who_is_next(
    steps: list[tuple[str, str, int]], workers: int
) -> None:
    turns, present = Turns(workers), list[Turn]()
    for what, visitor, which in steps:
        if what == "ask":
            present.append(turns.ask(visitor))
        elif present:
            waiting = {turn.place: turn for turn in present if turn.place}
            ended = present.pop(which % len(present))
            computed = ended.place == 0
            ended.end()
            assert not waiting or not computed or waiting[1].began.is_set()
        begun = [turn for turn in present if turn.began.is_set()]
        assert len(begun) == min(workers, len(present))
        assert sorted(turn.place for turn in present) == [0] * len(begun) + [*range(1, len(present) - len(begun) + 1)]


@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=12))
def test_places_are_the_order_in_which_they_begin(visitors: list[str]) -> None:
    turns = Turns(1)
    first = turns.ask("first")
    waiting = [turns.ask(visitor) for visitor in visitors]
    expected = sorted(range(len(waiting)), key=lambda index: waiting[index].place)
    first.end()
    assert order(turns, waiting) == expected
