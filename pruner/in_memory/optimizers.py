"""Optimizers of a model whose parameters become smaller: their state moves along, or a warning names what it misses."""

import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import Optimizer, register_optimizer_step_pre_hook

from pruner.errors import PrunerError

_MARK = "_pruned_away_as"  # on a parameter that a smaller one has replaced: its name


@dataclass(frozen=True)
class Move:
    """A parameter of a model and the smaller one in its place; `shrink` makes of any tensor of the old shape one of the
    new."""

    name: str
    old: nn.Parameter
    new: nn.Parameter
    shrink: Callable[[Tensor], Tensor]


def check_optimizers(optimizers: Sequence[Any], model: nn.Module) -> None:
    """Raise PrunerError for what is not an optimizer of the model whose state can move parameter by parameter."""
    own = {id(parameter) for parameter in model.parameters()}
    for optimizer in optimizers:
        if not isinstance(optimizer, Optimizer):
            raise PrunerError(
                f"expected torch.optim optimizers, found {type(optimizer).__name__}; give the optimizer itself"
            )
        if isinstance(optimizer, torch.optim.LBFGS):
            raise PrunerError(
                "expected an optimizer that keeps its state parameter by parameter, found LBFGS, which keeps one for all; "
                "make a new one after prune()"
            )
        if not any(id(parameter) in own for parameter in _parameters(optimizer)):
            raise PrunerError(
                f"expected an optimizer of this model, found {type(optimizer).__name__} of other parameters; give the one "
                "that trains the model, or none"
            )


def carry_over(moves: Sequence[Move], optimizers: Sequence[Optimizer], *, gone: bool = True) -> None:
    """Have the smaller parameters take the place of the old ones: gradients, and in the optimizers that are given, groups
    and state. Where the old ones are `gone`, any other optimizer that goes on with them is named by a warning when it does.
    """
    for move in moves if gone else ():
        if move.old.grad is not None:
            move.new.grad = move.shrink(move.old.grad)
        if getattr(move.old, "_backward_hooks", None) or getattr(move.old, "_post_accumulate_grad_hooks", None):
            warnings.warn(
                f"The hooks on {move.name} itself stay with the parameter that was replaced: register them on the new one.",
                stacklevel=3,
            )
        setattr(move.old, _MARK, move.name)
    for optimizer in optimizers:
        lost = {key: move.name for move in moves for key in _replace(optimizer, move)}
        if lost:
            warnings.warn(
                f"The state {', '.join(lost)} of {type(optimizer).__name__} has another shape than the parameter and cannot "
                f"be trimmed with it: for parameters such as {next(iter(lost.values()))} the optimizer starts anew.",
                stacklevel=3,
            )
    _watch()


def take_in(pairs: Iterable[tuple[nn.Parameter, nn.Parameter]], optimizers: Sequence[Optimizer]) -> None:
    """Have whatever trains the second of two parameters train the first, which is new, too."""
    for new, beside in pairs:
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                if any(parameter is beside for parameter in group["params"]):
                    group["params"].append(new)


def leave_out(parameters: Iterable[nn.Parameter], optimizers: Iterable[Optimizer]) -> None:
    """Have optimizers forget parameters that no longer are."""
    gone = {id(parameter) for parameter in parameters}
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            for parameter in [each for each in group["params"] if id(each) in gone]:
                optimizer.state.pop(parameter, None)
            group["params"][:] = [each for each in group["params"] if id(each) not in gone]


def hold_at_zero(parameter: nn.Parameter, mask: Tensor, optimizers: Iterable[Optimizer]) -> None:
    """Give the rows of a parameter that its (4H,) mask drops no gradient any more, and in the optimizers no moments."""

    def without(gradient: Tensor) -> Tensor:
        return torch.where(_rows(mask.to(gradient.device), gradient), gradient, 0.0)

    if parameter.requires_grad:
        parameter.register_hook(without)
    for optimizer in optimizers:
        for key, value in optimizer.state.get(parameter, {}).items():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                optimizer.state[parameter][key] = torch.where(_rows(mask.to(value.device), value), value, 0.0)


def _rows(mask: Tensor, like: Tensor) -> Tensor:
    return mask.reshape(-1, *[1] * (like.dim() - 1))


def _parameters(optimizer: Optimizer) -> list[nn.Parameter]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _replace(optimizer: Optimizer, move: Move) -> list[str]:
    """Put the smaller parameter where the old one stood; the keys of a state that cannot move, and is left out."""
    for group in optimizer.param_groups:
        group["params"][:] = [move.new if parameter is move.old else parameter for parameter in group["params"]]
    state = optimizer.state.pop(move.old, None)
    lost = [key for key, value in (state or {}).items() if not _moves(value, move)]
    if state is not None and not lost:
        optimizer.state[move.new] = {
            key: move.shrink(value) if isinstance(value, Tensor) and value.shape == move.old.shape else value
            for key, value in state.items()
        }
    return lost


def _moves(value: Any, move: Move) -> bool:
    """Whether a value of the state is of the parameter's shape, or a number for the whole of it."""
    if isinstance(value, Tensor):
        return value.shape == move.old.shape or value.numel() == 1
    return value is None or isinstance(value, int | float)


@cache
def _watch() -> None:
    """From now on, look at what each optimizer of this process steps with."""
    register_optimizer_step_pre_hook(_tell)


def _tell(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
    old = [parameter for parameter in _parameters(optimizer) if hasattr(parameter, _MARK)]
    if old:
        names = ", ".join(getattr(parameter, _MARK) for parameter in old)
        for parameter in old:
            delattr(parameter, _MARK)
        warnings.warn(
            f"This {type(optimizer).__name__} was made before prune() and steps with parameters that are no longer the "
            f"model's ({names}): the smaller ones are not trained. Call prune(optimizer), or make the optimizer afterwards.",
            stacklevel=4,
        )
