"""Exports that were written before manifests told the dense and the stored hidden size apart: they verify and load still."""

import importlib.util
import zipfile
from pathlib import Path

import pytest
import torch

from pruner import PrunerError, examples
from pruner.compact.load_pruned import load_lstms, resize
from pruner.exports.manifest import Manifest
from pruner.exports.opened import read_export
from pruner.exports.verify import verify
from tests.helpers.exports import edit_manifest, read_manifest

WRITTEN_BEFORE = sorted(Path(__file__).with_name("written_before").glob("*.zip"))


@pytest.fixture(params=WRITTEN_BEFORE, ids=lambda path: path.stem)
def older(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    with zipfile.ZipFile(request.param) as archive:
        archive.extractall(tmp_path / "export")
    return tmp_path / "export"


@pytest.mark.parametrize("path", WRITTEN_BEFORE, ids=lambda path: path.stem)
def test_an_older_export_passes_verify(path: Path) -> None:
    assert verify(path)
    assert "the certificate holds" in verify(path, examples.named("embedded-reber").open())[-1]


def test_its_own_loader_gives_the_modules_that_are_opened_now(older: Path) -> None:
    spec = importlib.util.spec_from_file_location("older_load_pruned", older / "load_pruned.py")
    assert spec is not None and spec.loader is not None
    loader = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loader)
    inputs = torch.randn(2, 9, 7)
    loaded = loader.load_lstms(older, batch_first=True)["lstm"](inputs)[0]
    assert torch.equal(loaded, read_export(older).modules["lstm"](inputs)[0])


def test_another_loader_than_its_own_says_so(older: Path) -> None:
    for call in (load_lstms, resize):
        with pytest.raises(ValueError, match=r"found an older one in .*; use the load_pruned\.py that lies beside it"):
            call(older)


def test_its_sizes_are_called_by_the_names_of_today(older: Path) -> None:
    before, (entry,) = read_manifest(older)["lstms"][0], Manifest.read(older).lstms
    assert entry["dense_hidden_size"] == before["hidden_size"] == 32 and "hidden_size" not in entry
    assert entry["stored_hidden_size"] == len(entry["layers"][0]["kept_units"])


def test_it_is_refused_where_it_was_edited(older: Path) -> None:
    edit_manifest(older, ("lstms", 0, "hidden_size"), 31)
    with pytest.raises(PrunerError, match="expected"):
        verify(older)
