"""What the trained examples say of their own accord: text that goes on from a prompt, strings of a grammar.

The same dice are thrown for every model, so that a pruned one says something else only where it finds something else likely.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pruner.examples.embedded_reber import GRAMMAR, SYMBOLS
from pruner.examples.pydocs_chars import encode
from pruner.lstm.sampling import by_dice, drawn, thrown
from pruner.progress import Progress, silent

TEMPERATURE, SEED = 0.6, 0
PROMPT, CHARACTERS = "The function ", 160
STRINGS, LONGEST = 6, 40  # strings, and symbols of one that does not come to its end

Place = tuple[str, str]  # in the grammar, with the symbol to remember once it was read


@dataclass(frozen=True)
class Line:
    """What was said; where a grammar tells, the places of symbols that are `wrong`, and whether it `ended`."""

    text: str
    wrong: tuple[int, ...] = ()
    ended: bool = True

    @property
    def right(self) -> bool:
        return self.ended and not self.wrong


@dataclass(frozen=True)
class Speech:
    """How an example speaks: from its tensors, its LSTMs and the prompt that was typed, `progress` told at every symbol. It
    has no `prompt` to begin with if it takes none; its lines are judged by a grammar then."""

    speak: Callable[[Mapping[str, Tensor], Mapping[str, nn.Module], str, Progress], list[Line]]
    prompt: str | None = None


def written(
    tensors: Mapping[str, Tensor],
    lstm: nn.Module,
    alphabet: str,
    prompt: str,
    characters: int = CHARACTERS,
    progress: Progress = silent,
) -> str:
    """How the character model goes on from a prompt; from a new line where that is empty."""
    next_ids = drawn(
        encode(prompt or "\n", alphabet)[None],
        lambda ids: F.embedding(ids, tensors["embedding.weight"]),
        lstm,
        lambda output: F.linear(output, tensors["linear.weight"], tensors["linear.bias"]),
        by_dice(thrown(1, characters, SEED)),
        TEMPERATURE,
    )
    return "".join(alphabet[int(ids)] for ids in _told(next_ids, characters, "Writing", progress))


def spelled(tensors: Mapping[str, Tensor], lstm: nn.Module, progress: Progress = silent) -> list[str]:
    """Strings as the grammar model spells them, from their B up to the second E, or for `LONGEST` symbols."""
    weight = tensors["linear.weight"]
    next_ids = drawn(
        torch.full((STRINGS, 1), SYMBOLS.index("B")),
        lambda ids: F.one_hot(ids, len(SYMBOLS)).to(weight.dtype),
        lstm,
        lambda output: F.linear(output, weight, tensors["linear.bias"]),
        by_dice(thrown(STRINGS, LONGEST - 1, SEED)),
        TEMPERATURE,
    )
    columns = [ids[:, 0].tolist() for ids in _told(next_ids, LONGEST - 1, "Spelling", progress)]
    return [_up_to_its_end("B" + "".join(SYMBOLS[each] for each in row)) for row in zip(*columns, strict=True)]


def judged(text: str) -> Line:
    """A string with the symbols that the grammar does not allow there. What comes after such a symbol is judged as if it had
    stood where it may, or not at all."""
    places, wrong = {_BEGIN}, list[int]()
    for at, symbol in enumerate(text):
        reached = {_NEXT[place][symbol] for place in places if symbol in _NEXT[place]}
        if not reached:
            wrong.append(at)
            reached = places | {following[symbol] for following in _NEXT.values() if symbol in following}
        places = reached
    return Line(text, tuple(wrong), any(not _NEXT[place] for place in places))


def _told(ids: Iterator[Tensor], count: int, what: str, progress: Progress) -> Iterator[Tensor]:
    """The first of some ids, each after `progress` was told, which may stop it."""
    for at, each in enumerate(islice(ids, count)):
        progress(at / count, what)
        yield each


def _up_to_its_end(text: str) -> str:
    first = text.find("E")
    second = text.find("E", first + 1) if first >= 0 else -1
    return text if second < 0 else text[: second + 1]


def _following() -> dict[Place, dict[str, Place]]:
    """{place: {symbol that may follow: where it leads}} of the whole grammar: `GRAMMAR` inside two T or two P."""
    found: dict[Place, dict[str, Place]] = {
        _BEGIN: {"B": ("choice", "")},
        ("choice", ""): {outer: ("inside", outer) for outer in "TP"},
    }
    for outer in "TP":
        found["inside", outer] = {"B": ("0", outer)}
        for state, following in GRAMMAR.items():
            found[str(state), outer] = {symbol: (str(to), outer) for symbol, to in following.items()}
        found["5", outer] = {"E": ("again", outer)}
        found["again", outer] = {outer: ("last", outer)}
        found["last", outer] = {"E": ("end", outer)}
        found["end", outer] = {}
    return found


_BEGIN = ("begin", "")
_NEXT = _following()
