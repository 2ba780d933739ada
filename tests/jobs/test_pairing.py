"""Pairing of folders, files and masks; ambiguous inputs are refused."""

from __future__ import annotations

import pytest

from vsm_fast.errors import PairingError
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


def test_one_reference_pairs_with_all_generations(tree):
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


def test_system_files_are_skipped_and_counted(tree):
    tree("r/cat/0.png", "g/cat/0.png", *(f"g/{name}" for name in JUNK), "g/cat/Thumbs.db")
    pairing = pair_paths("r", "g")
    assert [row.id for row in pairing.rows] == ["cat/0.png"]
    (note,) = pairing.notes
    assert note.startswith("skipped: 7 hidden or system files: g/.DS_Store, ")
    assert note.endswith(" and 2 more")


def test_circular_links_end(tree):
    root = tree("r/cat/0.png", "g/cat/0.png", "g/cat/in/1.png")
    (root / "g/cat/in/up").symlink_to(root / "g/cat")
    (root / "g/cat/itself.png").symlink_to("itself.png")
    assert [row.id for row in pair_paths("r", "g").rows] == ["cat/0.png", "cat/in/1.png"]


def test_linked_subjects_are_followed(tree):
    root = tree("r/cat/0.png", "store/0.png")
    (root / "g").mkdir()
    (root / "g/cat").symlink_to(root / "store")
    assert [row.id for row in pair_paths("r", "g").rows] == ["cat/0.png"]


def test_masks_beside_images_are_not_images(tree):
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


def test_case_matters_where_it_distinguishes_images(tree):
    tree("r.png", "g/A.png", "g/a.png", "g/A_mask.png", "g/a_mask.png", "g/b.png")
    masks = [row.gen_mask and row.gen_mask.name for row in pair_paths("r.png", "g").rows]
    assert masks == ["A_mask.png", "a_mask.png", None]


def test_masks_without_an_image_are_noted(tree):
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


def test_a_mask_folder_inside_the_images_is_not_a_subject(tree):
    tree("r.png", "g/0.png", "g/masks/0.png")
    (row,) = pair_paths("r.png", "g", gen_masks="g/masks").rows
    assert row.gen_mask.as_posix() == "g/masks/0.png"


def test_one_mask_file_for_one_reference(tree):
    tree("r.png", "m.png", "g/0.png", "g/1.png")
    assert {row.ref_mask.name for row in pair_paths("r.png", "g", ref_masks="m.png").rows} == {
        "m.png"
    }
    with pytest.raises(PairingError, match="one mask for 2 generations"):
        pair_paths("r.png", "g", gen_masks="m.png")


@pytest.mark.parametrize(
    ("files", "refs", "gens", "masks", "message"),
    [
        ("r/a r/b g/1 g/2", "r", "g", (), "equal file names.*only among the"),
        ("r/a r/b g/a", "r", "g", (), "equal file names.*only among the"),
        ("r/a r/b g/a g/b g/c", "r", "g", (), "equal file names.*only among the"),
        ("r/a r/a.jpg r/b g/a g/b", "r", "g", (), "references: several files are named a"),
        ("r/cat/0 r/fox/0 g/cat/0 g/owl/0", "r", "g", (),
         "fox only .* references; owl only .* generations"),
        ("r/cat/0 g/cat", "r", "g", (), "the generations have none"),
        ("r/cat/0 r/dog/0 g/cat/dog/0 g/dog/cat/0", "r", "g", (), "both levels"),
        ("r/cat/0 g/a/cat/0 g/a/owl/0", "r", "g", (), "owl only among the generations"),
        ("r/cat r/dog g/a/cat", "r", "g", (), "1 generations of a .* dog only among the ref"),
        ("r/cat r/dog g/cat/0 g/owl/0", "r", "g", (), "cat, dog only among the ref"),
        ("r g/0 g/cat/0", "r.png", "g", (), "both images .* and sub-folders"),
        ("r g/notes.txt", "r.png", "g", (), "contains no images"),
        ("r/a/0 g/a/notes.txt", "r", "g", (), "generations: no images .* sub-folder a"),
        ("r", "r.png", "g", (), "generations: g does not exist"),
        ("r", "r.png", [], (), "no generations were given"),
        ("r g/0", "r.png", ["g", "r.png"], (), "one folder, or files only"),
        ("r g", "r.png", ["g.png", "g.png"], (), "more than once"),
        ("r g/cat.jpg g/cat_mask g/cat_mask.jpg", "r.png", "g", (),
         "cat.jpg has more than one mask"),
        ("r g/cat.jpg g/cat_mask g/CAT_mask.PNG", "r.png", "g", (),
         "CAT_mask.PNG, g/cat_mask.png. Keep one"),
        ("r g/cat.jpg g/cat g/cat_mask", "r.png", "g", (), "mask of both g/cat.jpg and g/cat.png"),
        ("r g/0", "r.png", "g", (None, "g"), "has no mask"),
        ("r/0 g/0 m/other", "r", "g", ("m", "m"), "no mask for 1 of 1 references"),
        ("r/0 g/0 m/0 m/0_mask", "r", "g", ("m", "m"), "more than one mask"),
        ("r/0 g/0 m/0", "r", "g", ("m", "m"), "mask of both r/0.png and g/0.png"),
        ("r/0 g/0 elsewhere", "r", "g", ("m", "m"), "m does not exist"),
    ],
)  # fmt: skip
def test_ambiguous_inputs_are_refused(tree, files, refs, gens, masks, message):
    """Names without a suffix are PNG files."""
    tree(*(name if "." in name else f"{name}.png" for name in files.split()))
    options = dict(zip(("ref_masks", "gen_masks"), masks, strict=False))
    with pytest.raises(PairingError, match=message):
        pair_paths(refs, gens, **options)
