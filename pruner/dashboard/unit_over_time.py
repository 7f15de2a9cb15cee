"""What the selected hidden unit does over time, dense and pruned, on what one types or on inputs that were held back."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import streamlit as st
from torch import Tensor

from pruner.calibration.alphabet import Alphabet
from pruner.dashboard import inputs
from pruner.dashboard.downloads import csv_button, png_button
from pruner.dashboard.finding import chosen_condition
from pruner.dashboard.gathered import Gathered
from pruner.dashboard.gathering import told
from pruner.dashboard.reading import symbols_of
from pruner.dashboard.session import Session, session
from pruner.dashboard.text import plain
from pruner.dashboard.view import View
from pruner.errors import PrunerError
from pruner.files.checkpoint import Checkpoint
from pruner.recipe import Recipe
from pruner.views.conditions import is_binary
from pruner.views.trace_figure import OverTime, trace_figure
from pruner.views.unit_trace import held_back, layer_trace, masked, most_moved, steps_to_trace, unit_trace

WAYS = {"typed": "What I type", "held back": "Inputs that were held back"}
TYPED_TITLES = {"text": "Text to read", "grammar": "String to read", "tokens": "Token numbers to read"}
WIDTH = 48  # characters that stand side by side on a phone
MOST_TYPED = 2000
MOST_UNITS = 512  # whose outputs are drawn beside the unit's own


@dataclass(frozen=True)
class Read:
    """What is read: inputs (1, T, I), their symbols where these are known, and what they are in words."""

    key: str
    inputs: Tensor
    symbols: list[str] | None
    told: str


def show_over_time(
    checkpoint: Checkpoint,
    view: View,
    unit: int,
    recipe: Recipe,
    masks: Mapping[str, Tensor],
    alphabet: Alphabet | None,
) -> None:
    """Traces of a unit with and without the rows that the masks of the recipe drop, and its layer around it."""
    held = inputs.current()
    ways = [way for way, there in (("typed", alphabet), ("held back", held)) if there is not None]
    if not ways:
        inputs.ask_for("What a unit does over time can only be shown on inputs.")
        return
    if session.traced_on not in ways:
        session.traced_on = ways[0]
    if len(ways) > 1:
        st.segmented_control(
            "Traced on",
            ways,
            format_func=WAYS.__getitem__,
            key=Session.traced_on.key,
            required=True,
            persist_state="session",
        )
    read: Read | None = None
    try:
        if session.traced_on == "typed" and alphabet is not None:
            read = _typed(checkpoint, view, alphabet)
        elif held is not None:
            read = _held_back(checkpoint, view, alphabet, held)
    except PrunerError as error:
        st.error(plain(str(error)), title="This cannot be read", icon=":material/error:")
        return
    if read is not None:
        _show(checkpoint, view, unit, recipe, masks, read, _holds(alphabet, read))


def _typed(checkpoint: Checkpoint, view: View, alphabet: Alphabet) -> Read:
    """Raises PrunerError for symbols that the model does not know."""
    session.typed = session.typed or alphabet.begin
    st.text_area(
        TYPED_TITLES[alphabet.kind],
        key=Session.typed.key,
        persist_state="session",
        height=90,
        max_chars=MOST_TYPED,
        help="Read from a zero state, symbol by symbol. "
        + (f"Through {plain(alphabet.embedding)}." if alphabet.kind == "tokens" and alphabet.embedding else ""),
    )
    numbers = alphabet.numbers(session.typed)[None, : steps_to_trace(view.lstm, view.layer)]
    symbols = alphabet.read(numbers)[0]
    return Read(f"typed {symbols}", alphabet.inputs(numbers, checkpoint.tensors), symbols, "what was typed")


def _held_back(checkpoint: Checkpoint, view: View, alphabet: Alphabet | None, gathered: Gathered) -> Read | None:
    """Raises PrunerError where too little can be held back."""
    calibration = gathered.calibration
    if view.lstm.name not in calibration.sequences:
        st.info("There are no inputs of this LSTM: it is not among those to prune.", icon=":material/model_training:")
        return None
    sequences = held_back(calibration, view.lstm)
    session.sequence = min(session.sequence, len(sequences) - 1)
    st.number_input(
        f"Held-back sequence, 0 to {len(sequences) - 1}",
        0,
        len(sequences) - 1,
        key=Session.sequence.key,
        persist_state="session",
        width=220,
    )
    sequence = sequences[session.sequence][:, : steps_to_trace(view.lstm, view.layer)]
    return Read(
        f"{gathered.key} {session.sequence}",
        calibration.looked_up(sequence, checkpoint.tensors),
        symbols_of(alphabet, calibration, sequence),
        f"{told(calibration.source, calibration.name)}, held back when scores and compensation are fitted",
    )


def _holds(alphabet: Alphabet | None, read: Read) -> np.ndarray | None:
    """At which steps the condition holds by which units were last looked for; None of a number."""
    try:
        condition = chosen_condition(alphabet) if alphabet and read.symbols else None
    except PrunerError:  # which is said where the symbols are typed
        return None
    if condition is None or read.symbols is None:
        return None
    values = condition(read.symbols)
    return values > 0 if is_binary(values) else None


def _show(
    checkpoint: Checkpoint,
    view: View,
    unit: int,
    recipe: Recipe,
    masks: Mapping[str, Tensor],
    read: Read,
    holds: np.ndarray | None,
) -> None:
    key = f"{checkpoint.sha256} {view.lstm.name} {view.layer} {view.direction} {recipe.to_json()} {read.key}"
    traced = _traces(key, checkpoint, view, masks, read.inputs)
    dense, pruned = (unit_trace(each, unit) for each in traced)
    shown = _choose_steps(len(dense), read.symbols)
    units = most_moved(traced[0][0][shown], MOST_UNITS)
    st.caption(
        f"The first {len(dense)} steps of {read.told}. Pruned: with the rows of the present recipe at zero in every layer, "
        "without compensation. Point at a step, or at the symbol that was read, to see it everywhere."
        + (f" Shaded: {session.condition}." if holds is not None and holds[shown].any() else "")
        + (f" Beside it the {len(units)} units that move most." if len(units) < view.lstm.hidden_size else "")
    )
    part = OverTime(
        unit,
        dense[shown],
        pruned[shown],
        traced[0][0][shown][:, units],
        units.tolist(),
        None if read.symbols is None else read.symbols[shown],
        None if holds is None else holds[shown],
    )
    st.plotly_chart(
        trace_figure(part, view.gate),
        key="traces",
        config=png_button(f"unit-{unit}-traces"),
        alt=f"Output, cell state and gates of unit {unit} over time steps, dense and pruned, the outputs of its layer, "
        "and the symbols that were read",
    )
    both = dense.add_suffix(" dense").join(pruned.add_suffix(" pruned")).rename_axis("step").reset_index()
    if read.symbols is not None:
        both.insert(1, "read", read.symbols)
    csv_button(both, f"unit-{unit}-traces")


def _choose_steps(steps: int, symbols: list[str] | None) -> slice:
    """So many steps as can be read side by side; all of inputs that have no symbols."""
    if symbols is None:
        return slice(0, steps)
    count = max(WIDTH // max(map(len, symbols)), 8)
    if steps <= count:
        return slice(0, steps)
    session.first_step = min(session.first_step, steps - count)
    st.slider("First step shown", 0, steps - count, key=Session.first_step.key, persist_state="session")
    return slice(session.first_step, session.first_step + count)


@st.cache_resource(scope="session", max_entries=4, show_spinner="Running the layers up to this one")
def _traces(
    key: str, _checkpoint: Checkpoint, _view: View, _masks: Mapping[str, Tensor], _inputs: Tensor
) -> tuple[Tensor, Tensor]:
    lstm, tensors, place = _view.lstm, _checkpoint.tensors, (_view.layer, _view.direction)
    return layer_trace(lstm, tensors, *place, _inputs), layer_trace(lstm, masked(tensors, _masks), *place, _inputs)
