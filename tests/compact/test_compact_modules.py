"""Compact modules do what a trainer, a script or an exporter asks of an `nn.LSTM`."""

import copy
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters
from torch.nn.utils.rnn import pack_sequence

from pruner.compact.load_pruned import (
    CompactLSTM,
    CompactLSTMCell,
    ReconstructingLSTM,
    ReconstructingLSTMCell,
    RowCompactLSTM,
    RowCompactLSTMCell,
)
from tests.helpers.models import random_steps

KEPT = [torch.tensor([0, 2, 5])] * 4
ROWS = [(torch.tensor([0, 2, 9, 31]), torch.tensor([1, 2, 30]))] * 4
SETTINGS: dict[str, Any] = {"bidirectional": True, "batch_first": True}
MODULES: dict[str, Callable[..., nn.Module]] = {
    "units": lambda **more: CompactLSTM(3, 8, KEPT, **SETTINGS, **more),
    "reconstructing": lambda **more: CompactLSTM(3, 8, KEPT, reconstruct=True, **SETTINGS, **more),
    "rows": lambda **more: RowCompactLSTM(3, 8, ROWS, **SETTINGS, **more),
    "masked": lambda **more: ReconstructingLSTM(3, 8, 2, KEPT[:2], **SETTINGS, **more),
}
INPUTS = random_steps(2, 5, 3, dtype=torch.float32)
STATE = torch.zeros(4, 2, 8)


@pytest.fixture(params=MODULES)
def made(request: pytest.FixtureRequest) -> Callable[..., nn.Module]:
    return MODULES[request.param]


@pytest.fixture
def module(made: Callable[..., nn.Module]) -> nn.Module:
    return filled(made())


def filled(module: nn.Module) -> nn.Module:
    """With random weights, those included that start as zeros."""
    torch.manual_seed(0)
    for parameter in module.parameters():
        nn.init.uniform_(parameter, -0.4, 0.4)
    return module


def scripted(module: nn.Module) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch.jit.script itself is on its way out
        return torch.jit.script(module)


def loss(module: nn.Module) -> Tensor:
    output, (h_n, c_n) = module(INPUTS)
    return output.square().sum() + h_n.sum() + c_n.sum()


def same(one: Any, other: Any, inputs: Tensor = INPUTS) -> None:
    (output, state), (wanted, wanted_state) = one(inputs), other(inputs)
    for found, expected in zip((output, *state), (wanted, *wanted_state), strict=True):
        torch.testing.assert_close(found, expected)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_scripted_one_computes_and_trains_the_same(module: nn.Module) -> None:
    script = scripted(module)
    same(script, module)
    same(script, module, INPUTS[0])
    state = module(INPUTS)[1]
    torch.testing.assert_close(script(INPUTS, state)[0], module(INPUTS, state)[0])
    gradients = []
    for each in (module, script):
        for _ in range(3):  # TorchScript derives what it has seen a few times
            each.zero_grad()
            loss(each).backward()
        gradients.append([parameter.grad.clone() for parameter in each.parameters()])
    for own, wanted in zip(*gradients, strict=True):
        assert wanted.count_nonzero() and torch.allclose(own, wanted, atol=1e-5)


def test_its_weights_make_a_vector_and_come_back(module: nn.Module) -> None:
    before = copy.deepcopy(module)
    vector = parameters_to_vector(module.parameters())
    vector_to_parameters(torch.zeros_like(vector), module.parameters())
    assert not any(parameter.any() for parameter in module.parameters())
    vector_to_parameters(vector, module.parameters())
    same(module, before)


def test_lbfgs_trains_it(module: nn.Module) -> None:
    optimizer = torch.optim.LBFGS(module.parameters(), lr=0.1)

    def closure() -> float:
        optimizer.zero_grad()
        found = loss(module)
        found.backward()
        return found.item()

    first = closure()
    for _ in range(3):
        last = optimizer.step(closure)
    assert last < first


def test_a_copy_is_its_own(module: nn.Module) -> None:
    twin = copy.deepcopy(module)
    same(twin, module)
    next(twin.parameters()).data.zero_()
    assert not torch.equal(twin(INPUTS)[0], module(INPUTS)[0])


