"""A report's columns as compressed bytes, which the page's script unpacks into typed arrays.

The header lists what the bytes hold: blocks of one type each, the widest types first, so that
each block is aligned. Texts are one JSON block: names and reasons never stand in the page as they
are, and repeated ones are stored once.
"""

from __future__ import annotations

import json
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vsm_fast.report.data import Results
from vsm_fast.report.images import Thumbnails
from vsm_fast.results.heatmap import SMOOTHING_REACH, SMOOTHING_SIGMA
from vsm_fast.results.overlay import BLEND, COLOUR_ANCHORS, DIMMED, DIMMED_TOWARDS

_LEVEL = 6  # of zlib: 9 takes three times as long for half a percent


def pack(results: Results, pictures: Thumbnails) -> tuple[dict[str, Any], bytes]:
    """What the page's script reads.

    Returns:
        The header, of plain JSON types, and the zlib stream that it describes.
    """
    blocks: dict[str, NDArray[Any]] = {
        "score": results.score,
        "matched": results.n_matched.astype(np.uint32),
        "source": results.n_source.astype(np.uint32),
        "reference": pictures.reference,
        "generation": pictures.generation,
    }
    texts = {}
    for name, column in results.texts.items():
        values = list(dict.fromkeys(column))
        codes = {value: code for code, value in enumerate(values)}
        blocks[f"text:{name}"] = np.array([codes[value] for value in column], np.uint32)
        texts[name] = values
    points = results.points
    if points is not None:
        blocks |= {
            "visual": _bytes_apart(points.visual_similarity),
            "semantic": _similarity_bytes(points.semantic_similarity),
            "cells": _steps(points.cells),
            "targets": _steps(points.targets),
            "subjectCounts": points.subject_counts.astype(np.uint32),
            "subjectCells": _steps(points.subject_cells),
            "genFrame": points.gen_frame,
            "refFrame": points.ref_frame,
        }
    plain = json.dumps(texts).encode()
    blocks["texts"] = np.frombuffer(plain, np.uint8)
    ordered = sorted(blocks.items(), key=lambda block: -block[1].itemsize)
    header = {
        "count": len(results),
        "settings": dict(results.settings),
        "grid": None if points is None else list(points.grid),
        "withoutPoints": results.without_points,
        "missingImages": pictures.missing,
        "heat": {
            "sigma": SMOOTHING_SIGMA, "reach": SMOOTHING_REACH, "blend": BLEND, "dimmed": DIMMED,
            "dimmedTowards": DIMMED_TOWARDS, "anchors": COLOUR_ANCHORS.tolist(),
        },
        "blocks": [[name, array.dtype.name, array.size] for name, array in ordered],
    }  # fmt: skip
    stream = b"".join(array.astype(array.dtype.newbyteorder("<")).tobytes() for _, array in ordered)
    return header, zlib.compress(stream, _LEVEL)


def _bytes_apart(values: NDArray[np.float32]) -> NDArray[np.uint8]:
    """First bytes of all values, then second ones, ...: exact, and easier to compress."""
    return np.ascontiguousarray(values.astype("<f4").view(np.uint8).reshape(-1, 4).T).reshape(-1)


def _similarity_bytes(values: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Similarities that are only shown: [-1, 1] in 255 steps, less than 0.004 off."""
    return np.rint((values.astype(np.float64).clip(-1, 1) + 1) * 127.5).astype(np.uint8)


def _steps(cells: NDArray[np.uint16]) -> NDArray[np.uint16]:
    """Differences, modulo 65,536, of cells to the ones before: mostly small, as cells ascend."""
    return np.diff(cells, prepend=np.uint16(0))
