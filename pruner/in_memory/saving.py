"""Models of any stage of pruning, into one file and back into the class that they came from."""

import copy
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pruner.compact.load_pruned import STANDS_FOR, assemble, settle
from pruner.errors import PrunerError, shown
from pruner.files.modules import IGNORING
from pruner.files.staging import Staging
from pruner.in_memory.replacing import with_hooks_of
from pruner.in_memory.row_mask import attach
from pruner.in_memory.wrappers import check_module, check_whole, unwrapped
from pruner.lstm.describing import described
from pruner.lstm.gates import GATES
from pruner.lstm.lstm import title_of

_PLACE = re.compile(r"parametrizations\.(?P<name>\w+)\.original$")  # of a tensor under a mask
_MASK = re.compile(r"parametrizations\.\w+\.0\.mask$")
_EXTRA = "_extra_state"  # with which nn.Module ends the name of what `get_extra_state` gave
# Which tensor tells what an LSTM is stored as, in the modules of load_pruned.py.
_TOLD_BY = {"kept_0": "ReconstructingLSTM", "layers.0.kept": "CompactLSTM", "layers.0.rows_ih": "RowCompactLSTM"}


def save_pruned(model: nn.Module, path: str | os.PathLike[str]) -> None:
    """Write a model to a file, whatever stage of pruning it is in: dense, under masks, squashed or pruned.

    The file holds its `state_dict` under that name, which `load_pruned` and the dashboard open; of a model that
    DataParallel, distributed or not, or torch.compile wrap, that of the model inside. Raises PrunerError for one that FSDP
    shards, and where it cannot be written; what was there stays.

        >>> import tempfile
        >>> from pruner import load_pruned, save_pruned
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_pruned(torch.nn.LSTM(8, 16), f"{folder}/model.pt")
        ...     load_pruned(lambda: torch.nn.LSTM(8, 16), f"{folder}/model.pt")
        LSTM(8, 16)
    """
    check_module(model)
    target = Path(path)
    whole = unwrapped(model)[1]
    check_whole(whole)
    try:
        with Staging(target.parent, target.name) as staging:
            part = staging.files / target.name
            torch.save({"state_dict": whole.state_dict(), **_ignoring(whole)}, part)
            staging.settle()
            part.replace(target)
    except (OSError, RuntimeError) as error:
        raise PrunerError(
            f"expected a place to write {target.name}, found {shown(getattr(error, 'strerror', str(error)))}; choose another"
        ) from error


def load_pruned(model: nn.Module | Callable[[], nn.Module], path: str | os.PathLike[str]) -> nn.Module:
    """The model in a file of `save_pruned`, or of `torch.save(model.state_dict(), path)`, at its stage of pruning.

    `model` is the dense model, which stays as it is, or what makes one when it is called, such as its class. What no
    file holds, `batch_first` and `dropout`, is as there; masks are on it again, and `prepare` takes them over. Nothing
    in the file is executed. Raises PrunerError for a file that cannot be read and where the two do not fit each other.

        >>> import tempfile
        >>> from pruner import LSTMSaliencyPruner, load_pruned, save_pruned
        >>> small, pruner = torch.nn.LSTM(8, 16), LSTMSaliencyPruner(granularity="units")
        >>> pruner.prepare(small)
        >>> pruner.step()
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_pruned(pruner.prune(), f"{folder}/small.pt")
        ...     print(type(load_pruned(torch.nn.LSTM(8, 16), f"{folder}/small.pt")).__name__)
        CompactLSTM
    """
    state, ignoring = _read(Path(path))
    made = copy.deepcopy(unwrapped(model)[1]) if isinstance(model, nn.Module) else _made_by(model)
    try:
        filled = _filled(made, state)
        for name in ignoring:
            settle(filled.get_submodule(name), True)
        return filled
    except (KeyError, IndexError, ValueError, RuntimeError, AttributeError) as error:
        raise PrunerError(
            f"expected a file of the model {type(made).__name__} as it was built before pruning, found another in "
            f"{Path(path).name} ({shown(str(error), 300)}); build the model with the sizes that it was trained with"
        ) from error


def _ignoring(model: nn.Module) -> dict[str, list[str]]:
    found = [path for path, module in model.named_modules() if getattr(module, "on_lost_state", None) == "ignore"]
    return {IGNORING: found} if found else {}


