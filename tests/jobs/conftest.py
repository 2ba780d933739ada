from __future__ import annotations

import os

import pytest
import torch
from job_inputs import write_model

from vsm_fast.scorer import VSMScorer


@pytest.fixture(autouse=True)
def one_thread():
    """Forked children must not need the threads of their parent."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    """A model folder."""
    return write_model(tmp_path_factory.mktemp("model") / "small")


@pytest.fixture(scope="session")
def scorer(model):
    """The same, loaded."""
    return VSMScorer.from_pretrained(model, device="cpu")


@pytest.fixture
def in_child():
    """Function: run something in a forked process; gives its id, and is over with the test."""
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
