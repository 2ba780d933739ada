"""Transformer features against diffusers' own forward pass, folded and not."""

import copy

import pytest
import tiny_models
import torch
from tiny_models import (
    aggregation_pair,
    config_of,
    context,
    images,
    pooled,
    small_vae,
    tiny_vae,
    transformer,
)

from vsm_fast import VSMScorer
from vsm_fast.errors import ModelError
from vsm_fast.model.folding import ConstantModulation
from vsm_fast.model.load import load_model
from vsm_fast.model.save import save_model
from vsm_fast.model.transformer import TransformerFeatures

one_thread = tiny_models.one_thread
LEVELS = ("block3", "block1")
CONSTANTS = {"encoder_hidden_states": context(), "pooled_projections": pooled()}
SCALE, SHIFT = 1.5305, 0.0609


def features(levels=LEVELS, *, model=None, vae=None, conditioning=CONSTANTS, timestep=100.5):
    return TransformerFeatures(
        model or transformer(), levels, timestep, vae=vae or small_vae(), latent_scale=SCALE,
        latent_shift=SHIFT, conditioning=conditioning,
    ).eval()  # fmt: skip


@torch.no_grad()
def plain_features(pictures, timestep=100.5):
    """Image tokens after each block of the whole transformer, read by hooks, as maps."""
    model, vae = transformer().eval(), small_vae().eval()
    found = {}
    for number, block in enumerate(model.transformer_blocks):
        block.register_forward_hook(
            lambda _module, _inputs, output, number=number: found.update({number + 1: output[1]})
        )
    latent = (vae.encode(pictures).latent_dist.mode() - SHIFT) * SCALE
    count = len(pictures)
    model(
        latent,
        CONSTANTS["encoder_hidden_states"].expand(count, -1, -1),
        CONSTANTS["pooled_projections"].expand(count, -1),
        torch.full((count,), timestep),
    )
    side = latent.shape[2] // 2
    return {k: v.transpose(1, 2).reshape(count, -1, side, side) for k, v in found.items()}


@pytest.mark.parametrize("count", [1, 3])
@torch.no_grad()
def test_levels_are_the_outputs_of_the_blocks_folded_or_not(count):
    pictures = images(count, 64)
    wanted = plain_features(pictures)
    made = features()
    for _ in range(2):
        found = made(pictures)
        for name, level in zip(LEVELS, found, strict=True):
            torch.testing.assert_close(level, wanted[int(name[5:])], atol=1e-4, rtol=1e-4)
        assert [level.shape[1] for level in found] == list(made.level_channels)
        made.fold(64)
    kinds = [type(module) for module in made.modules()]
    assert kinds.count(ConstantModulation) == 6  # two norms a block
    assert made.transformer.pos_embed.positions.shape == (1, 64, 16)
    assert made.transformer.time_text_embed is made.transformer.context_embedder is None


@torch.no_grad()
def test_the_last_block_and_the_time_step_count():
    pictures = images(1, 64)
    made = features(("block4",))
    for _ in range(2):
        torch.testing.assert_close(
            made(pictures)[0], plain_features(pictures)[4], atol=1e-4, rtol=1e-4
        )
        (last,) = made(pictures)
        made.fold(64)
    (other,) = features(("block4",), timestep=600)(pictures)
    assert not torch.allclose(last, other, atol=1e-3)


def test_what_comes_after_the_last_level_is_gone():
    made = features(("block2",))
    assert len(made.transformer.transformer_blocks) == 2
    assert made.transformer.proj_out is made.vae.decoder is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"levels": ("us3",)}, "block1, block2"),
        ({"levels": ("block5",)}, "block1 to block4"),
        ({"levels": ("block1", "block1")}, "each once"),
        ({"levels": ()}, "at least one"),
        ({"vae": tiny_vae(16)}, "4 latent channels; got a VAE with 16"),
        ({"conditioning": {}}, "pooled_projections"),
        ({"conditioning": {**CONSTANTS, "encoder_hidden_states": context(5, 11)}}, "12"),
        ({"conditioning": {**CONSTANTS, "pooled_projections": pooled(9)}}, r"\[1, 10\]"),
    ],
)
def test_what_does_not_fit_is_refused(changes, message):
    with pytest.raises(ModelError, match=message):
        features(**changes)


@pytest.fixture
def folder(tmp_path):
    config = config_of(
        LEVELS, 64, timestep=100, pixel_unshuffle=1, latent_scale=SCALE, latent_shift=SHIFT
    )
    save_model(
        tmp_path / "model", config, transformer(), *aggregation_pair((16, 16)),
        torch.float32, vae=small_vae(), conditioning=CONSTANTS,
    )  # fmt: skip
    return tmp_path / "model"


@torch.no_grad()
def test_a_model_folder_scores(folder):
    config, network = load_model(folder)
    wanted = features(timestep=100)(images(2, 64))
    for one, other in zip(network.backbone(images(2, 64)), wanted, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)
    assert config.backbone.latent_shift == SHIFT
    picture = (images(1, 80)[0] + 1) / 2
    assert VSMScorer.from_pretrained(folder, device="cpu").score([picture], [picture]).score == 1


def test_a_cut_transformer_is_not_saved(tmp_path):
    model = transformer()
    features(model=model)
    with pytest.raises(ModelError, match="lost its proj_out"):
        save_model(tmp_path / "m", config_of(), model, *aggregation_pair((16, 16)))


@torch.no_grad()
def test_a_tiny_vae_gives_its_own_scaled_latents():
    made = features(vae=tiny_vae())
    pictures = images(2, 64)
    wanted = tiny_vae().eval().encode(pictures).latents
    torch.testing.assert_close(made.latent(pictures), wanted)
    folded = copy.deepcopy(made)
    folded.fold(64)
    torch.testing.assert_close(folded(pictures), made(pictures), atol=1e-4, rtol=1e-4)
