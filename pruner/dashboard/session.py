"""What a visitor's session holds: every value with its type, under one key, which is that of its widget if it has one.

Streamlit keeps the values (`st.session_state`); what is declared here says which there are. A name that is not declared can
be neither read nor set.
"""

from collections.abc import Callable, Iterable, Mapping
from copy import copy
from typing import Any, ClassVar, Generic, Literal, Self, TypeVar, overload

import streamlit as st
from streamlit.runtime.uploaded_file_manager import UploadedFile

from pruner.dashboard.gathered import Gathered
from pruner.dashboard.growing import GrowingMap
from pruner.dashboard.jobs import Job
from pruner.dashboard.pinned import Pinned
from pruner.dashboard.standing import Said, Standing
from pruner.examples.speaking import PROMPT, Line
from pruner.exports.verdict import Verdict
from pruner.files.checkpoint import Checkpoint
from pruner.lstm.gates import GATES, SIDES
from pruner.lstm.lstm import LSTM
from pruner.recipe import Recipe
from pruner.search.experiments import Compared, Experiment
from pruner.views.weight_view import REDUCTIONS

DIRECTIONS = ("forward", "reverse")
Lives = Literal["visitor", "model", "tab", "widget"]
Params = dict[str, list[str]]  # of a link
Value = TypeVar("Value")


class Kept(Generic[Value]):
    """One value of the session, under the name that it is declared with.

    It `lives` as long as the visitor stays, as long as their model is open, as long as the page is not loaded anew, or as
    long as its widget is there; it is its `first` value until something else is set.
    """

    every: ClassVar[list["Kept[Any]"]] = []
    key: str

    def __init__(self, first: Value, lives: Lives = "visitor") -> None:
        self.first, self.lives = first, lives
        self.every.append(self)

    def __set_name__(self, owner: type, name: str) -> None:
        self.key = name

    @overload
    def __get__(self, holder: None, owner: type) -> Self: ...

    @overload
    def __get__(self, holder: object, owner: type) -> Value: ...

    def __get__(self, holder: object | None, owner: type) -> Self | Value:
        return self if holder is None else self.value

    def __set__(self, holder: object, value: Value) -> None:
        self.value = value

    @property
    def value(self) -> Value:
        return st.session_state.get(self.key, self.first)

    @value.setter
    def value(self, value: Value) -> None:
        st.session_state[self.key] = value

    @property
    def is_set(self) -> bool:
        return self.key in st.session_state

    def forget(self) -> None:
        self.value = copy(self.first)


class Viewed(Kept[Value]):
    """A part of the view, which a link tells: one of the `choices` that an LSTM gives."""

    def __init__(self, first: Value, choices: Callable[[LSTM], Iterable[Value]]) -> None:
        super().__init__(first, "model")
        self.choices = choices


