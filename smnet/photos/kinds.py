"""What a file is, by its first bytes, whatever its name says."""

import contextlib
import io

from PIL import Image

from utils import SMNetError

READABLE = "PNG, JPEG, TIFF, BMP, WebP and GIF can be read"
# The first bytes of the formats that are read here.
SIGNATURES = {
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"\xff\xd8\xff": "JPEG",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"II+\0": "TIFF",  # BigTIFF
    b"MM\0+": "TIFF",
    b"BM": "BMP",
    b"GIF87a": "GIF",
    b"GIF89a": "GIF",
}
# And those of others, so that a message can name them.
RAW = "camera raw"
FOREIGN = {
    b"II\xbc": "JPEG XR",
    b"\xff\x0a": "JPEG XL",
    b"\0\0\0\x0cJXL ": "JPEG XL",
    b"\0\0\0\x0cjP  ": "JPEG 2000",
    b"\xff\x4f\xff\x51": "JPEG 2000",
    b"8BPS": "Photoshop (PSD)",
    b"v/1\x01": "OpenEXR",
    b"#?RADIANCE": "Radiance (HDR)",
    b"SIMPLE  =": "FITS",
    b"DDS ": "DDS",
    b"%PDF": "PDF",
    b"FUJIFILMCCD-RAW": RAW,
    b"IIRO": RAW,  # Olympus
    b"IIRS": RAW,
    b"MMOR": RAW,
    b"IIU\0": RAW,  # Panasonic
    b"FOVb": RAW,  # Sigma
    b"\0MRM": RAW,  # Minolta
    b"II\x1a\0\0\0HEAPCCDR": RAW,  # Canon
}
# The brand at byte 8 of what holds a "ftyp" box at byte 4.
BRANDS = {
    **dict.fromkeys((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx"), "HEIC"),
    **dict.fromkeys((b"avif", b"avis"), "AVIF"),
    **dict.fromkeys((b"mif1", b"msf1"), "HEIF"),
    b"crx ": RAW,
}


def find_format(data: bytes) -> str:
    """The format of a file, as Pillow calls it: one that can be read here.

    Raises:
        SMNetError: it is another, which is named, or unknown.
    """
    for start, name in SIGNATURES.items():
        if data.startswith(start):
            if name == "TIFF" and (data[8:10] == b"CR" or data[8:12] in (b"IIII", b"MMMM")):
                raise foreign(RAW)  # Canon's CR2 and Phase One's IIQ
            return name
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    if data[4:8] == b"ftyp":
        raise foreign(BRANDS.get(data[8:12], "video or HEIF"))
    for start, name in FOREIGN.items():
        if data.startswith(start):
            raise foreign(name)
    found = None
    with contextlib.suppress(Exception), Image.open(io.BytesIO(data)) as image:
        found = image.format
    raise foreign(found) if found else unknown()


def foreign(name: str) -> SMNetError:
    """The error for a file of a format that is not read here."""
    if name == RAW:
        return SMNetError("is a camera raw file; develop it into a TIFF file of 16 bits first")
    article = "an" if name[0] in "AEIOU" else "a"
    return SMNetError(f"is {article} {name} file; {READABLE}")


def unknown() -> SMNetError:
    """The error for a file that no reader knows."""
    return SMNetError(f"is damaged or not a picture ({READABLE})")
