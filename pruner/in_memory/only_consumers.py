"""Which `nn.Linear` layers and LSTMs are the only consumers of an `nn.LSTM` of a model in memory."""

import ast
import copy
import inspect
import operator
import textwrap
from collections import Counter
from graphlib import TopologicalSorter
from typing import Any

from torch import fx, nn
from torch.nn import functional as F

# A trace follows one way through these, and not what they depend on: types, None, errors, chance.
_BRANCHES = (ast.If, ast.IfExp, ast.BoolOp, ast.Match, ast.Try, ast.While)
_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


class _Unclear(Exception):
    pass


def only_consumers(model: nn.Module) -> dict[str, dict[str, list[int]]]:
    """{path of an `nn.LSTM`: {path of an `nn.Linear` or another LSTM: blocks}}, for each LSTM that nothing but these reads,
    those that come first before those that read them.

    The columns of such a consumer are blocks of H, each the output of one layer and direction, given by its index in the
    order of `nn.LSTM`. The model stays as it is: `torch.fx` traces copies of it, as it stands, in training and in
    evaluation. An LSTM is left out where the three do not agree, where it is given a state, or where anything is unclear.
    What is seen is what `forward` computes from batches, where it is written without branches: not what other methods read.
    """
    try:
        alone = _alone(model)
        lstms = {path: module for path, module in alone.items() if isinstance(module, nn.LSTM)}
        traces = [_trace(model, training) for training in (None, True, False)] if lstms else []
    except Exception:  # whatever a forward does to stand-ins
        return {}
    found = {}
    for path, lstm in lstms.items():
        try:
            seen = [_consumers(model, alone, path, lstm, trace) for trace in traces]
        except _Unclear:
            continue
        if seen[0] == seen[1] == seen[2]:
            found[path] = seen[0]
    # Who reads comes after whom it reads; in a graph without circles, as a trace is, there is such an order.
    order = TopologicalSorter({path: [other for other in found if path in found[other]] for path in found})
    return {path: found[path] for path in order.static_order()}


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
    source = ast.parse(textwrap.dedent(inspect.getsource(type(module).forward)))
    return not any(
        isinstance(node, _BRANCHES) or (isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store))
        for node in ast.walk(source)
    )


def _trace(model: nn.Module, training: bool | None) -> fx.Graph:
    """The graph of a model in a mode (None: its own); raises where `torch.fx` cannot follow it."""
    tracer = fx.Tracer()
    own = [module for path, module in model.named_modules() if not path or not tracer.is_leaf_module(module, path)]
    if any(_hooked(module) or not (isinstance(module, _CONTAINERS) or _straight(module)) for module in own):
        raise _Unclear
    if any(one.default is not one.empty for one in inspect.signature(model.forward).parameters.values()):
        raise _Unclear  # a stand-in for an argument that may be left out takes the path of one that is there
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
        for user in value.users:
            module: Any = model.get_submodule(str(user.target)) if user.op == "call_module" else None
            index: Any = None
            if user.target is operator.getitem and user.args[0] is value:
                index = user.args[1] if type(user.args[1]) is tuple else (user.args[1],)
            if isinstance(what, list):
                if not index or type(index[0]) is not int or not -len(what) <= index[0] < len(what) or index[1:]:
                    raise _Unclear
                follow(user, what[index[0]])
            elif index is not None:
                if len(index) > what[0] or any(type(part) not in (int, slice) for part in index):
                    raise _Unclear  # it might reach the features
                follow(user, (what[0] - sum(type(part) is int for part in index), what[1]))
            elif type(module) in (nn.Linear, nn.LSTM) and user.args in ((value,), (value, None)) and not user.kwargs:
                reads[user] = what[1]
            elif user.target is F.dropout or (type(module) in (nn.Dropout, nn.Identity) and not _hooked(module)):
                if user.args[:1] != (value,):
                    raise _Unclear
                follow(user, what)
            else:
                raise _Unclear

    directions = 2 if lstm.bidirectional else 1
    places = list(range(lstm.num_layers * directions))
    calls = [node for node in graph.nodes if node.op == "call_module" and node.target == path]
    for call in calls:
        if call.args[1:] not in ((), (None,)) or call.kwargs:
            raise _Unclear  # a state of the caller's
        # (output, (h_n, c_n)): single layers and directions of h_n may be read, nothing of c_n.
        follow(call, [(2, places[-directions:]), [[(1, [place]) for place in places], []]])
    found = {str(node.target): blocks for node, blocks in reads.items()}
    widths = {name: len(blocks) * lstm.hidden_size for name, blocks in found.items()}
    if not calls or path in found or any(_inputs(alone.get(name)) != widths[name] for name in found):
        raise _Unclear
    owners = (path, *found)
    for node in (node for node in graph.nodes if node.op in ("call_module", "get_attr")):
        name = str(node.target)
        if any(own.startswith(f"{name}.") for own in owners):
            raise _Unclear  # a module that holds one of them may call it unseen
        if node.op == "call_module" and name in found and reads.get(node) != found[name]:
            raise _Unclear  # a consumer that reads something else too, or in another order
        if node.op == "get_attr" and (
            name in owners or name.rpartition(".")[0] in owners or "_tensor_constant" in name
        ):
            raise _Unclear  # one of their tensors, or one computed on the way, which may come from any
    return found


def _inputs(consumer: Any) -> int | None:
    """How many columns the weights of a consumer have that read its input."""
    return consumer.input_size if isinstance(consumer, nn.LSTM) else getattr(consumer, "in_features", None)
