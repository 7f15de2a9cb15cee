"""Checkpoints: tensors found under any nesting and leftover, hostile ones refused, and exact copies written."""

import copy
import hashlib
import math
import os
import warnings
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import safetensors
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from pruner.errors import PrunerError
from pruner.files import formats
from pruner.files.checkpoint import open_checkpoint
from pruner.files.naming import as_text
from pruner.files.writing import write
from tests.conftest import named, random_lstm
from tests.files.test_formats import SAVERS, saved, saved_legacy, zipped

STATE = named(random_lstm(), "rnn.")
NAME = "rnn.weight_hh_l0"
NESTINGS = [
    (),
    ("state_dict",),
    ("model",),
    ("model_state",),
    ("model_state_dict",),
    ("net",),
    ("anything", "inside"),
    ("model", "model"),
]


def nested(value: Any, keys: tuple[str, ...]) -> dict[str, Any]:
    """The value under these keys, with other things beside it at each step."""
    for key in reversed(keys):
        value = {"epoch": 3, key: value, "losses": [0.5, 0.25]}
    return value


def trained() -> tuple[nn.ModuleDict, torch.optim.Optimizer]:
    model = nn.ModuleDict({"rnn": random_lstm()})
    optimizer = torch.optim.Adam(model.parameters())
    model["rnn"](torch.ones(2, 3))[0].sum().backward()
    optimizer.step()
    return model, optimizer


def names_of(source: bytes) -> list[str]:
    return [lstm.name for lstm in open_checkpoint(source).lstms]


@pytest.mark.parametrize("suffix", ["pt", "safetensors", "tar", "weird"])
@pytest.mark.parametrize("kind", SAVERS)
def test_a_file_opens_from_its_path_and_from_its_bytes(kind: str, suffix: str, tmp_path: Path) -> None:
    data = SAVERS[kind](STATE)
    path = tmp_path / f"model.{suffix}"
    path.write_bytes(data)
    for checkpoint in (open_checkpoint(path), open_checkpoint(str(path)), open_checkpoint(data, path.name)):
        assert (checkpoint.name, checkpoint.format, checkpoint.size) == (path.name, kind, len(data))
        assert checkpoint.sha256 == hashlib.sha256(data).hexdigest()
        assert [lstm.name for lstm in checkpoint.lstms] == ["rnn"]
        assert checkpoint.tensors.keys() == STATE.keys()
        assert all(torch.equal(checkpoint.tensors[name], STATE[name]) for name in STATE)
    assert path.read_bytes() == data


@pytest.mark.parametrize("keys", NESTINGS, ids=".".join)
def test_a_state_dict_is_found_under_any_keys_beside_an_optimizer(keys: tuple[str, ...]) -> None:
    model, optimizer = trained()
    state = nested(model.state_dict(), keys)
    container = {**state, "optimizer": optimizer.state_dict(), "step": torch.tensor(7)} if keys else state
    checkpoint = open_checkpoint(saved(container))
    assert [lstm.name for lstm in checkpoint.lstms] == ["rnn"]
    assert checkpoint.locations == {name: (*keys, name) for name in model.state_dict()}


def test_a_state_dict_three_dictionaries_deep_is_not_looked_for() -> None:
    assert names_of(saved(nested(STATE, ("a", "b", "c")))) == []


def test_state_dicts_side_by_side_are_named_by_their_keys() -> None:
    root = named(random_lstm())
    checkpoint = open_checkpoint(saved({"model": STATE, "encoder": root, "both": {"ema": STATE}, "head": {"w": root}}))
    assert [lstm.name for lstm in checkpoint.lstms] == ["both.ema.rnn", "encoder", "head.w", "model.rnn"]
    assert checkpoint.locations[f"both.ema.{NAME}"] == ("both", "ema", NAME)


def test_two_tensors_of_one_name_are_refused() -> None:
    with pytest.raises(PrunerError, match=f"found two called 'a.{NAME}'"):
        open_checkpoint(saved({"a": STATE, f"a.{NAME}": torch.zeros(1), "weight_hh": torch.zeros(1)}))


def test_an_optimizer_alone_holds_no_lstm() -> None:
    checkpoint = open_checkpoint(saved(trained()[1].state_dict()))
    assert checkpoint.lstms == []
    with pytest.raises(PrunerError, match="expected an LSTM in checkpoint, found none; it holds no named tensors"):
        checkpoint.select()


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "encoder._module."])
def test_wrappers_stay_in_the_names(prefix: str) -> None:
    checkpoint = open_checkpoint(saved(named(random_lstm(), prefix)))
    assert [lstm.name for lstm in checkpoint.lstms] == [prefix.removesuffix(".")]
    assert checkpoint.tensors.keys() == {f"{prefix}{name}" for name in random_lstm().state_dict()}


