"""Calibration: inputs from files of all formats, from the model and from chance, and files that lie."""

import io
import os
import pickle
import struct
import tracemalloc
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from pruner.calibration.inputs import (
    SOURCES,
    STEPS,
    STREAMS,
    TEMPERATURE,
    Calibration,
    gaussian,
    read_calibration,
    sampled,
)
from pruner.errors import Cancelled, PrunerError
from pruner.files import input_arrays as arrays
from pruner.files.checkpoint import Checkpoint, open_checkpoint
from pruner.lstm.find import LSTM, build
from tests.conftest import named, random_lstm


def saved(container: Any) -> bytes:
    file = io.BytesIO()
    torch.save(container, file)
    return file.getvalue()


def npy(array: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def npz(named_arrays: dict[str, Any], compress: bool = False) -> bytes:
    file = io.BytesIO()
    (np.savez_compressed if compress else np.savez)(file, **named_arrays)
    return file.getvalue()


def zipped(*entries: tuple[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, data in entries:
            archive.writestr(name, data)
    return file.getvalue()


def npy_header(shape: str, descr: str = "'<f4'", held: int = 24, version: int = 1) -> bytes:
    """A `.npy` file of the given claims and so many bytes."""
    header = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}}}\n".encode()
    return b"\x93NUMPY" + bytes([version, 0]) + struct.pack("<H", len(header)) + header + bytes(held)


def checkpoint_of(**prefixed: nn.Module) -> Checkpoint:
    return open_checkpoint(
        saved({k: v for name, module in prefixed.items() for k, v in named(module, f"{name}.").items()})
    )


def language_model(dtype: torch.dtype = torch.float32, bias: bool = True, **settings: Any) -> Checkpoint:
    """11 tokens -> vectors of 3 -> an LSTM of 4 units -> 11 logits."""
    lstm = random_lstm(dtype=dtype, **settings)
    width = settings.get("proj_size", 0) or 4
    head = nn.Linear(width, 11, bias, dtype=dtype)
    return checkpoint_of(embed=nn.Embedding(11, 3, dtype=dtype), lstm=lstm, head=head)


ROOT = open_checkpoint(saved(named(random_lstm())))
MODEL = language_model()
PAIR = checkpoint_of(encoder=random_lstm(), decoder=random_lstm(input_size=2))
INPUTS = np.arange(2 * 5 * 3, dtype=np.float32).reshape(2, 5, 3) / 7
IDS = np.arange(8).reshape(2, 4)


def read(data: bytes, name: str = "file.npy", checkpoint: Checkpoint = MODEL, **settings: Any) -> Calibration:
    return read_calibration(data, name, checkpoint, checkpoint.lstms, **settings)


def only(found: Calibration) -> Tensor:
    """The one group of the one LSTM."""
    ((group,),) = found.sequences.values()
    return group


WRITERS: dict[str, Callable[[dict[str, np.ndarray]], bytes]] = {
    "npz": npz,
    "compressed.npz": lambda arrays: npz(arrays, compress=True),
    "safetensors": lambda arrays: safetensors.torch.save({k: torch.from_numpy(v.copy()) for k, v in arrays.items()}),
    "pt": lambda arrays: saved({k: torch.from_numpy(v.copy()) for k, v in arrays.items()}),
    "pth": lambda arrays: saved({k: nn.Parameter(torch.from_numpy(v.copy()), False) for k, v in arrays.items()}),
}


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


class Payload:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (self.path,)


def lying_size(data: bytes, size: int) -> bytes:
    """A zip archive whose first entry claims another unpacked size."""
    changed = bytearray(data)
    struct.pack_into("<I", changed, data.index(b"PK\x01\x02") + 24, size)
    return bytes(changed)


