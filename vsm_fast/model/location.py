"""Where a model is: embedded, in a folder, converted from a preset, or on the Hub."""

from __future__ import annotations

import os
import re
from importlib.resources import files as package_files
from pathlib import Path

from vsm_fast.errors import ModelError
from vsm_fast.model.presets import PRESETS, converted_folder, home

EMBEDDED = ("tiny",)
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)


def find_model(
    name_or_path: str | os.PathLike[str],
    *,
    revision: str | None = None,
    local_files_only: bool = False,
) -> Path:
    """The absolute folder of a model; a Hub repository is downloaded into the Hub's cache.

    Args:
        name_or_path: ``"tiny"``, a folder, the name of a preset that ``vsm-fast convert`` was
            run for, or a Hub repository id ``"owner/name"``.
        revision: Commit, tag or branch of a Hub repository.
        local_files_only: Never ask the network (as ``HF_HUB_OFFLINE=1`` does).

    Raises:
        ModelError: There is no such model, or it cannot be fetched.
    """
    name = os.fspath(name_or_path)
    folder = find_local(name, revision=revision)
    if folder is not None:
        return folder
    if not _HUB_ID.fullmatch(name):
        raise ModelError(
            f"no model {name!r}: not one of {[*EMBEDDED, *PRESETS]}, not a folder, and not a Hub "
            "repository id like 'owner/name'."
        )
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        fetched = snapshot_download(
            name,
            revision=revision,
            local_files_only=local_files_only,
            allow_patterns=["*.json", "*.safetensors", "*/*.json", "*/*.safetensors"],
        )
    except (LocalEntryNotFoundError, HfHubHTTPError, ValueError, OSError) as error:
        command = f"hf download {name}" + (f" --revision {revision}" if revision else "")
        raise ModelError(
            f"model {name!r} is not in the local cache and could not be fetched "
            f"({type(error).__name__}). With network access run: {command}"
        ) from error
    return Path(fetched)


def find_local(name: str, *, revision: str | None = None) -> Path | None:
    """The absolute folder of a model that is embedded, a folder or a preset; None for others.

    Raises:
        ModelError: The preset has not been converted.
    """
    if name in EMBEDDED:
        return Path(str(package_files("vsm_fast"))) / "models" / name
    folder = Path(name).absolute()
    if name.removesuffix("-tiny-vae") in PRESETS and not (folder / "config.json").is_file():
        return _converted(name, revision).absolute()
    return folder if folder.is_dir() else None


def lasting_name(name_or_path: str | os.PathLike[str]) -> str:
    """The name of a model, or the absolute path of a folder, which a later chdir cannot change."""
    name = os.fspath(name_or_path)
    known = name in EMBEDDED or name.removesuffix("-tiny-vae") in PRESETS
    return name if known or not Path(name).is_dir() else str(Path(name).absolute())


def _converted(name: str, revision: str | None) -> Path:
    """The folder that a preset was converted to."""
    if revision is not None:
        raise ModelError(
            f"revision {revision!r} is for Hub repositories; the preset {name!r} has its own."
        )
    folder = converted_folder(name)
    if not (folder / "config.json").is_file():
        raise ModelError(
            f"the preset {name!r} has not been converted: there is no model in {folder}. "
            f"Run: vsm-fast convert --preset {name.removesuffix('-tiny-vae')}"
            + (" --tiny-vae" if name.endswith("-tiny-vae") else "")
        )
    return folder


def exports_home() -> Path:
    """Folder of the exports that runtimes made for themselves."""
    return home() / "exports"


def tensorrt_home() -> Path:
    """Folder of what TensorRT measured while it built."""
    return home() / "tensorrt"
