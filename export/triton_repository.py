"""Model repositories of the Triton Inference Server (not the Triton of ``kernels/``)."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

from vsm_fast.errors import ModelError
from vsm_fast.files import new_folder
from vsm_fast.runtimes.exported import IMAGES, ONNX, SEMANTIC, VISUAL, ExportRecord
from vsm_fast.runtimes.plans import SUFFIX

CONFIG = "config.pbtxt"
_QUEUE_DELAY = 2000  # microseconds that a request may wait for others to share its batch


def write_repository(repository: Path, folder: Path, record: ExportRecord, file: Path) -> Path:
    """Write ``NAME/config.pbtxt`` and ``NAME/1/model.plan`` (or ``model.onnx``) for a server.

    The server's TensorRT must be the version that built the plan, on the same kind of GPU.

    Args:
        repository: Folder of models; made if it is missing.
        folder: Of the exported model.
        record: Content of its ``export.json``.
        file: What is served: a plan of the folder, or its ``model.onnx``.

    Returns:
        The folder of the model in the repository, replaced if it was there.

    Raises:
        ModelError: The graph takes batches of several sizes and not one image, or the model's
            folder is something else.
    """
    text = config_text(record, plan=file.suffix == SUFFIX)  # refuses before anything is written
    name = repository_name(record)
    with new_folder(repository / name, CONFIG) as made:
        version = made / "1"
        version.mkdir()
        if file.suffix == SUFFIX:
            _place(file, version / f"model{SUFFIX}")
        else:
            for part in record.files:
                if part.startswith(ONNX):  # its weights may be in a file of their own
                    _place(folder / part, version / part)
        (made / CONFIG).write_text(text, encoding="utf-8")
    return repository / name


def repository_name(record: ExportRecord) -> str:
    """A model's name as the server takes it: letters, digits, ``_``, ``-`` and ``.``."""
    return re.sub(r"[^\w.-]+", "_", record.model.name, flags=re.ASCII).strip("._-") or "model"


def config_text(record: ExportRecord, *, plan: bool) -> str:
    """``config.pbtxt``: a ``ModelConfig`` of the server in protobuf's text form.

    Args:
        record: Of the exported model.
        plan: Whether a TensorRT plan is served, else an ONNX graph.

    Raises:
        ModelError: The graph takes batches of several sizes and not one image.
    """
    batch, side = record.batch, record.model.backbone.resolution
    if not batch.static and batch.least > 1:
        raise ModelError(
            f"a server batches requests of one image, and this graph takes {batch.least} to "
            f"{batch.most}. Export it with --dynamic 1:{batch.best}:{batch.most} or --static-batch."
        )
    # With a fixed batch the server sees it as the first dimension and batches nothing itself.
    first = [batch.most] if batch.static else []
    aggregation = record.model.aggregation
    image = [*first, 3, side, side]
    descriptor = [*first, aggregation.descriptor_channels, *aggregation.grid]
    lines = [
        f'name: "{repository_name(record)}"',
        f'platform: "{"tensorrt_plan" if plan else "onnxruntime_onnx"}"',
        f"max_batch_size: {0 if batch.static else batch.most}",
        "input [",
        f"  {_tensor(IMAGES, image)}",
        "]",
        "output [",
        f"  {_tensor(SEMANTIC, descriptor)},",
        f"  {_tensor(VISUAL, descriptor)}",
        "]",
        "instance_group [",
        f"  {{ count: 1 kind: {'KIND_GPU' if plan else 'KIND_AUTO'} }}",
        "]",
    ]
    if not batch.static:
        lines += [
            "dynamic_batching {",
            f"  preferred_batch_size: [ {batch.best} ]",
            f"  max_queue_delay_microseconds: {_QUEUE_DELAY}",
            "}",
        ]
    return "\n".join(lines) + "\n"


def _tensor(name: str, dims: list[int]) -> str:
    sizes = ", ".join(map(str, dims))
    return f'{{ name: "{name}" data_type: TYPE_FP32 dims: [ {sizes} ] }}'


def _place(source: Path, target: Path) -> None:
    """A second name of the file where the file system allows it, else a copy."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
