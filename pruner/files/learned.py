"""What a file says of an LSTM beside its weights, in words."""

from pruner.errors import label
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
