"""Batches are prepared ahead, in order, and no further than was asked for."""

import threading
import time

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
    wanted = [prepare_subject(image, None, "", CONFIG).pixels for image in images]
    assert torch.equal(pixels, torch.stack(wanted))
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


class _Counting:
    """In the place of prepare_subject: counts, and can be held up."""

    def __init__(self):
        self.lock, self.done, self.gate = threading.Lock(), 0, threading.Event()
        self.gate.set()

    def __call__(self, *arguments):
        self.gate.wait(10)
        with self.lock:
            self.done += 1
        return prepare_subject(*arguments)


@pytest.mark.parametrize("ahead", [0, 1, 2])
def test_no_more_is_prepared_than_asked_for(monkeypatch, ahead):
    counting = _Counting()
    monkeypatch.setattr(feeding, "prepare_subject", counting)
    running = batches(pictures(20), size=2, ahead=ahead, threads=2)
    next(running)
    time.sleep(0.3)
    assert counting.done == 2 * (1 + ahead)
    next(running)
    time.sleep(0.3)
    assert counting.done == 2 * (2 + ahead)
    running.close()


def test_whoever_stops_early_waits_for_nothing(monkeypatch):
    counting = _Counting()
    monkeypatch.setattr(feeding, "prepare_subject", counting)
    running = batches(pictures(40), size=10, ahead=3, threads=1)
    next(running)
    before = threading.active_count()
    counting.gate.clear()
    threading.Timer(0.1, counting.gate.set).start()
    running.close()
    assert counting.done < 35  # images that had not begun were left
    assert threading.active_count() <= before


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
