"""Recipes: every setting survives JSON, what makes no sense is refused, nothing changes a recipe once made."""

import dataclasses
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pruner import PrunerError, Recipe
from pruner.lstm.gates import ALL_BLOCKS
from pruner.recipe import (
    ALLOCATIONS,
    COMPENSATIONS,
    COST_CRITERIA,
    CRITERIA,
    DATA_CRITERIA,
    MAX_ROUND_TO,
    MAX_SEED,
    ROW_CRITERIA,
    TASKS,
)

shares = st.floats(0, 1) | st.integers(0, 1)
lstms = st.none() | st.lists(st.text(), min_size=1, unique=True).map(tuple)
layers = st.dictionaries(st.integers(0, 9999), shares)
seeds = st.integers(0, MAX_SEED)
rows = st.builds(
    Recipe,
    sparsity=shares,
    granularity=st.just("rows"),
    criterion=st.sampled_from(ROW_CRITERIA),
    lstms=lstms,
    layer_sparsity=layers,
    gate_sparsity=st.dictionaries(st.sampled_from(ALL_BLOCKS), shares),
    compensation=st.sampled_from(COMPENSATIONS),
    seed=seeds,
)
rows_by_cost = st.builds(
    Recipe,
    sparsity=shares,
    criterion=st.sampled_from([name for name in COST_CRITERIA if name in ROW_CRITERIA]),
    allocation=st.just("global"),
    consumers=st.lists(st.text(), min_size=1).map(tuple),
    compensation=st.sampled_from(COMPENSATIONS),
    task=st.sampled_from([None, *TASKS]),
)
units = st.builds(
    lambda allocation, layers, consumers, task, **settings: Recipe(
        granularity="units",
        allocation=allocation,
        layer_sparsity=layers if allocation == "uniform" else {},
        consumers=consumers,
        task=task if consumers else None,
        **settings,
    ),
    allocation=st.sampled_from(ALLOCATIONS),
    layers=layers,
    sparsity=shares,
    criterion=st.sampled_from(list(CRITERIA)),
    round_to=st.integers(1, MAX_ROUND_TO),
    lstms=lstms,
    consumers=st.lists(st.text()).map(tuple),
    compensation=st.sampled_from(COMPENSATIONS),
    task=st.sampled_from([None, *TASKS]),
    seed=seeds,
)
recipes = rows | rows_by_cost | units


@given(recipes)
def test_json_round_trip(recipe: Recipe) -> None:
    assert Recipe.from_json(recipe.to_json()) == recipe
    assert Recipe.from_json(recipe.to_json().encode()) == recipe
    assert Recipe.from_dict(recipe.to_dict()) == recipe


def test_the_dictionary_of_a_recipe() -> None:
    recipe = Recipe(
        0.25, criterion="l2", lstms=("a", ""), layer_sparsity={10: 0.5, 2: 1}, gate_sparsity={"hf": 0, "ii": 1}
    )
    assert json.loads(recipe.to_json()) == {
        "sparsity": 0.25,
        "granularity": "rows",
        "criterion": "l2",
        "allocation": "uniform",
        "round_to": 1,
        "lstms": ["a", ""],
        "layer_sparsity": {"2": 1, "10": 0.5},
        "gate_sparsity": {"ii": 1, "hf": 0},
        "consumers": [],
        "compensation": "none",
        "budget": 60.0,
        "steps": None,
        "task": None,
        "seed": 0,
    }


def test_the_dictionary_of_a_recipe_for_units() -> None:
    recipe = Recipe(0.25, "units", "group", "global", 16, consumers=("head.weight", "out.weight"))
    assert json.loads(recipe.to_json()) == {
        "sparsity": 0.25,
        "granularity": "units",
        "criterion": "group",
        "allocation": "global",
        "round_to": 16,
        "lstms": None,
        "layer_sparsity": {},
        "gate_sparsity": {},
        "consumers": ["head.weight", "out.weight"],
        "compensation": "none",
        "budget": 60.0,
        "steps": None,
        "task": None,
        "seed": 0,
    }


def test_defaults() -> None:
    recipe = Recipe.from_json("{}")
    assert recipe == Recipe()
    assert (recipe.sparsity, recipe.granularity, recipe.criterion, recipe.lstms) == (0.5, "rows", "l1", None)
    assert recipe.layer_sparsity == recipe.gate_sparsity == {}
    assert (recipe.allocation, recipe.round_to, recipe.consumers) == ("uniform", 1, ())
    assert (recipe.compensation, recipe.task, recipe.seed) == ("none", None, 0)


@given(recipes)
def test_data_are_needed_for_scores_and_for_compensation(recipe: Recipe) -> None:
    assert recipe.needs_data == (recipe.criterion in DATA_CRITERIA or recipe.compensation in ("fold", "heal"))


