"""save_pruned and load_pruned: a model of any stage into a file, and back into the class that it came from."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from pruner import LSTMSaliencyPruner, PrunerError, load_pruned, open_checkpoint, save_pruned
from pruner.cli.main import main
from tests.helpers.training import Opaque, Tagger, batch, seeded, stepped


class Chain(nn.Module):
    """Two LSTMs of both directions, with a projection in neither, and a cell."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.LSTM(3, 8, 2, bidirectional=True, batch_first=True, dropout=0.5)
        self.second = nn.LSTM(16, 4, batch_first=True, bias=False)
        self.cell = nn.LSTMCell(4, 4)
        self.head = nn.Linear(4, 2)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(self.cell(self.second(self.first(inputs)[0])[0][:, -1])[0])


def dense(model: nn.Module) -> None:
    pass


def masked(model: nn.Module, granularity: str = "units") -> LSTMSaliencyPruner:
    return stepped(model, granularity)


def squashed(model: nn.Module) -> None:
    stepped(model).squash_mask()


def pruned(model: nn.Module) -> None:
    stepped(model).prune()


def rows_pruned(model: nn.Module) -> None:
    stepped(model, "rows").prune()


def masked_again(model: nn.Module) -> LSTMSaliencyPruner:
    stepped(model, sparsity=0.25).prune()
    return stepped(model, sparsity=0.25)


STAGES: list[Callable[[nn.Module], Any]] = [dense, masked, squashed, pruned, rows_pruned, masked_again]