def test_one_made_without_numbers_takes_them_later(made: Callable[..., nn.Module], module: nn.Module) -> None:
    for empty in (made(device="meta"), copy.deepcopy(module).to("meta")):
        later = empty.to_empty(device="cpu")
        later.load_state_dict(module.state_dict())
        same(later, module)


def test_one_made_without_numbers_can_begin_anew(made: Callable[..., nn.Module]) -> None:
    later = made(device="meta").to_empty(device="cpu")
    later.reset_parameters()
    assert all(parameter.isfinite().all() for parameter in later.parameters())
    output = later(INPUTS)[0]
    assert output.isfinite().all() and output.any()


def test_indices_stay_integers(module: nn.Module) -> None:
    same(module.type(torch.float64).type(torch.float32), module)


def test_indices_come_with_the_weights() -> None:
    """Another choice of as many units is loaded whole, what it leaves out included; the caller's own stays as it is."""
    other = filled(CompactLSTM(3, 8, [torch.tensor([1, 6, 7])] * 4, reconstruct=True, **SETTINGS))
    module = MODULES["reconstructing"]()
    module.load_state_dict(other.state_dict())
    same(module, other)
    assert KEPT[0].tolist() == [0, 2, 5]


def test_its_weights_are_listed_as_those_of_an_lstm(module: nn.Module) -> None:
    whole = nn.LSTM(3, 8, 2, **SETTINGS).all_weights
    found = module.all_weights
    assert [len(each) for each in found] == [len(each) for each in whole]
    for own, wanted in zip(found, whole, strict=True):
        assert [weight.dim() for weight in own] == [weight.dim() for weight in wanted]


@pytest.mark.filterwarnings("ignore:The tensor attributes.*_flat_weights")  # which `nn.LSTM` itself assigns
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # which the exporter reads
def test_torch_export_leaves_the_batch_open(module: nn.Module) -> None:
    batch = torch.export.Dim("batch", min=2, max=64)
    more = random_steps(7, 5, 3, dtype=torch.float32)
    same(torch.export.export(module, (INPUTS,), dynamic_shapes=({0: batch},)).module(), module, more)
    state = module(INPUTS)[1]
    shapes = ({0: batch}, ({1: batch}, {1: batch}))
    program = torch.export.export(module, (INPUTS, state), dynamic_shapes=shapes).module()
    state = module(more)[1]
    torch.testing.assert_close(program(more, state)[0], module(more, state)[0])


@pytest.mark.filterwarnings("ignore")  # the exporter is on its way out, and says what it traces
def test_the_older_exporter_to_onnx_writes_it(module: nn.Module, tmp_path: Path) -> None:
    import onnxruntime

    path = tmp_path / "model.onnx"
    torch.onnx.export(module, (INPUTS,), path, dynamo=False, opset_version=17, input_names=["x"])
    found, *_ = onnxruntime.InferenceSession(path).run(None, {"x": INPUTS.numpy()})
    torch.testing.assert_close(torch.from_numpy(found), module(INPUTS)[0])


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("make", [CompactLSTMCell, RowCompactLSTMCell, ReconstructingLSTMCell])
def test_a_scripted_cell_is_the_same(make: Any, bias: bool) -> None:
    cell = filled(make(3, 8, ROWS[:1] if make is RowCompactLSTMCell else KEPT[:1], bias=bias))
    script = scripted(cell)
    for inputs in (INPUTS[:, 0], INPUTS[0, 0]):
        state = cell(inputs)
        for found, wanted in zip(
            (*script(inputs), *script(inputs, state)), (*state, *cell(inputs, state)), strict=True
        ):
            torch.testing.assert_close(found, wanted)


WRONG_SHAPES = [(4, 3, 8), (2, 2, 8), (4, 2, 7), (1, 2, 8)]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("shape", WRONG_SHAPES, ids=str)
def test_a_state_of_another_shape_is_refused_as_by_an_lstm(module: nn.Module, shape: tuple[int, ...]) -> None:
    wrong = torch.zeros(shape)
    for each in (nn.LSTM(3, 8, 2, **SETTINGS), module, scripted(module)):
        for state in ((wrong, STATE), (STATE, wrong)):
            with pytest.raises((RuntimeError, torch.jit.Error), match=r"Expected hidden\[[01]\] size"):
                each(INPUTS, state)


