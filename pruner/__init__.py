"""Look inside an LSTM and make it smaller: gate-aware saliency pruning for PyTorch."""

from pruner.errors import PrunerError
from pruner.files.checkpoint import Checkpoint
from pruner.files.opening import open_checkpoint
from pruner.in_memory.lstm_saliency_pruner import LSTMSaliencyPruner
from pruner.in_memory.penalties import unit_penalty
from pruner.in_memory.saving import load_pruned, save_pruned
from pruner.progress import Cancelled
from pruner.recipe import Recipe
from pruner.result import Result, run

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
    "unit_penalty",
]
