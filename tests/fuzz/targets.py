"""Fuzz targets: readers of the library, called with arbitrary bytes.

A target returns whether it accepts the bytes. A refusal is one of the library's own errors; any
other exception is a finding. ``guided.py`` supplies coverage-guided bytes, ``test_targets.py``
seeded damage.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import tarfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from mutate_images import seeds as image_seeds
from safetensors.torch import save

from vsm_fast.errors import InputError, ModelError, PairingError
from vsm_fast.images.loading import load_image
from vsm_fast.images.masks import load_mask
from vsm_fast.jobs.manifest import read_manifest
from vsm_fast.model.config import ModelConfig
from vsm_fast.model.load import build_network, read_config
from vsm_fast.model.weights import opened, read_weights
from vsm_fast.runtimes.exported import FORMAT as EXPORT_FORMAT
from vsm_fast.runtimes.exported import RECORD, read_record
from vsm_fast.runtimes.plans import FORMAT as PLAN_FORMAT
from vsm_fast.runtimes.plans import read_sidecar

TINY = Path(__file__).parents[2] / "vsm_fast" / "models" / "tiny"
MANIFESTS = (".csv", ".jsonl", ".parquet", ".json", ".tar", ".tsv")


@dataclass(frozen=True)
class Target:
    """A reader and its seeds.

    Attributes:
        accepts: (bytes, folder of its own) -> whether they are accepted.
        seeds: Returns accepted bytes.
    """

    accepts: Callable[[bytes, Path], bool]
    seeds: Callable[[], list[bytes]]


def _manifest(content: bytes, folder: Path) -> bool:
    """Read a manifest; the first byte selects the format."""
    path = folder / f"pairs{MANIFESTS[content[0] % len(MANIFESTS)] if content else '.csv'}"
    path.write_bytes(content[1:])
    try:
        pairing = read_manifest(path)
    except PairingError:
        return False
    assert pairing.rows
    assert len({row.id for row in pairing.rows}) == len(pairing.rows)
    return True


def _manifest_seeds() -> list[bytes]:
    rows = [
        {"id": "a", "subject": "cat", "ref": "r/0.png", "gen": "g/0.png", "ref_mask": "m.png"},
        {"id": "ü", "subject": "", "ref": "r/0.png", "gen": "g/1.png", "ref_mask": None},
    ]
    lines = "\n".join(json.dumps(row) for row in rows)
    table = BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), table, compression="none")
    text = 'id,ref,gen,note\n1,a.png,b.png,"x, ""y"""\n2,a.png,c.png,\n'
    archive = BytesIO()
    with tarfile.open(fileobj=archive, mode="w", format=tarfile.PAX_FORMAT) as tar:
        long = "ü" * 60
        for name in ("1.ref.png", "1.json", "1.gen.png", f"{long}.ref.png", f"{long}.gen.png"):
            content = b'{"subject": "s"}' if name.endswith("json") else b"x"
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, BytesIO(content))
    wide = text.replace(",", "\t").encode("utf-16")
    contents = (text.encode(), lines.encode(), table.getvalue(), json.dumps(rows).encode(),
                archive.getvalue(), wide)  # fmt: skip
    return [bytes([number]) + content for number, content in enumerate(contents)]


def _records(content: bytes, folder: Path) -> bool:
    """Read the bytes as ``config.json``, as ``export.json`` and as the sidecar of a plan."""
    plan = folder / "model.plan"
    for name in ("config.json", RECORD, plan.with_suffix(".json").name):
        (folder / name).write_bytes(content)
    accepted = False
    for read, path in ((read_config, folder), (read_record, folder), (read_sidecar, plan)):
        with suppress(ModelError):
            read(path)
            accepted = True
    return accepted


def _record_seeds() -> list[bytes]:
    model = json.loads((TINY / "config.json").read_text())
    batch = {"least": 1, "best": 8, "most": 32}
    export = {
        "format": EXPORT_FORMAT, "precision": "float32", "batch": batch, "opset": 18,
        "versions": {"torch": "2.13.0"}, "files": {"model.onnx": "0" * 64}, "model": model,
    }  # fmt: skip
    machine = {
        "tensorrt": "11.4.0.106", "gpu": "NVIDIA H100", "capability": [9, 0], "driver": "600.1",
        "cuda": "13.0",
    }  # fmt: skip
    sidecar = {
        "format": PLAN_FORMAT, "sha256": "0" * 64, "size": 9, "machine": machine,
        "precision": "float32", "batch": batch, "weights": "0" * 64, "graph": {"model.onnx": "0"},
        "cuda_graph": True, "built": {}, "checked": {},
    }  # fmt: skip
    return [json.dumps(content).encode() for content in (model, export, sidecar)]


def _weights(content: bytes, folder: Path) -> bool:
    """Read a safetensors file whole and tensor by tensor."""
    path = folder / "a.safetensors"
    path.write_bytes(content)
    try:
        whole = read_weights(path)
        with opened(path) as file:
            assert set(file.shapes) == set(whole)
            for name, shape in file.shapes.items():
                assert file.tensor(name).shape == tuple(shape) == whole[name].shape
    except ModelError:
        return False
    return True


def _weight_seeds() -> list[bytes]:
    half = torch.arange(6, dtype=torch.float16).reshape(2, 3)
    tensors = {"a": torch.ones(16, 4), "b.c": half, "n": torch.tensor(3.0)}
    return [save(tensors), save({"x": torch.zeros(0, 4)}, {"format": "pt"})]


def _image(content: bytes, folder: Path) -> bool:
    """Read an image, and the same bytes as a mask."""
    path = folder / "image"
    path.write_bytes(content)
    accepted = False
    try:
        pixels = load_image(path).pixels
    except InputError:
        size = (72, 96)
    else:
        assert pixels.ndim == 3
        assert pixels.size
        size, accepted = pixels.shape[:2], True
    try:
        assert load_mask(path, size).shape == size
    except InputError:
        return accepted
    return True


@lru_cache
def _model_files() -> Mapping[str, bytes]:
    return {
        path.relative_to(TINY).as_posix(): path.read_bytes()
        for pattern in ("*.safetensors", "*/*.safetensors", "*/config.json")
        for path in TINY.glob(pattern)
    }


def _unet(content: bytes, folder: Path) -> bool:
    """Read ``unet/config.json`` of the embedded model, under a matching hash."""
    for name, whole in _model_files().items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content if name == "unet/config.json" else whole)
    config = ModelConfig.from_json((TINY / "config.json").read_text(), "tiny")
    digest = hashlib.sha256(content).hexdigest()
    config = dataclasses.replace(config, files={**config.files, "unet/config.json": digest})
    (folder / "config.json").write_text(config.to_json())
    try:
        build_network(read_config(folder), folder)
    except ModelError:
        return False
    return True


TARGETS = {
    "manifest": Target(_manifest, _manifest_seeds),
    "records": Target(_records, _record_seeds),
    "weights": Target(_weights, _weight_seeds),
    "image": Target(_image, lambda: list(image_seeds().values())),
    "unet": Target(_unet, lambda: [(TINY / "unet" / "config.json").read_bytes()]),
}
