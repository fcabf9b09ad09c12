"""Pictures written as the files they came from were, all but the denoised colours.

Kept: 8 or 16 bits, gray or RGB, palette, alpha, EXIF with its orientation, ICC profile, XMP,
    comments, resolution, file format.
Where the format changes, what the new one cannot hold is noted.
"""

import dataclasses
import io
import math
import struct
from pathlib import Path

import cv2
import numpy as np
import tifffile
from PIL import Image, TiffImagePlugin
from PIL.PngImagePlugin import PngInfo

from smnet.photos.reading import (
    EXIF_TAGS,
    EXTRA_SAMPLES,
    FORMATS,
    ICC,
    INTEROPERABILITY,
    ORIENTATION,
    PNG_CHUNKS,
    RESOLUTION,
    SUB_FOLDERS,
    XMP,
    Photo,
    chunks_of,
    in_bytes,
    upright,
)
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
WORDS = {
    "exif": "EXIF",
    "icc_profile": "colour profile",
    "dpi": "resolution",
    "xmp": "XMP",
    "comment": "comment",
}
# TIFF tags that say how the samples lie in the file; the others say something of the picture.
TIFF_LAYOUT = {
    254,
    255,
    256,
    257,
    258,
    259,
    262,
    263,
    266,
    273,
    277,
    278,
    279,
    280,
    281,
    284,
    292,
    293,
    297,
    301,
    317,
    320,
    *range(322, 326),
    *range(330, 348),
    512,
    513,
    514,
    515,
    519,
    520,
    521,
    529,
    530,
    531,
    532,
}


def check_format(path: str | Path, photo: Photo) -> str:
    """The format that the ending of `path` stands for, as Pillow calls it.

    Raises:
        SMNetError: none that can be written, or it cannot hold such a picture.
    """
    file_format = FORMATS.get(Path(path).suffix.lower())
    if file_format is None:
        raise SMNetError(
            f"{path}: pictures are written as {', '.join(FORMATS)}; give -o such a name"
        )
    height, width = photo.pixels.shape[:2]
    if max(height, width) > (limit := SIDES.get(file_format, math.inf)):
        raise SMNetError(
            f"{path}: {file_format} holds at most {limit} pixels a side, not {width}x{height}; give a .png or .tif name"
        )
    if photo.pixels.dtype == np.uint16 and file_format not in ("PNG", "TIFF"):
        raise SMNetError(
            f"{path}: {file_format} cannot hold 16 bits a sample; give a .png or .tif name"
        )
    if (
        photo.alpha is not None
        and file_format != photo.format
        and file_format in ("JPEG", "GIF", "BMP")
    ):
        raise SMNetError(
            f"{path}: {file_format} cannot hold the transparency of this {photo.format} file; give a .png name"
        )
    if photo.alpha is not None and file_format != photo.format and extra_sample(photo) != 2:
        raise SMNetError(
            f"{path}: only TIFF can hold a fourth channel of this kind; give a .tif name"
        )
    return file_format


def extra_sample(photo: Photo) -> int:
    """What the alpha channel is, in the words of TIFF's tag 338: 0 unknown, 1 premultiplied, 2
    transparency."""
    if photo.tiff_tags is None or photo.pixels.dtype == np.uint8:  # Pillow has divided by it
        return 2
    said = int(np.atleast_1d(photo.tiff_tags.get(EXTRA_SAMPLES, 0))[0])
    return said if said in (1, 2) else 0


