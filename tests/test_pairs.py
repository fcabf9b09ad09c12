"""Pairs of noisy and clean pictures: found by name, and told apart by scene."""

from pathlib import Path

import cv2
import pytest
from helpers import PAIR_NAMES, PAIR_PATTERNS, synthetic_picture, write_folder

from smnet.images import PictureFiles
from smnet.pairs import find_pairs, hold_out, match, scene
from utils import SMNetError


def test_patterns_match_by_what_their_stars_stand_for():
    assert match(Path("a/x_real_1.JPG"), "*_real*") == "a/x__1"
    assert match(Path("x_mean.JPG"), "*_real*") is None
    assert (
        match(Path("noisy/x.png"), "noisy/*") == "x"
        and match(Path("clean/x.jpg"), "clean/*") == "x"
    )
    assert (
        match(Path("x_real.png"), "*_real.png") == "x"
        and match(Path("x_real.jpg"), "*_real.png") is None
    )
    assert scene("Canon_5_160_chair_11") == scene("Canon_5_160_chair_2") == "Canon_5_160_chair"
    assert (
        scene("plant__3") == scene("plant_4") and scene("123") == "123" and scene("0/12") == "0/12"
    )


def test_pairs_by_pattern_by_folder_and_what_has_no_partner(pairs_folder):
    pairs, problems = find_pairs(["data/PolyU"], *PAIR_PATTERNS)
    assert [pair.name for pair in pairs] == PAIR_NAMES and not problems
    assert (
        pairs[0].noisy.name == "canon_chair_1_real.png"
        and pairs[0].clean.name == "canon_chair_1_mean.png"
    )

    for i, name in enumerate(("a", "sub/b", "c")):  # two folders, names alike but for their endings
        for side, ending in (("noisy", "jpg"), ("clean", "png")):
            if (name, side) != ("c", "clean"):
                path = pairs_folder / side / f"{name}.{ending}"
                path.parent.mkdir(parents=True, exist_ok=True)
                cv2.imwrite(str(path), synthetic_picture(i, 40, 40, 3))
    for how in (
        (["."], "noisy", "clean"),
        (["."], str(pairs_folder / "noisy"), str(pairs_folder / "clean")),
        (["."], "noisy/*", "clean/*"),
    ):
        pairs, problems = find_pairs(*how)
        assert [pair.name for pair in pairs] == ["a", "sub/b"]
        assert len(problems) == 1 and "noisy/c.jpg: has no clean partner" in problems[0]
    cv2.imwrite("noisy/a.png", synthetic_picture(0, 40, 40, 3))
    assert "is a second picture of that name" in find_pairs(["."], "noisy", "clean")[1][0]

    for name in ("d", "d_noisy"):  # a star alone is every other picture
        (pairs_folder / "other").mkdir(exist_ok=True)
        cv2.imwrite(f"other/{name}.png", synthetic_picture(0, 40, 40, 3))
    for words in (("*_noisy", "*"), ("*", "*_noisy")):
        (pair,), problems = find_pairs(["other"], *words)
        assert (
            pair.name == "d"
            and {pair.clean.name, pair.noisy.name} == {"d.png", "d_noisy.png"}
            and not problems
        )
    for words, said in (
        ((["."], "noisy", "cleen"), "cleen is not a folder"),
        (
            (["data/PolyU"], "*_x*", "*_y*"),
            "no pair .* in data/PolyU: 0 noisy pictures, 0 clean ones",
        ),
        ((["data/CC"], *PAIR_PATTERNS), "no folder data/CC; fetch it: python download.py CC"),
    ):
        with pytest.raises(SMNetError, match=said):
            find_pairs(*words)


def test_whole_scenes_are_set_aside(pairs_folder):
    pairs, _ = find_pairs(["data/PolyU"], *PAIR_PATTERNS)
    for count in (1, 2, 3, 4, 5):
        train, val = hold_out(pairs, count)
        assert len(train) + len(val) == 6 and count / 2 <= len(val) <= count
        assert not {scene(pair.name) for pair in train} & {scene(pair.name) for pair in val}
        assert (train, val) == hold_out(pairs, count)
    with pytest.raises(SMNetError, match="cannot be set aside"):
        hold_out(pairs, 6)
    numbered = [
        PictureFiles(f"img_{i}", Path(), Path()) for i in range(5)
    ]  # one "scene": every pair is its own
    assert [len(part) for part in hold_out(numbered, 2)] == [3, 2]
    with pytest.raises(
        SMNetError, match="2 scenes, of 1 to 5 pairs"
    ):  # one pair is too few to validate on
        hold_out([*numbered, PictureFiles("cover", Path(), Path())], 4)


def test_links_to_one_clean_picture_are_pairs_of_their_own(tmp_path):
    write_folder(tmp_path / "truth", 2)
    for i in range(6):
        for side in ("noisy", "clean"):
            (tmp_path / side).mkdir(exist_ok=True)
        (tmp_path / "noisy" / f"{i}.png").write_bytes(
            (tmp_path / "truth" / f"0{i % 2}.png").read_bytes()
        )
        (tmp_path / "clean" / f"{i}.png").symlink_to(tmp_path / "truth" / f"0{i % 2}.png")
    found, problems = find_pairs([tmp_path], "noisy", "clean")
    assert len(found) == 6 and not problems
