"""`LSTMSaliencyPruner.prune()` in models as people write, train, save and watch them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune, weight_norm

from pruner import LSTMSaliencyPruner, PrunerError

GRANULARITIES = ["rows", "units"]


class Reader(nn.Module):
    """A model that calls `flatten_parameters` and reads the output in a way that no columns can be folded into."""

    def __init__(self, lstm: nn.LSTM | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.lstm = lstm or nn.LSTM(6, 16, num_layers=2)
        self.linear = nn.Linear(16, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        self.lstm.flatten_parameters()
        return self.linear(torch.relu(self.lstm(inputs)[0]).mean(0))


def masked(model: nn.Module, granularity: str) -> LSTMSaliencyPruner:
    pruner = LSTMSaliencyPruner(granularity=granularity)
    pruner.prepare(model)
    pruner.enable_mask_update = True
    pruner.step()
    return pruner


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch.jit.script itself is on its way out
@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_a_model_may_flatten_its_parameters(granularity: str) -> None:
    model, inputs = Reader(), torch.randn(5, 2, 6)
    pruner = masked(model, granularity)
    wanted = model(inputs)
    pruner.prune()
    assert not isinstance(model.lstm, nn.LSTM)
    torch.testing.assert_close(model(inputs), wanted)
    torch.testing.assert_close(torch.jit.script(model)(inputs), wanted)


@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize("shape", [(5, 2, 6), (5, 1, 6), (5, 6)], ids=["batch", "alone", "unbatched"])
def test_autocast_multiplies_in_a_lower_precision(granularity: str, shape: tuple[int, ...]) -> None:
    lstm, inputs = nn.LSTM(6, 16, num_layers=2, proj_size=4), torch.randn(*shape)
    small = masked(lstm, granularity).prune()
    wanted, (_, cell) = small(inputs)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found, (_, c_n) = small(inputs)
    torch.testing.assert_close(found.float(), wanted, rtol=0.05, atol=0.02)
    torch.testing.assert_close(c_n.float(), cell, rtol=0.05, atol=0.02)


@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_an_empty_batch_gives_an_empty_output(granularity: str) -> None:
    small = masked(nn.LSTM(6, 16), granularity).prune()
    output, (h_n, c_n) = small(torch.randn(5, 0, 6))
    assert output.shape == (5, 0, 16) and h_n.shape == c_n.shape == (1, 0, 16)


@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_its_state_dict_can_be_saved_as_safetensors(granularity: str, tmp_path: Path) -> None:
    model, other = Reader(), Reader()
    for each in (model, other):
        masked(each, granularity).prune()
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    nn.init.zeros_(other.linear.weight)
    other.load_state_dict(load_file(tmp_path / "model.safetensors"))
    inputs = torch.randn(5, 2, 6)
    assert torch.equal(model(inputs), other(inputs))


@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_hooks_move_over_and_can_still_be_removed(granularity: str) -> None:
    model, seen = Reader(), list[tuple[int, ...]]()
    handle = model.lstm.register_forward_hook(lambda module, args, output: seen.append(tuple(output[0].shape)))
    pruner = masked(model, granularity)
    pruner.prune()
    model(torch.randn(5, 2, 6))
    assert seen == [(5, 2, 16)]
    handle.remove()
    model(torch.randn(5, 2, 6))
    assert len(seen) == 1


class Doubled(nn.LSTM):
    def forward(self, *arguments: Any) -> Any:
        output, state = super().forward(*arguments)
        return 2 * output, state


def with_own_forward() -> nn.LSTM:
    lstm = nn.LSTM(6, 16)
    lstm.forward = lambda *arguments: nn.LSTM.forward(lstm, *arguments)
    return lstm


@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize("lstm", [lambda: Doubled(6, 16), with_own_forward], ids=["class", "instance"])
def test_a_forward_of_its_own_is_not_replaced(granularity: str, lstm: Callable[[], nn.LSTM]) -> None:
    model, inputs = Reader(lstm()), torch.randn(5, 2, 6)
    pruner = masked(model, granularity)
    wanted = model(inputs)
    with pytest.raises(PrunerError, match=r"expected a plain nn\.LSTM .* found lstm with a forward of its own"):
        pruner.prune()
    assert torch.equal(model(inputs), wanted) and pruner.masks()
    pruner.squash_mask()
    assert torch.equal(model(inputs), wanted)


OTHER_TOOLS: dict[str, Callable[[nn.LSTM], Any]] = {
    "parametrized": lambda lstm: parametrizations.weight_norm(lstm, "weight_hh_l0"),
    "weight_norm": lambda lstm: weight_norm(lstm, "weight_hh_l0"),
    "pruned": lambda lstm: prune.l1_unstructured(lstm, "weight_hh_l0", amount=0.5),
}


@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize("tool", OTHER_TOOLS.values(), ids=OTHER_TOOLS)
@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
def test_weights_of_another_tool_are_refused_before_anything_is_attached(
    granularity: str, tool: Callable[[nn.LSTM], Any]
) -> None:
    model = Reader()
    tool(model.lstm)
    before = dict(model.named_parameters())
    with pytest.raises(PrunerError, match=r"expected plain weights, found 'lstm\.weight_hh_l0'.*take that tool off"):
        LSTMSaliencyPruner(granularity=granularity).prepare(model)
    assert dict(model.named_parameters()).keys() == before.keys()


@pytest.mark.parametrize("beside", ["weight_hh_l1", "weight_hr_l0"])
def test_weights_of_another_tool_beside_the_masked_ones_are_refused_before_anything_is_pruned(beside: str) -> None:
    model = Reader(nn.LSTM(6, 16, num_layers=2, proj_size=4))
    prune.l1_unstructured(model.lstm, beside, amount=0.5)
    pruner = LSTMSaliencyPruner()
    pruner.prepare(model, [{"tensor_fqn": "lstm.weight_ih_l0"}])
    with pytest.raises(PrunerError, match=rf"found 'lstm\.{beside}'"):
        pruner.prune()
    assert list(pruner.masks()) == ["lstm.weight_ih_l0"]
