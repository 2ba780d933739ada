from __future__ import annotations

import os

import pytest
import tiny_models
from job_inputs import write_model

from vsm_fast.scorer import VSMScorer

one_thread = tiny_models.one_thread  # forked children have no threads


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    """Return a model folder."""
    return write_model(tmp_path_factory.mktemp("model") / "small")


@pytest.fixture(scope="session")
def scorer(model):
    """Return the loaded model."""
    return VSMScorer.from_pretrained(model, device="cpu")


@pytest.fixture
def in_child():
    """Return a function that runs a callable in a forked process and returns its id."""
    children = []

    def run(work):
        child = os.fork()
        if child == 0:
            code = 70
            try:
                code = work() or 0
            finally:
                os._exit(int(code))
        children.append(child)
        return child

    yield run
    for child in children:
        try:
            os.kill(child, 9)
            os.waitpid(child, 0)
        except (ProcessLookupError, ChildProcessError):
            continue
