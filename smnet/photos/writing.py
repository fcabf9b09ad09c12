"""Pictures written as the files they came from were, all but the denoised colours.

Kept: 8 or 16 bits, gray or RGB, palette, alpha, EXIF with its orientation, ICC profile, XMP,
comments, resolution, file format. Where the format changes, what the new one cannot hold is noted.
"""

import dataclasses
import io
import math
import re
import struct
from pathlib import Path

import numpy as np

from smnet.photos.jpeg import encode_jpeg
from smnet.photos.metadata import in_bytes
from smnet.photos.photo import (
    EXIF_TAGS,
    FORMATS,
    ICC,
    ORIENTATION,
    RESOLUTION,
    SUB_IFDS,
    WORDS,
    XMP,
    Photo,
    upright,
)
from smnet.photos.pillow import to_image
from smnet.photos.png import chunks_of, encode_png, lost_in_other_formats
from smnet.photos.tiff_writer import LAYOUT, encode_tiff
from utils import SMNetError, replacing

# What each format can say of a picture beside its samples.
HOLDS = {
    "PNG": ("exif", "icc_profile", "dpi", "xmp"),
    "JPEG": ("exif", "icc_profile", "dpi", "xmp", "comment"),
    "TIFF": ("exif", "icc_profile", "dpi", "xmp"),
    "WEBP": ("exif", "icc_profile", "xmp"),
    "BMP": ("dpi",),
    "GIF": ("comment",),
}
SIDES = {"JPEG": 65500, "WEBP": 16383, "GIF": 65535}  # the longest they can hold, pixels


def check_format(path: str | Path, photo: Photo) -> str:
    """The format that the ending of `path` stands for, as Pillow calls it.

    Raises:
        SMNetError: none that can be written, or it cannot hold such a picture.
    """
    file_format = FORMATS.get(Path(path).suffix.lower())
    if file_format is None:
        names = ", ".join(FORMATS)
        raise SMNetError(f"{path}: pictures are written as {names}; give -o such a name")
    if problem := cannot_hold(file_format, photo):
        raise SMNetError(f"{path}: {problem}")
    return file_format


def cannot_hold(file_format: str, photo: Photo) -> str | None:
    """Why a format cannot hold a picture, and what to type instead; None where it can."""
    height, width = photo.pixels.shape[:2]
    if max(height, width) > (limit := SIDES.get(file_format, math.inf)):
        size = f"{limit} pixels a side, not {width}x{height}"
        return f"{file_format} holds at most {size}; give a .png or .tif name"
    if photo.pixels.dtype == np.uint16 and file_format not in ("PNG", "TIFF"):
        return f"{file_format} cannot hold 16 bits a sample; give a .png or .tif name"
    if photo.alpha is None or file_format == photo.format:
        return None
    if file_format in ("JPEG", "GIF", "BMP"):
        what = f"the transparency of this {photo.format} file"
        return f"{file_format} cannot hold {what}; give a .png name"
    if photo.alpha_type != "straight":
        return "only TIFF can hold a fourth channel of this kind; give a .tif name"
    return None


def write_photo(
    path: str | Path, photo: Photo, pixels: np.ndarray, *, quality: int = 95
) -> list[str]:
    """Write `pixels`, of the shape and type of `photo.pixels`, with all else that `photo` holds;
    never half-written.

    The format is that of the file name's ending. Where it is another than before, the picture is
    turned upright. `quality` is that of JPEG and lossy WebP, 1 to 100.

    Returns:
        What could not be kept, beside what `photo.notes` says, a sentence each.

    Raises:
        SMNetError: the format cannot hold such a picture, or the file cannot be written.
    """
    notes: list[str] = []
    photo = dataclasses.replace(photo, notes=notes)  # for those who encode to add to
    file_format = check_format(path, photo)
    if photo.alpha is not None:
        pixels = np.dstack([pixels, photo.alpha])
    deep_alpha = pixels.shape[2] == 2 and pixels.dtype == np.uint16  # OpenCV cannot write it
    if deep_alpha and not photo.format == file_format == "TIFF":
        notes.append("it is gray with transparency of 16 bits, and becomes RGBA")
        photo, pixels = as_rgb(photo, pixels)
    if file_format == "WEBP" and pixels.shape[2] < 3:
        photo, pixels = as_rgb(photo, pixels)
    try:
        if file_format == photo.format:
            encoded = encode(photo, pixels, quality)
        else:
            turned = np.ascontiguousarray(upright(pixels, photo.orientation))
            encoded = encode(for_format(photo, file_format), turned, quality)
    except Exception as error:  # many kinds on odd metadata; hours of work are not to be lost
        encoded = encode_bare(path, photo, file_format, pixels, quality)
        notes.append(f"its metadata could not be kept ({error})")
    with replacing(path) as temporary:
        temporary.write_bytes(encoded)
    return notes


