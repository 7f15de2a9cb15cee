"""Which of two orders of removal is taken, told by what each loses on inputs that were held back."""

import pytest

from pruner import Recipe, examples
from pruner.calibration.gathering import gather
from pruner.calibration.observations import Statistics
from pruner.compensation.chain import compensate
from pruner.compensation.order_trial import SPARSITY, with_the_better_order
from pruner.pipeline import choose_masks, gather_statistics
from tests.helpers.calibration import lstm_and_head, random_data

REBER = examples.named("embedded-reber")


def by_cost_alone(statistics: Statistics) -> bool:
    return statistics.weighed_by == "cost"


def test_the_order_that_loses_less_is_taken() -> None:
    checkpoint = REBER.open()
    calibration, lstm = REBER.calibration(checkpoint), checkpoint.lstms[0]
    recipe = REBER.complete(Recipe(SPARSITY, "units", "obs", compensation="fold"))
    both = gather(lstm, checkpoint.tensors, calibration.split()[0], recipe.consumers, recipe.task)
    chosen = gather_statistics(checkpoint, recipe, calibration)

    def lost(statistics: Statistics) -> float:
        masks = choose_masks(checkpoint, recipe, statistics={lstm.name: statistics})
        facts = compensate(checkpoint, recipe, masks, {lstm.name: both}, calibration).facts
        return float(facts["lstms"][0]["steps"][0]["after"])

    assert both.weighed_by == "cost and readers"
    assert by_cost_alone(chosen[lstm.name])  # readers mislead where one unit holds the task
    masks = choose_masks(checkpoint, recipe, statistics=chosen)
    assert compensate(checkpoint, recipe, masks, chosen, calibration).facts["lstms"][0]["order_weighed_by"] == "cost"
    assert lost(chosen[lstm.name]) < lost(both)


@pytest.mark.parametrize("shape", [{}, {"num_layers": 2, "bidirectional": True}], ids=str)
def test_one_of_both_comes_back_with_all_else_as_it_was(shape: dict[str, int]) -> None:
    lstm, tensors = lstm_and_head(**shape)
    calibration = random_data((6, 12))
    found = gather(lstm, tensors, calibration.split()[0], ["head.weight"], "softmax")
    chosen = with_the_better_order(lstm, tensors, found, calibration, ["head.weight"], "softmax")
    assert chosen is found or by_cost_alone(chosen)
    for place, layer in chosen.layers.items():
        assert layer.importance is found.layers[place].importance and layer.units is found.layers[place].units


def test_it_can_be_cancelled_between_its_steps() -> None:
    lstm, tensors = lstm_and_head()
    calibration = random_data((6, 12))
    found = gather(lstm, tensors, calibration.split()[0], ["head.weight"], "softmax")
    said: list[str] = []
    with_the_better_order(
        lstm, tensors, found, calibration, ["head.weight"], "softmax", "cpu", lambda _, what: said.append(what)
    )
    assert len(said) >= 8 and set(said) == {"Trying orders of removal in rnn"}
