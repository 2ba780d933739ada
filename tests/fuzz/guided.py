"""Coverage-guided fuzzing with Atheris: ``pip install atheris``; Linux on x86-64.

The options are libFuzzer's, like ``-max_total_time=60``; a folder among them keeps the corpus.
What is found is written to ``crash-*`` in the current folder, and its traceback printed.
"""

from __future__ import annotations

import contextlib
import random
import sys
import tempfile
import warnings
from pathlib import Path

import atheris

sys.path[:0] = map(str, Path(__file__).parents[1:3])
# Branches of these are what the fuzzer tries to reach; torch's would drown them.
with atheris.instrument_imports(include=["vsm_fast", "PIL", "csv", "json"]):
    from damage import replaced_value
    from targets import TARGETS

LIMITS = ("-rss_limit_mb=4096", "-timeout=30", "-max_len=20000")


def _mutated_json(content: bytes, size: int, seed: int) -> bytes:
    """Every other time a value is replaced: changed bytes alone hardly leave JSON behind."""
    if seed % 2:
        with contextlib.suppress(ValueError, IndexError, TypeError, RecursionError):
            return replaced_value(content, random.Random(seed))[:size]
    return bytes(atheris.Mutate(content, size))


def run(name: str) -> None:
    """Fuzz one target with the options of the command line; does not return."""
    target = TARGETS[name]
    warnings.simplefilter("ignore")  # of Pillow, for about every second image
    with tempfile.TemporaryDirectory() as made:
        corpus, folder = Path(made) / "corpus", Path(made) / "input"
        corpus.mkdir()
        folder.mkdir()
        for number, seed in enumerate(target.seeds()):
            (corpus / f"seed-{number}").write_bytes(seed)

        def one_input(content: bytes) -> None:
            target.accepts(content, folder)

        options = [sys.argv[0], *LIMITS, *sys.argv[1:], str(corpus)]
        if name == "records":
            atheris.Setup(options, one_input, custom_mutator=_mutated_json)
        else:
            atheris.Setup(options, one_input)
        atheris.Fuzz()
