"""Calibration inputs read from files of every format, for every LSTM, and their hash."""

from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st

from pruner.calibration.calibration import SOURCES, Calibration
from pruner.calibration.inputs import read_calibration
from pruner.errors import PrunerError
from pruner.files.opening import open_checkpoint
from tests.helpers.files import npy, npz, saved, zipped
from tests.helpers.input_files import IDS, INPUTS, PAIR, WRITERS, only, read
from tests.helpers.models import named, random_lstm

ROOT = open_checkpoint(saved(named(random_lstm())))


@pytest.mark.parametrize("suffix", WRITERS)
def test_every_format_gives_the_same_inputs(suffix: str) -> None:
    found = read(WRITERS[suffix]({"lstm": INPUTS}), f"inputs.{suffix}")
    assert (found.source, found.name, found.embedding, found.burn_in) == ("file", f"inputs.{suffix}", None, 0)
    assert only(found).dtype == torch.float32 and only(found).numpy().tolist() == INPUTS.tolist()
    assert found.source in SOURCES and found.steps() == {"lstm": 10}


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (INPUTS, INPUTS),
        (INPUTS[0], INPUTS[:1]),
        (np.asfortranarray(INPUTS), INPUTS),
        (INPUTS[:, ::-1], INPUTS[:, ::-1]),
        (INPUTS.astype(">f4"), INPUTS),
        (INPUTS.astype("f8"), INPUTS),
        (INPUTS.astype("f2"), INPUTS.astype("f2")),
        (INPUTS.astype(np.longdouble), INPUTS),
        (np.arange(6).reshape(2, 3), [[[0, 1, 2], [3, 4, 5]]]),
        (np.arange(6, dtype=">i2").reshape(1, 2, 3), [[[0, 1, 2], [3, 4, 5]]]),
        (np.arange(6, dtype=np.uint64).reshape(2, 3) + 2**63, [[[2.0**63] * 3] * 2]),
    ],
    ids=[
        "(N, T, I)",
        "(T, I)",
        "Fortran order",
        "backwards",
        "big endian",
        "float64",
        "float16",
        "long double",
        "integers",
        "short integers",
        "unsigned integers",
    ],
)
def test_arrays_of_inputs(array: np.ndarray, expected: Any) -> None:
    group = only(read(npy(array)))
    assert group.dtype == torch.float32 and group.is_contiguous()
    assert group.tolist() == np.asarray(expected, dtype=np.float32).tolist()


@pytest.mark.parametrize(
    "dtype", [torch.float16, torch.bfloat16, torch.float64, torch.int8, torch.float8_e4m3fn], ids=str
)
def test_tensors_of_every_width(dtype: torch.dtype) -> None:
    tensor = torch.tensor([[1, 2, 3], [4, 5, 6]]).to(dtype)
    for data in (saved(tensor), saved({"lstm": tensor}), safetensors.torch.save({"lstm": tensor})):
        assert only(read(data)).tolist() == [[[1, 2, 3], [4, 5, 6]]]


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (IDS, IDS),
        (IDS[0], IDS[:1]),
        (IDS[..., None], IDS),
        (IDS.astype(np.uint8), IDS),
        (IDS.astype(np.float64), IDS),
    ],
    ids=["(N, T)", "(T,)", "(N, T, 1)", "bytes", "floats"],
)
def test_token_ids(array: np.ndarray, expected: np.ndarray) -> None:
    found = read(npy(array), embedding="embed.weight")
    assert only(found).dtype == torch.int64 and only(found).tolist() == expected.tolist()
    assert found.embedding == "embed.weight"


