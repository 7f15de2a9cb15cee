"""What can be true of a place in what an LSTM reads: conditions over symbols, by which units are found.

A condition takes the symbols of one sequence, and says of each, once it is read, whether it holds, 1 or 0, or a number.
"""

from collections.abc import Callable, Collection, Sequence

import numpy as np

from pruner.calibration.alphabet import Alphabet
from pruner.examples.embedded_reber import GRAMMAR, SYMBOLS

Condition = Callable[[Sequence[str]], np.ndarray]  # the symbols of a sequence -> (T,) float64

ONE_OF = "One of the symbols typed below"
LAST_STATE = 5  # of the inner grammar, which only ends


def conditions_of(alphabet: Alphabet) -> dict[str, Condition]:
    """The conditions that make sense of an alphabet, by their titles; `ONE_OF` is beside them, see `one_of`."""
    if alphabet.kind == "text":
        return TEXT
    return STRINGS if alphabet.kind == "grammar" else {}


def one_of(symbols: Collection[str]) -> Condition:
    """The symbol that was just read is one of these."""
    return lambda read: np.array([float(symbol in symbols) for symbol in read])


def is_binary(values: np.ndarray) -> bool:
    """Whether a condition only holds or does not, and is no number."""
    return bool(np.isin(values, (0.0, 1.0)).all())


def _each(test: Callable[[str], bool]) -> Condition:
    return lambda read: np.array([float(test(symbol)) for symbol in read])


def inside_quotes(read: Sequence[str]) -> np.ndarray:
    """From an opening " on, up to the closing one, which is outside again; a blank line closes what was left open."""
    found, inside = np.zeros(len(read)), False
    for place, symbol in enumerate(read):
        if symbol == '"':
            inside = not inside
        elif symbol == "\n" and place and read[place - 1] == "\n":
            inside = False
        found[place] = inside
    return found


def inside_brackets(read: Sequence[str]) -> np.ndarray:
    """From an opening (, [ or { on, up to the closing one; a blank line closes what was left open."""
    found, depth = np.zeros(len(read)), 0
    for place, symbol in enumerate(read):
        if symbol in "([{":
            depth += 1
        elif symbol in ")]}":
            depth = max(depth - 1, 0)
        elif symbol == "\n" and place and read[place - 1] == "\n":
            depth = 0
        found[place] = depth > 0
    return found


def column(read: Sequence[str]) -> np.ndarray:
    """How many symbols were read since the last line break: 0 for the break itself."""
    found, since = np.zeros(len(read)), 0
    for place, symbol in enumerate(read):
        since = 0 if symbol == "\n" else since + 1
        found[place] = since
    return found


def grammar_states(read: Sequence[str]) -> list[int | None]:
    """The state of the inner grammar after each symbol of an embedded Reber string; None outside of it, and once a symbol
    came that the grammar does not allow."""
    found: list[int | None] = [None] * len(read)
    state: int | None = None
    for place, symbol in enumerate(read):
        if place == 2:
            state = 0 if read[0] == symbol == "B" else None
        elif state is not None:
            state = GRAMMAR[state].get(symbol) if state != LAST_STATE else None
        found[place] = state
    return found


def _in_state(wanted: int) -> Condition:
    return lambda read: np.array([float(state == wanted) for state in grammar_states(read)])


def began_with(symbol: str) -> Condition:
    """The second symbol of the string, which must come again at its end, was this one; 0 before it is read."""
    return lambda read: np.array([float(place > 0 and read[1] == symbol) for place in range(len(read))])


TEXT: dict[str, Condition] = {
    "Inside double quotes": inside_quotes,
    "Inside brackets": inside_brackets,
    "Column: characters since the line break": column,
    "A line break": _each(lambda symbol: symbol == "\n"),
    "A space": _each(lambda symbol: symbol == " "),
    "A digit": _each(str.isdigit),
    "An upper-case letter": _each(str.isupper),
    "A lower-case letter": _each(str.islower),
}
STRINGS: dict[str, Condition] = {
    "The string began with T": began_with("T"),
    **{f"The grammar is in state {state}": _in_state(state) for state in (*GRAMMAR, LAST_STATE)},
    **{f"{symbol} was read": one_of(symbol) for symbol in SYMBOLS},
}
