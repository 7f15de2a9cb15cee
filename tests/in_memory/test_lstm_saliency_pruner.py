"""The class with the workflow of torch.ao.pruning: prepare, step, train on, squash."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.ao.pruning._experimental.pruner.lstm_saliency_pruner import LSTMSaliencyPruner as Upstream
from torch.nn.utils import parametrize

from pruner import LSTMSaliencyPruner, PrunerError, open_checkpoint
from pruner.importance.masks import drop_rows
from tests.helpers.models import random_lstm


class Model(nn.Module):
    """An LSTM with everything, another without biases, and a cell."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.encoder = nn.LSTM(3, 8, num_layers=2, bidirectional=True, proj_size=2)
        self.decoder = nn.LSTM(4, 6, bias=False)
        self.cell = nn.LSTMCell(6, 5)
        self.head = nn.Linear(5, 1)

    def forward(self, inputs: Tensor) -> Tensor:
        encoded, _ = self.encoder(inputs)
        decoded, _ = self.decoder(encoded)
        state = None
        for step in decoded:
            state = self.cell(step, state)
        return self.head(state[0])


INPUTS = torch.randn(7, 2, 3, generator=torch.Generator().manual_seed(1))
SIDES = ("ih", "hh")
PACKED = [
    *(f"encoder.weight_{side}_l{layer}{end}" for layer in (0, 1) for end in ("", "_reverse") for side in SIDES),
    *(f"decoder.weight_{side}_l0" for side in SIDES),
    *(f"cell.weight_{side}" for side in SIDES),
]


def config(*names: str) -> list[dict[str, Any]]:
    return [{"tensor_fqn": name} for name in names]


def prepared(
    model: nn.Module, sparsity: float = 0.5, steps: int = 0, names: list[str] | None = None
) -> LSTMSaliencyPruner:
    pruner = LSTMSaliencyPruner({"sparsity_level": sparsity})
    pruner.prepare(model, names and config(*names))
    pruner.enable_mask_update = True
    for _ in range(steps):
        pruner.step()
    return pruner


def parametrizations(model: nn.Module) -> int:
    return sum(isinstance(module, parametrize.ParametrizationList) for module in model.modules())


def zeroed(model: nn.Module, masks: dict[str, Tensor]) -> dict[str, Tensor]:
    """A plain model's state with the rows that the masks drop set to zero."""
    return {
        name: drop_rows(tensor, masks[name]) if name in masks else tensor for name, tensor in model.state_dict().items()
    }


def test_none_means_every_packed_weight_of_every_lstm_and_cell() -> None:
    assert list(prepared(Model()).masks()) == PACKED


def test_a_config_names_the_tensors_and_their_sparsities() -> None:
    model = Model()
    pruner = LSTMSaliencyPruner({"sparsity_level": 0.25})
    pruner.prepare(model, [*config("cell.weight_hh"), {"tensor_fqn": "decoder.weight_ih_l0", "sparsity_level": 1}])
    pruner.enable_mask_update = True
    pruner.step()
    dropped = {name: [int((~kept).sum()) for kept in mask.chunk(4)] for name, mask in pruner.masks().items()}
    assert dropped == {"cell.weight_hh": [1] * 4, "decoder.weight_ih_l0": [6] * 4}
    assert parametrizations(model) == 2


def test_an_lstm_can_be_the_model_itself() -> None:
    lstm = random_lstm()
    assert list(prepared(lstm).masks()) == ["weight_ih_l0", "weight_hh_l0"]


def test_the_default_sparsity_is_a_half() -> None:
    pruner = LSTMSaliencyPruner()
    pruner.prepare(Model())
    assert {group["sparsity_level"] for group in pruner.groups} == {0.5}


def test_step_does_nothing_while_it_is_not_enabled() -> None:
    model = Model()
    expected = model(INPUTS)
    pruner = LSTMSaliencyPruner()
    pruner.prepare(model)
    pruner.enable_mask_update = False
    pruner.step()
    assert all(mask.all() for mask in pruner.masks().values())
    assert torch.equal(model(INPUTS), expected)


