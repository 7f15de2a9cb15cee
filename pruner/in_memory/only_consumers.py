"""Which `nn.Linear` layers and LSTMs are the only consumers of an `nn.LSTM` of a model in memory."""

import ast
import copy
import inspect
import operator
import textwrap
from collections import Counter
from dataclasses import dataclass
from graphlib import TopologicalSorter
from typing import Any

from torch import fx, nn
from torch.nn import functional as F
from torch.nn.utils import rnn

from pruner.errors import shown

# A trace follows one way through these, and not what they depend on: types, None, errors, chance.
_BRANCHES = (ast.If, ast.IfExp, ast.BoolOp, ast.Match, ast.Try, ast.While)
_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
# What a trace does not look into.
_PACKING = (rnn.pack_padded_sequence, rnn.pad_packed_sequence, rnn.pack_sequence, rnn.pad_sequence)


class _Unclear(Exception):
    """Why it cannot be told, in words that complete a sentence."""


@dataclass(frozen=True)
class Readers:
    """What reads the LSTMs of a model: `consumers` as `only_consumers` has them, and for every other LSTM, why it is not
    there."""

    consumers: dict[str, dict[str, list[int]]]
    reasons: dict[str, str]


def only_consumers(model: nn.Module) -> dict[str, dict[str, list[int]]]:
    """{path of an `nn.LSTM`: {path of an `nn.Linear` or another LSTM: blocks}}, for each LSTM that nothing but these reads,
    those that come first before those that read them.

    The columns of such a consumer are blocks of H, each the output of one layer and direction, given by its index in the
    order of `nn.LSTM`. The model stays as it is: `torch.fx` traces copies of it, as it stands, in training and in
    evaluation. An LSTM is left out where the three do not agree, where it is given a state, or where anything is unclear.
    What is seen is what `forward` computes from batches, where it is written without branches: not what other methods read.
    """
    return readers_in(model).consumers


def readers_in(model: nn.Module) -> Readers:
    """What reads each `nn.LSTM` of a model, for certain, or why that is not certain; see `only_consumers`."""
    places = [path for path, module in model.named_modules() if isinstance(module, nn.LSTM)]
    try:
        alone = _alone(model)
        lstms = {path: module for path, module in alone.items() if isinstance(module, nn.LSTM)}
        traces = [_trace(model, training) for training in (None, True, False)] if lstms else []
    except _Unclear as unclear:
        return Readers({}, dict.fromkeys(places, str(unclear)))
    except Exception as error:  # whatever a forward does to stand-ins
        return Readers({}, dict.fromkeys(places, f"torch.fx cannot follow its forward ({shown(str(error))})"))
    found = {}
    reasons = dict.fromkeys(places, "it has a projection, hooks, two names, or tensors that another module shares")
    for path, lstm in lstms.items():
        try:
            seen = [_consumers(model, alone, path, lstm, trace) for trace in traces]
            if not seen[0] == seen[1] == seen[2]:
                raise _Unclear("others read it in training than in evaluation")
        except _Unclear as unclear:
            reasons[path] = str(unclear)
            continue
        found[path] = seen[0]
        del reasons[path]
    # Who reads comes after whom it reads; in a graph without circles, as a trace is, there is such an order.
    order = TopologicalSorter({path: [other for other in found if path in found[other]] for path in found})
    return Readers({path: found[path] for path in order.static_order()}, reasons)


def _hooked(module: nn.Module) -> bool:
    """Whether calling a module runs more than the `forward` of its class."""
    names = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks", "forward")
    return any(vars(module).get(name) for name in names)


def _alone(model: nn.Module) -> dict[str, nn.Module]:
    """{path: module} of each plain `nn.LSTM` and `nn.Linear` that has one name and shares no tensor with another."""
    tensors = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    owners = Counter(tensor.data_ptr() for _, tensor in tensors)
    return {
        path: module
        for path, module in model.named_modules()
        if type(module) in (nn.LSTM, nn.Linear)
        and not (_hooked(module) or vars(module).get("proj_size"))
        and (type(module) is nn.LSTM or "weight" in dict(module.named_parameters()))
        and all(type(own) is nn.Parameter and owners[own.data_ptr()] == 1 for own in module.parameters())
    }


def _straight(module: nn.Module) -> bool:
    """Whether the `forward` of a module has one way only and keeps nothing in attributes."""
    try:
        source = ast.parse(textwrap.dedent(inspect.getsource(type(module).forward)))
    except (OSError, TypeError, SyntaxError) as error:
        raise _Unclear(f"the source of the forward of {type(module).__name__} is not there") from error
    return not any(
        isinstance(node, _BRANCHES) or (isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store))
        for node in ast.walk(source)
    )


