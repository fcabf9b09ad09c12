"""Pairs of pictures of one scene, noisy and clean: finding them by their names, and telling scenes
apart."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from smnet.images import SUFFIXES, PictureFiles, canonical_path, find_pictures
from utils import SMNetError


def find_pairs(
    folders: Sequence[str | Path], noisy: str, clean: str
) -> tuple[list[PictureFiles], list[str]]:
    """The pairs, sorted by name, and a line for each picture that has no partner.

    Args:
        folders: where the pictures are.
        noisy, clean: each a folder below `folders` (or any, by its whole path), or a pattern of
            names with `*`, as "*_real*" and "*_mean*". Pictures belong together whose paths in
            their folders, endings aside, are the same, or what the `*` stand for. Patterns are
            looked for in all folders below, and one with "/" is of the path.

    Raises:
        SMNetError: no such folder, or no pair.
    """
    theirs, problems = one_side(folders, noisy, clean)
    ours, more = one_side(folders, clean, noisy)
    problems += more
    for side, others, what in ((theirs, ours, "clean"), (ours, theirs, "noisy")):
        problems += [
            f"{path}: has no {what} partner"
            for name, path in sorted(side.items())
            if name not in others
        ]
    names = sorted(theirs.keys() & ours.keys())
    if not names:
        where = ", ".join(map(str, folders))
        raise SMNetError(
            f"no pair {noisy}, {clean} in {where}: {len(theirs)} noisy pictures, {len(ours)} "
            "clean ones, and no name in common"
        )
    return [PictureFiles(name, clean=ours[name], noisy=theirs[name]) for name in names], problems


def one_side(
    folders: Sequence[str | Path], word: str, other: str
) -> tuple[dict[str, Path], list[str]]:
    """(the pictures that a folder or a pattern means, by the name that their partners have, too; a
    line for each whose name is taken)."""
    side: dict[str, Path] = {}
    problems, files = [], set()
    for i, folder in enumerate(folders):
        for key, path in named(Path(folder), word, other):
            name = f"{i}/{key}" if len(folders) > 1 else key
            if canonical_path(path) in files:  # folders overlap
                continue
            files.add(canonical_path(path))
            if name in side:
                problems.append(f"{path}: is a second picture of that name beside {side[name]}")
            else:
                side[name] = path
    return side, problems


def named(folder: Path, word: str, other: str) -> Iterator[tuple[str, Path]]:
    """(name that its partner has, too; path) of the pictures that a folder or a pattern means.

    What the partners' pattern `other` matches as well belongs to the one that says more: "*" is all
    but "*_noisy".
    """
    if "*" not in word:
        if not (folder / word).is_dir():
            raise SMNetError(
                f"{folder / word} is not a folder; give a folder, or a pattern with * in it"
            )
        for path in find_pictures(folder / word):
            yield path.relative_to(folder / word).with_suffix("").as_posix(), path
        return
    says_more = "*" in other and len(other.replace("*", "")) > len(word.replace("*", ""))
    for path in find_pictures(folder):
        relative = path.relative_to(folder)
        key = match(relative, word)
        if key is not None and not (says_more and match(relative, other) is not None):
            yield key, path


def match(path: Path, pattern: str) -> str | None:
    """What the `*` of a pattern stand for in a path, without its ending, or None where it does not
    match."""
    has_ending = pattern.lower().endswith(SUFFIXES)
    whole = "/" in pattern
    text = (path if whole else Path(path.name)).as_posix()
    text = text if has_ending else text.removesuffix(path.suffix)
    found = re.fullmatch(
        "".join("(.*)" if char == "*" else re.escape(char) for char in pattern), text
    )
    if not found:
        return None
    parts = [part for part in found.groups() if part]
    return "/".join([*([] if whole else path.parent.parts), "_".join(parts) or text])


def scene(name: str) -> str:
    """The scene of a pair: its name without a number at the end, so that crops of one photograph
    stay together."""
    folder, slash, last = name.rpartition("/")
    return folder + slash + (re.sub(r"[ _.-]*\d+$", "", last) or last)


def by_scene(pairs: list[PictureFiles]) -> dict[str, list[PictureFiles]]:
    """The pairs of each scene; where all would be one scene (img_1, img_2, ...), every pair is one
    of its own."""
    found: dict[str, list[PictureFiles]] = {}
    for pair in pairs:
        found.setdefault(scene(pair.name), []).append(pair)
    return found if len(found) > 1 else {pair.name: [pair] for pair in pairs}


def hold_out(
    pairs: list[PictureFiles], count: int
) -> tuple[list[PictureFiles], list[PictureFiles]]:
    """(pairs to train on, pairs set aside): whole scenes, drawn alike every time, that make up
    `count` pairs or fewer.

    Raises:
        SMNetError: nothing would be left to train on, or the scenes are so large that not even half
            of `count` can be had.
    """
    scenes, aside = list(by_scene(pairs).values()), []
    for i in np.random.default_rng(0).permutation(len(scenes)):
        if len(aside) + len(scenes[i]) <= count:
            aside += scenes[i]
    if len(aside) < count / 2 or len(aside) == len(pairs):
        sizes = sorted(map(len, scenes))
        raise SMNetError(
            f"{count} of {len(pairs)} pairs cannot be set aside: there are {len(scenes)} scenes, "
            f"of {sizes[0]} to {sizes[-1]} pairs (a scene is a name without the number at its "
            "end); give another --holdout"
        )
    chosen = {pair.name for pair in aside}
    return [pair for pair in pairs if pair.name not in chosen], sorted(aside)
