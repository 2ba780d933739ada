"""Manifests as streams: archives, tables with images in them, addresses."""

from __future__ import annotations

import io
import json
import pickle
import tarfile
import uuid

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from job_inputs import picture, write_tar

from vsm_fast.errors import InputError, PairingError, Status
from vsm_fast.images.loading import load_image
from vsm_fast.images.masks import load_mask
from vsm_fast.images.stored import RemoteImage, StoredImage
from vsm_fast.manifests.manifest import Manifest, read_manifest
from vsm_fast.manifests.records import Notes


def encoded(seed):
    file = io.BytesIO()
    picture(seed).save(file, format="PNG")
    return file.getvalue()


def assert_shows(image, seed):
    """The location decodes to that picture; it survives the way to another process."""
    if isinstance(image, StoredImage):
        again = pickle.loads(pickle.dumps(image))
        assert again == image
        assert hash(again) == hash(image)
    np.testing.assert_array_equal(load_image(image).pixels, np.asarray(picture(seed)))


def test_pairs_in_tars(tmp_path):
    mask = io.BytesIO()
    picture(0).convert("L").point(lambda v: 255 * (v > 100)).save(mask, format="PNG")
    samples = [
        ("../../etc/passwd.ref.png", encoded(0)),
        ("../../etc/passwd.gen.png", encoded(1)),
        ("../../etc/passwd.ref_mask.png", mask.getvalue()),
        ("../../etc/passwd.json", json.dumps({"subject": "a", "generator": "g"}).encode()),
        ("../../etc/passwd.txt", b"a caption"),
        ("x/0002.gen.jpg.png", encoded(2)),
        ("x/0002.ref.png", encoded(3)),
        ("x/link.ref.png", (tarfile.SYMTYPE, "/etc/passwd")),
    ]
    write_tar(tmp_path / "b.tar", samples)
    write_tar(tmp_path / "a.tar", [("1.ref.png", encoded(4)), ("1.gen.png", encoded(5))])
    (tmp_path / "index.txt").touch()
    rows = read_manifest(tmp_path).rows
    assert [row.id for row in rows] == ["1", "../../etc/passwd", "x/0002"]
    assert [(row.subject, row.generator) for row in rows] == [("", ""), ("a", "g"), ("", "")]
    for row, ref, gen in zip(rows, (4, 0, 3), (5, 1, 2), strict=True):
        assert_shows(row.ref, ref)
        assert_shows(row.gen, gen)
    assert rows[0].ref_mask is None
    assert 0 < load_mask(rows[1].ref_mask, (48, 48)).mean() < 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.tar", "b.tar", "index.txt"]


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([("1.ref.png", b"x")], "sample 1: gen must be given"),
        ([("1.ref.png", b"x"), ("1.ref.jpg", b"x")], "a second 'ref' of its sample"),
        ([("1.json", b"{")], "1.json is not JSON"),
        ([], "lists no pairs"),
    ],
)
def test_tars_that_are_no_pairs(tmp_path, members, message):
    write_tar(tmp_path / "a.tar", members)
    with pytest.raises(PairingError, match=message):
        read_manifest(tmp_path / "a.tar")


def test_damaged_and_compressed_tars(tmp_path):
    whole = write_tar(tmp_path / "a.tar", [("1.ref.png", encoded(4)), ("1.gen.png", encoded(5))])
    (row,) = read_manifest(whole).rows
    content = whole.read_bytes()
    whole.write_bytes(content[: row.gen.offset + 10])
    with pytest.raises(PairingError, match="not a whole, uncompressed tar"):
        read_manifest(whole)
    with pytest.raises(InputError, match=r"1.gen.png ends after 10 of") as caught:
        load_image(row.gen)
    assert caught.value.status is Status.UNREADABLE
    whole.unlink()
    with pytest.raises(InputError) as caught:
        load_image(row.ref)
    assert caught.value.status is Status.MISSING_FILE
    with tarfile.open(tmp_path / "b.tar", "w:gz"):
        pass
    with pytest.raises(PairingError, match="compression does not allow"):
        read_manifest(tmp_path / "b.tar")


IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def image_table(rows, first=0):
    """The layout of Hugging Face's datasets."""
    images = [{"bytes": encoded(first + i), "path": None} for i in range(rows)]
    return pa.table(
        {
            "image_1": pa.array(images, IMAGE),
            "image_2": pa.array(images[::-1], IMAGE),
            "subject": pa.array([i % 2 for i in range(rows)]),
            "caption": ["x"] * rows,
        }
    )


COLUMNS = {"ref": "image_1", "gen": "image_2"}


def test_images_in_parquet_files_are_read_in_any_order(tmp_path):
    (tmp_path / "data").mkdir()
    table = image_table(70)
    pq.write_table(table, tmp_path / "data" / "train-0.parquet", row_group_size=50)
    pq.write_table(image_table(2, 80), tmp_path / "data" / "train-1.parquet")
    notes = Notes()
    rows = list(Manifest(str(tmp_path / "data"), COLUMNS).rows(notes))
    assert notes.sentences() == ("columns that are not used: caption",)
    assert len(rows) == 72
    assert rows[3].subject == "1"
    assert rows[71].id == "row 72"
    for i in (0, 1, 69, 33, 2, 68, 49, 50):
        assert_shows(rows[i].ref, i)
        assert_shows(rows[i].gen, 69 - i)
    assert_shows(rows[71].ref, 81)


