"""Small picture files of every kind, made without the code that reads them."""

import io
import struct
import zlib

import numpy as np
import tifffile
from helpers import synthetic_picture
from PIL import Image

EXIF = Image.Exif()
EXIF[0x0112], EXIF[0x010F] = 6, "a camera"  # turned, and made by
ICC = b"a colour profile, as far as anybody looks" * 4
GRAY, RGB = synthetic_picture(0, 30, 37)[:, :, 0], synthetic_picture(1, 30, 37, 3)
ALPHA = synthetic_picture(2, 30, 37)[:, :, 0]
DEEP_GRAY, DEEP_RGB = GRAY.astype(np.uint16) * 250 + 3, RGB.astype(np.uint16) * 250 + 3
PALETTE = Image.fromarray(RGB).quantize(64)


def png_16_bit(samples: np.ndarray, colour_type: int, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG file of uint16 (H, W, C), with chunks of one's own; written here, independently of what
    reads it."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    height, width = samples.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)
    header = struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0)
    parts = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def pillow(image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(
        buffer, kind, **options
    )
    return buffer.getvalue()


def tiff(samples: np.ndarray, **options) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(
        buffer, samples, photometric="rgb" if samples.ndim == 3 else "minisblack", **options
    )
    return buffer.getvalue()


def xmp_with(attributes: str) -> bytes:
    """XMP of one description."""
    rdf = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
    text = f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="{rdf}">'
    return f"{text}<rdf:Description {attributes}/></rdf:RDF></x:xmpmeta>".encode()


def jpeg_segment(marker: int, content: bytes) -> bytes:
    return b"\xff" + bytes([marker]) + struct.pack(">H", len(content) + 2) + content


def png_with(chunk: bytes, content: bytes) -> bytes:
    """RGB as a PNG file with one more chunk."""
    whole = pillow(RGB, "PNG")
    packed = struct.pack(">I", len(content)) + chunk + content
    return whole[:33] + packed + struct.pack(">I", zlib.crc32(chunk + content)) + whole[33:]


def packed_tiff(
    samples: np.ndarray, bits: int, *, photometric: int = 1, compress=None, fill_order: int = 1
) -> bytes:
    """A TIFF file of gray samples (H, W) of few bits, which tifffile cannot write compressed.

    `compress`: None, or (the number of a compression, its function).
    """
    height, width = samples.shape
    rows = ["".join(f"{value:0{bits}b}" for value in row) for row in samples]
    rows = [row + "0" * (-len(row) % 8) for row in rows]
    octets = [row[i : i + 8] for row in rows for i in range(0, len(row), 8)]
    data = bytes(int(octet[::-1] if fill_order == 2 else octet, 2) for octet in octets)
    compression, function = compress or (1, bytes)
    data = function(data)
    entries = [(256, width), (257, height), (258, bits), (259, compression), (262, photometric)]
    entries += [(266, fill_order), (273, 8 + 2 + 12 * 10 + 4), (277, 1), (278, height)]
    entries += [(279, len(data))]
    listed = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries)
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + listed + bytes(4) + data


# Every lossless kind: its pixels must come back exactly.
LOSSLESS = {
    "gray.png": pillow(GRAY, "PNG", dpi=(300, 300)),
    "rgb.png": pillow(RGB, "PNG", icc_profile=ICC, exif=EXIF),
    "gray alpha.png": pillow(np.dstack([GRAY, ALPHA]), "PNG"),
    "rgb alpha.png": pillow(np.dstack([RGB, ALPHA]), "PNG"),
    "deep gray.png": png_16_bit(
        DEEP_GRAY[:, :, None], 0, (b"pHYs", struct.pack(">IIB", 11811, 11811, 1))
    ),
    "deep rgb.png": png_16_bit(
        DEEP_RGB, 2, (b"gAMA", struct.pack(">I", 45455)), (b"tEXt", b"Author\0somebody")
    ),
    "deep rgb alpha.png": png_16_bit(np.dstack([DEEP_RGB, DEEP_GRAY]), 6),
    "gray.tif": pillow(GRAY, "TIFF", dpi=(300, 300), compression="tiff_lzw"),
    "rgb.tiff": pillow(RGB, "TIFF", icc_profile=ICC, exif=EXIF),
    "rgb alpha.tif": pillow(np.dstack([RGB, ALPHA]), "TIFF"),
    "deep gray.tif": tiff(DEEP_GRAY),
    "deep rgb.tif": tiff(
        DEEP_RGB, compression="zlib", iccprofile=ICC, resolution=(300, 300), resolutionunit=2
    ),
    "deep turned.tif": tiff(DEEP_RGB, extratags=[(274, 3, 1, 6, True)]),
    "planes.tif": tiff(DEEP_RGB.transpose(2, 0, 1), planarconfig="separate"),
    "gray.bmp": pillow(GRAY, "BMP"),
    "rgb.bmp": pillow(RGB, "BMP", dpi=(300, 300)),
    "rgb.webp": pillow(RGB, "WEBP", lossless=True, exif=EXIF, icc_profile=ICC),
    "one pixel.png": pillow(RGB[:1, :1], "PNG"),
    "a line.png": pillow(GRAY[:1], "PNG"),
}


def tiff_with_folders(
    samples: np.ndarray, *, turned: int, order: str, dangling: bool = False
) -> bytes:
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
        listed = b"".join(
            struct.pack(f"{order}HHI", *entry[:3]) + entry[3].ljust(4, b"\0") for entry in entries
        )
        return struct.pack(f"{order}H", len(entries)) + listed + bytes(4)

    def short(value: int) -> bytes:
        return struct.pack(f"{order}H", value)

    def long(value: int) -> bytes:
        return struct.pack(f"{order}I", value)

    exposure = put(struct.pack(f"{order}II", 1, 50))
    pointers = [(40965, 4, 1, long(10**6))] if dangling else []
    exif, gps = (
        put(folder((33434, 5, 1, long(exposure)), *pointers)),
        put(folder((1, 2, 2, b"N\0"))),
    )
    text, scale = (
        put("é".encode("latin-1") * 5 + b"\0"),
        put(struct.pack(f"{order}3d", 0.5, 0.25, 0)),
    )
    main = put(
        folder(
            (256, 3, 1, short(samples.shape[1])),
            (257, 3, 1, short(samples.shape[0])),
            (258, 3, 1, short(depth)),
            (259, 3, 1, short(1)),
            (262, 3, 1, short(1)),
            (273, 4, 1, long(8)),
            (274, 3, 1, short(turned)),
            (277, 3, 1, short(1)),
            (278, 3, 1, short(samples.shape[0])),
            (279, 4, 1, long(samples.nbytes)),
            (315, 2, 6, long(text)),
            (33550, 12, 3, long(scale)),
            (34665, 4, 1, long(exif)),
            (34853, 4, 1, long(gps)),
        )
    )
    return (b"II*\0" if order == "<" else b"MM\0*") + long(main) + b"".join(parts)
