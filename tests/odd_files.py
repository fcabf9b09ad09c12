"""Files that cannot be denoised, each with what the message must say: damaged, foreign, odd."""

import io
import struct
import zlib

import numpy as np
import tifffile
from photo_files import DEEP_GRAY, GRAY, LOSSLESS, PALETTE, RGB, pillow, png_16_bit, tiff
from PIL import Image


def half_a_png() -> bytes:
    """A PNG file with half the samples, all else being right; Pillow takes the rest for black."""
    whole = pillow(RGB, "PNG")
    rows = zlib.compress(bytes(15 * (1 + 3 * 37)))
    chunk = b"IDAT" + rows
    return (
        whole[:33]
        + struct.pack(">I", len(rows))
        + chunk
        + struct.pack(">I", zlib.crc32(chunk))
        + whole[-12:]
    )


def wrong_checksum() -> bytes:
    """A PNG file with a checksum of its samples that is not theirs."""
    whole = pillow(RGB, "PNG")
    return whole[:-16] + bytes([whole[-16] ^ 1]) + whole[-15:]  # IEND takes the last 12


def tiff_12_bit() -> bytes:
    """A TIFF file of 12 bits a sample."""
    whole = tiff(np.zeros((4, 4), np.uint16))
    bits = tifffile.TiffFile(io.BytesIO(whole)).pages[0].tags[258].valueoffset
    return whole[:bits] + struct.pack("<H", 12) + whole[bits + 2 :]


# Every kind that cannot be denoised, and what is said of it.
HOSTILE = {
    "empty.png": (b"", "is empty"),
    "text.png": (b"not a picture at all\n" * 9, "not a picture"),
    "zeros.jpg": (bytes(5000), "not a picture"),
    "cut.png": (LOSSLESS["rgb.png"][:900], "damaged"),
    "cut.jpg": (pillow(RGB, "JPEG")[:400], "damaged"),
    "cut.tif": (LOSSLESS["rgb.tiff"][:600], "damaged"),
    "cut deep.png": (LOSSLESS["deep rgb.png"][:300], "damaged"),
    "half.png": (half_a_png(), "its samples end too early"),
    "checksum.png": (wrong_checksum(), "a checksum of its samples is wrong"),
    "cut jpeg.tif": (tiff(RGB, compression="jpeg")[:-200], "some of its samples are missing"),
    "12 bits.tif": (tiff_12_bit(), "12 bits"),
    "float rgb.tif": (tiff(RGB.astype(np.float32)), "float32 samples in 3 channels"),
    "header.png": (LOSSLESS["rgb.png"][:8], "not a picture"),
    "flipped.png": (LOSSLESS["rgb.png"][:60] + b"\xff" * 40 + LOSSLESS["rgb.png"][100:], "damaged"),
    "cmyk.jpg": (pillow(Image.fromarray(RGB).convert("CMYK"), "JPEG"), "CMYK"),
    "lab.tif": (pillow(Image.fromarray(RGB).convert("RGB").convert("LAB"), "TIFF"), "LAB"),
    "bits.png": (pillow(Image.fromarray(GRAY).convert("1"), "PNG"), "1 bit"),
    "float.tif": (pillow(Image.fromarray(GRAY.astype(np.float32)), "TIFF"), "floating-point"),
    "int.tif": (pillow(Image.fromarray(GRAY.astype(np.int32)), "TIFF"), "32-bit"),
    "animated.gif": (
        pillow(PALETTE, "GIF", save_all=True, append_images=[PALETTE.rotate(90)]),
        "2 frames",
    ),
    "animated.webp": (
        pillow(RGB, "WEBP", save_all=True, append_images=[Image.fromarray(RGB[::-1])]),
        "2 frames",
    ),
    "pages.tif": (
        pillow(RGB, "TIFF", save_all=True, append_images=[Image.fromarray(RGB)]),
        "2 frames",
    ),
    "huge.png": (
        png_16_bit(np.zeros((1, 1, 1), np.uint16), 0).replace(
            struct.pack(">II", 1, 1), struct.pack(">II", 60000, 60000), 1
        ),
        "60000x60000|damaged|not a picture",
    ),
    "foreign.png": (pillow(RGB, "PPM"), "is a PPM file"),
    "icon.png": (pillow(RGB, "ICO"), "is a ICO file|is an ICO file"),
}


def isobmff(brand: bytes) -> bytes:
    return struct.pack(">I", 24) + b"ftyp" + brand + bytes(99)


def jpeg_of_12_bits() -> bytes:
    whole = bytearray(pillow(RGB, "JPEG"))
    whole[whole.index(b"\xff\xc0") + 4] = 12
    return bytes(whole)


FOREIGN = {  # files named .jpg: what they are, by their first bytes
    "a HEIC file": isobmff(b"heic"),
    "an AVIF file": isobmff(b"avif"),
    "a JPEG XL file": b"\xff\x0a" + bytes(99),
    "a JPEG 2000 file": b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(99),
    "a JPEG file of 12 bits": jpeg_of_12_bits(),
    "an ICO file": pillow(RGB, "ICO"),
    "an OpenEXR file": b"v/1\x01" + bytes(99),
    "a PPM file": pillow(RGB, "PPM"),
    "a camera raw file": b"FUJIFILMCCD-RAW 0201" + bytes(99),
}


def written(*args, **options) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, *args, **options)
    return buffer.getvalue()


def camera_raw(*, dng: bool) -> bytes:
    """A small preview, and the sensor's samples in a folder of its own."""
    buffer = io.BytesIO()
    tags = [(50706, 1, 4, b"\1\4\0\0", True)] if dng else []
    with tifffile.TiffWriter(buffer) as writer:
        writer.write(
            RGB, photometric="rgb", subfiletype=1, subifds=1, metadata=None, extratags=tags
        )
        writer.write(DEEP_GRAY, photometric=32803, metadata=None)
    return buffer.getvalue()


def imagej_stack() -> bytes:
    """Three pictures behind one page, as ImageJ writes more than 4 GB."""
    description = "ImageJ=1.54f\nimages=3\nslices=3\n"
    first = written(GRAY, description=description, metadata=None, software=False)
    return first + GRAY[::-1].tobytes() + (255 - GRAY).tobytes()


PAGES = np.stack([GRAY, GRAY[::-1], GRAY])
PLANES = {"photometric": "minisblack", "planarconfig": "separate", "metadata": None}
REFUSED = {
    "camera raw": camera_raw(dng=False),
    "camera raw file": camera_raw(dng=True),
    "3 pictures": imagej_stack(),
    "3 pictures .3 frames or pages.": written(PAGES, imagej=True),
    "16 pictures": written(np.stack([GRAY] * 16), volumetric=True, tile=(16, 16, 16)),
    "signed 8-bit": tiff(GRAY.astype(np.int8)),
    "signed 16-bit": tiff(RGB.astype(np.int16)),
    "has 32-bit": tiff(GRAY.astype(np.uint32)),
    "float16 samples in 3 channels": tiff(RGB.astype(np.float16)),
    "3 channels that are not RGB": written(RGB.transpose(2, 0, 1), **PLANES),
    "5 channels that are not RGB": written(np.stack([GRAY] * 5), **PLANES),
    "is YCbCr": pillow(Image.fromarray(RGB).convert("YCbCr"), "TIFF"),
    "is CMYK": pillow(Image.fromarray(RGB).convert("CMYK"), "TIFF"),
}
