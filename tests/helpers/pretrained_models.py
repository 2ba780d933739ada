"""Small random models of transformers and diffusers, in the real file formats, made by the tests.

Each function writes one model to a folder and returns the folder.
"""

from __future__ import annotations

import string

import torch

WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", "bear", "plushie", "robot", "toy")
_LETTERS = (*string.ascii_lowercase, *(f"{letter}</w>" for letter in string.ascii_lowercase))
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_WIDE = 0.3  # with the usual 0.02 a class token would hardly depend on the image
_TOKENS = 96  # the longest prompt, letter by letter


def save_grounding_dino(folder):
    """A GroundingDinoForObjectDetection on a small Swin and a small BERT.

    Two channels a group: the last level of a square photograph is one cell, and with one channel
    there would be nothing to normalise over. The published models have eight.
    """
    from transformers import (
        BertConfig,
        BertTokenizer,
        GroundingDinoConfig,
        GroundingDinoForObjectDetection,
        GroundingDinoImageProcessorPil,
        GroundingDinoProcessor,
        SwinConfig,
    )

    torch.manual_seed(0)
    config = GroundingDinoConfig(
        backbone_config=SwinConfig(
            image_size=64, embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 2, 2],
            window_size=4, out_indices=[2, 3, 4],
        ),
        text_config=BertConfig(
            vocab_size=len(WORDS), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
            intermediate_size=16, max_position_embeddings=32,
        ),
        d_model=64, num_queries=10, max_text_len=32, encoder_layers=1, decoder_layers=2,
        encoder_ffn_dim=16, decoder_ffn_dim=16, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_n_points=2, decoder_n_points=2,
    )  # fmt: skip
    GroundingDinoForObjectDetection(config).save_pretrained(folder)
    tokenizer = BertTokenizer(vocab={word: i for i, word in enumerate(WORDS)})
    images = GroundingDinoImageProcessorPil(size={"shortest_edge": 64, "longest_edge": 96})
    GroundingDinoProcessor(images, tokenizer).save_pretrained(folder)
    return folder


def save_sam(folder):
    """A SamModel on 64 x 64 pixels."""
    from transformers import (
        SamConfig,
        SamImageProcessorPil,
        SamMaskDecoderConfig,
        SamModel,
        SamProcessor,
        SamPromptEncoderConfig,
        SamVisionConfig,
    )

    torch.manual_seed(0)
    config = SamConfig(
        vision_config=SamVisionConfig(
            image_size=64, patch_size=8, hidden_size=16, output_channels=8, num_hidden_layers=2,
            num_attention_heads=2, window_size=4, global_attn_indexes=[1], mlp_dim=16,
            num_pos_feats=4,
        ),
        prompt_encoder_config=SamPromptEncoderConfig(
            image_size=64, patch_size=8, hidden_size=8, mask_input_channels=4
        ),
        mask_decoder_config=SamMaskDecoderConfig(
            hidden_size=8, mlp_dim=16, num_hidden_layers=2, num_attention_heads=2,
            attention_downsample_rate=2, iou_head_hidden_dim=8,
        ),
    )  # fmt: skip
    SamModel(config).save_pretrained(folder)
    side = {"height": 64, "width": 64}
    SamProcessor(
        SamImageProcessorPil(
            size={"longest_edge": 64}, pad_size=side, mask_size={"longest_edge": 32},
            mask_pad_size={"height": 32, "width": 32},
        )
    ).save_pretrained(folder)  # fmt: skip
    return folder


def save_sd2_inpainting(folder):
    """A StableDiffusionInpaintPipeline on 64 x 64 pixels."""
    from diffusers import DDIMScheduler, StableDiffusionInpaintPipeline

    torch.manual_seed(0)
    StableDiffusionInpaintPipeline(
        _vae(),
        _clip_text("CLIPTextModel"),
        _clip_tokenizer(),
        _inpainting_unet(cross_attention_dim=16),
        DDIMScheduler(beta_schedule="scaled_linear", clip_sample=False, steps_offset=1),
        None,
        None,
        requires_safety_checker=False,
    ).save_pretrained(folder)
    return folder


def save_sdxl_inpainting(folder):
    """A StableDiffusionXLInpaintPipeline on 64 x 64 pixels."""
    from diffusers import EulerDiscreteScheduler, StableDiffusionXLInpaintPipeline

    torch.manual_seed(0)
    unet = _inpainting_unet(
        cross_attention_dim=32, addition_embed_type="text_time", addition_time_embed_dim=4,
        projection_class_embeddings_input_dim=16 + 6 * 4,
    )  # fmt: skip
    StableDiffusionXLInpaintPipeline(
        _vae(),
        _clip_text("CLIPTextModel"),
        _clip_text("CLIPTextModelWithProjection"),
        _clip_tokenizer(),
        _clip_tokenizer(),
        unet,
        EulerDiscreteScheduler(),
        add_watermarker=False,
    ).save_pretrained(folder)
    return folder