def test_lstms_are_selected_by_name() -> None:
    checkpoint = open_checkpoint(saved({**STATE, **named(random_lstm(), "a."), **named(nn.GRU(3, 4), "gru.")}))
    assert [lstm.name for lstm in checkpoint.select()] == ["a", "rnn"]
    assert [lstm.name for lstm in checkpoint.select(["rnn", "a", "rnn"])] == ["rnn", "a"]
    with pytest.raises(PrunerError, match=r"expected the name of an LSTM in checkpoint \('a', 'rnn'\), found 'gru'"):
        checkpoint.select(["a", "gru"])


@pytest.mark.parametrize(
    ("tensors", "holds"),
    [
        (named(nn.GRU(3, 4), "gru."), r"gru \(a GRU: 3 gates"),
        (named(nn.Linear(3, 4), "head."), "2 tensors: head.weight, head.bias"),
        ({}, "no named tensors, but a dict of $"),
        ({"epoch": 3, 7: torch.zeros(1)}, "no named tensors, but a dict of epoch, 7"),
    ],
    ids=["GRU", "no recurrent layer", "nothing", "no names"],
)
def test_a_file_without_an_lstm_says_what_it_holds(tensors: dict[Any, Any], holds: str) -> None:
    checkpoint = open_checkpoint(saved(tensors))
    with pytest.raises(PrunerError, match=f"expected an LSTM in checkpoint, found none; it holds {holds}"):
        checkpoint.select()


@pytest.mark.parametrize("save", [saved, saved_legacy])
def test_parameters_and_views_of_one_storage_are_read(save: Callable[[Any], bytes]) -> None:
    state = {name: nn.Parameter(tensor) for name, tensor in views_of_one_storage().items()}
    checkpoint = open_checkpoint(save(state))
    assert [lstm.name for lstm in checkpoint.lstms] == ["rnn"]
    assert all(torch.equal(checkpoint.tensors[name], state[name]) for name in state)


def views_of_one_storage(spare: int = 1000) -> dict[str, Tensor]:
    """An LSTM as cuDNN keeps it: all weights in one buffer, which has room to spare."""
    flat = torch.cat([tensor.flatten() for tensor in STATE.values()] + [torch.zeros(spare)])
    sizes = [tensor.numel() for tensor in STATE.values()]
    pieces = flat[: sum(sizes)].split(sizes)
    return {name: piece.view_as(STATE[name]) for name, piece in zip(STATE, pieces, strict=True)}


HOSTILE: dict[str, tuple[Callable[[], Any], str]] = {
    "expanded": (lambda: torch.zeros(1).expand(10**6), "expected tensors that fit into the file's"),
    "expanded a little": (lambda: torch.zeros(1).expand(1500), "of shape (1500,) (6,000 bytes)"),
    "overlapping": (lambda: torch.zeros(1).as_strided((10**5, 10**5), (0, 0)), "(40,000,000,000 bytes)"),
    "COO": (lambda: torch.eye(4).to_sparse(), "expected dense tensors, found 'rnn.weight_hh_l0' (sparse)"),
    "CSR": (lambda: torch.eye(4).to_sparse_csr(), "(sparse)"),
    "meta": (lambda: torch.zeros(16, 4, device="meta"), "(without numbers, on the device meta)"),
    "nested": (lambda: torch.nested.nested_tensor([torch.zeros(2, 3), torch.zeros(3, 3)]), "expected dense tensors"),
}
NOT_DICTIONARIES = {"list": [STATE], "tuple": (STATE, 3), "Tensor": torch.zeros(3), "NoneType": None, "str": "rnn"}
WEIRD_NAMES = {
    "empty": "",
    "a dot": ".",
    "dots": "..weight_hh_l0",
    "a line break": "rnn\n.weight_hh_l0",
    "half a character": "\ud800.weight_hh_l0",
    "long": "a." * 10**4 + "weight_hh_l0",
    "only an ending": "_orig",
    "only a mask": "_mask",
    "half a parametrization": "parametrizations.",
    "no parametrized module": "parametrizations.weight_hh_l0.original",
    "an unknown part": "parametrizations.weight_hh_l0.original0",
}
ODD_DTYPES = [torch.float8_e4m3fn, torch.bits8, torch.uint16, torch.bool, torch.int64, torch.complex64]


