"""The benchmark of many visitors: that it finds what is another's."""

import struct

import pytest

from benchmarks.visitors import MARK, Heard, Visitor


@pytest.fixture
def visitors() -> list[Visitor]:
    heard = Heard()
    return [Visitor(number, heard) for number in (1, 2)]


@pytest.mark.parametrize(
    "told",
    [
        lambda other: f"the file {other.name}.safetensors".encode(),
        lambda other: f"?granularity=units&seed={other.seed}&unit=3".encode(),
        lambda other: b"\x00\x01" + struct.pack("<2f", MARK, other.mark) + b"\x02",
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
