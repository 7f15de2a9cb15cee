"""Which tensors of a checkpoint are its consumers: the file proves it or the user says so; shapes prove nothing."""

import re
from collections.abc import Iterable, Mapping

from pruner.errors import PrunerError
from pruner.files.checkpoint import Checkpoint
from pruner.files.contents import Learned
from pruner.files.names import consumer_named
from pruner.lstm.lstm import DTYPES, LSTM
from pruner.lstm.rebuilt import rebuilt_of
from pruner.recipe import Recipe

_LIKELY = re.compile("linear|fc|head|out|dense|class|proj|decode|pred", re.IGNORECASE)


def proven(checkpoint: Checkpoint, lstms: list[LSTM]) -> tuple[str, ...]:
    """All consumers of these LSTMs, as far as the file itself shows what reads them (a graph, a sequence of layers).

    Those of an LSTM that another LSTM reads are left out: its output keeps its width for that.
    """
    own = {name for lstm in checkpoint.lstms for name in lstm.tensors.values()}
    read_by = [checkpoint.learned[lstm.name].consumers for lstm in lstms if lstm.name in checkpoint.learned]
    possible = set(suggestions(checkpoint, lstms))
    return tuple(name for names in read_by if not own & set(names) and possible >= set(names) for name in names)


def suggestions(checkpoint: Checkpoint, lstms: list[LSTM]) -> list[str]:
    """Tensors whose second dimension is as wide as an LSTM's output, the likelier names first.

    The width proves nothing: a convolution over 64 channels fits an LSTM of 64 units and may read something else.
    """
    widths = {lstm.output_width for lstm in lstms if can_be_trimmed(checkpoint, lstm)}
    own = {name for lstm in checkpoint.lstms for name in lstm.tensors.values()}
    fitting = [
        name
        for name, tensor in checkpoint.tensors.items()
        if name not in own and tensor.dim() >= 2 and tensor.shape[1] in widths and tensor.dtype in DTYPES
    ]
    return sorted(fitting, key=lambda name: (checkpoint.tensors[name].dim() != 2, not _LIKELY.search(name), name))


def offered(checkpoint: Checkpoint, lstms: list[LSTM]) -> list[str]:
    """What can be named as a consumer of one of these LSTMs: the `suggestions`, then the inputs of others of them; where
    more than one could be read, with the LSTM that is, as in `encoder=decoder.weight_ih_l0`."""
    found, trimmed = [], [lstm for lstm in lstms if can_be_trimmed(checkpoint, lstm)]
    for name in [*suggestions(checkpoint, lstms), *(name for lstm in lstms for name in lstm.input_weights)]:
        width = checkpoint.tensors[name].shape[1]
        fitting = [lstm for lstm in trimmed if lstm.output_width == width and name not in lstm.input_weights]
        shown_by_file = any(name in own.consumers for own in checkpoint.learned.values())
        found += [name] if len(fitting) == 1 or shown_by_file else [f"{lstm.name}={name}" for lstm in fitting]
    return found


def in_a_row(checkpoint: Checkpoint, recipe: Recipe) -> tuple[str, ...]:
    """Consumers that follow from those that a recipe names: `lstm2.weight_ih_l0`, where `lstm1` and `lstm2` are numbered in
    a row, it is known who reads `lstm2`, and no other tensor of the file could read `lstm1`, feed `lstm2` or stand between.

    None of a file that shows who reads its LSTMs: what it does not show of one is not so."""
    shown_by_file = any(own.consumers for own in checkpoint.learned.values())
    if recipe.granularity != "units" or not recipe.consumers or shown_by_file:
        return ()
    lstms = {lstm.name: lstm for lstm in checkpoint.select(recipe.lstms)}
    read = {name for name, own in consumers_of(checkpoint, recipe).items() if own}
    found: list[str] = []
    for name in sorted(lstms, key=_numbered, reverse=True):
        stem, number = _numbered(name)
        before = f"{stem}{number - 1}"
        if (
            before in lstms
            and before not in read
            and name in read
            and _only_pair(checkpoint, lstms[before], lstms[name])
        ):
            found += lstms[name].input_weights
            read.add(before)
    return tuple(found)


def _numbered(name: str) -> tuple[str, int]:
    """A name and the number at its end, -1 for none: `("lstm", 2)`."""
    stem = name.rstrip("0123456789")
    number = name.removeprefix(stem)
    return (stem, int(number)) if 0 < len(number) < 7 else (name, -1)


def _only_pair(checkpoint: Checkpoint, first: LSTM, second: LSTM) -> bool:
    """Whether the output of one LSTM fits the input of another, and nothing else in the file has that width."""
    width = first.output_width
    own = {name for lstm in checkpoint.lstms for name in lstm.tensors.values()}
    others = [lstm for lstm in checkpoint.lstms if lstm not in (first, second)]
    return (
        not first.proj_size
        and second.input_size == width != first.input_size
        and not any(width in (lstm.input_size, lstm.output_width) for lstm in others)
        and not any(
            width in tensor.shape[:2]  # of a vector too: a norm between them makes numbers of zeros
            for name, tensor in checkpoint.tensors.items()
            if name not in own
        )
    )


