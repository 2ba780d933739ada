"""Pretrained models of others, from the Hub's cache or a folder; safetensors only, no remote code.

Everything is first resolved to a folder on disk and then loaded from there, so that a missing
model is reported here, in one way, with the command that fetches it.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from vsm_fast.errors import ModelError
from vsm_fast.extras import required

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
# What transformers reads; whatever else a repository holds (pickles, TensorFlow) stays there.
_TRANSFORMERS_FILES = ("*.json", "*.txt", "*.model", "*.safetensors")
# Weights at the top of a diffusers repository are second copies for other programs.
_DIFFUSERS_FILES = ("model_index.json", *(f"*/{pattern}" for pattern in _TRANSFORMERS_FILES))
# What the libraries raise about files that are missing, damaged, or of another model.
_BAD_FILES = (OSError, ValueError, KeyError, AttributeError, RuntimeError)


@dataclass(frozen=True)
class ModelSource:
    """Where a pretrained model comes from.

    Attributes:
        name: Hub repository id ``"owner/name"``, or a local folder in the same layout.
        revision: Commit, tag or branch of a Hub repository; None = its main branch. Datasets
            that others should be able to make again want a commit here.
        local_files_only: Never ask the network, as ``HF_HUB_OFFLINE=1`` does.
    """

    name: str
    revision: str | None = None
    local_files_only: bool = False

    @classmethod
    def of(cls, source: ModelSource | str | os.PathLike[str]) -> ModelSource:
        """A source from a bare name or path."""
        return source if isinstance(source, ModelSource) else cls(os.fspath(source))

    @classmethod
    def parse(cls, text: str) -> ModelSource:
        """A source as people write it: ``owner/name``, ``owner/name@revision``, or a folder.

        Raises:
            ValueError: No name, no revision after the ``@``, or a revision of a folder.
        """
        name, at, revision = text.partition("@")
        if Path(text).is_dir() or not at:
            if not text:
                raise ValueError("a model is a Hub repository 'owner/name' or a folder; got ''.")
            return cls(text)
        if not name or not revision:
            raise ValueError(f"a revision is written owner/name@revision; got {text!r}.")
        if Path(name).is_dir():
            raise ValueError(
                f"{text!r}: the folder {name} has no revisions; leave @{revision} out."
            )
        return cls(name, revision)

    def __str__(self) -> str:
        return f"{self.name}@{self.revision}" if self.revision else self.name


def load_transformer(
    class_name: str,
    source: ModelSource,
    device: torch.device,
    *,
    purpose: str,
    **settings: Any,
) -> Any:
    """A model of transformers in float32, in eval mode, without gradients.

    Args:
        class_name: Like ``"SamModel"``.
        source: Where it comes from.
        device: Where it goes.
        purpose: What needs it; the subject of the errors' sentences.
        settings: Passed to ``from_pretrained``.

    Raises:
        ImportError: transformers is not installed; names the extra.
        ModelError: The model is missing, incomplete, or of another architecture.
    """
    transformers = required("transformers", purpose)
    folder = find_folder(source, purpose)
    model = _load_whole(
        getattr(transformers, class_name), folder, source, purpose, dtype=torch.float32, **settings
    )
    return model.to(device).eval().requires_grad_(False)


def load_image_processor(source: ModelSource, *, purpose: str) -> Any:
    """What turns images into the inputs of a model of transformers.

    It works with Pillow on every machine: with torchvision, where that is installed, the same
    image would give slightly other pixels.

    Args:
        source: Where the model comes from.
        purpose: As for :func:`load_transformer`.

    Raises:
        ImportError: transformers is not installed; names the extra.
        ModelError: Its files are missing or unreadable.
    """
    return _load_auto("AutoImageProcessor", source, purpose, backend="pil")


def load_tokenizer(source: ModelSource, *, purpose: str) -> Any:
    """What turns text into the inputs of a model of transformers.

    Args:
        source: Where the model comes from.
        purpose: As for :func:`load_transformer`.

    Raises:
        ImportError: transformers is not installed; names the extra.
        ModelError: Its files are missing or unreadable.
    """
    return _load_auto("AutoTokenizer", source, purpose)


def _load_auto(class_name: str, source: ModelSource, purpose: str, **settings: Any) -> Any:
    """What comes with a model of transformers, from its local files."""
    transformers = required("transformers", purpose)
    folder = find_folder(source, purpose)
    with _loading(source, purpose):
        return getattr(transformers, class_name).from_pretrained(
            folder, local_files_only=True, trust_remote_code=False, **settings
        )


def load_pipeline(
    class_name: str,
    source: ModelSource,
    dtype: torch.dtype,
    *,
    purpose: str,
    variant: str | None = None,
    **settings: Any,
) -> Any:
    """A pipeline of diffusers, on the CPU.

    Args:
        class_name: Like ``"StableDiffusionXLInpaintPipeline"``.
        source: Where it comes from.
        dtype: Precision of its models.
        purpose: As for :func:`load_transformer`.
        variant: Which weight files to take, like ``"fp16"``; None = those without a suffix.
        settings: Passed to ``from_pretrained``.

    Raises:
        ImportError: transformers is not installed; names the extra.
        ModelError: The pipeline is missing, incomplete, or another one.
    """
    transformers = required("transformers", purpose)  # every pipeline's text encoder
    diffusers = required("diffusers", purpose)

    def download() -> str:
        fetched: str = diffusers.DiffusionPipeline.download(
            source.name,
            revision=source.revision,
            local_files_only=source.local_files_only,
            use_safetensors=True,
            trust_remote_code=False,
            variant=variant,
        )
        return fetched

    folder = _folder(source, purpose, download, _DIFFUSERS_FILES)
    with _loading(source, purpose, _DIFFUSERS_FILES):
        index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
        models = _model_classes(index, {"diffusers": diffusers, "transformers": transformers})
    parts = {
        name: _load_whole(
            model, folder, source, purpose, subfolder=name, dtype=dtype, variant=variant
        )
        for name, model in models.items()
    }
    with _loading(source, purpose, _DIFFUSERS_FILES):
        return getattr(diffusers, class_name).from_pretrained(
            folder,
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=False,
            **parts,
            **settings,
        )


def find_folder(source: ModelSource, purpose: str) -> Path:
    """The folder of a model of transformers; fetched into the Hub's cache if need be.

    Raises:
        ModelError: It is neither here nor to be had, or has no safetensors weights.
    """

    def download() -> str:
        from huggingface_hub import snapshot_download

        return snapshot_download(
            source.name,
            revision=source.revision,
            local_files_only=source.local_files_only,
            # Files in sub-folders are other models or other formats.
            allow_patterns=list(_TRANSFORMERS_FILES),
            ignore_patterns=["*/*"],
        )

    folder = _folder(source, purpose, download, _TRANSFORMERS_FILES)
    if not any(folder.glob("*.safetensors")):
        raise ModelError(
            f"{purpose}: {source} has no *.safetensors weights, and pickled ones are not read "
            "(they can run any code). Many repositories keep a converted copy in a pull request: "
            "name it as the revision, like 'refs/pr/5', or convert the weights."
        )
    return folder


def weights_name(source: ModelSource, model: Any) -> str:
    """The source of a loaded model or pipeline, for the record.

    It has the commit that a Hub repository resolved to, where the Hub's cache tells it.
    """
    folder = Path(model.name_or_path or "")
    known = folder.parent.name == "snapshots" and source.name != str(folder)
    return f"{source.name}@{folder.name}" if known else str(source)


def _model_classes(index: dict[str, Any], libraries: dict[str, Any]) -> dict[str, Any]:
    """The classes of a pipeline's models (not of its schedulers and tokenizers) by part."""
    parts = {name: entry for name, entry in index.items() if isinstance(entry, list)}
    classes = {
        name: getattr(libraries[library], class_name)
        for name, (library, class_name) in parts.items()
        if library in libraries
    }
    return {name: found for name, found in classes.items() if issubclass(found, torch.nn.Module)}


