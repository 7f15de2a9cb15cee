"""An LSTM as the consumer of another: both shrink, in files and in memory."""

import copy
import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pruner import LSTMSaliencyPruner, PrunerError, Recipe, run
from pruner.compact.costs import size_of_form, size_when_compact
from pruner.compact.load_pruned import CompactLSTM, load_lstms, replace, resize
from pruner.exports.opened import read_export
from pruner.exports.verify import verify
from pruner.files.consumer_choice import consumers_of, in_a_row
from pruner.files.contents import Learned
from tests.helpers.command_line import command
from tests.helpers.exports import edit_manifest, edit_model
from tests.helpers.files import saved_in
from tests.helpers.models import named, random_lstm, random_steps

INPUTS = random_steps(3, 6, 4)


class Chain(nn.Module):
    """lstm1 -> dropout -> lstm2 -> fc, as in many tutorials."""

    def __init__(self, first: int = 16, second: int = 12, **settings: Any) -> None:
        super().__init__()
        directions = 2 if settings.get("bidirectional") else 1
        self.lstm1 = nn.LSTM(4, first, batch_first=True, **settings)
        self.drop = nn.Dropout(0.2)
        self.lstm2 = nn.LSTM(first * directions, second, batch_first=True, **settings)
        self.fc = nn.Linear(second * directions, 2)

    def forward(self, inputs: Tensor) -> Tensor:
        output, _ = self.lstm1(inputs)
        output, _ = self.lstm2(self.drop(output))
        return self.fc(output[:, -1])


def chain(**settings: Any) -> Any:
    torch.manual_seed(0)
    return Chain(**settings).double().eval()


READERS = ("fc.weight", "lstm2.weight_ih_l0")
SETTINGS: list[dict[str, Any]] = [{}, {"num_layers": 2}, {"bidirectional": True}, {"bias": False}]


def recipe_of(settings: dict[str, Any], sparsity: float = 0.5) -> Recipe:
    back = ("lstm2.weight_ih_l0_reverse",) if settings.get("bidirectional") else ()
    return Recipe(sparsity, "units", consumers=(*READERS, *back))


@pytest.mark.parametrize("sparsity", [0, 0.5, 1])
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_a_chain_shrinks_in_every_way(tmp_path: Path, settings: dict[str, Any], sparsity: float) -> None:
    model = chain(**settings)
    checkpoint = saved_in(tmp_path, model.state_dict())
    result = run(checkpoint, recipe_of(settings, sparsity))
    folder = result.save(tmp_path / "export", batch_first=True)
    assert verify(folder) and verify(folder, checkpoint)
    model.load_state_dict(result.pruned.tensors())
    wanted = model(INPUTS)
    first, second = max(1, 16 - int(16 * sparsity)), max(1, 12 - int(12 * sparsity))
    small = chain(first=first, second=second, **settings)
    small.load_state_dict(torch.load(folder / "pruned.pt"))
    replaced = replace(chain(**settings), folder)
    assert type(replaced.lstm1) is type(replaced.lstm2) is nn.LSTM
    assert (
        replaced.lstm2.input_size == small.lstm2.input_size == small.lstm1.hidden_size * (1 + small.lstm1.bidirectional)
    )
    stored = chain(**settings)
    stored.load_state_dict(read_export(folder).masked.tensors)
    apart = chain(**settings)
    apart.load_state_dict(result.pruned.tensors())
    for name, module in load_lstms(folder).items():
        apart.set_submodule(name, module)
    for found in (small, replaced, stored, apart):
        torch.testing.assert_close(found(INPUTS), wanted, rtol=0, atol=1e-12)
    assert resize(folder)["lstm2.hidden_size"] == {"before": 12, "after": second}
    assert resize(folder)["lstm2.input_size"]["after"] == small.lstm2.input_size
    masks, form = result.masks, result.forms["compact"]
    assert size_when_compact(checkpoint, result.recipe, masks) == size_of_form(checkpoint, form)


