"""TIFF files, written by tifffile; EXIF's folders, which it does not write, are added after it."""

import io
import struct

import numpy as np
import tifffile
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from smnet.photos.metadata import in_bytes
from smnet.photos.photo import ICC, INTEROPERABILITY_IFD, RESOLUTION, SUB_IFDS, XMP, Photo
from smnet.photos.pillow import to_image
from smnet.photos.tiff import ADOBE_DEFLATE

# Tags that say how the samples lie in the file; the others describe the picture.
LAYOUT = {
    *range(254, 260),
    *(262, 263, 266, 273, 277, 278, 279, 280, 281, 284, 292, 293, 297, 301, 317, 320),
    *range(322, 326),
    *range(330, 348),
    *(512, 513, 514, 515, 519, 520, 521, 529, 530, 531, 532),
}
TEXT, FRACTIONS = 2, (5, 10)  # types of tags
NO_PREDICTOR = (1, 32773)  # compressions without one: none, PackBits
ALPHA = {"unknown": "unspecified", "premultiplied": "assocalpha", "straight": "unassalpha"}


def encode_tiff(photo: Photo, pixels: np.ndarray) -> bytes:
    """(H, W, 1 to 4) as a TIFF file, compressed without loss, with what the source file said."""
    tags = tags_to_write(photo)
    tiff = encode_samples(photo, pixels, tags)
    folders = {tag: folder for tag in SUB_IFDS if (folder := photo.exif().get_ifd(tag))}
    return with_folders(tiff, folders, without=[tag for tag in RESOLUTION if tag not in tags])


def tags_to_write(photo: Photo) -> ImageFileDirectory_v2:
    """The tags that describe the picture."""
    tags = ImageFileDirectory_v2()
    source = photo.exif() if photo.tiff_tags is None else photo.tiff_tags
    for tag, value in source.items():
        if tag not in LAYOUT and tag not in SUB_IFDS:
            if photo.tiff_tags is not None:
                tags.tagtype[tag] = photo.tiff_tags.tagtype[tag]
            tags[tag] = in_bytes(value)
    if photo.tiff_tags is None:
        for tag, key in ((ICC, "icc_profile"), (XMP, "xmp")):
            if photo.metadata.get(key):
                tags[tag] = photo.metadata[key]
        if "dpi" in photo.metadata:
            for tag, value in zip(RESOLUTION, (*photo.metadata["dpi"], 2)):
                tags[tag] = value
    return tags


def encode_samples(photo: Photo, pixels: np.ndarray, tags: ImageFileDirectory_v2) -> bytes:
    """A TIFF file of these samples and tags."""
    options: dict = {"photometric": "rgb" if pixels.shape[2] > 2 else "minisblack"}
    if photo.palette and photo.alpha is None:
        image = to_image(photo, pixels)
        colours = np.array((image.getpalette() + [0] * 768)[:768], np.uint16).reshape(256, 3).T
        options = {"photometric": "palette", "colormap": colours * 257}
        pixels = np.asarray(image)[:, :, None]
    if pixels.shape[2] > 1:
        options["planarconfig"] = "contig"
    if pixels.shape[2] in (2, 4):
        options["extrasamples"] = [ALPHA[photo.alpha_type]]
    compression = photo.encoding.get("compression", ADOBE_DEFLATE)
    if compression not in NO_PREDICTOR and not photo.palette:
        options["predictor"] = True
    # 0/0 is no number
    if all(tag in tags and float(tags[tag]) == float(tags[tag]) for tag in RESOLUTION[:2]):
        options["resolution"] = tuple(float(tags[tag]) for tag in RESOLUTION[:2])
        options["resolutionunit"] = tags.get(RESOLUTION[2], 2)  # inches where it is not said
    buffer = io.BytesIO()
    tifffile.imwrite(
        buffer,
        pixels if pixels.shape[2] > 1 else pixels[:, :, 0],
        compression=None if compression == 1 else compression,
        extratags=[extra_tag(tags, tag) for tag in tags if tag not in RESOLUTION],
        metadata=None,
        software=False,
        **options,
    )
    return buffer.getvalue()


def extra_tag(tags: ImageFileDirectory_v2, tag: int) -> tuple:
    """A tag as tifffile takes it: number, type, count, value, and that it is of the first page."""
    value, tag_type = tags[tag], tags.tagtype[tag]
    if isinstance(value, str):
        value = value.encode("latin-1", "replace")
    if isinstance(value, bytes):
        value += b"\0" * (tag_type == TEXT)  # as texts end
        return tag, tag_type, len(value), value, True
    values = value if isinstance(value, tuple) else (value,)
    count = len(values)
    if tag_type in FRACTIONS:
        values = tuple(part for v in values for part in (int(v.numerator), int(v.denominator)))
    return tag, tag_type, count, values if len(values) > 1 else values[0], True


def with_folders(tiff: bytes, folders: dict[int, dict], *, without: list[int]) -> bytes:
    """A TIFF file of one picture with folders {tag: {tag: value}} of its own, and without some
    tags: its list of tags is written anew at the end."""
    if not folders and not without:
        return tiff
    order = "<" if tiff[:2] == b"II" else ">"
    start = struct.unpack(order + "I", tiff[4:8])[0]
    count = struct.unpack(order + "H", tiff[start : start + 2])[0]
    entries = {}
    for at in range(start + 2, start + 2 + 12 * count, 12):
        entries[struct.unpack(order + "H", tiff[at : at + 2])[0]] = tiff[at : at + 12]
    entries = {tag: entry for tag, entry in entries.items() if tag not in without}
    for tag, values in folders.items():
        tiff += bytes(len(tiff) % 2)
        directory = ImageFileDirectory_v2(prefix=tiff[:2], group=tag)
        for key, value in values.items():
            if key != INTEROPERABILITY_IFD:
                directory[key] = in_bytes(value)
        # one number, where the folder lies
        entries[tag] = struct.pack(order + "HHII", tag, 4, 1, len(tiff))
        tiff += directory.tobytes(len(tiff))
    tiff += bytes(len(tiff) % 2)
    listed = b"".join(entries[tag] for tag in sorted(entries))
    listed = struct.pack(order + "H", len(entries)) + listed + bytes(4)
    return tiff[:4] + struct.pack(order + "I", len(tiff)) + tiff[8:] + listed
