"""Coverage-guided fuzzing of one target with Atheris (``pip install atheris``; Linux, x86-64).

    python tests/fuzz/guided.py manifest -max_total_time=60

Targets are manifest, records, weights, image and unet. Options are libFuzzer's; a folder among them
keeps the corpus. A finding is written to ``crash-*`` in the current folder, with its traceback.
"""

from __future__ import annotations

import contextlib
import random
import sys
import tempfile
import warnings
from pathlib import Path

import atheris

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "tests" / "helpers"), str(ROOT)]
# The fuzzer seeks new branches of these packages; torch's would drown them.
with atheris.instrument_imports(include=["vsm_fast", "PIL", "csv", "json"]):
    from damage import replaced_value
    from targets import TARGETS

LIMITS = ("-rss_limit_mb=4096", "-timeout=30", "-max_len=20000")


def mutated_json(content: bytes, size: int, seed: int) -> bytes:
    """Replace a value every other time, because random bytes rarely leave valid JSON."""
    if seed % 2:
        with contextlib.suppress(ValueError, IndexError, TypeError, RecursionError):
            return replaced_value(content, random.Random(seed))[:size]
    return bytes(atheris.Mutate(content, size))


if __name__ == "__main__":
    name = sys.argv.pop(1)
    target = TARGETS[name]
    warnings.simplefilter("ignore")  # Pillow warns about every second image
    with tempfile.TemporaryDirectory() as root:
        corpus, folder = Path(root) / "corpus", Path(root) / "input"
        corpus.mkdir()
        folder.mkdir()
        for number, seed in enumerate(target.seeds()):
            (corpus / f"seed-{number}").write_bytes(seed)
        mutator = {"custom_mutator": mutated_json} if name == "records" else {}
        options = [sys.argv[0], *LIMITS, *sys.argv[1:], str(corpus)]
        atheris.Setup(options, lambda content: target.accepts(content, folder), **mutator)
        atheris.Fuzz()
