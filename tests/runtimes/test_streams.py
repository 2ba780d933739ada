"""Streams: order, bounds, concurrency, and equal scores."""

import threading
import time

import numpy as np
import pytest
import torch
from subject_views import scorer_of, subject_image

from vsm_fast.runtimes.streams import in_streams


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("streams", [1, 2, 3])
def test_results_come_in_the_order_of_the_items(streams):
    def slow_first(item):
        time.sleep(0.05 if item == 0 else 0)
        return item * item

    assert list(in_streams(slow_first, range(9), streams)) == [n * n for n in range(9)]


def test_one_stream_is_the_callers_own_thread():
    assert set(in_streams(lambda _: threading.get_ident(), range(3), 1)) == {threading.get_ident()}


def test_streams_work_at_once():
    meeting = threading.Barrier(2, timeout=10)  # broken, if one waited for the other's end
    assert list(in_streams(lambda item: meeting.wait() >= 0 and item, range(4), 2)) == [0, 1, 2, 3]


def test_items_are_taken_no_further_than_needed():
    taken = []
    running = in_streams(lambda item: item, (taken.append(n) or n for n in range(20)), 2)
    next(running)
    assert len(taken) == 3
    running.close()
    assert len(taken) == 3


def test_an_error_comes_where_its_result_would():
    def fail_at_two(item):
        if item == 2:
            raise ValueError("two")
        return item

    running = in_streams(fail_at_two, range(9), 2)
    assert [next(running), next(running)] == [0, 1]
    with pytest.raises(ValueError, match="two"):
        next(running)


def test_scores_do_not_depend_on_the_streams(two_threads):
    scorer = scorer_of()
    images = [subject_image(seed)[0] for seed in range(10)]
    found = scorer.score(images[:1], images, batch_size=1, semantic_threshold=-1.0)
    assert scorer.runtime.concurrent
    scorer.runtime.concurrent = False
    wanted = scorer.score(images[:1], images, batch_size=1, semantic_threshold=-1.0)
    np.testing.assert_allclose(found.score, wanted.score, atol=1e-5)
    np.testing.assert_allclose(found.visual_similarity, wanted.visual_similarity, atol=1e-5)
