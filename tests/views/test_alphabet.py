"""What is typed is what is read."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pruner import examples
from pruner.calibration.alphabet import Alphabet, tokens
from pruner.errors import PrunerError
from pruner.examples.embedded_reber import GRAMMAR, encode
from pruner.views.conditions import grammar_states

CHARACTERS, GRAMMATICAL = examples.named("pydocs-chars").alphabet(), examples.named("embedded-reber").alphabet()
TOKENS = tokens(200, "embedding.weight")


@given(st.text(st.sampled_from(CHARACTERS.symbols), min_size=1, max_size=40))
def test_text_is_read_character_by_character(text: str) -> None:
    assert CHARACTERS.read(CHARACTERS.numbers(text)[None]) == [list(text)]


@given(st.lists(st.integers(0, 199), min_size=1, max_size=20), st.sampled_from([" ", ",", ", ", "\n"]))
def test_token_numbers_are_read_whatever_stands_between_them(numbers: list[int], between: str) -> None:
    assert TOKENS.numbers(between.join(map(str, numbers))).tolist() == numbers


@pytest.mark.parametrize(
    ("alphabet", "typed", "said"),
    [
        (CHARACTERS, "caf\u00e9 \u4e2d", "found '\u00e9' at place 4"),
        (CHARACTERS, "", "found nothing"),
        (GRAMMATICAL, "BTQ", "expected symbols of BTSXPVE, found 'Q' at place 3"),
        (GRAMMATICAL, "  ", "found nothing"),
        (TOKENS, "1 200", "expected token numbers from 0 to 199, with spaces between them, found '200' at place 2"),
        (TOKENS, "-1", "found '-1'"),
        (TOKENS, "1.5", "found '1.5'"),
        (TOKENS, "9" * 5000, "at place 1"),
        (TOKENS, " , ", "found nothing"),
    ],
)
def test_what_a_model_does_not_know_is_told(alphabet: Alphabet, typed: str, said: str) -> None:
    with pytest.raises(PrunerError) as error:
        alphabet.numbers(typed)
    assert said in str(error.value) and len(str(error.value)) < 300


def test_a_string_may_be_typed_in_small_letters_and_with_spaces() -> None:
    assert GRAMMATICAL.read(GRAMMATICAL.numbers("btb tx\n")[None]) == [list("BTBTX")]


def test_inputs_are_those_of_the_example() -> None:
    numbers = GRAMMATICAL.numbers("BTBTX")
    assert torch.equal(GRAMMATICAL.inputs(numbers[None], {}), encode(["BTBTXE"])[0])
    tensors = examples.named("pydocs-chars").open().tensors
    found = CHARACTERS.inputs(CHARACTERS.numbers("ab"), tensors)
    assert torch.equal(found[1], tensors["embedding.weight"][CHARACTERS.symbols.index("b")])


@pytest.mark.parametrize("alphabet", [CHARACTERS, GRAMMATICAL, TOKENS, tokens(1, "e"), tokens(50_000, "e")])
def test_there_is_something_to_read_at_first(alphabet: Alphabet) -> None:
    assert len(alphabet.numbers(alphabet.begin)) > 0


def test_the_string_to_begin_with_visits_every_state() -> None:
    states = grammar_states(GRAMMATICAL.begin)
    assert {state for state in states if state is not None} == {*GRAMMAR, 5}


def test_one_hot_inputs_are_read_as_their_symbols() -> None:
    texts = ["BTBTXSETE", "BPBPVVEPE"]
    assert GRAMMATICAL.read(encode(texts)[0]) == [list(text[:-1]) for text in texts]