def _load_whole(
    model_class: Any, folder: Path, source: ModelSource, purpose: str, **settings: Any
) -> Any:
    """A model of transformers or diffusers, every weight of which was in its files.

    Both libraries only warn of missing weights and leave random ones.
    """
    files = _DIFFUSERS_FILES if "subfolder" in settings else _TRANSFORMERS_FILES
    with _loading(source, purpose, files):
        model, report = model_class.from_pretrained(
            folder,
            local_files_only=True,
            use_safetensors=True,
            output_loading_info=True,
            **settings,
        )
    wrong = sorted(report["missing_keys"]) + sorted(str(k) for k in report["mismatched_keys"])
    if wrong:
        raise ModelError(
            f"{purpose}: {source} is no complete {model_class.__name__}: {len(wrong)} weights are "
            f"missing or of another shape ({', '.join(wrong[:3])}"
            f"{', ...' if len(wrong) > 3 else ''})."
        )
    return model


def _folder(
    source: ModelSource, purpose: str, download: Callable[[], str], files: Sequence[str]
) -> Path:
    folder = Path(source.name)
    if folder.is_dir():
        return folder
    if not _HUB_ID.fullmatch(source.name):
        raise ModelError(
            f"{purpose}: no model {source.name!r}: neither a folder nor a Hub repository id like "
            "'owner/name'."
        )
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError

    try:
        return Path(download())
    except GatedRepoError as error:
        raise ModelError(
            f"{purpose}: {source} is given only to those who accepted its licence: accept it on "
            f"https://huggingface.co/{source.name}, run hf auth login, then: "
            f"{_fetch_command(source, files)}"
        ) from error
    except (HfHubHTTPError, ValueError, OSError) as error:
        raise ModelError(
            f"{purpose}: {source} is not in the local cache and could not be fetched "
            f"({type(error).__name__}). With network access run: {_fetch_command(source, files)}"
        ) from error


def _fetch_command(source: ModelSource, files: Sequence[str]) -> str:
    revision = f" --revision {source.revision}" if source.revision else ""
    patterns = " ".join(f"--include '{pattern}'" for pattern in files)
    return f"hf download {source.name}{revision} {patterns}"


@contextmanager
def _loading(
    source: ModelSource, purpose: str, files: Sequence[str] = _TRANSFORMERS_FILES
) -> Iterator[None]:
    """Turn what the libraries raise about bad model files into a ModelError."""
    from safetensors import SafetensorError

    try:
        yield
    except (*_BAD_FILES, SafetensorError) as error:
        reason = (str(error).strip().splitlines() or ["no reason given"])[0].rstrip(".")
        hint = ""
        if isinstance(error, OSError) and not Path(source.name).is_dir():
            hint = f" If files are missing in the cache, run: {_fetch_command(source, files)}"
        raise ModelError(
            f"{purpose}: {source} cannot be loaded ({type(error).__name__}: {reason}).{hint}"
        ) from error
