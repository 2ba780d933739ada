"""Third-party pretrained models, from the Hub's cache or a folder; safetensors, no remote code.

Every model is first resolved to a folder on disk and then loaded from there, so that all errors
about missing models come from here and name the command that fetches them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from vsm_fast.errors import ModelError
from vsm_fast.extras import required
from vsm_fast.model.sources import HUB_ID, downloading

# Files that transformers reads; other formats (pickles, TensorFlow) are not downloaded.
_TRANSFORMERS_FILES = ("*.json", "*.txt", "*.model", "*.safetensors")
# Weights at the top of a diffusers repository are second copies for other programs.
_DIFFUSERS_FILES = ("model_index.json", *(f"*/{pattern}" for pattern in _TRANSFORMERS_FILES))
# The libraries' errors about files that are missing, damaged, or of another model.
_BAD_FILES = (OSError, ValueError, KeyError, AttributeError, RuntimeError)


@dataclass(frozen=True)
class ModelSource:
    """Origin of a pretrained model.

    Attributes:
        name: Hub repository id ``"owner/name"``, or a local folder in the same layout.
        revision: Commit, tag or branch of a Hub repository; None = its main branch. Reproducible
            datasets need a commit here.
        local_files_only: Whether to use the cache only, as with ``HF_HUB_OFFLINE=1``.
    """

    name: str
    revision: str | None = None
    local_files_only: bool = False

    @classmethod
    def of(cls, source: ModelSource | str | os.PathLike[str]) -> ModelSource:
        """Return a source, possibly from a bare name or path."""
        return source if isinstance(source, ModelSource) else cls(os.fspath(source))

    @classmethod
    def parse(cls, text: str) -> ModelSource:
        """Parse ``owner/name``, ``owner/name@revision``, or a folder.

        Raises:
            ValueError: If the name is empty, no revision follows the ``@``, or a folder has one.
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
    """Load a model of transformers in float32, in eval mode, without gradients.

    Args:
        class_name: Like ``"SamModel"``.
        source: Origin of the model.
        device: Device of the model.
        purpose: Subject of the errors' sentences.
        settings: Arguments of ``from_pretrained``.

    Raises:
        ImportError: If transformers is not installed. Names the extra.
        ModelError: If the model is missing, incomplete, or of another architecture.
    """
    transformers = required("transformers", purpose)
    folder = find_folder(source, purpose)
    model = _load_complete(
        getattr(transformers, class_name), folder, source, purpose, dtype=torch.float32, **settings
    )
    return model.to(device).eval().requires_grad_(False)


def load_image_processor(source: ModelSource, *, purpose: str) -> Any:
    """Load the image processor of a model of transformers.

    It always uses Pillow: torchvision, if installed, would give slightly different pixels.

    Args:
        source: Origin of the model.
        purpose: As for :func:`load_transformer`.

    Raises:
        ImportError: If transformers is not installed. Names the extra.
        ModelError: If its files are missing or unreadable.
    """
    return _load_auto("AutoImageProcessor", source, purpose, backend="pil")


def load_tokenizer(source: ModelSource, *, purpose: str) -> Any:
    """Load the tokenizer of a model of transformers; see :func:`load_image_processor`."""
    return _load_auto("AutoTokenizer", source, purpose)


def _load_auto(class_name: str, source: ModelSource, purpose: str, **settings: Any) -> Any:
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
    """Load a pipeline of diffusers on the CPU.

    Args:
        class_name: Like ``"StableDiffusionXLInpaintPipeline"``.
        source: Origin of the pipeline.
        dtype: Precision of its models.
        purpose: As for :func:`load_transformer`.
        variant: Variant of the weight files, like ``"fp16"``; None = those without a suffix.
        settings: Arguments of ``from_pretrained``.

    Raises:
        ImportError: If transformers is not installed. Names the extra.
        ModelError: If the pipeline is missing, incomplete, or another one.
    """
    libraries = {name: required(name, purpose) for name in ("transformers", "diffusers")}
    diffusers = libraries["diffusers"]

    def download() -> str:
        path: str = diffusers.DiffusionPipeline.download(
            source.name,
            revision=source.revision,
            local_files_only=source.local_files_only,
            use_safetensors=True,
            trust_remote_code=False,
            variant=variant,
        )
        return path

    folder = _folder(source, purpose, download, _DIFFUSERS_FILES)
    with _loading(source, purpose, _DIFFUSERS_FILES):
        index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
        classes = {
            name: getattr(libraries[entry[0]], entry[1])
            for name, entry in index.items()
            if isinstance(entry, list) and len(entry) == 2 and entry[0] in libraries
        }
        # Schedulers and tokenizers need no check of their weights.
        models = {name: kind for name, kind in classes.items() if issubclass(kind, torch.nn.Module)}
    parts = {
        name: _load_complete(
            kind, folder, source, purpose, subfolder=name, dtype=dtype, variant=variant
        )
        for name, kind in models.items()
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
    """Return the folder of a model of transformers, downloaded into the Hub's cache if needed.

    Raises:
        ModelError: If it is neither local nor available, or has no safetensors weights.
    """

    def download() -> str:
        from huggingface_hub import snapshot_download

        return snapshot_download(
            source.name,
            revision=source.revision,
            local_files_only=source.local_files_only,
            # Sub-folders hold other models or formats.
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
    """Return the source of a loaded model or pipeline, with its commit in the Hub's cache."""
    folder = Path(model.name_or_path or "")
    is_snapshot = folder.parent.name == "snapshots" and source.name != str(folder)
    return f"{source.name}@{folder.name}" if is_snapshot else str(source)


def _load_complete(
    model_class: Any, folder: Path, source: ModelSource, purpose: str, **settings: Any
) -> Any:
    """Load a model of transformers or diffusers, and refuse it if any weight is missing.

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
    if not HUB_ID.fullmatch(source.name):
        raise ModelError(
            f"{purpose}: no model {source.name!r}: neither a folder nor a Hub repository id like "
            "'owner/name'."
        )
    with downloading(f"{purpose}: {source}", source.name, _fetch_command(source, files)):
        return Path(download())


def _fetch_command(source: ModelSource, files: Sequence[str]) -> str:
    revision = f" --revision {source.revision}" if source.revision else ""
    patterns = " ".join(f"--include '{pattern}'" for pattern in files)
    return f"hf download {source.name}{revision} {patterns}"


@contextmanager
def _loading(
    source: ModelSource, purpose: str, files: Sequence[str] = _TRANSFORMERS_FILES
) -> Iterator[None]:
    """Turn the libraries' errors about bad model files into a ``ModelError``."""
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