def test_both_forms_are_measured(tmp_path: Path) -> None:
    result = run(saved_in(tmp_path, chain().state_dict()), recipe_of({}))
    inputs = INPUTS
    for modules in (result.pruned.modules("masked"), result.pruned.modules("compact")):
        output, _ = modules["lstm1"](inputs)
        output, _ = modules["lstm2"](output)
        assert output.shape == (3, 6, 12)
    masked, compact = result.costs["masked"], result.costs["compact"]
    assert compact.macs_per_step == 4 * 8 * (4 + 8) + 4 * 6 * (8 + 6) < masked.macs_per_step


def test_a_chain_that_keeps_the_first_whole_and_masked(tmp_path: Path) -> None:
    checkpoint = saved_in(tmp_path, chain().state_dict())
    folder = run(checkpoint, recipe_of({})).save(tmp_path / "masked", "masked", batch_first=True)
    assert verify(folder, checkpoint) and resize(folder) == {}


def test_an_altered_chain_is_told(tmp_path: Path) -> None:
    checkpoint = saved_in(tmp_path, chain().state_dict())
    folder = run(checkpoint, recipe_of({})).save(tmp_path / "export")
    edit_manifest(folder, ("lstms", 1, "stored_input_size"), 9)
    with pytest.raises(PrunerError, match="is not the export it claims to be"):
        verify(folder)
    edit_manifest(folder, ("lstms", 1, "stored_input_size"), 8)
    assert verify(folder)
    edit_model(folder, lambda tensors: tensors.update({READERS[1]: torch.zeros(24, 16).double()}))
    with pytest.raises(PrunerError, match="is not the export it claims to be"):
        verify(folder)


@pytest.mark.parametrize(
    ("entry", "consumers"),
    [
        (0, []),
        (0, ["lstm2.weight_ih_l0", "lstm2.weight_ih_l0"]),
        (0, ["fc.weight"]),
        (1, ["lstm2.weight_ih_l0"]),
        (1, ["fc.weight", "lstm2.weight_ih_l0"]),
        (1, []),
    ],
    ids=str,
)
def test_consumers_that_are_claimed_are_checked(tmp_path: Path, entry: int, consumers: list[str]) -> None:
    folder = run(saved_in(tmp_path, chain().state_dict()), recipe_of({})).save(tmp_path / "export")
    edit_manifest(folder, ("lstms", entry, "consumers"), consumers)
    with pytest.raises(PrunerError, match="expected"):
        verify(folder)


