"""Manifests: text tables, tars, tables with images, addresses."""

from __future__ import annotations

import io
import json
import pickle
import tarfile
import tracemalloc
import uuid
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from job_inputs import picture, write_tar

from vsm_fast.errors import InputError, PairingError, Status
from vsm_fast.images.loading import load_image
from vsm_fast.images.masks import load_mask
from vsm_fast.images.storage import RemoteImage, StoredImage
from vsm_fast.jobs.manifest import Manifest, read_manifest
from vsm_fast.jobs.pairing import PairRow
from vsm_fast.jobs.records import Notes


def encoded(seed):
    file = io.BytesIO()
    picture(seed).save(file, format="PNG")
    return file.getvalue()


def assert_shows(image, seed):
    """Check that a location decodes to a picture, and can be pickled."""
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
        ([("1.ref.png", b"x")], "sample 1: gen is required"),
        ([("1.ref.png", b"x"), ("1.ref.jpg", b"x")], "a second 'ref' of its sample"),
        ([("1.json", b"{")], "1.json is not JSON"),
        ([], "lists no pairs"),
    ],
)
def test_tars_without_pairs_are_refused(tmp_path, members, message):
    with pytest.raises(PairingError, match=message):
        read_manifest(write_tar(tmp_path / "a.tar", members))


def test_damaged_and_compressed_tars(tmp_path):
    whole = write_tar(tmp_path / "a.tar", [("1.ref.png", encoded(4)), ("1.gen.png", encoded(5))])
    (row,) = read_manifest(whole).rows
    content = whole.read_bytes()
    whole.write_bytes(content[: row.gen.offset + 10])
    with pytest.raises(PairingError, match="not a complete, uncompressed tar"):
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
    """Return a table in the layout of Hugging Face datasets."""
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
    assert notes.sentences() == ("unused columns: caption",)
    assert len(rows) == 72
    assert rows[3].subject == "1"
    assert rows[71].id == "row 72"
    for i in (0, 1, 69, 33, 2, 68, 49, 50):
        assert_shows(rows[i].ref, i)
        assert_shows(rows[i].gen, 69 - i)
    assert_shows(rows[71].ref, 81)


def test_a_data_set_saved_to_disk(tmp_path):
    """``datasets`` writes Arrow streams, and state.json that lists them."""
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
    with pytest.raises(PairingError, match="pass one: train, test"):
        read_manifest(tmp_path, COLUMNS)


def test_cells_name_a_file_or_fail_alone(tmp_path):
    picture(7).save(tmp_path / "seven.png")
    cells = [{"bytes": None, "path": "seven.png"}, {"bytes": None, "path": None}, None]
    table = pa.table({"ref": pa.array(cells, IMAGE), "gen": pa.array(cells, IMAGE)})
    pq.write_table(table, tmp_path / "t.parquet")
    rows = read_manifest(tmp_path / "t.parquet").rows
    assert_shows(rows[0].ref, 7)
    for row in rows[1:]:
        with pytest.raises(InputError, match=r"t.parquet#.\.ref contains no image") as caught:
            load_image(row.ref)
        assert caught.value.status is Status.MISSING_FILE


@pytest.fixture
def bucket():
    """Yield a folder in fsspec's memory."""
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
def test_unsupported_addresses_are_refused(tmp_path, protocol):
    """The protocol is unknown, or needs more than an address."""
    (tmp_path / "a.csv").write_text(f"ref,gen\n{protocol}://a/b.png,x.png\n")
    with pytest.raises(PairingError, match=f"{protocol}:// addresses cannot be opened"):
        read_manifest(tmp_path / "a.csv")


def test_unreadable_locations_are_refused(tmp_path):
    with pytest.raises(PairingError, match="cannot be read"):
        read_manifest("memory://nowhere/pairs.csv")
    with pytest.raises(PairingError, match="must contain files of one kind"):
        read_manifest(tmp_path)
    with pytest.raises(PairingError, match="unknown column reference"):
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
    with pytest.raises(PairingError, match="not a data set saved"):
        list(Manifest(str(tmp_path)).rows())


ROWS = [("r.png", "a b.png", ""), ("r.png", "b,c;d.png", "m.png")]


def _table(separator, names=("ref", "gen", "gen_mask"), quote=True):
    quoted = [[f'"{cell}"' if quote else cell for cell in row] for row in ROWS]
    return "\n".join(separator.join(row) for row in (names, *quoted)) + "\n"


def _json(**options):
    return json.dumps(
        [{"ref": ref, "gen": gen, "gen_mask": mask} for ref, gen, mask in ROWS], **options
    )


