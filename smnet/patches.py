"""The h5 files of training patches and validation pictures: what dataset*.py write, and reading
it."""

import json
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import h5py
import numpy as np
from tqdm import tqdm

from smnet.images import Picture, PictureFiles
from utils import SMNetError, describe, one_line

# The attribute "kind" of our h5 files.
PATCHES, PICTURES = "smnet training patches", "smnet validation pictures"
PATCH_PAIRS, PICTURE_PAIRS = "smnet training pairs", "smnet validation pairs"


def open_h5(path: str | Path, kinds: tuple[str, ...], channels: int) -> h5py.File:
    """Open one of our h5 files and check that it is of one of these kinds and has these channels.

    Raises:
        SMNetError: missing, damaged, of another kind, or of other channels; the message names the
            command that makes it.
    """
    command = "python dataset.py" if channels == 3 else "python dataset_gray.py"
    if kinds[0] in (PATCH_PAIRS, PICTURE_PAIRS) or "pairs" in Path(path).name:
        command += " --pairs NOISY CLEAN"
    path = Path(path)
    if not path.is_file():
        there = sorted(p.name for p in path.parent.glob("*.h5"))
        raise SMNetError(f"no file {path}; {describe(there, path.parent)}; make it: {command}")
    try:
        file = h5py.File(
            path, "r", locking=False
        )  # it is only read, and some network disks cannot lock
    except PermissionError:
        raise SMNetError(f"cannot read {path}: no permission") from None
    except OSError as error:
        reason = str(error).splitlines()[0]
        raise SMNetError(
            f"{path} is damaged or not an HDF5 file ({reason}); rebuild it: {command}"
        ) from None
    found, found_channels = file.attrs.get("kind"), file.attrs.get("channels")
    if found in kinds and found_channels == channels:
        return file
    file.close()
    if found not in kinds:
        raise SMNetError(
            f"{path} holds {found or 'something else'}, not {' or '.join(kinds)}; "
            f"make it: {command}"
        )
    raise SMNetError(
        f"{path} has {found_channels} channels, this script needs {channels}; make it: {command}"
    )


def holds_pairs(path: str | Path) -> bool:
    """Whether there is an h5 file of validation pairs."""
    try:
        with h5py.File(path, "r", locking=False) as file:
            return file.attrs.get("kind") == PICTURE_PAIRS
    except OSError:
        return False


def read_pictures(path: str | Path, channels: int, *, pairs: bool | None = False) -> list[Picture]:
    """The pictures of an h5 file of validation pictures, or of validation pairs, or (`pairs` None)
    of either.

    Raises:
        SMNetError: the file is missing or not of this kind.
    """
    kinds = {False: (PICTURES,), True: (PICTURE_PAIRS,), None: (PICTURES, PICTURE_PAIRS)}[pairs]
    with open_h5(path, kinds, channels) as file:
        noisy = file.get("noisy", {})  # pairs: a group beside the clean pictures, of the same keys
        keys = sorted(key for key in file if key != "noisy")
        return [
            Picture(file[key].attrs["name"], file[key][()], noisy[key][()] if noisy else None)
            for key in keys
        ]


# ------------------------------------------------------------------------------------------ writing

# Bytes that must stay free on the disk: HDF5 writes some of what it is given later.
SPARE_ROOM = 16_000_000
TOGETHER = 64  # patches written at a time: all of a picture, overlapping, may be many times it

Source = Picture | PictureFiles


class Written(NamedTuple):
    """What a file was filled with."""

    content: str  # "12 patches of 48x48 from 3 pictures"
    skipped: list[str]  # names of the sources that could not be used


def write_patches(
    file: h5py.File, sources: Sequence[Source], *, channels: int, settings: dict
) -> Written:
    """Fill an h5 file with training patches.

    Content: data set "patches" uint8 (n, C, patch_size, patch_size), one chunk each, and for pairs
    "noisy" of the same shape; "source" int32 (n,), the picture that a patch is from; attributes
    kind, channels, sources (a JSON list of names) and the settings.

    Args:
        settings: patch_size, stride, resize and shrink, as dataset.py has them; "pairs" where the
            sources have noisy partners; what else is to be stored.

    Raises:
        SMNetError: no usable picture, or no room on the disk.
    """
    size, pairs = settings["patch_size"], "pairs" in settings
    shape = (channels, size, size)
    planes = [
        file.create_dataset(
            name, (0, *shape), np.uint8, maxshape=(None, *shape), chunks=(1, *shape)
        )
        for name in ("patches", "noisy")[: 1 + pairs]
    ]
    names, origin, skipped = [], [], []
    min_side = 1 if settings["resize"] else size
    for source, picture in read_sources(sources, channels, min_side, shrink=settings["shrink"]):
        if picture is None:
            skipped.append(source.name)
            continue
        name, clean, noisy = picture
        if settings["resize"]:
            clean = squeeze(clean, settings["resize"])
        start = len(origin)
        for plane, pixels in zip(planes, (clean, noisy)):
            pieces = list(cut_patches(pixels, patch_size=size, stride=settings["stride"]))
            check_room(file, len(pieces) * pieces[0].nbytes)
            plane.resize(start + len(pieces), axis=0)
            for first in range(0, len(pieces), TOGETHER):
                some = np.stack(pieces[first : first + TOGETHER])
                plane[start + first : start + first + len(some)] = some
        origin += [len(names)] * len(pieces)
        names.append(name)
    if not names:
        raise SMNetError(
            f"none of the {len(sources)} training pictures is usable: sides of {min_side} pixels "
            "are needed (--patch_size)"
        )
    file["source"] = np.array(origin, np.int32)
    kind = PATCH_PAIRS if pairs else PATCHES
    file.attrs.update(kind=kind, channels=channels, sources=json.dumps(names), **settings)
    patches = f"{len(origin)} {'pairs of ' * pairs}patches of {size}x{size}"
    return Written(f"{patches} from {len(names)} {'pairs' if pairs else 'pictures'}", skipped)


