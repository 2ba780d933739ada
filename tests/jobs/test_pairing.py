"""Pairing: folders, files, masks and manifests; and the guesses that are refused."""

from __future__ import annotations

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vsm_fast.errors import PairingError
from vsm_fast.jobs.manifest import read_manifest
from vsm_fast.jobs.pairing import pair_paths


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """Make files by name, with the temporary folder as the working folder."""
    monkeypatch.chdir(tmp_path)

    def make(*names):
        for name in names:
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"")  # pairing never opens an image
        return tmp_path

    return make


def names(pairing):
    return [(row.ref.as_posix(), row.gen.as_posix()) for row in pairing.rows]


def test_one_reference_serves_all_generations(tree):
    tree("r.png", "gens/b.jpg", "gens/a.png", "gens/notes.txt", "gens/.hidden.png")
    pairing = pair_paths("r.png", "gens")
    assert names(pairing) == [("r.png", "gens/a.png"), ("r.png", "gens/b.jpg")]
    assert [row.id for row in pairing.rows] == ["a.png", "b.jpg"]
    assert pairing.notes == (
        "skipped: 1 hidden or system file: gens/.hidden.png; "
        "1 file without an image suffix: gens/notes.txt",
    )


def test_one_reference_file_and_many_files(tree):
    tree("r.png", "x/1.png", "y/1.png")
    pairing = pair_paths(["r.png"], ["x/1.png", "y/1.png"])
    assert [row.id for row in pairing.rows] == ["x/1.png", "y/1.png"]


def test_several_references_pair_by_stem_not_by_order(tree):
    tree("r/a.png", "r/b.png", "g/b.jpg", "g/a.webp")
    assert names(pair_paths("r", "g")) == [("r/a.png", "g/a.webp"), ("r/b.png", "g/b.jpg")]
    given = pair_paths(["r/a.png", "r/b.png"], ["g/b.jpg", "g/a.webp"])
    assert names(given) == [("r/b.png", "g/b.jpg"), ("r/a.png", "g/a.webp")]


@pytest.mark.parametrize(
    "gens", [["g/1.png", "g/2.png"], ["g/a.png"], ["g/a.png", "g/b.png", "g/c.png"]]
)
def test_lists_whose_stems_differ_are_refused(tree, gens):
    tree("r/a.png", "r/b.png", *gens)
    with pytest.raises(PairingError, match=r"equal file names.*only among the"):
        pair_paths("r", "g")


def test_stems_that_repeat_are_refused(tree):
    tree("r/a.png", "r/a.jpg", "r/b.png", "g/a.png", "g/b.png")
    with pytest.raises(PairingError, match=r"references: several files are named a"):
        pair_paths("r", "g")


def test_sub_folders_are_subjects(tree):
    tree("r/cat/0.png", "r/cat/1.png", "r/dog/0.png",
         "g/cat/x.png", "g/cat/deep/x.png", "g/dog/x.png", "g/.cache/x.png")  # fmt: skip
    pairing = pair_paths("r", "g")
    assert [(row.subject, row.id) for row in pairing.rows] == [
        ("cat", "cat/x.png@0.png"),
        ("cat", "cat/x.png@1.png"),
        ("cat", "cat/deep/x.png@0.png"),
        ("cat", "cat/deep/x.png@1.png"),
        ("dog", "dog/x.png"),
    ]
    assert names(pairing)[-1] == ("r/dog/0.png", "g/dog/x.png")


def test_subjects_on_one_side_only_are_listed(tree):
    tree("r/cat/0.png", "r/fox/0.png", "g/cat/0.png", "g/owl/0.png")
    with pytest.raises(PairingError, match=r"fox only .* references; owl only .* generations"):
        pair_paths("r", "g")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (["r/cat/0.png", "g/cat.png"], "the generations have none"),
        (["r/cat/0.png", "r/dog/0.png", "g/cat/dog/0.png", "g/dog/cat/0.png"], "both levels"),
        (["r/cat/0.png", "g/a/cat/0.png", "g/a/owl/0.png"], "owl only among the generations"),
        (["r/cat.png", "r/dog.png", "g/a/cat.png"], "1 generations of a .* dog only among the ref"),
        (["r/cat.png", "r/dog.png", "g/cat/0.png", "g/owl/0.png"], "cat, dog only among the ref"),
    ],
)
def test_layouts_that_differ_are_refused(tree, files, message):
    tree(*files)
    with pytest.raises(PairingError, match=message):
        pair_paths("r", "g")