GOOD_NPZ = npz({"lstm": INPUTS}, compress=True)
REFUSED: dict[str, tuple[bytes, str, str]] = {
    "nothing": (b"", "x.npy", "expected arrays of inputs, found an empty file: x.npy"),
    "noise": (bytes(100), "x", "found bytes of no known format .*; save the inputs with numpy.save"),
    "half a npy": (npy(INPUTS)[:-1], "x", r"expected 120 bytes, as the header says of shape \(2, 5, 3\), found 119: x"),
    "a longer npy": (npy(INPUTS) + b"\0", "x", "expected 120 bytes, .*, found 121: x; save or download it again"),
    "half a header": (npy(INPUTS)[:30], "x", "expected a complete .npy array of numbers, found a damaged header: x"),
    "a magic number alone": (npy(INPUTS)[:6], "x", "found a damaged header"),
    "a version of the future": (npy_header("(2, 3)", version=9), "x", "found a damaged header"),
    "a header of code": (npy_header("__import__('os')"), "x", "found a damaged header"),
    "a deep header": (npy_header("(" * 5000 + ")" * 5000), "x", "found a damaged header"),
    "a huge claim": (
        npy_header("(10**9, 10**9, 3)".replace("10**9", "1000000000")),
        "x",
        "expected 12000000000000000000",
    ),
    "a claim beyond text": (npy_header(f"({'9' * 4000}, {'9' * 4000})"), "x", "found 24: x"),
    "a negative claim": (npy_header("(-2, -3)"), "x", r"says of shape \(-2, -3\)"),
    "many dimensions": (npy_header("(1, 1, 2, 3)"), "x", r"expected at most 3 dimensions, found shape \(1, 1, 2, 3\)"),
    "objects": (npy(np.array([{"a": 1}, None], dtype=object)), "x", "integers or floats, found '|O': x; convert"),
    "structures": (npy(np.zeros(3, dtype=[("a", "f4")])), "x", "integers or floats, found "),
    "texts": (npy(np.array(["a", "b"])), "x", "integers or floats, found '<U1'"),
    "truths": (npy(np.ones((4, 3), dtype=bool)), "x", "integers or floats, found an array of torch.bool"),
    "complex numbers": (
        npy(np.ones((4, 3), dtype=complex)),
        "x",
        "integers or floats, found an array of torch.complex128",
    ),
    "torch truths": (saved({"a": torch.ones(4, 3).bool()}), "x", "integers or floats, found 'a' of torch.bool"),
    "torch complex": (saved(torch.ones(4, 3) + 0j), "x", "integers or floats, found an array of torch.complex64"),
    "half a npz": (GOOD_NPZ[:-30], "x", "expected a complete zip archive, found a truncated or damaged one: x"),
    "no npz": (zipped(), "x", "expected arrays of inputs, found none: x; save the inputs"),
    "an entry of text": (zipped(("readme.txt", b"hello")), "x", "found a damaged header: 'readme.txt' in x"),
    "half an entry": (zipped(("lstm.npy", npy(INPUTS)[:-4])), "x", "expected 120 bytes.*found 116: 'lstm' in x"),
    "a bomb": (lying_size(GOOD_NPZ, 2**32 - 2), "x", "at most 2,147,483,648 bytes of arrays, found 4,294,967,294: x"),
    "more than it says": (
        lying_size(zipped(("a.npy", bytes(9000)), method=8), 248),
        "x",
        "truncated or damaged one: x",
    ),
    "packed by bzip2": (zipped(("a.npy", npy(INPUTS)), method=zipfile.ZIP_BZIP2), "x", "expected stored or deflated"),
    "packed by LZMA": (zipped(("a.npy", npy(INPUTS)), method=zipfile.ZIP_LZMA), "x", "expected stored or deflated"),
    "a raw pickle": (
        pickle.dumps([1]),
        "x",
        "expected a tensor, or a dictionary of tensors by names, found a list under ''.*; save the inputs with",
    ),
    "a damaged pt": (saved({"lstm": torch.ones(4, 3)})[:-40], "x", "truncated or damaged one: x"),
    "a damaged safetensors": (safetensors.torch.save({"a": torch.ones(4, 3)})[:-4], "x", "found a damaged one: x"),
    "a list": (saved([torch.ones(4, 3)]), "x", "or a dictionary of tensors by names, found a list under ''"),
    "a number beside": (saved({"a": torch.ones(4, 3), "b": 5}), "x", "by names, found a int under 'b'"),
    "numbered tensors": (saved({1: torch.ones(4, 3)}), "x", "by names, found a Tensor under 1"),
    "an empty dictionary": (saved({}), "x", "expected arrays of inputs, found none: x"),
    "sparse": (saved({"a": torch.eye(3).to_sparse()}), "x", r"expected dense tensors, found 'a' \(sparse\)"),
    "expanded": (saved({"a": torch.ones(1).expand(10**9, 3)}), "x", "tensors that fit into the file's"),
    "NaN": (npy(INPUTS * np.nan), "x", "expected finite inputs, found NaN or infinity .*: x, inputs of lstm"),
    "infinity": (npy(INPUTS.astype("f8") * 1e300), "x", "expected finite inputs"),
    "other width": (npy(INPUTS[..., :2]), "x", r"with I = 3, as lstm reads them, found shape \(2, 5, 2\): x"),
    "one dimension": (npy(INPUTS[0, 0]), "x", r"with I = 3, .*, found shape \(3,\): x"),
    "no dimension": (npy(np.float32(1)), "x", r"found shape \(\): x"),
    "no sequences": (npy(INPUTS[:0]), "x", "at least one sequence of at least 2 steps, found 0 of 5: x"),
    "no steps": (npy(INPUTS[:, :0]), "x", "at least 2 steps, found 2 of 0: x"),
    "one step": (npy(INPUTS[:, :1]), "x", "at least 2 steps, found 2 of 1: x"),
    "no inputs": (npy(INPUTS[..., :0]), "x", r"with I = 3, .*, found shape \(2, 5, 0\)"),
    "ids": (npy(IDS), "x", r"found shape \(2, 4\): x, .* name the embedding if these are token ids"),
    "an empty CSV": (b"", "x.csv", "expected lines of comma-separated numbers, all of one length, found 'none': x.csv"),
    "a header alone": (b"a,b,c\n", "x.csv", "found 'none': x.csv"),
    "a CSV of text": (
        b"a,b,c\n1,2,d\n",
        "x.csv",
        "could not convert string 'd' to float64.*: x.csv; write one line a step",
    ),
    "a gap": (b"1,,3\n1,2,3\n", "x.csv", "could not convert string '' to float64"),
    "semicolons": (b"a;b\n1;2\n", "x.csv", "could not convert string '1;2'"),
    "ragged": (b"1,2,3\n4,5\n", "x.csv", "number of columns changed from 3 to 2 at row 2': x.csv"),
    "a longer header": (b"a,b,c,d\n1,2,3\n1,2,3\n", "x.csv", "expected 4 numbers a line, as the header says, found 3"),
    "no column of sequences": (b"a,b,c,sequence\n1,2,3\n", "x.csv", "expected lines of comma-separated numbers"),
    "sequences of nothing": (b"sequence\n1\n1\n", "x.csv", r"found shape \(1, 2, 0\): x.csv"),
    "UTF-16": ("1,2,3\n".encode("utf-16"), "x.csv", "expected lines of comma-separated numbers"),
    "binary": (bytes(range(128, 256)), "x.csv", "expected lines of comma-separated numbers"),
    "a CSV with NaN": (b"1,2,nan\n1,2,3\n", "x.csv", "expected finite inputs"),
    "a CSV of one step": (b"1,2,3\n", "x.csv", "found 1 of 1: x.csv"),
    "one short sequence": (b"sequence,a,b,c\n1,1,2,3\n1,1,2,3\n2,1,2,3\n", "x.csv", "found 1 of 1: x.csv"),
    "a huge field": (b"a" * 200_000 + b",b\n1,2\n", "x.csv", "expected lines of comma-separated numbers"),
}