def test_time_major_swaps_the_first_two_dimensions() -> None:
    swapped = only(read(npy(INPUTS.transpose(1, 0, 2)), time_major=True))
    assert swapped.tolist() == INPUTS.tolist() and swapped.is_contiguous()
    assert only(read(npy(INPUTS[0]), time_major=True)).tolist() == INPUTS[:1].tolist()
    assert only(read(npy(IDS.T), embedding="embed.weight", time_major=True)).tolist() == IDS.tolist()
    assert only(read(npy(IDS[0]), embedding="embed.weight", time_major=True)).tolist() == IDS[:1].tolist()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1,2,3\n4,5,6\n", [[[[1, 2, 3], [4, 5, 6]]]]),
        ("a,b,c\n1,2,3\n4,5,6\n", [[[[1, 2, 3], [4, 5, 6]]]]),
        ('\ufeff"a","b","c"\r\n1, 2,3e0\r\n"4",-5,.5\r\n\r\n', [[[[1, 2, 3], [4, -5, 0.5]]]]),
        ("a,sequence,b,c\n1,x,2,3\n4,x,5,6\n7,y,8,9\n0,y,1,2\n", [[[[1, 2, 3], [4, 5, 6]], [[7, 8, 9], [0, 1, 2]]]]),
        (
            "sequence,a,b,c\n" + "".join(f"{'yx'[i % 2]}{' ' * (i % 3)},{i},0,0\n" for i in range(100)),
            [[[[i, 0, 0] for i in range(0, 100, 2)], [[i, 0, 0] for i in range(1, 100, 2)]]],
        ),
        ("sequence,0,1,2\n9,1,2,3\n1,4,5,6\n9,7,8,9\n1,0,1,2\n", [[[[1, 2, 3], [7, 8, 9]], [[4, 5, 6], [0, 1, 2]]]]),
        (
            "sequence,a,b,c\n" + "0,1,1,1\n" * 2 + "1,2,2,2\n" * 3 + "2,3,3,3\n" * 3,
            [[[[1, 1, 1]] * 2], [[[2, 2, 2]] * 3, [[3, 3, 3]] * 3]],
        ),
    ],
    ids=["plain", "header", "as Excel writes it", "sequences", "many lines", "interleaved sequences", "lengths"],
)
def test_csv(text: str, expected: list[Any]) -> None:
    for time_major in (False, True):
        found = read(text.encode(), "Inputs.CSV", time_major=time_major)
        assert [group.tolist() for group in found.sequences["lstm"]] == expected
        assert all(group.dtype == torch.float32 for group in found.sequences["lstm"])


def test_csv_of_token_ids() -> None:
    found = read(b"token\n3\n10\n0\n", "ids.csv", embedding="embed.weight")
    assert only(found).dtype == torch.int64 and only(found).tolist() == [[3, 10, 0]]
    found = read(b"sequence,token\n1,3\n1,4\n2,5\n2,6\n2,7\n", "ids.csv", embedding="embed.weight", time_major=True)
    assert [group.tolist() for group in found.sequences["lstm"]] == [[[3, 4]], [[5, 6, 7]]]


def test_content_counts_more_than_the_suffix() -> None:
    for data in (npy(INPUTS), npz({"lstm": INPUTS}), saved(torch.from_numpy(INPUTS))):
        assert only(read(data, "inputs.csv")).tolist() == INPUTS.tolist()


def test_arrays_of_several_lstms_go_by_name() -> None:
    found = read(npz({"decoder": INPUTS[..., :2], "encoder": INPUTS[:1]}), "both.npz", PAIR)
    assert {name: tuple(group.shape) for name, (group,) in found.sequences.items()} == {
        "encoder": (1, 5, 3),
        "decoder": (2, 5, 2),
    }
    decoder = read_calibration(npz({"decoder": INPUTS[..., :2], "encoder": INPUTS}), "", PAIR, PAIR.select(["decoder"]))
    assert only(decoder).shape == (2, 5, 2)


@pytest.mark.parametrize("key", ["root", "", "anything"])
def test_the_root_lstm_has_a_name_too(key: str) -> None:
    assert list(read(zipped((f"{key}.npy", npy(INPUTS))), checkpoint=ROOT).sequences) == [""]


