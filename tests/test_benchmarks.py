"""What benchmarks tell: a value beside its target, and whether it holds."""

import json
import sys
from pathlib import Path

import pytest

from benchmarks import __main__ as together
from benchmarks.rows import Row, Unavailable


@pytest.mark.parametrize(
    ("row", "holds", "told"),
    [
        (Row("a", 1.5, 2.0), True, "holds"),
        (Row("a", 2.5, 2.0), False, "FALLS SHORT"),
        (Row("a", 2.5, 2.0, at_least=True), True, "at least 2"),
        (Row("a", None, 2.0), None, "too noisy"),
        (Row("a", 2.5, None, "s"), None, "2.5 s"),
    ],
)
def test_a_row_says_whether_it_holds(row: Row, holds: bool | None, told: str) -> None:
    assert row.holds is holds and told in row.told()
    assert "was 3" in row.told(3.0)


@pytest.mark.parametrize(("value", "status"), [(1.0, 0), (3.0, 1)])
def test_together_they_write_json_and_tell_what_falls_short(
    value: float, status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def found(name: str, seconds_left: float) -> list[Row]:
        if name == "absent":
            raise Unavailable("no such machine")
        return [Row(name, value, 2.0)]

    monkeypatch.setattr(together, "found_by", found)
    earlier, output = tmp_path / "earlier.json", tmp_path / "new.json"
    earlier.write_text(json.dumps({"rows": [{"name": "large", "value": 7.0}]}))
    options = ["large", "absent", "--output", str(output), "--against", str(earlier)]
    monkeypatch.setattr(sys, "argv", ["benchmarks", *options])
    assert together.main() == status
    told = capsys.readouterr().out
    assert "left out: no such machine" in told and "was 7" in told
    assert json.loads(output.read_text())["rows"] == [Row("large", value, 2.0).as_json()]


def test_a_benchmark_without_time_for_it_is_left_out() -> None:
    with pytest.raises(Unavailable, match="are left"):
        together.found_by("saliency", 1.0)
