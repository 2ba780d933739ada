"""All kinds of bad inputs in one call: one row and one status each, and unchanged good rows."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import socket
import zlib
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import tiny_models
import torch
from image_files import exif_of, icc_profile, png, png_chunk, saved, written
from PIL import Image

from vsm_fast import AutoMask, Flag, Status, VSMScorer
from vsm_fast.cli.main import ExitCode, main
from vsm_fast.images import decoding

one_thread = tiny_models.one_thread
EXAMPLES = Path(__file__).parents[2] / "examples"
REFERENCE = EXAMPLES / "refs/robot_toy/reference.jpg"
REFERENCE_MASK = EXAMPLES / "refs/robot_toy/reference_mask.png"
PHOTOGRAPH = EXAMPLES / "gens/robot_toy/other_photo.jpg"
MASK = EXAMPLES / "gens/robot_toy/other_photo_mask.png"
WITHOUT_SCORE = {status.value for status in Status} - {"ok"}
LONG = "long_" * 49 + ".png"  # 249 bytes; most file systems end at 255


def pixels():
    return np.asarray(Image.open(PHOTOGRAPH).convert("RGB"))


def mask():
    return np.asarray(Image.open(MASK).convert("L")) > 127


def with_chunks(content, *chunks):
    """Insert chunks after the header of a PNG."""
    end = 8 + 25
    return content[:end] + b"".join(chunks) + content[end:]


def text_bomb(content, packed_mib, chunks=1):
    """Insert compressed comments that need much more memory than the file."""
    body = b"Comment\0\0" + zlib.compress(b"a" * packed_mib * 2**20)
    return with_chunks(content, *[png_chunk(b"zTXt", body)] * chunks)


def cut(path, content):
    return written(path, content[: len(content) // 2])


def lossless(folder):
    """Write the photograph in formats that preserve its pixels; return the paths."""
    picture = Image.fromarray(pixels())
    saved(folder / "plain.png", picture)
    saved(folder / "lossless.webp", picture, lossless=True)
    saved(folder / "uncompressed.bmp", picture)
    saved(folder / "deflate.tiff", picture, compression="tiff_adobe_deflate")
    saved(folder / "opaque.png", np.dstack([pixels(), np.full(mask().shape, 255, np.uint8)]))
    others = [Image.new("RGB", picture.size, colour) for colour in ("red", "blue")]
    saved(folder / "animated.png", picture, save_all=True, append_images=others)
    saved(folder / "pages.tiff", picture, save_all=True, append_images=others)
    saved(folder / "damaged_exif.png", picture, exif=b"Exif\0\0no TIFF header")
    saved(folder / "bad_icc.png", picture, icc_profile=b"garbage" * 40)
    content = (folder / "plain.png").read_bytes()
    comment = png_chunk(b"tEXt", b"workflow\0" + b"x" * 3 * 2**20)  # some programs write megabytes
    written(folder / "comment.png", with_chunks(content, comment))
    names = ["jpeg_in_name.jpg", "猫 🐈 ё.png", "line\nfeed\t.png", "-o.png", LONG, "%s{}'\".png"]
    if os.fsencode("x") == b"x" and os.name == "posix":
        names.append(os.fsdecode(b"not_utf8_\xff.png"))
    for name in names:
        with contextlib.suppress(OSError):  # file systems differ in allowed names
            written(folder / name, content)
    return [path for path in sorted(folder.iterdir()) if path.is_file()]


def bad_files(folder):
    """Return (path, status) of files that are no images, or too large."""
    unreadable, missing, large = Status.UNREADABLE, Status.MISSING_FILE, Status.TOO_LARGE
    picture = Image.fromarray(pixels())
    content = saved(folder / "whole.png", picture).read_bytes()
    cases = [
        (written(folder / "empty.png", b""), unreadable),
        (cut(folder / "cut.jpg", PHOTOGRAPH.read_bytes()), unreadable),
        (cut(folder / "cut.png", content), unreadable),
        (cut(folder / "cut.webp", saved(folder / "a.webp", picture).read_bytes()), unreadable),
        (written(folder / "page.png", b"<!doctype html><html></html>"), unreadable),
        (written(folder / "eps.png", saved(folder / "a.eps", picture).read_bytes()), unreadable),
        (written(folder / "pdf.png", saved(folder / "a.pdf", picture).read_bytes()), unreadable),
        (written(folder / "drawing.png", b'<svg xmlns="http://www.w3.org/2000/svg"/>'), unreadable),
        (folder / "nowhere.png", missing),
        (folder / "nul\0.png", missing),
        (folder / ("x" * 300 + ".png"), missing),
        (folder, unreadable),
        (written(folder / "bomb.png", png(30_000, 30_000)), large),
        (written(folder / "below_pillows_limit.png", png(9_000, 9_000)), large),
        (written(folder / "text_bomb.png", text_bomb(content, 8)), unreadable),
        (written(folder / "many_texts.png", text_bomb(content, 1, chunks=66)), unreadable),
        (written(folder / "no_permission.png", content), unreadable),
        (written(folder / "growing.png", content), unreadable),
    ]
    if os.name == "posix":
        (folder / "loop.png").symlink_to(folder / "loop.png")
        (folder / "dangling.png").symlink_to(folder / "nowhere.png")
        os.mkfifo(folder / "pipe.png")
        with socket.socket(socket.AF_UNIX) as listener, contextlib.suppress(OSError):
            listener.bind(str(folder / "socket.png"))  # the path may be too long for a socket
        cases += [
            (folder / "loop.png", unreadable),
            (folder / "dangling.png", missing),
            (folder / "pipe.png", unreadable),
            (Path("/dev/zero"), unreadable),
            (Path("/dev/tty"), unreadable),
        ]
        if (folder / "socket.png").exists():
            cases.append((folder / "socket.png", unreadable))
    return cases


def bad_arrays():
    """Return (image, status) of arrays and objects."""
    values, unreadable = Status.BAD_VALUES, Status.UNREADABLE
    unit = torch.from_numpy(pixels().copy()).permute(2, 0, 1) / 255
    broken = [unit.clone() for _ in range(2)]
    broken[0][1, 7, 7], broken[1][2, 0, 0] = torch.nan, torch.inf
    return [
        *[(image, values) for image in (*broken, unit * 2 - 1, unit * 255)],
        (np.full((8, 8, 3), np.nan, np.float32), values),
        (np.zeros((3, 8, 8), np.uint8), unreadable),
        (np.zeros((0, 8, 3), np.uint8), unreadable),
        (torch.zeros(4, 8, 8), unreadable),
        (Image.new("RGB", (0, 5)), unreadable),
        (None, unreadable),
        *[(image, unreadable) for image in without_plain_values(unit)],
        (np.matrix(np.zeros((8, 8))), unreadable),
    ]


def without_plain_values(values):
    """Return tensors and arrays without values, or with values that cannot be compared."""
    array = values.numpy()
    return [
        values.to_sparse(),
        values.reshape(-1, values.shape[-1]).to_sparse_csr(),
        values.to("meta"),
        values.to(torch.uint8).to("meta"),
        torch.quantize_per_tensor(values.float(), 0.1, 0, torch.quint8),
        torch.nested.nested_tensor([values.float(), values[..., 1:].float()]),
        values.to(torch.complex64),
        array.astype(object),
        array.astype(np.complex64),
        np.ma.masked_array(array, mask=array == 0),
        np.ma.masked_array(array.astype(np.uint8), mask=array == 0),
    ]


def bad_masks(folder):
    """Return (mask of the photograph, status)."""
    bad = Status.BAD_MASK
    cases = [
        (mask()[:-1], bad),
        (mask()[..., None], bad),
        (mask().astype(np.float32), bad),
        (np.zeros_like(mask()), Status.EMPTY_MASK),
        (saved(folder / "black.png", Image.new("L", mask().shape[::-1])), Status.EMPTY_MASK),
        (folder / "no_mask.png", Status.MISSING_FILE),
        (cut(folder / "cut_mask.png", MASK.read_bytes()), bad),
        (written(folder / "page_mask.png", b"<html>"), bad),
        (written(folder / "bomb_mask.png", png(30_000, 30_000)), bad),
        (saved(folder / "nan.tiff", np.full(mask().shape, np.nan, np.float32)), bad),
        (folder, bad),
        (7, bad),
        *[(given, bad) for given in without_plain_values(torch.from_numpy(mask()))],
    ]
    if os.name == "posix":
        os.mkfifo(folder / "mask_pipe.png")
        cases += [(folder / "mask_pipe.png", bad), (Path("/dev/zero"), bad)]
    return cases


@pytest.fixture(scope="module")
def scorer():
    return VSMScorer.from_pretrained("tiny", device="cpu")


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """All bad inputs, as (image, mask, status)."""
    folder = tmp_path_factory.mktemp("bad")
    (folder / "masks").mkdir()
    flat = np.full((64, 64, 3), 127, np.uint8)
    invisible = np.dstack([pixels(), np.zeros(mask().shape, np.uint8)])
    return [
        *[(path, None, status) for path, status in bad_files(folder)],
        *[(image, None, status) for image, status in bad_arrays()],
        *[(PHOTOGRAPH, given, status) for given, status in bad_masks(folder / "masks")],
        (invisible, None, Status.EMPTY_MASK),
        (flat, AutoMask(), Status.NO_SUBJECT),
        (flat[:1, :1], AutoMask(), Status.NO_SUBJECT),
    ]


@pytest.fixture
def meddling(monkeypatch):
    """Deny reading one file, even for root, and let another one grow while it is read."""
    plain_open, plain_decode = Path.open, decoding._decode_file

    def opened(path, *arguments, **options):
        if path.name == "no_permission.png":
            raise PermissionError(13, "Permission denied", str(path))
        return plain_open(path, *arguments, **options)

    def decoded(file, name, limit):
        if name.endswith("growing.png"):
            with plain_open(Path(name), "ab") as writer:
                writer.write(b"more")
        return plain_decode(file, name, limit)

    monkeypatch.setattr(Path, "open", opened)
    monkeypatch.setattr(decoding, "_decode_file", decoded)


def mixed(bad):
    """Mix good rows (image, mask) with bad ones; return all rows and the positions of both."""
    bear = EXAMPLES / "gens/bear_plushie/repainted.jpg"
    good = [
        (PHOTOGRAPH, MASK),
        (EXAMPLES / "gens/robot_toy/repainted.jpg", None),
        (pixels(), np.matrix(mask())),
        (torch.tensor(pixels() / 255).permute(2, 0, 1).requires_grad_(), torch.from_numpy(mask())),
        (bear, bear.with_name("repainted_mask.png")),
        (PHOTOGRAPH, AutoMask()),
    ]

    together, good_places, bad_places = [], [], []
    for number, row in enumerate(bad):
        if number % 6 == 0:
            good_places.append(len(together))
            together.append(good[number // 6 % len(good)])
        bad_places.append(len(together))
        together.append(row[:2])
    return together, good_places, bad_places


@pytest.mark.parametrize("batch_size", [1, None])
def test_bad_rows_leave_good_rows_unchanged(scorer, rows, meddling, batch_size):
    together, good, bad = mixed(rows)
    assert len(good) > 10

    def score(chosen):
        images, masks = zip(*chosen, strict=True)
        return scorer.score(
            [REFERENCE], images, ref_masks=[REFERENCE_MASK], gen_masks=masks, batch_size=batch_size
        )

    clean, found = score([together[place] for place in good]), score(together)
    assert len(found) == len(together)
    assert [found.status[place] for place in bad] == [row[2].value for row in rows], found.reason
    assert np.isnan(found.score[bad]).all()
    assert all(found.reason[place] for place in bad)
    reasons = {str(together[place][0]): found.reason[place] for place in bad}
    texts = [reason for name, reason in reasons.items() if "text" in Path(name).name]
    assert len(texts) == 2
    assert all("TEXT" in reason for reason in texts)
    assert set(found.status[good]) == {"ok"}
    assert found.gen_id.tolist() == [
        str(image) if isinstance(image, Path) else f"gen[{place}]"
        for place, (image, _) in enumerate(together)
    ]
    for number, place in enumerate(good):
        one, alone = found[place], clean[number]
        if batch_size == 1:
            assert one.score == alone.score
            np.testing.assert_array_equal(one.visual_similarity, alone.visual_similarity)
        else:  # the batch may change last bits and so move a point across the threshold
            assert abs(one.score - alone.score) <= 1.5 / alone.n_matched


def test_bad_references_affect_only_their_rows(scorer, rows, meddling):
    images, masks, statuses = zip(*rows, strict=True)
    generation = {"gen_masks": [MASK], "batch_size": 1}
    found = scorer.score(
        [*images, REFERENCE], [PHOTOGRAPH], ref_masks=[*masks, REFERENCE_MASK],
        pairs=[[number, 0] for number in range(len(rows) + 1)], **generation,
    )  # fmt: skip
    clean = scorer.score([REFERENCE], [PHOTOGRAPH], ref_masks=[REFERENCE_MASK], **generation)
    assert found.status.tolist() == [*(status.value for status in statuses), "ok"]
    assert all(reason.startswith("reference: ") for reason in found.reason[:-1])
    assert found.score[-1] == clean.score[0]


def test_unusual_files_of_the_same_pixels_score_the_same(scorer, tmp_path):
    paths = lossless(tmp_path)
    assert len(paths) >= 14
    found = scorer.score(
        [REFERENCE], [pixels(), *paths], ref_masks=[REFERENCE_MASK],
        gen_masks=[mask()] * (len(paths) + 1), batch_size=1,
    )  # fmt: skip
    assert set(found.status) == {"ok"}, found.reason
    assert len(set(found.score.tolist())) == 1, dict(zip(found.gen_id, found.score, strict=True))
    found.to_csv(tmp_path / "scores.csv")
    found.to_jsonl(tmp_path / "scores.jsonl")
    found.to_parquet(tmp_path / "scores.parquet")
    with (tmp_path / "scores.csv").open(encoding="utf-8", newline="") as file:
        ids = [row["gen_id"] for row in csv.DictReader(file)]
    lines = (tmp_path / "scores.jsonl").read_text(encoding="utf-8").split("\n")[:-1]
    assert [json.loads(line)["gen_id"] for line in lines] == found.gen_id.tolist()
    printable = [name.encode("utf-8", "backslashreplace").decode() for name in found.gen_id]
    assert ids == pq.read_table(tmp_path / "scores.parquet")["gen_id"].to_pylist() == printable


@pytest.mark.parametrize("orientation", [3, 5, 6])
def test_rotated_photographs_score_like_upright_ones(scorer, tmp_path, orientation):
    inverse = {6: 8, 8: 6}.get(orientation, orientation)
    exif = exif_of(orientation)
    top = mask().shape[0] * 3 // 4  # not square, to reveal a mask that is not turned back
    upright, subject = pixels()[:top], mask()[:top]
    photograph = saved(tmp_path / "a.png", decoding.orient(upright, inverse), exif=exif)
    turned = decoding.orient(subject, inverse)
    with_exif = saved(tmp_path / "m.png", Image.fromarray(turned).convert("L"), exif=exif)
    masks = [subject, with_exif, turned]  # the content decides about the last one
    found = scorer.score(
        [REFERENCE], [upright, *[photograph] * len(masks)], ref_masks=[REFERENCE_MASK],
        gen_masks=[subject, *masks], batch_size=1,
    )  # fmt: skip
    assert set(found.status) == {"ok"}
    assert len(set(found.score.tolist())) == 1


def test_unusual_images_have_one_row_each(scorer, tmp_path):
    """Altered or nearly absent pixels are scored, or match nothing."""
    picture, rng = Image.fromarray(pixels()), np.random.default_rng(0)
    deep = pixels()[..., 0].astype(np.uint16) * 257
    images = [
        saved(tmp_path / "deep.png", deep),
        saved(tmp_path / "cmyk.jpg", picture.convert("CMYK")),
        saved(tmp_path / "palette.png", picture.quantize(64)),
        saved(tmp_path / "animated.gif", picture, save_all=True, append_images=[picture.rotate(9)]),
        saved(tmp_path / "icc.png", picture, icc_profile=icc_profile(b"RGB ")),
        saved(tmp_path / "one_bit.png", picture.convert("1")),
        rng.integers(0, 256, (1, 1, 3), np.uint8),
        rng.integers(0, 256, (20, 20_000, 3), np.uint8),
        rng.integers(0, 256, (20_000, 20, 3), np.uint8),
        Image.new("RGB", (512, 512), "white"),
    ]
    dot = np.zeros_like(mask())
    dot[100, 100] = True  # between the centres of the grid's cells
    scattered = np.zeros_like(mask())
    scattered.ravel()[rng.permutation(scattered.size)[:263]] = True
    found = scorer.score(
        [REFERENCE], [*images, *[PHOTOGRAPH] * 3], ref_masks=[REFERENCE_MASK],
        gen_masks=[None] * len(images) + [dot, scattered, mask()],
    )  # fmt: skip
    assert len(found) == len(images) + 3
    tiny, whole = Flag.TINY_SUBJECT.value, Flag.NO_MASK.value
    grey = f"{whole},{Flag.NEARLY_GREY.value}"
    assert found.flags.tolist()[:6] == [grey, whole, whole, whole, whole, grey]
    assert found.flags.tolist()[6:10] == [f"{whole},{tiny}", whole, whole, grey]
    assert found.flags.tolist()[-3:] == [tiny, tiny, ""]
    assert "generation: the subject has 263 pixels in" in found.notes[-2]
    assert set(found.status[:5]) == {"ok"}
    assert set(found.status) <= {"ok", Status.NO_MATCH.value}
    assert (found.n_source > 0).all()
    assert np.array_equal(np.isnan(found.score), found.status != "ok")


def test_a_manifest_of_bad_files_gives_one_row_each(rows, meddling, tmp_path, capsys):
    paths = [(str(row[0]), row[2].value) for row in rows if isinstance(row[0], Path)
             and row[1] is None and "\0" not in str(row[0])]  # fmt: skip
    paths.insert(5, (str(PHOTOGRAPH), "ok"))
    lines = [json.dumps({"ref": str(REFERENCE), "gen": path}) for path, _ in paths]
    (tmp_path / "pairs.jsonl").write_text("\n".join(lines))
    out = tmp_path / "scores.jsonl"
    command = ["score", "--manifest", str(tmp_path / "pairs.jsonl"), "--out", str(out)]
    assert main([*command, "--device", "cpu", "--heatmaps", str(tmp_path)]) == ExitCode.UNSCORED
    written_rows = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert [row["status"] for row in written_rows] == [status for _, status in paths]
    assert len(list(tmp_path.glob("*.png"))) == 1
    assert "without a score" in capsys.readouterr().out


def test_every_status_without_a_score_occurs_here(rows):
    met = {row[2].value for row in rows} | {Status.NO_MATCH.value}
    assert met == WITHOUT_SCORE
