"""A model and a loader in, a smaller model out: what `search.smallest` does for files, for a model in memory."""

import copy
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import joblib
import torch
from joblib.externals.loky.backend.reduction import dumps
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.parameter import is_lazy
from torch.optim.optimizer import Optimizer

from pruner.compact.load_pruned import put
from pruner.compact.masked_and_compact import Pruned
from pruner.errors import PrunerError, shown
from pruner.exports.manifest import entry
from pruner.in_memory.earlier_rounds import Earlier, at_dense_size, for_another_round, widened
from pruner.in_memory.in_checkpoint import Described, described
from pruner.in_memory.observing import Call, Observation, observe
from pruner.in_memory.optimizers import carry_over, check_optimizers, leave_out, take_in
from pruner.in_memory.own_forward import OwnForward, Precision, defaults, moved, run
from pruner.in_memory.own_forward import described as in_words
from pruner.in_memory.replacing import moves_into, new_beside, with_hooks_of
from pruner.in_memory.report import Report, removed_by
from pruner.in_memory.wrappers import check_whole
from pruner.lstm.measure import ForwardPass, Modules, Quality
from pruner.pipeline import prune
from pruner.progress import Progress, silent, split
from pruner.recipe import TASKS, Recipe, check_choice, check_sparsity, seconds
from pruner.result import available_devices, measured
from pruner.search import smallest
from pruner.search.candidates import Target

LossOf = Callable[[Any, Any], Tensor]


def shrink(
    model: nn.Module,
    loader: Iterable[Any],
    *,
    keep: float | None = None,
    target: Mapping[str, float] | None = None,
    budget: float | str = 60.0,
    steps: int | None = None,
    forward: Call | None = None,
    task: str | None = None,
    loss: LossOf | None = None,
    device: torch.device | str | None = None,
    seed: int = 0,
    progress: Progress | None = None,
    inplace: bool = False,
    optimizer: Optimizer | Sequence[Optimizer] = (),
) -> nn.Module:
    """The smallest model that answers like the whole one, or the best one of a size, found without labels.

    `loader` gives batches as the model reads them; `forward(model, batch)` says how where that is not `model(batch)`. The
    model runs on them in evaluation mode; the last fifth of them is held back and judges. Every `nn.LSTM` and `nn.LSTMCell`
    that is called loses hidden units, and where it is certain that only `nn.Linear` layers and other LSTMs read an LSTM,
    these are trimmed along; what is left is trained to answer like the whole model. A `CompactLSTM` or `RowCompactLSTM` of
    an earlier round, or its cell, loses more: it counts, in sizes and in units, as the dense LSTM that it stands for.

    `keep` (0.97 where nothing is said) is the share of the quality to keep: the loss may grow by 3 %. With
    `loss(outputs, batch)`, a tensor, that is meant literally. Without, all floating tensors that the model gives, but for
    the states of its LSTMs, are compared with those of the whole model: with the `task` "softmax", scores along
    the last axis, their divergence may be 3 % of the entropy of the whole model's answers, by which its expected loss grows;
    else their squared error 3 % of their square. `target=dict(macs=0.5)`, or `size`, asks for the best model of that share
    of the multiply-accumulates or bytes instead. `budget` is how long a candidate heals, in seconds or as "2m", `steps` a
    number of updates in its place; `progress` as in `run`; `device`, where work is done, is the model's own by default.
    An `optimizer` of the model, or several, go on with what is returned, their moments trimmed like its parameters.

    Returns a copy, or with `inplace` the model, of the same class, with smaller modules in the places of its LSTMs (of a
    model that is itself an LSTM, the smaller module). Its `report` says what was removed and what it is worth; its
    `save(folder)`, or `report.save` where the class has a `save` of its own, writes an export. Raises PrunerError for a
    loader or a model that cannot be used, and where no size reaches the target.

        >>> import torch
        >>> from pruner import shrink
        >>> model = torch.nn.LSTM(3, 16, batch_first=True)
        >>> small = shrink(model, torch.randn(8, 4, 12, 3), target={"macs": 0.5}, steps=2)
        >>> small(torch.randn(2, 5, 3))[0].shape, small.report.macs[1] <= 0.5 * small.report.macs[0]
        (torch.Size([2, 5, 16]), True)
    """
    started = time.monotonic()
    inner, unwrapped = _unwrapped(model)
    optimizers = list(optimizer) if isinstance(optimizer, Sequence) else [optimizer]
    check_optimizers(optimizers, inner)
    wanted, place = _target(keep, target), _device(inner, device)
    recipe = _recipe(budget, steps, seed, task)
    precision = Precision.around(place)
    with _apart(precision):
        twin, earlier = at_dense_size(_twin(inner))
        call: Call = forward or _called
        watching, trying, searching, rating = split(progress or silent, 2, 1, 16, 1)
        found = described(twin, earlier)
        for each in earlier:
            each.act_as_before()
        with precision.again():
            seen = observe(twin.to(place), call, loader, found.modules, place, watching)
        found = found.after(seen, task)
        recipe = replace(recipe, lstms=found.names, consumers=found.consumers, task=found.task)
        own = OwnForward(twin, call, found.names, found.trained, seen.compared, place, precision)
        _try(inner, found, recipe, seen, call, precision, place, trying)
        judge = None if loss is None else Quality("loss", False, _Judge(own, loss, seen.held_back, place, precision))
        whole = ForwardPass(own, task)
        with _side_by_side(own, loss, seen.held_back[0]) as notes:
            best = smallest.shrink(
                found.checkpoint,
                recipe,
                seen.calibration,
                wanted,
                judge,
                searching,
                device=place,
                forward=whole,
            )
        result = measured(best.chosen.pruned, place, judge, False, seen.calibration, rating, whole)
        before = dict(inner.named_parameters())
        small, replaced = _put(inner if inplace else copy.deepcopy(inner), result.pruned, found)
    if inplace or optimizers:
        layouts = result.forms["compact"].layouts
        wider, whole_before = widened(before, replaced)
        moves = list(moves_into(small, layouts, whole_before))
        carry_over(wider, optimizers, gone=inplace)
        leave_out([parameter for each in replaced for parameter in each.rebuilding(before)], optimizers)
        carry_over(moves, optimizers, gone=inplace)
        take_in(new_beside(small, moves), optimizers)
    done = [sentence.replace(best.chosen.verdict.sentence, "").strip() for sentence in best.told]
    told = [f"{wrapper} was taken off; wrap what was returned again." for wrapper in unwrapped]
    all_told = (*filter(None, done), *told, *notes, *found.notes, *map(str, replaced))
    removed = removed_by(result.forms["compact"], found.declined, found.reasons)
    report = Report.of(result, small, removed, all_told, time.monotonic() - started)
    vars(small)["report"] = report
    if not hasattr(type(small), "save"):
        vars(small)["save"] = report.save
    return small