def save_flux_fill(folder):
    """A FluxFillPipeline."""
    from diffusers import (
        FlowMatchEulerDiscreteScheduler,
        FluxFillPipeline,
        FluxTransformer2DModel,
    )
    from transformers import T5Config, T5EncoderModel, T5Tokenizer

    torch.manual_seed(0)
    pieces = ["<pad>", "</s>", "<unk>", "▁", *string.ascii_lowercase]
    tokenizer = T5Tokenizer(
        vocab=[(piece, -float(i > 2)) for i, piece in enumerate(pieces)],
        extra_ids=0,
        model_max_length=_TOKENS,
    )
    text = T5Config(vocab_size=32, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
    transformer = FluxTransformer2DModel(
        in_channels=2 * 16 + 256, out_channels=16, num_layers=1, num_single_layers=1,
        attention_head_dim=16, num_attention_heads=2, joint_attention_dim=16,
        pooled_projection_dim=16, guidance_embeds=True, axes_dims_rope=(4, 4, 8),
    )  # fmt: skip
    FluxFillPipeline(
        FlowMatchEulerDiscreteScheduler(),
        _vae(shift_factor=0.0, scaling_factor=1.0),
        _clip_text("CLIPTextModel"),
        _clip_tokenizer(),
        T5EncoderModel(text),
        tokenizer,
        transformer,
    ).save_pretrained(folder)
    return folder


def save_clip(folder, side=32):
    """A whole CLIPModel: of its weights CLIP-I reads the image half."""
    from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel

    torch.manual_seed(0)
    layers = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1,
              "num_attention_heads": 2, "projection_dim": 8}  # fmt: skip
    config = CLIPConfig(
        text_config={**layers, "vocab_size": 8, "max_position_embeddings": 8},
        vision_config={**layers, "image_size": side, "patch_size": 8},
        projection_dim=8,
    )
    CLIPModel(config).save_pretrained(folder)
    CLIPImageProcessorPil(
        size={"shortest_edge": side}, crop_size={"height": side, "width": side}
    ).save_pretrained(folder)
    return folder


def save_dino(folder, side=32):
    """A ViTModel as DINO's, without a pooling layer."""
    from transformers import ViTConfig, ViTImageProcessorPil, ViTModel

    torch.manual_seed(0)
    config = ViTConfig(
        image_size=side, patch_size=8, hidden_size=16, intermediate_size=16, num_hidden_layers=1,
        num_attention_heads=2, initializer_range=_WIDE,
    )  # fmt: skip
    ViTModel(config, add_pooling_layer=False).save_pretrained(folder)
    ViTImageProcessorPil(size={"height": side, "width": side}).save_pretrained(folder)
    return folder


def save_dinov2(folder, side=28):
    """A Dinov2Model; its processor enlarges and crops, as the published one does."""
    from transformers import BitImageProcessorPil, Dinov2Config, Dinov2Model

    torch.manual_seed(0)
    config = Dinov2Config(
        image_size=56, patch_size=7, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        initializer_range=_WIDE, layerscale_value=1.0,
    )  # fmt: skip
    Dinov2Model(config).save_pretrained(folder)
    BitImageProcessorPil(
        size={"shortest_edge": side + 4}, crop_size={"height": side, "width": side},
        image_mean=IMAGENET_MEAN, image_std=IMAGENET_STD,
    ).save_pretrained(folder)  # fmt: skip
    return folder


def _clip_tokenizer():
    from transformers import CLIPTokenizer

    pieces = (*_LETTERS, "<|startoftext|>", "<|endoftext|>")
    vocab = {piece: i for i, piece in enumerate(pieces)}
    return CLIPTokenizer(vocab=vocab, merges=[], model_max_length=_TOKENS)


def _clip_text(class_name):
    import transformers

    end = len(_LETTERS) + 1
    config = transformers.CLIPTextConfig(
        vocab_size=end + 1, hidden_size=16, intermediate_size=16, num_hidden_layers=2,
        num_attention_heads=2, projection_dim=16, max_position_embeddings=_TOKENS,
        bos_token_id=end - 1, eos_token_id=end, pad_token_id=end,
    )  # fmt: skip
    return getattr(transformers, class_name)(config)


def _vae(**settings):
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(4,) * 4,
        latent_channels=4,
        norm_num_groups=2,
        **settings,
    )


def _inpainting_unet(**settings):
    """Nine input channels: latents, the mask, the latents of the masked picture."""
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=8,
        in_channels=9,
        out_channels=4,
        block_out_channels=(8, 8),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=4,
        norm_num_groups=2,
        use_linear_projection=True,
        **settings,
    )
