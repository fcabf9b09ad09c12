"""JPEG files: reading, with notes on what lies in or behind them that is left out, and writing."""

import io
import re
import struct
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from PIL import ImageFile, JpegImagePlugin

from smnet.photos.metadata import (
    GAIN_MAP,
    without_claims,
    without_photoshop_thumbnails,
)
from smnet.photos.photo import WORDS, Photo
from smnet.photos.pillow import new_photo, open_image, take_samples, to_image
from utils import SMNetError

APP1, APP13, START_OF_SCAN, END = 0xE1, 0xED, 0xDA, 0xD9
KNOWN = (0xE0, APP1, 0xE2, APP13, 0xEE)  # JFIF, EXIF and XMP, profiles and previews, ..., Adobe's
NO_CONTENT = (0x01, *range(0xD0, 0xD9))  # markers without a length behind them
# Start-of-frame markers: C4, C8 and CC are others.
FRAMES = [marker for marker in range(0xC0, 0xD0) if marker not in (0xC4, 0xC8, 0xCC)]
LOSSLESS = (0xC3, 0xC7, 0xCB, 0xCF)
JPEG_LS = 0xF7
EXTENDED_XMP = b"http://ns.adobe.com/xmp/extension/\0"
GAIN_MAP_MARKS = (GAIN_MAP, b"urn:iso:std:iso:ts:21496:-1", b"hdrgainmap")
# The longest item of metadata that JPEG can hold, bytes.
SEGMENT = 65533
LIMITS = {"exif": SEGMENT, "xmp": SEGMENT - 29, "comment": SEGMENT, "icc_profile": 255 * 65519}


def read_jpeg(data: bytes) -> Photo:
    """A JPEG file's first picture."""
    check_frame(data)
    with open_image(data) as image:
        image.load()
        photo = new_photo(image, "JPEG")
        take_samples(photo, image)
        photo.encoding["progressive"] = bool(image.info.get("progressive"))
        sampling = JpegImagePlugin.get_sampling(image)
        if image.mode == "RGB" and sampling >= 0:
            photo.encoding["subsampling"] = sampling
        previews = image.format == "MPO"
    found = [*segments(data)]
    photo.encoding["extra"] = captions(found, data)
    photo.notes += left_out(data, found, previews=previews)
    if xmp := photo.metadata.pop("xmp", b""):
        if mended := without_claims(xmp):
            photo.metadata["xmp"] = mended
        else:
            photo.notes.append("its XMP cannot be read and is left out")
    return photo


def segments(jpeg: bytes) -> Iterator[tuple[int, int, int]]:
    """(marker, start, end) of the first picture's segments, start and end of their content; those
    that hold compressed samples end with them. Nothing after damage."""
    at = 2
    while (match := re.compile(rb"\xff+([^\0\xff])").match(jpeg, at)) is not None:
        marker, start = match[1][0], match.end()
        if marker in (END, *NO_CONTENT):
            at = start
            yield marker, start, start
            if marker == END:
                return
            continue
        at = start + int.from_bytes(jpeg[start : start + 2], "big")
        if marker == START_OF_SCAN:
            behind = re.compile(rb"\xff[^\0\xd0-\xd7\xff]").search(jpeg, at)
            at = behind.start() if behind else len(jpeg)
        if at <= start or at > len(jpeg):
            return
        yield marker, start + 2, at


def check_frame(jpeg: bytes) -> None:
    """Raise SMNetError for JPEG of other than 8 bits or without loss, which Pillow cannot read."""
    for marker, start, _ in segments(jpeg):
        if marker == JPEG_LS or marker in LOSSLESS:
            kind = "JPEG-LS" if marker == JPEG_LS else "lossless JPEG"
            raise SMNetError(f"is a {kind} file; convert it to PNG or TIFF first")
        if marker in FRAMES:
            if (bits := jpeg[start]) != 8:
                raise SMNetError(f"is a JPEG file of {bits} bits a sample; those of 8 can be read")
            return


def captions(found: list[tuple[int, int, int]], jpeg: bytes) -> bytes:
    """Photoshop's segments, which hold captions and keywords, without thumbnails."""
    kept = b""
    for marker, start, end in found:
        if marker == APP13:
            part = without_photoshop_thumbnails(jpeg[start:end])
            kept += b"\xff\xed" + struct.pack(">H", len(part) + 2) + part
    return kept


def left_out(jpeg: bytes, found: list[tuple[int, int, int]], *, previews: bool) -> list[str]:
    """What a JPEG file holds beside its first picture, a note each."""
    notes = []
    if any(m == APP1 and jpeg.startswith(EXTENDED_XMP, start) for m, start, _ in found):
        notes.append("its extended XMP is left out")
    others = sorted({m for m, *_ in found if m in range(0xE0, 0xF0) and m not in KNOWN})
    if others:
        names = ", ".join(f"APP{marker - 0xE0}" for marker in others)
        notes.append(f"its {names} data are left out")
    complete = bool(found) and found[-1][0] == END
    behind = jpeg[found[-1][2] :].strip(b"\0\r\n ") if complete else b""
    picture, video = behind.startswith(b"\xff\xd8\xff"), b"ftyp" in behind
    if picture and any(mark in jpeg for mark in GAIN_MAP_MARKS):
        notes.append("its gain map is left out")
    elif previews:
        notes.append("the previews behind its first picture are left out")
    elif picture:
        notes.append("the picture behind it is left out")
    if video:
        notes.append("the video behind it is left out")
    elif behind and not (picture or previews):
        notes.append(f"{len(behind)} bytes behind it are left out")
    return notes


def encode_jpeg(photo: Photo, pixels: np.ndarray, quality: int) -> bytes:
    """(H, W, 1 or 3) as a JPEG file; metadata too long for it is left out, and noted."""
    metadata = dict(photo.metadata)
    for key, limit in LIMITS.items():
        if len(metadata.get(key, b"")) > limit:
            del metadata[key]
            size = f"{limit // 1000} KB"
            photo.notes.append(f"its {WORDS[key]} is left out: JPEG holds at most {size} of it")
    buffer = io.BytesIO()
    options = metadata | photo.encoding
    with pillow_buffer(2 * pixels.size if photo.encoding.get("progressive") else 0):
        to_image(photo, pixels).save(buffer, "JPEG", quality=quality, **options)
    return buffer.getvalue()


@contextmanager
def pillow_buffer(size: int) -> Iterator[None]:
    """Within it, Pillow encodes into at least `size` bytes: a progressive file must fit into its
    buffer as a whole, and what Pillow estimates is too small for noise."""
    before = ImageFile.MAXBLOCK
    ImageFile.MAXBLOCK = max(before, size)
    try:
        yield
    finally:
        ImageFile.MAXBLOCK = before