REFUSED: dict[str, tuple[dict[str, Tensor], Recipe, str]] = {
    "what is not the input": (
        chain().state_dict(),
        Recipe(0.5, "units", consumers=("lstm2.weight_hh_l0",)),
        r"a consumer outside of the LSTMs, or one that reads the input of one \(lstm2.weight_ih_l0\)",
    ),
    "of its own": (chain().state_dict(), Recipe(0.5, "units", consumers=("lstm1.weight_ih_l0",)), "12 of lstm2"),
    "one direction": (
        chain(bidirectional=True).state_dict(),
        Recipe(0.5, "units", consumers=("lstm2.weight_ih_l0",)),
        "expected all that reads the input of lstm2, 'lstm2.weight_ih_l0_reverse' too",
    ),
    "not pruned itself": (
        chain().state_dict(),
        Recipe(0.5, "units", lstms=("lstm1",), consumers=("lstm2.weight_ih_l0",)),
        "expected lstm2 among the LSTMs to prune",
    ),
    "layers of two sizes": (
        chain(num_layers=2).state_dict(),
        Recipe(0.5, "units", layer_sparsity={0: 0.25}, consumers=("lstm2.weight_ih_l0",)),
        "expected as many units in every layer of lstm1 to trim its consumers",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_a_chain_is_refused(tmp_path: Path, case: str) -> None:
    tensors, recipe, message = REFUSED[case]
    checkpoint = saved_in(tmp_path, tensors)
    with pytest.raises(PrunerError, match=message):
        consumers_of(checkpoint, recipe)
        run(checkpoint, recipe)


def test_a_reader_of_two_sizes_is_refused(tmp_path: Path) -> None:
    torch.manual_seed(0)
    tensors = named(nn.LSTM(4, 16), "one.") | named(nn.LSTM(16, 12, 2), "two.")
    recipe = Recipe(0.5, "units", layer_sparsity={1: 0.25}, consumers=("two.weight_ih_l0",))
    with pytest.raises(
        PrunerError, match=r"as many units in every layer of two to trim what it reads of one, found 6, 9"
    ):
        run(saved_in(tmp_path, tensors), recipe)


ALONE = Recipe(0.5, "units", consumers=("fc.weight",))
OF_A_ROW: dict[str, tuple[dict[str, Tensor], Recipe, tuple[str, ...]]] = {
    "a chain": (chain().state_dict(), ALONE, ("lstm2.weight_ih_l0",)),
    "both directions": (
        chain(bidirectional=True).state_dict(),
        ALONE,
        ("lstm2.weight_ih_l0", "lstm2.weight_ih_l0_reverse"),
    ),
    "of three": (
        named(nn.LSTM(4, 9), "rnns.0.")
        | named(nn.LSTM(9, 7), "rnns.1.")
        | named(nn.LSTM(7, 5), "rnns.2.")
        | {"fc.weight": torch.ones(2, 5)},
        ALONE,
        ("rnns.2.weight_ih_l0", "rnns.1.weight_ih_l0"),
    ),
    "nobody named": (chain().state_dict(), Recipe(0.5, "units"), ()),
    "from data": (
        chain().state_dict(),
        Recipe(0.5, "units", compensation="fold", consumers=("fc.weight",)),
        ("lstm2.weight_ih_l0",),
    ),
    "one of them pruned": (chain().state_dict(), Recipe(0.5, "units", lstms=("lstm2",), consumers=("fc.weight",)), ()),
    "named already": (chain().state_dict(), Recipe(0.5, "units", consumers=READERS), ()),
    "no number": (
        named(nn.LSTM(4, 9), "encoder.") | named(nn.LSTM(9, 7), "decoder.") | {"fc.weight": torch.ones(2, 7)},
        ALONE,
        (),
    ),
    "another reader": (chain().state_dict() | {"other.weight": torch.ones(3, 16)}, ALONE, ()),
    "another source": (chain().state_dict() | {"embedding.weight": torch.ones(99, 16)}, ALONE, ()),
    "a norm between": (chain().state_dict() | {"norm.weight": torch.ones(16)}, ALONE, ()),
    "side by side": (
        named(nn.LSTM(9, 9), "lstm1.") | named(nn.LSTM(9, 7), "lstm2.") | {"fc.weight": torch.ones(2, 7)},
        ALONE,
        (),
    ),
    "of another size": (
        named(nn.LSTM(4, 9), "lstm1.") | named(nn.LSTM(8, 7), "lstm2.") | {"fc.weight": torch.ones(2, 7)},
        ALONE,
        (),
    ),
}


@pytest.mark.parametrize("case", OF_A_ROW)
def test_what_follows_in_a_row(tmp_path: Path, case: str) -> None:
    tensors, recipe, wanted = OF_A_ROW[case]
    assert in_a_row(saved_in(tmp_path, tensors), recipe) == wanted


def test_what_a_file_does_not_show_does_not_follow(tmp_path: Path) -> None:
    checkpoint = saved_in(tmp_path, chain().state_dict())
    shown = dataclasses.replace(checkpoint, learned={"lstm2": Learned(consumers=("fc.weight",))})
    assert in_a_row(checkpoint, ALONE) and not in_a_row(shown, ALONE)


def test_the_command_line_says_what_follows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(chain().state_dict(), "model.pt")
    assert command("prune model.pt --granularity units --consumer fc.weight --output small") == 0
    assert "note: lstm2.weight_ih_l0 trimmed, too" in capsys.readouterr().err
    chain(first=8, second=6).load_state_dict(torch.load("small/pruned.pt"))


def pair_of_equals() -> dict[str, Tensor]:
    """An encoder and a decoder that reads it, as wide as each other, each with a head."""
    torch.manual_seed(0)
    tensors = named(nn.LSTM(8, 8), "encoder.") | named(nn.LSTM(8, 8), "decoder.")
    return tensors | {"one.weight": torch.randn(2, 8), "two.weight": torch.randn(3, 8)}


SAID = ("encoder=decoder.weight_ih_l0", "encoder=one.weight", "decoder=two.weight")


def test_who_reads_whom_can_be_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    checkpoint = saved_in(tmp_path, pair_of_equals())
    recipe = Recipe(0.5, "units", consumers=SAID)
    assert consumers_of(checkpoint, recipe) == {
        "encoder": ["decoder.weight_ih_l0", "one.weight"],
        "decoder": ["two.weight"],
    }
    line = " ".join(f"--consumer {text}" for text in SAID)
    assert command(f"prune model.pt --granularity units {line} --output small") == 0
    assert verify("small", checkpoint) and verify("small")
    stored = torch.load("small/pruned.pt")
    assert [stored[name].shape[1] for name in ("one.weight", "two.weight", "decoder.weight_ih_l0")] == [4, 4, 4]


@pytest.mark.parametrize("text", ["decoder=decoder.weight_ih_l0", "nobody=one.weight", "encoder=three.weight"])
def test_what_is_said_must_be_possible(tmp_path: Path, text: str) -> None:
    with pytest.raises(PrunerError, match="expected"):
        consumers_of(saved_in(tmp_path, pair_of_equals()), Recipe(0.5, "units", consumers=(text,)))


def test_a_name_that_fits_two_is_asked_about(tmp_path: Path) -> None:
    with pytest.raises(PrunerError, match=r"name it as decoder=one\.weight, or prune one LSTM at a time"):
        consumers_of(saved_in(tmp_path, pair_of_equals()), Recipe(0.5, "units", consumers=("one.weight",)))


class ReaderFirst(Chain):
    """Whose second LSTM was made first, and whose head is no Linear alone."""

    def __init__(self) -> None:
        super().__init__()
        first = self.lstm1
        del self.lstm1
        self.lstm1 = first

    def forward(self, inputs: Tensor) -> Tensor:
        output, _ = self.lstm2(self.lstm1(inputs)[0])
        return self.fc(output.relu())


@pytest.mark.parametrize("make", [chain, lambda: ReaderFirst().double().eval(), lambda: chain(bidirectional=True)])
def test_a_chain_in_memory_shrinks(make: Any) -> None:
    model = make()
    twin = copy.deepcopy(model)
    for each, finish in ((twin, "squash_mask"), (model, "prune")):
        pruner = LSTMSaliencyPruner({"sparsity_level": 0.5}, granularity="units")
        pruner.prepare(each)
        pruner.enable_mask_update = True
        pruner.step()
        getattr(pruner, finish)()
    assert type(model.lstm1) is nn.LSTM and model.lstm1.hidden_size == 8
    second = model.lstm2 if not isinstance(model, ReaderFirst) else model.lstm2.layers[0].lstm
    assert isinstance(model.lstm2, CompactLSTM) == isinstance(model, ReaderFirst)
    assert second.input_size == second.weight_ih_l0.shape[1] == 8 * (2 if model.lstm1.bidirectional else 1)
    torch.testing.assert_close(model(INPUTS), twin(INPUTS), rtol=0, atol=1e-12)
    model(INPUTS).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_a_random_lstm_is_no_consumer_of_itself(tmp_path: Path) -> None:
    checkpoint = saved_in(tmp_path, named(random_lstm(input_size=4), "rnn."))
    with pytest.raises(PrunerError, match=r"found 'rnn\.weight_ih_l0'"):
        consumers_of(checkpoint, Recipe(0.5, "units", consumers=("rnn.weight_ih_l0",)))
