"""The widgets of the recipe's plain controls, each under the key of its control and beside the present recipe."""

from collections.abc import Callable, Sequence
from typing import Any

import streamlit as st

from pruner.dashboard import words
from pruner.importance.masks import dropped_rows, rounded_up
from pruner.recipe import MAX_ROUND_TO, MAX_SEED, TASKS, Recipe


def choose_granularity(key: str, recipe: Recipe, chosen: Callable[[], None]) -> None:
    """Rows or units, so low that a phone shows grids below it; `chosen` is called with another one set."""
    st.segmented_control(
        "Granularity",
        list(words.GRANULARITY_TITLES),
        format_func=words.GRANULARITY_TITLES.__getitem__,
        key=key,
        required=True,
        persist_state="session",
        on_change=chosen,
        label_visibility="collapsed",
    )


def choose_criterion(key: str, recipe: Recipe) -> None:
    """What rows or whole units are ranked by."""
    st.pills(
        "Saliency of a unit" if recipe.granularity == "units" else "Saliency of a row",
        words.criteria_of(recipe.granularity),
        format_func=words.CRITERION_TITLES.__getitem__,
        key=key,
        required=True,
        persist_state="session",
        wrap=True,
    )
    st.caption(words.CRITERION_MEANING[recipe.criterion])


def choose_seed(key: str, recipe: Recipe) -> None:
    """Which lot is drawn, where one is."""
    st.number_input("Seed", min_value=0, max_value=MAX_SEED, key=key, persist_state="session", width=200)


def choose_compensation(key: str, recipe: Recipe) -> None:
    st.segmented_control(
        "Compensation",
        list(words.COMPENSATION_TITLES),
        format_func=words.COMPENSATION_TITLES.__getitem__,
        key=key,
        required=True,
        persist_state="session",
    )
    st.caption(words.COMPENSATION_MEANING[recipe.compensation])


def choose_time(label: str, key: str, present: float, **more: Any) -> None:
    """Some usual times, and whatever is chosen already, by a recipe or a link."""
    st.segmented_control(
        label,
        sorted({*words.BUDGETS, present}),
        format_func=words.time_of,
        key=key,
        required=True,
        persist_state="session",
        **more,
    )


def choose_budget(key: str, recipe: Recipe) -> None:
    """How long to heal."""
    choose_time("Time to heal", key, recipe.budget, disabled=recipe.steps is not None)
    if recipe.steps is not None:
        st.caption(f"The recipe asks for {recipe.steps:,} updates instead, which give the same numbers on every run.")


def choose_allocation(key: str, recipe: Recipe) -> None:
    titles = words.ALLOCATION_TITLES[recipe.granularity]
    st.segmented_control(
        "Allocation",
        list(titles),
        format_func=titles.__getitem__,
        key=key,
        required=True,
        persist_state="session",
        wrap=True,
    )


def choose_rounding(key: str, recipe: Recipe, sizes: Sequence[int]) -> None:
    """Rounding, and what it does to layers of these hidden sizes."""
    st.number_input(
        "Round the kept count up to a multiple of",
        min_value=1,
        max_value=MAX_ROUND_TO,
        key=key,
        persist_state="session",
        help="Kernels take steps: 257 units cost as much as 272, so a multiple of 16 is free. 1: off.",
        width=300,
    )
    if recipe.round_to > 1 and recipe.allocation == "uniform":
        kept = {size: (size - dropped_rows(size, recipe.sparsity)) for size in sizes}
        told = [
            f"{rounded_up(size, size - exact, recipe.round_to)} units of {size}, not {exact}"
            for size, exact in kept.items()
        ]
        st.caption(f"Layers keep {'; '.join(told)}.")


def choose_consumers(key: str, offered: list[str]) -> None:
    """The tensors that read the output of the last layer, where any could."""
    if offered:
        st.multiselect(
            "Tensors that read the output of the last layer",
            offered,
            key=key,
            persist_state="session",
            placeholder="None: the output keeps its width",
            help="Of whole units, their columns go with the removed ones, so that the whole model loads into your own class "
            "at the new hidden size. These tensors have the right width, which proves nothing: name only what you know to "
            "read the output, and all that does.",
        )


def choose_task(key: str, recipe: Recipe) -> None:
    """What the consumers are for."""
    st.segmented_control(
        "What comes out of them",
        TASKS,
        format_func=words.TASK_TITLES.__getitem__,
        key=key,
        persist_state="session",
        help="The task that the model serves, so that a loss can be told from its output. Leave it open if it is "
        "something else: scores then go by the weights that read each unit.",
    )
