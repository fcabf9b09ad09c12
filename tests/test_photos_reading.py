"""smnet/photos/reading.py: every kind is read with the right values, or refused in one line."""

import struct

import numpy as np
import pytest
from odd_files import FOREIGN, HOSTILE
from photo_files import (
    ALPHA,
    DEEP_GRAY,
    DEEP_RGB,
    GRAY,
    LOSSLESS,
    PALETTE,
    RGB,
    pillow,
    png_16_bit,
    tiff,
)
from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngInfo

from smnet.images import read_picture
from smnet.photos.reading import read_photo
from utils import SMNetError


def test_what_the_reader_reads_is_right(tmp_path):
    for name, samples in (
        ("deep rgb.png", DEEP_RGB),
        ("deep rgb.tif", DEEP_RGB),
        ("planes.tif", DEEP_RGB),
        ("rgb.tiff", RGB),
    ):
        (tmp_path / name).write_bytes(LOSSLESS[name])
        np.testing.assert_array_equal(read_photo(tmp_path / name).pixels, samples)


@pytest.mark.parametrize("name", HOSTILE)
def test_a_picture_that_cannot_be_denoised_is_one_line(name, tmp_path):
    content, said = HOSTILE[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SMNetError, match=said) as caught:
        read_photo(tmp_path / name)
    assert str(caught.value).startswith(str(tmp_path / name)) and "\n" not in str(caught.value)


