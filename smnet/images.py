"""Pictures: finding and reading files, and scikit-image's sample photographs.

A picture in memory is a uint8 array (C, H, W), C = 1 (gray) or 3 (RGB), unless said.
"""

import os
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
from skimage import data as skimage_data
from torch import Tensor

from smnet.datasets import SETS
from smnet.photos.photo import upright
from smnet.photos.reading import read_photo
from utils import SMNetError, replacing

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")

# Photographs in scikit-image's wheel (function names in skimage.data), disjoint for training and
# testing.
SAMPLE_TEST = ("astronaut", "camera", "chelsea", "coffee")
SAMPLE_TRAIN = (
    "brick",
    "clock",
    "coins",
    "grass",
    "gravel",
    "hubble_deep_field",
    "immunohistochemistry",
    "moon",
    "retina",
    "rocket",
    "stereo_motorcycle",
)


class Picture(NamedTuple):
    """A picture to train on or to test with; `noisy` is its real noisy partner, where it has
    one."""

    name: str
    clean: np.ndarray  # uint8 (C, H, W)
    noisy: np.ndarray | None = None


class PictureFiles(NamedTuple):
    """A picture that is still to be read: its file, and that of its real noisy partner, where it
    has one."""

    name: str
    clean: Path
    noisy: Path | None = None

    def read(self, channels: int) -> Picture:
        """Read it.

        Raises:
            SMNetError: a file cannot be read, or the sizes of a pair differ.
        """
        clean = read_picture(self.clean, channels)
        if self.noisy is None:
            return Picture(self.name, clean)
        noisy = read_picture(self.noisy, channels)
        if clean.shape != noisy.shape:
            sizes = [f"{side.shape[2]}x{side.shape[1]}" for side in (noisy, clean)]
            raise SMNetError(
                f"{self.noisy}: is {sizes[0]}, its clean partner {self.clean.name} is {sizes[1]}"
            )
        return Picture(self.name, clean, noisy)


def find_pictures(folder: str | Path, suffixes: Collection[str] = SUFFIXES) -> list[Path]:
    """All picture files below `folder`, by their endings, sorted by path; links are followed,
    hidden ones passed over.

    Raises:
        SMNetError: no such folder, no picture in it, or a folder that cannot be read.
    """
    found, problems = search_folder(folder, suffixes)
    if problems:
        raise SMNetError(problems[0])
    if not found:
        raise no_picture(folder, suffixes)
    return found


def search_folder(folder: str | Path, suffixes: Collection[str]) -> tuple[list[Path], list[str]]:
    """(files as `find_pictures` gives them, a line for each folder below that cannot be read).

    Raises:
        SMNetError: no such folder, or it cannot be read itself.
    """
    folder = Path(folder)
    if not folder.is_dir():
        advice = download_advice(folder) or "; give a folder that holds pictures"
        raise SMNetError(f"no folder {folder}{advice}")
    found, errors, seen = [], [], set()
    for parent, folders, files in os.walk(folder, onerror=errors.append, followlinks=True):
        seen.add(os.path.realpath(parent))
        hidden_or_seen = {
            f for f in folders if f[0] == "." or os.path.realpath(Path(parent, f)) in seen
        }  # links can go round
        folders[:] = sorted(set(folders) - hidden_or_seen)
        found += [
            Path(parent, name)
            for name in files
            if name[0] != "." and Path(name).suffix.lower() in suffixes
        ]
    problems = {
        Path(error.filename): f"{error.filename}: this folder cannot be read ({error.strerror})"
        for error in errors
    }
    if folder in problems:
        raise SMNetError(problems[folder])
    return sorted(found), [*problems.values()]


def no_picture(folder: str | Path, suffixes: Collection[str]) -> SMNetError:
    """The error for a folder without pictures."""
    names = ", ".join(suffix[1:] for suffix in suffixes)
    return SMNetError(f"no picture in {folder} ({names} files are looked for)")


def canonical_path(path: str | Path) -> Path:
    """Where a file lies, however it was given; a link to it lies elsewhere."""
    path = Path(path)
    return Path(os.path.realpath(path.parent), path.name)


def download_advice(folder: str | Path) -> str:
    """The end of an error: how to get the data set that a path is of; empty where it is none that
    download.py has."""
    names = [name for name in SETS if name in Path(folder).parts]
    return f"; fetch it: python download.py {names[0]}" if names else ""


def read_picture(path: str | Path, channels: int) -> np.ndarray:
    """Read a picture file as uint8 (channels, H, W), upright; transparency is dropped.

    Gray from colour is OpenCV's luma (0.299 R + 0.587 G + 0.114 B); colour from gray repeats it; 16
    bits are rounded to 8.

    Raises:
        SMNetError: the file cannot be read as such a picture.
    """
    photo = read_photo(path)
    picture = upright(photo.straight_pixels(), photo.orientation)
    if picture.dtype == np.uint16:
        picture = ((picture.astype(np.uint32) + 128) // 257).astype(np.uint8)
    return to_channels(picture, channels)


def to_channels(picture: np.ndarray, channels: int) -> np.ndarray:
    """uint8 (H, W, 1) gray or (H, W, 3) RGB -> (channels, H, W)."""
    if channels == 1 and picture.shape[2] == 3:
        picture = cv2.cvtColor(np.ascontiguousarray(picture), cv2.COLOR_RGB2GRAY)[:, :, None]
    elif channels == 3 and picture.shape[2] == 1:
        picture = np.repeat(picture, 3, axis=2)
    return np.ascontiguousarray(picture.transpose(2, 0, 1))


def write_picture(path: str | Path, picture: Tensor) -> None:
    """Write float (C, H, W) in [0, 1] (values outside are clamped) as an 8-bit PNG, never
    half-written.

    Raises:
        SMNetError: `path` cannot be written.
    """
    levels = to_uint8(picture)
    encoded = cv2.imencode(".png", np.ascontiguousarray(levels.transpose(1, 2, 0)[:, :, ::-1]))[1]
    with replacing(path) as temporary:
        temporary.write_bytes(encoded.tobytes())


def sample_pictures(names: tuple[str, ...], channels: int) -> list[Picture]:
    """Photographs that scikit-image carries: `SAMPLE_TRAIN` or `SAMPLE_TEST`."""
    found = []
    for name in names:
        picture = getattr(skimage_data, name)()
        if name == "stereo_motorcycle":
            picture = picture[0]  # (left, right, disparity)
        found.append(
            Picture(
                name, to_channels(picture if picture.ndim == 3 else picture[:, :, None], channels)
            )
        )
    return found


def to_float(picture: np.ndarray) -> Tensor:
    """uint8 (C, H, W) array -> float32 tensor in [0, 1]."""
    return torch.tensor(picture, dtype=torch.float32) / 255  # copies: it may be read-only


def to_uint8(picture: Tensor) -> np.ndarray:
    """Float tensor in [0, 1] (values outside are clamped) -> uint8 array of its shape, rounded."""
    return (picture.detach().cpu().clamp(0, 1) * 255).round().to(torch.uint8).numpy()
