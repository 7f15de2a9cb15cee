"""Look inside an LSTM and make it smaller: gate-aware saliency pruning for PyTorch."""

from typing import TYPE_CHECKING, Any

from pruner.errors import PrunerError
from pruner.files.checkpoint import Checkpoint
from pruner.files.opening import open_checkpoint
from pruner.in_memory.lstm_saliency_pruner import LSTMSaliencyPruner
from pruner.in_memory.penalties import unit_penalty
from pruner.in_memory.saving import load_pruned, save_pruned
from pruner.progress import Cancelled
from pruner.recipe import Recipe
from pruner.result import Result, run

if TYPE_CHECKING:
    from pruner.in_memory.shrinking import shrink

__all__ = [
    "Cancelled",
    "Checkpoint",
    "LSTMSaliencyPruner",
    "PrunerError",
    "Recipe",
    "Result",
    "load_pruned",
    "open_checkpoint",
    "run",
    "save_pruned",
    "shrink",
    "unit_penalty",
]


def __getattr__(name: str) -> Any:
    if name == "shrink":  # which takes what searches do a second to import
        from pruner.in_memory.shrinking import shrink

        return shrink
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
