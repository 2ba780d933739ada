"""Optional packages: imported where they are needed, with an error that says how to get them."""

from __future__ import annotations

from importlib import import_module
from typing import Any


def required(module: str, extra: str, purpose: str) -> Any:
    """Import an optional package.

    Args:
        module: Its import name, like ``"matplotlib.figure"``.
        extra: The extra of vsm_fast that installs it.
        purpose: What needs it, the subject of the error's sentence.

    Raises:
        ImportError: It is not installed; names the extra.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise ImportError(
            f"{purpose} needs {module.partition('.')[0]}, which cannot be imported ({error}). "
            f"Run: pip install 'vsm_fast[{extra}]'"
        ) from error
