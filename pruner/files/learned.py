"""What a file, or its owner, says of an LSTM beside its weights: in words, and added to."""

from dataclasses import replace

from pruner.errors import PrunerError, label
from pruner.files.checkpoint import Checkpoint
from pruner.files.contents import Learned
from pruner.lstm.lstm import LSTM


def told_beside(checkpoint: Checkpoint, lstm: LSTM) -> list[str]:
    """Sentences about an LSTM: the class it is part of, how it is called, what reads its output. None may be known."""
    known = checkpoint.learned.get(lstm.name, Learned())
    told = []
    if whole := known.classes.get(""):
        told.append(f"Part of {label(whole)}.")
    if known.batch_first is not None:
        told.append("Reads batches first (N, T, I)." if known.batch_first else "Reads time steps first (T, N, I).")
    if known.dropout:
        told.append(f"Trained with a dropout of {known.dropout:g} between its layers.")
    if known.returns_sequences is not None:
        told.append("Its output at every step is used." if known.returns_sequences else "Its last output is used.")
    if known.consumers:
        told.append(f"Read by {', '.join(map(label, known.consumers))}, as the file shows.")
    return [*told, *known.notes]


def with_batch_first(checkpoint: Checkpoint, batch_first: bool | None) -> Checkpoint:
    """The checkpoint with `batch_first`, as in `nn.LSTM`, known of every LSTM; None for nothing new. Cells have none.

    Raises PrunerError where the file says otherwise.

        >>> from pruner.examples import named
        >>> checkpoint = with_batch_first(named("embedded-reber").open(), True)
        >>> checkpoint.learned["lstm"].batch_first
        True
    """
    if batch_first is None:
        return checkpoint
    learned = dict(checkpoint.learned)
    for lstm in checkpoint.lstms:
        known = learned.get(lstm.name, Learned())
        if known.batch_first not in (None, batch_first):
            raise PrunerError(
                f"expected batch_first as {checkpoint.name} says of {lstm.title}, {str(known.batch_first).lower()}, found "
                f"{str(batch_first).lower()}; leave it out"
            )
        if lstm.kind == "LSTM":
            learned[lstm.name] = replace(known, batch_first=batch_first)
    return replace(checkpoint, learned=learned)


def without_batch_first(checkpoint: Checkpoint, lstms: list[LSTM]) -> list[LSTM]:
    """Those of some LSTMs of which nobody said whether they read batches first."""
    known = checkpoint.learned
    return [lstm for lstm in lstms if lstm.kind == "LSTM" and known.get(lstm.name, Learned()).batch_first is None]
