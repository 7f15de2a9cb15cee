"""The pickle machine: plain values come out as pickle itself would make them, everything named becomes a stand-in."""

import argparse
import collections
import datetime
import decimal
import pathlib
import pickle
from collections import Counter, OrderedDict, defaultdict, deque
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from pruner.files.allowance import Allowance, Excess, Malformed
from pruner.files.contents import Name, OddKey, StandIn
from pruner.files.inert_pickle import Unpickler
from pruner.files.known_names import KNOWN
from pruner.files.opening import open_checkpoint
from tests.helpers.files import entries_of, saved, saved_legacy, zipped
from tests.helpers.models import named, random_lstm

STATE = named(random_lstm(), "rnn.")
PROTOCOLS = range(6)

SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(max_size=2000)
KEYS = st.text() | st.integers(-(2**59), 2**59) | st.floats(allow_nan=False) | st.booleans() | st.none() | st.binary()
VALUES = st.recursive(
    SCALARS | st.sets(KEYS) | st.frozensets(KEYS),
    lambda inner: (
        st.lists(inner)
        | st.tuples()
        | st.tuples(inner)
        | st.tuples(inner, inner, inner, inner)
        | st.dictionaries(KEYS, inner)
        | st.dictionaries(KEYS, inner).map(OrderedDict)
        | st.dictionaries(st.text(), st.integers()).map(Counter)
    ),
    max_leaves=20,
)


def load(data: bytes, persistent: Any = None) -> Any:
    return Unpickler(memoryview(data), Allowance(len(data)), KNOWN, persistent).load()


def plain(value: Any) -> Any:
    """Bytes that were left in place as bytes."""
    if isinstance(value, memoryview):
        return bytes(value)
    if isinstance(value, dict):
        return type(value)({key: plain(item) for key, item in value.items()})
    return type(value)(map(plain, value)) if isinstance(value, (list, tuple)) else value


