"""Files that claim too much, hide something or are damaged open as what they are or are refused."""

import math
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from pruner.errors import PrunerError
from pruner.files.opening import open_checkpoint
from tests.helpers.containers import NAME, ODD_DTYPES, STATE, names_of
from tests.helpers.files import SAVERS, saved, zipped
from tests.helpers.models import named

HOSTILE: dict[str, tuple[Callable[[], Any], str]] = {
    "expanded": (lambda: torch.zeros(1).expand(10**6), "expected tensors that fit into the file's"),
    "expanded a little": (lambda: torch.zeros(1).expand(1500), "of shape (1500,) (6,000 bytes)"),
    "overlapping": (lambda: torch.zeros(1).as_strided((10**5, 10**5), (0, 0)), "(40,000,000,000 bytes)"),
    "COO": (lambda: torch.eye(4).to_sparse(), "expected dense tensors, found 'rnn.weight_hh_l0' (sparse)"),
    "CSR": (lambda: torch.eye(4).to_sparse_csr(), "(sparse)"),
    "meta": (
        lambda: torch.zeros(16, 4, device="meta"),
        "(without numbers, on the device meta): model.pt; save the model with its weights",
    ),
    "nested": (lambda: torch.nested.nested_tensor([torch.zeros(2, 3), torch.zeros(3, 3)]), "expected dense tensors"),
}


NOT_DICTIONARIES = {"list": [STATE], "tuple": (STATE, 3), "Tensor": torch.zeros(3), "NoneType": None, "str": "rnn"}


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
    with pytest.raises(PrunerError, match=f"expected a dictionary of tensors in model.pt, found a {kind}; save"):
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
    checkpoint = open_checkpoint(zipped(("a/data.pkl", pickled), ("a/version", b"3\n")))
    assert (checkpoint.tensors, checkpoint.plain) == ({}, False)


def test_containers_nested_deeper_than_that_are_refused() -> None:
    pickled = b"\x80\x02}X\1\0\0\0a" + 100_000 * b"]" + 99_999 * b"a" + b"s."
    with pytest.raises(PrunerError, match="nested more than 100 deep"):
        open_checkpoint(zipped(("a/data.pkl", pickled), ("a/version", b"3\n")))


def test_a_pickle_that_asks_for_any_amount_of_memory_is_refused() -> None:
    three_gigabytes = (3_000_000_000).to_bytes(5, "little")
    pickled = b"\x80\x02cbuiltins\nbytearray\n\x8a\x05" + three_gigabytes + b"\x85R."
    with pytest.raises(PrunerError, match=r"an object of 'builtins\.bytearray'"):
        open_checkpoint(zipped(("a/data.pkl", pickled), ("a/version", b"3\n")))


def test_a_zip_of_two_directories_is_refused() -> None:
    decoy, shown = saved(STATE), saved(STATE)
    end = shown[-22:-6] + (len(decoy) // 2).to_bytes(4, "little") + shown[-2:]
    with pytest.raises(PrunerError, match="damaged"):
        open_checkpoint(shown[:-22] + end)


@pytest.mark.parametrize("dtype", ODD_DTYPES, ids=str)
@pytest.mark.parametrize("odd", ["weight_hh_l0_orig", "weight_hh_l0_mask"])
def test_masked_weights_of_odd_dtypes_are_no_lstm(odd: str, dtype: torch.dtype) -> None:
    weights = {"weight_hh_l0_orig": torch.ones(16, 8), "weight_hh_l0_mask": torch.ones(16, 8, dtype=torch.bool)}
    weights[odd] = torch.zeros(16, 64, dtype=torch.uint8).view(dtype)[:, :8].contiguous()
    assert open_checkpoint(saved(weights)).lstms == []


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
