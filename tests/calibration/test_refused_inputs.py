"""Files of inputs that lie, are damaged or do not fit: each is refused with one sentence, and none is run."""

import pickle
import struct
import tracemalloc
import zipfile
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st

from pruner.calibration.inputs import gaussian, sampled
from pruner.errors import PrunerError
from pruner.files import input_arrays as arrays
from pruner.files.opening import open_checkpoint
from tests.helpers.files import Payload, npy, npz, saved, zipped
from tests.helpers.input_files import IDS, INPUTS, LANGUAGE_MODEL, PAIR, WRITERS, read


def npy_header(shape: str, descr: str = "'<f4'", held: int = 24, version: int = 1) -> bytes:
    """A `.npy` file of the given claims and so many bytes."""
    header = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}}}\n".encode()
    return b"\x93NUMPY" + bytes([version, 0]) + struct.pack("<H", len(header)) + header + bytes(held)


def lying_size(data: bytes, size: int) -> bytes:
    """A zip archive whose first entry claims another unpacked size."""
    changed = bytearray(data)
    struct.pack_into("<I", changed, data.index(b"PK\x01\x02") + 24, size)
    return bytes(changed)


GOOD_NPZ = npz({"lstm": INPUTS}, compress=True)
REFUSED: dict[str, tuple[bytes, str, str]] = {
    "nothing": (b"", "x.npy", "expected arrays of inputs, found an empty file: x.npy"),
    "noise": (
        bytes(100),
        "x",
        "expected inputs in x, found bytes of no known format .*; save the inputs with numpy.save",
    ),
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
    payload = Payload(f"mkdir {tmp_path / 'made'}")
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
    checkpoint = open_checkpoint(saved({**LANGUAGE_MODEL.container, **others}))
    for use in (
        lambda: read(npy(IDS), "x", checkpoint, embedding=name),
        lambda: gaussian(checkpoint, checkpoint.lstms, name),
        lambda: sampled(checkpoint, checkpoint.lstms[0], name, "head.weight"),
    ):
        with pytest.raises(PrunerError, match=message):
            use()