@pytest.mark.parametrize(
    ("name", "text", "encoding", "said"),
    [
        ("p.csv", _table(","), "utf-8", ""),
        ("p.csv", _table(";"), "utf-8", "read as semicolon-separated text in UTF-8"),
        ("p.csv", _table("\t", quote=False), "utf-8", "tab-separated"),
        ("p.csv", _table("|"), "utf-8", "bar-separated"),
        ("p.csv", _table(", ", (" ref", "gen ", "gen_mask")), "utf-8-sig", ""),
        ("p.csv", _table("\t"), "utf-16", "read as tab-separated text in UTF-16"),
        ("p.csv", _table(","), "utf-16-be", "in UTF-16-BE"),
        ("p.tsv", _table("\t"), "utf-8", ""),
        ("p.tsv", _table(","), "utf-8", "comma-separated"),
        ("p.json", _json(), "utf-8", ""),
        ("p.json", _json(indent=1), "utf-16", "read as text in UTF-16"),
        ("p.json", "\n".join(map(json.dumps, json.loads(_json()))), "utf-8", ""),
        ("p.jsonl", "\n".join(map(json.dumps, json.loads(_json()))), "utf-16", "in UTF-16"),
    ],
)
def test_separator_and_encoding_are_detected_and_noted(tmp_path, name, text, encoding, said):
    path = tmp_path / name
    path.write_bytes(text.encode(encoding))
    pairing = read_manifest(path)
    masks = [row.gen_mask and row.gen_mask.name for row in pairing.rows]
    assert [(row.ref.name, row.gen.name) for row in pairing.rows] == [row[:2] for row in ROWS]
    assert masks == [None, "m.png"]
    assert [said in note and note.count(str(path)) == 1 for note in pairing.notes] == [True] * bool(
        said
    )


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("p.csv", "ref,gen,gen\na,b,c\n", "line 1: column gen occurs twice"),
        ("p.csv", "ref,gen,gen_mask\na,b,\na,b\n", "line 3: no value for column 'gen_mask'"),
        ("p.csv", "ref,gen\na,b,c\n", "line 2: more values than columns: 'c' follows .* 'gen'"),
        ("p.csv", "id, ref\na,b\n", "gen is required; the columns are id, ref."),
        ("p.csv", "id,ref,gen\na,,c\n", "line 2: ref is required; it is empty"),
        ("p.csv", b"\xff\xfea\0\n\0x", "not a CSV file in UTF-16"),
        ("p.jsonl", '{"ref": "a", "gen": "b", "gen": "c"}', "line 1: .* the key gen twice"),
        ("p.json", '[{"ref": "a", "gen": "b", "gen": "c"}]', "object 1: .* the key gen twice"),
        ("p.json", '[{"ref": "a", "gen": "b"}', "after object 1; got the end of the file"),
        ("p.json", '[{"ref": "a", "gen": "b"},]', "object 2: not JSON"),
        ("p.json", '[{"ref": "a", "gen": "b"}] x', "after object 1; got 'x'"),
        ("p.json", '[{"ref": "a", "gen": "b"} {', "after object 1; got '{'"),
        ("p.json", "[1]", "object 1: expected one JSON object; got int"),
        ("p.json", "[]", "lists no pairs"),
        ("p.json", '"x"', "expected a JSON list of objects"),
        ("p.json", "", "expected a JSON list of objects"),
        ("p.json", "[" * 10**5, "object 1: not JSON"),
        ("p.csv", "id,ref,gen\na,r,g\na,r,h\n", "ids must be unique; a is repeated"),
        ("p.csv", "ref,gen\n", "lists no pairs"),
        ("p.csv", "", "lists no pairs"),
        ("p.csv", b"ref,gen\n\xff,g\n", "not a CSV file in UTF-8"),
        ("p.jsonl", '{"ref": "r", "gen": "g"}\n{', "line 2: not JSON"),
        ("p.jsonl", "[1]", "line 1: expected one JSON object; got list"),
        ("p.jsonl", '{"ref": 3, "gen": "g"}', "ref must be text; got int 3"),
        ("p.jsonl", "{}", "ref and gen is required; the columns are none"),
        ("p.parquet", "not parquet", "not a Parquet file"),
        ("p.txt", "ref,gen\n", "ends in .csv, .tsv, .jsonl, .json, .parquet"),
    ],
)
def test_bad_manifests_are_refused_with_the_place(tmp_path, name, text, message):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(PairingError, match=message):
        read_manifest(path)


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_all_kinds_of_manifests_agree(tmp_path, suffix):
    records = [
        {"id": "one", "subject": "cat", "ref": "/r.png", "gen": "g/0.png", "ref_mask": "m.png"},
        {"id": "", "subject": "", "ref": "r.png", "gen": "g/1.png", "ref_mask": "", "seed": 3},
    ]
    path = tmp_path / f"pairs{suffix}"
    if suffix == ".parquet":
        columns = {name: [record.get(name) for record in records] for name in records[1]}
        pq.write_table(pa.table(columns), path)
    elif suffix == ".jsonl":
        path.write_text("\n".join(map(json.dumps, records)) + "\n\n")
    else:
        lines = [",".join(str(record.get(name, "")) for name in records[1]) for record in records]
        path.write_text("\n".join([",".join(records[1]), *lines]), encoding="utf-8-sig")
    pairing = read_manifest(path)
    assert pairing.rows == (
        PairRow("one", "cat", Path("/r.png"), tmp_path / "g/0.png", tmp_path / "m.png"),
        PairRow("row 2", "", tmp_path / "r.png", tmp_path / "g/1.png"),
    )
    assert pairing.notes == (f"{path}: unused columns: seed",)
    with pytest.raises(PairingError, match="does not exist"):
        read_manifest(tmp_path / "none.csv")


