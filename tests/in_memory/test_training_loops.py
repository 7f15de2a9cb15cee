"""Situations of training loops, each of which ends as its docstring says; nothing goes wrong in silence."""

import copy
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.distributed import fsdp
from torch.distributed.device_mesh import init_device_mesh
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from pruner import LSTMSaliencyPruner, PrunerError, load_pruned, save_pruned, shrink
from pruner.compact.load_pruned import CompactLSTM
from tests.helpers.training import BATCH, STEPS, H, Opaque, Tagger, batch, loss_of, rows_of, seeded, stepped, train


def adam(model: nn.Module, **settings: Any) -> torch.optim.Adam:
    return torch.optim.Adam(model.parameters(), lr=0.02, **settings)


def test_an_optimizer_from_before_prepare_goes_on_under_masks() -> None:
    """Parameters stay the same objects under masks and after squash_mask, so the optimizer trains them."""
    model = seeded()
    optimizer = adam(model)
    train(model, optimizer)
    before = {id(parameter) for parameter in model.parameters()}
    pruner = stepped(model)
    train(model, optimizer, pruner=pruner)
    pruner.squash_mask()
    assert {id(parameter) for parameter in model.parameters()} == before
    weight = model.lstm.weight_hh_l0.clone()
    train(model, optimizer)
    assert not torch.equal(model.lstm.weight_hh_l0, weight)


def test_a_forgotten_optimizer_is_named_when_it_steps() -> None:
    """One warning, with the optimizer's class and the parameters; then silence."""
    model = seeded()
    optimizer = adam(model)
    stepped(model).prune()
    loss_of(model).backward()
    with pytest.warns(
        UserWarning, match=r"This Adam was made before prune\(\).*lstm\.weight_ih_l0.*prune\(optimizer\)"
    ):
        optimizer.step()
    optimizer.step()


def test_an_optimizer_from_after_prune_is_no_news() -> None:
    """No warning, and the smaller weights move."""
    model = seeded()
    stepped(model).prune()
    weight = model.lstm.weight_hh_l0.clone()
    train(model, adam(model))
    assert not torch.equal(model.lstm.weight_hh_l0, weight)


def test_an_optimizer_of_another_model_is_refused() -> None:
    """An error before anything is changed; the masks are still there."""
    model, other = seeded(), seeded(seed=1)
    pruner = stepped(model)
    with pytest.raises(PrunerError, match="expected an optimizer of this model, found Adam of other parameters"):
        pruner.prune(adam(other))
    assert pruner.masks() and model.lstm.hidden_size == H


def test_what_is_no_optimizer_is_refused() -> None:
    """An error that says what was expected."""
    with pytest.raises(PrunerError, match=r"expected torch\.optim optimizers, found StepLR"):
        model = seeded()
        stepped(model).prune(torch.optim.lr_scheduler.StepLR(adam(model), 1))  # type: ignore[arg-type]


def test_two_optimizers_both_move() -> None:
    """Each keeps its own part of the model, and neither is told off."""
    model = seeded()
    both = torch.optim.SGD(model.lstm.parameters(), lr=0.1, momentum=0.9), adam(model.head)
    for optimizer in both:
        train(model, optimizer)
    stepped(model).prune(*both)
    for optimizer, part in zip(both, (model.lstm, model.head), strict=True):
        assert {id(each) for each in optimizer.param_groups[0]["params"]} == {id(each) for each in part.parameters()}
        train(model, optimizer)


def test_groups_of_parameters_keep_their_settings() -> None:
    """The smaller parameters stand where the old ones stood."""
    model = seeded()
    biases = [parameter for name, parameter in model.named_parameters() if "bias" in name]
    weights = [parameter for name, parameter in model.named_parameters() if "bias" not in name]
    optimizer = torch.optim.AdamW([{"params": weights}, {"params": biases, "weight_decay": 0.0, "lr": 0.5}])
    stepped(model).prune(optimizer)
    own = {id(parameter): name for name, parameter in model.named_parameters()}
    names = [[own[id(parameter)] for parameter in group["params"]] for group in optimizer.param_groups]
    assert names == [[n for n in own.values() if "bias" not in n], [n for n in own.values() if "bias" in n]]
    assert optimizer.param_groups[1]["lr"] == 0.5


