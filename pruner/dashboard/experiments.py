"""What was tried on the open model, to look at: the frontier, a table, and what to do with one of them."""

from datetime import datetime, timedelta, timezone

import pandas as pd
import streamlit as st

from pruner.dashboard.controls import controls
from pruner.dashboard.downloads import png_button
from pruner.dashboard.session import Session, session
from pruner.dashboard.text import plain
from pruner.dashboard.words import in_words, way_of
from pruner.search.experiments import Compared, Experiment
from pruner.views import search_figures

OVER_TITLES = {"macs": "Size", "sparsity": "Sparsity"}
FACTORS = "two factors a weight"
SHOWN = ("what", "value", "macs", "parameters", "front", "by", "when")
COLUMNS = {
    "what": st.column_config.TextColumn("recipe"),
    "macs": st.column_config.NumberColumn("work left", format="percent", help="Multiply-accumulates of the LSTMs."),
    "parameters": st.column_config.NumberColumn("parameters left", format="percent"),
    "front": st.column_config.CheckboxColumn("front", help="No other recipe leaves less and is better."),
    "by": st.column_config.TextColumn("tried by"),
    "when": st.column_config.DatetimeColumn("when", format="distance"),
}


def compared() -> Compared | None:
    """What was tried and can stand side by side: what is measured as the newest, unless something else is chosen."""
    ways = list(dict.fromkeys(each.judged_by for each in reversed(list(session.history.values()))))
    if not ways:
        return None
    way = ways[0]
    if len(ways) > 1:
        way = st.selectbox(
            "Judged by",
            ways,
            key=f"judged_by_{len(ways)}",
            help="What was judged in another way, or on other inputs, cannot stand beside it.",
            width=500,
        )
    found = Compared(tuple(each for each in list(session.history.values()) if each.judged_by == way))
    if found != session.compared:
        session.compared = found
    return session.compared


def as_table(found: Compared) -> pd.DataFrame:
    """One line an experiment, the best first, as `search_figures.experiments` has it."""
    now = controls.recipe()
    return pd.DataFrame(
        [
            {
                "key": each.key,
                "what": in_words(each.recipe) if each.recipe else FACTORS,
                "way": way_of(each.recipe) if each.recipe else FACTORS,
                "criterion": each.recipe.criterion if each.recipe else None,
                "compensation": each.recipe.compensation if each.recipe else None,
                "sparsity": each.recipe.sparsity if each.recipe else None,
                "value": each.value,
                "macs": each.macs,
                "parameters": each.parameters,
                "front": each in found.front,
                "now": each.recipe == now,
                "by": each.by,
                "when": each.when,
            }
            for each in found.best_first
        ]
    )


def draw(found: Compared, table: pd.DataFrame) -> str | None:
    """The frontier; the key of the experiment that was chosen in it."""
    told = table.assign(when=[f"{each.by}, {_clock(each.when)}" for each in found.best_first])
    chosen = st.plotly_chart(
        search_figures.experiments(told, session.over, found.measure, found.dense),
        key=f"frontier_of_{session.over}",
        config=png_button("experiments"),
        on_select="rerun",
        selection_mode="points",
        alt=f"{found.measure} over {OVER_TITLES[session.over].lower()} of {len(found.tried)} models that were tried",
    )
    points = chosen["selection"]["points"]
    return str(points[0]["customdata"][0]) if points and "customdata" in points[0] else None


def _clock(when: datetime) -> str:
    """The time of the visitor's day, if their browser tells how far it is from UTC."""
    return f"{when.astimezone(timezone(-timedelta(minutes=st.context.timezone_offset or 0))):%H:%M}"


def explain(found: Compared) -> None:
    """How the frontier is read."""
    better = "higher" if found.tried[0].verdict.higher_is_better else "lower"
    st.caption(
        f"Each point is a model that was tried, in its compact form: further left is smaller, {better} is better. *Folded* "
        "and *healed* say how what stays makes up for the rest. A criterion that does not beat random choice, grey, says "
        "nothing about this model. *Two factors*: every weight as the product of two thinner ones, which no kernel makes "
        "faster."
    )


def choose(found: Compared, table: pd.DataFrame, chosen: str | None) -> Experiment | None:
    """A table of what was tried, and the one that is selected in it: first the one `chosen` in the figure, else the
    smallest that loses little."""
    with st.container(horizontal=True, vertical_alignment="bottom"):
        st.segmented_control(
            "Over",
            list(OVER_TITLES),
            format_func=OVER_TITLES.__getitem__,
            key=Session.over.key,
            required=True,
            persist_state="session",
        )
        st.number_input(
            "Lose at most (%)",
            0.0,
            100.0,
            step=0.5,
            format="%.1f",
            key=Session.most_lost.key,
            persist_state="session",
            width=150,
        )
        smallest = found.smallest_within(session.most_lost / 100)
        st.markdown(
            f"The smallest that loses no more has **{smallest.macs:.0%}** of the multiply-accumulates: {titled(smallest)}."
            if smallest
            else "Nothing of this loses so little: drop less, or heal."
        )
    keys = [each.key for each in found.best_first]
    chosen = chosen if chosen in keys else smallest.key if smallest else None
    rows = [keys.index(chosen)] if chosen else []
    event = st.dataframe(
        table,
        hide_index=True,
        key=f"experiments_{len(keys)}_{'_'.join(map(str, rows))}",
        column_order=SHOWN,
        column_config={**COLUMNS, "value": st.column_config.NumberColumn(found.measure, format="%.4f")},
        on_select="rerun",
        selection_mode="single-row",
        selection_default={"selection": {"rows": rows}},
        alt=f"All that was tried, the best first, with {found.measure} and the shares of its dense size left",
    )
    return next((found.best_first[row] for row in event.selection.rows if row < len(keys)), None)


def titled(experiment: Experiment) -> str:
    """What it is, in words, as Markdown has it."""
    return plain(in_words(experiment.recipe)) if experiment.recipe else FACTORS
