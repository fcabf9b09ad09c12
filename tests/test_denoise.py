"""denoise.py: pictures of every kind come back as they were, and what cannot be denoised is one line; tiles are seamless."""

import errno
import io
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from conftest import synthetic_picture
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image, ImageOps
from test_testing import save_model

import denoise
import encoding
import photos
import tiling
import utils
from encoding import write_photo
from models import SMNet
from photos import read_photo
from smnet.fast import fast
from tiling import OVERLAP, SMALLEST, Denoiser, cuts, ramps
from utils import SMNetError

EXIF = Image.Exif()
EXIF[0x0112], EXIF[0x010F] = 6, "a camera"  # turned, and made by
ICC = b"a colour profile, as far as anybody looks" * 4


@pytest.fixture
def work(tmp_path, monkeypatch):
    """A folder with weights for gray and RGB, blind and gray sigma 25."""
    monkeypatch.chdir(tmp_path)
    save_model(tmp_path / "weights", "model_gray_B_1")
    save_model(tmp_path / "weights", "model_gray_L25_1", seed=1)
    save_model(tmp_path / "weights", "model_rgb_B_1", channels=3)
    return tmp_path


@pytest.fixture
def unchanged(monkeypatch):
    """A denoiser that changes nothing, so that whatever differs in the result is the files' doing."""
    monkeypatch.setattr(Denoiser, "__call__", lambda self, picture, on_tile=None: picture.clone())


GRAY, RGB = synthetic_picture(0, 30, 37)[:, :, 0], synthetic_picture(1, 30, 37, 3)
ALPHA = synthetic_picture(2, 30, 37)[:, :, 0]
DEEP_GRAY, DEEP_RGB = GRAY.astype(np.uint16) * 250 + 3, RGB.astype(np.uint16) * 250 + 3
PALETTE = Image.fromarray(RGB).quantize(64)


def png_16_bit(samples: np.ndarray, colour_type: int, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG file of uint16 (H, W, C), with chunks of one's own; written here, independently of what reads it."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    height, width = samples.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)
    header = struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0)
    parts = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def pillow(image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(buffer, kind, **options)
    return buffer.getvalue()


def tiff(samples: np.ndarray, **options) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, samples, photometric="rgb" if samples.ndim == 3 else "minisblack", **options)
    return buffer.getvalue()


# Every lossless kind: its pixels must come back exactly.
LOSSLESS = {
    "gray.png": pillow(GRAY, "PNG", dpi=(300, 300)),
    "rgb.png": pillow(RGB, "PNG", icc_profile=ICC, exif=EXIF),
    "gray alpha.png": pillow(np.dstack([GRAY, ALPHA]), "PNG"),
    "rgb alpha.png": pillow(np.dstack([RGB, ALPHA]), "PNG"),
    "deep gray.png": png_16_bit(DEEP_GRAY[:, :, None], 0, (b"pHYs", struct.pack(">IIB", 11811, 11811, 1))),
    "deep rgb.png": png_16_bit(DEEP_RGB, 2, (b"gAMA", struct.pack(">I", 45455)), (b"tEXt", b"Author\0somebody")),
    "deep rgb alpha.png": png_16_bit(np.dstack([DEEP_RGB, DEEP_GRAY]), 6),
    "gray.tif": pillow(GRAY, "TIFF", dpi=(300, 300), compression="tiff_lzw"),
    "rgb.tiff": pillow(RGB, "TIFF", icc_profile=ICC, exif=EXIF),
    "rgb alpha.tif": pillow(np.dstack([RGB, ALPHA]), "TIFF"),
    "deep gray.tif": tiff(DEEP_GRAY),
    "deep rgb.tif": tiff(DEEP_RGB, compression="zlib", iccprofile=ICC, resolution=(300, 300), resolutionunit=2),
    "deep turned.tif": tiff(DEEP_RGB, extratags=[(274, 3, 1, 6, True)]),
    "planes.tif": tiff(DEEP_RGB.transpose(2, 0, 1), planarconfig="separate"),
    "gray.bmp": pillow(GRAY, "BMP"),
    "rgb.bmp": pillow(RGB, "BMP", dpi=(300, 300)),
    "rgb.webp": pillow(RGB, "WEBP", lossless=True, exif=EXIF, icc_profile=ICC),
    "one pixel.png": pillow(RGB[:1, :1], "PNG"),
    "a line.png": pillow(GRAY[:1], "PNG"),
}


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


def test_what_the_reader_reads_is_right(tmp_path):
    for name, samples in (("deep rgb.png", DEEP_RGB), ("deep rgb.tif", DEEP_RGB), ("planes.tif", DEEP_RGB), ("rgb.tiff", RGB)):
        (tmp_path / name).write_bytes(LOSSLESS[name])
        np.testing.assert_array_equal(read_photo(tmp_path / name).pixels, samples)


def test_jpeg_keeps_its_metadata_and_takes_a_quality(work, unchanged):
    options = dict(quality=90, exif=EXIF, icc_profile=ICC, dpi=(240, 240), subsampling=0, progressive=True, comment=b"hello")
    (work / "a.jpg").write_bytes(pillow(RGB, "JPEG", **options))
    for quality in ("30", "98"):
        assert denoise.main(["a.jpg", "-o", f"{quality}.jpg", "--quality", quality]) == 0
    with Image.open("a.jpg") as old, Image.open("98.jpg") as new:
        for key in ("exif", "icc_profile", "dpi", "comment", "progressive"):
            assert new.info.get(key) == old.info.get(key), key
        assert photos.JpegImagePlugin.get_sampling(new) == 0
        assert np.abs(np.asarray(new).astype(int) - np.asarray(old)).mean() < 2
    assert (work / "30.jpg").stat().st_size < (work / "98.jpg").stat().st_size / 2


