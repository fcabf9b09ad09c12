"""Pairs of pictures of one scene, noisy and clean: finding them by their names, and telling scenes apart."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pictures import SUFFIXES, Picture, find_pictures, read_picture
from utils import SMNetError


class PairFiles(NamedTuple):
    """The two files of a pair; `name` is what their names have in common."""

    name: str
    clean: Path
    noisy: Path


def find_pairs(folders: Sequence[str | Path], noisy: str, clean: str) -> tuple[list[PairFiles], list[str]]:
    """The pairs, sorted by name, and a line for each picture that has no partner.

    Args:
        folders: where patterns are looked for, with all folders in them; not used where `noisy` and `clean` are folders.
        noisy, clean: two folders whose files bear the same names (endings aside), or two patterns of names with `*`, as
            "*_real*" and "*_mean*": files belong together where the `*` stand for the same. A pattern with "/" is of paths.

    Raises:
        SMNetError: no such folder, no pattern, or no pair.
    """
    if Path(noisy).is_dir() and Path(clean).is_dir():
        sides = [{str(p.relative_to(side).with_suffix("")): p for p in find_pictures(side)} for side in (noisy, clean)]
        where, problems = f"{noisy} and {clean}", []
    else:
        for pattern in (noisy, clean):
            if "*" not in pattern:
                raise SMNetError(f"{pattern} is neither a folder nor a pattern with *; give two of the one or two of the other")
        if not folders:
            raise SMNetError(f"{noisy} and {clean} are patterns: give the folders to look in")
        sides, problems = match_patterns(folders, noisy, clean)
        where = ", ".join(map(str, folders))
    theirs, ours = sides
    for side, other, what in ((theirs, ours, "clean"), (ours, theirs, "noisy")):
        problems += [f"{path}: has no {what} partner" for name, path in sorted(side.items()) if name not in other]
    names = sorted(theirs.keys() & ours.keys())
    if not names:
        raise SMNetError(f"no pair in {where}: {len(theirs)} noisy pictures, {len(ours)} clean ones, none of one name")
    return [PairFiles(name, clean=ours[name], noisy=theirs[name]) for name in names], problems


def match_patterns(folders: Sequence[str | Path], noisy: str, clean: str) -> tuple[list[dict[str, Path]], list[str]]:
    """([noisy pictures, clean ones], lines on those that are there twice): each picture by what its `*` stand for."""
    sides: list[dict[str, Path]] = [{}, {}]
    problems = []
    # What both would match, as "*", belongs to the pattern that says more.
    by_letters = sorted(((noisy, sides[0]), (clean, sides[1])), key=lambda item: -len(item[0].replace("*", "")))
    for i, folder in enumerate(folders):
        for path in find_pictures(folder):
            relative = path.relative_to(folder)
            for pattern, side in by_letters:
                key = match(relative, pattern)
                if key is None:
                    continue
                name = f"{i}/{key}" if len(folders) > 1 else key
                if name in side:
                    problems.append(f"{path}: is a second picture {name} beside {side[name]}")
                else:
                    side[name] = path
                break
    return sides, problems


def match(path: Path, pattern: str) -> str | None:
    """What the `*` of a pattern stand for in a path, without its ending, or None where it does not match."""
    has_ending = pattern.lower().endswith(SUFFIXES)
    whole = "/" in pattern
    text = (path if whole else Path(path.name)).as_posix()
    text = text if has_ending else text.removesuffix(path.suffix)
    found = re.fullmatch("".join("(.*)" if char == "*" else re.escape(char) for char in pattern), text)
    if not found:
        return None
    parts = [part for part in found.groups() if part]
    return "/".join([*([] if whole else path.parent.parts), "_".join(parts) or text])


def read_pair(files: PairFiles, channels: int) -> Picture:
    """Read both pictures.

    Raises:
        SMNetError: one cannot be read, or their sizes differ.
    """
    clean, noisy = read_picture(files.clean, channels), read_picture(files.noisy, channels)
    if clean.shape != noisy.shape:
        sizes = [f"{side.shape[2]}x{side.shape[1]}" for side in (noisy, clean)]
        raise SMNetError(f"{files.noisy}: is {sizes[0]}, its clean partner {files.clean.name} is {sizes[1]}")
    return Picture(files.name, clean, noisy)


def scene(name: str) -> str:
    """The scene of a pair: its name without a number at the end, so that crops of one photograph stay together."""
    return re.sub(r"[ _.-]*\d+$", "", name) or name


def hold_out(pairs: list[PairFiles], count: int) -> tuple[list[PairFiles], list[PairFiles]]:
    """(pairs to train on, pairs set aside): whole scenes, drawn alike every time, that make up `count` pairs or a few fewer.

    Raises:
        SMNetError: nothing would be left to train on, or every scene is larger than `count`.
    """
    by_scene: dict[str, list[PairFiles]] = {}
    for pair in pairs:
        by_scene.setdefault(scene(pair.name), []).append(pair)
    scenes, aside = list(by_scene), []
    for i in np.random.default_rng(0).permutation(len(scenes)):
        if len(aside) + len(by_scene[scenes[i]]) <= count:
            aside += by_scene[scenes[i]]
    if not aside or len(aside) == len(pairs):
        raise SMNetError(
            f"{count} of {len(pairs)} pairs cannot be set aside by scene: there are {len(scenes)}, the smallest of "
            f"{min(map(len, by_scene.values()))} pairs (a scene is a name without the number at its end); another --holdout"
        )
    chosen = {pair.name for pair in aside}
    return [pair for pair in pairs if pair.name not in chosen], sorted(aside)