@pytest.mark.parametrize(
    ("refs", "gens", "rows"),
    [
        (["r/it.png"], ["a/0.png", "b/x/1.png"], [("", "a", "it"), ("", "b", "it")]),
        (["r/it.png"], ["it/a/0.png", "it/b/0.png"], [("it", "a", "it"), ("it", "b", "it")]),
        (
            ["r/cat/0.png", "r/dog/1.png"],
            ["a/cat/0.png", "a/dog/0.png", "b/cat/0.png", "b/dog/x/y/0.png"],
            [("cat", "a", "0"), ("cat", "b", "0"), ("dog", "a", "1"), ("dog", "b", "1")],
        ),
        (
            ["r/cat.png", "r/dog.png"],
            ["cat/a/0.png", "dog/a/0.png", "dog/b/0.png", "cat/b/0.png"],
            [("cat", "a", "cat"), ("cat", "b", "cat"), ("dog", "a", "dog"), ("dog", "b", "dog")],
        ),
        (
            ["r/cat.png", "r/dog.png"],
            ["a/cat.png", "a/dog.jpg"],
            [("", "a", "cat"), ("", "a", "dog")],
        ),
    ],
)
def test_the_level_named_like_the_references_is_the_subject(tree, refs, gens, rows):
    tree(*refs, *(f"g/{name}" for name in gens))
    pairing = pair_paths("r", "g")
    assert [(row.subject, row.generator, row.ref.stem) for row in pairing.rows] == rows
    assert len({row.id for row in pairing.rows}) == len(rows)
    assert pairing.notes == ()


def test_a_generator_without_a_subject_is_named(tree):
    tree("r/cat/0.png", "r/dog/0.png", "g/a/cat/0.png", "g/a/dog/0.png", "g/b/cat/0.png")
    pairing = pair_paths("r", "g")
    assert len(pairing.rows) == 3
    assert pairing.notes == ("generator b has no generation of dog",)


COMPOSED, DECOMPOSED = "caf\u00e9", "cafe\u0301"


def test_names_are_compared_in_nfc(tree):
    tree(f"r/{COMPOSED}.png", "r/b.png", f"g/{DECOMPOSED}.jpg", "g/b.png",
         f"g/{COMPOSED}_mask.png", f"s/{COMPOSED}/0.png", f"t/{DECOMPOSED}/0.png",
         f"m/{COMPOSED}/0.png")  # fmt: skip
    rows = pair_paths("r", "g").rows
    assert [(row.ref.name, row.gen.name) for row in rows] == [
        ("b.png", "b.png"), (f"{COMPOSED}.png", f"{DECOMPOSED}.jpg"),
    ]  # fmt: skip
    assert rows[1].gen_mask.name == f"{COMPOSED}_mask.png"
    (row,) = pair_paths("s", "t", gen_masks="m").rows
    assert (row.subject, row.gen_mask.name) == (COMPOSED, "0.png")


JUNK = ("__MACOSX/._0.png", "Thumbs.db", "desktop.ini", ".DS_Store", "._0.png", ".hidden/0.png")


def test_files_that_systems_leave_behind_are_counted_and_no_subjects(tree):
    tree("r/cat/0.png", "g/cat/0.png", *(f"g/{name}" for name in JUNK), "g/cat/Thumbs.db")
    pairing = pair_paths("r", "g")
    assert [row.id for row in pairing.rows] == ["cat/0.png"]
    (note,) = pairing.notes
    assert note.startswith("skipped: 7 hidden or system files: g/.DS_Store, ")
    assert note.endswith(" and 2 more")


@pytest.mark.parametrize(
    ("files", "refs", "gens", "message"),
    [
        (["r.png", "g/0.png", "g/cat/0.png"], "r.png", "g", "both images .* and sub-folders"),
        (["r.png", "g/notes.txt"], "r.png", "g", "contains no images"),
        (["r/a/0.png", "g/a/notes.txt"], "r", "g", "generations: no images .* sub-folder a"),
        (["r.png"], "r.png", "g", "generations: g does not exist"),
        (["r.png"], "r.png", [], "no generations were given"),
        (["r.png", "g/0.png"], "r.png", ["g", "r.png"], "one folder, or files only"),
        (["r.png", "g.png"], "r.png", ["g.png", "g.png"], "more than once"),
    ],
)
def test_inputs_without_a_clear_meaning_are_refused(tree, files, refs, gens, message):
    tree(*files)
    with pytest.raises(PairingError, match=message):
        pair_paths(refs, gens)


