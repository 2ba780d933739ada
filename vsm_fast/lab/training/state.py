"""Training checkpoints: weights, optimiser moments and step in one safetensors file.

Every random draw of the training loops is a function of ``(seed, step)``. The step number is
therefore the whole random state, and a resumed run repeats the uninterrupted one.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from vsm_fast.files import replacing


def save_state(
    path: Path,
    step: int,
    modules: dict[str, nn.Module],
    optimizer: Optimizer | None = None,
    notes: Any = None,
) -> None:
    """Write modules, optimiser moments and the number of finished steps atomically.

    Args:
        path: File to write, ``.safetensors``.
        step: Number of finished optimisation steps.
        modules: Modules by name; each state dict is stored under that name.
        optimizer: AdamW, or another optimiser whose state is tensors per parameter.
        notes: JSON value for :func:`read_progress`.
    """
    tensors = {
        f"{name}/{key}": value.detach().cpu().contiguous()
        for name, module in modules.items()
        for key, value in module.state_dict().items()
    }
    if optimizer is not None:
        for index, moments in optimizer.state_dict()["state"].items():
            for key, value in moments.items():
                tensors[f"optimizer/{index}/{key}"] = torch.as_tensor(value).cpu().contiguous()
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        metadata = {"step": str(step), "notes": json.dumps(notes)}
        save_file(tensors, temporary, metadata=metadata)


def read_progress(path: Path) -> tuple[int, Any]:
    """Return step and notes of a checkpoint without its weights; (0, None) if it is missing."""
    if not path.exists():
        return 0, None
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    return int(metadata["step"]), json.loads(metadata["notes"])


def load_state(
    path: Path, modules: dict[str, nn.Module], optimizer: Optimizer | None = None
) -> int:
    """Restore a checkpoint and return its number of finished steps; 0 if ``path`` is missing."""
    if not path.exists():
        return 0
    groups: dict[str, dict[str, Tensor]] = {}
    with safe_open(path, framework="pt") as file:
        step = int(file.metadata()["step"])
        for key in file.keys():  # noqa: SIM118  safe_open is not a mapping
            name, _, rest = key.partition("/")
            groups.setdefault(name, {})[rest] = file.get_tensor(key)
    for name, module in modules.items():
        module.load_state_dict(groups[name])
    if optimizer is not None:
        moments: dict[int, dict[str, Tensor]] = {}
        for key, value in groups.get("optimizer", {}).items():
            index, _, name = key.partition("/")
            moments.setdefault(int(index), {})[name] = value
        optimizer.load_state_dict({**optimizer.state_dict(), "state": moments})
    return step
