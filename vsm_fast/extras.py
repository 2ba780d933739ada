"""Optional packages: imported on first use, with an error that names the install command."""

from __future__ import annotations

from importlib import import_module
from typing import Any

# Extra of pyproject.toml by import name. A package without one installs by its own name.
_EXTRAS = {
    **dict.fromkeys(("onnx", "onnxscript", "onnxruntime"), "onnx"),
    **dict.fromkeys(("triton", "tensorrt", "xformers"), "gpu"),
    **dict.fromkeys(("starlette", "uvicorn", "anyio", "python_multipart"), "serve"),
    **dict.fromkeys(("accelerate", "matplotlib", "scipy", "skimage", "sklearn"), "lab"),
    **dict.fromkeys(("tensorboard", "threadpoolctl", "transformers"), "lab"),
    "ray": "ray",
}


def install_command(module: str) -> str:
    """Return the command that installs an optional package.

    Args:
        module: Import name, such as ``"matplotlib.figure"``.
    """
    package = module.partition(".")[0]
    if package in _EXTRAS:
        return f"pip install '.[{_EXTRAS[package]}]' in the source tree of vsm_fast"
    return f"pip install {package}"


def required(module: str, purpose: str) -> Any:
    """Import an optional package.

    Args:
        module: Import name, such as ``"matplotlib.figure"``.
        purpose: Feature that needs it; the subject of the error's sentence.

    Raises:
        ImportError: If it is not installed. Names the install command.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise ImportError(
            f"{purpose} needs {module.partition('.')[0]}, which cannot be imported ({error}). "
            f"Run: {install_command(module)}"
        ) from error