def test_a_json_list_is_streamed(tmp_path):
    rows = [{"ref": f"r{i}.png", "gen": "x" * 600} for i in range(1, 6000)]
    path = tmp_path / "p.json"
    path.write_text(json.dumps(rows))
    assert path.stat().st_size > 3e6
    list(Manifest(str(path)).rows())  # allocations of the first use do not count
    tracemalloc.start()
    count = sum(row.ref.name == f"r{i}.png" for i, row in enumerate(Manifest(str(path)).rows(), 1))
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == len(rows)
    assert most < 1e6


def test_repeated_columns_of_tables_are_refused(tmp_path):
    table = pa.table([["r"], ["a"], ["b"]], names=["ref", "gen", "gen"])
    pq.write_table(table, tmp_path / "p.parquet")
    path = str(tmp_path / "p.arrow")
    with pa.OSFile(path, "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table)
    for name in ("p.parquet", "p.arrow"):
        with pytest.raises(PairingError, match="column gen occurs twice"):
            read_manifest(tmp_path / name)


@pytest.mark.parametrize("replace", [True, False])
def test_a_table_that_is_replaced_is_read_again(tmp_path, replace):
    path = tmp_path / "p.parquet"
    pq.write_table(image_table(2), path)
    (row, _) = read_manifest(path, COLUMNS).rows
    assert_shows(row.ref, 0)
    other = path.with_name("other.parquet") if replace else path
    pq.write_table(image_table(3, 10), other)
    other.rename(path)
    rows = read_manifest(path, COLUMNS).rows
    assert len(rows) == 3
    assert_shows(rows[0].ref, 10)
    assert_shows(row.ref, 10)  # as with images that are files


def test_a_table_at_an_address_that_is_replaced_is_read_again(bucket):
    for count, first in ((2, 0), (3, 10)):
        file = io.BytesIO()
        pq.write_table(image_table(count, first), file)
        put(f"{bucket}/a.parquet", file.getvalue())
        rows = read_manifest(f"{bucket}/a.parquet", COLUMNS).rows
        assert len(rows) == count
        assert_shows(rows[0].ref, first)


@pytest.mark.parametrize(
    ("written", "file"),
    [
        ("imgs\\r.jpg", "imgs/r.jpg"),
        (".\\imgs\\r.jpg", "imgs/r.jpg"),
        ("C:{root}\\r.jpg", "r.jpg"),
        ("c:{slashes}/r.jpg", "r.jpg"),
        ("~/r.jpg", "home/r.jpg"),
        ("~\\imgs\\r.jpg", "home/imgs/r.jpg"),
        ("a\\b.png", "a\\b.png"),
        ("caf\u00e9.png", "cafe\u0301.png"),
        ("cafe\u0301.png", "caf\u00e9.png"),
    ],
)
def test_paths_of_other_systems(tmp_path, monkeypatch, written, file):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
    picture(1).save(tmp_path / file, format="PNG")
    name = written.format(root=str(tmp_path).replace("/", "\\"), slashes=tmp_path)
    (tmp_path / "p.jsonl").write_text(json.dumps({"ref": name, "gen": name}))
    (row,) = read_manifest(tmp_path / "p.jsonl").rows
    assert row.ref == row.gen == tmp_path / file
    assert_shows(row.ref, 1)


def test_a_file_added_later_keeps_its_location(tmp_path):
    """A job must resume after a missing file was added."""
    (tmp_path / "p.csv").write_text("ref,gen\nr.png,imgs\\g.png\n")
    before = read_manifest(tmp_path / "p.csv").rows
    (tmp_path / "imgs").mkdir()
    picture(1).save(tmp_path / "imgs" / "g.png")
    assert read_manifest(tmp_path / "p.csv").rows == before


def test_tar_keys_with_dots_and_unused_members(tmp_path):
    samples = [
        ("img.1.ref.png", encoded(0)), ("img.1.json", b'{"subject": "s"}'),
        ("img.1.gen.png", encoded(1)), ("img.1.txt", b"a caption"),
        ("__MACOSX/._img.1.ref.png", b""), ("./.DS_Store", b""),
        ("x.json", b'{"id": "first"}'), ("x.ref.png", encoded(2)), ("x.meta.json", b"no JSON"),
        ("x.gen.png", encoded(3)),
        ("x.2.json", b'{"id": "second"}'), ("x.2.ref.png", encoded(4)),
        ("x.2.gen.png", encoded(5)), ("x.2.gen_mask.png", (tarfile.LNKTYPE, "x.2.gen.png")),
        ("x.2.stats.json", b"no JSON"),
    ]  # fmt: skip
    pairing = read_manifest(write_tar(tmp_path / "a.tar", samples))
    assert [(row.id, row.subject) for row in pairing.rows] == [
        ("img.1", "s"), ("first", ""), ("second", ""),
    ]  # fmt: skip
    for number, row in enumerate(pairing.rows):
        assert_shows(row.ref, 2 * number)
        assert_shows(row.gen, 2 * number + 1)
    (note,) = pairing.notes
    assert "3 unused members: img.1.txt, x.meta.json, x.2.stats.json" in note
    assert "2 hidden or system files: __MACOSX/._img.1.ref.png, ./.DS_Store" in note
    assert "1 link or special file: x.2.gen_mask.png" in note


def _tar_damage():
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for name in ("1.ref.png", "1.gen.png", "2.ref.png", "2.gen.png"):
            info = tarfile.TarInfo(name)
            info.size = 700
            tar.addfile(info, io.BytesIO(b"x" * 700))
    whole = file.getvalue()
    third = 2 * (512 + 1024)  # where the header of the third member is
    flipped = bytearray(whole)
    flipped[third + 3] ^= 4
    cleared = whole[:third] + bytes(512) + whole[third + 512 :]
    return {
        "flipped": (bytes(flipped), f"the header at byte {third} is damaged"),
        "cut at a member": (whole[:third], f"ends after {third} bytes, without an end mark"),
        "cut in a header": (whole[: third + 100], f"ends after {third + 100} bytes"),
        "cut in a member": (whole[: third + 600], "unexpected end of data"),
        "cut before its end mark": (whole[: 2 * third], "without an end mark"),
        "cleared": (cleared, f"members follow the end mark at byte {third}"),
        "cleared at first": (bytes(512) + whole[512:], "members follow the end mark at byte 0"),
        "two": (whole + whole, "a concatenation of several archives"),
        "whole": (whole, None),
        "one block at the end": (whole[: 2 * third + 512], None),
    }


@pytest.mark.parametrize("kind", _tar_damage())
def test_damaged_tars_are_refused(tmp_path, kind):
    content, message = _tar_damage()[kind]
    path = tmp_path / "a.tar"
    path.write_bytes(content)
    if message is None:
        assert len(read_manifest(path).rows) == 2
        return
    with pytest.raises(PairingError, match=f"not a complete, uncompressed tar.*{message}"):
        read_manifest(path)


def test_other_files_of_a_folder_are_noted(tmp_path):
    write_tar(tmp_path / "a.tar", [("1.ref.png", encoded(4)), ("1.gen.png", encoded(5))])
    for name in ("b.tar.gz", ".DS_Store", "_SUCCESS"):
        (tmp_path / name).touch()
    (note,) = read_manifest(tmp_path).notes
    assert note.endswith(f"skipped: 1 other file of the folder: {tmp_path / 'b.tar.gz'}")


def test_the_list_of_unused_columns_is_bounded(tmp_path):
    lines = (json.dumps({"ref": "r", "gen": "g", f"c{i}": 1}) for i in range(1000))
    (tmp_path / "p.jsonl").write_text("\n".join(lines))
    (note,) = read_manifest(tmp_path / "p.jsonl").notes
    assert note.endswith(", c99")