def write_photo(path: str | Path, photo: Photo, pixels: np.ndarray, *, quality: int = 95) -> None:
    """Write `pixels`, of the shape and type of `photo.pixels`, with all else that `photo` holds;
    never half-written.

    The format is that of the file name's ending. Where it is another than before, the picture is
    turned upright, and what the new one cannot hold goes to `photo.notes`. `quality` is that of
    JPEG and lossy WebP, 1 to 100.

    Raises:
        SMNetError: the format cannot hold such a picture, or the file cannot be written.
    """
    file_format = check_format(path, photo)
    if photo.alpha is not None:
        pixels = np.dstack([pixels, photo.alpha])
    deep_alpha = (
        pixels.shape[2] == 2 and pixels.dtype == np.uint16
    )  # which OpenCV cannot write, nor Pillow read from TIFF
    if deep_alpha or (file_format == "WEBP" and pixels.shape[2] < 3):
        photo, pixels = as_rgb(photo, pixels)
    try:
        if file_format != photo.format:
            photo, pixels = (
                for_format(photo, file_format),
                np.ascontiguousarray(upright(pixels, photo.orientation)),
            )
        encoded = encode(photo, pixels, quality)
    except Exception as error:  # Pillow and tifffile raise many kinds on odd metadata; hours of work are not to be lost for it
        try:
            bare = dataclasses.replace(
                photo, format=file_format, metadata={}, encoding={}, png_chunks=b"", tiff_tags=None
            )
            encoded = encode(
                bare, np.ascontiguousarray(upright(pixels, photo.orientation)), quality
            )
        except Exception:
            raise SMNetError(f"{path}: cannot be written as {file_format} ({error})") from None
        photo.notes.append(f"its metadata could not be kept ({error})")
    with replacing(path) as temporary:
        temporary.write_bytes(encoded)


def encode(photo: Photo, pixels: np.ndarray, quality: int) -> bytes:
    """(H, W, 1 to 4), alpha with them, as a file of the photo's format."""
    if photo.format == "PNG":
        return as_png(photo, pixels)
    return as_tiff(photo, pixels) if photo.format == "TIFF" else by_pillow(photo, pixels, quality)


def for_format(photo: Photo, file_format: str) -> Photo:
    """The photo with what another format can hold; the notes, which are the same list, say what it
    cannot."""
    lost = [
        words
        for key, words in WORDS.items()
        if key in photo.metadata and key not in HOLDS[file_format]
    ]
    if any(name in (b"tEXt", b"zTXt") for name, _ in chunks_of(bytes(8) + photo.png_chunks)):
        lost.append("texts")
    if photo.encoding.get("extra"):
        lost.append("captions (IPTC)")
    known = TIFF_LAYOUT.union(EXIF_TAGS, RESOLUTION, SUB_FOLDERS, (ICC, XMP))
    lost += [f"TIFF tag {tag}" for tag in photo.tiff_tags or () if tag not in known]
    if lost:
        photo.notes.append(f"{file_format} cannot hold its {', '.join(lost)}")
    metadata = {key: value for key, value in photo.metadata.items() if key in HOLDS[file_format]}
    if "exif" in metadata:
        exif = photo.exif()
        exif.pop(ORIENTATION, None)
        for folder in (exif, *map(exif.get_ifd, SUB_FOLDERS)):
            for tag, value in folder.items():
                folder[tag] = in_bytes(value)
        if "xmp" in metadata:
            exif[ORIENTATION] = 1  # XMP may hold the old one, which counts where EXIF has none
        metadata["exif"] = exif.tobytes()
    metadata = {key: value for key, value in metadata.items() if value}
    return dataclasses.replace(
        photo, format=file_format, metadata=metadata, encoding={}, png_chunks=b"", tiff_tags=None
    )


def as_rgb(photo: Photo, pixels: np.ndarray) -> tuple[Photo, np.ndarray]:
    """Gray (H, W, 1 or 2) as (H, W, 3 or 4), without a colour profile for gray; the notes say
    so."""
    pixels = pixels[:, :, [0, 0, 0, 1][: pixels.shape[2] + 2]]
    if photo.metadata.get("icc_profile", b"")[16:20] != b"GRAY":
        return photo, pixels
    photo.notes.append("its colour profile, for gray, is left out")
    metadata = {key: value for key, value in photo.metadata.items() if key != "icc_profile"}
    chunks = b"".join(
        chunk for name, chunk in chunks_of(bytes(8) + photo.png_chunks) if name != b"iCCP"
    )
    return dataclasses.replace(photo, metadata=metadata, png_chunks=chunks), pixels


