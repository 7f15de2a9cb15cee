"""How long shrinking is said to take."""

from unittest.mock import Mock

import pytest

from pruner import Recipe
from pruner.dashboard.lasting import ASIDE, Lasting, Search
from pruner.search.candidates import Candidate, Target

SIZE = Target(None, "macs", 0.5)


def tried_for(budget: float) -> Candidate:
    """One of which nothing matters but how long it may have healed."""
    return Mock(spec=Candidate, recipe=Recipe(budget=budget))


@pytest.mark.parametrize(
    ("target", "at_once", "least", "healed", "turns"),
    [
        (Target(), 1, 4 * 15 + 2 * 100, 4 * 15 + 6 * 100, 10),
        (Target(), 2, 2 * 15 + 100, 2 * 15 + 3 * 100, 5),
        (Target(), 3, 2 * 15 + 100, 2 * 15 + 3 * 100, 5),
        (Target(), 16, 15 + 100, 15 + 3 * 100, 4),
        (SIZE, 1, 2 * 100, 2 * 100, 2),
        (SIZE, 2, 100, 100, 1),
    ],
)
def test_brief_healings_come_first_then_rounds_of_whole_ones_side_by_side(
    target: Target, at_once: int, least: float, healed: float, turns: int
) -> None:
    found = Search(target, 100, at_once).lasts
    assert (found.least, found.most) == pytest.approx((least, healed + (1 + turns) * ASIDE))


@pytest.mark.parametrize(
    ("least", "most", "told"),
    [
        (3, 8, "about 10 s"),
        (22, 41, "about 20 to 40 s"),
        (39, 159, "about 40 s to 2½ min"),
        (58, 62, "about 1 min"),
        (78, 258, "about 1½ to 4½ min"),
        (390, 1050, "about 6½ to 18 min"),
    ],
)
def test_a_range_is_told_no_finer_than_it_is_known(least: float, most: float, told: str) -> None:
    assert str(Lasting(least, most)) == told


@pytest.mark.parametrize(
    ("seconds", "brief", "whole", "told"),
    [
        (9.4, 0, 0, "9 s so far, about 1 to 4 min to go."),
        (30, 4, 0, "30 s so far, about 50 s to 4 min to go."),
        (100, 4, 2, "1 min 40 s so far, up to about 2½ min to go."),
        (170, 4, 4, "2 min 50 s so far, up to about 1½ min to go."),
        (500, 1, 0, "8 min 20 s so far, about 1 to 4 min to go."),  # on busy cores no less than what is not begun
        (500, 4, 1, "8 min 20 s so far, up to about 2½ min to go."),
        (600, 4, 4, "10 min 0 s so far, longer than expected: the model is large, or other work shares the cores."),
    ],
)
def test_what_is_to_come_grows_less(seconds: float, brief: int, whole: int, told: str) -> None:
    tried = [tried_for(9)] * brief + [tried_for(60)] * whole
    assert Search(Target(), 60, 2).after(seconds, tried) == told
