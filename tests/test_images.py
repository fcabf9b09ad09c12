"""smnet/images.py: pictures to measure and to train on, as uint8 (C, H, W)."""

import os

import cv2
import numpy as np
import pytest
from helpers import write_folder
from photo_files import DEEP_GRAY, DEEP_RGB, GRAY, PALETTE, RGB, pillow, png_16_bit, tiff
from PIL import Image

from smnet.images import find_pictures, read_picture, search_folder
from utils import SMNetError


def test_channels_are_those_asked_for(tmp_path):
    (tmp_path / "rgb.png").write_bytes(pillow(RGB, "PNG"))
    (tmp_path / "gray.png").write_bytes(pillow(GRAY, "PNG"))
    luma = cv2.cvtColor(RGB, cv2.COLOR_RGB2GRAY)
    np.testing.assert_array_equal(read_picture(tmp_path / "rgb.png", 1), luma[None])
    np.testing.assert_array_equal(read_picture(tmp_path / "rgb.png", 3), RGB.transpose(2, 0, 1))
    np.testing.assert_array_equal(read_picture(tmp_path / "gray.png", 1), GRAY[None])
    np.testing.assert_array_equal(read_picture(tmp_path / "gray.png", 3), np.stack([GRAY] * 3))


@pytest.mark.parametrize("channels", [1, 3])
def test_16_bits_are_rounded_to_8(tmp_path, channels):
    samples = DEEP_GRAY if channels == 1 else DEEP_RGB
    (tmp_path / "a.tif").write_bytes(tiff(samples))
    deep = samples.reshape(30, 37, channels)
    (tmp_path / "a.png").write_bytes(png_16_bit(deep, 0 if channels == 1 else 2))
    expected = (deep / 257).round().astype(np.uint8).transpose(2, 0, 1)
    for name in ("a.tif", "a.png"):
        np.testing.assert_array_equal(read_picture(tmp_path / name, channels), expected)


def test_palettes_are_looked_up(tmp_path):
    for name in ("a.png", "a.gif", "a.tif", "a.bmp"):
        PALETTE.save(tmp_path / name)
        expected = np.asarray(PALETTE.convert("RGB")).transpose(2, 0, 1)
        np.testing.assert_array_equal(read_picture(tmp_path / name, 3), expected)


def test_a_tagged_picture_and_an_upright_one_are_the_same(tmp_path):
    exif = Image.Exif()
    exif[274] = 3
    Image.fromarray(RGB).save(tmp_path / "upright.png")
    for name in ("a.webp", "a.tif", "a.png"):
        turned = Image.fromarray(np.ascontiguousarray(np.rot90(RGB, 2)))
        turned.save(tmp_path / name, exif=exif, **({"lossless": True} if "webp" in name else {}))
        np.testing.assert_array_equal(
            read_picture(tmp_path / name, 3), read_picture(tmp_path / "upright.png", 3)
        )


def test_folders_are_searched_with_all_below_them(tmp_path, monkeypatch):
    write_folder(tmp_path / "b" / "deeper", 2)
    write_folder(tmp_path / ".hidden", 1)
    (tmp_path / "a.jpg").write_bytes(b"")
    (tmp_path / "notes.txt").write_text("")
    found = [tmp_path / "a.jpg", *(tmp_path / "b" / "deeper" / f"0{i}.png" for i in range(2))]
    assert find_pictures(tmp_path) == found
    assert search_folder(tmp_path, [".png"]) == (found[1:], [])
    with pytest.raises(SMNetError, match=r"no picture in .*b \(tif files are looked for\)"):
        find_pictures(tmp_path / "b", [".tif"])
    with pytest.raises(SMNetError, match="no folder .*missing; give a folder that holds"):
        find_pictures(tmp_path / "missing")

    def closed(path, _scandir=os.scandir):
        if path == str(tmp_path / "b"):
            raise PermissionError(13, "Permission denied", path)
        return _scandir(path)

    monkeypatch.setattr(os, "scandir", closed)
    problem = f"{tmp_path / 'b'}: this folder cannot be read (Permission denied)"
    assert search_folder(tmp_path, [".png", ".jpg"]) == (found[:1], [problem])
    for folder in (tmp_path, tmp_path / "b"):
        with pytest.raises(SMNetError, match="this folder cannot be read"):
            find_pictures(folder)
