"""smnet/photos/tiff.py: every layout of TIFF is read with the right samples, or refused."""

import io
import itertools

import imagecodecs
import numpy as np
import pytest
import tifffile
from helpers import synthetic_picture
from odd_files import REFUSED
from photo_files import ALPHA, DEEP_GRAY, DEEP_RGB, GRAY, RGB, packed_tiff, tiff
from PIL import Image

from smnet.photos.reading import read_photo
from utils import SMNetError

# Kinds: channels, photometric, extra samples
KINDS = {
    "gray": (1, "minisblack", None),
    "white is zero": (1, "miniswhite", None),
    "gray with alpha": (2, "minisblack", ["unassalpha"]),
    "RGB": (3, "rgb", None),
    "RGBA": (4, "rgb", ["unassalpha"]),
}
CODECS = [None, "packbits", "lzw", "zlib", "zstd", "lzma"]
PREDICTED = ("lzw", "zlib", "zstd", "lzma")
SAMPLES = np.dstack([DEEP_RGB, DEEP_GRAY])


def layouts() -> list[tuple]:
    """A part of all layouts: each pair of kind and codec, with the rest going round."""
    rest = itertools.cycle(itertools.product("<>", (8, 16), (False, True), ("contig", "separate")))
    found = []
    for kind, codec in itertools.product(KINDS, CODECS):
        for _ in range(4):
            order, bits, tiled, planes = next(rest)
            predictors = (False, True) if codec in PREDICTED else (False,)
            found += [(kind, codec, order, bits, tiled, planes, p) for p in predictors]
        next(rest)  # so that another four are the next one's
    return found


@pytest.mark.parametrize("kind, codec, order, bits, tiled, planes, predictor", layouts())
def test_layouts(tmp_path, kind, codec, order, bits, tiled, planes, predictor):
    channels, photometric, extra = KINDS[kind]
    samples = SAMPLES[:, :, :channels]
    samples = (samples >> 8).astype(np.uint8) if bits == 8 else samples
    given = samples.transpose(2, 0, 1) if planes == "separate" else samples
    options: dict = {"tile": (16, 32)} if tiled else {"rowsperstrip": 7}
    if channels > 1:
        options |= {"planarconfig": planes, "extrasamples": extra}
    tifffile.imwrite(
        tmp_path / "a.tif",
        given if channels > 1 else samples[:, :, 0],
        photometric=photometric,
        compression=codec,
        predictor=predictor or None,
        byteorder=order,
        metadata=None,
        **options,
    )
    photo = read_photo(tmp_path / "a.tif")
    colours = 3 if channels > 2 else 1
    expected = samples[:, :, :colours]
    if photometric == "miniswhite":
        expected = (2**bits - 1) - expected
    assert photo.pixels.dtype == samples.dtype
    np.testing.assert_array_equal(photo.pixels, expected)
    if extra:
        np.testing.assert_array_equal(photo.alpha, samples[:, :, colours])


