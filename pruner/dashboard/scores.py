"""Scores and ranks of the open model, computed once a visitor."""

import streamlit as st

from pruner.checkpoint import Checkpoint
from pruner.lstm import LSTM
from pruner.masks import Scores, score_lstm


def scores(checkpoint: Checkpoint, lstm: LSTM, criterion: str, consumers: tuple[str, ...] = ()) -> Scores:
    """Raises PrunerError if a weight is not finite."""
    return _scores(checkpoint.sha256, lstm.name, criterion, consumers, checkpoint, lstm)


@st.cache_resource(scope="session", max_entries=16, show_spinner="Scoring every row")
def _scores(
    sha256: str, name: str, criterion: str, consumers: tuple[str, ...], _checkpoint: Checkpoint, _lstm: LSTM
) -> Scores:
    return score_lstm(_lstm, _checkpoint.tensors, criterion, consumers)