def test_a_palette_stays_unless_it_has_transparency(work, unchanged, capsys):
    PALETTE.save("a.png")
    PALETTE.save("a.gif")
    PALETTE.save("b.png", transparency=3)
    assert denoise.main(["a.png", "a.gif", "b.png", "-o", "out"]) == 0
    for name in ("a.png", "a.gif"):
        with Image.open(f"out/{name}") as new:
            assert new.mode == "P"
            np.testing.assert_array_equal(np.asarray(new.convert("RGB")), np.asarray(PALETTE.convert("RGB")))
    with Image.open("out/b.png") as new, Image.open("b.png") as old:
        np.testing.assert_array_equal(np.asarray(new), np.asarray(old.convert("RGBA")))
    assert "becomes RGBA" in capsys.readouterr().out


def test_gray_with_alpha_of_16_bits_becomes_rgba(work, unchanged):
    (work / "a.png").write_bytes(png_16_bit(np.dstack([DEEP_GRAY, DEEP_GRAY[::-1]]), 4))
    assert denoise.main(["a.png"]) == 0
    new = read_photo("a_denoised.png")
    np.testing.assert_array_equal(new.pixels[:, :, 1], DEEP_GRAY)
    np.testing.assert_array_equal(new.alpha, DEEP_GRAY[::-1])


@pytest.mark.parametrize("target", ["a_denoised.png", "a.tif", "gray.webp"])
def test_what_turns_from_gray_to_rgb_loses_the_profile_for_gray(target, work, unchanged, capsys):
    for_gray = bytes(16) + b"GRAY" + bytes(108)
    profile, dots = (b"iCCP", b"x\0\0" + zlib.compress(for_gray)), (b"pHYs", struct.pack(">IIB", 11811, 11811, 1))
    (work / "a.png").write_bytes(png_16_bit(np.dstack([DEEP_GRAY, DEEP_GRAY[::-1]]), 4, profile, dots))
    (work / "gray.png").write_bytes(pillow(GRAY, "PNG", icc_profile=for_gray))
    assert denoise.main(["gray.png" if target == "gray.webp" else "a.png", "-o", target]) == 0
    said = capsys.readouterr().out
    assert "; its colour profile, for gray, is left out" in said and ("becomes RGBA" in said) == (target != "gray.webp")
    new = read_photo(target)
    assert "icc_profile" not in new.about and b"iCCP" not in new.png_chunks and new.pixels.shape[2] == 3
    if target != "gray.webp":
        assert [round(value) for value in new.about["dpi"]] == [300, 300]
        np.testing.assert_array_equal(new.pixels, np.dstack([DEEP_GRAY] * 3))
        np.testing.assert_array_equal(new.alpha, DEEP_GRAY[::-1])


def test_what_turns_from_gray_to_rgb_keeps_a_profile_for_rgb(work, unchanged, capsys):
    for_rgb = bytes(16) + b"RGB " + bytes(108)
    (work / "a.png").write_bytes(pillow(GRAY, "PNG", icc_profile=for_rgb))
    assert denoise.main(["a.png", "-o", "a.webp"]) == 0
    assert "profile" not in capsys.readouterr().out and read_photo("a.webp").about["icc_profile"] == for_rgb


@pytest.mark.parametrize("samples", [GRAY, DEEP_GRAY], ids=["8 bits", "16 bits"])
def test_photoshop_layers_and_thumbnails_do_not_go_on_showing_the_noisy_picture(work, unchanged, capsys, samples):
    def resource(number: int, name: bytes, data: bytes) -> bytes:
        name = bytes([len(name)]) + name
        parts = (name + bytes(len(name) % 2), struct.pack(">I", len(data)), data + bytes(len(data) % 2))
        return b"8BIM" + struct.pack(">H", number) + b"".join(parts)

    thumbnail, captions = resource(1036, b"", b"noisy"), resource(1028, b"text", b"\x1c\x02x\0\x03sea")
    for name, resources, left in (("a", captions + thumbnail + captions, captions * 2), ("b", thumbnail, None)):
        tags = [(34377, 1, len(resources), resources, True), (37724, 7, 6, b"layers", True)]
        (work / f"{name}.tif").write_bytes(tiff(samples, extratags=tags))
        assert denoise.main([f"{name}.tif"]) == 0
        assert capsys.readouterr().out.endswith("; its Photoshop layers are left out\n")
        with Image.open(f"{name}_denoised.tif") as new:
            assert 37724 not in new.tag_v2 and new.tag_v2.get(34377) == left and (34377 in new.tag_v2) == (left is not None)


@pytest.mark.parametrize("samples", [GRAY, DEEP_GRAY], ids=["8 bits", "16 bits"])
def test_a_resolution_without_unit_stays_without(work, unchanged, samples):
    tifffile.imwrite("a.tif", samples, photometric="minisblack", resolution=(3, 2), resolutionunit=1)
    assert denoise.main(["a.tif"]) == denoise.main(["a.tif", "-o", "a.png"]) == 0
    with Image.open("a_denoised.tif") as new:
        assert [new.tag_v2[tag] for tag in (282, 283, 296)] == [3, 2, 1]
    with Image.open("a.png") as new:
        assert "dpi" not in new.info


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")  # pytest's filters take the place of ours
@pytest.mark.parametrize("target", ["b.tif", "b.png", "b.jpg"])
def test_a_dangling_interoperability_pointer_costs_no_exif(target, work, unchanged, capsys):
    (work / "a.tif").write_bytes(tiff_with_folders(GRAY, turned=1, order="<", dangling=True))
    exif = b"Exif\0\0" + (work / "a.tif").read_bytes()
    (work / "a.jpg").write_bytes(pillow(RGB, "JPEG", exif=exif))
    for source in ("a.tif", "a.jpg"):
        assert denoise.main([source, "-o", target, "--overwrite"]) == 0
        assert "could not be kept" not in capsys.readouterr().out
        with Image.open(target) as new:
            assert new.getexif()[315] == "é" * 5 and new.getexif().get_ifd(34665)[33434] == 0.02