def test_the_root_lstm_beside_another() -> None:
    both = open_checkpoint(saved({**named(random_lstm()), **named(random_lstm(), "b.")}))
    found = read(npz({"root": INPUTS, "b": INPUTS[:1]}), checkpoint=both)
    assert {name: len(group) for name, (group,) in found.sequences.items()} == {"": 2, "b": 1}
    with pytest.raises(PrunerError, match=r"expected one array for \(root\), found two: x; remove one"):
        read(zipped(("root.npy", npy(INPUTS)), (".npy", npy(INPUTS)), ("b.npy", npy(INPUTS))), "x", both)


def test_an_lstm_called_root_beside_the_root() -> None:
    both = open_checkpoint(saved({**named(random_lstm()), **named(random_lstm(), "root.")}))
    found = read(zipped(("root.npy", npy(INPUTS)), (".npy", npy(INPUTS[:1]))), checkpoint=both)
    assert {name: len(group) for name, (group,) in found.sequences.items()} == {"": 1, "root": 2}


def test_an_array_without_a_name_is_for_the_one_lstm_wanted() -> None:
    both = open_checkpoint(saved({**named(random_lstm()), **named(random_lstm(), "b.")}))
    for data, name in ((npy(INPUTS), "x.npy"), (b"1,2,3\n4,5,6\n", "x.csv"), (npz({"x": INPUTS}), "x.npz")):
        assert list(read_calibration(data, name, both, both.select(["b"])).sequences) == ["b"]


def test_no_lstm_gets_the_array_of_another() -> None:
    with pytest.raises(PrunerError, match="found none for encoder: x; add an array called 'encoder'"):
        read_calibration(npz({"decoder": INPUTS}), "x", PAIR, PAIR.select(["encoder"]))


shapes = st.tuples(st.integers(1, 7), st.integers(2, 9))


@given(shapes, st.booleans(), st.integers(0, 2**31))
def test_the_hash_is_that_of_the_data(shape: tuple[int, int], are_ids: bool, seed: int) -> None:
    rng = np.random.default_rng(seed)
    array = rng.integers(0, 11, shape) if are_ids else rng.normal(size=(*shape, 3)).astype(np.float32)
    embedding = "embed.weight" if are_ids else None
    written = [npy(array), npy(array.astype(np.float64)), npy(np.asfortranarray(array))]
    written += [write({"lstm": array}) for write in WRITERS.values()]
    hashes = {read(data, name, embedding=embedding).sha256 for name, data in zip("abcdefgh", written, strict=True)}
    lines = [",".join(map(repr, [row, *np.atleast_1d(x).tolist()])) for row, steps in enumerate(array) for x in steps]
    header = "sequence,token\n" if are_ids else "sequence,a,b,c\n"
    hashes.add(read((header + "\n".join(lines)).encode(), "x.csv", embedding=embedding).sha256)
    assert len(hashes) == 1
    changed = array.copy()
    changed[-1, -1] = changed[-1, -1] - 1 if np.all(changed[-1, -1] > 0) else changed[-1, -1] + 1
    assert read(npy(changed), embedding=embedding).sha256 not in hashes


def test_the_hash_tells_names_shapes_and_dtypes_apart() -> None:
    zeros = torch.zeros(2, 6, 2)
    kinds = [
        {"a": [zeros]},
        {"b": [zeros]},
        {"a": [zeros.reshape(2, 4, 3)]},
        {"a": [zeros.reshape(4, 3, 2)]},
        {"a": [zeros[:1], zeros[1:]]},
        {"a": [zeros[:1]], "b": [zeros[1:]]},
        {"a": [torch.zeros(2, 6, dtype=torch.int64)]},
        {"a": [torch.zeros(2, 6, dtype=torch.float64)]},
    ]
    assert len({Calibration("file", kind).sha256 for kind in kinds}) == len(kinds)
    one, other = Calibration("file", {"a": [zeros], "b": [zeros]}), Calibration("file", {"b": [zeros], "a": [zeros]})
    assert one.sha256 == other.sha256
