"""The lesson that heals: what is seen on the way is what the engine reaches, and it ends when it is told to."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch

from pruner import Cancelled
from pruner.lessons import healing
from pruner.lessons.healing import STAGES
from pruner.lessons.model import TEXT, model
from pruner.lessons.moment import Moment


@pytest.fixture(autouse=True)
def little_text(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As little as can be learnt from, so that the tests are quick."""
    pieces = healing.calibration().sequences["lstm"][0][:2].reshape(-1, 256)
    little = replace(healing.calibration(), sequences={"lstm": [pieces]})
    monkeypatch.setattr(healing, "calibration", lambda: little)
    monkeypatch.setattr(healing, "FOLDED_ON", 16)
    monkeypatch.setattr(healing, "CHARACTERS", 30)
    healing.gathered.cache_clear()
    yield
    healing.gathered.cache_clear()


def test_what_is_seen_is_what_the_engine_reaches() -> None:
    seen: list[Moment] = []
    moments = healing.heal(seen.append, steps=3)
    assert moments == seen
    assert [moment.stage for moment in moments][:3] == list(STAGES) and {m.stage for m in moments[3:]} == {STAGES[2]}
    half, folded, *healed = (moment.loss for moment in moments)
    assert healed[-1] < folded < 0.5 * half and len(healed) == 3
    assert [moment.seconds for moment in moments] == sorted(moment.seconds for moment in moments)
    assert moments[0].text == healing.ruined()[STAGES[0]] != healing.ruined()["Whole"]
    assert len({moment.text for moment in moments}) > 2 and {len(moment.text) for moment in moments} == {30}
    told = " ".join(healing.notice(moments))
    assert f"loses {half:.2f} bits" in told and f"**{min(folded, *healed):.2f}**" in told


def test_cancelling_ends_it_and_enough_keeps_what_there_is() -> None:
    def after(stop: Any) -> tuple[list[Moment], Any]:
        seen: list[Moment] = []
        return seen, lambda fraction, what: stop() if len(seen) > 2 else None

    def cancel() -> None:
        raise Cancelled

    seen, progress = after(cancel)
    with pytest.raises(Cancelled):
        healing.heal(seen.append, progress, steps=100)
    assert len(seen) == 3
    seen, progress = after(lambda: True)
    assert healing.heal(seen.append, progress, steps=100) == seen
    assert 3 <= len(seen) < 6


def test_the_same_dice_write_the_same() -> None:
    tensors = model(TEXT).tensors
    assert healing.write(tensors) == healing.write(dict(tensors))
    likely = {**tensors, "linear.bias": torch.full_like(tensors["linear.bias"], -50).index_fill(0, torch.tensor(5), 50)}
    assert len(set(healing.write(likely))) == 1