class Upload:
    """The file of an uploader. Once it is let go, the uploader goes on under another key, and nothing holds its bytes."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    @property
    def key(self) -> str:
        return f"{self._name}_{st.session_state.get(self._name, 0)}"

    @property
    def file(self) -> UploadedFile | None:
        return st.session_state.get(self.key)

    def let_go(self) -> None:
        st.session_state[self._name] = st.session_state.get(self._name, 0) + 1


def _tensors_of_the_file() -> Iterable[str]:
    opened = Session.checkpoint.value
    return opened.tensors if opened else ()


class Session:
    """What the visitor whose page is made has opened, chosen and given. `controls` holds what makes up the recipe, `work`
    what runs for them and came of it."""

    __slots__ = ()

    # The open model.
    checkpoint: Kept[Checkpoint | None] = Kept(None)
    example: Kept[str | None] = Kept(None)  # the name of the example that it is
    awaited: Kept[Params | None] = Kept(None, "tab")  # the link that waits for its file
    model_upload = Upload()
    path = Kept("", "widget")
    mapping = Kept("", "model")  # JSON
    problem: Kept[str | None] = Kept(None, "tab")  # with what was to be opened
    other_file: Kept[str | None] = Kept(None, "tab")  # said of a file that is not the link's

    # The view: the packed weight that is shown, and the selected unit.
    lstm = Kept("", "model")
    layer: Viewed[int] = Viewed(0, lambda lstm: range(lstm.num_layers))
    direction: Viewed[str] = Viewed(DIRECTIONS[0], lambda lstm: DIRECTIONS[: lstm.directions])
    side: Viewed[str] = Viewed(SIDES[0], lambda lstm: SIDES)
    unit: Viewed[int | None] = Viewed(None, lambda lstm: range(lstm.hidden_size))
    shown_gate: Viewed[str] = Viewed(GATES[0], lambda lstm: GATES)
    shown_tensor: Viewed[str] = Viewed(
        "", lambda lstm: _tensors_of_the_file()
    )  # shown on Weights in place of the block

    # How it is drawn.
    comparing = Kept(False)  # whether Masks shows what is pinned beside the present choice
    grid_order = Kept("index")
    grid_options = Kept(["shared", "clipped"])
    reduction = Kept(REDUCTIONS[0])
    window_row: Kept[int | None] = Kept(None)
    window_column = Kept(0)
    window_size = Kept(64)

    # What units are traced on, and found by.
    traced_on = Kept("typed")
    typed = Kept("", "model")
    sequence = Kept(0)  # of those that are held back
    first_step = Kept(0, "model")
    condition: Kept[str | None] = Kept(None, "model")
    typed_symbols = Kept("", "model")  # one of which is to be read
    followed_by = Kept("h")
    finding = Kept(False, "widget")  # whether units are looked for by what they do: the finder is unfolded
    listing = Kept(False, "widget")  # whether all units are listed beside the chosen one

    # The controls of the recipe, beside their values: what was set before, and what is set beside it.
    past: Kept[list[Recipe]] = Kept([], "model")
    at = Kept(-1, "model")  # where in the past the controls are
    pinned: Kept[Pinned | None] = Kept(None, "model")
    other_upload = Upload()
    other_problem: Kept[str | None] = Kept(None, "tab")
    recipe_upload = Upload()
    recipe_problem: Kept[str | None] = Kept(None, "tab")
    said: Kept[Said | None] = Kept(None, "tab")  # where Python last said that the sliders stand
    heard: Kept[Standing | None] = Kept(None, "tab")  # where they were moved to last
    shown: Kept[Standing | None] = Kept(None, "tab")  # where they stand in the browser
    consumers_named = Kept(False, "model")  # those that are known of an example

    # Inputs, and what was gathered from them.
    inputs_from = Kept("example")
    inputs_upload = Upload()
    time_major = Kept(False)
    embedding: Kept[str | None] = Kept(None, "model")
    calibrating: Kept[Job[Gathered] | None] = Kept(None, "model")
    gathered: Kept[Gathered | None] = Kept(None, "model")

    # What a reload finds: under which secret, and as what it was shared last, by the name of the model.
    secret = Kept("", "tab")
    joined: Kept[tuple[str, Mapping[str, Any]] | None] = Kept(None, "tab")

    # What is tried, what was, and how that is looked at.
    sweep_granularity = Kept("units")
    sweep_criteria: Kept[list[str]] = Kept([])  # none: the best known
    sweep_compensations: Kept[list[str]] = Kept([])  # likewise
    sweep_count = Kept(5)
    sensitivity_count = Kept(5)
    history: Kept[GrowingMap[Experiment]] = Kept(GrowingMap(), "model")  # by their keys, the oldest first
    compared: Kept[Compared | None] = Kept(None, "model")  # of the history, as it was compared last
    experiments = Kept("frontier")  # or "parts"
    over = Kept("macs")  # or "sparsity"
    most_lost = Kept(3.0)  # per cent
    target = Kept("macs", "widget")  # of the sparsities that follow from what each part loses

    # What recipes are worth.
    judged: Kept[dict[str, Job[Verdict]]] = Kept({}, "model")  # on a sample, by what was judged

    # What the open example says, dense and pruned.
    prompt = Kept(PROMPT, "model")
    spoken: Kept[dict[str, Job[list[Line]]]] = Kept({}, "tab")  # by who says it, and the prompt

    asked_for_all = Kept(False, "tab")  # whether a part of the page wants the whole page made anew

    # Lessons, whose controls are bound to the link.
    step = Kept("", "widget")
    weights = Kept("", "widget")

    def clicked_line(self, table: str) -> int:
        """The line of the table with this key whose button was just clicked."""
        return int(st.session_state[table].row)

    def clicked_unit(self, grids: str) -> int | None:
        """The unit that was just clicked on the grids with this key; -1 to select none."""
        unit: int | None = st.session_state[grids].unit
        return unit

    def move(self, sliders: str) -> dict[str, Any] | None:
        """Where the sliders with this key were just moved: `Standing.told`, `edition` and `rests`."""
        move: dict[str, Any] | None = st.session_state[sliders].move if sliders in st.session_state else None
        return move

    def held(self, component: str) -> str | None:
        """The secret that the browser was just found to hold by the component with this key."""
        held: str | None = st.session_state[component].held
        return held

    def set_in(self, cell: str) -> dict[str, str] | None:
        """What was just set in the animated cell with this key: the step, what is frozen and removed, as links have it."""
        told: dict[str, Any] | None = st.session_state[cell].set
        return told and {name: str(value) for name, value in told.items()}

    def answer(self, lesson: str) -> str | None:
        """What was answered to the question of the lesson of this name."""
        answered: str | None = st.session_state.get(f"answer_{lesson}")
        return answered

    def edits(self, table: str) -> dict[int, dict[str, Any]]:
        """What was typed into the table with this key: {line: {column: value}}."""
        edited: dict[int, dict[str, Any]] = st.session_state[table]["edited_rows"]
        return {int(line): changes for line, changes in edited.items()}


session = Session()
VIEWED = [kept for kept in Kept.every if isinstance(kept, Viewed)]
