"""What criteria, compensations and their kin are called on every page, and what they mean."""

from pruner.recipe import CRITERIA, ROW_CRITERIA, Recipe, row_norm

GRANULARITY_TITLES = {"rows": "Rows", "units": "Units"}
GRANULARITY_MEANING = {
    "rows": "Rows: each of the eight gate blocks drops its own weakest rows; every hidden unit stays, some gates constant.",
    "units": "Units: whole hidden units fall, all eight rows of each, so the model can really become smaller and faster.",
}
CRITERION_TITLES = {
    "l1": "L1 norm",
    "l2": "L2 norm",
    "group": "Group norm",
    "activation": "Activation",
    "outgoing": "Activation × outgoing",
    "taylor": "Taylor",
    "fisher": "Fisher",
    "obs": "Brain surgeon",
    "random": "Random",
}
CRITERION_WORDS = {
    "l1": "L1 norm",
    "l2": "L2 norm",
    "group": "group norm",
    "activation": "mean activation",
    "outgoing": "activation times outgoing weights",
    "taylor": "Taylor score",
    "fisher": "Fisher score",
    "obs": "brain surgeon score",
    "random": "random number",
}
CRITERION_MEANING = {
    "l1": "The sum of absolute weights, from the file alone, as torch.ao.pruning ranks.",
    "l2": "The Euclidean norm of the weights, from the file alone.",
    "group": "The Euclidean norm of all weights that belong to a unit, including those that read it.",
    "activation": "How large a unit is on your inputs, on average.",
    "outgoing": "How large a unit is on your inputs, times the weights that read it.",
    "taylor": "How much the loss changes, to first order, without it. Needs the task.",
    "fisher": "How much the loss grows, to second order, when it is replaced by its mean.",
    "obs": "How much the loss grows when it is removed and the others take over what they can, one unit after another.",
    "random": "Drawn at random. A criterion that does not beat this says nothing.",
}
BUDGETS = (30.0, 60.0, 120.0, 300.0)  # seconds
COMPENSATION_TITLES = {"none": "None", "fold": "Fold", "heal": "Heal"}
COMPENSATION_MEANING = {
    "none": "What is dropped is simply gone.",
    "fold": "What stays takes over what inputs can tell of what is dropped.",
    "heal": "As Fold, and then trained to answer your inputs as the dense model does, without labels.",
}
CUT_MEANING = (  # of sorted curves
    " A dot is where the present recipe cuts a gate, its pruning threshold: the rows to its left fall. Shaded is what every "
    "gate drops."
)
TASK_TITLES = {"softmax": "Scores of categories", "regression": "Numbers"}
ALLOCATION_TITLES = {
    "units": {"uniform": "Every layer alike", "global": "All layers ranked together"},
    "rows": {"uniform": "Every gate alike", "global": "All gates and layers ranked together by cost"},
}


def criteria_of(granularity: str) -> list[str]:
    """The criteria that a granularity knows."""
    return [name for name in CRITERIA if granularity == "units" or name in ROW_CRITERIA]


def criterion_for(granularity: str, criterion: str) -> str:
    """The criterion itself, or a norm in place of one that scores whole units only."""
    return criterion if criterion in criteria_of(granularity) else row_norm(criterion)


def measure_of_rows(criterion: str) -> str:
    """What the score of a single row is called."""
    return CRITERION_WORDS[criterion_for("rows", criterion)]


def time_of(seconds: float) -> str:
    """Seconds as people say them."""
    return f"{seconds / 60:g} min" if seconds >= 60 and seconds % 30 == 0 else f"{seconds:g} s"


def way_of(recipe: Recipe) -> str:
    """How a recipe prunes, but for how much: what falls, by which criterion, and what makes up for it."""
    how = [recipe.granularity, CRITERION_TITLES[recipe.criterion]]
    how += ["ranked together"] if recipe.allocation == "global" else []
    how += {"none": [], "fold": ["folded"], "heal": ["healed"]}[recipe.compensation]
    return ", ".join(how)


def in_words(recipe: Recipe) -> str:
    """A recipe in as few words as tell it from others of its kind."""
    told = [f"{100 * recipe.sparsity:.3g}% of {way_of(recipe)}"]
    if recipe.compensation == "heal":
        told.append(f"{recipe.steps} updates" if recipe.steps else f"{recipe.budget:.0f} s")
    if recipe.round_to > 1:
        told.append(f"multiples of {recipe.round_to}")
    if recipe.criterion == "random":
        told.append(f"seed {recipe.seed}")
    told += [f"layer {layer} at {share:.0%}" for layer, share in recipe.layer_sparsity.items()]
    told += [f"{block} at {share:.0%}" for block, share in recipe.gate_sparsity.items()]
    return ", ".join(told)