@given(VALUES, st.sampled_from(PROTOCOLS))
def test_plain_values_come_out_as_pickle_makes_them(value: Any, protocol: int) -> None:
    found = plain(load(pickle.dumps(value, protocol)))
    assert found == value
    assert type(found) is type(value)
    if isinstance(value, dict):
        assert list(found) == list(value)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_shared_and_circular_values_stay_so(protocol: int) -> None:
    inner: list[Any] = ["a" * 300]
    value = {"one": inner, "two": inner, "words": ["same", "same"]}
    value["itself"] = value
    found = load(pickle.dumps(value, protocol))
    assert found["one"] is found["two"]
    assert found["itself"] is found


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    ("value", "module", "name"),
    [
        (argparse.Namespace(hidden_dim=3), "argparse", "Namespace"),
        (pathlib.PurePosixPath("a/b"), "pathlib", "PurePosixPath"),
        (datetime.timedelta(3), "datetime", "timedelta"),
        (decimal.Decimal("1.5"), "decimal", "Decimal"),
        (deque([1, 2]), "collections", "deque"),
        (defaultdict(list, a=[1]), "collections", "defaultdict"),
        (range(3), "builtins", "range"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_everything_else_becomes_a_stand_in_of_its_name(value: Any, module: str, name: str, protocol: int) -> None:
    found = load(pickle.dumps(value, protocol))
    assert isinstance(found, StandIn)
    of = found.of if found.of.name != "_reconstructor" else found.arguments[0]
    assert (of.module.replace("__builtin__", "builtins"), of.name.replace("xrange", "range")) == (module, name)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_stand_in_keeps_arguments_state_and_items(protocol: int) -> None:
    space = load(pickle.dumps(argparse.Namespace(hidden_dim=3), protocol))
    assert space.state == {"hidden_dim": 3}
    assert load(pickle.dumps(datetime.timedelta(3), protocol)).arguments == (3, 0, 0)
    assert load(pickle.dumps(deque([1, 2]), protocol)).items == [1, 2]
    default = load(pickle.dumps(defaultdict(list, a=[1]), protocol))
    assert default.items == {"a": [1]}
    assert isinstance(default.arguments[0], Name)


def test_classes_and_functions_are_names() -> None:
    found = load(pickle.dumps({"class": argparse.Namespace, "function": pickle.dumps, dict: 1}))
    assert (found["class"].module, found["class"].name) == ("argparse", "Namespace")
    assert found["function"].name == "dumps"
    assert [type(key) for key in found] == [str, str, OddKey]


def test_python_2_is_understood() -> None:
    words = b"(dp0\nS'hidden'\np1\nI3\nsS'name'\np2\nS'caf\\xc3\\xa9'\np3\ns"
    words += b"Vunicode\\u00e9\np4\nI01\nsS'raw'\nS'\\xff\\xfe'\ns."
    assert load(words) == {"hidden": 3, "name": "café", "unicodeé": True, "raw": "\xff\xfe"}
    assert load(b"(lp0\nL12L\naF1.5\naI00\na.") == [12, 1.5, False]
    assert load(b"}U\x01a(cos\nsystem\noss.".replace(b"oss.", b"os."))["a"].of.name == "system"


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f8", "<f2", "i1", "<i8", ">i2", "?", "<u4", "<c8"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_of_numpy_are_read(dtype: str, order: Any, protocol: int) -> None:
    array = np.arange(6).reshape(2, 3).astype(dtype, order=order)
    (found,) = open_checkpoint(pickle.dumps({"a": array}, protocol)).tensors.values()
    assert torch.equal(found, torch.from_numpy(array.astype(array.dtype.newbyteorder("="))))


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_scalars_of_numpy_become_numbers(protocol: int) -> None:
    scalars = {
        "a": np.float64(1.5),
        "b": np.int32(-3),
        "c": np.bool_(True),
        "d": np.float16(2),
        "e": np.complex64(1 + 2j),
    }
    assert load(pickle.dumps(scalars, protocol)) == {"a": 1.5, "b": -3, "c": True, "d": 2.0, "e": 1 + 2j}


def test_large_arrays_stay_where_they_are() -> None:
    data = pickle.dumps({"a": np.zeros(10**6, np.float32)}, 5)
    stored = load(data)["a"].value
    assert stored.storage.data.obj is data


@pytest.mark.parametrize(
    "array", [np.array(["a"]), np.array([None]), np.zeros(2, [("a", "f4")]), np.array(["2020"], "M8[D]")]
)
def test_arrays_of_other_things_stay_stand_ins(array: Any) -> None:
    checkpoint = open_checkpoint(saved({"other": array, **STATE}))
    assert checkpoint.tensors.keys() == STATE.keys()


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_pickled_state_dict_is_read(protocol: int) -> None:
    checkpoint = open_checkpoint(pickle.dumps(STATE, protocol), "model.pkl")
    assert (checkpoint.format, checkpoint.plain) == ("raw pickle", False)
    assert [lstm.name for lstm in checkpoint.lstms] == ["rnn"]
    assert all(torch.equal(checkpoint.tensors[name], STATE[name]) for name in STATE)


@pytest.mark.parametrize("save", [saved, saved_legacy], ids=["zip", "legacy"])
@pytest.mark.parametrize(
    "tensor",
    [
        torch.arange(12.0).reshape(3, 4).T,
        torch.arange(12)[2:9:3],
        torch.tensor(3.0),
        torch.zeros(0, 5),
        torch.ones(3, dtype=torch.complex64),
        torch.ones(2, requires_grad=True),
        torch.nn.Parameter(torch.ones(2)),
        torch.nn.Parameter(torch.ones(2), requires_grad=False),
        torch.ones(2).bool(),
        torch.ones(2).to(torch.float8_e5m2),
        torch.nn.Buffer(torch.ones(2)),
    ],
    ids=str,
)
def test_tensors_come_out_as_torch_loads_them(tensor: Tensor, save: Any) -> None:
    found = open_checkpoint(save({"a": tensor, "deeper": {"deeper": {"deeper": tensor}}}))
    inner = found.container["deeper"]["deeper"]["deeper"]
    for each in (found.container["a"], inner):
        assert (each.dtype, each.shape, each.requires_grad) == (tensor.dtype, tensor.shape, tensor.requires_grad)
        assert isinstance(each, torch.nn.Parameter) == isinstance(tensor, torch.nn.Parameter)
        assert torch.equal(each.detach().to(torch.complex128), tensor.detach().to(torch.complex128))
        assert tensor.numel() == 0 or each.stride() == tensor.stride()


def test_a_tensor_saved_on_a_machine_of_the_other_order_is_turned() -> None:
    data = saved({"a": torch.arange(4.0)})
    entries = {
        name: np.frombuffer(raw, "<f4").astype(">f4").tobytes() if name.endswith("data/0") else raw
        for name, raw in entries_of(data).items()
    }
    entries["archive/byteorder"] = b"big"
    assert torch.equal(open_checkpoint(zipped(*entries.items())).tensors["a"], torch.arange(4.0))


def on_device(function: str, data: Any, dtype: torch.dtype) -> Any:
    """What a tensor of a device that keeps no storages leaves in a file."""

    class OfDevice:
        def __reduce__(self) -> tuple[Any, ...]:
            return getattr(torch._utils, function), (data, dtype, "xla:0", True)

    return OfDevice()


@pytest.mark.parametrize("function", ["_rebuild_device_tensor_from_numpy", "_rebuild_xla_tensor"])
def test_tensors_of_other_devices_are_read(function: str) -> None:
    weights = {name: on_device(function, tensor.numpy(), tensor.dtype) for name, tensor in STATE.items()}
    checkpoint = open_checkpoint(saved(weights))
    assert [lstm.name for lstm in checkpoint.lstms] == ["rnn"]
    assert all(torch.equal(checkpoint.tensors[name], STATE[name]) for name in STATE)
    other = on_device("_rebuild_device_tensor_from_cpu_tensor", torch.ones(3), torch.float64)
    same = on_device("_rebuild_device_tensor_from_cpu_tensor", torch.ones(3), torch.float32)
    assert open_checkpoint(saved({"other": other, "same": same})).tensors.keys() == {"same"}


def test_what_torch_writes_beside_tensors_is_written_again() -> None:
    beside = {
        "size": torch.Size([2, 3]),
        "dtype": torch.float16,
        "device": torch.device("cuda:1"),
        "betas": [(0.9, 0.99), {"lr": 1e-3}],
        "names": {"a", "b"},
        "counts": Counter("aab"),
        "raw": b"\x00" * 3000,
    }
    checkpoint = open_checkpoint(saved({**STATE, **beside}))
    assert checkpoint.plain
    assert {key: checkpoint.container[key] for key in beside} == beside


def test_an_allowance_is_shared_and_ends() -> None:
    allowance = Allowance(0)
    data = memoryview(pickle.dumps(list(range(1000)), 2) * 2)
    unpickler = Unpickler(data, allowance, KNOWN, None)
    assert unpickler.load() == unpickler.load()
    allowance.operations = 100
    with pytest.raises(Excess):
        Unpickler(data, allowance, KNOWN, None).load()


@pytest.mark.parametrize("length", [0, 1, 5, 100, 200])
def test_half_a_pickle_is_none(length: int) -> None:
    with pytest.raises(Malformed):
        load(pickle.dumps(STATE, 4)[:length])


def test_keys_that_cannot_be_hashed_in_time_are_set_aside() -> None:
    found = load(pickle.dumps({2**61 - 1: 1, (1, (2, 3)): 2, (1, "a"): 3, frozenset([1]): 4, "plain": 5}))
    assert [type(key) for key in found] == [OddKey, OddKey, tuple, OddKey, str]
    assert collections.Counter(found.values()) == Counter([1, 2, 3, 4, 5])
