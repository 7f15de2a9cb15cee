"""The lines of an export's README make the author's own model compute what the masked one computes."""

import io
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pruner import Recipe, Result, open_checkpoint, run
from pruner.calibration.calibration import Calibration
from pruner.exports.verify import verify
from tests.helpers.authors import AUTHORS, HIDDEN, trained
from tests.helpers.compensated import calibration
from tests.helpers.exports import read_manifest, write_manifest
from tests.helpers.models import random_steps
from tests.helpers.modules import scripted

INPUTS = random_steps(4, 6, 3, dtype=torch.float32)
LSTMS = {"tagger": ["rnn"], "encoder": ["body.rnn"], "pair": ["first", "second"]}
OWN_CLASS, SMALLER, REPLACED, ALONE = (
    "Into your own class, built as before",
    "Into your own class, built smaller",
    "Into your own model, whatever was removed",
    "The LSTMs alone",
)
KINDS: dict[str, tuple[Recipe, str]] = {
    "masked rows": (Recipe(0.5), "masked"),
    "compact rows": (Recipe(0.5), "compact"),
    "masked units": (Recipe(0.5, "units"), "masked"),
    "compact units": (Recipe(0.5, "units"), "compact"),
    "trimmed": (Recipe(0.5, "units", consumers=("head.weight",)), "compact"),
    "healed and trimmed": (
        Recipe(0.5, "units", consumers=("head.weight",), compensation="heal", steps=3),
        "compact",
    ),
    "reconstructing": (Recipe(0.5, "units", compensation="fold"), "compact"),
    "reconstructing, masked": (Recipe(0.5, "units", compensation="fold"), "masked"),
}


def pickled(model: nn.Module) -> bytes:
    file = io.BytesIO()
    torch.save(model, file)
    return file.getvalue()


KNOWING: dict[str, Callable[[nn.Module], bytes]] = {"whole module": pickled, "script": scripted}


def pruned(name: str, kind: str, data: bytes) -> tuple[Result, str]:
    recipe, form = KINDS[kind]
    checkpoint = open_checkpoint(data, "model.pt")
    arrays = {
        lstm.name: [random_steps(30, 16, lstm.input_size, seed=3, dtype=torch.float32)] for lstm in checkpoint.lstms
    }
    inputs = Calibration("file", arrays, burn_in=2) if recipe.needs_data else None
    return run(checkpoint, recipe, calibration=inputs), form


def masked_outputs(name: str, result: Result) -> Tensor:
    """What the author's model answers with the masked LSTMs, at full size, that were previewed."""
    model, tensors = trained(name), result.pruned.tensors()
    own = {key: tensors[key] for key in model.state_dict() if key in tensors}
    model.load_state_dict(own, strict=False)
    for path, module in result.pruned.modules("masked").items():
        module.batch_first = model.get_submodule(path).batch_first
        model.set_submodule(path, module)
    with torch.inference_mode():
        return model(INPUTS)


def lines(folder: Path) -> dict[str, str]:
    """{heading: lines} of the README of an export."""
    found = re.findall(r"^### ([^\n]+)\n\n```python\n(.+?)\n```$", (folder / "README.md").read_text(), re.M | re.S)
    return dict(found)


@pytest.fixture
def follow(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., dict[str, Any]]]:
    """Run lines word for word in a folder, with the names that are there; gives all names afterwards."""

    def run_there(folder: Path, code: str, **names: Any) -> dict[str, Any]:
        monkeypatch.chdir(folder)
        monkeypatch.syspath_prepend(folder)
        sys.modules.pop("load_pruned", None)
        exec(compile(code, "README.md", "exec"), names)
        return names

    yield run_there
    sys.modules.pop("load_pruned", None)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch.jit.script itself is on its way out
