"""All that the masks of an LSTM are chosen from: scores of its rows and units by any criterion."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor

from pruner.calibration.observations import Statistics
from pruner.errors import PrunerError
from pruner.importance.data import ROW_SCORES, UNIT_SCORES, random_score
from pruner.importance.masks import make_masks, make_masks_by_cost, make_unit_masks, row_ranks
from pruner.importance.weights import outgoing_norms, score, score_units
from pruner.lstm.gates import GATES
from pruner.lstm.lstm import LSTM, Place
from pruner.recipe import CRITERIA, DATA_CRITERIA, Recipe


@dataclass(frozen=True)
class Scores:
    """All that the masks of one LSTM are chosen from, at whatever sparsity."""

    saliency: dict[str, Tensor]  # (4H,) of every packed weight, by its name in the file
    ranks: dict[str, Tensor]  # (4, H) likewise
    units: dict[Place, Tensor]  # (H,) by layer and direction
    gone: Mapping[Place, Tensor]  # (H,) bool, of the places of which an earlier round removed units

    def masks(self, lstm: LSTM, recipe: Recipe) -> dict[str, Tensor]:
        """{name in the file: (4H,) bool mask} by the recipe's granularity."""
        if recipe.granularity == "units":
            return self._without_gone(lstm, make_unit_masks(lstm, self.units, recipe))
        if recipe.allocation == "global":
            return make_masks_by_cost(lstm, self.saliency, recipe)
        return make_masks(lstm, self.ranks, recipe)

    def _without_gone(self, lstm: LSTM, masks: dict[str, Tensor]) -> dict[str, Tensor]:
        """Masks of units that drop what is gone, too, whatever the sparsity."""
        for place, gone in self.gone.items():
            masks |= {name: masks[name] & ~gone.repeat(len(GATES)) for name in lstm.packed_names(*place)}
        return masks


def score_lstm(
    lstm: LSTM,
    tensors: Mapping[str, Tensor],
    criterion: str,
    consumers: Iterable[str] = (),
    statistics: Statistics | None = None,
    seed: int = 0,
    gone: Mapping[Place, Tensor] | None = None,
) -> Scores:
    """The scores of one LSTM by a criterion; those from data are taken from its `statistics`, random ones from `seed`. What
    is `gone`, as `Checkpoint.gone` has it, stays so.

    Criteria that score whole units leave single rows with a norm. Raises PrunerError if a weight or bias of the LSTM is not
    finite, or if statistics are needed and there are none.
    """
    rows = score(lstm, tensors, criterion)
    if criterion in DATA_CRITERIA:
        if statistics is None:
            raise PrunerError(
                f"expected calibration inputs for the criterion {criterion!r}, found none; give some, or choose a criterion "
                f"among {', '.join(name for name in CRITERIA if name not in (*DATA_CRITERIA, 'random'))}"
            )
        units = _score_units_from_data(lstm, tensors, criterion, consumers, statistics)
    elif criterion == "random":
        drawn = random_score(len(lstm.places) * lstm.hidden_size, seed).chunk(len(lstm.places))
        units = dict(zip(lstm.places, drawn, strict=True))
    else:
        units = score_units(lstm, rows, criterion, tensors, consumers)
    if criterion in ROW_SCORES and statistics is not None:
        rows = {
            name: ROW_SCORES[criterion](statistics.layers[layer, direction], side)
            for (layer, direction, side), name in lstm.weight_names().items()
        }
    elif criterion == "random":
        drawn = random_score(sum(map(len, rows.values())), seed).chunk(len(rows))
        rows = dict(zip(rows, drawn, strict=True))
    return Scores(rows, {name: row_ranks(saliency) for name, saliency in rows.items()}, units, gone or {})


def _score_units_from_data(
    lstm: LSTM, tensors: Mapping[str, Tensor], criterion: str, consumers: Iterable[str], statistics: Statistics
) -> dict[Place, Tensor]:
    if criterion != "outgoing":
        return {place: UNIT_SCORES[criterion](own) for place, own in statistics.layers.items()}
    return {
        place: own.activation * outgoing_norms(lstm, tensors, *place, consumers)
        for place, own in statistics.layers.items()
    }
