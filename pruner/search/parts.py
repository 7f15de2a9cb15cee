"""What is left of a model when one part of it, a layer or a gate block, is pruned alone."""

from dataclasses import dataclass

import pandas as pd

UNITS = "units"


@dataclass(frozen=True)
class Sensitivity:
    """`values` holds, for each part, what is left of the whole model at each of the `sparsities` of that part alone:
    its quality, or its drift where there is none. A part is (layer, "units"), or (layer, block) with blocks ii to ho."""

    sparsities: tuple[float, ...]
    dense: float
    higher_is_better: bool
    values: dict[tuple[int, str], tuple[float, ...]]

    def losses(self, part: tuple[int, str]) -> tuple[float, ...]:
        """How much worse than dense, at each sparsity; what comes out better counts as 0."""
        sign = -1 if self.higher_is_better else 1
        return tuple(max(0.0, sign * (value - self.dense)) for value in self.values[part])


def as_table(sensitivity: Sensitivity) -> pd.DataFrame:
    """One line a part and sparsity."""
    return pd.DataFrame(
        [
            {"layer": layer, "part": name, "sparsity": sparsity, "value": value}
            for (layer, name), values in sensitivity.values.items()
            for sparsity, value in zip(sensitivity.sparsities, values, strict=True)
        ]
    )