@dataclass(frozen=True)
class _Judge:
    """The mean loss of a model on batches that were held back."""

    own: OwnForward
    loss: LossOf
    batches: list[Any]
    device: str
    precision: Precision

    @torch.no_grad()
    def __call__(self, tensors: Mapping[str, Tensor], modules: Modules) -> float:
        losses = []
        for each in self.batches:
            batch = moved(each, self.device)
            outputs = self.own.outputs(tensors, modules, batch)
            with self.precision.again():
                loss = self._of(outputs, batch)
            losses.append(loss.float().mean().item())
        return sum(losses) / len(losses)

    def _of(self, outputs: Any, batch: Any) -> Tensor:
        try:
            loss = self.loss(outputs, batch)
        except Exception as error:
            raise PrunerError(
                f"expected a loss of what the model gives and the batch, found {type(error).__name__} "
                f"({shown(str(error), 200)}) from {in_words(outputs)} and {in_words(batch)}; say how it is computed: "
                "loss=lambda outputs, batch: ..."
            ) from error
        if not isinstance(loss, Tensor):
            raise PrunerError(
                f"expected a loss that is a tensor, found {type(loss).__name__}; leave it as torch gives it"
            )
        return loss


def _called(model: nn.Module, batch: Any) -> Any:
    return model(batch)


def _unwrapped(model: nn.Module) -> tuple[nn.Module, list[str]]:
    """A model without what DataParallel and torch.compile put around it, and what these are called."""
    if not isinstance(model, nn.Module) or isinstance(model, torch.jit.ScriptModule):
        raise PrunerError(
            f"expected a model, a torch.nn.Module of Python code, found {type(model).__name__}; open a file with "
            "open_checkpoint"
        )
    taken_off = []
    while True:
        if isinstance(model, nn.DataParallel | DistributedDataParallel):
            within = model.module
        elif type(model).__name__ == "OptimizedModule" and "_orig_mod" in dict(model.named_children()):
            within = model.get_submodule("_orig_mod")
        else:
            break
        taken_off.append(type(model).__name__)
        model = within
    check_whole(model)
    if lazy := next((name for name, each in model.named_parameters() if is_lazy(each)), None):
        raise PrunerError(
            f"expected a model that was called once, found {lazy} without a shape; call it with a batch first"
        )
    if hasattr(type(model), "report"):
        raise PrunerError(
            f"expected a model without a `report` of its own, where that of shrink goes, found one of {type(model).__name__}"
            "; rename it"
        )
    return model, taken_off


