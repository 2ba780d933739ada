from __future__ import annotations

import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from vsm_fast.errors import PairingError
from vsm_fast.lab.pairs.pair_shards import (
    IMAGES,
    MASKS,
    SCHEMA,
    count_pairs,
    read_pairs,
    read_subjects,
    write_pair_shard,
)
from vsm_fast.lab.pairs.pairs import ControlledPair, points_of_flow


def pair(number: int = 0, **changes: object) -> ControlledPair:
    rng = np.random.default_rng(number)
    mask_1, mask_2 = np.zeros((20, 30), bool), np.zeros((24, 16), bool)
    mask_1[4:16, 5:25], mask_2[2:20, 3:12] = True, True
    part_1, part_2 = mask_1.copy(), mask_2.copy()
    part_1[:, 10:], part_2[10:] = False, False
    original = rng.integers(0, 256, (20, 30, 3), np.uint8)
    altered = original.copy()
    altered[part_1] = 255 - altered[part_1]
    fields: dict[str, object] = {
        "id": f"pair {number}",
        "subject": "cup",
        "view": "photo",
        "kind": "recolour",
        "original_1": original,
        "original_2": rng.integers(0, 256, (24, 16, 3), np.uint8),
        "altered_1": altered,
        "mask_1": mask_1,
        "mask_2": mask_2,
        "part_1": part_1,
        "part_2": part_2,
        "altered_2": rng.integers(0, 256, (24, 16, 3), np.uint8),
        "points": rng.uniform(0, 16, (7, 4)).astype(np.float32),
        "provenance": {"seed": [1, number], "donor": "ünïcode"},
    }
    return ControlledPair(**(fields | changes))  # type: ignore[arg-type]


def _png(array: np.ndarray) -> dict[str, object]:
    file = io.BytesIO()
    Image.fromarray(array).save(file, "PNG")
    return {"bytes": file.getvalue(), "path": "x.png"}


def test_round_trip(tmp_path) -> None:
    written = [pair(number) for number in range(40)]
    written.append(pair(40, part_2=None, altered_2=None, points=None, provenance={}))
    path = tmp_path / "shard.parquet"
    assert write_pair_shard(iter(written), path) == 41 == count_pairs(path)
    read = list(read_pairs(path))
    assert len(read) == 41
    for before, after in zip(written, read, strict=True):
        for name in ControlledPair.__dataclass_fields__:
            expected, value = getattr(before, name), getattr(after, name)
            if isinstance(expected, np.ndarray):
                np.testing.assert_array_equal(value, expected, err_msg=name)
                assert value.dtype == expected.dtype
            else:
                assert value == expected, name
    assert read[0].oracle == pytest.approx(1 - 5 * 12 / (20 * 12))
    assert read_subjects(path) == ["cup"] * 41


def test_a_folder_is_read_shard_by_shard_in_order(tmp_path) -> None:
    for number in (2, 0, 1):
        write_pair_shard([pair(number)], tmp_path / f"{number:04d}.parquet")
    assert [p.id for p in read_pairs(tmp_path)] == ["pair 0", "pair 1", "pair 2"]
    assert count_pairs(tmp_path) == 3


def test_the_published_layout_is_read(tmp_path) -> None:
    """Published columns only, a mask of another size, masks in mode 1 and with 3 channels."""
    mine = pair()
    columns = {column: [_png(getattr(mine, field))] for field, column in list(IMAGES.items())[:3]}
    columns |= {
        column: [_png(getattr(mine, field).astype(np.uint8) * 255)]
        for field, column in MASKS.items()
    }
    columns["image_1_object_mask"] = [_png(mine.mask_1.repeat(2, 0).repeat(2, 1))]
    grey = mine.part_1.astype(np.uint8)[..., None].repeat(3, 2) * 255
    columns["image_1_part_mask"] = [_png(grey)]
    pq.write_table(pa.table(columns), tmp_path / "test-00000.parquet")
    (read,) = read_pairs(tmp_path)
    assert (read.id, read.subject, read.kind) == ("test-00000.parquet:0", "", "inpainted")
    assert read.oracle == mine.oracle
    np.testing.assert_array_equal(read.mask_1, mine.mask_1)
    assert read.points is None
    assert read_subjects(tmp_path) == [""]


def test_the_schema_marks_images_for_hugging_face(tmp_path) -> None:
    write_pair_shard([pair()], tmp_path / "a.parquet")
    features = json.loads(pq.read_schema(tmp_path / "a.parquet").metadata[b"huggingface"])
    features = features["info"]["features"]
    assert set(features) == set(SCHEMA.names)
    assert features["image_1_inpainted"] == {"_type": "Image"}


def test_errors_name_file_and_cause(tmp_path) -> None:
    with pytest.raises(PairingError, match="holds no controlled pairs"):
        list(read_pairs(tmp_path))
    (tmp_path / "a.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(PairingError, match=r"a\.parquet cannot be read"):
        list(read_pairs(tmp_path / "a.parquet"))
    pq.write_table(pa.table({"id": ["x"]}), tmp_path / "a.parquet")
    with pytest.raises(PairingError, match="lacks the columns image_1_inpainted"):
        list(read_pairs(tmp_path / "a.parquet"))
    row = dict.fromkeys(SCHEMA.names) | {"id": "broken"}
    row |= {"image_1_original": {"bytes": b"GIF89a", "path": None}}
    pq.write_table(pa.Table.from_pylist([row], SCHEMA), tmp_path / "a.parquet")
    with pytest.raises(PairingError, match=r"a\.parquet:0"):
        list(read_pairs(tmp_path / "a.parquet"))


def test_wrong_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"altered_1 has shape \(3, 3, 3\).*\(20, 30, 3\)"):
        pair(altered_1=np.zeros((3, 3, 3), np.uint8))
    with pytest.raises(ValueError, match="x1, y1, x2, y2"):
        pair(points=np.zeros((4, 2), np.float32))


def test_points_of_a_flow_lie_on_both_subjects() -> None:
    rows, columns = np.meshgrid(np.arange(32), np.arange(40), indexing="ij")
    flow = np.stack([columns + 3.25, rows - 2.0], axis=-1).astype(np.float32)
    flow[:, 20:] = np.nan
    mask_1, mask_2 = np.zeros((32, 40), bool), np.zeros((30, 30), bool)
    mask_1[8:30, 4:30], mask_2[:20] = True, True
    points = points_of_flow(flow, mask_1, mask_2, stride=4)
    # x = 6, 10, 14, 18 are inside mask 1 with a finite flow; y = 10, 14, 18 map above row 20.
    assert sorted({(x, y) for x, y, _, _ in points.tolist()}) == [
        (x + 0.5, y + 0.5) for x in (6, 10, 14, 18) for y in (10, 14, 18)
    ]
    np.testing.assert_allclose(points[:, 2:] - points[:, :2], [[3.25, -2.0]] * len(points))
