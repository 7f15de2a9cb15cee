"""The names that people call the tensors of a file by -> the names that they have here."""

import difflib
from collections.abc import Iterable
from dataclasses import replace

from pruner.errors import PrunerError, shown
from pruner.files.checkpoint import Checkpoint
from pruner.files.computed_weights import plain_name
from pruner.recipe import Recipe

_MOST_NEAR = 3


def tensor_named(checkpoint: Checkpoint, name: str) -> str:
    """The name in `checkpoint.tensors` of the tensor that a person calls `name`.

    That may be its name there, all keys that lead to it in the file joined by dots (`model_state.linear.weight`), the last
    of these (`linear.weight`), or what the model calls it (`linear.weight` for `linear.weight_orig`). Raises PrunerError,
    with the names that are nearest, where no tensor or more than one is meant.
    """
    if name in checkpoint.tensors:
        return name
    known: dict[str, dict[str, None]] = {}
    for own in checkpoint.tensors:
        keys = checkpoint.location(own)
        for other in (checkpoint.full_names.get(own, own), plain_name(own), str(keys[-1]), plain_name(str(keys[-1]))):
            known.setdefault(other, {})[own] = None
    meant = list(known.get(name, ()))
    if len(meant) == 1:
        return meant[0]
    if meant:
        raise PrunerError(
            f"expected the name of one tensor, found {shown(name)}, which fits {_listed(meant)}; write one of these"
        )
    near = difflib.get_close_matches(name, known, _MOST_NEAR) or _ending_alike(name, known)
    advice = f"did you mean {_listed(near)}?" if near else f"the file has {_listed(checkpoint.tensors)}"
    raise PrunerError(
        f"expected the name of a tensor of {checkpoint.name}, found {shown(name)}, which is not there; {advice}"
    )


def consumer_named(checkpoint: Checkpoint, text: str) -> tuple[str | None, str]:
    """(the LSTM that a consumer is said to read, its name in `checkpoint.tensors`): of `encoder=decoder.weight_ih_l0` both,
    of `linear.weight` the name alone. Raises PrunerError as `tensor_named` does.
    """
    lstm, equals, name = text.partition("=")
    if equals and lstm in {each.name for each in checkpoint.lstms} and text not in checkpoint.tensors:
        return lstm, tensor_named(checkpoint, name)
    return None, tensor_named(checkpoint, text)


def settled(checkpoint: Checkpoint, recipe: Recipe) -> Recipe:
    """The recipe with the names that its consumers have in this checkpoint. Raises PrunerError for one that is not there."""
    known = (consumer_named(checkpoint, text) for text in recipe.consumers)
    written = (name if lstm is None else f"{lstm}={name}" for lstm, name in known)
    return replace(recipe, consumers=tuple(dict.fromkeys(written)))


def _ending_alike(name: str, known: Iterable[str]) -> list[str]:
    """Names that end in the same word, as `fc.weight` does for `head.weight`."""
    end = name.rpartition(".")[2]
    return [other for other in known if other.rpartition(".")[2] == end][:_MOST_NEAR]


def _listed(names: Iterable[str], most: int = 5) -> str:
    names = list(names)
    return ", ".join(shown(name) for name in names[:most]) + (
        f" and {len(names) - most} more" if len(names) > most else ""
    )