def to_image(photo: Photo, pixels: np.ndarray) -> Image.Image:
    """uint8 (H, W, 1 to 4) -> Pillow's image, with a palette where the photo had one and its format
    takes it."""
    if (
        not photo.palette
        or photo.format in ("JPEG", "WEBP")
        or (photo.format == "TIFF" and photo.alpha is not None)
    ):
        return Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
    clear = pixels[:, :, 3] < 128 if pixels.shape[2] == 4 else None  # of GIF
    image = Image.fromarray(np.ascontiguousarray(pixels[:, :, :3]))
    image = image.quantize(
        256 if clear is None else 255, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE
    )
    if clear is None:
        return image
    transparent = Image.fromarray(np.where(clear, 255, np.asarray(image)).astype(np.uint8))
    transparent.putpalette((image.getpalette() + [0] * 768)[:768])
    transparent.info["transparency"] = 255
    return transparent


def by_pillow(photo: Photo, pixels: np.ndarray, quality: int) -> bytes:
    """Encode JPEG, WebP, BMP or GIF."""
    file_format = photo.format
    if file_format == "BMP" and pixels.shape[2] == 4:
        return as_bmp_with_alpha(photo, pixels)
    options = photo.metadata | photo.encoding
    if file_format in ("JPEG", "WEBP"):
        options["quality"] = quality
    if file_format == "WEBP":
        options["exact"] = True  # colours under transparency too
    buffer = io.BytesIO()
    to_image(photo, pixels).save(buffer, file_format, **options)
    return buffer.getvalue()


def as_bmp_with_alpha(photo: Photo, pixels: np.ndarray) -> bytes:
    """Encode with a header of version 4, which says where the alpha is; Pillow's does not."""
    height, width = pixels.shape[:2]
    rows = np.ascontiguousarray(pixels[::-1, :, [2, 1, 0, 3]]).tobytes()
    across, down = (
        round(dots / 0.0254) for dots in photo.metadata.get("dpi", (0, 0))
    )  # dots a metre
    header = struct.pack(
        "<IiiHHIIiiII", 108, width, height, 1, 32, 3, len(rows), across, down, 0, 0
    )
    header += (
        struct.pack("<IIII", 0xFF0000, 0xFF00, 0xFF, 0xFF000000) + b"BGRs" + bytes(48)
    )  # masks, sRGB
    return b"BM" + struct.pack("<IHHI", 14 + 108 + len(rows), 0, 0, 14 + 108) + header + rows


def as_png(photo: Photo, pixels: np.ndarray) -> bytes:
    """Encode, and take over what the source file said of the picture."""
    if pixels.dtype == np.uint16:
        order = {1: [0], 3: [2, 1, 0], 4: [2, 1, 0, 3]}[pixels.shape[2]]
        data = cv2.imencode(".png", pixels[:, :, order])[1].tobytes()
    else:
        buffer = io.BytesIO()
        to_image(photo, pixels).save(buffer, "PNG")
        data = buffer.getvalue()
    kept = photo.png_chunks
    if not kept and photo.metadata:  # from another format: what Pillow makes of it
        tiny, info, metadata = io.BytesIO(), PngInfo(), dict(photo.metadata)
        if xmp := metadata.pop("xmp", None):
            info.add_itxt("XML:com.adobe.xmp", xmp.decode("utf-8", "replace"))
        Image.new("L", (1, 1)).save(tiny, "PNG", pnginfo=info, **metadata)
        kept = b"".join(chunk for name, chunk in chunks_of(tiny.getvalue()) if name in PNG_CHUNKS)
    header = 8 + 25  # signature and IHDR
    return data[:header] + kept + data[header:]


# --------------------------------------------------------------------------------------------------


def as_tiff(photo: Photo, pixels: np.ndarray) -> bytes:
    """Encode by Pillow, or 16 bits by tifffile; EXIF's folders, which neither writes, are added
    after it."""
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    if photo.tiff_tags is not None:
        for tag, value in photo.tiff_tags.items():
            if tag not in TIFF_LAYOUT and tag not in SUB_FOLDERS:
                tags.tagtype[tag] = photo.tiff_tags.tagtype[tag]
                tags[tag] = in_bytes(value)
    else:
        for tag, value in photo.exif().items():
            if tag not in TIFF_LAYOUT and tag not in SUB_FOLDERS:
                tags[tag] = in_bytes(value)
        for tag, key in ((ICC, "icc_profile"), (XMP, "xmp")):
            if photo.metadata.get(key):
                tags[tag] = photo.metadata[key]
        if "dpi" in photo.metadata:
            for tag, value in zip(RESOLUTION, (*photo.metadata["dpi"], 2)):
                tags[tag] = value
    if pixels.dtype == np.uint16:
        data = as_16_bit_tiff(photo, pixels, tags)
    else:
        buffer = io.BytesIO()
        compression = photo.encoding.get("compression", "tiff_adobe_deflate")
        to_image(photo, pixels).save(buffer, "TIFF", compression=compression, tiffinfo=tags)
        data = buffer.getvalue()
    return with_folders(
        data, {tag: folder for tag in SUB_FOLDERS if (folder := photo.exif().get_ifd(tag))}
    )


