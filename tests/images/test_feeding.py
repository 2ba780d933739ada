"""Batches are prepared ahead, in order, and no further than was asked for."""

import threading
from concurrent.futures import Future

import numpy as np
import pytest
import tiny_models
import torch
from tiny_models import config_of

from vsm_fast.errors import Status
from vsm_fast.images import feeding
from vsm_fast.images.feeding import prepared_batches
from vsm_fast.images.subjects import prepare_subject

one_thread = tiny_models.one_thread
CONFIG = config_of()


def pictures(count):
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (24, 20, 3), np.uint8) for _ in range(count)]


def batches(images, size=3, **options):
    names = [f"picture {number}" for number in range(len(images))]
    return prepared_batches(images, [None] * len(images), names, CONFIG, size, **options)


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_every_image_comes_once_and_in_order(threads):
    images = pictures(8)
    found = list(batches(images, threads=threads))
    assert [batch.start for batch in found] == [0, 3, 6]
    assert [len(batch.subjects) for batch in found] == [3, 3, 2]
    pixels = torch.cat([batch.pixels for batch in found])
    expected = [prepare_subject(image, None, "", CONFIG).pixels for image in images]
    assert torch.equal(pixels, torch.stack(expected))
    assert all(s.pixels is None for batch in found for s in batch.subjects)


def test_bad_images_have_a_status_and_no_row():
    images = pictures(4)
    images[1] = images[2] = np.zeros((2, 2, 7), np.uint8)
    first, second = batches(images, size=2)
    assert [s.status for s in first.subjects] == [Status.OK, Status.UNREADABLE]
    assert "picture 1" in first.subjects[1].reason
    assert len(first.pixels) == len(second.pixels) == 1
    (nothing,) = batches(images[1:3])
    assert nothing.pixels is None


def test_nothing_gives_nothing():
    assert list(batches([])) == []


@pytest.mark.parametrize("ahead", [0, 1, 2])
def test_no_more_is_submitted_than_asked_for(monkeypatch, ahead):
    submitted = []
    submit = feeding.ThreadPoolExecutor.submit

    def counted(pool, function, *arguments):
        if function is prepare_subject:
            submitted.append(function)
        return submit(pool, function, *arguments)

    monkeypatch.setattr(feeding.ThreadPoolExecutor, "submit", counted)
    running = batches(pictures(20), size=2, ahead=ahead, threads=2)
    for batch in (1, 2):
        next(running)
        assert len(submitted) == 2 * (batch + ahead)
    running.close()


def test_closing_early_cancels_images_that_have_not_started(monkeypatch):
    started, cancelled, gate = [], [], threading.Event()
    blocked, cancel = threading.Event(), Future.cancel

    def gated(*arguments):
        started.append(arguments)
        if len(started) > 10:  # the first batch passes, the next image blocks the only thread
            blocked.set()
            gate.wait(60)
        return prepare_subject(*arguments)

    def counted(future):
        cancelled.append(cancel(future))
        if len(cancelled) == 30:  # three batches: the blocked image, and 29 that wait behind it
            gate.set()
        return cancelled[-1]

    monkeypatch.setattr(feeding, "prepare_subject", gated)
    monkeypatch.setattr(Future, "cancel", counted)
    running = batches(pictures(40), size=10, ahead=3, threads=1)
    next(running)
    assert blocked.wait(60)
    running.close()
    assert gate.is_set()
    assert (len(started), cancelled.count(True)) == (11, 29)


def test_an_unexpected_error_reaches_the_consumer(monkeypatch):
    def broken(*_):
        raise RuntimeError("a bug")

    monkeypatch.setattr(feeding, "prepare_subject", broken)
    with pytest.raises(RuntimeError, match="a bug"):
        list(batches(pictures(3)))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="pinned memory needs CUDA")
def test_pixels_are_pinned_for_cuda():
    (batch,) = batches(pictures(2), pinned=True)
    assert batch.pixels.is_pinned()
