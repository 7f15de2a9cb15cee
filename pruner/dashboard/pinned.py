"""What is pinned to compare with: a recipe on the open model, or another checkpoint of the same architecture."""

from dataclasses import dataclass, replace

from pruner.errors import PrunerError, shown
from pruner.files.checkpoint import Checkpoint
from pruner.files.opening import open_checkpoint
from pruner.recipe import DATA_CRITERIA, Recipe, row_norm


@dataclass(frozen=True)
class Pinned:
    """A: a recipe that stays as it is on the open model, or another checkpoint, which follows the recipe of the controls."""

    title: str
    recipe: Recipe | None
    checkpoint: Checkpoint

    def recipe_beside(self, recipe: Recipe) -> Recipe:
        """The recipe of A when the controls say `recipe`. What was gathered is not of another checkpoint, so that rows and
        units are ranked by a norm there."""
        if self.recipe is not None:
            return self.recipe
        if not recipe.needs_data:
            return recipe
        norm = row_norm(recipe.criterion) if recipe.criterion in DATA_CRITERIA else recipe.criterion
        allocation = "uniform" if recipe.granularity == "rows" else recipe.allocation
        return replace(recipe, criterion=norm, compensation="none", task=None, allocation=allocation, consumers=())


def pinned_file(opened: Checkpoint, source: str | bytes, name: str | None) -> Pinned:
    """Another checkpoint as A. Raises PrunerError if it cannot be opened, or has other LSTMs than the open model."""
    other = open_checkpoint(source, name, isolated=True, own=True)
    here, there = ({lstm.name: lstm.describe() | {"dtype": ""} for lstm in each.lstms} for each in (opened, other))
    if here != there:
        different = next(name for name in [*here, *there] if here.get(name) != there.get(name))
        raise PrunerError(
            f"expected a checkpoint with the LSTMs of {opened.name}, found another {shown(different or '(root)')} in "
            f"{other.name}; compare checkpoints of one architecture"
        )
    return Pinned(other.name, None, other)
