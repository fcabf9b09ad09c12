"""PNG files: reading, with a check that all samples are there, and writing with the old chunks."""

import contextlib
import io
import struct
import zlib

import cv2
import imagecodecs
import numpy as np
from PIL import Image, PngImagePlugin
from PIL.PngImagePlugin import PngInfo

from smnet.photos.metadata import without_exif_thumbnail
from smnet.photos.photo import Photo, split_alpha
from smnet.photos.pillow import TRANSPARENT_COLOUR, new_photo, open_image, take_samples, to_image
from utils import SMNetError

HEADER = 8 + 25  # bytes of the signature and IHDR
# Chunks that describe the picture or its colours, taken over byte by byte.
COLOURS = {b"gAMA": "gamma", b"cHRM": "primaries", b"cICP": "HDR colour space"}
COLOURS |= {b"mDCV": "mastering display", b"cLLI": "light levels"}
TEXTS = (b"tEXt", b"zTXt", b"iTXt")
KEPT = (*COLOURS, b"sRGB", b"iCCP", b"pHYs", b"eXIf", *TEXTS, b"tIME")
# Those that lay out the samples, and small ones that a new encoding makes moot.
LAID_OUT = (
    b"IHDR",
    b"PLTE",
    b"tRNS",
    b"IDAT",
    b"IEND",
    b"sBIT",
    b"bKGD",
    b"hIST",
    b"oFFs",
    b"sPLT",
)
XMP_TEXT = "XML:com.adobe.xmp"  # the names of texts that hold XMP, and EXIF as by ImageMagick
RAW_EXIF = "Raw profile type exif"
INTERLACED = (  # Adam7's passes: first row and column, steps
    *((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4)),
    *((2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)),
)

# Profiles and XMP above 1 MB are no damage.
PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY


def read_png(data: bytes) -> Photo:
    """A PNG file's picture."""
    with open_image(data) as image:
        chunks = chunks_of(data)
        check_samples(data, chunks)
        image.load()
        photo = new_photo(image, "PNG")
        photo.png_chunks = kept_chunks(chunks)
        if others := {name for name, _ in chunks if name.isalpha()} - {*KEPT, *LAID_OUT}:
            names = ", ".join(sorted(name.decode("latin-1") for name in others))
            photo.notes.append(f"its {names} data are left out")
        if behind := len(data) - 8 - sum(len(chunk) for _, chunk in chunks):
            photo.notes.append(f"{behind} bytes behind it are left out")
        if "exif" not in photo.metadata and (exif := exif_in_text(image.info)):
            photo.metadata["exif"] = without_exif_thumbnail(exif)
        bits = data[24]
        if bits == 16:  # Pillow has no mode for RGB of 16 bits
            photo.pixels, photo.alpha = split_alpha(imagecodecs.png_decode(data))
            if "transparency" in image.info:
                photo.notes.append(TRANSPARENT_COLOUR)
        else:
            if image.mode == "L" and bits in (2, 4) and "transparency" in image.info:
                # Pillow scales the samples, but not this level.
                image.info["transparency"] *= 255 // (2**bits - 1)
            take_samples(photo, image)
    return photo


def check_samples(data: bytes, chunks: list[tuple[bytes, bytes]]) -> None:
    """Raise SMNetError where a PNG file holds fewer samples than it says, which Pillow takes for
    black, or others than were written, whose checksum it does not look at."""
    width, height, depth, colours, _, _, interlaced = struct.unpack(">IIBBBBB", data[16:29])
    bits = depth * {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}.get(colours, 1)
    missing = 0  # bytes
    for top, left, down, right in INTERLACED if interlaced else [(0, 0, 1, 1)]:
        rows, columns = len(range(top, height, down)), len(range(left, width, right))
        missing += rows * (1 + (columns * bits + 7) // 8) if columns else 0
    stream = zlib.decompressobj()
    for name, chunk in chunks:
        if name == b"IDAT" and not has_its_checksum(chunk):
            raise SMNetError("is damaged (a checksum of its samples is wrong)")
        rest = chunk[8:-4] if name == b"IDAT" else b""
        while rest and missing > 0:
            missing -= len(stream.decompress(rest, 1 << 20))
            rest = stream.unconsumed_tail
    if missing > len(stream.flush()):
        raise SMNetError("is damaged (its samples end too early)")


def chunks_of(png: bytes, start: int = 8) -> list[tuple[bytes, bytes]]:
    """(name, whole chunk) of a PNG file, in its order."""
    found, at = [], start
    while at + 12 <= len(png):
        end = at + 12 + struct.unpack(">I", png[at : at + 4])[0]
        found.append((png[at + 4 : at + 8], png[at:end]))
        at = end
        if found[-1][0] == b"IEND":
            break
    return found


def make_chunk(name: bytes, content: bytes) -> bytes:
    """A whole chunk: length, name, content, checksum."""
    checksum = struct.pack(">I", zlib.crc32(name + content))
    return struct.pack(">I", len(content)) + name + content + checksum


def has_its_checksum(chunk: bytes) -> bool:
    """Whether a whole PNG chunk is undamaged."""
    return zlib.crc32(chunk[4:-4]) == int.from_bytes(chunk[-4:], "big")


def kept_chunks(chunks: list[tuple[bytes, bytes]]) -> bytes:
    """The undamaged chunks that describe the picture; EXIF without its thumbnail."""
    kept = b""
    for name, chunk in chunks:
        if name in KEPT and has_its_checksum(chunk):
            exif = name == b"eXIf"
            kept += make_chunk(name, without_exif_thumbnail(chunk[8:-4])) if exif else chunk
    return kept


def exif_in_text(info: dict) -> bytes:
    """EXIF that a text holds in hexadecimal digits, after a line each of name and length; empty
    where there is none."""
    with contextlib.suppress(ValueError):
        return bytes.fromhex("".join(str(info.get(RAW_EXIF, "")).split("\n")[3:]))
    return b""


def lost_in_other_formats(photo: Photo) -> list[str]:
    """What the photo's PNG chunks say that no other format holds, in words."""
    chunks = chunks_of(photo.png_chunks, start=0)
    names = [name for name, _ in chunks]
    if b"sRGB" in names or b"iCCP" in names:  # gAMA and cHRM only repeat it
        names = [name for name in names if name not in (b"gAMA", b"cHRM")]
    lost = [f"{COLOURS[name]} ({name.decode()})" for name in names if name in COLOURS]
    carried = (RAW_EXIF.encode(), XMP_TEXT.encode())
    if any(name in TEXTS and not chunk[8:].startswith(carried) for name, chunk in chunks):
        lost.append("texts")
    return lost


def encode_png(photo: Photo, pixels: np.ndarray) -> bytes:
    """(H, W, 1 to 4) as a PNG file, with what the source file said of the picture."""
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
            info.add_itxt(XMP_TEXT, xmp.decode("utf-8", "replace"))
        Image.new("L", (1, 1)).save(tiny, "PNG", pnginfo=info, **metadata)
        kept = b"".join(chunk for name, chunk in chunks_of(tiny.getvalue()) if name in KEPT)
    return data[:HEADER] + kept + data[HEADER:]
