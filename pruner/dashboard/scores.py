"""Scores and ranks of the open model, computed once a visitor."""

from dataclasses import dataclass

import streamlit as st
from torch import Tensor

from pruner.checkpoint import Checkpoint
from pruner.lstm import LSTM
from pruner.masks import row_ranks
from pruner.saliency import score


@dataclass(frozen=True)
class Scores:
    """By name in the file: (4H,) saliency and (4, H) ranks of every packed weight of an LSTM."""

    saliency: dict[str, Tensor]
    ranks: dict[str, Tensor]


def scores(checkpoint: Checkpoint, lstm: LSTM, criterion: str) -> Scores:
    """Raises PrunerError if a weight is not finite."""
    return _scores(checkpoint.sha256, lstm.name, criterion, checkpoint, lstm)


@st.cache_resource(scope="session", max_entries=16, show_spinner="Scoring every row")
def _scores(sha256: str, name: str, criterion: str, _checkpoint: Checkpoint, _lstm: LSTM) -> Scores:
    saliency = score(_lstm, _checkpoint.tensors, criterion)
    return Scores(saliency, {name: row_ranks(values) for name, values in saliency.items()})
