"""Contents sent to another process and back: the same, whatever they hold, and nothing else is taken for them."""

import io
import math
from collections import Counter, OrderedDict
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pruner import PrunerError
from pruner.files.contents import Contents, Learned, Name, OddKey, Quantizer, StandIn, Storage, Stored
from pruner.files.transport import Garbled, receive, send, send_error

FILE = bytearray(range(200))
PLACE = memoryview(FILE)[16:80]

SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary()
KEYS = st.text() | st.integers() | st.tuples(st.integers(), st.text())
VALUES = st.recursive(
    SCALARS | st.complex_numbers(allow_nan=False) | st.sets(st.text()) | st.frozensets(st.integers()),
    lambda inner: (
        st.lists(inner)
        | st.tuples(inner, inner)
        | st.dictionaries(KEYS, inner)
        | st.dictionaries(KEYS, inner).map(OrderedDict)
    ),
    max_leaves=20,
)


def sent(contents: Contents) -> bytearray:
    out = io.BytesIO()
    send(contents, memoryview(FILE), out)
    return bytearray(out.getvalue())


def back(contents: Contents) -> Contents:
    return receive(sent(contents), memoryview(FILE))


def alike(found: Any, expected: Any) -> None:
    assert type(found) is type(expected)
    if isinstance(expected, dict):
        assert list(found) == list(expected)
        for key in expected:
            alike(found[key], expected[key])
    elif isinstance(expected, (list, tuple)):
        assert len(found) == len(expected)
        for here, there in zip(found, expected, strict=True):
            alike(here, there)
    else:
        assert found == expected


@given(VALUES)
def test_plain_values_come_back_as_they_were(value: Any) -> None:
    alike(back(Contents("x", value)).container, value)


def test_a_number_that_is_none_comes_back() -> None:
    assert math.isnan(back(Contents("x", math.nan)).container)


def test_all_facts_come_back() -> None:
    learned = {"rnn": Learned(True, 0.5, {"rnn": "LSTM"}, ("fc.weight",), None, ("told",), bidirectional=False)}
    contents = Contents("x", {}, {"author": "me"}, learned, (("gru", "a GRU"),), ("quantized",), True)
    assert back(contents) == contents


def test_tensors_in_the_file_are_sent_as_places_and_computed_ones_as_bytes() -> None:
    here, there = Storage(PLACE), Storage(memoryview(bytes(range(100))), True)
    tied = Stored(here, "float32", (2, 3), (3, 1), 1, True, True)
    container = {
        "a": tied,
        "again": tied,
        "view": Stored(here, "int8", (4,), (2,)),
        "computed": Stored(there, "float64", (2,), (1,), quantizer=Quantizer((0.5,), (1.0,), None)),
        "empty": Stored(Storage(memoryview(b"")), "bool", (0,), (1,)),
    }
    assert len(sent(Contents("x", container))) < 2000
    found = back(Contents("x", container)).container
    assert found["a"] is found["again"]
    assert found["a"].storage is found["view"].storage
    assert bytes(found["a"].storage.data) == bytes(PLACE)
    found["a"].storage.data[0] = 77  # which is the file's own byte
    assert FILE[16] == 77
    FILE[16] = 16
    assert (found["a"].dtype, found["a"].shape, found["a"].stride) == ("float32", (2, 3), (3, 1))
    assert (found["a"].offset, found["a"].parameter, found["a"].requires_grad) == (1, True, True)
    assert bytes(found["computed"].storage.data) == bytes(range(100))
    assert found["computed"].storage.big_endian
    assert found["computed"].quantizer.scales == (0.5,)
    assert found["empty"].shape == (0,)


def test_stand_ins_and_what_is_shared_come_back() -> None:
    stand_in = StandIn(Name("os", "system"), ("exit",), {"a": 1}, [1, 2])
    stand_in.state["itself"] = stand_in
    shared = [1]
    attributed = OrderedDict(a=1)
    vars(attributed)["_metadata"] = {"": {"version": 1}}
    container = {"x": stand_in, "y": [shared, shared], "z": attributed, OddKey(1): 2, "c": Counter("aab")}
    container["all"] = container
    found = back(Contents("x", container)).container
    assert (found["x"].of.module, found["x"].of.name) == ("os", "system")
    assert (found["x"].arguments, found["x"].items) == (("exit",), [1, 2])
    assert found["x"].state["itself"] is found["x"]
    assert found["y"][0] is found["y"][1]
    assert vars(found["z"]) == {"_metadata": {"": {"version": 1}}}
    assert found["c"] == Counter("aab")
    assert type(found["c"]) is Counter
    assert found["all"] is found
    assert [type(key) for key in found][3] is OddKey


def test_a_tuple_within_itself_ends() -> None:
    inner: list[Any] = []
    whole = (inner, "after")
    inner += [whole, ["more"]]
    found = back(Contents("x", {"a": whole, "b": ["more"]})).container
    assert found["a"][1] == "after"
    assert found["a"][0][1] == ["more"]
    assert found["b"] == ["more"]


def test_an_error_comes_back_as_one() -> None:
    out = io.BytesIO()
    send_error("expected one thing, found another\ud800", out)
    with pytest.raises(PrunerError, match=r"^expected one thing, found another"):
        receive(bytearray(out.getvalue()), memoryview(FILE))


TENSOR = '["tensor", [true, 0, 8, false, 0], "float32", [2], [1], 0, false, false, null]'
GARBLED = {
    "nothing": "",
    "no line": '["contents"]',
    "no JSON": "[\n",
    "another thing": '["dict"]\n',
    "an unknown tag": '["eval", "1"]\n',
    "a tag that is none": "[[]]\n",
    "no tag": "[]\n",
    "a number before it is there": '["again", 7]\n',
    "a list as a key": '["contents", "x", ["dict", ["list"], 1]]\n',
    "a key without a value": '["contents", "x", ["dict", "a"]]\n',
    "a tuple within itself": '["contents", "x", ["tuple", ["again", 1]]]\n',
    "bytes that are not there": f'["contents", "x", {TENSOR.replace("true, 0, 8", "true, 199, 8")}]\n',
    "computed bytes that are not there": f'["contents", "x", {TENSOR.replace("true, 0, 8", "false, 0, 8")}]\n',
    "a negative place": f'["contents", "x", {TENSOR.replace("true, 0, 8", "true, -8, 8")}]\n',
    "a negative length": f'["contents", "x", {TENSOR.replace("true, 0, 8", "true, 8, -8")}]\n',
    "a place that is text": f'["contents", "x", {TENSOR.replace("true, 0, 8", "true, {chr(34)}0{chr(34)}, 8")}]\n',
    "a type that is none": f'["contents", "x", {TENSOR.replace("float32", "load")}]\n',
    "too few facts": f'["contents", "x", {TENSOR.replace(", null]", "]")}]\n',
    "a name that is a number": '["contents", "x", ["name", 1, 2]]\n',
    "an error that is a number": '["error", 3]\n',
    "lists without end": "[" * 100_000 + "\n",
    "tags without end": '["list", ' * 5_000 + "1" + "]" * 5_000 + "\n",
}


@pytest.mark.parametrize("text", GARBLED.values(), ids=GARBLED)
def test_what_nobody_should_send_is_not_taken(text: str) -> None:
    with pytest.raises(Garbled):
        receive(bytearray(text.encode()), memoryview(FILE))


def test_what_could_be_sent_is_taken() -> None:
    assert receive(bytearray(f'["contents", "x", {TENSOR}]\n'.encode()), memoryview(FILE)).container.shape == (2,)
