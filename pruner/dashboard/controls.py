"""The controls of the recipe: for each of its fields what the session holds, how a link says it, and its widget.

A new field of the recipe needs an entry here and nothing else in the dashboard: recipe, link, undo and Masks follow.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any, TypeVar

from pruner import examples
from pruner.dashboard import choosers
from pruner.dashboard.session import Kept, Params, session
from pruner.dashboard.words import criterion_for
from pruner.files.consumer_choice import consumers_of, offered, proven
from pruner.importance.masks import check_layers
from pruner.lstm.gates import ALL_BLOCKS
from pruner.lstm.lstm import LSTM
from pruner.recipe import COST_CRITERIA, Recipe

Value = TypeVar("Value")
Reading = Callable[[list[str]], Any]  # what a link says: the value of a field, None for nothing
DEFAULT = Recipe()


class Control(Kept[Value]):
    """The control of a field, under whose name the session holds its value.

    `applies` to recipes that have a use for the field, as far as the controls before it say; `stays` if the control goes on
    saying the same beside one that has none. `to_field` makes the field of the control's value and the recipe so far,
    `from_field` is the way back. The page Masks draws the `widget` at its `place`, others are drawn by name.
    """

    def __init__(
        self,
        first: Value,
        read: Reading,
        parameter: str = "",
        applies: Callable[[Recipe], bool] = lambda recipe: True,
        to_field: Callable[[Value, Recipe], Any] = lambda value, recipe: value,
        from_field: Callable[[Any], Value] = lambda field: field,
        stays: bool = False,
        place: str | None = None,
        widget: Callable[[str, Recipe], None] | None = None,
    ) -> None:
        super().__init__(first, "model")
        self.read, self.parameter, self.applies, self.stays = read, parameter, applies, stays
        self.to_field, self.from_field, self.place, self.widget = to_field, from_field, place, widget

    def __set_name__(self, owner: type, name: str) -> None:
        super().__set_name__(owner, name)
        self.parameter = self.parameter or name

    def chosen(self, so_far: Recipe) -> Any:
        """The field as the control says it."""
        return self.to_field(self.value, so_far)

    def show(self, field: Any) -> None:
        """Let the control say the field."""
        self.value = self.from_field(field)

    def settle(self, recipe: Recipe) -> None:
        """Let the control say no more than it may beside the present recipe."""
        possible = self.from_field(self.chosen(recipe))
        if possible != self.value:
            self.value = possible

    def draw(self, recipe: Recipe) -> None:
        self.settle(recipe)
        if self.widget is not None:
            self.widget(self.key, recipe)


def _word(texts: list[str]) -> str | None:
    return texts[0] or None if texts else None


def _number(texts: list[str]) -> float | None:
    try:
        return float(texts[0])
    except (IndexError, ValueError):
        return None


def _whole(texts: list[str]) -> int | None:
    try:
        return int(texts[0])
    except (IndexError, ValueError):
        return None


def _names(texts: list[str]) -> tuple[str, ...] | None:
    return tuple(texts) or None


def _shares(name: Callable[[str], Any]) -> Reading:
    """Sparsities by their names, `hf:0.3`; what is no number becomes one that no recipe takes."""

    def read(texts: list[str]) -> dict[Any, float] | None:
        pairs = (text.partition(":") for text in texts)
        shares = {name(part): _number([share]) for part, _, share in pairs}
        return {part: -1 if share is None else share for part, share in shares.items()} or None

    return read


def _layer(text: str) -> int:
    return int(text) if text.isdecimal() and len(text) <= 4 else -1


def _texts(field: Any) -> list[str]:
    """A field as a link says it."""
    if field is None:
        return []
    if isinstance(field, Mapping):
        return [f"{name}:{share:g}" for name, share in field.items()]
    if isinstance(field, tuple):
        return list(field)
    return [f"{field:g}" if isinstance(field, float) else str(field)]


def to_prune(recipe: Recipe) -> list[LSTM]:
    """The LSTMs of the open model that a recipe prunes."""
    opened = session.checkpoint
    return opened.select(recipe.lstms) if opened and opened.lstms else []


def number_of_layers(recipe: Recipe) -> int:
    """How many layers the deepest of the LSTMs to prune has; 0 without one."""
    return max((lstm.num_layers for lstm in to_prune(recipe)), default=0)


def possible_consumers(recipe: Recipe) -> list[str]:
    """The tensors that are as wide as the output of one of the LSTMs to prune, with the LSTM where several fit."""
    opened, lstms = session.checkpoint, to_prune(recipe)
    return offered(opened, lstms) if opened and lstms else []


def _possible(consumers: list[str], recipe: Recipe) -> tuple[str, ...]:
    possible = possible_consumers(recipe)
    return tuple(name for name in consumers if name in possible)


def _of_units(recipe: Recipe) -> bool:
    return recipe.granularity == "units"


class Controls:
    """The fields of the recipe, each built on those above it."""

    __slots__ = ()

    sparsity = Control(Recipe.sparsity, _number)
    granularity = Control(
        Recipe.granularity,
        _word,
        place="head",
        widget=lambda key, recipe: choosers.choose_granularity(key, recipe, Controls().follow_granularity),
    )
    criterion = Control(
        Recipe.criterion,
        _word,
        to_field=lambda criterion, recipe: criterion_for(recipe.granularity, criterion),
        place="top",
        widget=choosers.choose_criterion,
    )
    compensation = Control(Recipe.compensation, _word, place="top", widget=choosers.choose_compensation)
    budget = Control(
        Recipe.budget,
        _number,
        applies=lambda recipe: recipe.compensation == "heal",
        place="top",
        widget=choosers.choose_budget,
    )
    steps = Control(Recipe.steps, _whole, applies=lambda recipe: recipe.compensation == "heal")
    seed = Control(
        Recipe.seed,
        _whole,
        applies=lambda recipe: recipe.criterion == "random",
        place="detail",
        widget=choosers.choose_seed,
    )
    lstms = Control[list[str]](
        [], _names, to_field=lambda names, _: tuple(names) or None, from_field=lambda names: list(names or ())
    )
    allocation = Control(
        Recipe.allocation,
        _word,
        applies=lambda recipe: _of_units(recipe) or recipe.criterion in COST_CRITERIA,
        place="detail",
        widget=choosers.choose_allocation,
    )
    round_to = Control(
        Recipe.round_to,
        _whole,
        applies=_of_units,
        place="detail",
        widget=lambda key, recipe: choosers.choose_rounding(
            key, recipe, sorted({lstm.hidden_size for lstm in to_prune(recipe)})
        ),
    )
    layer_sparsity = Control[dict[int, float]](
        {},
        _shares(_layer),
        "layers",
        applies=lambda recipe: recipe.allocation == "uniform",
        to_field=lambda own, recipe: {layer: own[layer] for layer in range(number_of_layers(recipe)) if layer in own},
        from_field=dict,
    )
    gate_sparsity = Control[dict[str, float]](
        {},
        _shares(str),
        "gates",
        applies=lambda recipe: recipe.allocation == "uniform" and not _of_units(recipe),
        to_field=lambda own, _: {block: own[block] for block in ALL_BLOCKS if block in own},
        from_field=dict,
    )
    consumers = Control[list[str]](
        [],
        _names,
        applies=lambda recipe: recipe.needs_data or _of_units(recipe),  # others have no consumers to speak of
        to_field=lambda names, recipe: _possible(names, recipe),
        from_field=list,
        stays=True,
        widget=lambda key, recipe: choosers.choose_consumers(key, possible_consumers(recipe)),
    )
    task = Control[str | None](
        Recipe.task,
        _word,
        applies=lambda recipe: recipe.needs_data,
        to_field=lambda task, recipe: task if recipe.consumers else None,
        stays=True,
        widget=choosers.choose_task,
    )

    def recipe(self) -> Recipe:
        """The recipe that the controls describe, whichever page they stand on."""
        return _built(DEFAULT, CONTROLS)

    def to_gather(self) -> Recipe:
        """What is gathered from inputs depends on this much of the recipe: the LSTMs, what reads them, and the task."""
        return _built(replace(DEFAULT, criterion="fisher"), (Controls.lstms, Controls.consumers, Controls.task))

    def apply(self, recipe: Recipe) -> None:
        """Set every control to what a recipe says. Raises PrunerError if it does not fit the open model."""
        opened = session.checkpoint
        if opened and opened.lstms:
            check_layers(recipe, opened.select(recipe.lstms))
            example = examples.example_of(opened)
            recipe = example.complete(recipe) if example else recipe
            consumers_of(opened, recipe)
        for control in CONTROLS:
            if control.applies(recipe):
                control.show(getattr(recipe, control.key))
            elif not control.stays:
                control.forget()

    def told(self) -> Params:
        """The present recipe as a link says it, what stands at its default left out, but for the sparsity."""
        recipe = self.recipe()
        fields = {control: getattr(recipe, control.key) for control in CONTROLS}
        return {
            control.parameter: _texts(field)
            for control, field in fields.items()
            if control is Controls.sparsity or field != getattr(DEFAULT, control.key)
        }

    def read(self, params: Params) -> Recipe:
        """The recipe that a link says. Raises PrunerError if it says none."""
        said = {control.key: control.read(params.get(control.parameter, [])) for control in CONTROLS}
        return Recipe(**{field: value for field, value in said.items() if value is not None})

    def draw(self, place: str) -> None:
        """Draw the controls of a place, as far as the recipe has a use for them."""
        recipe = self.recipe()
        for control in CONTROLS:
            if control.place == place and control.applies(recipe):
                control.draw(recipe)

    def follow_granularity(self) -> None:
        """Units of a model whose inputs are known fall in the brain surgeon's order and are healed, unless something else
        was chosen: by weights alone they leave a ruin. Rows go back to what they teach."""
        opened, healed = session.checkpoint, ("obs", "heal")
        known = opened is not None and (session.gathered is not None or examples.example_of(opened) is not None)
        chosen = self.criterion, self.compensation
        if self.granularity == "units" and known and chosen == (DEFAULT.criterion, DEFAULT.compensation):
            self.criterion, self.compensation = healed
        elif self.granularity == "rows" and chosen == healed:
            self.criterion, self.compensation = DEFAULT.criterion, DEFAULT.compensation

    def name_consumers(self) -> None:
        """Once a model: name what is known of an example, its consumer and its task, or the consumers that the file shows,
        unless something else is named."""
        opened = session.checkpoint
        if opened is None or session.consumers_named:
            return
        session.consumers_named = True
        example = examples.example_of(opened)
        if example and not self.consumers:
            self.consumers, self.task = [example.consumer], example.task
        elif not self.consumers:
            self.consumers = list(proven(opened, to_prune(self.recipe())))


def _built(recipe: Recipe, among: Iterable[Control[Any]]) -> Recipe:
    """A recipe with the fields of some controls as they say them."""
    for control in among:
        if control.applies(recipe):
            recipe = replace(recipe, **{control.key: control.chosen(recipe)})
    return recipe


controls = Controls()
CONTROLS = [control for control in vars(Controls).values() if isinstance(control, Control)]
PARAMETERS = tuple(control.parameter for control in CONTROLS)