def test_links_in_a_circle_end(tree):
    root = tree("r/cat/0.png", "g/cat/0.png", "g/cat/in/1.png")
    (root / "g/cat/in/up").symlink_to(root / "g/cat")
    (root / "g/cat/itself.png").symlink_to("itself.png")
    assert [row.id for row in pair_paths("r", "g").rows] == ["cat/0.png", "cat/in/1.png"]


def test_linked_subjects_are_followed(tree):
    root = tree("r/cat/0.png", "store/0.png")
    (root / "g").mkdir()
    (root / "g/cat").symlink_to(root / "store")
    assert [row.id for row in pair_paths("r", "g").rows] == ["cat/0.png"]


def test_masks_beside_images_are_found_and_are_no_images(tree):
    tree("r/0.jpg", "r/0_mask.png", "g/0.jpg", "g/1.jpg", "g/1_mask.png", "g/2_mask.png")
    pairing = pair_paths("r", "g")
    assert [(row.id, row.gen_mask and row.gen_mask.as_posix()) for row in pairing.rows] == [
        ("0.jpg", None),
        ("1.jpg", "g/1_mask.png"),
    ]
    assert {row.ref_mask.as_posix() for row in pairing.rows} == {"r/0_mask.png"}
    assert len(pairing.notes) == 1
    assert "g/2_mask.png" in pairing.notes[0]


@pytest.mark.parametrize(
    "mask", ["CAT_mask.PNG", "CAT_MASK.png", "cat_mask.webp", "Cat_Mask.TIF", "CAT_mask.JPG"]
)
@pytest.mark.parametrize("given", ["g", ["g/CAT.JPG"], ["g/CAT.JPG", "g/{mask}"]])
def test_masks_have_any_case_and_suffix(tree, mask, given):
    tree("r.png", "g/CAT.JPG", f"g/{mask}")
    gens = given if given == "g" else [name.format(mask=mask) for name in given]
    pairing = pair_paths("r.png", gens)
    assert [row.gen_mask.name for row in pairing.rows] == [mask]
    assert pairing.notes == ()


def test_case_counts_where_it_tells_images_apart(tree):
    tree("r.png", "g/A.png", "g/a.png", "g/A_mask.png", "g/a_mask.png", "g/b.png")
    masks = [row.gen_mask and row.gen_mask.name for row in pair_paths("r.png", "g").rows]
    assert masks == ["A_mask.png", "a_mask.png", None]


@pytest.mark.parametrize(
    ("files", "both"),
    [
        (["cat.jpg", "cat_mask.png", "cat_mask.jpg"], "cat.jpg has more than one mask"),
        (["cat.jpg", "cat_mask.png", "CAT_mask.PNG"], "CAT_mask.PNG, g/cat_mask.png. Keep one"),
        (["cat.jpg", "cat.png", "cat_mask.png"], "mask of both g/cat.jpg and g/cat.png"),
    ],
)
def test_masks_that_could_be_another_are_refused(tree, files, both):
    tree("r.png", *(f"g/{name}" for name in files))
    with pytest.raises(PairingError, match=both):
        pair_paths("r.png", "g")


def test_masks_of_no_image_are_counted_and_named(tree):
    tree("r.png", "g/0.png", "g/1_mask.png", "m/0.PNG", "m/2.png", "m/3_mask.png")
    note = "skipped: 1 mask without an image: g/1_mask.png"
    assert pair_paths("r.png", "g").notes == pair_paths("g", "g").notes == (note,)
    pairing = pair_paths("r.png", "g", gen_masks="m")
    assert pairing.rows[0].gen_mask.name == "0.PNG"
    assert pairing.notes == (
        "skipped: 3 masks without an image: g/1_mask.png, m/2.png, m/3_mask.png",
    )


def test_mask_folders_mirror_the_images(tree):
    tree("r/cat/0.jpg", "g/cat/7.jpg", "m/cat/0.png", "m/cat/7_mask.png", "r/cat/0_mask.png")
    (row,) = pair_paths("r", "g", ref_masks="m", gen_masks="m").rows
    assert row.ref_mask.as_posix() == "m/cat/0.png"
    assert row.gen_mask.as_posix() == "m/cat/7_mask.png"


def test_a_mask_folder_inside_the_images_is_no_subject(tree):
    tree("r.png", "g/0.png", "g/masks/0.png")
    (row,) = pair_paths("r.png", "g", gen_masks="g/masks").rows
    assert row.gen_mask.as_posix() == "g/masks/0.png"


