"""Model identity: every setting that affects the descriptors of an image.

Cache keys derive from it, jobs record it and refuse to resume with another one, and descriptors
carry it, so that only descriptors of the same model are matched.
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

# Fields of a configuration that affect no descriptor. All others, new ones included, are part of
# the identity.
_EXCLUDED = ("name", "thresholds", "base_revision", "files")

Parts = tuple[tuple[str, Any], ...]


@dataclass(frozen=True)
class ModelIdentity:
    """Identity of a model and its execution, from :func:`identity_of`.

    Attributes:
        name: Name of the model, for messages; not part of the comparison.
        model: Weights and settings by name. Descriptors are comparable if these are equal.
        execution: Graph, runtime, precision and device type by name. They change descriptors by
            rounding; caches and jobs distinguish them.
        recorded: Whether the weights have hashes, which an in-memory network lacks.
    """

    name: str = field(compare=False)
    model: Parts
    execution: Parts
    recorded: bool

    def record(self) -> dict[str, Any]:
        """Return the whole identity as JSON values by name, for a cache or a job.

        Raises:
            ModelError: If the weights have no hashes.
        """
        if not self.recorded:
            raise ModelError(
                f"model {self.name!r} cannot be used with a cache or a job: its weights have no "
                "recorded hashes. Load it with VSMScorer.from_pretrained."
            )
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in (*self.model, *self.execution)
        }


def identity_of(
    config: ModelConfig, runtime: Runtime, graph: Mapping[str, str] | None = None
) -> ModelIdentity:
    """Return the identity of a model in a runtime.

    Args:
        config: Configuration of the model.
        runtime: Runtime of its network.
        graph: sha256 (hex) by file of an exported graph, calibration included; None if the
            runtime executes the weights directly.
    """
    graph_hash = sha256_of_table(graph) if graph else ""
    weights = sha256_of_table(config.files) if config.files else graph_hash
    settings: list[tuple[str, Any]] = []
    for name, value in dataclasses.asdict(config).items():
        if name not in _EXCLUDED:
            parts = value.items() if isinstance(value, dict) else [("", value)]
            settings += [(f"{name}.{part}" if part else name, entry) for part, entry in parts]
    execution = {
        "graph": graph_hash,
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


def require_same_model(actual: ModelIdentity | None, expected: ModelIdentity | None) -> None:
    """Reject descriptors of another model; None cannot be checked and passes.

    Args:
        actual: Identity of the descriptors.
        expected: Identity of the scorer or of the descriptors on the other side.

    Raises:
        ModelError: If weights or settings differ; the message lists them.
    """
    if actual is None or expected is None or actual.model == expected.model:
        return
    changes = differences(dict(actual.model), dict(expected.model))
    raise ModelError(
        f"the descriptors come from another model ({actual.name!r} instead of "
        f"{expected.name!r}): {'; '.join(changes)}. Describe the images again with "
        f"{expected.name!r}."
    )


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return a phrase per setting that differs; empty if none does."""
    return [
        f"{name} was {before.get(name)!r}, now {now.get(name)!r}"
        for name in {**now, **before}
        if before.get(name) != now.get(name)
    ]
