"""Seeded damage of files."""

from __future__ import annotations

import json
import random

# Numbers, names and structures that break parsers.
POISON = (
    b"null", b"-1", b"1e999", b"NaN", b"[]", b"{}", b'""', b"\xff\xfe", b"[" * 3000, b"9" * 5000,
    b"true", b'"\\ud800"', b"\x00",
)  # fmt: skip


def damaged(content: bytes, rng: random.Random) -> bytes:
    """Truncate, change bytes, remove or repeat a piece, or replace a value."""
    kind = rng.randrange(5)
    start = rng.randrange(len(content) + 1)
    end = min(len(content), start + rng.randrange(1, 40))
    if kind == 0:
        return content[:start]
    if kind == 1:
        changed = bytearray(content)
        for place in rng.sample(range(len(content)), min(len(content), 1 + rng.randrange(8))):
            changed[place] = rng.randrange(256)
        return bytes(changed)
    if kind == 2:
        return content[:start] + content[end:]
    if kind == 3:
        return content[:end] + content[start:]
    colons = [at for at, byte in enumerate(content) if byte == ord(":")] or [start]
    place = rng.choice(colons) + 1
    return content[:place] + rng.choice(POISON) + content[min(len(content), place + 1) :]


def replaced_value(text: bytes, rng: random.Random) -> bytes:
    """Replace one value of a JSON text at any depth: valid syntax, wrong content."""
    content = json.loads(text)
    place = content
    while True:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        key = rng.choice(keys)
        if isinstance(place[key], dict | list) and place[key] and rng.random() < 0.8:
            place = place[key]
            continue
        place[key] = rng.choice(
            [None, -1, 1e308, float("inf"), float("nan"), [], {}, "", True, "\ud800", [[]]]
        )
        return json.dumps(content).encode()