@pytest.mark.filterwarnings("ignore:Sparse invariant checks:UserWarning")
@pytest.mark.parametrize("case", REFUSED)
def test_refused_with_one_sentence(case: str) -> None:
    data, name, message = REFUSED[case]
    with pytest.raises(PrunerError, match=message) as caught:
        read(data, name)
    assert str(caught.value).startswith("expected ") and ";" in str(caught.value)
    assert len(str(caught.value)) < 500


def test_duplicates_are_refused() -> None:
    with pytest.warns(UserWarning, match="Duplicate name"):
        data = zipped(("lstm.npy", npy(INPUTS)), ("lstm.npy", npy(INPUTS)))
    with pytest.raises(PrunerError, match=r"two entries called 'lstm\.npy'"):
        read(data, "x")
    with pytest.raises(PrunerError, match="expected each array once, found two called 'lstm': x; rename one"):
        read(zipped(("lstm.npy", npy(INPUTS)), ("lstm", npy(INPUTS))), "x")


def test_nothing_in_a_file_is_run(tmp_path: Any) -> None:
    payload = Payload(str(tmp_path / "made"))
    objects = np.array([payload, None], dtype=object)
    for data in (npy(objects), npz({"lstm": objects}), pickle.dumps(payload), saved({"lstm": payload}), saved(payload)):
        with pytest.raises(PrunerError):
            read(data)
    assert not list(tmp_path.iterdir())