@pytest.mark.parametrize("sparsity", [0.0, 0.3, 0.5, 1.0])
def test_masks_are_those_of_upstream(sparsity: float) -> None:
    pruner = prepared(Model(), sparsity, steps=1)
    model = Model()
    upstream = Upstream({"sparsity_level": sparsity})
    upstream.prepare(model, config(*PACKED))
    upstream.step()
    for name, mask in pruner.masks().items():
        path, _, tensor = name.rpartition(".")
        assert torch.equal(mask, model.get_submodule(path).parametrizations[tensor][0].mask), name


def test_masks_do_not_depend_on_earlier_masks() -> None:
    model = Model()
    pruner = prepared(model, 0.5, steps=1)
    half = {name: mask.clone() for name, mask in pruner.masks().items()}
    for group in pruner.groups:
        group["sparsity_level"] = 0.9
    pruner.step()
    assert all((~mask & half[name]).any() and not (mask & ~half[name]).any() for name, mask in pruner.masks().items())
    for group in pruner.groups:
        group["sparsity_level"] = 0.5
    pruner.step()
    assert all(torch.equal(mask, half[name]) for name, mask in pruner.masks().items())


def test_the_forward_pass_uses_the_masks() -> None:
    model = Model()
    pruner = prepared(model, steps=1)
    plain = Model()
    plain.load_state_dict(zeroed(plain, pruner.masks()))
    assert torch.equal(model(INPUTS), plain(INPUTS))
    assert not torch.equal(model(INPUTS), Model()(INPUTS))


def test_masked_rows_have_no_gradient_and_others_do() -> None:
    model = Model()
    pruner = prepared(model, steps=1)
    model(INPUTS).sum().backward()
    for name, mask in pruner.masks().items():
        path, _, tensor = name.rpartition(".")
        gradient = model.get_submodule(path).parametrizations[tensor].original.grad
        assert not gradient[~mask].count_nonzero(), name
        assert gradient[mask].count_nonzero(), name


def test_training_between_steps_moves_the_masks() -> None:
    model = Model()
    pruner = prepared(model, steps=1)
    optimizer = torch.optim.SGD(model.parameters(), lr=5.0)
    before = {name: mask.clone() for name, mask in pruner.masks().items()}
    for _ in range(5):
        optimizer.zero_grad()
        model(INPUTS).square().sum().backward()
        optimizer.step()
        pruner.step()
    assert any(not torch.equal(mask, before[name]) for name, mask in pruner.masks().items())
    original = model.decoder.parametrizations.weight_hh_l0.original
    assert torch.equal(model.decoder.weight_hh_l0, drop_rows(original, pruner.masks()["decoder.weight_hh_l0"]))


def test_a_step_between_forward_and_backward_is_allowed() -> None:
    model = Model()
    pruner = prepared(model)
    loss = model(INPUTS).sum()
    pruner.step()
    loss.backward()


def test_squashing_leaves_a_plain_model_of_the_same_output() -> None:
    model = Model()
    names = set(model.state_dict())
    pruner = prepared(model, steps=1)
    expected, masks = model(INPUTS), {name: mask.clone() for name, mask in pruner.masks().items()}
    pruner.squash_mask()
    assert torch.equal(model(INPUTS), expected)
    assert parametrizations(model) == 0
    assert set(model.state_dict()) == names == set(dict(model.named_parameters()))
    assert all(not model.get_parameter(name)[~mask].count_nonzero() for name, mask in masks.items())