def _made_by(maker: Any) -> nn.Module:
    """The model that a class or a function makes."""
    try:
        made = maker()
    except TypeError as error:  # it is none, or wants arguments
        raise PrunerError(
            f"expected a model, or what makes one without arguments, found {shown(str(error))}; give the model, or "
            "lambda: Tagger(hidden_size=64)"
        ) from error
    if not isinstance(made, nn.Module):
        raise PrunerError(
            f"expected a model, or what makes one, found {type(made).__name__}; give the class of the model"
        )
    return made


def _read(path: Path) -> tuple[dict[str, Any], list[str]]:
    """The state dict in a file, and what it says of states."""
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever torch makes of bytes that are none of its own
        raise PrunerError(
            f"expected a file of torch.save at {path.name}, found {shown(str(error))}; check the path"
        ) from error
    state = found.get("state_dict", found) if isinstance(found, dict) else None
    if not isinstance(state, dict) or not all(isinstance(state[name], Tensor) or _is_extra(name) for name in state):
        raise PrunerError(
            f"expected the state_dict of a model in {path.name}, found other things; save it by save_pruned"
        )
    return state, found.get(IGNORING, [])


def _is_extra(name: Any) -> bool:
    """Whether it names what a module's own `get_extra_state` gave, which may be no tensor."""
    return isinstance(name, str) and name.endswith(_EXTRA)


def _filled(model: nn.Module, state: Mapping[str, Any]) -> nn.Module:
    """The model with the modules, the sizes, the masks and the numbers of a state dict."""
    plain = {_PLACE.sub(r"\g<name>", name): tensor for name, tensor in state.items() if not _MASK.search(name)}
    places = list(model.named_modules(remove_duplicate=False))
    smaller = False
    for path, module in places:
        if not isinstance(module, nn.LSTM | nn.LSTMCell) or model.get_submodule(path) is not module:
            continue
        own = {
            name.removeprefix(f"{path}.") if path else name: tensor for name, tensor in plain.items() if _at(path, name)
        }
        if not own:
            raise ValueError(f"nothing of {title_of(path)} among {', '.join(list(plain)[:3])}")
        new = _as_in(module, own)
        smaller = smaller or new is not module
        if module is model:
            model = new
        for other in [at for at, there in places if there is module and at]:
            model.set_submodule(other, new)
    for path, module in places if smaller else ():
        width = plain[f"{path}.weight"].shape[1] if type(module) is nn.Linear else 0
        if type(module) is nn.Linear and width < module.in_features:
            module.weight = nn.Parameter(
                module.weight.new_empty(len(module.weight), width), module.weight.requires_grad
            )
            module.in_features = width
    for match in filter(None, map(_PLACE.search, state)):
        attach(model.get_submodule(match.string[: match.start()].rstrip(".")), match["name"])
    model.load_state_dict(state)
    return model


def _at(path: str, name: str) -> bool:
    return not path or name.startswith(f"{path}.")


def _as_in(module: nn.LSTM | nn.LSTMCell, state: Mapping[str, Tensor]) -> nn.Module:
    """What stands for a dense LSTM in a file: the module itself, or another of the sizes and class of the tensors."""
    facts = described(module)
    entry: dict[str, Any] = {
        **facts.describe(),
        # Which an earlier round may have made narrower than the dense model is.
        "dense_hidden_size": int(state[STANDS_FOR][0]) if STANDS_FOR in state else facts.hidden_size,
        "stored_as": "LSTM",
        "layers": [{"kept_units": []} for _ in facts.places],
    }
    for name, kind in _TOLD_BY.items():
        if name in state:
            entry["stored_as"] = kind
    if entry["stored_as"] == "LSTM":
        rows, columns = state[f"weight_ih{facts.suffix(0, 0)}"].shape
        entry["stored_hidden_size"] = rows // len(GATES)
        if (columns, entry["stored_hidden_size"]) == (facts.input_size, facts.hidden_size):
            return module
    for name in ("layers.0.lstm.weight_ih_l0", "layers.0.weight_ih_rows"):
        if name in state:  # it may read another LSTM, which became smaller
            entry["input_size"] = state[name].shape[1]
    state = {name: tensor.clone() for name, tensor in state.items()}
    new: Any = assemble(entry, state, getattr(module, "batch_first", False), full_width=False)
    if isinstance(module, nn.LSTM):
        new.dropout = module.dropout  # afterwards, because nn.LSTM warns of one with a single layer
    trained = any(parameter.requires_grad for parameter in module.parameters())
    like = next(module.parameters())
    new.to(like.device, like.dtype).train(module.training).requires_grad_(trained)
    return with_hooks_of(module, new)