def test_a_state_of_a_batch_does_not_fit_one_sequence(module: nn.Module) -> None:
    with pytest.raises(RuntimeError):
        module(INPUTS[0], (STATE, STATE))
    with pytest.raises(RuntimeError):
        module(INPUTS, (STATE[:, 0], STATE[:, 0]))


@pytest.mark.parametrize("form", ["units", "rows"])
def test_a_state_of_another_shape_is_refused_for_packed_sequences(form: str) -> None:
    packed = pack_sequence([INPUTS[0], INPUTS[1, :3]])
    wrong = torch.zeros(4, 3, 8)
    with pytest.raises(RuntimeError, match=r"Expected hidden\[0\] size"):
        MODULES[form]()(packed, (wrong, wrong))


@pytest.mark.parametrize("shape", [(3, 8), (2, 7), (8,), (4, 4)], ids=str)
def test_a_cell_refuses_a_state_of_another_shape(shape: tuple[int, ...]) -> None:
    wrong, right = torch.zeros(shape), torch.zeros(2, 8)
    for cell in (nn.LSTMCell(3, 8), CompactLSTMCell(3, 8, KEPT[:1]), RowCompactLSTMCell(3, 8, ROWS[:1])):
        for state in ((wrong, right), (right, wrong)):
            with pytest.raises(RuntimeError):
                cell(INPUTS[:, 0], state)


def state_of_units(*units: int) -> Tensor:
    state = torch.zeros(4, 2, 8)
    state[1, 1, list(units)] = 0.5
    return state


LOST = r"expected a state that is zero where hidden units were removed.*on_lost_state"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_state_of_removed_units_is_noticed() -> None:
    module = filled(MODULES["units"]())
    kept, lost = state_of_units(0, 5), state_of_units(0, 3, 5)
    script = scripted(module)
    for each in (module, script):
        wanted = each(INPUTS, (kept, kept))
        for state in ((lost, kept), (kept, lost)):
            each.on_lost_state = "refuse"
            with pytest.raises((ValueError, torch.jit.Error), match=LOST):
                each(INPUTS, state)
            each.on_lost_state = "ignore"
            torch.testing.assert_close(each(INPUTS, state)[0], wanted[0])


def test_a_state_of_removed_units_is_noticed_everywhere() -> None:
    lost = state_of_units(3)
    packed = pack_sequence([INPUTS[0], INPUTS[1, :3]])
    with pytest.raises(ValueError, match=LOST):
        MODULES["units"]()(packed, (lost, lost))
    with pytest.raises(ValueError, match=LOST):
        MODULES["units"]()(INPUTS[1], (lost[:, 1], lost[:, 1]))
    with pytest.raises(ValueError, match=LOST):
        CompactLSTMCell(3, 8, KEPT[:1])(INPUTS[:, 0], (lost[1], lost[1]))
    assert CompactLSTMCell(3, 8, KEPT[:1], on_lost_state="ignore")(INPUTS[:, 0], (lost[1], lost[1]))
    assert MODULES["units"](on_lost_state="ignore")(INPUTS, (lost, lost))


def test_what_a_module_gave_back_it_takes(module: nn.Module) -> None:
    """Sequences can be cut in two, the removed units of a reconstruction included."""
    output, state = module(INPUTS)
    first, middle = module(INPUTS[:, :2])
    one_way = torch.cat([first, module(INPUTS[:, 2:], middle)[0]], 1)
    assert one_way.shape == output.shape
    assert module(INPUTS, state)[0].isfinite().all()


def test_rows_take_any_state() -> None:
    assert MODULES["rows"]()(INPUTS, (torch.ones(4, 2, 8), torch.ones(4, 2, 8)))


@pytest.mark.parametrize("make", [CompactLSTM, CompactLSTMCell])
def test_what_to_do_with_a_lost_state_is_one_of_two(make: Any) -> None:
    with pytest.raises(ValueError, match='"refuse" or "ignore", found \'drop\''):
        make(3, 8, KEPT[:1], on_lost_state="drop")
