"""Every kind of backbone exported for batches of several sizes."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
import tiny_models
import torch
from tiny_models import (
    aggregation_pair,
    condition_unet,
    config_of,
    context,
    pooled,
    small_vae,
    tiny_vae,
    transformer,
)

from vsm_fast import ModelError
from vsm_fast.export import onnx_graph
from vsm_fast.export.onnx_check import check_graph, on_cpu, smooth_pictures
from vsm_fast.export.onnx_graph import ExportOptions, export_onnx
from vsm_fast.export.trt_dry_run import graph_facts
from vsm_fast.model.load import load_model
from vsm_fast.model.save import save_model
from vsm_fast.runtimes.exported import IMAGES, ONNX, BatchRange

one_thread = tiny_models.one_thread
OPTIONS = ExportOptions(batch=BatchRange(1, 4, 8))
SD3 = {"encoder_hidden_states": context(), "pooled_projections": pooled()}


def sdxl_unet():
    """What SDXL adds: text and sizes beside the time step; blocks without attention."""
    return condition_unet(
        addition_embed_type="text_time", addition_time_embed_dim=4,
        projection_class_embeddings_input_dim=34, block_out_channels=(8, 16),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), attention_head_dim=(2, 4),
        transformer_layers_per_block=(1, 2),
    )  # fmt: skip


def sd3_folder(folder, vae, levels=("block1", "block4")):
    config = config_of(levels, 64, pixel_unshuffle=1, latent_scale=1.5, latent_shift=0.06)
    save_model(
        folder, config, transformer(), *aggregation_pair((16, 16)), vae=vae, conditioning=SD3
    )


def sdxl_folder(folder):
    config = config_of(("us1", "us4"), 64, pixel_unshuffle=1, latent_scale=0.13)
    added = {"text_embeds": pooled(), "time_ids": torch.arange(6.0)[None]}
    save_model(
        folder, config, sdxl_unet(), *aggregation_pair((16, 8)), vae=tiny_vae(),
        conditioning={"encoder_hidden_states": context(), **added},
    )  # fmt: skip


MODELS = {
    "sd3": lambda folder: sd3_folder(folder, small_vae()),
    "sd3, tiny VAE": lambda folder: sd3_folder(folder, tiny_vae(), ("block2", "block1")),
    "sdxl, tiny VAE": sdxl_folder,
}


@pytest.mark.parametrize(
    "kind", ["sd3", "sdxl, tiny VAE", pytest.param("sd3, tiny VAE", marks=pytest.mark.slow)]
)
def test_a_graph_takes_every_batch_and_has_nothing_constant_to_compute(kind, tmp_path):
    MODELS[kind](tmp_path / "model")
    export_onnx(str(tmp_path / "model"), tmp_path / "out", OPTIONS)
    _, network = load_model(tmp_path / "model")
    run = on_cpu(tmp_path / "out" / ONNX)
    for count in (1, 2, 3, 8):
        images = smooth_pictures(count, 64)
        with torch.inference_mode():
            wanted = network(images)
        for found, branch in zip(run({IMAGES: images}), wanted, strict=True):
            torch.testing.assert_close(found, branch, atol=1e-4, rtol=0)

    graph = onnx.load(tmp_path / "out" / ONNX).graph
    assert graph.input[0].type.tensor_type.shape.dim[0].dim_param
    given = {value.name for value in graph.initializer}
    assert not [node.op_type for node in graph.node if node.input and set(node.input) <= given]
    parameters = [*network.parameters(), *network.buffers()]
    stored = sum(np.prod(v.dims) for v in graph.initializer if v.data_type == 1)
    assert stored < 1.05 * sum(tensor.numel() for tensor in parameters) + 2000
    facts = graph_facts(tmp_path / "out" / ONNX)
    assert facts.operations is not None
    assert facts.activation_bytes is not None


def test_a_batch_that_became_a_constant_is_said(small_model, tmp_path, monkeypatch):
    """Which torch's exporter does by itself, and without a word."""
    monkeypatch.setattr(onnx_graph, "load_model", constant_batch)
    with pytest.raises(ModelError, match="takes 2 images instead of 1 to 8"):
        export_onnx(small_model, tmp_path / "out", OPTIONS)
    assert list(tmp_path.iterdir()) == []
    export_onnx(small_model, tmp_path / "out", ExportOptions(batch=BatchRange(4, 4, 4)))
    path = tmp_path / "out" / ONNX
    with pytest.raises(ModelError, match="takes 4 images instead of 1 to 8"):
        check_graph(path, load_model(small_model)[1], OPTIONS)
    with pytest.raises(ModelError, match=rf"{onnxruntime.__version__} cannot run images \[3, 3,"):
        on_cpu(path)({IMAGES: torch.zeros(3, 3, 32, 32)})
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(ModelError, match=r"cannot load the exported model\.onnx: "):
        on_cpu(path)


def constant_batch(*arguments, **settings):
    config, network = load_model(*arguments, **settings)
    whole = network.forward
    network.forward = lambda images: whole(images[: len(images)])
    return config, network