def test_an_image_is_never_its_own_mask(tree):
    tree("r.png", "g/0.png")
    with pytest.raises(PairingError, match="has no mask"):
        pair_paths("r.png", "g", gen_masks="g")


def test_one_mask_file_for_one_reference(tree):
    tree("r.png", "m.png", "g/0.png", "g/1.png")
    assert {row.ref_mask.name for row in pair_paths("r.png", "g", ref_masks="m.png").rows} == {
        "m.png"
    }
    with pytest.raises(PairingError, match="one mask for 2 generations"):
        pair_paths("r.png", "g", gen_masks="m.png")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (["m/other.png"], "no mask for 1 of 1 references"),
        (["m/0.png", "m/0_mask.png"], "more than one mask"),
        (["m/0.png"], "mask of both r/0.png and g/0.png"),
        (["elsewhere.png"], "m does not exist"),
    ],
)
def test_masks_that_cannot_be_assigned_are_refused(tree, files, message):
    tree("r/0.png", "g/0.png", *files)
    with pytest.raises(PairingError, match=message):
        pair_paths("r", "g", ref_masks="m", gen_masks="m")


RECORDS = [
    {"id": "one", "subject": "cat", "ref": "r.png", "gen": "g/0.png", "ref_mask": "m.png"},
    {"id": "two", "subject": "", "ref": "r.png", "gen": "g/1.png", "ref_mask": ""},
]


def write(folder, records, suffix):
    path = folder / f"pairs{suffix}"
    if suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(records), path)
    elif suffix == ".jsonl":
        path.write_text("\n".join(json.dumps(record) for record in records) + "\n\n")
    else:
        lines = [",".join(records[0]), *(",".join(map(str, r.values())) for r in records)]
        path.write_text("\n".join(lines), encoding="utf-8-sig")
    return path


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_manifests_of_all_kinds_say_the_same(tmp_path, suffix):
    pairing = read_manifest(write(tmp_path, RECORDS, suffix))
    one, two = pairing.rows
    assert (one.id, one.subject, one.ref, one.gen) == (
        "one", "cat", tmp_path / "r.png", tmp_path / "g/0.png",
    )  # fmt: skip
    assert (one.ref_mask, one.gen_mask) == (tmp_path / "m.png", None)
    assert (two.id, two.subject, two.ref_mask) == ("two", "", None)
    assert pairing.notes == ()


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_manifest_without_ids_numbers_the_rows_and_reports_other_columns(tmp_path, suffix):
    records = [{"ref": "r.png", "gen": f"{i}.png", "seed": i} for i in range(2)]
    pairing = read_manifest(write(tmp_path, records, suffix))
    assert [row.id for row in pairing.rows] == ["row 1", "row 2"]
    assert len(pairing.notes) == 1
    assert pairing.notes[0].endswith("unused columns: seed")


def test_absolute_paths_stay(tmp_path):
    records = [{"ref": "/somewhere/r.png", "gen": "g.png"}]
    (row,) = read_manifest(write(tmp_path, records, ".csv")).rows
    assert row.ref.as_posix() == "/somewhere/r.png"


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("p.csv", "id,ref,gen\na,r,g\na,r,h\n", "ids must be unique; a is repeated"),
        ("p.csv", "id,gen\na,g\n", "line 2: ref is required; the columns are id, gen"),
        ("p.csv", "ref,gen\nr,\n", "line 2: gen is required"),
        ("p.csv", "ref,gen\nr,g,x\n", "line 2: more values than columns"),
        ("p.csv", "ref,gen\n", "lists no pairs"),
        ("p.csv", "", "lists no pairs"),
        ("p.csv", b"ref,gen\n\xff,g\n", "not a CSV file in UTF-8"),
        ("p.jsonl", '{"ref": "r", "gen": "g"}\n{', "line 2: not JSON"),
        ("p.jsonl", "[1]", "line 1: expected one JSON object; got list"),
        ("p.jsonl", '{"ref": 3, "gen": "g"}', "ref must be text; got int 3"),
        ("p.parquet", "not parquet", "not a Parquet file"),
        ("p.txt", "ref,gen\n", "ends in .csv, .tsv, .jsonl, .json, .parquet"),
    ],
)
def test_bad_manifests_say_where(tmp_path, name, text, message):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(PairingError, match=message):
        read_manifest(path)


def test_manifest_that_is_not_there(tmp_path):
    with pytest.raises(PairingError, match="does not exist"):
        read_manifest(tmp_path / "pairs.csv")
