"""The test sets of test_*.py: folders of pictures or of pairs, .h5 files, the sample."""

from collections import Counter
from collections.abc import Sequence
from itertools import chain, count
from pathlib import Path
from typing import NamedTuple

from smnet.images import (
    SAMPLE_TEST,
    Picture,
    PictureFiles,
    download_advice,
    find_pictures,
    sample_pictures,
)
from smnet.pairs import find_pairs
from smnet.patches import read_pictures
from utils import SMNetError, describe


class PictureSet(NamedTuple):
    """A test set."""

    pictures: list[Picture]
    unread: int = 0  # pictures of it that could not be read


def load_sets(
    wanted: Sequence[str],
    data_dir: str,
    channels: int,
    *,
    pairs: tuple[str, str] | None = None,
) -> tuple[dict[str, PictureSet], list[str]]:
    """(the test sets by their names, what could not be read)."""
    sets, problems = {}, []
    for word, name in set_names(wanted).items():
        try:
            sets[name], skipped = load_set(word, data_dir, channels, pairs=pairs)
            problems += skipped
        except SMNetError as error:
            problems.append(str(error))
    return sets, problems


def set_names(wanted: Sequence[str]) -> dict[str, str]:
    """A name of its own for each set: the last part of what was typed, or where another set has
    that, all of it, or its whole path."""
    names: dict[str, str] = {}
    for word in dict.fromkeys(wanted):
        path = Path(word).resolve()
        choices = chain((path.name, word, str(path)), (f"{word} ({n})" for n in count(2)))
        names[word] = next(name for name in choices if name not in names.values())
    return names


def load_set(
    wanted: str, data_dir: str, channels: int, *, pairs: tuple[str, str] | None = None
) -> tuple[PictureSet, list[str]]:
    """(a test set, a line for each of its pictures that could not be read).

    Args:
        wanted: a folder in `data_dir`, any folder, "sample", or an .h5 file of validation pictures
            or pairs, as dataset*.py write.
        data_dir: folder of the test sets.
        channels: of the pictures, 1 or 3.
        pairs: where noisy partners are wanted, the two patterns or folders of `find_pairs`.

    Raises:
        SMNetError: no such set or folder, or no readable picture in it.
    """
    if Path(wanted).suffix == ".h5":
        return PictureSet(load_h5(wanted, channels, pairs=bool(pairs))), []
    if wanted == "sample" and not pairs:
        return PictureSet(sample_pictures(SAMPLE_TEST, channels)), []
    folder = find_folder(wanted, data_dir, pairs=bool(pairs))
    if pairs:
        files, alone = find_pairs([folder], *pairs)
    else:
        files, alone = files_in(folder), []
    pictures, problems = [], [f"skipped {line}" for line in alone]
    for file in files:
        try:
            pictures.append(file.read(channels))
        except SMNetError as error:
            problems.append(f"skipped {error}")
    if not pictures:
        what = "pairs" if pairs else "pictures"
        raise SMNetError(f"none of the {len(files)} {what} in {folder} can be read")
    return PictureSet(pictures, unread=len(files) - len(pictures)), problems


def load_h5(path: str, channels: int, *, pairs: bool) -> list[Picture]:
    """The validation pictures or pairs in an .h5 file.

    Raises:
        SMNetError: it cannot be read, or holds the other of the two.
    """
    found = read_pictures(path, channels, pairs=None)
    if pairs and found[0].noisy is None:
        raise SMNetError(f"{path} holds no pairs of real noise, which --mode R tests on")
    if not pairs and found[0].noisy is not None:
        raise SMNetError(f"{path} holds pairs of real noise, which only --mode R tests on")
    return found


def find_folder(wanted: str, data_dir: str, *, pairs: bool) -> Path:
    """The folder of a test set: in `data_dir`, or as it was typed.

    Raises:
        SMNetError: there is no such folder; the message says how to get the set.
    """
    for path in (Path(data_dir) / wanted, Path(wanted)):
        if path.is_dir():
            return path
    if wanted == "sample" and pairs:
        raise SMNetError("sample has no pairs of real noise; test it with --mode S or --mode B")
    ways = [download_advice(wanted).removeprefix("; "), "put its pictures there"]
    if not pairs:
        ways.append("give --test_data sample for scikit-image's photographs")
    there = []
    if Path(data_dir).is_dir():
        there = sorted(path.name for path in Path(data_dir).iterdir() if path.is_dir())
    raise SMNetError(
        f"no test set {wanted}: neither {Path(data_dir) / wanted} nor {wanted} is a folder; "
        f"{describe(there, data_dir)}; {', or '.join(filter(None, ways))}"
    )


def files_in(folder: Path) -> list[PictureFiles]:
    """The pictures below a folder, named by their paths in it, without their endings where the
    names then still differ."""
    paths = find_pictures(folder)
    stems = [path.relative_to(folder).with_suffix("") for path in paths]
    counts = Counter(stems)
    return [
        PictureFiles(str(stem if counts[stem] == 1 else path.relative_to(folder)), path)
        for path, stem in zip(paths, stems)
    ]