def tiff_with_folders(samples: np.ndarray, *, turned: int, order: str, dangling: bool = False) -> bytes:
    """A TIFF file with EXIF and GPS folders; written here, independently of what reads it.

    `dangling`: EXIF's has a pointer to an Interoperability folder that is not there.
    """
    depth = samples.dtype.itemsize * 8
    data = samples.astype(samples.dtype.newbyteorder(order)).tobytes()
    parts = [data + bytes(len(data) % 2)]

    def put(part: bytes) -> int:
        parts.append(part + bytes(len(part) % 2))
        return 8 + sum(map(len, parts[:-1]))

    def folder(*entries: tuple[int, int, int, bytes]) -> bytes:
        listed = b"".join(struct.pack(f"{order}HHI", *entry[:3]) + entry[3].ljust(4, b"\0") for entry in entries)
        return struct.pack(f"{order}H", len(entries)) + listed + bytes(4)

    def short(value: int) -> bytes:
        return struct.pack(f"{order}H", value)

    def long(value: int) -> bytes:
        return struct.pack(f"{order}I", value)

    exposure = put(struct.pack(f"{order}II", 1, 50))
    pointers = [(40965, 4, 1, long(10**6))] if dangling else []
    exif, gps = put(folder((33434, 5, 1, long(exposure)), *pointers)), put(folder((1, 2, 2, b"N\0")))
    text, scale = put("é".encode("latin-1") * 5 + b"\0"), put(struct.pack(f"{order}3d", 0.5, 0.25, 0))
    main = put(folder(
        (256, 3, 1, short(samples.shape[1])), (257, 3, 1, short(samples.shape[0])), (258, 3, 1, short(depth)),
        (259, 3, 1, short(1)), (262, 3, 1, short(1)), (273, 4, 1, long(8)), (274, 3, 1, short(turned)),
        (277, 3, 1, short(1)), (278, 3, 1, short(samples.shape[0])), (279, 4, 1, long(samples.nbytes)),
        (315, 2, 6, long(text)), (33550, 12, 3, long(scale)), (34665, 4, 1, long(exif)), (34853, 4, 1, long(gps)),
    ))  # fmt: skip
    return (b"II*\0" if order == "<" else b"MM\0*") + long(main) + b"".join(parts)


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("samples", [GRAY, DEEP_GRAY], ids=["8 bits", "16 bits"])
def test_tiff_keeps_exif_folders_and_foreign_tags(work, unchanged, capsys, samples, order):
    (work / "a.tif").write_bytes(tiff_with_folders(samples, turned=6, order=order))
    assert denoise.main(["a.tif", "-o", "b.tif"]) == 0
    files = [io.BytesIO((work / name).read_bytes()) for name in ("a.tif", "b.tif")]  # by name Pillow does not turn all of them
    with Image.open(files[0]) as old, Image.open(files[1]) as new:
        for image in (old, new):
            exif = image.getexif()
            assert exif.get_ifd(34665) == {33434: 0.02} and exif.get_ifd(34853) == {1: "N"} and exif[274] == 6
            assert image.tag_v2[33550] == (0.5, 0.25, 0) and image.tag_v2[315] == "é" * 5
        np.testing.assert_array_equal(np.asarray(new), np.asarray(old))
        old.save("packed.tif", compression="tiff_lzw", tiffinfo={315: "é".encode("latin-1"), 33550: (0.5, 0.25, 0.0)})
    assert denoise.main(["packed.tif"]) == 0
    with Image.open("packed_denoised.tif") as new:
        assert new.tag_v2[315] == "é" and new.tag_v2[33550] == (0.5, 0.25, 0)
    assert denoise.main(["a.tif", "-o", "b.png"]) == 0  # another format: upright
    assert "PNG cannot hold its TIFF tag 33550" in capsys.readouterr().out
    with Image.open("b.png") as new:
        np.testing.assert_array_equal(np.asarray(new), np.rot90(samples, -1))
        assert new.getexif().get_ifd(34665) == {33434: 0.02} and 274 not in new.getexif()


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
            assert 274 not in new.getexif() and new.info.get("icc_profile") == (None if name == "b.bmp" else ICC)
            np.testing.assert_array_equal(np.asarray(new), expected)
    assert "BMP cannot hold its EXIF, colour profile" in capsys.readouterr().out


def test_the_fourth_channel_of_deep_tiff_stays_what_it_is(work, unchanged):
    for kind, said in (("unassalpha", 2), ("assocalpha", 1), ("unspecified", 0)):
        (work / "a.tif").write_bytes(tiff(np.dstack([DEEP_RGB, DEEP_GRAY]), extrasamples=[kind]))
        assert denoise.main(["a.tif", "-o", "b.tif", "--overwrite"]) == 0
        new = tifffile.TiffFile("b.tif").pages[0]
        assert [int(value) for value in new.tags[338].value] == [said]
        np.testing.assert_array_equal(new.asarray()[:, :, 3], DEEP_GRAY)
        assert denoise.main(["a.tif", "-o", "b.png", "--overwrite"]) == (said != 2)  # where it would turn transparent


