"""What the examples say: text that goes on from a prompt, and strings that a grammar judges."""

import json
from typing import Any

import pytest
import torch

from pruner import Cancelled, Recipe, examples
from pruner.examples import embedded_reber, speaking
from pruner.examples.speaking import CHARACTERS, LONGEST, STRINGS, judged
from pruner.lstm.module import build
from pruner.pipeline import prune
from pruner.progress import silent


def test_every_string_of_the_grammar_is_right() -> None:
    for text, _ in embedded_reber.strings()[0][:300]:
        assert judged(text).right, text


def test_what_may_follow_is_what_the_examples_learn() -> None:
    for text, legal in embedded_reber.strings()[0][:30]:
        for at, allowed in enumerate(legal, 1):
            for symbol in embedded_reber.SYMBOLS:
                assert (judged(text[:at] + symbol).wrong == ()) == (symbol in allowed), (text[:at], symbol)


@pytest.mark.parametrize(
    ("text", "wrong", "ended"),
    [
        ("BTBTXSETE", (), True),
        ("BPBTXSETE", (7,), True),  # remembers the wrong symbol
        ("BTBTXSET", (), False),
        ("BTBTXSETEB", (9,), True),
        ("BTBTBXSETE", (4,), True),
        ("", (), False),
        ("BTBTXSEXTE", (7,), True),  # one too many
    ],
)
def test_wrong_symbols_are_found(text: str, wrong: tuple[int, ...], ended: bool) -> None:
    found = judged(text)
    assert (found.text, found.wrong, found.ended) == (text, wrong, ended)
    assert found.right == (ended and not wrong)


def _said(name: str, recipe: Recipe | None = None, prompt: str = "", progress: Any = silent) -> list[speaking.Line]:
    """What an example says, dense or pruned."""
    example = examples.named(name)
    checkpoint = example.open()
    if recipe is None:
        dense = {lstm.name: build(lstm, checkpoint.tensors) for lstm in checkpoint.lstms}
        return example.speech.speak(checkpoint.tensors, dense, prompt, progress)
    pruned = prune(checkpoint, recipe)
    masked, compact = (
        example.speech.speak(pruned.tensors(), pruned.modules(form), prompt, progress) for form in ("masked", "compact")
    )
    assert masked == compact
    return masked


def test_the_grammar_model_spells_well_until_it_is_ruined() -> None:
    dense, ruined = _said("embedded-reber"), _said("embedded-reber", Recipe(0.7, "units"))
    assert len(dense) == len(ruined) == STRINGS and all(line.right for line in dense)
    assert not any(line.right for line in ruined)
    assert all(line.text[0] == "B" and 2 <= len(line.text) <= LONGEST for line in dense + ruined)
    assert all(line.text.count("E") <= 2 for line in dense + ruined)
    assert _said("embedded-reber", Recipe(0.0)) == dense


@pytest.mark.parametrize("prompt", ["The function ", "", "\u2603 unknown", "x" * 80])
def test_the_character_model_goes_on_from_any_prompt(prompt: str) -> None:
    (line,) = _said("pydocs-chars", prompt=prompt)
    assert line.text.startswith(prompt) and len(line.text) == len(prompt) + CHARACTERS
    assert set(line.text[len(prompt) :]) <= set(json.loads(examples.named("pydocs-chars").open().metadata["alphabet"]))
    assert [line] == _said("pydocs-chars", prompt=prompt)


def test_a_pruned_character_model_says_something_else_by_the_same_dice() -> None:
    dense, pruned = (_said("pydocs-chars", recipe, "The function ") for recipe in (None, Recipe(0.5)))
    assert dense != pruned and dense == _said("pydocs-chars", Recipe(0.0), "The function ")


@pytest.mark.parametrize("name", examples.EXAMPLES)
def test_speaking_can_be_stopped(name: str) -> None:
    told: list[float] = []

    def stop(fraction: float, what: str) -> None:
        told.append(fraction)
        if len(told) == 3:
            raise Cancelled

    with pytest.raises(Cancelled):
        _said(name, progress=stop)
    assert told == sorted(told) and len(told) == 3 and torch.tensor(told).lt(1).all()
