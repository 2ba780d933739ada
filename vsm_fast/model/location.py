"""Model location: embedded, in a folder, converted from a preset, or on the Hub."""

from __future__ import annotations

import os
from importlib.resources import files as package_files
from pathlib import Path

from vsm_fast.errors import ModelError
from vsm_fast.model.presets import PRESETS, converted_folder
from vsm_fast.model.sources import HUB_ID, downloading

EMBEDDED = ("tiny",)


def find_model(
    name_or_path: str | os.PathLike[str],
    *,
    revision: str | None = None,
    local_files_only: bool = False,
) -> Path:
    """Return the absolute folder of a model; a Hub repository is downloaded into the Hub's cache.

    Args:
        name_or_path: ``"tiny"``, a folder, the name of a preset converted by ``vsm-fast convert``,
            or a Hub repository id ``"owner/name"``.
        revision: Commit, tag or branch of a Hub repository.
        local_files_only: Whether to use the cache only, as with ``HF_HUB_OFFLINE=1``.

    Raises:
        ModelError: If there is no such model, or it cannot be fetched.
    """
    name = os.fspath(name_or_path)
    folder = find_local(name, revision=revision)
    if folder is not None:
        return folder
    if not HUB_ID.fullmatch(name):
        raise ModelError(
            f"no model {name!r}: not one of {[*EMBEDDED, *PRESETS]}, not a folder, and not a Hub "
            "repository id like 'owner/name'."
        )
    from huggingface_hub import snapshot_download

    command = f"hf download {name}" + (f" --revision {revision}" if revision else "")
    with downloading(f"model {name!r}", name, command):
        return Path(
            snapshot_download(
                name,
                revision=revision,
                local_files_only=local_files_only,
                allow_patterns=["*.json", "*.safetensors", "*/*.json", "*/*.safetensors"],
            )
        )


def find_local(name: str, *, revision: str | None = None) -> Path | None:
    """Return the absolute folder of an embedded model, a folder or a preset; None for others.

    Raises:
        ModelError: If the preset has not been converted.
    """
    if name in EMBEDDED:
        return Path(str(package_files("vsm_fast"))) / "models" / name
    folder = Path(name).absolute()
    preset = name.removesuffix("-tiny-vae")
    if preset not in PRESETS or (folder / "config.json").is_file():
        return folder if folder.is_dir() else None
    if revision is not None:
        raise ModelError(
            f"revision {revision!r} is for Hub repositories; the preset {name!r} has its own."
        )
    folder = converted_folder(name).absolute()
    if not (folder / "config.json").is_file():
        raise ModelError(
            f"the preset {name!r} has not been converted: there is no model in {folder}. "
            f"Run: vsm-fast convert --preset {preset}" + (" --tiny-vae" if preset != name else "")
        )
    return folder


def lasting_name(name_or_path: str | os.PathLike[str]) -> str:
    """Return a model's name, or the absolute path of its folder, which survives a chdir."""
    name = os.fspath(name_or_path)
    is_name = name in EMBEDDED or name.removesuffix("-tiny-vae") in PRESETS
    return name if is_name or not Path(name).is_dir() else str(Path(name).absolute())