BETWEEN = "between 0 and 1, found "
INVALID = {
    '{"sparsitty": 0.5}': r"among sparsity, .*; found 'sparsitty'",
    '{"sparsity": -0.1}': BETWEEN + "-0.1",
    '{"sparsity": 1.1}': BETWEEN + "1.1",
    '{"sparsity": NaN}': BETWEEN + "nan",
    '{"sparsity": Infinity}': BETWEEN + "inf",
    '{"sparsity": 1e999}': BETWEEN + "inf",
    f'{{"sparsity": 1{"0" * 400}}}': BETWEEN + "1000",
    '{"sparsity": true}': BETWEEN + "True",
    '{"sparsity": "0.5"}': BETWEEN + "'0.5'",
    '{"sparsity": null}': BETWEEN + "None",
    '{"sparsity": [0.5]}': BETWEEN + r"\[0.5\]",
    '{"granularity": "rowws"}': "expected a granularity among rows.*; found 'rowws'",
    '{"granularity": ["rows"]}': r"expected a granularity among rows.*; found \['rows'\]",
    '{"criterion": "l3"}': "expected a criterion among l1, l2.*; found 'l3'",
    '{"criterion": null}': "expected a criterion among l1, l2.*; found None",
    '{"granularity": "units", "allocation": "fair"}': "expected an? allocation among uniform, global; found 'fair'",
    '{"granularity": "units", "allocation": null}': "expected an? allocation among uniform, global; found None",
    **{
        f'{{"granularity": "units", "round_to": {value}}}': f"round_to from 1 to 4096, found {found}"
        for value, found in {
            "0": 0,
            "-1": -1,
            "4097": 4097,
            "1.5": 1.5,
            "true": True,
            '"8"': "'8'",
            "null": None,
        }.items()
    },
    '{"granularity": "units", "consumers": "head.weight"}': "consumers as a list of names, found 'head.weight'",
    '{"granularity": "units", "consumers": [1]}': r"consumers as a list of names, found \[1\]",
    '{"granularity": "units", "consumers": null}': "consumers as a list of names, found None",
    '{"allocation": "global"}': "expected granularity 'units' with allocation 'global' and criterion 'l1', found 'rows'",
    '{"round_to": 2}': "expected granularity 'units' with round_to 2, found 'rows'",
    '{"criterion": "fisher", "allocation": "global", "gate_sparsity": {"hf": 0}}': "no gate_sparsity with allocation",
    '{"compensation": "some"}': "expected a compensation among none, fold, heal; found 'some'",
    '{"compensation": "fold", "consumers": ["a"], "task": "ranking"}': "expected a task among softmax, regression",
    '{"compensation": "fold", "task": "softmax"}': "expected the consumers that serve the task 'softmax', found none",
    '{"criterion": "random", "seed": -1}': "expected a seed from 0 to 4294967295, found -1",
    '{"criterion": "random", "seed": true}': "expected a seed from 0 to 4294967295, found True",
    '{"consumers": ["head.weight"]}': "'units' with consumers, but neither a task nor compensation, found 'rows'",
    '{"granularity": "units", "gate_sparsity": {"hf": 0.5}}': "no gate_sparsity with granularity 'units'.* for hf",
    '{"granularity": "units", "allocation": "global", "layer_sparsity": {"0": 0.5}}': (
        "no layer_sparsity and no gate_sparsity with allocation 'global'"
    ),
    **{
        f'{{"criterion": "{criterion}"}}': f"expected granularity 'units' with criterion '{criterion}', found 'rows'"
        for criterion in CRITERIA
        if criterion not in ROW_CRITERIA
    },
    **{
        f'{{"criterion": "{criterion}", "allocation": "global"}}': f"'global' and criterion '{criterion}', found 'rows'"
        for criterion in ROW_CRITERIA
        if criterion not in COST_CRITERIA
    },
    '{"criterion": "taylor", "allocation": "global", "layer_sparsity": {"0": 1}}': "expected no layer_sparsity",
    '{"granularity": "units", "criterion": "obs", "allocation": "global", "layer_sparsity": {"0": 1}}': (
        "expected no layer_sparsity"
    ),
    '{"compensation": "fold", "round_to": 2}': "expected granularity 'units' with round_to 2, found 'rows'",
    '{"compensation": null}': "expected a compensation among none, fold, heal; found None",
    '{"compensation": true}': "expected a compensation among none, fold, heal; found True",
    '{"granularity": "units", "consumers": ["a"], "task": 1}': "expected a task among softmax, regression; found 1",
    '{"granularity": "units", "consumers": [], "task": "regression"}': "that serve the task 'regression', found none",
    f'{{"seed": {MAX_SEED + 1}}}': f"expected a seed from 0 to {MAX_SEED}, found {MAX_SEED + 1}",
    '{"seed": 1.0}': "expected a seed from 0 to 4294967295, found 1.0",
    '{"seed": "1"}': "expected a seed from 0 to 4294967295, found '1'",
    '{"seed": null}': "expected a seed from 0 to 4294967295, found None",
    '{"lstms": "encoder"}': "list of names or null, found 'encoder'",
    '{"lstms": [1]}': r"list of names or null, found \[1\]",
    '{"layer_sparsity": [0.5]}': r"layer_sparsity as an object of numbers, found \[0.5\]",
    '{"layer_sparsity": null}': "layer_sparsity as an object of numbers, found None",
    '{"layer_sparsity": {"first": 0.5}}': "layer numbers in layer_sparsity, found 'first'",
    '{"layer_sparsity": {"-1": 0.5}}': "layer numbers in layer_sparsity, found '-1'",
    '{"layer_sparsity": {"1.5": 0.5}}': "layer numbers in layer_sparsity, found '1.5'",
    '{"layer_sparsity": {"²": 0.5}}': "layer numbers in layer_sparsity, found '²'",
    f'{{"layer_sparsity": {{"{"9" * 5000}": 0.5}}}}': "expected .*, found .*999",
    '{"layer_sparsity": {"0": 2}}': "the sparsity of layer 0 between 0 and 1, found 2",
    '{"gate_sparsity": 0.5}': "gate_sparsity as an object of numbers, found 0.5",
    '{"gate_sparsity": {"f": 0.5}}': "expected a gate among ii, if, ig, io, hi, hf, hg, ho; found 'f'",
    '{"gate_sparsity": {"hf": false}}': "the sparsity of gate hf between 0 and 1, found False",
    "[]": "expected a recipe as a JSON object, found list",
    '"rows"': "expected a recipe as a JSON object, found str",
    "null": "expected a recipe as a JSON object, found NoneType",
    "": "expected a recipe as JSON, found text that is not JSON",
    '{"sparsity": 0.5': "expected a recipe as JSON, found text that is not JSON",
    "{'sparsity': 0.5}": "expected a recipe as JSON, found text that is not JSON",
    "[" * 100_000: "expected a recipe as JSON, found text that is not JSON",
    '{"sparsity": ' + "[" * 900 + "]" * 900 + "}": BETWEEN + r"\[\[",
}