def test_a_data_set_saved_to_disk(tmp_path):
    """What ``datasets`` writes: Arrow streams, and state.json that lists them."""
    table = image_table(5)
    path = str(tmp_path / "data-00000-of-00001.arrow")
    with pa.OSFile(path, "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table, max_chunksize=2)
    state = {"_data_files": [{"filename": "data-00000-of-00001.arrow"}], "_indices_files": None}
    (tmp_path / "state.json").write_text(json.dumps(state))
    rows = read_manifest(tmp_path, COLUMNS).rows
    assert len(rows) == 5
    assert_shows(rows[4].ref, 4)
    assert_shows(rows[4].gen, 0)
    state["_indices_files"] = [{"filename": "indices.arrow"}]
    (tmp_path / "state.json").write_text(json.dumps(state))
    with pytest.raises(PairingError, match="flatten_indices"):
        read_manifest(tmp_path, COLUMNS)
    (tmp_path / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    with pytest.raises(PairingError, match="give one: train, test"):
        read_manifest(tmp_path, COLUMNS)


def test_cells_without_an_image_name_a_file_or_fail_alone(tmp_path):
    picture(7).save(tmp_path / "seven.png")
    cells = [{"bytes": None, "path": "seven.png"}, {"bytes": None, "path": None}, None]
    table = pa.table({"ref": pa.array(cells, IMAGE), "gen": pa.array(cells, IMAGE)})
    pq.write_table(table, tmp_path / "t.parquet")
    rows = read_manifest(tmp_path / "t.parquet").rows
    assert_shows(rows[0].ref, 7)
    for row in rows[1:]:
        with pytest.raises(InputError, match=r"t.parquet#.\.ref holds no image") as caught:
            load_image(row.ref)
        assert caught.value.status is Status.MISSING_FILE


@pytest.fixture
def bucket():
    """A folder in fsspec's memory."""
    name = f"memory://{uuid.uuid4().hex}"
    yield name
    fsspec.filesystem("memory").rm(name, recursive=True)


def put(location, content):
    with fsspec.open(location, "wb") as file:
        file.write(content)


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_manifests_at_addresses_name_files_beside_them(bucket, tmp_path, suffix):
    picture(3).save(tmp_path / "local.png")
    put(f"{bucket}/refs/a.png", encoded(1))
    put(f"{bucket}/elsewhere.png", encoded(2))
    records = [
        {"ref": "refs/a.png", "gen": f"{bucket}/elsewhere.png"},
        {"ref": str(tmp_path / "local.png"), "gen": "nowhere.png"},
    ]
    if suffix == ".parquet":
        file = io.BytesIO()
        pq.write_table(pa.Table.from_pylist(records), file)
        put(f"{bucket}/pairs.parquet", file.getvalue())
    elif suffix == ".csv":
        lines = ["ref,gen", *(f"{r['ref']},{r['gen']}" for r in records)]
        put(f"{bucket}/pairs.csv", "\n".join(lines).encode())
    else:
        put(f"{bucket}/pairs.jsonl", "\n".join(map(json.dumps, records)).encode())
    rows = read_manifest(f"{bucket}/pairs{suffix}").rows
    assert rows[0].ref == RemoteImage(f"{bucket}/refs/a.png")
    assert_shows(rows[0].ref, 1)
    assert_shows(rows[0].gen, 2)
    assert_shows(rows[1].ref, 3)
    with pytest.raises(InputError, match=r"nowhere.png does not exist") as caught:
        load_image(rows[1].gen)
    assert caught.value.status is Status.MISSING_FILE


def test_tars_and_image_tables_at_addresses(bucket, tmp_path):
    tar = write_tar(tmp_path / "a.tar", [("1.ref.png", encoded(4)), ("1.gen.png", encoded(5))])
    put(f"{bucket}/tars/a.tar", tar.read_bytes())
    file = io.BytesIO()
    pq.write_table(image_table(20), file)
    put(f"{bucket}/tables/a.parquet", file.getvalue())
    (row,) = read_manifest(f"{bucket}/tars").rows
    assert_shows(row.ref, 4)
    assert_shows(row.gen, 5)
    rows = read_manifest(f"{bucket}/tables", COLUMNS).rows
    assert_shows(rows[18].ref, 18)


@pytest.mark.parametrize("protocol", ["nosuch", "github", "reference", "dir", "zip"])
def test_addresses_that_nothing_opens(tmp_path, protocol):
    """No such protocol, or it takes more than its name to open its files."""
    (tmp_path / "a.csv").write_text(f"ref,gen\n{protocol}://a/b.png,x.png\n")
    with pytest.raises(PairingError, match=f"{protocol}:// addresses cannot be opened"):
        read_manifest(tmp_path / "a.csv")


def test_locations_that_cannot_be_read(tmp_path):
    with pytest.raises(PairingError, match="cannot be read"):
        read_manifest("memory://nowhere/pairs.csv")
    with pytest.raises(PairingError, match="should hold files of one of"):
        read_manifest(tmp_path)
    with pytest.raises(PairingError, match="there is no column reference"):
        Manifest("pairs.csv", {"reference": "x"})
    put(address := f"memory://{uuid.uuid4().hex}.png", b"no image")
    for content, status in ((b"", Status.UNREADABLE), (b"no image", Status.UNREADABLE)):
        put(address, content)
        with pytest.raises(InputError) as caught:
            load_image(RemoteImage(address))
        assert caught.value.status is status


@pytest.mark.parametrize("said", ["", "[]", "{}", '{"_data_files": [1]}', "[" * 10**5])
def test_a_damaged_record_of_a_saved_data_set_is_refused(tmp_path, said):
    (tmp_path / "state.json").write_text(said)
    with pytest.raises(PairingError, match="no data set that was saved"):
        list(Manifest(str(tmp_path)).rows())
