"""VSM beside diffusers: what a pipeline returned, and previews while it is still generating."""

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
    """Score what a diffusers pipeline returned against the picture of its subject.

    Args:
        output: What the call of the pipeline returned, with or without ``return_dict``, of any
            ``output_type`` but ``"latent"``; or its images.
        reference: One for every image, or as many as images; or what ``scorer.describe`` returned.
        scorer: The model.
        ref_mask: Subject of the reference; None = its alpha channel, else the whole image.
        gen_masks: Subjects of the generated images, one (or None) per image.
        heatmaps: Keep what ``scores.heatmap(i)`` needs.

    Returns:
        One row per image.

    Raises:
        InputError: ``output`` holds latents.
        PairingError: References, images and masks that do not pair up.
    """
    images: Images = output[0] if isinstance(output, tuple) else getattr(output, "images", output)
    listed = image_list(images, "images")
    for image in listed:
        if isinstance(image, Tensor) and image.shape[:1] != (3,):
            raise InputError(
                Status.UNREADABLE,
                f"the output holds latents {list(image.shape)}, not images; call the pipeline "
                "with output_type 'pil', 'np' or 'pt'.",
            )
    return scorer.score(
        reference, listed, ref_masks=ref_mask, gen_masks=gen_masks, heatmaps=heatmaps
    )


@dataclass(frozen=True)
class PreviewScore:
    """Scores of one preview of a batch.

    Attributes:
        step: Denoising step that it was taken after, counted from 0.
        timestep: The scheduler's time of that step.
        score: Of each image, in [0, 1]; what the reward gives where undefined, NaN by default.
    """

    step: int
    timestep: float
    score: tuple[float, ...]


class VSMCallback:
    """Scores previews of images while a diffusers pipeline generates them.

    Pass it as ``callback_on_step_end``. Previews are the latents as they are, decoded: early ones
    hold noise, which lowers their score or leaves it undefined, so compare curves at equal steps.

    Args:
        reward: Scores the previews.
        every: Steps between previews; the last step is always scored.
        masks: bool or uint8 [B, H, W], where the subject will be; None = the whole images.
        reference: Position of each image's reference among those of ``reward``, [B]; None as there.
        decode: (pipeline, latents) -> images [B, 3, H, W] in [0, 1]; None = :func:`decode_latents`.
        stop: Looks at the curve after each preview; True ends the generation there, and the
            pipeline decodes what it has.

    Attributes:
        curve: The previews of the current or last generation, in order.

    Raises:
        ValueError: ``every`` is below 1.

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
        """Score a preview if it is time; diffusers calls this.

        Raises:
            ValueError: ``stop`` was given and this pipeline cannot be interrupted.
        """
        if step == 0:
            self.curve.clear()
        if self._stop is not None and not hasattr(pipeline, "_interrupt"):
            raise ValueError(
                f"{type(pipeline).__name__} cannot be interrupted, so stop= has no effect on it; "
                "leave it out."
            )
        last = step + 1 == getattr(pipeline, "num_timesteps", None)
        if not last and (step + 1) % self._every:
            return tensors
        with torch.no_grad():
            images = self._decode(pipeline, tensors["latents"])
            found = self._reward(images, self._masks, reference=self._reference)
        self.curve.append(PreviewScore(step, float(timestep), tuple(found.tolist())))
        if self._stop is not None and self._stop(self.curve):
            pipeline._interrupt = True
        return tensors


def decode_latents(pipeline: Any, latents: Tensor) -> Tensor:
    """Decode latents with a pipeline's own autoencoder, as the pipeline does at its end.

    Args:
        pipeline: With ``vae`` and ``image_processor``.
        latents: [B, C, h, w].

    Returns:
        float [B, 3, H, W] in [0, 1].

    Raises:
        ValueError: Latents of another form, like those that FLUX packs.
    """
    if latents.ndim != 4:
        raise ValueError(
            f"{type(pipeline).__name__} has latents {list(latents.shape)}; only [B, C, h, w] are "
            "decoded here. Pass decode=lambda pipeline, latents: ..., which returns images "
            "[B, 3, H, W] in [0, 1]; docs/how-to/integrations.md has FLUX's."
        )
    vae = pipeline.vae
    shift = getattr(vae.config, "shift_factor", None) or 0
    scaled = latents.to(vae.dtype) / vae.config.scaling_factor + shift
    decoded = vae.decode(scaled, return_dict=False)[0]
    images: Tensor = pipeline.image_processor.postprocess(decoded, output_type="pt")
    return images