def consumers_of(checkpoint: Checkpoint, recipe: Recipe) -> dict[str, list[str]]:
    """{LSTM name: the recipe's consumers that read its output}, for every LSTM to prune. A consumer may be the first tensor
    of another LSTM (`decoder.weight_ih_l0`), and `encoder=decoder.weight_ih_l0` says whom it reads.

    Raises PrunerError for a tensor that is not there or does not fit the output of exactly one of them.
    """
    lstms = checkpoint.select(recipe.lstms)
    found: dict[str, list[str]] = {lstm.name: [] for lstm in lstms}
    said = {name: lstm for lstm, name in (consumer_named(checkpoint, text) for text in recipe.consumers)}
    for name, read in said.items():
        owner = next((lstm for lstm in checkpoint.lstms if name in lstm.tensors.values()), None)
        if owner is not None:
            _check_reader(owner, name, list(said), lstms)
        possible = [lstm for lstm in lstms if lstm is not owner and read in (None, lstm.name)]
        found[_read_by(checkpoint, possible, name).name].append(name)
    for lstm in lstms:
        if found[lstm.name] and not lstm.proj_size and not can_be_trimmed(checkpoint, lstm):
            raise PrunerError(
                f"expected no consumers of {lstm.title}, which keep their width since its removed units come back in its "
                f"output as others tell them, found {found[lstm.name][0]!r}; leave it out"
            )
    return found


def can_be_trimmed(checkpoint: Checkpoint, lstm: LSTM) -> bool:
    """Whether what reads an LSTM becomes narrower when its units go: not where a projection stands between, and not where
    removed units come back in its output."""
    return not lstm.proj_size and rebuilt_of(lstm, checkpoint.tensors) is None


def outside_consumers(checkpoint: Checkpoint, recipe: Recipe) -> dict[str, list[str]]:
    """Those of `consumers_of` that are `outside_of_lstms`."""
    return {lstm: outside_of_lstms(checkpoint, names) for lstm, names in consumers_of(checkpoint, recipe).items()}


def feeders(checkpoint: Checkpoint, consumers: Mapping[str, list[str]]) -> dict[str, str]:
    """{LSTM name: the name of the LSTM whose output it reads}, of those whose inputs are among these consumers."""
    owners = {name: lstm.name for lstm in checkpoint.lstms for name in lstm.input_weights}
    return {owners[name]: read for read, names in consumers.items() for name in names if name in owners}


def along(fed: Mapping[str, str], lstms: Iterable[LSTM], backwards: bool = False) -> list[LSTM]:
    """The LSTMs so that each stands after the one that feeds it, or `backwards` before it; else in their order."""

    def depth(name: str) -> int:
        above = [name]
        while (feeder := fed.get(above[-1])) is not None and feeder not in above:
            above.append(feeder)
        return len(above)

    return sorted(lstms, key=lambda lstm: depth(lstm.name), reverse=backwards)


def task_of(checkpoint: Checkpoint, recipe: Recipe, names: list[str]) -> str | None:
    """What these consumers of one LSTM serve: the recipe's task, or none where the input of another LSTM is among them."""
    return recipe.task if names and outside_of_lstms(checkpoint, names) == names else None


def outside_of_lstms(checkpoint: Checkpoint, names: list[str]) -> list[str]:
    """Those of these consumers that are no LSTM: one of these reads for itself."""
    inputs = {name for lstm in checkpoint.lstms for name in lstm.input_weights}
    return [name for name in names if name not in inputs]


def _check_reader(owner: LSTM, name: str, names: list[str], lstms: list[LSTM]) -> None:
    """Raise PrunerError unless an LSTM can be the consumer of another: pruned along and read whole."""
    inputs, wrong = owner.input_weights, ""
    if name not in inputs:
        wrong = f"expected a consumer outside of the LSTMs, or one that reads the input of one ({', '.join(inputs)})"
    elif owner not in lstms:
        wrong = f"expected {owner.title} among the LSTMs to prune, because its input is trimmed"
    elif missing := [other for other in inputs if other not in names]:
        wrong = f"expected all that reads the input of {owner.title}, {missing[0]!r} too"
    if wrong:
        raise PrunerError(f"{wrong}, found {name!r} of {owner.title}; leave it out: the output keeps its width for it")


def _read_by(checkpoint: Checkpoint, lstms: list[LSTM], name: str) -> LSTM:
    """The LSTM whose output a consumer reads."""
    tensor = checkpoint.tensors[name]
    if tensor.dtype not in DTYPES:
        raise PrunerError(
            f"expected a consumer of floating-point numbers, found {name!r} of {tensor.dtype}; leave it out"
        )
    fitting = [lstm for lstm in lstms if not lstm.proj_size and tuple(tensor.shape[1:2]) == (lstm.output_width,)]
    if not fitting:
        widths = [f"{lstm.output_width} of {lstm.title}" for lstm in lstms if not lstm.proj_size]
        raise PrunerError(
            f"expected a consumer that reads as many columns as an LSTM without projection has outputs "
            f"({', '.join(widths) or 'there is none'}), found {name!r} of shape {tuple(tensor.shape)}; leave it out"
        )
    shown_by_file = [lstm for lstm in fitting if name in checkpoint.learned.get(lstm.name, Learned()).consumers]
    fitting = shown_by_file or fitting
    if len(fitting) > 1:
        raise PrunerError(
            f"expected a consumer that fits one LSTM, found {name!r}, which fits "
            f"{' and '.join(lstm.title for lstm in fitting)}; name it as {fitting[0].name}={name}, or prune one LSTM at a "
            "time"
        )
    return fitting[0]
