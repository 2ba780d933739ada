"""The identity of a model: everything that decides which descriptors an image gets.

One function makes it. The cache takes its key from it, a job records it and refuses to go on with
another one, and descriptors carry it, so that none is compared with those of another model.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from vsm_fast.errors import ModelError
from vsm_fast.files import sha256_of_table

if TYPE_CHECKING:
    from vsm_fast.model.config import ModelConfig
    from vsm_fast.runtimes.runtime import Runtime

# Fields of a configuration that change no descriptor. Any other field, also a new one, is part
# of the identity.
_ASIDE = ("name", "thresholds", "base_revision", "files")

Parts = tuple[tuple[str, Any], ...]


@dataclass(frozen=True)
class ModelIdentity:
    """What computes descriptors; made by :func:`identity_of`.

    Attributes:
        name: Of the model, for messages; two names may stand for one identity.
        model: Weights and settings by name. Descriptors can be compared when these are equal.
        execution: Graph, runtime, precision and kind of device by name. These change descriptors
            by rounding, so that a cache and a job keep them apart.
        recorded: Whether the weights have hashes; those of a network made in memory have none.
    """

    name: str = field(compare=False)
    model: Parts
    execution: Parts
    recorded: bool

    def record(self) -> dict[str, Any]:
        """The whole identity as JSON values by name, for a cache or a job.

        Raises:
            ModelError: The weights have no hashes.
        """
        if not self.recorded:
            raise ModelError(
                f"descriptors of {self.name!r} cannot be told from those of other weights: its "
                "weights have no recorded hashes. A cache and a job need them; load the model "
                "with VSMScorer.from_pretrained."
            )
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in (*self.model, *self.execution)
        }


def identity_of(
    config: ModelConfig, runtime: Runtime, graph: Mapping[str, str] | None = None
) -> ModelIdentity:
    """The identity of a model and what runs it.

    Args:
        config: Of the model.
        runtime: Runs its network.
        graph: sha256 (hex) of each file of an exported graph, which also stands for how it was
            calibrated; None where the runtime runs the weights themselves.
    """
    of_graph = sha256_of_table(graph) if graph else ""
    weights = sha256_of_table(config.files) if config.files else of_graph
    settings: list[tuple[str, Any]] = []
    for name, value in dataclasses.asdict(config).items():
        if name not in _ASIDE:
            parts = value.items() if isinstance(value, dict) else [("", value)]
            settings += [(f"{name}.{part}" if part else name, entry) for part, entry in parts]
    execution = {
        "graph": of_graph,
        "runtime": runtime.name,
        "precision": runtime.precision,
        "device": runtime.device.type,
    }
    return ModelIdentity(
        config.name,
        (("weights", weights), *settings),
        tuple(execution.items()),
        bool(weights),
    )


def require_same_model(described: ModelIdentity | None, wanted: ModelIdentity | None) -> None:
    """Refuse descriptors of another model; those without an identity cannot be checked.

    Args:
        described: Of the descriptors.
        wanted: Of what they are compared with.

    Raises:
        ModelError: Weights or settings differ; says which.
    """
    if described is None or wanted is None or described.model == wanted.model:
        return
    other = differences(dict(described.model), dict(wanted.model))
    raise ModelError(
        f"these descriptors are those of another model ({described.name!r}) than the one that "
        f"compares them ({wanted.name!r}): {'; '.join(other)}. Describe the images again with it."
    )


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """A phrase for each setting that is another one; empty = all are the same."""
    return [
        f"{name} was {before.get(name)!r}, now {now.get(name)!r}"
        for name in {**now, **before}
        if before.get(name) != now.get(name)
    ]