@pytest.mark.parametrize("source", KNOWING)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", AUTHORS)
def test_every_way_gives_the_masked_outputs(
    tmp_path: Path, follow: Callable[..., dict[str, Any]], name: str, kind: str, source: str
) -> None:
    result, form = pruned(name, kind, KNOWING[source](trained(name)))
    folder = result.save(tmp_path / "export", form)
    assert verify(folder) and verify(folder, result.checkpoint)
    wanted, ways = masked_outputs(name, result), lines(folder)
    assert not any("batch_first" in code for code in ways.values())  # the file knows it
    assert {REPLACED, ALONE} <= ways.keys()
    if "masked" in kind and "reconstructing" not in kind:
        check(follow(folder, ways[OWN_CLASS], model=fresh(name))["model"], wanted)
    if SMALLER in ways:
        sizes = follow(folder, "from load_pruned import resize\nsizes = resize('.')")["sizes"]
        hidden = [sizes[f"{lstm}.hidden_size"]["after"] for lstm in LSTMS[name]]
        check(follow(folder, ways[SMALLER], model=AUTHORS[name](*hidden).eval())["model"], wanted)
    assert (SMALLER in ways) == ("trimmed" in kind and name != "pair")
    model = fresh(name)
    replaced = follow(folder, ways[REPLACED], model=model)["model"]
    assert replaced is model and not replaced.training
    check(replaced, wanted)
    alone = follow(folder, ways[ALONE])
    assert list(alone["lstms"]) == LSTMS[name]
    model = fresh(name)
    model.load_state_dict({key: value for key, value in result.pruned.tensors().items() if key in model.state_dict()})
    for path, module in alone["lstms"].items():
        model.set_submodule(path, module)
    check(model, wanted)


def fresh(name: str) -> nn.Module:
    """The author's model as it is built, with other weights."""
    torch.manual_seed(9)
    return AUTHORS[name]().eval()


def check(model: nn.Module, wanted: Tensor) -> None:
    with torch.inference_mode():
        torch.testing.assert_close(model(INPUTS), wanted, rtol=0, atol=1e-5)


def test_what_stood_there_says_how_it_is_called(tmp_path: Path, follow: Callable[..., dict[str, Any]]) -> None:
    """Of a state dict nothing is known, and nothing need be: the model says it, with dropout and mode."""
    torch.save(trained("tagger").state_dict(), tmp_path / "model.pt")
    result = run(open_checkpoint(tmp_path / "model.pt"), KINDS["compact units"][0])
    folder = result.save(tmp_path / "export")
    model = fresh("tagger").train().double()
    model.rnn.requires_grad_(False)
    replaced = follow(folder, lines(folder)[REPLACED], model=model)["model"]
    rnn = replaced.rnn
    assert (type(rnn).__name__, rnn.batch_first, rnn.dropout) == ("CompactLSTM", True, 0.25)
    assert rnn.training and all(module.training for module in rnn.modules())
    assert {parameter.dtype for parameter in rnn.parameters()} == {torch.float64}
    assert not any(parameter.requires_grad for parameter in rnn.parameters())
    check(replaced.eval().float(), masked_outputs("tagger", result))