def _trace(model: nn.Module, training: bool | None) -> fx.Graph:
    """The graph of a model in a mode (None: its own); raises where `torch.fx` cannot follow it."""
    tracer = fx.Tracer((), _PACKING)  # type: ignore[arg-type]
    tracer._autowrap_search.append(rnn)  # where models call them as `nn.utils.rnn.pack_padded_sequence`, too
    own = {
        path: module for path, module in model.named_modules() if not path or not tracer.is_leaf_module(module, path)
    }
    for path, module in own.items():
        if _hooked(module):
            raise _Unclear(f"{path or 'the model'} has hooks, or a forward of its own")
        if not isinstance(module, _CONTAINERS) and not _straight(module):
            raise _Unclear(
                f"the forward of {type(module).__name__} has branches or sets attributes, and other ways may read it"
            )
    if any(one.default is not one.empty for one in inspect.signature(model.forward).parameters.values()):
        # a stand-in for an argument that may be left out takes the path of one that is there
        raise _Unclear(f"the forward of {type(model).__name__} has arguments that may be left out")
    twin = copy.deepcopy(model)
    if training is not None:
        twin.train(training)
    for module in twin.modules():
        # Nothing may be computed from sizes that are about to change: without them such a forward fails here.
        if type(module) is nn.Linear:
            del module.in_features
        elif type(module) is nn.LSTM:
            del module.hidden_size, module.input_size
            vars(module)["flatten_parameters"] = lambda: None  # which a forward may call, and which needs the size
    return tracer.trace(twin)


def _consumers(
    model: nn.Module, alone: dict[str, nn.Module], path: str, lstm: nn.LSTM, graph: fx.Graph
) -> dict[str, list[int]]:
    """{path of a consumer: blocks} for the LSTM at a path; raises _Unclear where its output may go anywhere else."""
    reads: dict[fx.Node, list[int]] = {}  # the blocks that each call of a consumer reads

    def follow(value: fx.Node, what: Any) -> None:
        """Note what reads a value: a list of values, or (number of axes before the features, blocks)."""
        for user in value.users if what is not None else ():
            module: Any = model.get_submodule(str(user.target)) if user.op == "call_module" else None
            index: Any = None
            if user.target is operator.getitem and user.args[0] is value:
                index = user.args[1] if type(user.args[1]) is tuple else (user.args[1],)
            if isinstance(what, list):
                if not index or type(index[0]) is not int or not -len(what) <= index[0] < len(what) or index[1:]:
                    raise _Unclear(_named(user, module, value))
                follow(user, what[index[0]])
            elif index is not None:
                if index[-1:] == (slice(None),) and len(index) == what[0] + 1:
                    index = index[:-1]  # all of its features
                if len(index) > what[0] or any(type(part) not in (int, slice) for part in index):
                    raise _Unclear("an index may reach its features")
                follow(user, (what[0] - sum(type(part) is int for part in index), what[1]))
            elif type(module) in (nn.Linear, nn.LSTM) and _given(user) == {"input": value}:
                reads[user] = what[1]
            elif user.target is rnn.pad_packed_sequence and user.args[:1] == (value,):
                follow(user, [what, None])  # the lengths
            elif user.target is F.dropout or (type(module) in (nn.Dropout, nn.Identity) and not _hooked(module)):
                if user.args[:1] != (value,):
                    raise _Unclear(_named(user, module, value))
                follow(user, what)
            else:
                raise _Unclear(_named(user, module, value))

    directions = 2 if lstm.bidirectional else 1
    places = list(range(lstm.num_layers * directions))
    calls = [node for node in graph.nodes if node.op == "call_module" and node.target == path]
    for call in calls:
        if "hx" in _given(call):
            raise _Unclear("it is given a state")
        # (output, (h_n, c_n)): single layers and directions of h_n may be read, nothing of c_n.
        follow(call, [(2, places[-directions:]), [[(1, [place]) for place in places], []]])
    found = {str(node.target): blocks for node, blocks in reads.items()}
    widths = {name: len(blocks) * lstm.hidden_size for name, blocks in found.items()}
    if not calls:
        raise _Unclear("its forward does not call it")
    for name in found:
        if path == name or _inputs(alone.get(name)) != widths[name]:
            raise _Unclear(f"{name} is tied, hooked, has another name too, or reads more than its output")
    owners = (path, *found)
    for node in (node for node in graph.nodes if node.op in ("call_module", "get_attr")):
        name = str(node.target)
        if any(own.startswith(f"{name}.") for own in owners):
            raise _Unclear(f"{name}, which is called as one, may call it unseen")
        if node.op == "call_module" and name in found and reads.get(node) != found[name]:
            raise _Unclear(f"{name} reads something else, too")
        if node.op == "get_attr" and (
            name in owners or name.rpartition(".")[0] in owners or "_tensor_constant" in name
        ):
            raise _Unclear(f"its forward reads the tensor {name} itself")
    return found


def _given(call: fx.Node) -> dict[str, Any]:
    """What an LSTM or a Linear is called with, by its names for it; None is what it is called with otherwise, too."""
    given = {**dict(zip(("input", "hx"), call.args, strict=False)), **call.kwargs}
    return {name: value for name, value in given.items() if value is not None}


def _named(user: fx.Node, module: Any, value: fx.Node) -> str:
    """Who reads a value that cannot be trimmed."""
    if user.op == "output":
        return "the model gives it away"
    what = getattr(user.target, "__name__", str(user.target))
    title = what if module is None else f"{what} ({type(module).__name__})"
    if isinstance(module, nn.LSTM | nn.LSTMCell):
        return (
            f"{title} reads it, and a state"
            if _given(user).get("input") is value
            else f"its state is handed to {title}"
        )
    return f"{title} reads it"


def _inputs(consumer: Any) -> int | None:
    """How many columns the weights of a consumer have that read its input."""
    return consumer.input_size if isinstance(consumer, nn.LSTM) else getattr(consumer, "in_features", None)
