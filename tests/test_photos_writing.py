"""smnet/photos/writing.py: pictures of every kind come back as they were."""

import struct
import zlib

import numpy as np
import pytest
import tifffile
import torch
from photo_files import (
    ALPHA,
    DEEP_GRAY,
    DEEP_RGB,
    GRAY,
    ICC,
    LOSSLESS,
    PALETTE,
    RGB,
    pillow,
    png_16_bit,
    tiff,
)  # fmt: skip
from PIL import Image, ImageOps

import denoise
from smnet.photos.photo import Photo, to_samples
from smnet.photos.reading import read_photo
from smnet.photos.writing import write_photo
from utils import SMNetError


def test_colours_that_hold_alpha_as_a_factor_stay_below_it():
    stored = np.array([[[0], [10], [40], [200]]], np.uint8)
    photo = Photo(stored, np.array([[0, 30, 30, 255]], np.uint8), "TIFF", "premultiplied")
    denoised = torch.tensor([[[5.0, 31, 45, 210]]]) / 255
    np.testing.assert_array_equal(to_samples(denoised, photo)[0, :, 0], [0, 30, 40, 210])
    photo.alpha_type = "straight"
    np.testing.assert_array_equal(to_samples(denoised, photo)[0, :, 0], [5, 31, 45, 210])


@pytest.mark.parametrize("name", LOSSLESS)
def test_a_picture_comes_back_as_it_was(name, work, unchanged):
    (work / name).write_bytes(LOSSLESS[name])
    assert denoise.main([name, "-o", "out"]) == 0
    before, after = read_photo(work / name), read_photo(work / "out" / name)
    assert after.pixels.dtype == before.pixels.dtype
    np.testing.assert_array_equal(after.pixels, before.pixels)
    np.testing.assert_array_equal(after.alpha, before.alpha)
    with Image.open(work / name) as old, Image.open(work / "out" / name) as new:
        assert (new.format, new.mode, new.size) == (old.format, old.mode, old.size)
        assert dict(new.getexif()).get(0x0112) == dict(old.getexif()).get(0x0112)
        for key in ("icc_profile", "dpi", "gamma", "compression", "Author"):
            if key != "compression" or not name.startswith(("deep", "planes")):
                assert new.info.get(key) == old.info.get(key), key


def test_a_palette_stays_unless_it_has_transparency(work, unchanged, capsys):
    PALETTE.save("a.png")
    PALETTE.save("a.gif")
    PALETTE.save("b.png", transparency=3)
    assert denoise.main(["a.png", "a.gif", "b.png", "-o", "out"]) == 0
    for name in ("a.png", "a.gif"):
        with Image.open(f"out/{name}") as new:
            assert new.mode == "P"
            np.testing.assert_array_equal(
                np.asarray(new.convert("RGB")), np.asarray(PALETTE.convert("RGB"))
            )
    with Image.open("out/b.png") as new, Image.open("b.png") as old:
        np.testing.assert_array_equal(np.asarray(new), np.asarray(old.convert("RGBA")))
    assert "becomes RGBA" in capsys.readouterr().out


def test_gray_with_alpha_of_16_bits_becomes_rgba(work, unchanged):
    (work / "a.png").write_bytes(png_16_bit(np.dstack([DEEP_GRAY, DEEP_GRAY[::-1]]), 4))
    assert denoise.main(["a.png"]) == 0
    new = read_photo("a_denoised.png")
    np.testing.assert_array_equal(new.pixels[:, :, 1], DEEP_GRAY)
    np.testing.assert_array_equal(new.alpha, DEEP_GRAY[::-1])


