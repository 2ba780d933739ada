"""Export a model to ONNX.

python export/build_onnx.py --model tiny --out exported
vsm-fast score --model exported --refs refs --gens gens
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from vsm_fast.cli.interrupts import interruptible
from vsm_fast.errors import VSMError, out_of_memory
from vsm_fast.runtimes.exported import DEFAULT_BATCH, BatchRange

PRECISIONS = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}
INT8 = "int8"  # for ONNX Runtime on CPUs only
FAILED, USAGE, MODEL, INTERRUPTED = 1, 2, 4, 130  # exit codes, as in vsm-fast


def add_model_options(parser: argparse.ArgumentParser, *more_precisions: str) -> None:
    """Add the options for precision, batch sizes and network access."""
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
        "--local-files-only", action="store_true", help="load the model without network access"
    )


def run_command(program: str, command: Callable[[], None], product: str) -> int:
    """Run a command and report expected errors as one line on standard error.

    Returns:
        The exit code.
    """
    # Without torchvision, which nothing here uses, torch logs a warning per export.
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    try:
        with interruptible():
            command()
    except KeyboardInterrupt:
        print(f"{program}: interrupted; {product} was written", file=sys.stderr)
        return INTERRUPTED
    except (VSMError, ImportError, ValueError, OSError, RuntimeError, MemoryError) as error:
        if isinstance(error, VSMError):  # first: some of these are ValueErrors too
            code = MODEL
        elif isinstance(error, ImportError | ValueError):
            code = USAGE
        elif isinstance(error, OSError) or out_of_memory(error):
            code = FAILED
        else:
            raise
        print(f"{program}: error: {' '.join(str(error).split())}", file=sys.stderr)
        return code
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="build_onnx.py", description="Export a model to ONNX and check it against torch."
    )
    parser.add_argument("--model", required=True, help="name (vsm-fast models) or folder")
    parser.add_argument("--out", required=True, type=Path, help="folder for the exported model")
    add_model_options(parser, INT8)
    parser.add_argument(
        "--calibration",
        type=Path,
        metavar="DIR",
        help="photographs for --dtype int8: one sub-folder per subject, with masks",
    )
    parser.add_argument(
        "--fuse-matching",
        action="store_true",
        help="also write scores.onnx, which matches and scores descriptors",
    )
    parser.add_argument("--opset", type=int, default=0, help="ONNX operator set")
    options = parser.parse_args(arguments)
    if (options.dtype == INT8) != (options.calibration is not None):
        parser.error("--dtype int8 needs --calibration DIR; no other --dtype takes it")
    return run_command("build_onnx.py", lambda: _export(options), "nothing")


def _export(options: argparse.Namespace) -> None:
    from vsm_fast.export.onnx_graph import ExportOptions, export_onnx  # slow to import

    record = export_onnx(
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
    size = sum((options.out / name).stat().st_size for name in record.files) / 2**20
    print(f"wrote {options.out}: {size:.1f} MiB, operator set {record.opset}")
    print(f"Score with it: vsm-fast score --model {options.out} --refs ... --gens ...")


def _static(text: str) -> BatchRange:
    return _dynamic(f"{text}:{text}:{text}")


def _dynamic(text: str) -> BatchRange:
    try:
        least, best, most = map(int, text.split(":"))
        return BatchRange(least, best, most)
    except ValueError as error:
        raise argparse.ArgumentTypeError(
            f"batch sizes must be 1 <= LEAST <= BEST <= MOST; got {text!r}"
        ) from error


if __name__ == "__main__":
    sys.exit(main())