def test_transparent_colours(work, unchanged, capsys):
    level = int(DEEP_GRAY[3, 4])
    (work / "deep.png").write_bytes(png_16_bit(DEEP_GRAY[:, :, None], 0, (b"tRNS", struct.pack(">H", level))))
    PALETTE.save("clear.gif", transparency=PALETTE.getpixel((5, 5)))
    exact = np.dstack([RGB, np.where(ALPHA > 128, 255, 0).astype(np.uint8)])
    (work / "exact.webp").write_bytes(pillow(exact, "WEBP", lossless=True, exact=True))
    assert denoise.main(["deep.png", "clear.gif", "exact.webp", "-o", "out"]) == 0
    np.testing.assert_array_equal(read_photo("out/deep.png").alpha, np.where(DEEP_GRAY == level, 0, 65535))
    with Image.open("clear.gif") as old, Image.open("out/clear.gif") as new:
        old, new = np.asarray(old.convert("RGBA")), np.asarray(new.convert("RGBA"))
    np.testing.assert_array_equal(new[:, :, 3], old[:, :, 3])
    np.testing.assert_array_equal(new[old[:, :, 3] > 0], old[old[:, :, 3] > 0])
    np.testing.assert_array_equal(np.asarray(Image.open("out/exact.webp")), exact)


def test_odd_metadata_never_cost_the_picture(work, unchanged, capsys, monkeypatch):
    tags = encoding.as_16_bit_tiff
    monkeypatch.setattr(encoding, "as_16_bit_tiff", lambda photo, pixels, given: 1 / 0 if given else tags(photo, pixels, given))
    (work / "a.tif").write_bytes(LOSSLESS["deep turned.tif"])
    assert denoise.main(["a.tif"]) == 0
    assert "its metadata could not be kept (division by zero)" in capsys.readouterr().out
    np.testing.assert_array_equal(read_photo("a_denoised.tif").pixels, np.rot90(DEEP_RGB, -1))
    monkeypatch.setattr(encoding, "for_format", lambda photo, kind: 1 / 0)
    assert denoise.main(["a.tif", "-o", "a.png"]) == 0
    assert "its metadata could not be kept (division by zero)" in capsys.readouterr().out
    np.testing.assert_array_equal(read_photo("a.png").pixels, np.rot90(DEEP_RGB, -1))


def test_alpha_of_bmp_stays(work, unchanged):
    write_photo("a.bmp", photos.Photo(RGB, ALPHA, "BMP", about={"dpi": (300, 300)}), RGB)
    assert denoise.main(["a.bmp"]) == 0
    with Image.open("a_denoised.bmp") as new:
        np.testing.assert_array_equal(np.asarray(new), np.dstack([RGB, ALPHA]))
        assert [round(dots) for dots in new.info["dpi"]] == [300, 300]


def test_deep_png_keeps_what_it_says_as_tiff(work, unchanged, capsys):
    dots = struct.pack(">IIB", 11811, 11811, 1)  # a metre
    (work / "a.png").write_bytes(png_16_bit(DEEP_RGB, 2, (b"pHYs", dots), (b"iCCP", b"x\0\0" + zlib.compress(ICC))))
    assert denoise.main(["a.png", "-o", "a.tif"]) == 0
    assert "metadata" not in capsys.readouterr().out
    with Image.open("a.tif") as new:
        assert new.info["icc_profile"] == ICC and [round(dots) for dots in new.info["dpi"]] == [300, 300]


def test_a_transparent_level_of_few_bits(work, unchanged):
    levels = np.arange(16, dtype=np.uint8).reshape(1, 16).repeat(16, 0)
    packed = (levels[:, ::2] << 4) | levels[:, 1::2]
    rows = zlib.compress(b"".join(b"\0" + row.tobytes() for row in packed))
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", 16, 16, 4, 0, 0, 0, 0)), (b"tRNS", b"\0\x05"), (b"IDAT", rows), (b"IEND", b"")]
    parts = [struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in chunks]
    (work / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))
    assert denoise.main(["a.png"]) == 0
    np.testing.assert_array_equal(read_photo("a_denoised.png").alpha, np.where(levels == 5, 0, 255))


def test_damaged_and_long_texts_of_png(work, unchanged):
    damaged = struct.pack(">I", 6) + b"tEXta\0text" + b"1234"
    long = b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(b" " * 2_000_000)
    content = png_16_bit(DEEP_RGB, 2, long)
    end = content.index(b"IEND") - 4
    (work / "a.png").write_bytes(content[:end] + damaged + content[end:])
    assert denoise.main(["a.png"]) == 0
    with Image.open("a_denoised.png") as new:
        new.load()
        assert len(new.info["XML:com.adobe.xmp"]) == 2_000_000


def test_one_picture_too_large_for_memory_does_not_end_the_batch(work, unchanged, capsys, monkeypatch):
    for name in "ab":
        Image.fromarray(RGB).save(f"{name}.png")
    read = denoise.to_tensor
    tried = []

    def first_fails(photo):
        tried.append(photo)
        if len(tried) == 1:
            raise MemoryError
        return read(photo)

    monkeypatch.setattr(denoise, "to_tensor", first_fails)
    assert denoise.main(["a.png", "b.png"]) == 1
    printed = capsys.readouterr()
    assert "skipped: a.png: does not fit into memory" in printed.err and Path("b_denoised.png").is_file()


def test_xmp_does_not_turn_an_upright_picture_again(work, unchanged):
    exif = Image.Exif()
    exif[274] = 6
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    xmp += b'<rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6"/></rdf:RDF></x:xmpmeta>'
    Image.fromarray(RGB).save("a.webp", lossless=True, exif=exif, xmp=xmp)
    for name in ("a.png", "a.tif"):
        assert denoise.main(["a.webp", "-o", name]) == 0
        with Image.open(name) as new:
            np.testing.assert_array_equal(np.asarray(ImageOps.exif_transpose(new)), np.rot90(RGB, -1))


def test_captions_of_jpeg_are_kept(work, unchanged):
    captions = b"Photoshop 3.0\x008BIM\x04\x04\0\0\0\0\0\x08\x1c\x02x\0\x03sea"
    segment = b"\xff\xed" + struct.pack(">H", len(captions) + 2) + captions
    (work / "a.jpg").write_bytes(pillow(RGB, "JPEG", extra=segment))
    assert denoise.main(["a.jpg"]) == 0
    assert segment in (work / "a_denoised.jpg").read_bytes()