@pytest.mark.parametrize("turned", range(1, 9))
def test_a_new_format_gets_the_picture_upright(turned, work, unchanged, capsys):
    exif = Image.Exif()
    exif[274] = turned
    (work / "a.webp").write_bytes(pillow(RGB, "WEBP", lossless=True, exif=exif, icc_profile=ICC))
    with Image.open("a.webp") as image:
        expected = np.asarray(ImageOps.exif_transpose(image))
    for name in ("b.png", "b.tif", "b.bmp"):
        assert denoise.main(["a.webp", "-o", name]) == 0
        with Image.open(name) as new:
            assert 274 not in new.getexif() and new.info.get("icc_profile") == (
                None if name == "b.bmp" else ICC
            )
            np.testing.assert_array_equal(np.asarray(new), expected)
    assert "BMP cannot hold its EXIF, colour profile" in capsys.readouterr().out


def test_the_fourth_channel_of_deep_tiff_stays_what_it_is(work, unchanged):
    for kind, said in (("unassalpha", 2), ("assocalpha", 1), ("unspecified", 0)):
        (work / "a.tif").write_bytes(tiff(np.dstack([DEEP_RGB, DEEP_GRAY]), extrasamples=[kind]))
        assert denoise.main(["a.tif", "-o", "b.tif", "--overwrite"]) == 0
        new = tifffile.TiffFile("b.tif").pages[0]
        assert [int(value) for value in new.tags[338].value] == [said]
        np.testing.assert_array_equal(new.asarray()[:, :, 3], DEEP_GRAY)
        assert denoise.main(["a.tif", "-o", "b.png", "--overwrite"]) == (
            said != 2
        )  # where it would turn transparent


def test_transparent_colours(work, unchanged, capsys):
    level = int(DEEP_GRAY[3, 4])
    (work / "deep.png").write_bytes(
        png_16_bit(DEEP_GRAY[:, :, None], 0, (b"tRNS", struct.pack(">H", level)))
    )
    PALETTE.save("clear.gif", transparency=PALETTE.getpixel((5, 5)))
    exact = np.dstack([RGB, np.where(ALPHA > 128, 255, 0).astype(np.uint8)])
    (work / "exact.webp").write_bytes(pillow(exact, "WEBP", lossless=True, exact=True))
    assert denoise.main(["deep.png", "clear.gif", "exact.webp", "-o", "out"]) == 0
    noted = [line for line in capsys.readouterr().out.splitlines() if "becomes one with" in line]
    assert len(noted) == 1 and noted[0].startswith("deep.png")
    np.testing.assert_array_equal(
        read_photo("out/deep.png").alpha, np.where(DEEP_GRAY == level, 0, 65535)
    )
    with Image.open("clear.gif") as old, Image.open("out/clear.gif") as new:
        old, new = np.asarray(old.convert("RGBA")), np.asarray(new.convert("RGBA"))
    np.testing.assert_array_equal(new[:, :, 3], old[:, :, 3])
    np.testing.assert_array_equal(new[old[:, :, 3] > 0], old[old[:, :, 3] > 0])
    np.testing.assert_array_equal(np.asarray(Image.open("out/exact.webp")), exact)


def test_alpha_of_bmp_stays(work, unchanged):
    write_photo("a.bmp", Photo(RGB, ALPHA, "BMP", metadata={"dpi": (300, 300)}), RGB)
    assert denoise.main(["a.bmp"]) == 0
    with Image.open("a_denoised.bmp") as new:
        np.testing.assert_array_equal(np.asarray(new), np.dstack([RGB, ALPHA]))
        assert [round(dots) for dots in new.info["dpi"]] == [300, 300]


def test_a_transparent_level_of_few_bits(work, unchanged):
    levels = np.arange(16, dtype=np.uint8).reshape(1, 16).repeat(16, 0)
    packed = (levels[:, ::2] << 4) | levels[:, 1::2]
    rows = zlib.compress(b"".join(b"\0" + row.tobytes() for row in packed))
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", 16, 16, 4, 0, 0, 0, 0)),
        (b"tRNS", b"\0\x05"),
        (b"IDAT", rows),
        (b"IEND", b""),
    ]
    parts = [
        struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in chunks
    ]
    (work / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))
    assert denoise.main(["a.png"]) == 0
    np.testing.assert_array_equal(read_photo("a_denoised.png").alpha, np.where(levels == 5, 0, 255))


