"""The limits of a server, as its environment sets them."""

from dataclasses import fields

import pytest

from pruner import PrunerError
from pruner.dashboard.limits import Limits, limits_of


def test_without_a_word_the_limits_are_safe_ones() -> None:
    found = limits_of({"PATH": "/bin"})
    assert found == Limits() and all(getattr(found, field.name) >= 1 for field in fields(found))


@pytest.mark.parametrize("field", fields(Limits), ids=lambda field: field.name)
def test_each_can_be_set(field: object) -> None:
    name = field.name  # type: ignore[attr-defined]
    found = limits_of({f"PRUNER_{name.upper()}": " 17 "})
    assert getattr(found, name) == 17
    assert all(
        getattr(found, other.name) == getattr(Limits(), other.name) for other in fields(Limits) if other is not field
    )


@pytest.mark.parametrize("told", ["", "0", "-1", "1.5", "two", "1e3", "²"])
def test_what_is_no_number_is_refused(told: str) -> None:
    with pytest.raises(PrunerError, match="expected a whole number from 1 on in PRUNER_WORKERS, found"):
        limits_of({"PRUNER_WORKERS": told})
