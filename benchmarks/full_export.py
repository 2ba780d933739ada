"""Time and memory of exporting the full SD 2.1 shape with random weights.

    python -m benchmarks.full_export --out /tmp/full --dtype fp16

Random weights give no accuracy. The check against torch runs on the CPU in the graph's precision
and takes most of the time.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

import torch

from benchmarks.memory import peak_of_process_mib
from benchmarks.sd_shape import FULL, LATENT_SCALE, LEVELS, TIMESTEP, TINY, parts
from vsm_fast.model.config import BackboneConfig, ModelConfig
from vsm_fast.model.save import save_model


def write_model(folder: Path, quick: bool) -> None:
    """Write a model folder of this shape."""
    torch.manual_seed(0)
    made = parts(TINY if quick else FULL)
    backbone = BackboneConfig(LEVELS, 64 if quick else 768, TIMESTEP, latent_scale=LATENT_SCALE)
    config = ModelConfig("SD 2.1 shape, random weights", backbone, made.semantic.config)
    save_model(
        folder, config, made.unet, made.semantic, made.visual,
        vae=made.vae, conditioning=made.conditioning,
    )  # fmt: skip


def main() -> int:
    """Write the model and export it in a subprocess, whose memory is measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", required=True, type=Path, help="folder for model and export")
    parser.add_argument("--dtype", default="fp16", choices=("fp32", "fp16", "bf16"))
    parser.add_argument("--quick", action="store_true", help="small shape, to test the benchmark")
    parser.add_argument("--export-only", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    model, exported = options.out / "model", options.out / "exported"
    if options.export_only:
        from vsm_fast.export.build_onnx import main as build

        code = build(["--model", str(model), "--out", str(exported), "--dtype", options.dtype,
                      "--static-batch", "1"])  # fmt: skip
        print(f"peak memory of the export: {peak_of_process_mib() / 1024:.1f} GiB", flush=True)
        return code
    options.out.mkdir(parents=True, exist_ok=True)
    write_model(model, options.quick)
    begin = time.monotonic()
    code = subprocess.run([sys.executable, "-m", "benchmarks.full_export", "--export-only",
                           *sys.argv[1:]], check=False).returncode  # fmt: skip
    print(f"minutes: {(time.monotonic() - begin) / 60:.1f}; exit code {code}")
    return code


if __name__ == "__main__":
    sys.exit(main())