@pytest.mark.parametrize(("make", "found"), HOSTILE.values(), ids=HOSTILE)
def test_tensors_that_are_not_what_they_claim_are_refused(make: Callable[[], Any], found: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data = saved({**STATE, NAME: make()})
    with pytest.raises(PrunerError) as caught:
        open_checkpoint(data, "model.pt")
    assert found in str(caught.value)
    assert "model.pt" in str(caught.value)


def test_many_tensors_that_claim_too_much_together_are_refused() -> None:
    shared = torch.zeros(10**4)
    with pytest.raises(PrunerError, match="expected tensors that fit into the file's"):
        open_checkpoint(saved({f"{index}": shared[index:] for index in range(100)}))


@pytest.mark.parametrize(("kind", "container"), NOT_DICTIONARIES.items(), ids=NOT_DICTIONARIES)
def test_containers_that_are_not_dictionaries_are_refused(kind: str, container: Any) -> None:
    with pytest.raises(PrunerError, match=f"expected a dictionary of tensors, found a {kind}; .*: model.pt"):
        open_checkpoint(saved(container), "model.pt")


def test_keys_that_are_not_names_are_passed_over() -> None:
    container = {**STATE, 1: torch.zeros(3), (2, 3): {"a": torch.zeros(3)}, None: STATE, b"raw": STATE}
    assert open_checkpoint(saved(container)).tensors.keys() == STATE.keys()


def test_a_dictionary_that_contains_itself_opens() -> None:
    container: dict[str, Any] = dict(STATE)
    container["again"] = container
    assert "rnn" in names_of(saved(container))


def test_dictionaries_that_repeat_each_other_are_refused_before_they_fill_the_memory() -> None:
    container: Any = torch.zeros(1)
    for _ in range(3):
        container = {str(key): container for key in range(30)}
    with pytest.raises(PrunerError, match=r"^expected .*model\.pt"):
        open_checkpoint(saved(container), "model.pt")


@pytest.mark.parametrize("attribute", ["sharded", "numel", "dim", "detach"])
def test_attributes_of_a_parameter_do_not_hide_its_methods(attribute: str) -> None:
    parameters = {name: nn.Parameter(tensor) for name, tensor in STATE.items()}
    parameters[NAME].__dict__[attribute] = 3
    assert names_of(saved(parameters)) == ["rnn"]


def test_a_key_nested_deeper_than_the_stack_of_the_process_does_no_harm() -> None:
    empty_dict, empty_tuple, tuple_of_one, none, set_item, stop = b"}", b")", b"\x85", b"N", b"s", b"."
    pickled = b"\x80\x02" + empty_dict + empty_tuple + 200_000 * tuple_of_one + none + set_item + stop
    checkpoint = open_checkpoint(zipped({"a/data.pkl": pickled, "a/version": b"3\n"}))
    assert (checkpoint.tensors, checkpoint.plain) == ({}, False)


def test_containers_nested_deeper_than_that_are_refused() -> None:
    pickled = b"\x80\x02}X\1\0\0\0a" + 100_000 * b"]" + 99_999 * b"a" + b"s."
    with pytest.raises(PrunerError, match="nested more than 100 deep"):
        open_checkpoint(zipped({"a/data.pkl": pickled, "a/version": b"3\n"}))


def test_a_pickle_that_asks_for_any_amount_of_memory_is_refused() -> None:
    three_gigabytes = (3_000_000_000).to_bytes(5, "little")
    pickled = b"\x80\x02cbuiltins\nbytearray\n\x8a\x05" + three_gigabytes + b"\x85R."
    with pytest.raises(PrunerError, match=r"an object of 'builtins\.bytearray'"):
        open_checkpoint(zipped({"a/data.pkl": pickled, "a/version": b"3\n"}))


def test_a_zip_of_two_directories_is_refused() -> None:
    decoy, shown = saved(STATE), saved(STATE)
    end = shown[-22:-6] + (len(decoy) // 2).to_bytes(4, "little") + shown[-2:]
    with pytest.raises(PrunerError, match="damaged"):
        open_checkpoint(shown[:-22] + end)


@pytest.mark.parametrize("name", WEIRD_NAMES.values(), ids=WEIRD_NAMES)
@pytest.mark.parametrize("save", [saved, saved_legacy])
def test_tensors_of_any_name_can_be_listed(save: Callable[[Any], bytes], name: str) -> None:
    checkpoint = open_checkpoint(save({**STATE, name: torch.zeros(16, 4)}))
    assert as_text(name) in checkpoint.tensors
    assert "rnn" in [lstm.name for lstm in checkpoint.lstms]


@pytest.mark.parametrize("dtype", ODD_DTYPES, ids=str)
@pytest.mark.parametrize("odd", ["weight_hh_l0_orig", "weight_hh_l0_mask"])
def test_masked_weights_of_odd_dtypes_are_no_lstm(odd: str, dtype: torch.dtype) -> None:
    weights = {"weight_hh_l0_orig": torch.ones(16, 8), "weight_hh_l0_mask": torch.ones(16, 8, dtype=torch.bool)}
    weights[odd] = torch.zeros(16, 64, dtype=torch.uint8).view(dtype)[:, :8].contiguous()
    assert open_checkpoint(saved(weights)).lstms == []


def test_paths_that_cannot_be_read_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    locked = tmp_path / "locked.pt"
    locked.write_bytes(saved(STATE))
    for path, found in {
        tmp_path: "found a folder",
        tmp_path / "missing.pt": "found no file",
        tmp_path / "missing" / "model.pt": "found no file",
        locked / "model.pt": "found no file",
        Path("/dev/zero"): "found a pipe or a device",
        Path("nul\0l"): "embedded null",
        tmp_path / ("long" * 1000): "File name too long",
    }.items():
        with pytest.raises(PrunerError, match=f"^expected a .*file, .*{found}"):
            open_checkpoint(path)

    def refuse(path: Path, flags: int) -> int:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("pruner.files.source.os.open", refuse)
    with pytest.raises(PrunerError, match=r"^expected a checkpoint file, found .*Permission denied.*check its path"):
        open_checkpoint(locked)


def test_a_pipe_is_neither_waited_for_nor_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(PrunerError, match="expected a checkpoint file, found a pipe or a device"):
        open_checkpoint(tmp_path / "pipe")


def ordered() -> OrderedDict[str, Tensor]:
    return nn.ModuleDict({"rnn": random_lstm(), "head": nn.Linear(4, 2)}).state_dict()


SOURCES: dict[str, tuple[Callable[[Any], bytes], Any]] = {
    "zip": (saved, ordered()),
    "legacy": (saved_legacy, ordered()),
    "safetensors": (safetensors.torch.save, STATE),
    "safetensors with metadata": (lambda state: safetensors.torch.save(state, {"author": "me"}), STATE),
    "half precision": (saved, named(random_lstm(dtype=torch.bfloat16), "rnn.")),
    "parameters": (saved, {name: nn.Parameter(tensor, name != NAME) for name, tensor in STATE.items()}),
    "views": (saved, views_of_one_storage()),
    "transposed": (saved, {**STATE, NAME: STATE[NAME].T.contiguous().T}),
    "side by side": (saved, {"model": ordered(), "ema": ordered(), "step": torch.tensor(3)}),
    **{f"nested {'.'.join(keys)}": (saved, nested(ordered(), keys)) for keys in NESTINGS if keys},
}


def assert_alike(found: Any, expected: Any, changed: Mapping[tuple[str, ...], Tensor], keys: tuple[str, ...]) -> None:
    """The same containers, names in the same order, dtypes and values, but for the changed tensors."""
    assert type(found) is type(expected), keys
    if isinstance(expected, Tensor):
        value = changed.get(keys, expected)
        assert (found.dtype, found.requires_grad) == (expected.dtype, expected.requires_grad), keys
        assert torch.equal(found, value), keys
    elif isinstance(expected, dict):
        assert list(found) == list(expected), keys
        assert getattr(found, "_metadata", None) == getattr(expected, "_metadata", None), keys
        for key in expected:
            assert_alike(found[key], expected[key], changed, (*keys, key))
    else:
        assert found == expected, keys


def loaded(path: Path, kind: str) -> Any:
    if kind == formats.SAFETENSORS:
        return dict(sorted(safetensors.torch.load_file(path).items()))
    return torch.load(path, weights_only=True)


@pytest.mark.parametrize(("save", "container"), SOURCES.values(), ids=SOURCES)
def test_a_written_file_differs_from_its_source_only_in_the_changed_tensors(
    save: Callable[[Any], bytes], container: Any, tmp_path: Path
) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(save(container))
    before = source.read_bytes()
    checkpoint = open_checkpoint(source)
    held = copy.deepcopy(checkpoint.container)
    name = checkpoint.lstms[-1].tensors["weight_hh_l0"]
    changed = {name: torch.zeros_like(checkpoint.tensors[name])}
    write(checkpoint, changed, target)
    written, expected = (loaded(path, checkpoint.format) for path in (target, source))
    assert_alike(written, expected, {checkpoint.locations[name]: changed[name]}, ())
    assert_alike(checkpoint.container, held, {}, ())
    assert source.read_bytes() == before
    again = open_checkpoint(target)
    assert (again.lstms, again.skipped) == (checkpoint.lstms, checkpoint.skipped)
    assert again.format == (formats.SAFETENSORS if checkpoint.format == formats.SAFETENSORS else formats.TORCH_ZIP)


@pytest.mark.parametrize("metadata", [None, {"author": "me"}], ids=["none", "some"])
def test_safetensors_metadata_is_written_as_it_was_read(metadata: dict[str, str] | None, tmp_path: Path) -> None:
    data = safetensors.torch.save(STATE, metadata)
    write(open_checkpoint(data), {}, tmp_path / "model.safetensors")
    with safetensors.safe_open(tmp_path / "model.safetensors", "pt") as file:
        assert file.metadata() == metadata
    assert (tmp_path / "model.safetensors").stat().st_size == len(data)


def test_views_are_written_without_the_storage_they_share(tmp_path: Path) -> None:
    data = saved(views_of_one_storage(spare=10**5))
    write(open_checkpoint(data), {}, tmp_path / "model.pt")
    assert (tmp_path / "model.pt").stat().st_size < 10_000 < len(data)


def tied() -> OrderedDict[str, Tensor]:
    layer = random_lstm(hidden_size=32)
    return nn.ModuleList([layer, layer, nn.Linear(2, 2)]).state_dict()


@pytest.mark.parametrize("changes", [(), ("2.weight",), ("0.weight_hh_l0", "1.weight_hh_l0")], ids=str)
def test_tied_tensors_stay_tied(changes: tuple[str, ...], tmp_path: Path) -> None:
    data = saved(tied())
    checkpoint = open_checkpoint(data)
    write(checkpoint, {name: checkpoint.tensors[name] / 2 for name in changes}, tmp_path / "model.pt")
    state = torch.load(tmp_path / "model.pt", weights_only=True)
    for name in random_lstm().state_dict():
        assert state[f"0.{name}"].data_ptr() == state[f"1.{name}"].data_ptr(), name
    assert (tmp_path / "model.pt").stat().st_size <= len(data)


def test_a_tied_tensor_can_be_changed_alone(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(saved(tied()))
    weight = checkpoint.tensors["0.weight_hh_l0"]
    write(checkpoint, {"1.weight_hh_l0": weight / 2}, tmp_path / "model.pt")
    state = torch.load(tmp_path / "model.pt", weights_only=True)
    assert torch.equal(state["0.weight_hh_l0"], weight)
    assert torch.equal(state["1.weight_hh_l0"], weight / 2)


@pytest.mark.parametrize("dtype", ODD_DTYPES, ids=str)
def test_tied_tensors_of_odd_dtypes_are_written(dtype: torch.dtype, tmp_path: Path) -> None:
    odd = torch.ones(64, dtype=torch.uint8).view(dtype)
    write(open_checkpoint(saved({"a": odd, "b": odd})), {}, tmp_path / "model.pt")
    state = torch.load(tmp_path / "model.pt", weights_only=True)
    assert all(torch.equal(state[name].view(torch.uint8), odd.view(torch.uint8)) for name in ("a", "b"))


def test_a_layer_used_many_times_over_is_read() -> None:
    layer = random_lstm(hidden_size=32)
    assert len(names_of(saved(nn.ModuleList([layer] * 8).state_dict()))) == 8


def test_tied_safetensors_are_written_apart(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(safetensors.torch.save(STATE))
    same = torch.zeros(16)
    write(checkpoint, {"rnn.bias_ih_l0": same, "rnn.bias_hh_l0": same}, tmp_path / "model.safetensors")
    assert not safetensors.torch.load_file(tmp_path / "model.safetensors")["rnn.bias_hh_l0"].any()


SMALL = {kind: save(named(nn.LSTM(1, 1), "a.")) for kind, save in SAVERS.items()}
EDITS = st.tuples(st.floats(0, 1), st.integers(0, 16), st.binary(max_size=16))


@settings(max_examples=300)
@given(st.sampled_from(sorted(SMALL)), st.lists(EDITS, min_size=1, max_size=4))
def test_a_damaged_file_opens_or_is_refused(kind: str, edits: list[tuple[float, int, bytes]]) -> None:
    data = SMALL[kind]
    for place, removed, added in edits:
        start = math.floor(place * len(data))
        data = data[:start] + added + data[start + removed :]
    try:
        open_checkpoint(data)
    except PrunerError as error:
        assert str(error).startswith("expected ")