def _target(keep: float | None, target: Mapping[str, float] | None) -> Target:
    if target is None:
        keep = 0.97 if keep is None else keep
        check_sparsity("keep", keep)
        return Target(keep)
    if keep is not None or not isinstance(target, Mapping) or len(target) != 1 or not target.keys() <= {"macs", "size"}:
        raise PrunerError(
            f"expected either keep=0.97 or target=dict(macs=0.5) or dict(size=0.5), found keep={shown(keep)} and "
            f"target={shown(target)}"
        )
    ((what, amount),) = target.items()
    check_sparsity(f"the target's {what}", amount)
    return Target(None, what, amount)


def _recipe(budget: float | str, steps: int | None, seed: int, task: str | None) -> Recipe:
    if task is not None:
        check_choice("task", task, TASKS)
    try:
        spent = seconds(budget) if isinstance(budget, str) else budget
    except ValueError as error:
        raise PrunerError(f"expected a budget as 30s, 2m or a number of seconds, found {shown(budget)}") from error
    return Recipe(granularity="units", criterion="obs", compensation="heal", budget=spent, steps=steps, seed=seed)


def _device(model: nn.Module, device: torch.device | str | None) -> str:
    """The device to work on: the one that is asked for, else the model's own where it is known, else the CPU."""
    known = available_devices()
    if device is None:
        own = next((str(parameter.device) for parameter in model.parameters()), "cpu")
        return own if own in known else "cpu"
    name = str(device)
    name = "cuda:0" if name == "cuda" else name
    if name not in known:
        raise PrunerError(f"expected a device among {', '.join(known)}; found {name!r}; run on cpu instead")
    return name


@contextmanager
def _apart(precision: Precision) -> Iterator[None]:
    """Whatever surrounds a call of `shrink` is out of its way, and finds its random numbers as they were."""
    devices = list(range(torch.cuda.device_count())) if precision.device == "cuda" else []
    with (
        torch.random.fork_rng(devices),
        torch.inference_mode(False),
        torch.enable_grad(),
        torch.autocast(precision.device, enabled=False),
        defaults(torch.float32, torch.device("cpu")),
    ):
        yield


def _twin(model: nn.Module) -> nn.Module:
    """A copy on the CPU in evaluation mode."""
    try:
        return copy.deepcopy(model).cpu().eval()
    except Exception as error:  # whatever a class does when it is copied
        raise PrunerError(
            f"expected a model that copy.deepcopy can copy, found {type(error).__name__} ({shown(str(error), 200)}) for "
            f"{type(model).__name__}; squash masks, take parametrizations and torch.nn.utils.prune off, and drop states of "
            "earlier calls first"
        ) from error


def _try(
    model: nn.Module,
    found: Described,
    recipe: Recipe,
    seen: Observation,
    call: Call,
    precision: Precision,
    device: str,
    progress: Progress,
) -> None:
    """Raise PrunerError where the model cannot run with smaller modules in it, before anything takes long."""
    progress(0.0, "Trying a smaller model")
    plain = replace(recipe, criterion="l1", compensation="none", task=None)
    alike = replace(found.checkpoint, gone={})  # or layers of different sizes could not be trimmed without data
    small, _ = _put(copy.deepcopy(model).eval(), prune(alike, plain), found)
    small.to(device)
    with torch.no_grad(), precision.again():
        run(lambda given: call(small, given), moved(seen.held_back[0], device))


@contextmanager
def _side_by_side(*needed: Any) -> Iterator[list[str]]:
    """Candidates in processes of their own where what they need can be sent there, else one after the other, noted."""
    notes: list[str] = []
    try:
        dumps(needed)
    except Exception as error:  # whatever a class does when it is pickled
        reason = f"the model, its loss or its batches cannot be pickled ({shown(str(error))})"
        notes.append(f"Candidates were healed one after the other: {reason}.")
    with joblib.parallel_config(backend="sequential") if notes else nullcontext():
        yield notes


def _put(model: nn.Module, pruned: Pruned, found: Described) -> tuple[nn.Module, list[Earlier]]:
    """The model with the compact form of its LSTMs and trimmed consumers in their places, hooks and all, and what of earlier
    rounds it took the place of."""
    form, checkpoint = pruned.forms["compact"], pruned.checkpoint
    tensors = form.tensors(checkpoint)
    changed = [name for name, tensor in form.changed.items() if tensor is not None and name in found.trained]
    manifest = {
        "lstms": [entry(layout, checkpoint) for layout in form.layouts],
        "rest": {name: {"keys": [name]} for name in changed},
        "learned": {name: learned.told() for name, learned in checkpoint.learned.items()},
    }
    with for_another_round(model, found.names) as (wide, earlier):
        before = {layout.lstm.name: wide.get_submodule(layout.lstm.name) for layout in form.layouts}
        small = put(wide, manifest, tensors)
    for name, old in before.items():
        with_hooks_of(old, small.get_submodule(name))
    return small, earlier
