"""Files of the Hub: cache hits and errors."""

from __future__ import annotations

import huggingface_hub
import huggingface_hub.constants
import pytest
from huggingface_hub.errors import GatedRepoError

from vsm_fast.errors import ModelError
from vsm_fast.model.presets import HubFiles
from vsm_fast.model.sources import fetch

COMMIT = "0123456789abcdef0123456789abcdef01234567"
SOURCE = HubFiles("org/small", ("unet/a.json", "b.safetensors"))


@pytest.fixture
def snapshot(tmp_path, monkeypatch):
    """A cache with one of the two files."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    folder = tmp_path / "models--org--small/snapshots" / COMMIT
    (folder / "unet").mkdir(parents=True)
    (folder / "unet/a.json").write_text("{}")
    (tmp_path / "models--org--small/refs").mkdir()
    (tmp_path / "models--org--small/refs/main").write_text(COMMIT)
    return folder


def test_a_file_of_the_cache_and_its_commit(snapshot):
    found = fetch(SOURCE, "unet/a.json", local_files_only=True)
    assert found == (snapshot / "unet/a.json", COMMIT)
    assert fetch(SOURCE, "unet/a.json", commit=COMMIT, local_files_only=True) == found


def test_how_many_files_are_here(snapshot, tmp_path):
    assert SOURCE.cached() == 1
    assert HubFiles("org/small", SOURCE.files, "v2").cached() == 0
    assert HubFiles("org/none", SOURCE.files).cached() == 0


@pytest.mark.parametrize("revision", [None, "v2"])
def test_a_missing_file_is_named_with_the_command(snapshot, revision):
    source = HubFiles("org/small", SOURCE.files, revision)
    with pytest.raises(ModelError, match=r"b\.safetensors of org/small") as raised:
        fetch(source, "b.safetensors", local_files_only=True)
    command = "hf download org/small unet/a.json b.safetensors"
    assert str(raised.value).endswith(command + (f" --revision {revision}" if revision else ""))


def test_a_licence_that_was_not_accepted(monkeypatch):
    class Response:
        headers: dict[str, str] = {}  # noqa: RUF012
        request = None

    def refuse(*_, **__):
        raise GatedRepoError("no", response=Response())

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", refuse)
    with pytest.raises(ModelError, match=r"accept it on https://huggingface\.co/org/small"):
        fetch(SOURCE, "b.safetensors")