WHOLE_FILES = {"x.npy": npy(INPUTS), "x.csv": b"a,sequence,b,c\n1,x,2,3\n4,x,5,6\n7,y,8,9\n0,y,1,2\n"} | {
    f"x.{suffix}": write({"lstm": INPUTS}) for suffix, write in WRITERS.items()
}


@given(st.sampled_from(sorted(WHOLE_FILES)), st.data())
def test_damage_is_refused_or_does_no_harm(name: str, data: st.DataObject) -> None:
    whole = WHOLE_FILES[name]
    damaged = bytearray(whole[: data.draw(st.integers(0, len(whole)))] if data.draw(st.booleans()) else whole)
    for place in data.draw(st.lists(st.integers(0, len(whole) - 1), max_size=4)):
        damaged[place : place + 1] = data.draw(st.binary(max_size=2))
    try:
        group = read(bytes(damaged), name).sequences["lstm"][0]
    except PrunerError as error:
        assert str(error).startswith("expected ")
    else:
        assert group.dtype == torch.float32 and group.shape[2] == 3 and group.isfinite().all()


def test_a_lie_about_the_size_is_not_unpacked() -> None:
    bomb = lying_size(zipped(("a.npy", npy(np.zeros(2**23))), method=zipfile.ZIP_DEFLATED), 1000)
    tracemalloc.start()
    with pytest.raises(PrunerError, match=r"truncated or damaged one: file\.npy"):
        read(bomb)
    assert tracemalloc.get_traced_memory()[1] < 2**22
    tracemalloc.stop()


def test_arrays_together_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = np.ones((500, 3))
    monkeypatch.setattr(arrays, "MAX_BYTES", 3 * steps.nbytes // 2)
    for suffix, write in WRITERS.items():
        for dtype in (np.int8, np.float32, np.float64):
            assert read(write({"lstm": steps.astype(dtype)}), suffix).steps() == {"lstm": 500}
            with pytest.raises(PrunerError, match=r"expected at most 18,000 bytes of arrays, found 24,[0-9]{3}: x"):
                read(write(dict.fromkeys(("encoder", "decoder"), steps.astype(dtype))), "x", PAIR)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (
            ["encoder"],
            "expected inputs for every LSTM to prune, found none for decoder: x; add an array called 'decoder'",
        ),
        (["encoder", "decoder", "other"], r"LSTMs of the checkpoint \(decoder, encoder\), found 'other': x; rename it"),
        (["root"], "found 'root': x"),
        (["e" * 1000], "found 'eeee"),
    ],
    ids=["missing", "unknown", "root", "long"],
)
def test_names_that_do_not_fit(keys: list[str], message: str) -> None:
    with pytest.raises(PrunerError, match=message):
        read(npz(dict.fromkeys(keys, INPUTS)), "x", PAIR)


