"""The benchmark of many visitors: that it finds what is another's, and, in small, that there is nothing to find."""

import pytest
import torch

from benchmarks.visitors import Heard, Visitor, main


@pytest.fixture
def visitors() -> list[Visitor]:
    heard = Heard()
    return [Visitor(number, heard) for number in (1, 2)]


@pytest.mark.parametrize(
    "told",
    [
        lambda other: f"the file {other.name}.safetensors".encode(),
        lambda other: f"?granularity=units&seed={other.seed}&unit=3".encode(),
        lambda other: b"\x00\x01" + other.numbers + b"\x02",
        lambda other: other.file,
    ],
    ids=["name", "recipe", "numbers", "bytes"],
)
def test_what_is_anothers_is_found_and_ones_own_is_not(visitors: list[Visitor], told: object) -> None:
    mine, other = visitors
    mine.hear(told(mine))  # type: ignore[operator]
    assert mine.heard.leaks == []
    mine.hear(told(other))  # type: ignore[operator]
    assert mine.heard.leaks and all(f"{mine.name} received" in leak for leak in mine.heard.leaks)
    assert mine.heard.messages == 2


def test_few_visitors_meet_no_error_and_nothing_of_each_other(capsys: pytest.CaptureFixture[str]) -> None:
    state = torch.get_rng_state()
    assert main(["--quick"]) == 0, capsys.readouterr().out
    torch.set_rng_state(state)
    assert capsys.readouterr().out.count("holds") == 2