@pytest.mark.parametrize("turned", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP", "JPEG", "LZW 16 bits"])
def test_pictures_to_measure_are_upright_and_photos_as_they_lie(tmp_path, kind, turned):
    exif = Image.Exif()
    exif[274] = turned
    options = {"WEBP": {"lossless": True}, "JPEG": {"quality": 95}}.get(kind, {})
    if kind == "LZW 16 bits":
        tag = (274, 3, 1, turned, True)
        content, lies = tiff(DEEP_RGB, compression="lzw", extratags=[tag]), DEEP_RGB
    else:
        content, lies = pillow(RGB, kind, exif=exif, **options), RGB
    (tmp_path / "a").write_bytes(content)
    if kind == "JPEG":
        lies = np.asarray(Image.open(tmp_path / "a"))
    expected = np.asarray(ImageOps.exif_transpose(with_orientation(lies, turned)))
    np.testing.assert_array_equal(read_photo(tmp_path / "a").pixels, lies)
    measured = read_picture(tmp_path / "a", 3).transpose(1, 2, 0)
    np.testing.assert_array_equal(measured, expected)


def with_orientation(samples: np.ndarray, turned: int) -> Image.Image:
    """8 bits of uint8 or uint16 samples, as an image that says how it is turned."""
    if samples.dtype == np.uint16:
        samples = ((samples.astype(np.uint32) + 128) // 257).astype(np.uint8)
    image = Image.fromarray(samples)
    image.getexif()[274] = turned
    return image


def test_exif_in_a_text_of_png_is_obeyed(tmp_path):
    exif = Image.Exif()
    exif[274] = 6
    info = PngInfo()
    info.add_text("Raw profile type exif", f"\nexif\n 26\n{exif.tobytes().hex()}\n", zip=True)
    Image.fromarray(RGB).save(tmp_path / "a.png", pnginfo=info)
    assert read_photo(tmp_path / "a.png").orientation == 6
    upright = read_picture(tmp_path / "a.png", 3).transpose(1, 2, 0)
    np.testing.assert_array_equal(upright, np.rot90(RGB, -1))


STRAIGHT = {  # with transparency; colours are measured as they are stored
    "a.png": pillow(np.dstack([RGB, ALPHA]), "PNG"),
    "a.tif": pillow(np.dstack([RGB, ALPHA]), "TIFF"),
    "a.webp": pillow(np.dstack([RGB, ALPHA]), "WEBP", lossless=True, exact=True),
    "tiles.tif": tiff(np.dstack([RGB, ALPHA]), extrasamples=["unassalpha"], tile=(16, 16)),
    "unknown.tif": tiff(np.dstack([RGB, ALPHA]), extrasamples=["unspecified"]),
    "planes.tif": tiff(
        np.dstack([RGB, ALPHA]).transpose(2, 0, 1),
        planarconfig="separate",
        extrasamples=["unassalpha"],
        compression="lzw",
    ),
    "5.tif": tiff(np.dstack([RGB, ALPHA, GRAY]), extrasamples=["unassalpha", "unspecified"]),
}


@pytest.mark.parametrize("name", STRAIGHT)
def test_transparency_is_dropped_from_what_is_measured(tmp_path, name):
    (tmp_path / name).write_bytes(STRAIGHT[name])
    np.testing.assert_array_equal(read_picture(tmp_path / name, 3).transpose(1, 2, 0), RGB)
    np.testing.assert_array_equal(read_photo(tmp_path / name).alpha, ALPHA)


@pytest.mark.parametrize("bits", [8, 16])
def test_colours_that_hold_alpha_as_a_factor_are_divided_by_it(tmp_path, bits):
    white = 2**bits - 1
    alpha = np.tile(np.linspace(0, white, 37).round(), (30, 1))
    colours = (RGB / 255 * white).round()
    premultiplied = (colours * alpha[:, :, None] / white).round()
    stored = np.dstack([premultiplied, alpha]).astype(np.uint8 if bits == 8 else np.uint16)
    (tmp_path / "a.tif").write_bytes(tiff(stored, extrasamples=["assocalpha"]))
    photo = read_photo(tmp_path / "a.tif")
    np.testing.assert_array_equal(photo.pixels, stored[:, :, :3])
    straight = photo.straight_pixels()
    expected = np.where(alpha[:, :, None] > 0, colours, 0)
    error = np.abs(straight - expected)[:, 1:] * alpha[:, 1:, None] / white
    assert error.max() <= 1  # both were rounded
    assert (straight[:, 0] == 0).all()


def test_a_palette_of_grays_is_a_gray_picture(tmp_path):
    gray = Image.fromarray(GRAY)
    gray.putpalette([level for level in range(256) for _ in range(3)])
    for name in ("a.png", "a.gif", "a.tif"):
        gray.save(tmp_path / name)
        photo = read_photo(tmp_path / name)
        assert photo.palette
        np.testing.assert_array_equal(photo.pixels[:, :, 0], GRAY)
    PALETTE.save(tmp_path / "colours.png")
    assert read_photo(tmp_path / "colours.png").pixels.shape[2] == 3


@pytest.mark.parametrize("colour_type, channels", [(0, 1), (2, 3), (4, 2), (6, 4)])
def test_png_of_16_bits(tmp_path, colour_type, channels):
    samples = np.dstack([DEEP_RGB, DEEP_GRAY])[:, :, :channels]
    (tmp_path / "a.png").write_bytes(png_16_bit(samples, colour_type))
    photo = read_photo(tmp_path / "a.png")
    colours = 1 if channels < 3 else 3
    np.testing.assert_array_equal(photo.pixels, samples[:, :, :colours])
    if channels > colours:
        np.testing.assert_array_equal(photo.alpha, samples[:, :, colours])


def test_one_level_or_colour_of_png_that_is_transparent(tmp_path):
    level = struct.pack(">H", DEEP_GRAY[3, 4])
    (tmp_path / "gray.png").write_bytes(png_16_bit(DEEP_GRAY[:, :, None], 0, (b"tRNS", level)))
    expected = np.where(DEEP_GRAY == DEEP_GRAY[3, 4], 0, 65535)
    np.testing.assert_array_equal(read_photo(tmp_path / "gray.png").alpha, expected)
    colour = struct.pack(">3H", *DEEP_RGB[3, 4])
    (tmp_path / "rgb.png").write_bytes(png_16_bit(DEEP_RGB, 2, (b"tRNS", colour)))
    expected = np.where((DEEP_RGB == DEEP_RGB[3, 4]).all(axis=2), 0, 65535)
    np.testing.assert_array_equal(read_photo(tmp_path / "rgb.png").alpha, expected)


@pytest.mark.parametrize("kind", FOREIGN)
def test_a_file_is_named_by_its_first_bytes(tmp_path, kind):
    (tmp_path / "a.jpg").write_bytes(FOREIGN[kind])
    with pytest.raises(SMNetError, match=f"a.jpg: is {kind}") as caught:
        read_photo(tmp_path / "a.jpg")
    assert "\n" not in str(caught.value)


def test_libraries_print_nothing(tmp_path, capfd):
    for name, (content, _) in HOSTILE.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(SMNetError):
            read_picture(tmp_path / name, 3)
    assert capfd.readouterr() == ("", "")