def test_one_array_for_two_lstms() -> None:
    for data, name in ((npy(INPUTS), "x.npy"), (b"1,2,3\n4,5,6\n", "x.csv")):
        with pytest.raises(
            PrunerError, match=f"found one without a name: {name}; rename it, or save several in a .npz"
        ):
            read(data, name, PAIR)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (IDS + 4, "ids from 0 to 10, since the embedding has 11 rows, found the largest 11: x"),
        (IDS - 1, "found the smallest -1: x"),
        (IDS + np.inf, "found the largest inf: x"),
        (IDS + 0.5, r"whole numbers \(N, T\) or \(T,\), found float64 of shape \(2, 4\): x"),
        (IDS + np.nan, "found float64 of shape"),
        (INPUTS, r"found float32 of shape \(2, 5, 3\)"),
        (IDS[:, :1], "at least 2 steps, found 2 of 1"),
        (IDS[:0], "found 0 of 4"),
        (np.int64(3), r"found int64 of shape \(\)"),
        (IDS.astype(np.uint64) + 2**63, "found the smallest -92"),
    ],
    ids=str,
)
def test_bad_token_ids(array: np.ndarray, message: str) -> None:
    with pytest.raises(PrunerError, match=message):
        read(npy(array), "x", embedding="embed.weight")


def test_columns_of_numbers_are_no_token_ids() -> None:
    with pytest.raises(
        PrunerError, match=r"found float64 of shape \(1, 2, 3\): x.csv.*; without embedding they are inputs"
    ):
        read(b"1,2,3\n4,5,6\n", "x.csv", embedding="embed.weight")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("embed", "expected the name of a tensor of the checkpoint as embedding, found 'embed'; check the name"),
        (
            "head.weight",
            r"floats \(V, 3\) as embedding of lstm, found 'head.weight' of torch.float32 and shape \(11, 4\)",
        ),
        ("head.bias", r"found 'head.bias' of torch.float32 and shape \(11,\)"),
        ("whole", "found 'whole' of torch.int64"),
        ("empty", r"shape \(0, 3\)"),
        ("broken", "expected finite numbers in the embedding, found NaN or infinity in 'broken'"),
    ],
)
def test_bad_embeddings(name: str, message: str) -> None:
    others = {"whole": torch.ones(11, 3).long(), "empty": torch.ones(0, 3), "broken": torch.full((11, 3), torch.nan)}
    checkpoint = open_checkpoint(saved({**MODEL.container, **others}))
    for use in (
        lambda: read(npy(IDS), "x", checkpoint, embedding=name),
        lambda: gaussian(checkpoint, checkpoint.lstms, name),
        lambda: sampled(checkpoint, checkpoint.lstms[0], name, "head.weight"),
    ):
        with pytest.raises(PrunerError, match=message):
            use()


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


group_shapes = st.lists(st.tuples(st.integers(1, 5), st.integers(2, 30)), min_size=1, max_size=5)


def numbered(shapes: list[tuple[int, int]], name: str = "lstm") -> dict[str, list[Tensor]]:
    """Groups (N, T, 3) whose values tell every step of every sequence apart."""
    total = sum(count * steps for count, steps in shapes)
    values = torch.arange(total).float()[:, None].expand(total, 3)
    parts = values.split([count * steps for count, steps in shapes])
    return {name: [part.reshape(*shape, 3) for part, shape in zip(parts, shapes, strict=True)]}


def all_steps(groups: list[Tensor]) -> list[float]:
    return [value for group in groups for value in group[..., 0].flatten().tolist()]


@given(group_shapes, st.floats(0.01, 0.99))
def test_a_split_loses_and_repeats_nothing(shapes: list[tuple[int, int]], share: float) -> None:
    whole = Calibration("file", numbered(shapes), "embed.weight", name="x")
    lengths = [steps for count, steps in shapes for _ in range(count)]
    last = min(max(1, round(len(lengths) * share)), len(lengths) - 1)
    expected = sum(lengths[-last:]) if last else max(1, round(lengths[0] * share))
    if min(expected, sum(lengths) - expected) < 10:
        with pytest.raises(PrunerError, match="expected at least 10 time steps of lstm to "):
            whole.split(share)
        return
    fit, held = whole.split(share)
    assert held.steps()["lstm"] == expected
    assert all_steps(fit.sequences["lstm"]) + all_steps(held.sequences["lstm"]) == all_steps(whole.sequences["lstm"])
    assert (
        (fit.source, fit.embedding, fit.name)
        == (held.source, held.embedding, held.name)
        == ("file", "embed.weight", "x")
    )
    assert fit.steps()["lstm"] + held.steps()["lstm"] == whole.steps()["lstm"]