@pytest.mark.parametrize("kind", [Tagger, Opaque, Chain])
@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.__name__)
def test_a_model_of_every_stage_comes_back_and_opens(
    stage: Callable[[nn.Module], Any], kind: type[nn.Module], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = seeded(kind).eval()
    pruner = stage(model)
    save_pruned(model, tmp_path / "model.pt")
    source = kind().eval()
    again = load_pruned(source, tmp_path / "model.pt")
    assert torch.equal(again(batch()[0]), model(batch()[0]))
    assert not torch.equal(source(batch()[0]), model(batch()[0]))  # the dense model is as it was
    assert {name: tuple(tensor.shape) for name, tensor in again.state_dict().items()} == {
        name: tuple(tensor.shape) for name, tensor in model.state_dict().items()
    }
    if pruner is not None:
        other = LSTMSaliencyPruner(granularity="units")
        other.prepare(again)
        assert all(torch.equal(mask, pruner.masks()[name]) for name, mask in other.masks().items())
    assert main(["inspect", str(tmp_path / "model.pt")]) == 0
    assert "lstm" in capsys.readouterr().out.lower()


def test_what_no_tensor_tells_comes_back_too(tmp_path: Path) -> None:
    class Counted(Opaque):
        steps: Any = None

        def get_extra_state(self) -> Any:
            return {"steps": self.steps}

        def set_extra_state(self, state: Any) -> None:
            self.steps = state["steps"]

    model = seeded(Counted)
    model.steps = 7
    stepped(model).prune()
    model.lstm.on_lost_state = "ignore"
    stepped(model).prune()  # of which a further round makes nothing else
    save_pruned(model, tmp_path / "model.pt")
    again: Any = load_pruned(Counted, tmp_path / "model.pt")
    assert again.lstm.on_lost_state == "ignore" and again.steps == 7
    assert load_pruned(Counted(), tmp_path / "model.pt").get_submodule("lstm").on_lost_state == "ignore"
    assert open_checkpoint(tmp_path / "model.pt").learned["lstm"].handed_states  # and no export refuses them


def test_a_class_is_called_and_settings_come_from_it(tmp_path: Path) -> None:
    model = seeded(Chain)
    pruned(model)
    torch.save(model.state_dict(), tmp_path / "plain.pt")
    again = load_pruned(Chain, tmp_path / "plain.pt")
    assert again.first.dropout == 0.5 and again.first.batch_first and again.training
    assert (again.first.hidden_size, again.second.input_size, again.head.in_features) == (4, 8, 4)


def test_a_compact_module_of_a_narrowed_model_has_its_width(tmp_path: Path) -> None:
    model = seeded(layers=2)
    stepped(model).prune()
    stepped(model, units={"*_l0": [1, 2, 3]}).prune()
    save_pruned(model, tmp_path / "model.pt")
    again = load_pruned(lambda: Tagger(2), tmp_path / "model.pt")
    assert torch.equal(again(batch()[0]), model(batch()[0])) and again.lstm.hidden_size == 4


def test_frozen_and_other_devices_stay(tmp_path: Path) -> None:
    model = seeded(Opaque)
    pruned(model)
    save_pruned(model, tmp_path / "model.pt")
    source = seeded(Opaque, seed=1).double()
    source.lstm.requires_grad_(False)
    again = load_pruned(source, tmp_path / "model.pt")
    assert not any(parameter.requires_grad for parameter in again.lstm.parameters())
    assert {parameter.dtype for parameter in again.parameters()} == {torch.float64}


@pytest.mark.parametrize("wrap", [nn.DataParallel, DistributedDataParallel])
def test_the_model_inside_a_wrapper_is_saved(wrap: Any, one_process: None, tmp_path: Path) -> None:
    model = seeded()
    save_pruned(wrap(model), tmp_path / "model.pt")
    again = load_pruned(wrap(seeded(seed=1)), tmp_path / "model.pt")
    assert torch.equal(again(batch()[0]), model(batch()[0]))


def test_the_dashboard_opens_a_pruned_file_as_the_smaller_lstm(tmp_path: Path) -> None:
    model = seeded()
    pruned(model)
    save_pruned(model, tmp_path / "model.pt")
    (lstm,) = open_checkpoint(tmp_path / "model.pt").lstms
    assert (lstm.name, lstm.hidden_size) == ("lstm", 4)


def wrong_model(path: Path) -> Any:
    save_pruned(seeded(), path)
    return load_pruned(nn.Sequential(nn.Linear(3, 4)), path)


def smaller_class(path: Path) -> Any:
    save_pruned(seeded(layers=2), path)
    return load_pruned(Tagger, path)


def no_file(path: Path) -> Any:
    return load_pruned(Tagger, path)


def no_torch_file(path: Path) -> Any:
    path.write_bytes(b"nothing")
    return load_pruned(Tagger, path)


def other_contents(path: Path) -> Any:
    torch.save({"state_dict": {"epoch": 3}}, path)
    return load_pruned(Tagger, path)


def no_model(path: Path) -> Any:
    save_pruned(seeded(), path)
    return load_pruned(lambda: 3, path)  # type: ignore[arg-type, return-value]


def no_module(path: Path) -> Any:
    save_pruned(seeded().state_dict(), path)


def class_with_arguments(path: Path) -> Any:
    save_pruned(seeded(), path)
    return load_pruned(nn.LSTM, path)


def names_of_a_wrapper(path: Path) -> Any:
    torch.save(nn.DataParallel(seeded()).state_dict(), path)
    return load_pruned(Tagger, path)


UNUSABLE = {
    no_module: "expected a model, a torch.nn.Module, found OrderedDict; give the model itself",
    class_with_arguments: "expected a model, or what makes one without arguments, found .*missing 2 required",
    names_of_a_wrapper: r"\('nothing of lstm among module\.lstm\.weight_ih_l0, .*'\); build the model",
    wrong_model: "expected a file of the model Sequential as it was built before pruning",
    smaller_class: "expected a file of the model Tagger as it was built",
    no_file: r"expected a file of torch\.save at model\.pt",
    no_torch_file: r"expected a file of torch\.save at model\.pt",
    other_contents: r"expected the state_dict of a model in model\.pt, found other things",
    no_model: "expected a model, or what makes one, found int",
}


@pytest.mark.parametrize(("case", "message"), UNUSABLE.items(), ids=lambda case: getattr(case, "__name__", ""))
def test_what_does_not_fit_is_told(case: Callable[[Path], Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(PrunerError, match=message):
        case(tmp_path / "model.pt")


def test_what_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(PrunerError, match=r"expected a place to write model\.pt"):
        save_pruned(seeded(), tmp_path / "none" / "model.pt")
    (tmp_path / "model.pt").mkdir()
    with pytest.raises(PrunerError, match=r"expected a place to write model\.pt"):
        save_pruned(seeded(), tmp_path / "model.pt")
    assert [path.name for path in tmp_path.iterdir()] == ["model.pt"]


def test_a_hostile_pickle_is_not_executed(tmp_path: Path) -> None:
    class Harm:
        def __reduce__(self) -> Any:
            return Path.touch, (tmp_path / "harmed",)

    torch.save({"state_dict": Harm()}, tmp_path / "model.pt")
    with pytest.raises(PrunerError, match=r"expected a file of torch\.save"):
        load_pruned(Tagger, tmp_path / "model.pt")
    assert not (tmp_path / "harmed").exists()
