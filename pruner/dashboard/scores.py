"""Scores of checkpoints, computed once a visitor."""

from collections.abc import Mapping

import streamlit as st
from torch import Tensor

from pruner.calibration.observations import Statistics
from pruner.dashboard.gathered import Gathered
from pruner.files.checkpoint import Checkpoint
from pruner.files.consumer_choice import consumers_of
from pruner.importance.scores import Scores, score_lstm
from pruner.lstm.lstm import LSTM
from pruner.recipe import DATA_CRITERIA, Recipe, row_norm


def scores(
    checkpoint: Checkpoint,
    lstm: LSTM,
    criterion: str,
    consumers: tuple[str, ...] = (),
    seed: int = 0,
    gathered: Gathered | None = None,
) -> Scores:
    """The scores of one LSTM. One that nothing was gathered of, since it is not to be pruned, is scored by a norm.

    Raises PrunerError if a weight is not finite, or nothing was gathered for a criterion that needs it.
    """
    from_data = criterion in DATA_CRITERIA
    statistics = gathered.statistics.get(lstm.name) if from_data and gathered else None
    if from_data and gathered and statistics is None:
        criterion, from_data = row_norm(criterion), False
    key = gathered.key if gathered and from_data else ""
    return _scores(checkpoint.sha256, lstm.name, criterion, consumers, seed, key, checkpoint, lstm, statistics)


def all_scores(checkpoint: Checkpoint, recipe: Recipe, gathered: Gathered | None) -> dict[str, Scores]:
    """The scores of every LSTM of a checkpoint under a recipe, by LSTM name. Raises PrunerError as `scores` does."""
    consumers = consumers_of(checkpoint, recipe)
    return {
        lstm.name: scores(
            checkpoint, lstm, recipe.criterion, tuple(consumers.get(lstm.name, ())), recipe.seed, gathered
        )
        for lstm in checkpoint.lstms
    }


def masks_of(checkpoint: Checkpoint, recipe: Recipe, found: Mapping[str, Scores]) -> dict[str, Tensor]:
    """{name in the file: (4H,) bool mask} of every LSTM that a recipe prunes, from the scores of all."""
    masks: dict[str, Tensor] = {}
    for lstm in checkpoint.select(recipe.lstms):
        masks |= found[lstm.name].masks(lstm, recipe)
    return masks


@st.cache_resource(scope="session", max_entries=256, show_spinner=False)
def _scores(
    sha256: str,
    name: str,
    criterion: str,
    consumers: tuple[str, ...],
    seed: int,
    key: str,
    _checkpoint: Checkpoint,
    _lstm: LSTM,
    _statistics: Statistics | None,
) -> Scores:
    gone = _checkpoint.gone.get(name)
    return score_lstm(_lstm, _checkpoint.tensors, criterion, consumers, _statistics, seed, gone)