@pytest.mark.parametrize(
    ("shapes", "share", "fit", "held"),
    [
        ([(10, 20)], 0.2, [(8, 20)], [(2, 20)]),
        ([(3, 20), (2, 30)], 0.2, [(3, 20), (1, 30)], [(1, 30)]),
        ([(3, 20), (2, 30)], 0.6, [(2, 20)], [(1, 20), (2, 30)]),
        ([(2, 20)], 0.01, [(1, 20)], [(1, 20)]),
        ([(2, 20)], 0.99, [(1, 20)], [(1, 20)]),
        ([(1, 100)], 0.2, [(1, 80)], [(1, 20)]),
    ],
    ids=str,
)
def test_splits_by_hand(shapes: Any, share: float, fit: Any, held: Any) -> None:
    sides = Calibration("file", numbered(shapes)).split(share)
    assert [[tuple(group.shape[:2]) for group in side.sequences["lstm"]] for side in sides] == [fit, held]


@pytest.mark.parametrize(
    ("whole", "message"),
    [
        (Calibration("file", numbered([(1, 30)])), "10 time steps of lstm to hold back, found 6; give more or longer"),
        (Calibration("file", numbered([(1, 9), (1, 20)], "")), r"10 time steps of \(root\) to fit on, found 9"),
        (Calibration("file", numbered([(2, 25)]), burn_in=21), "10 time steps of lstm to fit on, found 4"),
    ],
    ids=["one sequence", "two", "burn-in"],
)
def test_too_little_to_split(whole: Calibration, message: str) -> None:
    with pytest.raises(PrunerError, match=f"expected at least {message}"):
        whole.split()


@given(group_shapes, st.integers(1, 7))
def test_batches_hold_every_step_once(shapes: list[tuple[int, int]], batch_size: int) -> None:
    (lstm,) = MODEL.lstms
    whole = Calibration("file", numbered(shapes))
    batches = list(whole.inputs(lstm, MODEL.tensors, batch_size))
    assert all(len(batch) <= batch_size and batch.dtype == torch.float32 for batch in batches)
    assert all_steps(batches) == all_steps(whole.sequences["lstm"])
    assert whole.steps()["lstm"] == sum(batch.shape[0] * batch.shape[1] for batch in batches)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_token_ids_become_rows_of_the_embedding(dtype: torch.dtype) -> None:
    model = language_model(dtype)
    found = read(npy(IDS), checkpoint=model, embedding="embed.weight")
    (first, second) = found.inputs(model.lstms[0], model.tensors, 1)
    expected = model.tensors["embed.weight"].float()
    assert torch.equal(torch.cat([first, second]), expected[torch.from_numpy(IDS)])
    assert first.dtype == torch.float32
    changed = {**model.tensors, "embed.weight": torch.zeros(11, 3, dtype=dtype)}
    assert not next(found.inputs(model.lstms[0], changed)).count_nonzero()


def test_steps_leave_the_burn_in_out() -> None:
    assert Calibration("file", numbered([(2, 5), (3, 2)]), burn_in=3).steps() == {"lstm": 4}


def test_random_inputs_are_standard_normal_and_always_the_same() -> None:
    found = gaussian(PAIR, PAIR.lstms)
    assert (found.source, found.burn_in, found.embedding) == ("gaussian", 20, None)
    assert {name: tuple(group.shape) for name, (group,) in found.sequences.items()} == {
        "encoder": (64, 128, 3),
        "decoder": (64, 128, 2),
    }
    rows = found.sequences["encoder"][0].flatten(0, 1)
    torch.testing.assert_close(rows.mean(0), torch.zeros(3), atol=0.05, rtol=0)
    torch.testing.assert_close(torch.cov(rows.T), torch.eye(3), atol=0.06, rtol=0)
    assert found.sha256 == gaussian(PAIR, PAIR.lstms).sha256
    assert found.steps() == {"encoder": 64 * 108, "decoder": 64 * 108}
    fit, held = found.split()
    assert fit.steps() == {"encoder": 51 * 108, "decoder": 51 * 108} and held.steps()["encoder"] == 13 * 108


