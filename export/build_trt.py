"""Build a TensorRT plan of a model for this machine's GPU and check it against torch.

python export/build_trt.py --model tiny --dtype fp16 --out exported
vsm-fast score --model exported --refs refs --gens gens
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

from vsm_fast.errors import ModelError
from vsm_fast.export.build_onnx import (
    FAILED,
    INTERRUPTED,
    MODEL,
    PRECISIONS,
    USAGE,
    add_model_options,
    run_command,
)
from vsm_fast.runtimes.exported import DEFAULT_BATCH, ExportRecord, is_exported, read_record

_EPILOG = f"""\
exit codes:
  0    the plan was built and agrees with its reference (--dry-run: it could be built)
  {FAILED}    a file could not be written, or the GPU has too little memory
  {USAGE}    wrong usage, or no TensorRT or no NVIDIA GPU here: score with --runtime onnxruntime
  {MODEL}    the model is missing or altered, cannot be built, or its plan is inaccurate
  {INTERRUPTED}  interrupted; no plan was written
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="build_trt.py",
        description="Build a TensorRT plan of a model for this machine's GPU.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--model", help="name (vsm-fast models) or folder; exported first")
    source.add_argument(
        "--onnx", type=Path, metavar="DIR|FILE", help="exported folder, or model.onnx in one"
    )
    parser.add_argument("--out", type=Path, help="with --model: folder for the export and its plan")
    add_model_options(parser)
    parser.add_argument(
        "--reference", metavar="MODEL", help="with --onnx: model whose torch network is compared"
    )
    parser.add_argument(
        "--workspace", type=_gib, metavar="GIB", help="memory limit per layer (default: none)"
    )
    parser.add_argument(
        "--timing-cache", type=Path, metavar="FILE", help="default: under VSM_FAST_HOME"
    )
    parser.add_argument(
        "--optimization-level", type=int, default=3, choices=range(6), help="default: %(default)s"
    )
    parser.add_argument(
        "--cuda-graph", action="store_true", help="with --static-batch: launch a batch as one graph"
    )
    parser.add_argument("--device", default="cuda", help="default: %(default)s")
    parser.add_argument(
        "--dry-run", action="store_true", help="export and parse only; needs no GPU"
    )
    options = parser.parse_args(arguments)
    if options.model is not None and options.out is None and not options.dry_run:
        parser.error("--model needs --out, the folder for the exported model and its plan")
    if options.onnx is not None and (options.out or options.batch or options.dtype != "fp32"):
        parser.error("--onnx fixes --out, --dtype and the batch sizes; leave them out")
    code: int = run_command("build_trt.py", lambda: _run(options), "no plan")
    return code


def _run(options: argparse.Namespace) -> None:
    import torch  # slow to import, and not needed to refuse wrong options

    from vsm_fast.export.trt_dry_run import describe
    from vsm_fast.export.trt_engine import BuildOptions
    from vsm_fast.export.trt_plans import References, make_plan, torch_references
    from vsm_fast.runtimes.onnx_runtime import OnnxRuntime
    from vsm_fast.runtimes.tensorrt_library import library

    try:
        device = torch.device(options.device)
    except RuntimeError as error:
        raise ValueError(f"--device {options.device}: {str(error).splitlines()[0]}") from error
    if not options.dry_run:
        library(device)  # fail before minutes of exporting
    temporary = options.model is not None and options.out is None
    with tempfile.TemporaryDirectory() if temporary else nullcontext() as scratch:
        folder, record = _exported(options, Path(scratch) / "exported" if scratch else options.out)
        if options.dry_run:
            for line in describe(folder, record, device):
                print(line)
            return
        model = options.model or options.reference
        if model is not None:
            references = torch_references(
                model, record, device, local_files_only=options.local_files_only
            )
        elif record.precision == "bfloat16":
            raise ModelError(
                f"{folder} is in bfloat16, which ONNX Runtime cannot check on a CPU. Name the "
                "exported model: --reference MODEL"
            )
        else:
            references = References(OnnxRuntime(folder, record, torch.device("cpu")))
        build = BuildOptions(
            options.workspace, options.optimization_level, options.timing_cache, options.cuda_graph
        )
        made = make_plan(
            folder, record, device, build, references,
            time_it=True, progress=sys.stderr.isatty(), tell=print,
        )  # fmt: skip
        print(f"wrote {made.path} and {made.path.with_suffix('.json').name}")
        print(f"Score with it: vsm-fast score --model {folder} --refs ... --gens ...")


def _exported(options: argparse.Namespace, out: Path) -> tuple[Path, ExportRecord]:
    """Return the exported folder to build from; export the model if needed."""
    if options.onnx is not None:
        folder = options.onnx if options.onnx.is_dir() else options.onnx.parent
        return folder, read_record(folder)
    from vsm_fast.export.onnx_graph import ExportOptions, export_onnx
    from vsm_fast.model.load import read_config
    from vsm_fast.model.location import find_model

    export = ExportOptions(PRECISIONS[options.dtype], options.batch or DEFAULT_BATCH)
    if is_exported(out):
        record = read_record(out)
        config = read_config(find_model(options.model, local_files_only=options.local_files_only))
        same = record.precision == export.precision and record.batch == export.batch
        if same and record.model == config:
            print(f"{out} is up to date; not exported again")
            return out, record
    return out, export_onnx(
        options.model, out, export, local_files_only=options.local_files_only, tell=print
    )


def _gib(text: str) -> float:
    size = float(text)
    if not 0 < size < 1 << 20:
        raise argparse.ArgumentTypeError(f"must be a positive size in GiB; got {text}")
    return size


if __name__ == "__main__":
    sys.exit(main())