@pytest.mark.parametrize(("text", "message"), INVALID.items(), ids=[text[:40] for text in INVALID])
def test_what_makes_no_sense_is_refused(text: str, message: str) -> None:
    with pytest.raises(PrunerError, match=message):
        Recipe.from_json(text)


@pytest.mark.parametrize(
    "data", [b"\xff\xfe\x00", b"\x89PNG\r\n\x1a\n", b"\x80\x04."], ids=["utf-16", "picture", "pickle"]
)
def test_files_that_are_not_text_are_refused(data: bytes) -> None:
    with pytest.raises(PrunerError, match="not JSON"):
        Recipe.from_json(data)


@pytest.mark.parametrize(
    "setting",
    [
        {"sparsity": 1.5},
        {"sparsity": "0.5"},
        {"granularity": "units of measure"},
        {"criterion": 1},
        {"criterion": "group"},
        {"allocation": "global"},
        {"granularity": "units", "allocation": "global", "layer_sparsity": {0: 0.5}},
        {"granularity": "units", "gate_sparsity": {"hf": 0.5}},
        {"granularity": "units", "round_to": 0},
        {"granularity": "units", "round_to": True},
        {"round_to": 8},
        {"consumers": ("head.weight",)},
        {"criterion": "obs"},
        {"criterion": "random", "allocation": "global"},
        {"criterion": "fisher", "allocation": "global", "layer_sparsity": {0: 0.5}},
        {"compensation": "refit"},
        {"compensation": "heal", "task": "softmax"},
        {"seed": -1},
        {"seed": True},
        {"layer_sparsity": {-1: 0.5}},
        {"layer_sparsity": {0: float("nan")}},
        {"gate_sparsity": {"xx": 0.5}},
    ],
    ids=str,
)
def test_the_constructor_refuses_the_same(setting: dict[str, Any]) -> None:
    with pytest.raises(PrunerError, match=r"expected .*found"):
        Recipe(**setting)


def test_settings_cannot_be_assigned() -> None:
    recipe = Recipe()
    for setting in dataclasses.fields(recipe):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(recipe, setting.name, None)


@pytest.mark.parametrize("make", [lambda given: Recipe(**given), Recipe.from_dict], ids=["constructor", "from_dict"])
def test_what_a_recipe_was_made_from_may_change_without_it(make: Any) -> None:
    given: dict[str, Any] = {"gate_sparsity": {"hf": 0.5}, "layer_sparsity": {}}
    recipe = make(given)
    given["gate_sparsity"]["hf"] = given["layer_sparsity"]["7"] = 7.0
    assert (recipe.gate_sparsity, recipe.layer_sparsity) == ({"hf": 0.5}, {})