def test_a_learning_rate_schedule_goes_on() -> None:
    """It drives the same optimizer before and after."""
    model = seeded()
    optimizer = adam(model)
    rates = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
    train(model, optimizer, steps=1)
    rates.step()
    stepped(model).prune(optimizer)
    train(model, optimizer, steps=1)
    rates.step()
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.02 / 4)


def test_a_gradient_scaler_goes_on() -> None:
    """It scales, unscales and steps with the smaller parameters."""
    model = seeded()
    optimizer, scaler = adam(model), torch.amp.GradScaler("cpu", init_scale=8.0)
    pruner = stepped(model)
    for pruned in (False, True):
        if pruned:
            pruner.prune(optimizer)
        before = copy.deepcopy(model.lstm.state_dict())
        optimizer.zero_grad()
        scaler.scale(loss_of(model)).backward()
        scaler.step(optimizer)
        scaler.update()
        assert any(not torch.equal(tensor, before[name]) for name, tensor in model.lstm.state_dict().items())


def test_gradients_add_up_while_masks_move() -> None:
    """Passes before and after a step of the pruner add to the same gradient, each by its own mask."""
    model = seeded()
    pruner = stepped(model, "rows", 0.25)
    original = model.lstm.parametrizations.weight_hh_l0.original
    first = pruner.masks()["lstm.weight_hh_l0"]
    loss_of(model).backward()
    alone = original.grad.clone()
    pruner.groups[1]["sparsity_level"] = 0.75
    pruner.step()
    loss_of(model, 1).backward()
    now = pruner.masks()["lstm.weight_hh_l0"]
    assert torch.equal(original.grad[first & ~now], alone[first & ~now])
    assert not torch.equal(original.grad[now], alone[now])


def test_pruning_amid_accumulation_trims_gradients() -> None:
    """What was gathered for the kept units stays, in all that became smaller."""
    model, twin = seeded(), seeded()
    pruner = stepped(model)
    loss_of(model).backward()
    optimizer = adam(model)
    kept = pruner.masks()["lstm.weight_ih_l0"].view(4, H)[0]
    wanted = model.lstm.parametrizations.weight_ih_l0.original.grad[kept.repeat(4)].clone()
    columns = model.head.weight.grad[:, kept].clone()
    pruner.prune(optimizer)
    assert torch.equal(model.lstm.weight_ih_l0.grad, wanted)
    assert torch.equal(model.head.weight.grad, columns)
    assert twin.head.weight.grad is None


def test_clipping_counts_no_masked_rows() -> None:
    """The norm of all gradients under masks is that of the smaller model."""
    model = seeded()
    pruner = stepped(model)
    loss_of(model).backward()
    masked = nn.utils.clip_grad_norm_(model.lstm.parameters(), 1e9)
    model.zero_grad()
    pruner.prune()
    loss_of(model).backward()
    torch.testing.assert_close(nn.utils.clip_grad_norm_(model.lstm.parameters(), 1e9), masked)


@pytest.mark.parametrize("granularity", ["rows", "units"])
def test_autocast_under_masks_and_after(granularity: str) -> None:
    """Masked and smaller model agree in bfloat16 as far as it goes, and gradients keep the type of the weights."""
    model = seeded(Opaque)
    pruner = stepped(model, granularity)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        masked = model(batch()[0])
    pruner.prune()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        small = model(batch()[0])
    torch.testing.assert_close(small.float(), masked.float(), rtol=0.05, atol=0.05)
    small.float().sum().backward()
    assert {parameter.grad.dtype for parameter in model.parameters()} == {torch.float32}


def test_state_of_another_shape_starts_anew_with_a_warning() -> None:
    """Adafactor keeps rows and columns apart; it is told, and goes on."""
    model = seeded()
    optimizer = torch.optim.Adafactor(model.parameters(), lr=0.01)
    train(model, optimizer)
    with pytest.warns(UserWarning, match=r"state row_var, col_var of Adafactor has.*such as .*starts anew"):
        stepped(model).prune(optimizer)
    train(model, optimizer)


def test_an_optimizer_with_one_state_for_all_is_refused() -> None:
    """LBFGS cannot be trimmed; nothing is changed."""
    model = seeded()
    pruner = stepped(model)
    with pytest.raises(PrunerError, match=r"found LBFGS, which keeps one for all; make a new one after prune\(\)"):
        pruner.prune(torch.optim.LBFGS(model.parameters()))
    assert model.lstm.hidden_size == H and pruner.masks()


