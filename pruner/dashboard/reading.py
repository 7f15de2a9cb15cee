"""What the open model reads as symbols, and the example inputs that are looked at to find units by what they do."""

import streamlit as st
from torch import Tensor

from pruner import examples
from pruner.calibration import alphabet
from pruner.calibration.alphabet import Alphabet
from pruner.calibration.calibration import Calibration
from pruner.dashboard import gathering
from pruner.dashboard.gathered import Gathered
from pruner.dashboard.session import session
from pruner.examples import Example
from pruner.files.checkpoint import Checkpoint
from pruner.lstm.lstm import DTYPES, LSTM


def alphabet_of(checkpoint: Checkpoint, lstm: LSTM) -> Alphabet | None:
    """The symbols that an LSTM reads: those of an example, or token numbers where the file holds an embedding that was named
    on the page Calibrate or is called one."""
    example = example_read(checkpoint, lstm)
    if example is not None:
        return example.alphabet()
    offered = gathering.embeddings(checkpoint, [lstm])
    called = [name for name in offered if "emb" in name.lower()]
    name = session.embedding if session.embedding in offered else next(iter(called), None)
    return None if name is None else alphabet.tokens(len(checkpoint.tensors[name]), name)


def example_read(checkpoint: Checkpoint, lstm: LSTM) -> Example | None:
    """The example whose inputs an LSTM reads: it is that of the example, or one made of it, of whatever size."""
    example = examples.EXAMPLES.get(checkpoint.metadata.get("example", ""))
    if example is None or lstm.name != example.lstm:
        return None
    known = example.alphabet()
    if known.embedding is None:
        return example if lstm.input_size == len(known.symbols) else None
    vectors = checkpoint.tensors.get(known.embedding)
    fits = vectors is not None and vectors.dtype in DTYPES and vectors.shape == (len(known.symbols), lstm.input_size)
    return example if fits else None


def symbols_of(known: Alphabet | None, calibration: Calibration, sequence: Tensor) -> list[str] | None:
    """The symbols of a sequence (1, T) or (1, T, I) of calibration inputs, where they can be told."""
    if known is None:
        return None
    if sequence.is_floating_point():
        told = calibration.source == "example" and known.embedding is None  # any others may be numbers of any kind
    else:
        told = calibration.embedding == known.embedding
    return known.read(sequence)[0] if told else None


def example_inputs(
    checkpoint: Checkpoint, lstm: LSTM, known: Alphabet | None, held: Gathered | None
) -> Calibration | None:
    """Inputs of known symbols that are not random: an example's own, or those of the visitor; None where there are none."""
    example = example_read(checkpoint, lstm)
    if example is not None:
        return _own(example.name, example, checkpoint)
    if (
        known is None
        or held is None
        or lstm.name not in held.calibration.sequences
        or lstm.name in held.calibration.fed
    ):
        return None
    calibration = held.calibration
    ids = all(not group.is_floating_point() for group in calibration.sequences[lstm.name])
    return calibration if ids and calibration.embedding == known.embedding else None


@st.cache_resource(max_entries=4, show_spinner="Reading the example’s inputs")
def _own(name: str, _example: Example, _checkpoint: Checkpoint) -> Calibration:
    return _example.calibration(_checkpoint)
