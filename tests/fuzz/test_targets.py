"""Seeded damage of the fuzz targets: accepted, or refused by one of the library's errors."""

from __future__ import annotations

import random
from pathlib import Path
from unittest.mock import Mock

import pytest
import tiny_models
from damage import damaged, replaced_value
from targets import TARGETS

from vsm_fast import ModelError, PairingError

one_thread = tiny_models.one_thread
COUNTS = {"manifest": 200, "records": 200, "weights": 200, "unet": 20}
# Former findings of guided.py and of reviews; each raised another exception once.
DEEP, LONG = b"[" * 200_000, b"9" * 5_000
TALL = TARGETS["unet"].seeds()[0].replace(b'block": 1', b'block": 100000')
TIMELESS = TARGETS["unet"].seeds()[0].replace(b'"positional"', b'"x"')
assert not {TALL, TIMELESS} & {*TARGETS["unet"].seeds()}
FOUND = {
    "manifest": [b"\1" + DEEP, b"\3" + DEEP, b'\1{"ref": ' + LONG + b"}"],
    "records": [DEEP, LONG],
    "weights": [],
    "unet": [DEEP, TALL, TIMELESS],
}


@pytest.mark.parametrize("name", sorted(TARGETS))
def test_the_seeds_are_accepted(name: str, tmp_path: Path) -> None:
    target = TARGETS[name]
    assert all(target.accepts(seed, tmp_path) for seed in target.seeds())


@pytest.mark.parametrize("name", sorted(COUNTS))
@pytest.mark.parametrize("times", [1, pytest.param(20, marks=pytest.mark.slow)])
def test_damage_is_accepted_or_refused(name: str, times: int, tmp_path: Path) -> None:
    target, rng = TARGETS[name], random.Random(f"{name} {times}")
    seeds = target.seeds()
    accepted = 0
    for number in range(COUNTS[name] * times):
        seed = seeds[number % len(seeds)]
        with_value = seed.startswith(b"{") and number % 4 < 2
        content = (replaced_value if with_value else damaged)(seed, rng)
        accepted += target.accepts(content, tmp_path)
    assert 0 < accepted < COUNTS[name] * times


@pytest.mark.parametrize("name", sorted(FOUND))
def test_former_findings_are_refused(name: str, tmp_path: Path) -> None:
    assert not any(TARGETS[name].accepts(content, tmp_path) for content in FOUND[name])


@pytest.mark.parametrize("error", [PairingError("no"), ModelError("no"), KeyError()])
def test_any_other_error_is_a_finding(monkeypatch, tmp_path, error):
    target = TARGETS["manifest"]
    monkeypatch.setattr("targets.read_manifest", Mock(side_effect=error))
    if isinstance(error, PairingError):
        assert not target.accepts(target.seeds()[0], tmp_path)
    else:
        with pytest.raises(type(error)):
            target.accepts(target.seeds()[0], tmp_path)