@pytest.mark.parametrize("bits", [2, 4])
@pytest.mark.parametrize("photometric", [0, 1], ids=["white is zero", "black is zero"])
@pytest.mark.parametrize(
    "compress",
    [None, (5, imagecodecs.lzw_encode), (8, imagecodecs.zlib_encode)],
    ids=["uncompressed", "LZW", "Deflate"],
)
def test_few_bits_are_scaled(tmp_path, bits, photometric, compress):
    levels = GRAY >> (8 - bits)
    content = packed_tiff(levels, bits, photometric=photometric, compress=compress)
    (tmp_path / "a.tif").write_bytes(content)
    highest = 2**bits - 1
    expected = (levels if photometric else highest - levels) * (255 // highest)
    np.testing.assert_array_equal(read_photo(tmp_path / "a.tif").pixels[:, :, 0], expected)


def test_bits_in_reverse_order(tmp_path):
    (tmp_path / "a.tif").write_bytes(packed_tiff(GRAY >> 4, 4, fill_order=2))
    np.testing.assert_array_equal(
        read_photo(tmp_path / "a.tif").pixels[:, :, 0], (GRAY >> 4) * np.uint8(17)
    )


@pytest.mark.parametrize("bits", [1, 3, 6, 10, 12, 14])
def test_other_bits_are_refused_by_their_number(tmp_path, bits):
    (tmp_path / "a.tif").write_bytes(packed_tiff(GRAY.astype(int) % 2**bits, bits))
    with pytest.raises(SMNetError, match=f"(has|of) {bits} bit"):
        read_photo(tmp_path / "a.tif")


def test_jpeg_in_tiff_is_as_pillow_reads_it(tmp_path):
    smooth = Image.fromarray(synthetic_picture(4, 64, 96, 3))
    for image in (smooth, smooth.convert("YCbCr"), smooth.convert("L")):
        image.save(tmp_path / "a.tif", compression="jpeg")
        with Image.open(tmp_path / "a.tif") as other:
            expected = np.asarray(other if image.mode == "L" else other.convert("RGB"))
        difference = read_photo(tmp_path / "a.tif").pixels.squeeze() - expected.astype(int)
        assert np.abs(difference).max() <= 1


@pytest.mark.parametrize("order", "<>")
def test_bigtiff_with_its_tags(tmp_path, order):
    options = {"bigtiff": True, "byteorder": order, "resolution": (300, 300), "resolutionunit": 2}
    (tmp_path / "a.tif").write_bytes(tiff(RGB, extratags=[(274, 3, 1, 6, True)], **options))
    photo = read_photo(tmp_path / "a.tif")
    np.testing.assert_array_equal(photo.pixels, RGB)
    assert photo.orientation == 6 and photo.metadata["dpi"] == (300, 300)


@pytest.mark.parametrize("preview_first", [False, True])
def test_a_smaller_preview_is_passed_over(tmp_path, preview_first):
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        for preview in (True, False) if preview_first else (False, True):
            samples = RGB[::2, ::2] if preview else RGB
            writer.write(samples, photometric="rgb", subfiletype=int(preview), metadata=None)
    photo = read_photo(tmp_path / "a.tif")
    np.testing.assert_array_equal(photo.pixels, RGB)
    assert photo.notes == ["the smaller previews beside it are left out"]


def test_channels_beyond_alpha_are_left_out_with_a_note(tmp_path):
    samples = np.dstack([RGB, GRAY, ALPHA])
    (tmp_path / "a.tif").write_bytes(tiff(samples, extrasamples=["unspecified", "unassalpha"]))
    photo = read_photo(tmp_path / "a.tif")
    np.testing.assert_array_equal(photo.pixels, RGB)
    np.testing.assert_array_equal(photo.alpha, ALPHA)
    assert photo.notes == ["1 of its 5 channels is left out"]


@pytest.mark.parametrize("reason", REFUSED)
def test_what_cannot_be_denoised_is_refused_with_the_reason(tmp_path, reason):
    (tmp_path / "a.tif").write_bytes(REFUSED[reason])
    with pytest.raises(SMNetError, match=reason) as caught:
        read_photo(tmp_path / "a.tif")
    assert str(caught.value).startswith(f"{tmp_path / 'a.tif'}: ")
    assert "\n" not in str(caught.value)


def test_jpeg_strips_without_byte_counts_are_read(tmp_path):
    content = bytearray(tiff(RGB, compression="jpeg"))
    tag = tifffile.TiffFile(io.BytesIO(content)).pages[0].tags[279]
    content[tag.offset : tag.offset + 2] = (65000).to_bytes(2, "little")
    (tmp_path / "a.tif").write_bytes(content)
    assert read_photo(tmp_path / "a.tif").pixels.shape == RGB.shape


@pytest.mark.parametrize("tiled", [False, True])
def test_missing_strips_and_tiles_are_no_black(tmp_path, tiled):
    content = tiff(
        RGB, compression="zlib", **({"tile": (16, 16)} if tiled else {"rowsperstrip": 7})
    )
    counts = tifffile.TiffFile(io.BytesIO(content)).pages[0].tags[325 if tiled else 279]
    start = counts.valueoffset
    (tmp_path / "a.tif").write_bytes(content[:start] + b"\0\0" + content[start + 2 :])
    with pytest.raises(SMNetError, match="a.tif: is damaged .some of its samples are missing"):
        read_photo(tmp_path / "a.tif")