def encode(photo: Photo, pixels: np.ndarray, quality: int) -> bytes:
    """(H, W, 1 to 4), alpha with them, as a file of the photo's format."""
    if photo.format == "PNG":
        return encode_png(photo, pixels)
    if photo.format == "TIFF":
        return encode_tiff(photo, pixels)
    if photo.format == "JPEG":
        return encode_jpeg(photo, pixels, quality)
    if photo.format == "BMP" and pixels.shape[2] == 4:
        return encode_bmp_with_alpha(photo, pixels)
    options = photo.metadata | photo.encoding
    if photo.format == "WEBP":  # exact: colours under transparency, too
        options |= {"quality": quality, "exact": True}
    buffer = io.BytesIO()
    to_image(photo, pixels).save(buffer, photo.format, **options)
    return buffer.getvalue()


def encode_bare(
    path: str | Path, photo: Photo, file_format: str, pixels: np.ndarray, quality: int
) -> bytes:
    """The upright picture without any metadata.

    Raises:
        SMNetError: not even that can be encoded.
    """
    bare = dataclasses.replace(
        photo, format=file_format, metadata={}, encoding={}, png_chunks=b"", tiff_tags=None
    )
    try:
        return encode(bare, np.ascontiguousarray(upright(pixels, photo.orientation)), quality)
    except Exception as error:
        raise SMNetError(f"{path}: cannot be written as {file_format} ({error})") from None


def for_format(photo: Photo, file_format: str) -> Photo:
    """The photo with what another format can hold; the notes, which are the same list, say what it
    cannot."""
    lost = [
        words
        for key, words in WORDS.items()
        if key in photo.metadata and key not in HOLDS[file_format]
    ]
    lost += lost_in_other_formats(photo)
    if photo.encoding.get("extra"):
        lost.append("captions (IPTC)")
    known = LAYOUT.union(EXIF_TAGS, RESOLUTION, SUB_IFDS, (ICC, XMP))
    lost += [f"TIFF tag {tag}" for tag in photo.tiff_tags or () if tag not in known]
    if lost:
        photo.notes.append(f"{file_format} cannot hold its {', '.join(lost)}")
    metadata = {key: value for key, value in photo.metadata.items() if key in HOLDS[file_format]}
    return dataclasses.replace(
        photo,
        format=file_format,
        metadata=of_upright(metadata, photo),
        encoding={},
        png_chunks=b"",
        tiff_tags=None,
    )


def of_upright(metadata: dict, photo: Photo) -> dict:
    """Metadata for the photo turned upright: neither EXIF nor XMP turns it again."""
    metadata = dict(metadata)
    if "xmp" in metadata:
        turn = rb'(tiff:Orientation(?:=["\']|>))[2-8]'
        metadata["xmp"] = re.sub(turn, rb"\g<1>1", metadata["xmp"])
    if "exif" in metadata:
        exif = photo.exif()
        exif.pop(ORIENTATION, None)
        folders = [exif.get_ifd(tag) for tag in SUB_IFDS if tag in exif]  # asking makes them
        for folder in (exif, *folders):
            for tag, value in folder.items():
                folder[tag] = in_bytes(value)
        metadata["exif"] = exif.tobytes()
    return {key: value for key, value in metadata.items() if value}


def as_rgb(photo: Photo, pixels: np.ndarray) -> tuple[Photo, np.ndarray]:
    """Gray (H, W, 1 or 2) as (H, W, 3 or 4), without a colour profile for gray; the notes say
    so."""
    pixels = pixels[:, :, [0, 0, 0, 1][: pixels.shape[2] + 2]]
    if photo.profile_space != b"GRAY":
        return photo, pixels
    photo.notes.append("its colour profile, for gray, is left out")
    metadata = {key: value for key, value in photo.metadata.items() if key != "icc_profile"}
    chunks = chunks_of(photo.png_chunks, start=0)
    kept = b"".join(chunk for name, chunk in chunks if name != b"iCCP")
    return dataclasses.replace(photo, metadata=metadata, png_chunks=kept), pixels


def encode_bmp_with_alpha(photo: Photo, pixels: np.ndarray) -> bytes:
    """Encode with a header of version 4, which says where the alpha is; Pillow's does not."""
    height, width = pixels.shape[:2]
    rows = np.ascontiguousarray(pixels[::-1, :, [2, 1, 0, 3]]).tobytes()
    # dots a metre
    across, down = (round(dots / 0.0254) for dots in photo.metadata.get("dpi", (0, 0)))
    header = struct.pack(
        "<IiiHHIIiiII", 108, width, height, 1, 32, 3, len(rows), across, down, 0, 0
    )
    masks = struct.pack("<IIII", 0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    header += masks + b"BGRs" + bytes(48)  # sRGB
    return b"BM" + struct.pack("<IHHI", 14 + 108 + len(rows), 0, 0, 14 + 108) + header + rows