@pytest.mark.parametrize(("tokens", "size"), [(50, 3), (2, 5), (1, 4), (30, 1)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64], ids=str)
def test_random_inputs_resemble_an_embedding(tokens: int, size: int, dtype: torch.dtype) -> None:
    embed = nn.Embedding(tokens, size, dtype=dtype)
    embed.weight.data = 3 + embed.weight.data @ torch.randn(size, size).to(dtype)
    model = checkpoint_of(embed=embed, lstm=random_lstm(input_size=size))
    found = gaussian(model, model.lstms, "embed.weight")
    (inputs,) = found.inputs(model.lstms[0], model.tensors, 64)
    rows, expected = inputs.flatten(0, 1), model.tensors["embed.weight"].float()
    assert rows.dtype == torch.float32 and found.embedding == "embed.weight"
    scale = expected.std(0, correction=0).max().item() + 1e-3
    torch.testing.assert_close(rows.mean(0), expected.mean(0), atol=0.06 * scale, rtol=0)
    covariances = [torch.atleast_2d(torch.cov(each.T, correction=0)) for each in (rows, expected)]
    torch.testing.assert_close(*covariances, atol=0.1 * scale**2, rtol=0)


def test_an_embedding_that_fits_only_one_lstm() -> None:
    both = checkpoint_of(embed=nn.Embedding(11, 3), encoder=random_lstm(), decoder=random_lstm(input_size=2))
    with pytest.raises(PrunerError, match=r"expected floats \(V, 2\) as embedding of decoder"):
        gaussian(both, both.lstms, "embed.weight")


@pytest.mark.parametrize(
    "settings",
    [{}, {"num_layers": 2}, {"proj_size": 2}, {"bias": False}, {"dtype": torch.float16}, {"dtype": torch.float64}],
    ids=str,
)
def test_sampling_draws_streams_of_ids(settings: dict[str, Any]) -> None:
    model = language_model(**settings)
    found = sampled(model, model.lstms[0], "embed.weight", "head.weight")
    ids = only(found)
    assert (found.source, found.embedding, found.burn_in) == ("sampled", "embed.weight", 20)
    assert ids.shape == (STREAMS, STEPS) and ids.dtype == torch.int64 and set(ids.unique().tolist()) == set(range(11))
    assert found.sha256 == sampled(model, model.lstms[0], "embed.weight", "head.weight").sha256
    assert found.steps() == {"lstm": STREAMS * (STEPS - 20)}
    assert len(ids[:, 0].unique()) > 5


def cyclic_model() -> Checkpoint:
    """Follows token k by k + 1, modulo 5, with near certainty, unless its bias forbids it."""
    lstm = nn.LSTM(5, 5)
    with torch.no_grad():
        for tensor in lstm.parameters():
            tensor.zero_()
        lstm.weight_ih_l0[10:15] = 10 * torch.eye(5)  # the cell gate: the token seen
        lstm.bias_ih_l0.copy_(torch.tensor([10.0] * 5 + [-10.0] * 5 + [0.0] * 5 + [10.0] * 5))  # input on, forget off
    head = nn.Linear(5, 5)
    head.weight.data, head.bias.data = 100 * torch.eye(5).roll(1, 0), torch.zeros(5)
    embed = nn.Embedding(5, 5)
    embed.weight.data = torch.eye(5)
    return checkpoint_of(embed=embed, lstm=lstm, head=head)


def test_sampling_follows_the_model() -> None:
    model = cyclic_model()
    ids = only(sampled(model, model.lstms[0], "embed.weight", "head.weight"))
    assert torch.equal(ids[:, 1:], (ids[:, :-1] + 1) % 5)


def test_sampling_adds_the_bias_beside_the_head() -> None:
    model = cyclic_model()
    bias = torch.tensor([0.0, 0.0, 1000.0, 0.0, 0.0])
    for changed, expected in (({"head.bias": bias}, {2}), ({"head.bias": bias[:4]}, set(range(5)))):
        other = open_checkpoint(saved({**model.container, **changed}))
        ids = only(sampled(other, other.lstms[0], "embed.weight", "head.weight"))
        assert set(ids[:, 1:].unique().tolist()) == expected