def test_a_trimmed_model_can_be_trained_and_saved(tmp_path: Path, follow: Callable[..., dict[str, Any]]) -> None:
    result, form = pruned("tagger", "trimmed", pickled(trained("tagger")))
    folder = result.save(tmp_path / "export", form)
    model = follow(folder, lines(folder)[REPLACED], model=fresh("tagger"))["model"].train()
    assert type(model.rnn) is nn.LSTM and model.rnn.hidden_size == HIDDEN // 2
    assert model.head.in_features == model.head.weight.shape[1] == HIDDEN
    model(INPUTS).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    other = AUTHORS["tagger"](HIDDEN // 2)
    other.load_state_dict(model.state_dict())


def test_a_file_that_was_wrapped_fits_the_model_alone(tmp_path: Path, follow: Callable[..., dict[str, Any]]) -> None:
    tensors = {f"module.{name}": tensor for name, tensor in trained("tagger").state_dict().items()}
    torch.save(tensors, tmp_path / "model.pt")
    recipe = Recipe(0.5, "units", consumers=("module.head.weight",))
    result = run(open_checkpoint(tmp_path / "model.pt"), recipe)
    folder = result.save(tmp_path / "export")
    for model in (fresh("tagger"), nn.ModuleDict({"module": fresh("tagger")})):
        follow(folder, lines(folder)[REPLACED], model=model)
        own = model if hasattr(model, "rnn") else model["module"]
        plain = run(open_checkpoint(pickled(trained("tagger")), "m.pt"), KINDS["trimmed"][0])
        check(own, masked_outputs("tagger", plain))


class Tied(nn.Module):
    """A head that is the embedding, too."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(5, HIDDEN)
        self.rnn = nn.LSTM(HIDDEN, HIDDEN, batch_first=True)
        self.head = nn.Linear(HIDDEN, 5)
        self.head.weight = self.embedding.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.rnn(self.embedding(tokens))[0])


@pytest.mark.parametrize("compensation", ["none", "fold"])
@pytest.mark.parametrize("form", ["masked", "compact"])
def test_what_was_tied_is_untied_where_it_has_to_be(tmp_path: Path, form: str, compensation: str) -> None:
    from pruner.compact.load_pruned import replace

    torch.manual_seed(0)
    model, tokens = Tied().eval(), torch.tensor([[0, 3, 1, 4]])
    torch.save(model.state_dict(), tmp_path / "model.pt")
    recipe = Recipe(0.5, "units", consumers=("head.weight",), compensation=compensation)
    inputs = calibration("rnn", width=HIDDEN) if compensation != "none" else None
    result = run(open_checkpoint(tmp_path / "model.pt"), recipe, calibration=inputs)
    folder = result.save(tmp_path / "export", form, batch_first=True)
    found = replace(Tied().eval(), folder)
    masked = result.pruned.tensors()
    model.head.weight = nn.Parameter(masked["head.weight"])
    model.load_state_dict(masked)
    with torch.inference_mode():
        torch.testing.assert_close(found(tokens), model(tokens), rtol=0, atol=1e-5)
    assert torch.equal(found.embedding.weight, masked["embedding.weight"])
    assert (found.head.weight is found.embedding.weight) == ((form, compensation) == ("masked", "none"))


def another(**sizes: Any) -> nn.Module:
    model = AUTHORS["tagger"]()
    settings = {"input_size": 3, "hidden_size": HIDDEN, "num_layers": 2, "bidirectional": True, **sizes}
    model.rnn = nn.LSTM(**settings)
    return model


class OwnLSTM(nn.LSTM):
    """With a forward of its own, for all that is known."""


def with_module(name: str, module: nn.Module) -> nn.Module:
    model = AUTHORS["tagger"]()
    setattr(model, name, module)
    return model


UNFIT: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "no LSTM": (lambda: nn.Linear(2, 2), "expected a plain nn.LSTM 'rnn' in the model, found none .but no LSTM at all"),
    "another name": (lambda: AUTHORS["pair"](), "found none .but first, second"),
    "a GRU": (lambda: with_module("rnn", nn.GRU(3, 8)), "found a GRU"),
    "a class of one's own": (lambda: with_module("rnn", OwnLSTM(3, 8, 2, bidirectional=True)), "found a OwnLSTM"),
    "pruned already": (lambda: AUTHORS["tagger"](HIDDEN // 2), "hidden_size=8, as before pruning, found hidden_size=4"),
    "other inputs": (lambda: another(input_size=4), "input_size=3, as before pruning, found input_size=4"),
    "fewer layers": (lambda: another(num_layers=1), "num_layers=2, as before pruning, found num_layers=1"),
    "without bias": (lambda: another(bias=False), "bias=True, as before pruning, found bias=False"),
    "no head": (lambda: with_module("head", nn.Identity()), "expected a parameter 'head.weight'"),
    "another head": (
        lambda: with_module("head", nn.Linear(9, 5)),
        r"'head.weight' .* in the shape \(5, 16\), .* found \(5, 9\)",
    ),
}


@pytest.mark.parametrize("case", UNFIT)
def test_a_model_that_does_not_fit_stays_as_it_is(tmp_path: Path, case: str) -> None:
    from pruner.compact.load_pruned import replace

    make, message = UNFIT[case]
    result, form = pruned("tagger", "trimmed", pickled(trained("tagger")))
    folder = result.save(tmp_path / "export", form)
    model = make()
    before, modules = {key: value.clone() for key, value in model.state_dict().items()}, list(model.modules())
    with pytest.raises(ValueError, match=message):
        replace(model, folder)
    assert list(model.modules()) == modules
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_what_the_model_has_not_is_left_out(tmp_path: Path) -> None:
    from pruner.compact.load_pruned import replace

    result, form = pruned("tagger", "trimmed", pickled(trained("tagger")))
    folder = result.save(tmp_path / "export", form)
    model = replace(with_module("head", nn.Linear(16, 5, bias=False)), folder)
    assert torch.equal(model.head.weight, result.forms["compact"].changed["head.weight"])


def test_resize_says_what_a_class_needs(tmp_path: Path) -> None:
    from pruner.compact.load_pruned import resize

    container = {"state_dict": trained("tagger").state_dict(), "config": {"hidden_dim": HIDDEN, "epochs": HIDDEN}}
    torch.save(container, tmp_path / "model.pt")
    checkpoint = open_checkpoint(tmp_path / "model.pt")
    smaller = {"before": HIDDEN, "after": HIDDEN // 2}
    folder = run(checkpoint, KINDS["trimmed"][0]).save(tmp_path / "trimmed")
    assert resize(folder) == {"rnn.hidden_size": smaller, "config.hidden_dim": smaller}
    assert resize(run(checkpoint, KINDS["trimmed"][0]).save(tmp_path / "masked", "masked")) == {}
    lone = tmp_path / "lone.pt"
    torch.save(nn.LSTM(3, HIDDEN).state_dict(), lone)
    alone = run(open_checkpoint(lone), Recipe(0.5, "units")).save(tmp_path / "lone")
    assert resize(alone) == {"hidden_size": smaller}


NO_SIZE: dict[str, tuple[Recipe, str]] = {
    "rows": (Recipe(0.5), "found 'rnn' stored as RowCompactLSTM; call replace"),
    "wide readers": (
        Recipe(0.5, "units"),
        r"expected what reads 'rnn' to be as narrow .* full width \(8\); call replace",
    ),
    "layers of two sizes": (Recipe(0.5, "units", layer_sparsity={0: 0.25}), "found 'rnn' stored as CompactLSTM"),
}


@pytest.mark.parametrize("case", NO_SIZE)
def test_resize_refuses_what_no_class_takes(tmp_path: Path, case: str) -> None:
    from pruner.compact.load_pruned import resize

    recipe, message = NO_SIZE[case]
    torch.save(trained("tagger").state_dict(), tmp_path / "model.pt")
    folder = run(open_checkpoint(tmp_path / "model.pt"), recipe).save(tmp_path / "export", "compact")
    with pytest.raises(ValueError, match=message):
        resize(folder)


def test_an_export_that_is_none_is_told(tmp_path: Path) -> None:
    from pruner.compact.load_pruned import load_lstms, replace, resize

    for call in (load_lstms, resize, lambda folder: replace(nn.Linear(2, 2), folder)):
        with pytest.raises(ValueError, match=r"expected an export folder with a manifest\.json, found none"):
            call(tmp_path)


def test_an_lstm_alone_is_in_no_model(tmp_path: Path) -> None:
    from pruner.compact.load_pruned import replace

    torch.save(nn.LSTM(3, HIDDEN).state_dict(), tmp_path / "model.pt")
    folder = run(open_checkpoint(tmp_path / "model.pt"), Recipe()).save(tmp_path / "export")
    assert REPLACED not in lines(folder)
    with pytest.raises(ValueError, match="found that of the LSTM itself; call load_lstms"):
        replace(nn.LSTM(3, HIDDEN), folder)
    assert read_manifest(folder)["rest"] == {}


def test_an_export_that_does_not_say_where_the_rest_lies_is_no_model(tmp_path: Path) -> None:
    """As those were that this version's README and example are not in: their LSTMs load, and are asked about."""
    from pruner.compact.load_pruned import load_lstms, replace

    torch.save(trained("tagger").state_dict(), tmp_path / "model.pt")
    folder = run(open_checkpoint(tmp_path / "model.pt"), Recipe()).save(tmp_path / "export")
    manifest = read_manifest(folder)
    del manifest["rest"]
    write_manifest(folder, manifest)
    with pytest.raises(ValueError, match="expected an export that says where all its tensors lie, found an older one"):
        replace(fresh("tagger"), folder)
    with pytest.raises(ValueError, match="expected batch_first"):
        load_lstms(folder)
    assert load_lstms(folder, batch_first=True)
