"""Plans: shards depend only on the manifest and the shard size."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from vsm_fast.errors import PairingError
from vsm_fast.jobs.errors import JobError
from vsm_fast.jobs.manifest import Manifest
from vsm_fast.jobs.pairing import Pairing, PairRow
from vsm_fast.jobs.plan import ListedPairs, make_plan, read_shards


def _rows(count):
    return tuple(PairRow(f"{i}", "s", Path("/a/r.png"), Path(f"/a/{i}.png")) for i in range(count))


def _listed(rows, base="/a/"):
    return ListedPairs(Pairing(tuple(rows)), base)


@pytest.mark.parametrize(("rows", "sizes"), [(1, [1]), (4, [4]), (9, [4, 4, 1])])
def test_every_row_is_in_one_shard(rows, sizes):
    source = _listed(_rows(rows))
    plan = make_plan(source, 4)
    assert (plan.rows, plan.shards) == (rows, len(sizes))
    assert [plan.rows_of(shard) for shard in range(plan.shards)] == sizes
    shards = list(read_shards(source, plan, range(plan.shards)))
    assert [i for shard in shards for i in shard.positions] == list(range(rows))
    assert [row for shard in shards for row in shard.rows] == list(source.rows())
    assert [shard.number for shard in read_shards(source, plan, {plan.shards - 1})] == [
        plan.shards - 1
    ]


def test_every_field_of_a_row_changes_the_digest():
    rows = _rows(6)
    digest = make_plan(_listed(rows), 4).sha256
    assert make_plan(_listed(rows), 2).sha256 == digest
    changes = (
        {"id": "x"}, {"subject": "x"}, {"generator": "x"}, {"ref": Path("/a/x")},
        {"gen": Path("/a/x")}, {"ref_mask": Path("/a/x")}, {"gen_mask": Path("/a/x")},
    )  # fmt: skip
    found = {
        make_plan(_listed([*rows[:-1], replace(rows[-1], **change)]), 4).sha256
        for change in changes
    }
    assert len(found | {digest}) == len(changes) + 1
    moved = [
        replace(row, ref=Path(f"/b{row.ref.as_posix()[2:]}"), gen=Path(f"/b/{row.gen.name}"))
        for row in rows
    ]
    assert make_plan(_listed(moved, "/b/"), 4).sha256 == digest


def test_reading_holds_one_shard():
    alive = []

    class Endless:
        base = ""

        def rows(self, notes=None):
            for i in range(100):
                alive.append(i)
                yield PairRow(f"{i}", "", Path("r"), Path(f"{i}"))

    plan = make_plan(Endless(), 10)
    alive.clear()
    first = next(iter(read_shards(Endless(), plan, range(10))))
    assert len(first.rows) == len(alive) == 10


def _digest(folder, rows, location="m.csv"):
    lines = ["id,subject,generator,ref,gen", *rows]
    (folder / "m.csv").write_text("\n".join(lines))
    return make_plan(Manifest(location), 4).sha256


def test_a_moved_manifest_has_the_same_digest(tmp_path, monkeypatch):
    """Dots in names are not the folder of the manifest."""
    (tmp_path / "a").mkdir()
    monkeypatch.chdir(tmp_path / "a")
    names = ("x1.0.png", "x.10.png", "x10..png", "x10.png", "../x10.png", "/x10.png")
    found = [_digest(Path(), [f"i,,,r.png,{name}"]) for name in names]
    assert len(set(found)) == len(names)
    (tmp_path / "b").mkdir()
    for name, digest in list(zip(names, found, strict=True))[:-1]:
        row = f"i,,,r.png,{name}"
        assert _digest(tmp_path / "b", [row], str(tmp_path / "b" / "m.csv")) == digest


def test_fields_do_not_run_together(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = ("a\x1fb,c,g,r.png,x.png", "a,b\x1fc,g,r.png,x.png", "a,b,c\x1fg,r.png,x.png")
    assert len({_digest(Path(), [row]) for row in rows}) == 3


@pytest.mark.parametrize("left", [0, 4, 8, 9, 11])
def test_a_shorter_manifest_is_refused(left):
    rows = _rows(12)
    plan = make_plan(_listed(rows), 4)
    with pytest.raises(JobError, match="manifest changed"):
        list(read_shards(_listed(rows[:left]), plan, range(3)))
    assert len(list(read_shards(_listed(rows[:8]), plan, {0, 1}))) == 2


def test_an_empty_list():
    with pytest.raises(PairingError, match="no pair"):
        make_plan(_listed(()), 4)