def test_sampling_has_the_distribution_of_the_model_with_its_memory() -> None:
    """Where tokens are drawn from a model, their mean log-likelihood under it is minus its mean entropy."""
    weights = {name: tensor * (1 if "embed" in name else 4) for name, tensor in MODEL.container.items()}
    model = open_checkpoint(saved(weights))
    (lstm,) = model.lstms
    ids = only(sampled(model, lstm, "embed.weight", "head.weight"))

    def surprise(remembers: bool) -> float:
        inputs = model.tensors["embed.weight"][ids[:, :-1]]
        output, _ = build(lstm, model.tensors)(inputs if remembers else inputs.flatten(0, 1)[:, None])
        logits = output.reshape(STREAMS, STEPS - 1, 4) @ model.tensors["head.weight"].T + model.tensors["head.bias"]
        likelihood = (logits / TEMPERATURE).log_softmax(-1)
        expected = (likelihood.exp() * likelihood).sum(-1)
        return (likelihood.gather(2, ids[:, 1:, None])[..., 0] - expected).mean().item()

    assert abs(surprise(remembers=True)) < 0.03 < 0.1 < abs(surprise(remembers=False))


@pytest.mark.parametrize(
    ("model", "head", "message"),
    [
        (
            language_model(bidirectional=True),
            "head.weight",
            "reads forwards to sample from, found the bidirectional lstm",
        ),
        (MODEL, "head", "expected the name of a tensor of the checkpoint as head, found 'head'"),
        (
            MODEL,
            "embed.weight",
            r"expected floats \(V, 4\) as head of lstm, found 'embed.weight' of .* shape \(11, 3\)",
        ),
        (MODEL, "lstm.weight_hh_l0", "as many tokens, found 11 in 'embed.weight' and 16 in 'lstm.weight_hh_l0'"),
        (language_model(proj_size=2), "lstm.weight_hr_l0", r"expected floats \(V, 2\) as head"),
    ],
    ids=["bidirectional", "unknown", "width", "tokens", "projection"],
)
def test_models_that_cannot_generate(model: Checkpoint, head: str, message: str) -> None:
    with pytest.raises(PrunerError, match=message):
        sampled(model, model.lstms[0], "embed.weight", head)


def test_outputs_that_are_no_numbers() -> None:
    broken = open_checkpoint(saved({**MODEL.container, "head.bias": torch.full((11,), torch.nan)}))
    with pytest.raises(
        PrunerError, match=r"expected finite outputs of 'head\.weight', found NaN or infinity at step 1;"
    ):
        sampled(broken, broken.lstms[0], "embed.weight", "head.weight")


def test_sampling_tells_its_progress_and_can_be_stopped() -> None:
    told: list[tuple[float, str]] = []
    sampled(MODEL, MODEL.lstms[0], "embed.weight", "head.weight", lambda *step: told.append(step))
    fractions = [fraction for fraction, _ in told]
    assert len(told) == STEPS // 16 and fractions == sorted(fractions) and 0 < fractions[0] < fractions[-1] < 1
    assert told[0][1] == "Sampling inputs of lstm, step 1 of 512"

    def stop(fraction: float, _: str) -> None:
        if fraction > 0.5:
            raise Cancelled

    with pytest.raises(Cancelled):
        sampled(MODEL, MODEL.lstms[0], "embed.weight", "head.weight", stop)


def test_nothing_changes_the_checkpoint() -> None:
    model = language_model(torch.float16)
    before = {name: tensor.clone() for name, tensor in model.tensors.items()}
    sampled(model, model.lstms[0], "embed.weight", "head.weight")
    gaussian(model, model.lstms, "embed.weight")
    assert all(tensor.dtype == torch.float16 and torch.equal(tensor, before[k]) for k, tensor in model.tensors.items())


def test_an_lstm_cell_is_sampled_and_read_like_an_lstm() -> None:
    model = checkpoint_of(embed=nn.Embedding(11, 3), cell=nn.LSTMCell(3, 4), head=nn.Linear(4, 11))
    lstm: LSTM = model.lstms[0]
    assert only(sampled(model, lstm, "embed.weight", "head.weight")).shape == (STREAMS, STEPS)
    assert list(read(npy(INPUTS), checkpoint=model).sequences) == ["cell"]
