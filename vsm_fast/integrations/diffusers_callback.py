"""Scores of the output of diffusers pipelines, and of previews during generation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from vsm_fast.descriptors import Descriptors
from vsm_fast.errors import InputError, Status
from vsm_fast.images.inputs import Images, Masks, image_list
from vsm_fast.integrations.rewards import VSMReward
from vsm_fast.results.scores import VSMScores
from vsm_fast.scorer import VSMScorer


def score_pipeline_output(
    output: Any,
    reference: Images | Descriptors,
    *,
    scorer: VSMScorer,
    ref_mask: Masks = None,
    gen_masks: Masks = None,
    heatmaps: bool = False,
) -> VSMScores:
    """Score the output of a diffusers pipeline against a reference of its subject.

    Args:
        output: Output of the pipeline, with or without ``return_dict``, of any ``output_type`` but
            ``"latent"``; or its images.
        reference: One for every image, or one per image; or descriptors of ``scorer.describe``.
        scorer: The model.
        ref_mask: Subject mask of the reference; None = its alpha channel, else the whole image.
        gen_masks: Subject masks of the generated images, one (or None) per image.
        heatmaps: Keep the evidence for ``scores.heatmap(i)``.

    Returns:
        One row per image.

    Raises:
        InputError: If ``output`` contains latents.
        PairingError: If references, images and masks cannot be paired.
    """
    images: Images = output[0] if isinstance(output, tuple) else getattr(output, "images", output)
    listed = image_list(images, "images")
    for image in listed:
        if isinstance(image, Tensor) and image.shape[:1] != (3,):
            raise InputError(
                Status.UNREADABLE,
                f"the output contains latents {list(image.shape)}, not images. Call the pipeline "
                "with output_type 'pil', 'np' or 'pt'.",
            )
    return scorer.score(
        reference, listed, ref_masks=ref_mask, gen_masks=gen_masks, heatmaps=heatmaps
    )


@dataclass(frozen=True)
class PreviewScore:
    """Scores of one preview of a batch.

    Attributes:
        step: Denoising step before the preview, counted from 0.
        timestep: The scheduler's time of that step.
        score: Score of each image in [0, 1]; the reward's ``undefined``, NaN by default, without
            a score.
    """

    step: int
    timestep: float
    score: tuple[float, ...]


class VSMCallback:
    """Callback for ``callback_on_step_end`` that scores previews during generation.

    Previews are the current latents, decoded. Noise in early previews lowers their score or leaves
    it undefined, so compare curves at equal steps.

    Args:
        reward: Scores the previews.
        every: Steps between previews; the last step is always scored.
        masks: Expected subject masks, bool or uint8 [B, H, W]; None = the whole images.
        reference: Position of each image's reference among those of ``reward``, [B]; None as there.
        decode: (pipeline, latents) -> images [B, 3, H, W] in [0, 1]; None = :func:`decode_latents`.
        stop: Called with the curve after each preview; True ends the generation early, and the
            pipeline decodes its current latents.

    Attributes:
        curve: Previews of the current or last generation, in order.

    Raises:
        ValueError: If ``every`` is below 1.

    Example:
        >>> callback = VSMCallback(reward, every=5)  # doctest: +SKIP
        >>> pipeline(prompt, image=photo, callback_on_step_end=callback)  # doctest: +SKIP
        >>> [(preview.step, preview.score) for preview in callback.curve]  # doctest: +SKIP
    """

    tensor_inputs: ClassVar[list[str]] = ["latents"]

    def __init__(
        self,
        reward: VSMReward,
        *,
        every: int = 5,
        masks: Tensor | None = None,
        reference: Sequence[int] | None = None,
        decode: Callable[[Any, Tensor], Tensor] | None = None,
        stop: Callable[[Sequence[PreviewScore]], bool] | None = None,
    ) -> None:
        if every < 1:
            raise ValueError(f"every must be at least 1 step; got {every}.")
        self._reward, self._every = reward, every
        self._masks, self._reference = masks, reference
        self._decode, self._stop = decode or decode_latents, stop
        self.curve: list[PreviewScore] = []

    def __call__(
        self, pipeline: Any, step: int, timestep: Tensor | float, tensors: dict[str, Any]
    ) -> dict[str, Any]:
        """Score a preview if one is due; called by diffusers.

        Raises:
            ValueError: If ``stop`` is set and the pipeline cannot be interrupted.
        """
        if step == 0:
            self.curve.clear()
        if self._stop is not None and not hasattr(pipeline, "_interrupt"):
            raise ValueError(
                f"{type(pipeline).__name__} cannot be interrupted, so stop= has no effect. Omit it."
            )
        last = step + 1 == getattr(pipeline, "num_timesteps", None)
        if not last and (step + 1) % self._every:
            return tensors
        with torch.no_grad():
            images = self._decode(pipeline, tensors["latents"])
            scores = self._reward(images, self._masks, reference=self._reference)
        self.curve.append(PreviewScore(step, float(timestep), tuple(scores.tolist())))
        if self._stop is not None and self._stop(self.curve):
            pipeline._interrupt = True
        return tensors


def decode_latents(pipeline: Any, latents: Tensor) -> Tensor:
    """Decode latents with a pipeline's own autoencoder, like the pipeline itself.

    Args:
        pipeline: With ``vae`` and ``image_processor``.
        latents: [B, C, h, w].

    Returns:
        float [B, 3, H, W] in [0, 1].

    Raises:
        ValueError: If latents have another form, like FLUX's packed latents.
    """
    if latents.ndim != 4:
        raise ValueError(
            f"{type(pipeline).__name__} has latents {list(latents.shape)}; only [B, C, h, w] is "
            "supported. Pass decode=lambda pipeline, latents: ..., returning images [B, 3, H, W] "
            "in [0, 1]; docs/how-to/integrations.md shows it for FLUX."
        )
    vae = pipeline.vae
    shift = getattr(vae.config, "shift_factor", None) or 0
    scaled = latents.to(vae.dtype) / vae.config.scaling_factor + shift
    decoded = vae.decode(scaled, return_dict=False)[0]
    images: Tensor = pipeline.image_processor.postprocess(decoded, output_type="pt")
    return images