def as_16_bit_tiff(
    photo: Photo, pixels: np.ndarray, tags: TiffImagePlugin.ImageFileDirectory_v2
) -> bytes:
    """Encode with tifffile."""
    options: dict = {"compression": "zlib", "predictor": True, "metadata": None, "software": False}
    extra = []
    for tag, value in tags.items():
        if tag in RESOLUTION:
            continue
        tag_type = tags.tagtype[tag]
        values = value if isinstance(value, tuple) else (value,)
        if tag_type in (5, 10):  # fractions
            values = tuple(part for v in values for part in (int(v.numerator), int(v.denominator)))
        if isinstance(value, str):
            value = value.encode("latin-1", "replace")
        if isinstance(value, bytes):
            value += b"\0" * (tag_type == 2)  # as texts end
            extra.append((tag, tag_type, len(value), value, True))
        else:
            count = len(values) // 2 if tag_type in (5, 10) else len(values)
            extra.append((tag, tag_type, count, values if len(values) > 1 else values[0], True))
    if all(
        tag in tags and float(tags[tag]) == float(tags[tag]) for tag in RESOLUTION[:2]
    ):  # 0/0 is no number
        unit = tags.get(RESOLUTION[2], 2)  # inches where it is not said
        options |= {
            "resolution": tuple(float(tags[tag]) for tag in RESOLUTION[:2]),
            "resolutionunit": unit,
        }
    alpha = (
        ("unspecified", "assocalpha", "unassalpha")[extra_sample(photo)]
        if pixels.shape[2] in (2, 4)
        else None
    )
    buffer = io.BytesIO()
    tifffile.imwrite(
        buffer,
        pixels if pixels.shape[2] > 1 else pixels[:, :, 0],
        photometric="rgb" if pixels.shape[2] > 2 else "minisblack",
        planarconfig="contig" if pixels.shape[2] > 1 else None,
        extrasamples=[alpha] if alpha else None,
        extratags=extra,
        **options,
    )
    return buffer.getvalue()


def with_folders(tiff: bytes, folders: dict[int, dict]) -> bytes:
    """A TIFF file of one picture with folders {tag: {tag: value}} of its own: its list of tags is
    written anew at the end."""
    if not folders:
        return tiff
    order = "<" if tiff[:2] == b"II" else ">"
    start = struct.unpack(order + "I", tiff[4:8])[0]
    count = struct.unpack(order + "H", tiff[start : start + 2])[0]
    entries = {}
    for at in range(start + 2, start + 2 + 12 * count, 12):
        entries[struct.unpack(order + "H", tiff[at : at + 2])[0]] = tiff[at : at + 12]
    for tag, values in folders.items():
        tiff += bytes(len(tiff) % 2)
        directory = TiffImagePlugin.ImageFileDirectory_v2(prefix=tiff[:2], group=tag)
        for key, value in values.items():
            if key != INTEROPERABILITY:
                directory[key] = in_bytes(value)
        entries[tag] = struct.pack(
            order + "HHII", tag, 4, 1, len(tiff)
        )  # one number, where the folder lies
        tiff += directory.tobytes(len(tiff))
    tiff += bytes(len(tiff) % 2)
    listed = (
        struct.pack(order + "H", len(entries))
        + b"".join(entries[tag] for tag in sorted(entries))
        + bytes(4)
    )
    return tiff[:4] + struct.pack(order + "I", len(tiff)) + tiff[8:] + listed