def test_formats_that_cannot_hold_a_picture_are_one_line(tmp_path):
    for name, target, said in (
        ("deep rgb.png", "a.jpg", "16 bits"),
        ("rgb alpha.png", "a.jpg", "transparency"),
        ("rgb.png", "a.xyz", "written as"),
    ):
        (tmp_path / name).write_bytes(LOSSLESS[name])
        photo = read_photo(tmp_path / name)
        with pytest.raises(SMNetError, match=said):
            write_photo(tmp_path / target, photo, photo.pixels)
        assert not (tmp_path / target).exists()


def test_a_palette_of_grays_stays_one(work, unchanged):
    gray = Image.fromarray(GRAY)
    gray.putpalette([level for level in range(256) for _ in range(3)])
    for name in ("a.png", "a.gif", "a.tif"):
        gray.save(name)
        assert denoise.main([name, "-o", f"out/{name}"]) == 0
        with Image.open(f"out/{name}") as new:
            assert new.mode == "P" or name == "a.gif"
            np.testing.assert_array_equal(np.asarray(new.convert("L")), GRAY)


def test_transparent_grays_in_a_palette(work, unchanged, capsys):
    gray = Image.fromarray(GRAY & 0xF0)
    gray.putpalette([level for level in range(256) for _ in range(3)])
    clear = int(GRAY[5, 5] & 0xF0)
    for name in ("a.png", "a.gif"):
        gray.save(name, transparency=clear)
        assert denoise.main([name, "-o", f"out/{name}"]) == 0
        with Image.open(name) as old, Image.open(f"out/{name}") as new:
            old, new = (np.asarray(image.convert("RGBA")) for image in (old, new))
        np.testing.assert_array_equal(new[:, :, 3], old[:, :, 3])
        np.testing.assert_array_equal(new[old[:, :, 3] > 0], old[old[:, :, 3] > 0])
    assert "becomes gray with alpha" in capsys.readouterr().out


def test_transparent_grays_with_a_profile_for_rgb_become_rgba(work, unchanged, capsys):
    gray, profile = Image.fromarray(GRAY & 0xF0), b"0123456789abcdefRGB XYZ " + b"p" * 200
    gray.putpalette([level for level in range(256) for _ in range(3)])
    gray.save("a.png", transparency=int(GRAY[5, 5] & 0xF0), icc_profile=profile)
    assert denoise.main(["a.png", "-o", "b.png"]) == 0
    with Image.open("b.png") as new:
        assert (new.mode, new.info["icc_profile"]) == ("RGBA", profile)
    assert "becomes RGBA" in capsys.readouterr().out


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("kind, said", [("unassalpha", 2), ("assocalpha", 1), ("unspecified", 0)])
def test_colours_and_alpha_of_tiff_are_written_as_they_lay(work, unchanged, bits, kind, said):
    for colours in (GRAY[:, :, None], RGB):
        samples = np.dstack([colours, ALPHA])
        samples = samples.astype(np.uint16) * 257 if bits == 16 else samples
        options = {"photometric": "rgb" if samples.shape[2] == 4 else "minisblack"}
        tifffile.imwrite("a.tif", samples, planarconfig="contig", extrasamples=[kind], **options)
        assert denoise.main(["a.tif", "-o", "b.tif", "--overwrite"]) == 0
        page = tifffile.TiffFile("b.tif").pages[0]
        np.testing.assert_array_equal(page.asarray(), samples)
        assert [int(value) for value in page.extrasamples] == [said]


@pytest.mark.parametrize("compression", ["zstd", "lzma", "packbits", "lzw", None])
def test_tiff_keeps_its_lossless_compression(work, unchanged, compression):
    (work / "a.tif").write_bytes(tiff(DEEP_RGB, compression=compression))
    assert denoise.main(["a.tif"]) == 0
    old, new = (tifffile.TiffFile(name).pages[0] for name in ("a.tif", "a_denoised.tif"))
    assert new.compression == old.compression
    np.testing.assert_array_equal(new.asarray(), DEEP_RGB)