def test_thumbnails_of_jpeg_do_not_go_on_showing_the_noisy_picture(work, unchanged):
    def folder(entries: dict[int, tuple[int, int]], following: int) -> bytes:
        listed = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, (kind, value) in entries.items())
        return struct.pack("<H", len(entries)) + listed + struct.pack("<I", following)

    thumbnail = pillow(RGB, "JPEG")
    first = folder({274: (3, 1), 296: (3, 2)}, 8 + 30)
    second = folder({513: (4, 8 + 30 + 30), 514: (4, len(thumbnail))}, 0)
    exif = b"Exif\0\0II*\0" + struct.pack("<I", 8) + first + second + thumbnail
    number, captions = (b"8BIM" + struct.pack(">HHI", n, 0, 4) for n in (1036, 1028))
    resources = b"Photoshop 3.0\0" + number + b"seen" + captions + b"text"
    segment = b"\xff\xed" + struct.pack(">H", len(resources) + 2) + resources
    (work / "a.jpg").write_bytes(pillow(RGB, "JPEG", exif=exif, extra=segment))
    with Image.open("a.jpg") as old:
        assert old.getexif().get_ifd(ExifTags.IFD.IFD1)[514] == len(thumbnail)
    assert denoise.main(["a.jpg"]) == 0
    with Image.open("a_denoised.jpg") as new:
        assert not new.getexif().get_ifd(ExifTags.IFD.IFD1) and new.getexif()[296] == 2
    data = (work / "a_denoised.jpg").read_bytes()
    assert b"8BIM\x04\x04" in data and b"8BIM\x04\x0c" not in data


@pytest.mark.parametrize("target", ["b.jpg", "b.tif", "b.png", "b.webp"])
def test_texts_in_exifs_folder_keep_their_letters(target, work, unchanged):
    exif = Image.Exif()
    exif[34665] = {42032: "José".encode("latin-1"), 42036: "Größe".encode()}
    (work / "a.jpg").write_bytes(pillow(RGB, "JPEG", exif=exif.tobytes()))
    assert denoise.main(["a.jpg", "-o", "a.tif"]) == 0
    for source in ("a.jpg", "a.tif"):
        assert denoise.main([source, "-o", target, "--overwrite"]) == 0
        with Image.open(target) as new:
            found = new.getexif().get_ifd(34665)
        assert found[42032] == "José" and found[42036].encode("latin-1").decode() == "Größe"


def half_a_png() -> bytes:
    """A PNG file with half the samples, all else being right; Pillow takes the rest for black."""
    whole = pillow(RGB, "PNG")
    rows = zlib.compress(bytes(15 * (1 + 3 * 37)))
    chunk = b"IDAT" + rows
    return whole[:33] + struct.pack(">I", len(rows)) + chunk + struct.pack(">I", zlib.crc32(chunk)) + whole[-12:]


def tiff_12_bit() -> bytes:
    """A TIFF file of 12 bits a sample."""
    whole = tiff(np.zeros((4, 4), np.uint16))
    bits = tifffile.TiffFile(io.BytesIO(whole)).pages[0].tags[258].valueoffset
    return whole[:bits] + struct.pack("<H", 12) + whole[bits + 2 :]


