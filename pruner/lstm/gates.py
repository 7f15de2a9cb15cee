"""Gate names, gate order and the row arithmetic of packed tensors.

PyTorch packs the four gates of an LSTM into the rows of one tensor, in the order input, forget, cell, output:
row `gate * H + unit` for hidden size H (https://docs.pytorch.org/docs/stable/generated/torch.nn.LSTM.html).
Other frameworks use other orders, so an order is always named here and never assumed elsewhere.
"""

import re
from dataclasses import dataclass

from torch import Tensor

GATES = ("i", "f", "g", "o")
GATE_TITLES = {"i": "input", "f": "forget", "g": "cell", "o": "output"}
SIDES = ("ih", "hh")
SIDE_TITLES = {"ih": "input-hidden", "hh": "hidden-hidden"}
BLOCKS = {"ih": ("ii", "if", "ig", "io"), "hh": ("hi", "hf", "hg", "ho")}
ALL_BLOCKS = BLOCKS["ih"] + BLOCKS["hh"]

_STANDARD_NAME = re.compile(r"(weight|bias)_(ih|hh|hr)(?:_l(0|[1-9][0-9]{0,3})(_reverse)?)?")


def split_gates(packed: Tensor) -> Tensor:
    """View a packed tensor (4H, ...) as (4, H, ...), gates in the order of `GATES`.

    The other way round, `view(H, 4, ...)`, is the classic mistake: it mixes four neighbouring units of one gate.
    """
    return packed.unflatten(0, (len(GATES), -1))


@dataclass(frozen=True)
class StandardName:
    """What PyTorch's own name of an LSTM tensor says, e.g. `weight_ih_l1_reverse`; `layer` is None for an LSTMCell."""

    kind: str  # "weight" or "bias"
    side: str  # "ih", "hh" or "hr" (projection)
    layer: int | None
    direction: int  # 0 forward, 1 reverse

    def __str__(self) -> str:
        return f"{self.kind}_{self.side}{layer_suffix(self.layer, self.direction)}"


def layer_suffix(layer: int | None, direction: int) -> str:
    """The end of a tensor's name: `_l0`, `_l0_reverse`, or nothing for an LSTMCell (layer None)."""
    if layer is None:
        return ""
    return f"_l{layer}" + ("_reverse" if direction else "")


def parse_standard_name(name: str) -> StandardName | None:
    """Read a tensor's name without its module prefix; None if it is not that of an LSTM tensor."""
    match = _STANDARD_NAME.fullmatch(name)
    if match is None:
        return None
    kind, side, layer, reverse = match.groups()
    return StandardName(kind, side, None if layer is None else int(layer), 1 if reverse else 0)