def test_a_frozen_lstm_stays_frozen() -> None:
    """Its smaller parameters ask for no gradient either, and only the head is trained."""
    model = seeded()
    model.lstm.requires_grad_(False)
    optimizer = adam(model)
    train(model, optimizer)
    stepped(model).prune(optimizer)
    before = model.lstm.weight_hh_l0.clone()
    train(model, optimizer)
    assert not any(parameter.requires_grad for parameter in model.lstm.parameters())
    assert torch.equal(model.lstm.weight_hh_l0, before)


def test_training_after_squashing_fills_the_zeros() -> None:
    """Zeros of squash_mask are ordinary weights, as its docstring says."""
    model = seeded()
    pruner = stepped(model, "rows")
    mask = pruner.masks()["lstm.weight_hh_l0"]
    pruner.squash_mask()
    assert not rows_of(model.lstm, mask)
    train(model, adam(model))
    assert rows_of(model.lstm, mask)


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW])
def test_frozen_zeros_stay_under_weight_decay(kind: Any) -> None:
    """A fresh optimizer leaves them exactly zero, with weight decay."""
    model = seeded()
    pruner = stepped(model, "rows")
    mask = pruner.masks()["lstm.weight_hh_l0"]
    pruner.squash_mask(freeze=True)
    train(model, kind(model.parameters(), lr=0.1, weight_decay=0.1), steps=5)
    assert not rows_of(model.lstm, mask)


@pytest.mark.parametrize("given", [True, False])
def test_moments_from_before_move_frozen_zeros_unless_given(given: bool) -> None:
    """With `optimizers` the zeros are exact; without, momentum goes on to move them, as the docstring says."""
    model = seeded()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    train(model, optimizer)
    pruner = stepped(model, "rows")
    mask = pruner.masks()["lstm.weight_hh_l0"]
    pruner.squash_mask(freeze=True, optimizers=[optimizer] if given else [])
    train(model, optimizer, steps=5)
    assert bool(rows_of(model.lstm, mask)) is not given


@pytest.mark.parametrize("stage", ["dense", "masked", "squashed", "pruned", "rows pruned"])
def test_resumed_training_goes_on_as_if_nothing_was(stage: str, tmp_path: Path) -> None:
    """Model by save_pruned, optimizer and pruner by state_dict: the same losses as without a break, at every stage."""
    model = seeded(Opaque if stage == "rows pruned" else Tagger)
    optimizer, pruner = adam(model), LSTMSaliencyPruner({"sparsity_level": 0.5}, "rows" if "rows" in stage else "units")
    if stage != "dense":
        pruner.prepare(model)
        pruner.schedule("cubic", steps=6)
        train(model, optimizer, pruner=pruner)
    if stage == "squashed":
        pruner.squash_mask()
    if "pruned" in stage:
        pruner.prune(optimizer)
    going_on = pruner if stage == "masked" else None
    save_pruned(model, tmp_path / "model.pt")
    torch.save({"optimizer": optimizer.state_dict(), "pruner": pruner.state_dict()}, tmp_path / "rest.pt")
    wanted = train(model, optimizer, steps=5, first=3, pruner=going_on)

    again = load_pruned(type(model), tmp_path / "model.pt")
    rest = torch.load(tmp_path / "rest.pt", weights_only=True)
    resumed, second = adam(again), None
    if stage == "masked":
        second = LSTMSaliencyPruner({"sparsity_level": 0.5}, "units")
        second.prepare(again)
        second.load_state_dict(rest["pruner"])
    resumed.load_state_dict(rest["optimizer"])
    assert train(again, resumed, steps=5, first=3, pruner=second) == pytest.approx(wanted, rel=0, abs=1e-7)


def test_an_average_of_weights_is_kept_under_masks() -> None:
    """A deep copy works after the model has been called; weights and masks follow by update_parameters."""
    model = seeded()
    pruner = stepped(model)
    model(batch()[0])
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=False)
    for number in range(3):
        train(model, adam(model), steps=1, first=number, pruner=pruner)
        average.update_parameters(model)
    for name, mask in pruner.masks().items():
        assert torch.equal(average.module.lstm.parametrizations[name.rpartition(".")[2]][0].mask, mask)
    assert not torch.equal(average(batch()[0]), model(batch()[0]))


