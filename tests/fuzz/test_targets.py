"""Seeded damage for the targets that are fuzzed: accepted, or refused by an error of ours."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
import tiny_models
from damage import damaged, replaced_value
from targets import TARGETS, Target

from vsm_fast import ModelError, PairingError

one_thread = tiny_models.one_thread
COUNTS = {"manifest": 400, "records": 400, "weights": 400, "unet": 40}
# Found by fuzz_*.py, or by reading; each was an exception of another kind once.
DEEP, LONG = b"[" * 200_000, b"9" * 5_000
TALL = TARGETS["unet"].seeds()[0].replace(b'block": 1', b'block": 100000')
assert TALL not in TARGETS["unet"].seeds()
FOUND = {
    "manifest": [b"\1" + DEEP, b"\3" + DEEP, b'\1{"ref": ' + LONG + b"}"],
    "records": [DEEP, LONG],
    "weights": [],
    "unet": [DEEP, TALL],
}


def is_json(content: bytes) -> bool:
    try:
        json.loads(content)
    except ValueError:
        return False
    return True


@pytest.mark.parametrize("name", sorted(TARGETS))
def test_the_seeds_are_accepted(name: str, tmp_path: Path) -> None:
    target = TARGETS[name]
    assert all(target.accepts(seed, tmp_path) for seed in target.seeds())


@pytest.mark.parametrize("name", sorted(COUNTS))
def test_damage_is_accepted_or_refused(name: str, tmp_path: Path) -> None:
    target, rng = TARGETS[name], random.Random(name)
    seeds = target.seeds()
    accepted = 0
    for number in range(COUNTS[name]):
        seed = seeds[number % len(seeds)]
        with_value = is_json(seed) and number % 4 < 2
        content = (replaced_value if with_value else damaged)(seed, rng)
        accepted += target.accepts(content, tmp_path)
    assert 0 < accepted < COUNTS[name]


@pytest.mark.parametrize("name", sorted(FOUND))
def test_what_was_found_is_refused(name: str, tmp_path: Path) -> None:
    assert not any(TARGETS[name].accepts(content, tmp_path) for content in FOUND[name])


def test_an_error_that_is_not_ours_is_a_finding(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    target: Target = TARGETS["manifest"]
    for error, found in ((PairingError("no"), False), (ModelError("no"), True), (KeyError(), True)):

        def fail(_: Path, error: Exception = error) -> None:
            raise error

        monkeypatch.setattr("targets.read_manifest", fail)
        if not found:
            assert not target.accepts(target.seeds()[0], tmp_path)
            continue
        with pytest.raises(type(error)):
            target.accepts(target.seeds()[0], tmp_path)