# Every kind that cannot be denoised, and what is said of it.
HOSTILE = {
    "empty.png": (b"", "is empty"),
    "text.png": (b"not a picture at all\n" * 9, "no picture"),
    "zeros.jpg": (bytes(5000), "no picture"),
    "cut.png": (LOSSLESS["rgb.png"][:900], "damaged"),
    "cut.jpg": (pillow(RGB, "JPEG")[:400], "damaged"),
    "cut.tif": (LOSSLESS["rgb.tiff"][:600], "damaged"),
    "cut deep.png": (LOSSLESS["deep rgb.png"][:300], "damaged"),
    "half.png": (half_a_png(), "its samples end too early"),
    "12 bits.tif": (tiff_12_bit(), "12 bits"),
    "float rgb.tif": (tiff(RGB.astype(np.float32)), "float32 samples in 3 channels"),
    "header.png": (LOSSLESS["rgb.png"][:8], "no picture"),
    "flipped.png": (LOSSLESS["rgb.png"][:60] + b"\xff" * 40 + LOSSLESS["rgb.png"][100:], "damaged"),
    "cmyk.jpg": (pillow(Image.fromarray(RGB).convert("CMYK"), "JPEG"), "CMYK"),
    "lab.tif": (pillow(Image.fromarray(RGB).convert("RGB").convert("LAB"), "TIFF"), "LAB"),
    "bits.png": (pillow(Image.fromarray(GRAY).convert("1"), "PNG"), "1 bit"),
    "float.tif": (pillow(Image.fromarray(GRAY.astype(np.float32)), "TIFF"), "floating-point"),
    "int.tif": (pillow(Image.fromarray(GRAY.astype(np.int32)), "TIFF"), "32-bit"),
    "animated.gif": (pillow(PALETTE, "GIF", save_all=True, append_images=[PALETTE.rotate(90)]), "2 frames"),
    "animated.webp": (pillow(RGB, "WEBP", save_all=True, append_images=[Image.fromarray(RGB[::-1])]), "2 frames"),
    "pages.tif": (pillow(RGB, "TIFF", save_all=True, append_images=[Image.fromarray(RGB)]), "2 frames"),
    "huge.png": (png_16_bit(np.zeros((1, 1, 1), np.uint16), 0).replace(
        struct.pack(">II", 1, 1), struct.pack(">II", 60000, 60000), 1), "60000x60000|damaged|no picture"),
    "foreign.png": (pillow(RGB, "PPM"), "is a PPM file"),
    "icon.png": (pillow(RGB, "ICO"), "is a ICO file|is an ICO file"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_a_picture_that_cannot_be_denoised_is_one_line(name, tmp_path):
    content, said = HOSTILE[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SMNetError, match=said) as caught:
        read_photo(tmp_path / name)
    assert str(caught.value).startswith(str(tmp_path / name)) and "\n" not in str(caught.value)


def test_a_folder_goes_on_past_bad_files_and_says_so_at_the_end(work, capsys):
    folder = work / "in" / "deeper"
    folder.mkdir(parents=True)
    for name, (content, _) in HOSTILE.items():
        (folder / name).write_bytes(content)
    (folder / "notes.txt").write_text("no picture, and not looked at")
    (work / "in" / "good.png").write_bytes(LOSSLESS["gray.png"])
    (folder / "good.bmp").write_bytes(LOSSLESS["rgb.bmp"])
    assert denoise.main(["in", "in/missing.png"]) == 1
    said = capsys.readouterr()
    assert said.err.count("skipped: ") == len(HOSTILE) + 1 == said.err.count("\n")
    assert f"denoised 2 pictures, skipped {len(HOSTILE) + 1}" in said.out
    written = sorted(str(p.relative_to(work / "in_denoised")) for p in (work / "in_denoised").rglob("*.*"))
    assert written == ["deeper/good.bmp", "good.png"]
    assert denoise.main(["in/good.png", "-o", "in_denoised"]) == 1
    assert "is there already; --overwrite replaces it" in capsys.readouterr().err
    assert denoise.main(["in/good.png", "-o", "in_denoised", "--overwrite"]) == 0


def test_a_result_never_replaces_its_picture_or_another_result(work, capsys):
    for folder in ("a", "b"):
        (work / folder).mkdir()
        (work / folder / "x.png").write_bytes(LOSSLESS["gray.png"])
    assert denoise.main(["a/x.png", "-o", "a", "--overwrite"]) == 1
    assert "would replace the picture" in capsys.readouterr().err
    assert denoise.main(["a/x.png", "b/x.png", "-o", "out"]) == 1
    assert "already the result of another picture" in capsys.readouterr().err
    assert (work / "a" / "x.png").read_bytes() == LOSSLESS["gray.png"]


def test_odd_names_and_folders(work, capsys, monkeypatch):
    folder = work / "in"
    folder.mkdir()
    for name in ("a.png", "a.bmp", "two\nlines.png", "x" * 245 + ".png"):
        (folder / name).write_bytes(LOSSLESS["gray.png" if name[-1] == "g" else "gray.bmp"])
    (folder / "loop.png").symlink_to("loop.png")
    os.mkfifo(folder / "pipe.png")
    (folder / "closed").mkdir()
    scandir = os.scandir

    def closed(path="."):
        if Path(path).name == "closed":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", closed)
    for _ in range(2):  # the results lie in the folder itself the second time
        assert denoise.main(["in", "in/a.png", "-o", "in/out", "--compare", "--overwrite"]) == 1
        said = capsys.readouterr()
        assert "denoised 3 pictures, skipped 4" in said.out and said.err.count("\n") == 4
        assert "in/closed: this folder cannot be read (Permission denied)" in said.err
        assert "in/pipe.png: is no file" in said.err and "in/loop.png: " in said.err and "x.png" in said.err
    written = {path.name for path in (folder / "out").iterdir()}
    assert written == {
        "a.png", "a.bmp", "two\nlines.png", "a_compare.png", "a.png_compare.png", "two\nlines_compare.png",
    }  # fmt: skip
    (work / "file").write_text("")
    with pytest.raises(SMNetError, match="file is a file; give a folder"):
        denoise.main(["in", "-o", "file"])
    for wrong in ("in/a.png -o a.jp2", "in/a.png --noiseL 25 --weights x.pth", "in/a.png --point 1 1"):
        with pytest.raises(SystemExit) as caught:
            denoise.main(wrong.split())
        assert caught.value.code == 2


def test_a_file_is_not_taken_for_the_name_of_a_folder(work, unchanged, capsys):
    for name in ("a.png", "in/b.png", "in/c.png", "in/d.HEIC", "in/e.nef", "in/notes.txt"):
        (work / name).parent.mkdir(exist_ok=True)
        (work / name).write_bytes(LOSSLESS["gray.png"])
    for wrong, said in (
        ("a.png in/b.png -o z.jpg", "z.jpg names one file"), ("in -o z.png", "name a folder by -o"),
        ("a.png -o z.heic", "pictures are written as .png,"), ("a.png in -o z.JP2", "give one, or make the folder"),
    ):  # fmt: skip
        with pytest.raises(SystemExit) as caught:
            denoise.main(wrong.split())
        assert caught.value.code == 2 and said in capsys.readouterr().err
    assert not [*work.glob("z*")]
    (work / "there.jpg").mkdir()
    for folder in ("results.v2", "there.jpg"):
        assert denoise.main(["a.png", "in", "-o", folder]) == 0
        said = capsys.readouterr().out
        assert "denoised 3 pictures, skipped 0, passed over 2 of kinds that cannot be read (.heic, .nef)\n" in said
        assert sorted(path.name for path in (work / folder).iterdir()) == ["a.png", "b.png", "c.png"]


def test_a_file_given_twice_is_taken_once(work, unchanged, capsys):
    (work / "in").mkdir()
    (work / "in" / "a.png").write_bytes(LOSSLESS["gray.png"])
    (work / "in" / "link.png").symlink_to("a.png")  # another picture, as far as its name goes
    assert denoise.main(["in/a.png", str(work / "in" / "a.png"), "in/../in/a.png", "in/link.png"]) == 0
    assert "denoised 2 pictures, skipped 0\n" in capsys.readouterr().out
    assert {path.name for path in (work / "in").glob("*_*")} == {"a_denoised.png", "link_denoised.png"}


def test_the_root_folder_has_nothing_beside_it(work, capsys):
    (work / "a.png").write_bytes(LOSSLESS["gray.png"])
    assert denoise.main(["/", "a.png"]) == 1
    said = capsys.readouterr()
    assert said.err == "skipped: /: the results cannot lie beside it; name a folder for them by -o\n"
    assert "denoised 1 picture, skipped 1\n" in said.out


def test_names_that_do_not_say_what_a_file_is(work, unchanged, capsys):
    jpeg = pillow(RGB, "JPEG")
    for name in ("a.jfif", "a.jpe", "none", "a.foo"):
        (work / name).write_bytes(jpeg)
    (work / "png.jpg").write_bytes(LOSSLESS["gray.png"])
    assert denoise.main(["a.jfif", "a.jpe", "none", "a.foo", "png.jpg"]) == 1
    said = capsys.readouterr()
    assert "skipped: none: none_denoised: pictures are written as .png, " in said.err
    assert said.err.count("; give -o such a name\n") == 2
    assert said.out.count("it is a PNG file, and becomes JPEG as its name says") == said.out.count("it is a ") == 1
    for name in ("a_denoised.jfif", "a_denoised.jpe", "png_denoised.jpg"):
        assert read_photo(work / name).format == "JPEG"
    assert denoise.main(["none", "-o", "a.png"]) == denoise.main(["png.jpg", "-o", "b.png"]) == 0
    assert "it is a" not in capsys.readouterr().out


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="there are no closed folders for root")
def test_a_folder_without_permission_is_one_line(work, capsys):
    for name in ("open/b.png", "closed/a.png"):
        (work / name).parent.mkdir()
        (work / name).write_bytes(LOSSLESS["gray.png"])
    (work / "closed").chmod(0)
    try:
        assert denoise.main(["closed", "closed/a.png", "open", "-o", "out"]) == 1
    finally:
        (work / "closed").chmod(0o700)
    said = capsys.readouterr()
    assert said.err.count("Permission denied") == 2 == said.err.count("\n") and "denoised 1 picture, skipped 2" in said.out


def test_who_reads_the_output_may_stop(work):
    (work / "a.png").write_bytes(LOSSLESS["one pixel.png"])
    reader, writer = os.pipe()
    os.close(reader)
    ended = subprocess.run([sys.executable, denoise.__file__, "a.png"], stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert ended.returncode == 1 and "Traceback" not in ended.stderr and "BrokenPipe" not in ended.stderr
    assert (work / "a_denoised.png").exists()


def test_what_cannot_be_written_is_said_before_the_work(work, capsys, monkeypatch):
    (work / "deep.png").write_bytes(LOSSLESS["deep gray.png"])
    monkeypatch.setattr(Denoiser, "__call__", lambda self, picture, on_tile=None: pytest.fail("denoised in vain"))
    assert denoise.main(["deep.png", "-o", "a.jpg"]) == 1
    assert "skipped: deep.png: a.jpg: JPEG cannot hold 16 bits" in capsys.readouterr().err
    for side, format in ((16384, "webp"), (65501, "jpg"), (65536, "gif")):
        (work / "long.png").write_bytes(pillow(np.zeros((1, side), np.uint8), "PNG"))
        assert denoise.main(["long.png", "-o", f"a.{format}"]) == 1
        assert f"holds at most {side - 1} pixels a side, not {side}x1; give a .png" in capsys.readouterr().err
    name = "x" * 245 + ".png"
    (work / name).write_bytes(LOSSLESS["gray.png"])
    assert denoise.main([name]) == denoise.main([name, "-o", "out"]) == 1
    assert capsys.readouterr().err.count("File name too long; give the picture a shorter name\n") == 2


def test_the_right_network_is_found(work, capsys):
    (work / "x.png").write_bytes(LOSSLESS["gray.png"])
    (work / "y.png").write_bytes(LOSSLESS["rgb.png"])
    assert denoise.main(["x.png", "y.png"]) == 0
    said = capsys.readouterr().out
    assert "weights/model_gray_B_1.pth" in said and "weights/model_rgb_B_1.pth" in said
    assert denoise.main(["x.png", "y.png", "--noiseL", "25", "--overwrite"]) == 1
    said = capsys.readouterr()
    assert "weights/model_gray_L25_1.pth" in said.out and "python train_rgb.py --noiseL 25" in said.err
    assert denoise.main(["y.png", "--weights", "weights/model_gray_B_1.pth", "--overwrite"]) == 1
    assert "is for gray pictures, not RGB ones" in capsys.readouterr().err
    model = utils.load_model("weights/model_gray_L25_1.pth")  # which overwrote the blind one's result
    noisy = torch.from_numpy(GRAY.copy())[None] / 255
    with torch.inference_mode():
        expected = (model(noisy[None])[0, 0].clamp(0, 1) * 255).round()
    np.testing.assert_allclose(read_photo("x_denoised.png").pixels[:, :, 0], expected, atol=1)


def test_sheets(work, capsys):
    (work / "x.png").write_bytes(LOSSLESS["rgb.png"])
    assert denoise.main(["x.png", "--compare", "--save_stages", "--point", "5", "900"]) == 0
    assert read_photo("x_denoised_compare.png").pixels.shape == (57, 608, 3)  # upright; three panels of at least 200, gaps of 4
    (work / "x_denoised.png").unlink()
    assert denoise.main(["x.png", "--compare"]) == 1  # the sheet is there, and nothing is replaced
    assert "x_denoised_compare.png is there already" in capsys.readouterr().err and not (work / "x_denoised.png").exists()
    (work / "x_denoised_compare.png").unlink()
    (work / "x_denoised_compare.png").mkdir()
    assert denoise.main(["x.png", "--compare", "--overwrite"]) == 1
    assert (
        "x_denoised.png is written, but this sheet is not: " in capsys.readouterr().err and (work / "x_denoised.png").exists()
    )
    assert read_photo("x_denoised_stages.png").pixels.shape == (57, 1016, 3)  # five


def test_formats_that_cannot_hold_a_picture_are_one_line(tmp_path):
    for name, target, said in (
        ("deep rgb.png", "a.jpg", "16 bits"), ("rgb alpha.png", "a.jpg", "transparency"), ("rgb.png", "a.xyz", "written as"),
    ):  # fmt: skip
        (tmp_path / name).write_bytes(LOSSLESS[name])
        photo = read_photo(tmp_path / name)
        with pytest.raises(SMNetError, match=said):
            write_photo(tmp_path / target, photo, photo.pixels)
        assert not (tmp_path / target).exists()


# --------------------------------------------------------------------------------------------------------------- tiles


@given(
    length=st.integers(1, 9000),
    tile=st.integers(SMALLEST // 8, 100).map(lambda eighths: 8 * eighths),
    shuffle=st.sampled_from([1, 2]),
)
@settings(max_examples=200, deadline=None)
def test_tiles_cover_everything_once(length, tile, shuffle):
    pieces = cuts(length, tile * shuffle, shuffle)
    weights = torch.zeros(length)
    for (start, stop), ramp in zip(pieces, ramps(pieces, shuffle), strict=True):
        assert 0 <= start < stop <= length and stop - start <= tile * shuffle
        weights[start:stop] += ramp
    assert (weights - 1).abs().max() < 1e-6
    assert all(a[1] - b[0] >= OVERLAP * shuffle for a, b in zip(pieces, pieces[1:]))
    assert len({b - a for a, b in pieces}) == 1 and all(start % (8 * shuffle) == 0 for start, _ in pieces[:-1])


def test_tiles_of_large_pictures_cost_at_most_15_percent_more():
    for width, height in ((4000, 3000), (6000, 4000), (8000, 6000)):
        total = sum(b - a for a, b in cuts(width, tiling.LARGEST)) * sum(b - a for a, b in cuts(height, tiling.LARGEST))
        assert total <= 1.15 * width * height


@given(height=st.integers(1, 300), width=st.integers(1, 300))
@settings(max_examples=15, deadline=None)
def test_any_size_in_tiles(height, width):
    torch.manual_seed(0)
    model = SMNet(1, 2)
    x = torch.rand(1, height, width)
    output = Denoiser(model, tile=SMALLEST)(x)
    assert output.shape == x.shape and output.isfinite().all()
    if max(height, width) <= SMALLEST:
        with torch.inference_mode():
            assert torch.equal(output, fast(model)(x[None])[0])


@pytest.mark.parametrize("shuffle, tile", [(1, 136), (2, 272)])
def test_tiles_are_seamless(shuffle, tile):
    """A network with small weights sees far too little to notice the tiles; what it gives must not show them either."""
    torch.manual_seed(3)
    model = SMNet(1, 4, shuffle).eval()
    height, width = 300 * shuffle, 420 * shuffle
    picture = torch.from_numpy(synthetic_picture(5, height, width)[:, :, 0].copy())[None] / 255
    noisy = picture + 0.1 * torch.randn(1, height, width)
    whole, tiled = Denoiser(model, tile=0)(noisy), Denoiser(model, tile=tile)(noisy)
    difference = (tiled - whole)[0]
    assert difference.square().mean() < 1e-4 * (whole - noisy).square().mean()
    for axis, length in ((0, height), (1, width)):
        steps = difference.diff(dim=axis).square().mean(dim=1 - axis).sqrt()
        borders = [edge - 1 for piece in cuts(length, tile, shuffle) for edge in piece if 0 < edge < length]
        own = whole[0].diff(dim=axis).square().mean().sqrt()
        assert steps[borders].max() < 0.05 * own


class Small(torch.nn.Module):
    """A device on which not more than `room` pixels fit."""

    def __init__(self, room: int):
        super().__init__()
        self.room, self.width, self.channels, self.shuffle = room, 4, 1, 1
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.asked: list[int] = []

    def forward(self, x):
        self.asked.append(max(x.shape[-2:]))
        if x.shape[-1] * x.shape[-2] > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return x * 1


def test_running_out_of_memory_halves_the_tiles_and_goes_on():
    model, x = Small(room=200 * 200), torch.rand(1, 500, 700)
    denoiser = Denoiser(model, tile=512)
    assert torch.allclose(denoiser(x), x, atol=1e-6)
    assert max(model.asked[2:]) < 512 and denoiser.limit < 200 < denoiser.limit * 2
    model.asked.clear()
    denoiser(x)
    assert max(model.asked) <= 200  # it has learned
    with pytest.raises(SMNetError, match="not enough memory"):
        Denoiser(Small(room=10), tile=512)(x)


def test_memory_decides():
    model = SMNet(1, 16)
    needed = tiling.memory_needed(model, 1000 * 1000)
    assert len(Denoiser(model, memory=needed + 0.01).tiles(1000, 1000)) == 1
    assert len(Denoiser(model, memory=needed - 0.01).tiles(1000, 1000)) > 1
    assert len(Denoiser(model).tiles(600, 600)) == 1
    folded = SMNet(1, 16, shuffle=2)
    assert tiling.memory_needed(folded, 2000 * 2000) == pytest.approx(needed)
    assert len(Denoiser(folded).tiles(1200, 1200)) == 1
    rows = [tile[0] for tile in Denoiser(folded, tile=SMALLEST).tiles(400, 250)]
    assert rows == [(0, 240), (160, 400)]  # of at most 256 pixels, the smallest that this network has
    with pytest.raises(SMNetError, match="too little"):
        Denoiser(model, memory=0.01).tiles(500, 500)
