from __future__ import annotations

import json
import math

import pytest

from vsm_fast.errors import PairingError
from vsm_fast.lab.evaluation.ratings import ListMeaning, join_ratings, load_ratings


def write(path, content) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def test_the_merged_layout(tmp_path) -> None:
    """Two groups, one file a method and question; prompt following is another question."""
    for group, score in (("group1", 4), ("group2", 2)):
        write(tmp_path / group / "emu2-cp.json", {"object_03-0": score, "object_03-1": 1})
        write(tmp_path / group / "emu2-pf.json", {"object_03-0": 0})
        write(tmp_path / group / "dreambooth_sd-cp.json", {"object_03-0": 0})
    assert load_ratings(tmp_path) == {
        "emu2/object_03-0": 3,
        "emu2/object_03-1": 1,
        "dreambooth_sd/object_03-0": 0,
    }


def test_the_raw_layout_lists_two_questions(tmp_path) -> None:
    path = tmp_path / "first-emu2.json"
    write(path, {"object_03-0": [4, 0], "object_03-1": [None, 3]})
    assert load_ratings(path, ListMeaning.CP_PF) == {"object_03-0": 4}
    assert load_ratings(path) == {"object_03-0": 2, "object_03-1": 3}


def test_nested_mappings_and_missing_ratings(tmp_path) -> None:
    path = tmp_path / "ratings.json"
    path.write_text('{"object": {"emu2": {"a": [1, 2, null, NaN], "b": null, "c": []}}, "d": 3.5}')
    assert load_ratings(path) == {"object/emu2/a": 1.5, "d": 3.5}


def test_joining_by_whole_id_or_by_its_end() -> None:
    ratings = {"emu2/a": 1.0, "sd/a": 2.0, "emu2/b": 3.0, "c": 4.0}
    assert join_ratings(ratings, ["emu2/a", "sd/a", "b", "c"]) == [1, 2, 3, 4]
    ambiguous, unknown, known = join_ratings(ratings, ["a", "z", "c"])
    assert math.isnan(ambiguous)
    assert math.isnan(unknown)
    assert known == 4


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"a": "good"}', "a is 'good'; a number"),
        ('{"a": [1, true]}', "a number, null"),
        ("[1, 2]", "holds a list; a mapping"),
        ("{", "cannot be read as JSON"),
        ('{"a": 1, "a": 2}', "the key a twice"),
    ],
)
def test_other_content_is_refused(tmp_path, content: str, message: str) -> None:
    path = tmp_path / "ratings.json"
    path.write_text(content)
    with pytest.raises(PairingError, match=message):
        load_ratings(path)


def test_what_cannot_be_joined_is_refused(tmp_path) -> None:
    with pytest.raises(PairingError, match="holds no ratings"):
        load_ratings(tmp_path)
    write(tmp_path / "a.json", {"x": [1, 2, 3]})
    with pytest.raises(PairingError, match="x has 3 numbers"):
        load_ratings(tmp_path / "a.json", ListMeaning.CP_PF)
    with pytest.raises(PairingError, match="several pairs have the id 'x'"):
        join_ratings({"x": 1.0}, ["x", "x"])
    with pytest.raises(PairingError, match="like 'y', those of the ratings like 'x'"):
        join_ratings({"x": 1.0}, ["y"])
