"""Repaint around a subject with a diffusers pipeline and watch whether the subject stays itself.

python examples/diffusers_previews.py --pipeline MODEL --reference photo.jpg --mask mask.png \
    --prompt "on a beach" --out out

MODEL is an inpainting model of diffusers, as a folder or a Hub name. What is white in the mask, the
subject, stays where it is; everything else is painted anew. Writes the picture and the curve.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoPipelineForInpainting
from PIL import Image, ImageOps

from vsm_fast import VSMScorer
from vsm_fast.integrations.diffusers_callback import VSMCallback, score_pipeline_output
from vsm_fast.integrations.rewards import VSMReward


def main() -> None:
    """Run the example."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pipeline", required=True, help="folder or Hub name")
    parser.add_argument("--reference", type=Path, required=True)
    parser.add_argument("--mask", type=Path, required=True, help="white = the subject")
    parser.add_argument("--prompt", required=True)
    parser.add_argument("--out", type=Path, required=True, help="folder")
    parser.add_argument("--size", type=int, default=512, help="side in pixels")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--every", type=int, default=5, help="steps between previews")
    arguments = parser.parse_args()

    square = (arguments.size, arguments.size)
    photo = Image.open(arguments.reference).convert("RGB").resize(square)
    subject = Image.open(arguments.mask).convert("L").resize(square, Image.Resampling.NEAREST)
    scorer = VSMScorer.from_pretrained("tiny")
    reference = scorer.describe([photo], [subject])

    pipeline = AutoPipelineForInpainting.from_pretrained(arguments.pipeline).to(scorer.device)
    callback = VSMCallback(
        VSMReward(scorer, reference),
        every=arguments.every,
        masks=torch.from_numpy(np.asarray(subject) > 127)[None],
    )
    output = pipeline(
        arguments.prompt,
        image=photo,
        mask_image=ImageOps.invert(subject),
        height=arguments.size,
        width=arguments.size,
        num_inference_steps=arguments.steps,
        callback_on_step_end=callback,
    )
    scores = score_pipeline_output(output, reference, scorer=scorer, gen_masks=[subject])

    arguments.out.mkdir(parents=True, exist_ok=True)
    output.images[0].save(arguments.out / "generation.png")
    curve = [{"step": preview.step, "score": preview.score[0]} for preview in callback.curve]
    (arguments.out / "curve.json").write_text(json.dumps(curve, indent=2) + "\n")
    for preview in callback.curve:
        print(f"step {preview.step + 1:3d}: VSM {preview.score[0]:.3f}")
    print(f"generation: VSM {scores.score[0]:.3f} ({scores.status[0]}), {arguments.out}")


if __name__ == "__main__":
    main()
