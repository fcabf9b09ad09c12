"""Damaged files of every kind: no traceback, no hang, no other size than the header's."""

import io
import time

import numpy as np
import pytest
import tifffile
from photo_files import DEEP_RGB, GRAY, ICC, LOSSLESS, PALETTE, RGB, pillow, tiff
from PIL import Image

from smnet.photos.reading import read_photo
from smnet.photos.writing import write_photo
from utils import SMNetError

ROUNDS, SEED = 50, 0
PATIENCE = 20  # seconds for one file of 37x30 pixels, on a busy machine
KINDS = {
    **LOSSLESS,
    "rgb.jpg": pillow(RGB, "JPEG", icc_profile=ICC, dpi=(300, 300)),
    "progressive.jpg": pillow(RGB, "JPEG", progressive=True),
    "lossy.webp": pillow(RGB, "WEBP"),
    "palette.png": pillow(PALETTE, "PNG"),
    "palette.gif": pillow(PALETTE, "GIF"),
    "palette.tif": pillow(PALETTE, "TIFF"),
    "tiles.tif": tiff(DEEP_RGB, compression="lzw", predictor=True, tile=(16, 16)),
    "zstd.tif": tiff(DEEP_RGB, compression="zstd"),
    "lzma.tif": tiff(DEEP_RGB, compression="lzma"),
    "jpeg.tif": tiff(RGB, compression="jpeg"),
    "strips.tif": tiff(GRAY, compression="packbits", rowsperstrip=4),
    "big.tif": tiff(RGB, bigtiff=True, byteorder=">"),
}


def damage(content: bytes, rng: np.random.Generator) -> bytes:
    """One to five bytes changed; each third time in the first hundred, where the headers are."""
    damaged = bytearray(content)
    end = min(100, len(content)) if rng.integers(3) == 0 else len(content)
    for at in rng.integers(0, end, rng.integers(1, 6)):
        damaged[at] ^= rng.integers(1, 256)
    return bytes(damaged)


def size_in_header(content: bytes) -> tuple[int, int]:
    """(height, width), by another reader."""
    if content[:2] in (b"II", b"MM"):
        with tifffile.TiffFile(io.BytesIO(content)) as file:
            return file.pages[0].imagelength, file.pages[0].imagewidth
    with Image.open(io.BytesIO(content)) as image:
        return image.height, image.width


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", KINDS)
def test_flipped_bytes(tmp_path, capfd, name):
    rng = np.random.default_rng([SEED, *name.encode()])
    path, again = tmp_path / name, tmp_path / f"again {name}"
    for _ in range(ROUNDS):
        content = damage(KINDS[name], rng)
        path.write_bytes(content)
        start = time.monotonic()
        try:
            photo = read_photo(path)
            assert photo.pixels.shape[:2] == size_in_header(content)
            write_photo(again, photo, photo.pixels)
            assert read_photo(again).pixels.shape == photo.pixels.shape
        except SMNetError as error:
            assert str(error).startswith(str(tmp_path)) and "\n" not in str(error)
        assert time.monotonic() - start < PATIENCE
    assert capfd.readouterr() == ("", "")