def test_an_average_becomes_smaller_by_a_pruner_of_its_own() -> None:
    """Masks on a copy belong to nobody: another pruner takes them over, and both models have the same shape."""
    model = seeded()
    pruner = stepped(model)
    model(batch()[0])
    average = copy.deepcopy(model)
    other = LSTMSaliencyPruner(granularity="units")
    other.prepare(average)
    assert all(torch.equal(mask, pruner.masks()[name]) for name, mask in other.masks().items())
    pruner.prune()
    other.prune()
    assert torch.equal(average(batch()[0]), model(batch()[0])) and average.lstm.hidden_size == H // 2


def test_a_second_pruner_of_one_model_is_refused() -> None:
    """Masks that a living pruner of this model keeps are not taken over."""
    model = seeded()
    pruner = stepped(model)
    with pytest.raises(PrunerError, match="parametrized already"):
        LSTMSaliencyPruner(granularity="units").prepare(model)
    assert pruner.masks()


def test_within_data_parallel() -> None:
    """The wrapped model is looked into, and trimmed as it would be alone; names begin with `module.`."""
    model = nn.DataParallel(seeded())
    pruner = stepped(model)
    optimizer = adam(model)
    assert next(iter(pruner.masks())) == "module.lstm.weight_ih_l0"
    assert pruner.prune(optimizer) is model and model.module.lstm.hidden_size == H // 2
    train(model, optimizer)


def test_prepared_before_distributed_data_parallel(one_process: None) -> None:
    """Masks move while the wrapper trains; prune says to wrap anew, and the new wrapper trains the smaller model."""
    model = seeded()
    pruner, optimizer = stepped(model), adam(model)
    distributed = DistributedDataParallel(model)
    train(distributed, optimizer, pruner=pruner)
    with pytest.warns(UserWarning, match="DistributedDataParallel wraps this model.*wrap the model anew"):
        pruner.prune(optimizer)
    del distributed
    train(DistributedDataParallel(model), optimizer)


def test_prepared_after_distributed_data_parallel_is_refused(one_process: None) -> None:
    """An error says to prepare first; nothing is attached."""
    distributed = DistributedDataParallel(seeded())
    with pytest.raises(PrunerError, match=r"found it wrapped by DistributedDataParallel.*call prepare\(model\) first"):
        LSTMSaliencyPruner().prepare(distributed)
    assert not hasattr(distributed.module.lstm, "parametrizations")


def sharded_by_wrapper(model: nn.Module, **settings: Any) -> nn.Module:
    return fsdp.FullyShardedDataParallel(model, device_id=torch.device("cpu"), **settings)


SHARDINGS: dict[str, Any] = {
    "FullyShardedDataParallel": sharded_by_wrapper,
    "under their own names": lambda model: sharded_by_wrapper(model, use_orig_params=True),
    "fully_shard": lambda model: fsdp.fully_shard(model, mesh=init_device_mesh("cpu", (1,))),
}


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")  # of FSDP on a CPU
@pytest.mark.parametrize("shard", SHARDINGS.values(), ids=SHARDINGS)
def test_what_is_sharded_is_refused_and_a_smaller_model_can_be(one_process: None, shard: Any) -> None:
    """No mask, no step and no file of pieces; a model that was pruned first is sharded and trained like any other."""
    whole, masked, small = seeded(), seeded(), seeded()
    pruner = stepped(masked)
    stepped(small).prune()
    sharded, _, after = shard(whole), shard(masked), shard(small)
    calls = [
        pruner.step,
        pruner.prune,
        partial(LSTMSaliencyPruner().prepare, sharded),
        partial(save_pruned, sharded, "it.pt"),
    ]
    for call in [*calls, partial(shrink, sharded, [batch()[0]] * 4)]:
        with pytest.raises(PrunerError, match=r"expected whole parameters, found \w+ sharded by FSDP"):
            call()
    assert not Path("it.pt").exists()
    train(sharded, adam(sharded))
    train(after, adam(after))


