"""Layer sparsities that reach a target with the least loss, from what each layer bears alone."""

from dataclasses import dataclass, replace

from pruner.errors import PrunerError
from pruner.files.checkpoint import Checkpoint
from pruner.importance.masks import dropped_rows, rounded_up
from pruner.lstm.gates import GATES
from pruner.lstm.lstm import LSTM
from pruner.lstm.sizes import macs_per_step, parameters_in
from pruner.recipe import Recipe, check_choice
from pruner.search.front import front
from pruner.search.parts import Sensitivity
from pruner.search.sweep import runnable

TARGETS = ("parameters", "macs", "loss")


@dataclass(frozen=True)
class Suggestion:
    """A recipe with a sparsity for each layer, the share of the LSTMs' parameters or multiply-accumulates that it
    leaves (of the latter for the target `loss`), and the sum of what its layers lost alone, which is no more than a
    guess at the loss of all."""

    recipe: Recipe
    share: float
    predicted_loss: float


def suggest(checkpoint: Checkpoint, recipe: Recipe, sensitivity: Sensitivity, target: str, amount: float) -> Suggestion:
    """The sparsities of least predicted loss that leave at most the share `amount` of the LSTMs' `parameters` or `macs`; for
    the target `loss`, those that leave the least work and are predicted to lose at most `amount` of the quality.

    Exact among the sparsities that were measured, and 0: what a layer costs depends on the one below, so fronts of (cost,
    loss) that nothing beats in both are carried from layer to layer, one for each sparsity of the layer reached. Raises
    PrunerError if no choice reaches the target.
    """
    check_choice("target", target, TARGETS)
    if not amount >= 0:
        raise PrunerError(f"expected an amount from 0 up, found {amount}")
    lstms = checkpoint.select(recipe.lstms)
    levels = (0.0, *sensitivity.sparsities)
    losses = _losses_by_layer(sensitivity)
    whole = sum(_cost(lstm, layer, recipe, 0.0, 0.0, target) for lstm in lstms for layer in range(lstm.num_layers))
    fronts: dict[float, list[_Choice]] = {}
    for layer, own in sorted(losses.items()):
        longer: dict[float, list[_Choice]] = {}
        for level, loss in zip(levels, (0.0, *own), strict=True):
            before = [choice for reached in fronts.values() for choice in reached] or [_Choice(0, 0.0, ())]
            longer[level] = front(
                (
                    _Choice(
                        choice.cost
                        + sum(
                            _cost(lstm, layer, recipe, choice.levels[-1] if choice.levels else 0.0, level, target)
                            for lstm in lstms
                            if layer < lstm.num_layers
                        ),
                        choice.loss + loss,
                        (*choice.levels, level),
                    )
                    for choice in before
                ),
                _cost_and_loss,
            )
        fronts = longer
    ends = [choice for reached in fronts.values() for choice in reached]
    if target == "loss":
        fitting = sorted((choice.cost, choice.loss, choice.levels) for choice in ends if choice.loss <= amount)
        cost, loss, chosen = fitting[0]  # dropping nothing loses nothing
    else:
        within = sorted((choice.loss, choice.cost, choice.levels) for choice in ends if choice.cost <= amount * whole)
        if not within:
            least = min(choice.cost for choice in ends) / whole
            raise PrunerError(
                f"expected a share of {target} that the measured sparsities reach, found {amount:g}, where "
                f"{least:.3f} is the "
                "least; measure higher sparsities, or ask for more"
            )
        loss, cost, chosen = within[0]
    suggested = replace(
        recipe, allocation="uniform", gate_sparsity={}, layer_sparsity=dict(enumerate(chosen)), sparsity=chosen[0]
    )
    suggested = runnable(suggested, uneven=len(set(chosen)) > 1)
    return Suggestion(suggested, cost / whole, loss)


@dataclass(frozen=True)
class _Choice:
    cost: int
    loss: float
    levels: tuple[float, ...]


def _cost_and_loss(choice: _Choice) -> tuple[int, float]:
    return choice.cost, choice.loss


def _losses_by_layer(sensitivity: Sensitivity) -> dict[int, tuple[float, ...]]:
    """What each layer loses at each sparsity; of gate blocks, the sum over its eight."""
    found: dict[int, tuple[float, ...]] = {}
    for part in sensitivity.values:
        before = found.get(part[0], (0.0,) * len(sensitivity.sparsities))
        found[part[0]] = tuple(a + b for a, b in zip(before, sensitivity.losses(part), strict=True))
    return found


def _cost(lstm: LSTM, layer: int, recipe: Recipe, below: float, own: float, target: str) -> int:
    """Parameters or multiply-accumulates that one layer of an LSTM keeps, both directions, when the layer below and
    it are pruned so far."""
    kept, kept_below = (
        rounded_up(lstm.hidden_size, dropped_rows(lstm.hidden_size, share), recipe.round_to) for share in (own, below)
    )
    if recipe.granularity == "units":
        shapes = lstm.place_shapes(layer, kept, lstm.directions * kept_below)
    else:
        shapes = lstm.place_shapes(layer)
        shapes |= {name: (len(GATES) * kept, lstm.columns(layer, name[-2:])) for name in ("weight_ih", "weight_hh")}
    count = parameters_in if target == "parameters" else macs_per_step
    return lstm.directions * count(shapes.values())
