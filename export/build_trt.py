"""Build a TensorRT plan of a model for the GPU of this machine, checked against torch.

python export/build_trt.py --model tiny --dtype fp16 --out exported
vsm-fast score --model exported --refs refs --gens gens
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from vsm_fast.cli.interrupts import interruptible
from vsm_fast.errors import VSMError, out_of_memory
from vsm_fast.export.build_onnx import FAILED, MODEL, PRECISIONS, USAGE, add_model_options
from vsm_fast.runtimes.exported import DEFAULT_BATCH, ExportRecord, is_exported, read_record

if TYPE_CHECKING:
    import torch

    from vsm_fast.export.trt_plans import References

INTERRUPTED = 130
_EPILOG = f"""\
exit codes:
  0    the plan was built and agrees with its reference (--dry-run: it could be)
  {FAILED}    a file could not be written, or the GPU has too little memory
  {USAGE}    wrong usage, or no TensorRT or no NVIDIA GPU here: score with --runtime onnxruntime
  {MODEL}    the model is missing or altered, cannot be built, or its plan computes something else
  {INTERRUPTED}  interrupted; no plan was written
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.model is not None and options.out is None and not options.dry_run:
        parser.error("--model needs --out, the folder of the exported model and its plan")
    if options.onnx is not None and (options.out or options.batch or options.dtype != "fp32"):
        parser.error("--out, --dtype and batch sizes are those of the export that --onnx names")
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # as in build_onnx.py
    try:
        with interruptible():
            _run(options)
    except KeyboardInterrupt:
        print("build_trt.py: interrupted; no plan was written", file=sys.stderr)
        return INTERRUPTED
    except (ImportError, ValueError) as error:
        # Some of the library's own errors are values too.
        return _refuse(error, MODEL if isinstance(error, VSMError) else USAGE)
    except VSMError as error:
        return _refuse(error, MODEL)
    except OSError as error:
        return _refuse(error, FAILED)
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        return _refuse(error, FAILED)
    return 0


def _parser() -> argparse.ArgumentParser:
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
    parser.add_argument("--out", type=Path, help="with --model: the exported folder, plan included")
    add_model_options(parser)
    parser.add_argument(
        "--reference", metavar="MODEL", help="with --onnx: model whose torch network is compared"
    )
    parser.add_argument(
        "--workspace", type=_gib, metavar="GIB", help="most that one layer may use (default: all)"
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
    parser.add_argument(
        "--triton-repository",
        type=Path,
        metavar="DIR",
        help="also write the plan for the Triton Inference Server",
    )
    parser.add_argument("--device", default="cuda", help="default: %(default)s")
    parser.add_argument(
        "--dry-run", action="store_true", help="export and parse only; needs no GPU"
    )
    return parser


def _run(options: argparse.Namespace) -> None:
    import torch  # slow, and not needed to refuse wrong options

    from vsm_fast.export.trt_dry_run import describe
    from vsm_fast.runtimes.tensorrt_library import library

    try:
        device = torch.device(options.device)
    except RuntimeError as error:
        raise ValueError(f"--device {options.device}: {str(error).splitlines()[0]}") from error
    if not options.dry_run:
        library(device)  # refused before minutes of exporting
    temporary = options.model is not None and options.out is None
    with tempfile.TemporaryDirectory() if temporary else nullcontext() as scratch:
        folder, record = _exported(options, Path(scratch) / "exported" if scratch else options.out)
        if options.dry_run:
            for line in describe(folder, record, device):
                print(line)
            return
        _build(options, folder, record, device)


def _exported(options: argparse.Namespace, out: Path) -> tuple[Path, ExportRecord]:
    """The exported folder to build from, made if it is not there as it is asked for."""
    if options.onnx is not None:
        folder = options.onnx if options.onnx.is_dir() else options.onnx.parent
        return folder, read_record(folder)
    from vsm_fast.export.onnx_graph import ExportOptions, export_onnx
    from vsm_fast.model.load import read_config
    from vsm_fast.model.location import find_model

    wanted = ExportOptions(PRECISIONS[options.dtype], options.batch or DEFAULT_BATCH)
    if is_exported(out):
        record = read_record(out)
        config = read_config(find_model(options.model, local_files_only=options.local_files_only))
        if (record.model, record.precision, record.batch) == (
            config, wanted.precision, wanted.batch,
        ):  # fmt: skip
            print(f"{out} is that export already")
            return out, record
    return out, export_onnx(
        options.model, out, wanted, local_files_only=options.local_files_only, tell=print
    )


def _build(
    options: argparse.Namespace, folder: Path, record: ExportRecord, device: torch.device
) -> None:
    from vsm_fast.export.triton_repository import config_text, write_repository
    from vsm_fast.export.trt_engine import BuildOptions
    from vsm_fast.export.trt_plans import make_plan

    if options.triton_repository:
        config_text(record, plan=True)  # refused before the build
    made = make_plan(
        folder,
        record,
        device,
        BuildOptions(
            options.workspace, options.optimization_level, options.timing_cache, options.cuda_graph
        ),
        _references(options, folder, record, device),
        time_it=True,
        progress=sys.stderr.isatty(),
        tell=print,
    )
    print(f"wrote {made.path} and {made.path.with_suffix('.json').name}")
    print(f"Score with it: vsm-fast score --model {folder} --refs ... --gens ...")
    if options.triton_repository:
        served = write_repository(options.triton_repository, folder, record, made.path)
        print(f"wrote {served} for the Triton Inference Server")


def _references(
    options: argparse.Namespace, folder: Path, record: ExportRecord, device: torch.device
) -> References:
    import torch

    from vsm_fast.errors import ModelError
    from vsm_fast.export.trt_plans import References, torch_references
    from vsm_fast.runtimes.onnx_runtime import OnnxRuntime

    model = options.model or options.reference
    if model is not None:
        return torch_references(model, record, device, local_files_only=options.local_files_only)
    if record.precision == "bfloat16":
        raise ModelError(
            f"{folder} is in bfloat16, which ONNX Runtime cannot check on a CPU. Name the model "
            "that it was exported from: --reference MODEL"
        )
    return References(OnnxRuntime(folder, record, torch.device("cpu")))


def _gib(text: str) -> float:
    size = float(text)
    if not 0 < size < 1 << 20:
        raise argparse.ArgumentTypeError(f"wanted a size in GiB above 0; got {text}")
    return size


def _refuse(error: Exception, code: int) -> int:
    print(f"build_trt.py: error: {' '.join(str(error).split())}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
