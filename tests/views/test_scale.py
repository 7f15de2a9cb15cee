"""One scale for all views of a model."""

import numpy as np
import pytest

from pruner.views.scale import Scale

BLOCKS = np.array([[0.0, 1.0, 2.0]] * 3 + [[0.0, 1.0, 8.0]] + [[2.0, 4.0, 6.0]] * 4)  # the first four of one weight


@pytest.mark.parametrize(
    ("scale", "first", "fourth", "last"),
    [
        (Scale(shared=True, clipped=False), (0, 8), (0, 8), (2, 6)),
        (Scale(shared=False, clipped=False), (0, 2), (0, 8), (2, 6)),
        (Scale(relative=True, shared=True, clipped=False), (0, 8), (0, 8), (0.5, 1.5)),
        (Scale(relative=True, shared=False, clipped=False), (0, 2), (0, 8), (0.5, 1.5)),
    ],
)
def test_gates_of_one_weight_share_a_scale_or_have_their_own(
    scale: Scale, first: tuple[float, float], fourth: tuple[float, float], last: tuple[float, float]
) -> None:
    ranges = scale.ranges(scale.taken(BLOCKS))
    assert len(ranges) == 8
    assert (ranges[0], ranges[3], ranges[7]) == (pytest.approx(first), pytest.approx(fourth), pytest.approx(last))


def test_an_outlier_does_not_flatten_a_clipped_scale() -> None:
    blocks = np.tile(np.linspace(0, 1, 1000), (8, 1))
    blocks[:, -1] = 100
    assert Scale(clipped=True).ranges(blocks)[0][1] < 1.01
    assert Scale(clipped=False).ranges(blocks)[0][1] == 100


def test_a_block_of_zeros_has_a_relative_scale() -> None:
    assert Scale(relative=True).taken(np.zeros((8, 3))).tolist() == np.zeros((8, 3)).tolist()
