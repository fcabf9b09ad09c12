"""Reading the h5 files that dataset*.py write: training patches, the order of an epoch, validation
pictures."""

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import cv2
import h5py
import numpy as np
from tqdm import tqdm

from smnet.images import Picture, PictureFiles
from utils import SMNetError, describe

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
            f"{path} is damaged or no h5 file ({reason}); make it anew: {command}"
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


SPARE_ROOM = (
    16_000_000  # bytes that must stay free on the disk: HDF5 writes some of what it is given later
)

Source = Picture | PictureFiles


def read_sources(
    sources: list[Source], *, channels: int, min_side: int, skipped: list[str]
) -> Iterator[Picture]:
    """Read each source, with a progress bar; unreadable and too small ones are named and
    skipped."""
    bar = tqdm(sources, unit="picture", disable=None)
    for source in bar:
        try:
            picture = source if isinstance(source, Picture) else source.read(channels)
            _, height, width = picture.clean.shape
            if min(height, width) < min_side:
                raise SMNetError(
                    f"{source.name}: is {width}x{height}, smaller than {min_side}x{min_side}"
                )
        except SMNetError as error:
            bar.write(f"skipped {error}", file=sys.stderr)
            skipped.append(source.name)
        else:
            yield picture


def cut_patches(picture: np.ndarray, *, patch_size: int, stride: int) -> Iterator[np.ndarray]:
    """(C, H, W) -> (C, patch_size, patch_size) pieces that cover it all: the last of a row or
    column moves inward."""

    def starts(side: int) -> list[int]:
        last = side - patch_size
        return sorted({*range(0, last, stride), last})

    for top in starts(picture.shape[1]):
        for left in starts(picture.shape[2]):
            yield picture[:, top : top + patch_size, left : left + patch_size]


def write_patches(
    file: h5py.File, sources: list[Source], *, channels: int, settings: dict, skipped: list[str]
) -> str:
    """Fill an h5 file with training patches; append the names that were left out to `skipped`;
    return what was written.

    Content: data set "patches" uint8 (n, C, patch_size, patch_size), one chunk each, and for pairs
    "noisy" of the same shape;
    "source" int32 (n,), the picture that a patch is from; attributes kind, channels, sources (a
    JSON list of names) and the settings.

    Raises:
        SMNetError: no usable picture.
    """
    size, names, origin = settings["patch_size"], [], []
    pairs = "pairs" in settings
    min_side = 1 if settings["resize"] else size
    shape = (channels, size, size)
    planes = {
        name: file.create_dataset(
            name, (0, *shape), np.uint8, maxshape=(None, *shape), chunks=(1, *shape)
        )
        for name in ("patches", "noisy")[: 1 + pairs]
    }
    for name, clean, noisy in read_sources(
        sources, channels=channels, min_side=min_side, skipped=skipped
    ):
        if settings["resize"]:
            clean = squeeze(clean, settings["resize"])
        start = len(origin)
        for plane, picture in zip(planes.values(), (clean, noisy)):
            pieces = list(cut_patches(picture, patch_size=size, stride=settings["stride"]))
            check_room(file, len(pieces) * pieces[0].nbytes)
            plane.resize(start + len(pieces), axis=0)
            plane[start:] = np.stack(pieces)
        origin += [len(names)] * len(pieces)
        names.append(name)
    if not names:
        raise SMNetError(
            f"none of the {len(sources)} training pictures is usable: sides of {min_side} pixels are needed (--patch_size)"
        )
    file["source"] = np.array(origin, np.int32)
    kind = PATCH_PAIRS if pairs else PATCHES
    file.attrs.update(kind=kind, channels=channels, sources=json.dumps(names), **settings)
    return f"{len(origin)} {'pairs of ' * pairs}patches of {size}x{size} from {len(names)} {'pairs' if pairs else 'pictures'}"


def check_room(file: h5py.File, size: int) -> None:
    """Raise where the disk has no room for `size` bytes more: HDF5 itself crashes the process on a
    full disk."""
    folder = Path(file.filename).parent
    if shutil.disk_usage(folder).free < size + SPARE_ROOM:
        raise SMNetError(
            f"no space left on the disk of {folder.resolve()}; free some, or give --train_h5 and --val_h5 elsewhere"
        )


def squeeze(picture: np.ndarray, side: int) -> np.ndarray:
    """uint8 (C, H, W) -> (C, side, side), whatever its proportions."""
    resized = cv2.resize(picture.transpose(1, 2, 0), (side, side), interpolation=cv2.INTER_AREA)
    return resized.reshape(side, side, len(picture)).transpose(2, 0, 1)


def write_pictures(
    file: h5py.File, sources: list[Source], *, channels: int, settings: dict, skipped: list[str]
) -> str:
    """Fill an h5 file with validation pictures; append the names that were left out to `skipped`;
    return what was written.

    Content: one uint8 (C, H, W) data set per picture, "00000" and so on, with the attribute name,
    and for pairs the same in
    the group "noisy"; attributes kind, channels and the settings.

    Raises:
        SMNetError: no usable picture.
    """
    count, pairs = 0, "pairs" in settings
    for name, clean, noisy in read_sources(sources, channels=channels, min_side=1, skipped=skipped):
        check_room(file, 2 * clean.nbytes)
        file.create_dataset(f"{count:05d}", data=clean).attrs["name"] = name
        if pairs:
            file.create_dataset(f"noisy/{count:05d}", data=noisy)
        count += 1
    if not count:
        raise SMNetError(f"none of the {len(sources)} validation pictures is usable")
    file.attrs.update(kind=PICTURE_PAIRS if pairs else PICTURES, channels=channels, **settings)
    return f"{count} {'pairs' if pairs else 'pictures'}"