@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")  # which torch.compile looks at
@pytest.mark.parametrize("when", ["before prepare", "after prepare"])
def test_torch_compile(when: str) -> None:
    """A compiled model follows masks that move, and the smaller modules."""
    model: Any = seeded()
    plain = seeded()
    compiled = torch.compile(model, backend="eager") if when == "before prepare" else None
    pruner, other = stepped(model if compiled is None else compiled, sparsity=0.25), stepped(plain, sparsity=0.25)
    compiled = torch.compile(model, backend="eager") if compiled is None else compiled
    for level in (0.25, 0.75):
        for each in (pruner, other):
            each.groups[0]["sparsity_level"] = level
            each.step()
        torch.testing.assert_close(compiled(batch()[0]), plain(batch()[0]))
    pruner.prune()
    torch.testing.assert_close(compiled(batch()[0]), plain(batch()[0]))
    assert model.lstm.hidden_size == H // 4


@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")
def test_torch_compile_after_prune() -> None:
    """What prune leaves can be compiled, with rows and units, and trained."""
    for granularity in ("rows", "units"):
        model = seeded(Opaque if granularity == "rows" else Tagger)
        stepped(model, granularity).prune()
        compiled = torch.compile(model, backend="eager")
        torch.testing.assert_close(compiled(batch()[0]), model(batch()[0]))
        loss_of(compiled).backward()


def test_rounds_leave_one_compact_module() -> None:
    """Prune, train on, prune again: never a compact module inside another, and one optimizer all the way."""
    model = seeded(Opaque, layers=2)
    optimizer = adam(model)
    sizes = []
    for _ in range(3):
        pruner = stepped(model, sparsity=0.25)
        train(model, optimizer, pruner=pruner)
        wanted = model(batch()[0])
        pruner.prune(optimizer)
        torch.testing.assert_close(model(batch()[0]), wanted)
        sizes.append([len(layer.kept) for layer in model.lstm.layers])
        assert sum(isinstance(module, CompactLSTM) for module in model.modules()) == 1
    assert sizes == [[6, 6], [5, 5], [4, 4]]


def test_a_hook_on_a_parameter_is_told() -> None:
    """It cannot follow a parameter that becomes smaller, so a warning names it."""
    model = seeded()
    model.lstm.weight_hh_l0.register_hook(lambda gradient: gradient)
    with pytest.warns(UserWarning, match=r"hooks on lstm\.weight_hh_l0 itself stay"):
        stepped(model).prune()


def test_evaluation_between_steps_changes_nothing() -> None:
    """Modes, and masks under no_grad and inference_mode, are as without it."""
    model = seeded()
    pruner = stepped(model)
    masks = {name: mask.clone() for name, mask in pruner.masks().items()}
    with torch.inference_mode():
        model.eval()(batch()[0])
    with torch.no_grad():
        pruner.step()
    assert all(torch.equal(mask, masks[name]) for name, mask in pruner.masks().items())
    train(model.train(), adam(model))
    pruner.prune()
    assert model.lstm.training


def test_a_state_is_handed_across_pruning() -> None:
    """Truncated backpropagation goes on with the state of the masked model, whose removed units are zero."""
    lstm = nn.LSTM(3, H)
    pruner = stepped(lstm)
    inputs = torch.randn(STEPS, BATCH, 3)
    _, state = lstm(inputs)
    wanted = lstm(inputs, state)
    small = pruner.prune()
    torch.testing.assert_close(small(inputs, state), wanted)


def test_weights_that_are_not_finite_are_told() -> None:
    """A diverged model is refused by step, which names the tensor; the masks stay."""
    model = seeded()
    pruner = stepped(model)
    masks = {name: mask.clone() for name, mask in pruner.masks().items()}
    with torch.no_grad():
        model.lstm.parametrizations.weight_hh_l0.original[3] = float("nan")
    with pytest.raises(PrunerError, match="expected finite weights, found NaN or infinite values in"):
        pruner.step()
    assert all(torch.equal(mask, masks[name]) for name, mask in pruner.masks().items())


def test_nothing_is_said_of_a_loop_that_is_right() -> None:
    """Prepare, schedule, train, prune with the optimizer, train on: no warning at all."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = seeded()
        optimizer = adam(model)
        pruner = LSTMSaliencyPruner({"sparsity_level": 0.5}, granularity="units")
        pruner.prepare(model)
        pruner.schedule("linear", steps=4, every=2)
        train(model, optimizer, steps=5, pruner=pruner)
        pruner.prune(optimizer)
        train(model, optimizer)
    assert model.lstm.hidden_size == H // 2