def write_pictures(
    file: h5py.File, sources: Sequence[Source], *, channels: int, settings: dict, shrink: int = 1
) -> Written:
    """Fill an h5 file with validation pictures, shrunk by `shrink`.

    Content: one uint8 (C, H, W) data set per picture, "00000" and so on, with the attribute name,
    and for pairs the same in the group "noisy"; attributes kind, channels and the settings.

    Raises:
        SMNetError: no usable picture, or no room on the disk.
    """
    pairs, skipped, count = "pairs" in settings, [], 0
    for source, picture in read_sources(sources, channels, min_side=1, shrink=shrink):
        if picture is None:
            skipped.append(source.name)
            continue
        check_room(file, 2 * picture.clean.nbytes)
        stored = file.create_dataset(f"{count:05d}", data=picture.clean)
        stored.attrs["name"] = one_line(picture.name)  # HDF5 takes no bytes that are not UTF-8
        if pairs:
            file.create_dataset(f"noisy/{count:05d}", data=picture.noisy)
        count += 1
    if not count:
        raise SMNetError(f"none of the {len(sources)} validation pictures is usable")
    file.attrs.update(kind=PICTURE_PAIRS if pairs else PICTURES, channels=channels, **settings)
    return Written(f"{count} {'pairs' if pairs else 'pictures'}", skipped)


def read_sources(
    sources: Sequence[Source], channels: int, min_side: int, *, shrink: int
) -> Iterator[tuple[Source, Picture | None]]:
    """Each source with its picture, under a progress bar; None in place of what is unreadable or
    too small, with a line on stderr."""
    bar = tqdm(sources, unit="picture", disable=None)
    for source in bar:
        try:
            picture = source if isinstance(source, Picture) else source.read(channels)
            yield source, fit_picture(picture, min_side, shrink=shrink)
        except SMNetError as error:
            bar.write(f"skipped: {one_line(str(error))}", file=sys.stderr)
            yield source, None


def fit_picture(picture: Picture, min_side: int, *, shrink: int) -> Picture:
    """The picture, shrunk.

    Raises:
        SMNetError: a side is then below `min_side` pixels.
    """
    height, width = picture.clean.shape[1:]
    if min(height, width) // shrink < min_side:
        shrunk = f", shrunk {width // shrink}x{height // shrink}" if shrink > 1 else ""
        raise SMNetError(
            f"{picture.name}: is {width}x{height}{shrunk}, smaller than {min_side}x{min_side}"
        )
    if shrink == 1:
        return picture
    return picture._replace(clean=shrink_by(picture.clean, shrink))


def shrink_by(picture: np.ndarray, factor: int) -> np.ndarray:
    """uint8 (C, H, W) -> (C, H // factor, W // factor): the mean of every square of pixels; what
    is left over at the right and the bottom is cut off."""
    height, width = (side // factor for side in picture.shape[1:])
    whole = picture[:, : height * factor, : width * factor]
    return resize(whole, height, width)


def squeeze(picture: np.ndarray, side: int) -> np.ndarray:
    """uint8 (C, H, W) -> (C, side, side), whatever its proportions."""
    return resize(picture, side, side)


def resize(picture: np.ndarray, height: int, width: int) -> np.ndarray:
    """uint8 (C, H, W) -> (C, height, width), by averaging over areas."""
    pixels = np.ascontiguousarray(picture.transpose(1, 2, 0))
    resized = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA)
    return resized.reshape(height, width, len(picture)).transpose(2, 0, 1)


def cut_patches(picture: np.ndarray, *, patch_size: int, stride: int) -> Iterator[np.ndarray]:
    """(C, H, W) -> (C, patch_size, patch_size) pieces that cover it all: the last of a row or
    column moves inward."""

    def starts(side: int) -> list[int]:
        last = side - patch_size
        return sorted({*range(0, last, stride), last})

    for top in starts(picture.shape[1]):
        for left in starts(picture.shape[2]):
            yield picture[:, top : top + patch_size, left : left + patch_size]


def check_room(file: h5py.File, size: int) -> None:
    """Raise where the disk has no room for `size` bytes more: HDF5 itself crashes the process on a
    full disk."""
    folder = Path(file.filename).parent
    if shutil.disk_usage(folder).free < size + SPARE_ROOM:
        raise SMNetError(
            f"no space left on the disk of {folder.resolve()}; free some, or give --train_h5 and "
            "--val_h5 elsewhere"
        )
