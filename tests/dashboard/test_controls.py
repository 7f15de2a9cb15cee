"""Every field of the recipe has a control; controls, links and undo say every recipe as it is."""

from dataclasses import fields, replace
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from pruner import Recipe
from pruner.dashboard.controls import CONTROLS, PARAMETERS
from tests.helpers.pages import CONSUMERS, checked, go, new_app, press, set_to, upload

RECIPES = {
    "rows": Recipe(0.3, criterion="l2", layer_sparsity={1: 0.4}, gate_sparsity={"hf": 0.1, "ig": 0.9}),
    "random rows": Recipe(0.125, criterion="random", seed=7),
    "rows by cost": Recipe(0.4, criterion="fisher", allocation="global", **CONSUMERS),
    "units": Recipe(0.0, "units", "group", round_to=16, layer_sparsity={0: 1.0}),
    "units, all layers together": Recipe(1.0, "units", "obs", "global", round_to=1, compensation="fold", **CONSUMERS),
    "only one LSTM": Recipe(0.5, "units", lstms=("lstm",), consumers=("linear.weight",)),
    "heal": Recipe(0.5, "units", "obs", compensation="heal", **CONSUMERS),
}


def present(app: AppTest) -> Recipe:
    """The recipe that the controls describe, as undo remembers it."""
    return app.session_state.past[app.session_state.at]


def opened(app: AppTest, recipe: Recipe) -> AppTest:
    """The page Masks of the larger example with a recipe loaded into its controls."""
    app.query_params["example"] = "pydocs-chars"
    return checked(upload(go(app.run(), "masks"), "recipe.json", recipe.to_json().encode()).run())


def test_every_field_has_one_control_and_one_parameter_of_links() -> None:
    assert sorted(control.key for control in CONTROLS) == sorted(field.name for field in fields(Recipe))
    assert len(set(PARAMETERS)) == len(PARAMETERS)


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_goes_through_controls_and_links_unchanged(app: AppTest, name: str) -> None:
    app = opened(app, RECIPES[name])
    assert present(app) == RECIPES[name]
    fresh = new_app()
    fresh.query_params.update({key: app.query_params[key] for key in app.query_params})
    assert present(checked(fresh.run())) == RECIPES[name]


def test_undo_brings_back_every_setting(app: AppTest) -> None:
    app = opened(app, RECIPES["rows"])
    for recipe in RECIPES.values():
        app = checked(upload(app, "recipe.json", recipe.to_json().encode()).run())
    for recipe in reversed(RECIPES.values()):
        assert present(app) == recipe
        app = press(app, "Undo")
    assert present(app) == Recipe()


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"granularity": "units", "criterion": "group"}, Recipe(0.5, "units", "group")),
        ({"criterion": "group"}, Recipe(criterion="l2")),
        ({"criterion": "obs"}, Recipe()),
        ({"allocation": "global"}, Recipe()),
        ({"seed": 5}, Recipe()),
        ({"round_to": 4}, Recipe()),
        ({"layer_sparsity": {7: 0.1}}, Recipe()),
        ({"consumers": ["linear.weight"], "task": "softmax"}, Recipe()),
        ({"criterion": "fisher", "task": "softmax"}, Recipe(criterion="fisher")),
        ({"consumers": ["linear.weight", "other"], "granularity": "units"}, "consumers"),
        ({"granularity": "units", "gate_sparsity": {"hf": 0.1}}, Recipe(0.5, "units")),
        ({"granularity": "units", "allocation": "global", "layer_sparsity": {0: 0.1}}, "global"),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, dict) else "",
)
def test_what_a_recipe_has_no_use_for_is_left_out(example: AppTest, changes: dict[str, Any], expected: Any) -> None:
    units = Recipe(0.5, "units")
    named = {"consumers": replace(units, consumers=("linear.weight",)), "global": replace(units, allocation="global")}
    for key, value in changes.items():
        example.session_state[key] = value
    assert present(checked(example.run())) == (named[expected] if isinstance(expected, str) else expected)


def test_consumers_stay_named_beside_a_recipe_that_has_no_use_for_them(app: AppTest) -> None:
    app = opened(app, RECIPES["units, all layers together"])
    app = checked(upload(app, "recipe.json", RECIPES["random rows"].to_json().encode()).run())
    assert present(app) == RECIPES["random rows"]
    assert (app.session_state.consumers, app.session_state.task) == (["linear.weight"], "softmax")


def test_what_a_loaded_recipe_has_no_use_for_does_not_come_back(app: AppTest) -> None:
    app = opened(app, RECIPES["units, all layers together"])
    app = checked(upload(app, "recipe.json", Recipe().to_json().encode()).run())
    assert app.session_state.allocation == "uniform"
    assert present(set_to(app, granularity="units")).allocation == "uniform"
