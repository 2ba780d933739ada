"""Export a model to ONNX.

python export/build_onnx.py --model tiny --out exported
vsm-fast score --model exported --refs refs --gens gens
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from vsm_fast.cli.interrupts import interruptible
from vsm_fast.errors import VSMError
from vsm_fast.runtimes.exported import DEFAULT_BATCH, ONNX, BatchRange, ExportRecord

PRECISIONS = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}
INT8 = "int8"  # of ONNX Runtime on CPUs only
FAILED, USAGE, MODEL, INTERRUPTED = 1, 2, 4, 130  # exit codes, as of vsm-fast


def add_model_options(parser: argparse.ArgumentParser, *more_precisions: str) -> None:
    """Which model, in which precision, for which batches."""
    precisions = (*PRECISIONS, *more_precisions)
    parser.add_argument("--dtype", default="fp32", choices=precisions, help="default: %(default)s")
    batch = parser.add_mutually_exclusive_group()
    batch.add_argument("--static-batch", type=_static, metavar="N", dest="batch")
    batch.add_argument(
        "--dynamic",
        type=_dynamic,
        metavar="LEAST:BEST:MOST",
        dest="batch",
        help="batch sizes (default: 1:8:32)",
    )
    parser.add_argument(
        "--local-files-only", action="store_true", help="never ask the network for the model"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="build_onnx.py", description="Export a model to ONNX, checked against torch."
    )
    parser.add_argument("--model", required=True, help="name (vsm-fast models) or folder")
    parser.add_argument("--out", required=True, type=Path, help="folder of the exported model")
    add_model_options(parser, INT8)
    parser.add_argument(
        "--calibration",
        type=Path,
        metavar="DIR",
        help="photographs for --dtype int8: one sub-folder per subject, masks beside them",
    )
    parser.add_argument(
        "--fuse-matching",
        action="store_true",
        help="also write scores.onnx, which matches and scores descriptors",
    )
    parser.add_argument(
        "--triton-repository",
        type=Path,
        metavar="DIR",
        help="also write the graph for the Triton Inference Server",
    )
    parser.add_argument("--opset", type=int, default=0, help="ONNX operator set")
    options = parser.parse_args(arguments)
    if (options.dtype == INT8) != (options.calibration is not None):
        parser.error("--dtype int8 needs --calibration DIR, and nothing else takes it")
    try:
        with interruptible():
            record = _exported(options)
    except KeyboardInterrupt:
        print("build_onnx.py: interrupted; nothing was written", file=sys.stderr)
        return INTERRUPTED
    except ImportError as error:
        return _refuse(error, USAGE)
    except VSMError as error:
        return _refuse(error, MODEL)
    except OSError as error:
        return _refuse(error, FAILED)
    size = sum((options.out / name).stat().st_size for name in record.files) / 2**20
    print(f"wrote {options.out}: {size:.1f} MiB, operator set {record.opset}")
    print(f"Score with it: vsm-fast score --model {options.out} --refs ... --gens ...")
    return 0


def _exported(options: argparse.Namespace) -> ExportRecord:
    """Export the model, and write what else is asked for."""
    # Slow to import, and not needed to refuse wrong options. Torch says at each export that
    # torchvision, which nothing here uses, is not installed.
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    from vsm_fast.export.onnx_graph import ExportOptions, export_onnx
    from vsm_fast.export.triton_repository import write_repository

    record: ExportRecord = export_onnx(
        options.model,
        options.out,
        ExportOptions(
            PRECISIONS.get(options.dtype, options.dtype),
            options.batch or DEFAULT_BATCH,
            options.opset,
            options.fuse_matching,
            options.calibration,
        ),
        local_files_only=options.local_files_only,
        tell=print,
    )
    if options.triton_repository:
        served = write_repository(
            options.triton_repository, options.out, record, options.out / ONNX
        )
        print(f"wrote {served} for the Triton Inference Server")
    return record


def _refuse(error: Exception, code: int) -> int:
    print(f"build_onnx.py: error: {' '.join(str(error).split())}", file=sys.stderr)
    return code


def _static(text: str) -> BatchRange:
    return _dynamic(f"{text}:{text}:{text}")


def _dynamic(text: str) -> BatchRange:
    try:
        least, best, most = map(int, text.split(":"))
        return BatchRange(least, best, most)
    except ValueError as error:
        raise argparse.ArgumentTypeError(
            f"wanted batch sizes 1 <= LEAST <= BEST <= MOST; got {text!r}"
        ) from error


if __name__ == "__main__":
    sys.exit(main())