def test_a_squashed_model_can_be_prepared_and_trained_again() -> None:
    model = Model()
    pruner = prepared(model, 0.25, steps=1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    pruner.squash_mask()
    before = model(INPUTS)
    before.sum().backward()
    optimizer.step()
    assert not torch.equal(model(INPUTS), before)
    pruner.prepare(model)
    pruner.enable_mask_update = True
    pruner.step()
    assert parametrizations(model) == len(PACKED)


def test_masks_travel_in_the_state_dict() -> None:
    model, other = Model(), Model()
    pruner = prepared(model, 0.3, steps=1)
    receiver = prepared(other, 0.6)
    other.load_state_dict(model.state_dict())
    assert all(torch.equal(mask, pruner.masks()[name]) for name, mask in receiver.masks().items())
    assert torch.equal(other(INPUTS), model(INPUTS))


def test_a_prepared_model_can_be_copied() -> None:
    model = Model()
    prepared(model, steps=1)
    twin = copy.deepcopy(model)
    assert torch.equal(twin(INPUTS), model(INPUTS))
    twin.decoder.parametrizations.weight_hh_l0[0].mask.zero_()
    assert model.decoder.parametrizations.weight_hh_l0[0].mask.any()


def test_a_state_dict_with_masks_opens_as_the_masked_lstm(tmp_path: Path) -> None:
    model = Model()
    pruner = prepared(model, steps=1)
    torch.save(model.state_dict(), tmp_path / "model.pt")
    checkpoint = open_checkpoint(tmp_path / "model.pt")
    assert [lstm.name for lstm in checkpoint.lstms] == ["cell", "decoder", "encoder"]
    plain = zeroed(Model(), pruner.masks())
    for lstm in checkpoint.lstms:
        for standard, name in lstm.tensors.items():
            assert torch.equal(checkpoint.tensors[name], plain[f"{lstm.name}.{standard}"])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_masks_keep_the_dtype(dtype: torch.dtype) -> None:
    lstm = random_lstm(dtype=dtype)
    pruner = prepared(lstm, steps=1)
    assert lstm.weight_hh_l0.dtype == dtype
    pruner.squash_mask()
    assert lstm.weight_hh_l0.dtype == dtype and not lstm.weight_hh_l0.all()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_masks_on_cuda_are_those_of_the_cpu() -> None:
    model = Model().cuda()
    moved = prepared(model, steps=1).masks()
    assert all(mask.is_cuda and torch.equal(mask.cpu(), moved[name].cpu()) for name, mask in moved.items())
    assert all(torch.equal(mask, moved[name].cpu()) for name, mask in prepared(Model(), steps=1).masks().items())
    assert model(INPUTS.cuda()).is_cuda


UNUSABLE_CONFIGS = {
    "one dimension": (config("encoder.bias_ih_l0"), r"two or more dimensions.*'encoder.bias_ih_l0' of shape \(32,\)"),
    "unknown tensor": (config("encoder.weight_ih_l7"), "name of a tensor of the model, found 'encoder.weight_ih_l7'"),
    "unknown module": (config("encodeer.weight_ih_l0"), "name of a tensor of the model, found 'encodeer.weight_ih_l0'"),
    "a module": (config("encoder"), "name of a tensor of the model, found 'encoder'"),
    "no name": (config(""), "name of a tensor of the model, found ''"),
    "projection": (config("encoder.weight_hr_l0"), "packed LSTM weight .*, found 'encoder.weight_hr_l0'"),
    "not an LSTM": (config("head.weight"), "packed LSTM weight .*, found 'head.weight'"),
    "of a GRU": (config("gru.weight_ih_l0"), "tensor of an nn.LSTM or nn.LSTMCell, found one of GRU"),
    "twice": (config("cell.weight_hh", "cell.weight_hh"), "'cell.weight_hh' twice"),
    "unknown key": ([{"tensor_fqn": "cell.weight_hh", "sparsity": 0.5}], "expected sparsity_level in the entries"),
    "key left out": ([{"sparsity_level": 0.5}], "entries of tensor_fqn and sparsity_level"),
    "level too high": ([{"tensor_fqn": "cell.weight_hh", "sparsity_level": 1.1}], "cell.weight_hh between 0 and 1"),
    "level of text": ([{"tensor_fqn": "cell.weight_hh", "sparsity_level": "0.5"}], "cell.weight_hh between 0 and 1"),
    "empty": ([], "expected an LSTM in the model, found none"),
    "names alone": (["cell.weight_hh"], "expected .*found"),
    "name of no text": (config(None), "expected .*found"),  # type: ignore[arg-type]
}


@pytest.mark.parametrize(("unusable", "message"), UNUSABLE_CONFIGS.values(), ids=UNUSABLE_CONFIGS)
def test_an_unusable_config_is_refused_before_anything_is_attached(unusable: Any, message: str) -> None:
    model = Model()
    model.gru = nn.GRU(3, 4)
    pruner = LSTMSaliencyPruner()
    with pytest.raises(PrunerError, match=message):
        pruner.prepare(model, [*config("cell.weight_ih"), *unusable] if unusable else unusable)
    assert parametrizations(model) == 0
    pruner.prepare(model)
    assert list(pruner.masks()) == PACKED


def shared() -> nn.Module:
    model = nn.Module()
    model.one = model.two = random_lstm()
    return model


def test_a_shared_lstm_is_masked_once() -> None:
    assert list(prepared(shared()).masks()) == ["one.weight_ih_l0", "one.weight_hh_l0"]


def test_two_names_of_one_tensor_are_refused() -> None:
    model = shared()
    with pytest.raises(PrunerError, match="expected each tensor once"):
        LSTMSaliencyPruner().prepare(model, config("one.weight_ih_l0", "two.weight_ih_l0"))
    assert parametrizations(model) == 0


@pytest.mark.parametrize("granularity", ["rows", "units"])
def test_lstms_that_share_a_tensor_are_refused(granularity: str) -> None:
    model = nn.ModuleDict({"one": nn.LSTM(3, 4), "two": nn.LSTM(5, 4), "cell": nn.LSTMCell(3, 4)})
    model["two"].weight_hh_l0 = model["one"].weight_hh_l0  # type: ignore[assignment]
    pruner = LSTMSaliencyPruner(granularity=granularity)
    with pytest.raises(PrunerError, match=r"found 'one\.weight_hh_l0' and 'two\.weight_hh_l0' to be the same one"):
        pruner.prepare(model)
    assert parametrizations(model) == 0
    pruner.prepare(model, [{"module": model["cell"]}])


def test_a_model_without_an_lstm_is_refused() -> None:
    with pytest.raises(PrunerError, match="expected an LSTM in the model, found none in Linear"):
        LSTMSaliencyPruner().prepare(nn.Linear(3, 4))


@pytest.mark.parametrize(("model", "found"), [(None, "NoneType"), (Model, "the class Model")])
def test_what_is_no_model_is_refused(model: Any, found: str) -> None:
    with pytest.raises(PrunerError, match=f"expected a model, a torch.nn.Module, found {found}; give the model itself"):
        LSTMSaliencyPruner().prepare(model)


def test_a_tensor_that_is_parametrized_already_is_refused() -> None:
    model = Model()
    first = prepared(model, names=["cell.weight_hh"])
    with pytest.raises(PrunerError, match=r"found 'cell\.weight_hh' parametrized already"):
        LSTMSaliencyPruner().prepare(model, config(*PACKED))
    assert parametrizations(model) == 1 and list(first.masks()) == ["cell.weight_hh"]


def test_a_pruner_is_prepared_once() -> None:
    pruner = prepared(Model())
    other = Model()
    with pytest.raises(PrunerError, match="already prepared"):
        pruner.prepare(other)
    assert parametrizations(other) == 0


@pytest.mark.parametrize("method", ["step", "squash_mask", "masks"])
def test_an_unprepared_pruner_is_refused(method: str) -> None:
    pruner = LSTMSaliencyPruner()
    pruner.enable_mask_update = True
    with pytest.raises(PrunerError, match=r"call prepare\(model\) first"):
        getattr(pruner, method)()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"defaults": {"sparsity": 0.5}}, "expected sparsity_level in the defaults, found 'sparsity'"),
        ({"defaults": {"sparsity_level": -0.1}}, "sparsity_level between 0 and 1, found -0.1"),
        ({"defaults": {"sparsity_level": True}}, "sparsity_level between 0 and 1, found True"),
        ({"granularity": "columns"}, "expected a granularity among rows.*; found 'columns'"),
    ],
    ids=str,
)
def test_unusable_settings_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(PrunerError, match=message):
        LSTMSaliencyPruner(**arguments)


def test_a_bad_level_between_steps_changes_no_mask() -> None:
    pruner = prepared(Model(), 0.5)
    pruner.groups[-1]["sparsity_level"] = float("nan")
    with pytest.raises(PrunerError, match=r"sparsity_level of cell\.weight_hh between 0 and 1, found nan"):
        pruner.step()
    assert all(mask.all() for mask in pruner.masks().values())
