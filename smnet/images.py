"""Pictures: finding and reading files, and scikit-image's sample photographs.

A picture in memory is a uint8 array (C, H, W), C = 1 (gray) or 3 (RGB), unless said.
"""

import os
import stat
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
from skimage import data as skimage_data
from torch import Tensor

from utils import SMNetError, replacing

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")

# What download.py fetches, by name.
DOWNLOADABLE = (
    "Set12", "Set68", "CBSD68", "Kodak24", "McMaster", "BSDS500", "PolyU", "PolyU_full", "CC",
    "Unsplash",
)  # fmt: skip

cv2.utils.logging.setLogLevel(
    cv2.utils.logging.LOG_LEVEL_SILENT
)  # a broken file gets our line, not OpenCV's dozen

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


def find_pictures(
    folder: str | Path, suffixes: Collection[str] = SUFFIXES, problems: list[str] | None = None
) -> list[Path]:  # fmt: skip
    """All picture files below `folder`, by their endings, sorted by path; links are followed,
    hidden ones passed over.

    Folders in it that cannot be read are an error, or go to `problems`.

    Raises:
        SMNetError: no such folder, no picture in it, or a folder that cannot be read.
    """

    def unreadable(error: OSError) -> None:
        problem = f"{error.filename}: this folder cannot be read ({error.strerror})"
        if problems is None or Path(error.filename) == folder:
            raise SMNetError(problem)
        problems.append(problem)

    folder = Path(folder)
    if not folder.is_dir():
        raise SMNetError(
            f"no folder {folder}{download_advice(folder) or '; give a folder that holds pictures'}"
        )
    found, seen = [], set()
    for parent, folders, files in os.walk(folder, onerror=unreadable, followlinks=True):
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
    found.sort()
    if not found:
        raise SMNetError(
            f"no picture in {folder} ({', '.join(s[1:] for s in suffixes)} files are looked for)"
        )
    return found


def canonical_path(path: str | Path) -> Path:
    """Where a file lies, however it was given; a link to it lies elsewhere."""
    path = Path(path)
    return Path(os.path.realpath(path.parent), path.name)


def download_advice(folder: str | Path) -> str:
    """The end of an error: how to get the data set that a path is of; empty where it is none that
    download.py has."""
    names = [name for name in DOWNLOADABLE if name in Path(folder).parts]
    return f"; fetch it: python download.py {names[0]}" if names else ""


def read_file(path: str | Path) -> bytes:
    """The bytes of a picture file.

    Raises:
        SMNetError: it cannot be read, or is empty; one line that names it.
    """
    try:
        if not stat.S_ISREG(Path(path).stat().st_mode):  # a pipe would be waited for
            raise SMNetError(f"{path}: is no file")
        data = Path(path).read_bytes()
    except OSError as error:
        raise SMNetError(f"{path}: {error.strerror or error}") from None
    if not data:
        raise SMNetError(f"{path}: is empty")
    return data


def read_picture(path: str | Path, channels: int) -> np.ndarray:
    """Read a file with 1, 3 or 4 channels of 8 or 16 bits as uint8 (channels, H, W); transparency
    is dropped.

    Gray from colour is OpenCV's luma (0.299 R + 0.587 G + 0.114 B); colour from gray repeats it; 16
    bits are rounded to 8.

    Raises:
        SMNetError: the file cannot be read as such a picture.
    """
    data = np.frombuffer(
        read_file(path), np.uint8
    )  # decoded from memory: OpenCV cannot open every path on every system
    try:
        picture = cv2.imdecode(data, cv2.IMREAD_UNCHANGED)
    except cv2.error:
        picture = None
    if picture is None:
        raise SMNetError(f"{path}: is damaged or no picture")
    if picture.dtype == np.uint16:
        picture = ((picture.astype(np.uint32) + 128) // 257).astype(np.uint8)
    if picture.dtype != np.uint8:
        raise SMNetError(f"{path}: has {picture.dtype} samples; 8- and 16-bit pictures can be read")
    if picture.ndim == 2:
        picture = picture[:, :, None]
    if picture.shape[2] not in (1, 3, 4):
        raise SMNetError(f"{path}: has {picture.shape[2]} channels; 1, 3 or 4 can be read")
    return to_channels(picture[:, :, :3][:, :, ::-1], channels)


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
    return torch.from_numpy(picture).float() / 255


def to_uint8(picture: Tensor) -> np.ndarray:
    """Float tensor in [0, 1] (values outside are clamped) -> uint8 array of its shape, rounded."""
    return (picture.detach().cpu().clamp(0, 1) * 255).round().to(torch.uint8).numpy()
