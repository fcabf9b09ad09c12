"""Users' picture files, read with all that writing.py needs to write them as they were.

Pillow does the work; what it has no mode for, 16-bit RGB, OpenCV (PNG) and tifffile (TIFF) do.
"""

import contextlib
import dataclasses
import io
import logging
import struct
import warnings
import zlib
from pathlib import Path

import cv2
import numpy as np
import tifffile
from PIL import (
    Image,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    TiffTags,
    UnidentifiedImageError,
)

from smnet.images import read_file
from utils import SMNetError

MAX_PIXELS = 250_000_000
FORMATS = {
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".bmp": "BMP",
    ".webp": "WEBP",
    ".gif": "GIF",
    ".jfif": "JPEG",
    ".jpe": "JPEG",
}
# Endings of pictures that cannot be read.
OTHERS = (
    ".heic",
    ".heif",
    ".avif",
    ".jxl",
    ".jp2",
    ".psd",
    ".ppm",
    ".pgm",
    ".tga",
    ".exr",
    ".raw",
    ".dng",
    ".cr2",
    ".cr3",
    ".nef",
    ".arw",
    ".orf",
    ".raf",
    ".rw2",
    ".pef",
    ".srw",
)
# PNG chunks that say something of the picture or its colours, taken over byte by byte.
PNG_CHUNKS = (
    b"gAMA",
    b"cHRM",
    b"sRGB",
    b"iCCP",
    b"cICP",
    b"mDCV",
    b"cLLI",
    b"pHYs",
    b"eXIf",
    b"tEXt",
    b"zTXt",
    b"iTXt",
    b"tIME",
)
# TIFF tags
ORIENTATION, BITS, PHOTOMETRIC, PLANES, EXTRA_SAMPLES, ICC, XMP = (
    274,
    258,
    262,
    284,
    338,
    34675,
    700,
)
RESOURCES, LAYERS = 34377, 37724  # Photoshop's
PHOTOSHOP = b"Photoshop 3.0\0"  # before its resources in a JPEG file
RESOLUTION = (282, 283, 296)  # horizontal, vertical, unit
SUB_FOLDERS = (34665, 34853)  # EXIF's and GPS's
INTEROPERABILITY = 40965  # a folder in EXIF's
EXIF_TAGS = (
    270,
    271,
    272,
    ORIENTATION,
    305,
    306,
    315,
    33432,
)  # of a TIFF file's own those that stand in other files' EXIF
TIFF_LOSSLESS = (
    "raw",
    "packbits",
    "tiff_lzw",
    "tiff_deflate",
    "tiff_adobe_deflate",
    "zstd",
    "lzma",
)

PngImagePlugin.MAX_TEXT_CHUNK = (
    PngImagePlugin.MAX_TEXT_MEMORY
)  # profiles and XMP above 1 MB are no damage
logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # its errors reach us as exceptions
warnings.filterwarnings("ignore", module="PIL")  # of odd metadata
for text in (
    42032,
    42033,
    42035,
    42036,
):  # EXIF's owner, camera's number, lens's maker and model: Pillow lacks their type
    TiffTags.TAGS_V2_GROUPS[SUB_FOLDERS[0]][text] = TiffTags.TagInfo(text, "text", TiffTags.ASCII)


@dataclasses.dataclass
class Photo:
    """A picture file's content."""

    pixels: np.ndarray  # (H, W, 1) gray or (H, W, 3) RGB, uint8 or uint16, as they lie in the file, orientation not applied
    alpha: np.ndarray | None  # (H, W) of the same type
    format: str  # as Pillow calls it
    palette: bool = False
    metadata: dict = dataclasses.field(
        default_factory=dict
    )  # exif, icc_profile, dpi, xmp, comment, as Pillow's save() takes them
    encoding: dict = dataclasses.field(
        default_factory=dict
    )  # what else it takes to write the same format as before
    png_chunks: bytes = b""  # that say something of the picture or its colours
    tiff_tags: TiffImagePlugin.ImageFileDirectory_v2 | None = None
    notes: list[str] = dataclasses.field(default_factory=list)  # what cannot be kept

    @property
    def white(self) -> int:
        """The value of white: 255 or 65535."""
        return int(np.iinfo(self.pixels.dtype).max)

    def exif(self) -> Image.Exif:
        """EXIF, empty where there is none or it is damaged."""
        exif = Image.Exif()
        with contextlib.suppress(Exception):
            exif.load(self.metadata.get("exif", b""))
        return exif

    @property
    def orientation(self) -> int:
        """EXIF's, 1 to 8; 1 is upright."""
        found = self.exif().get(ORIENTATION, 1)
        return found if found in range(1, 9) else 1


def upright(samples: np.ndarray, orientation: int) -> np.ndarray:
    """(H, W, ...) as it lies in a file of EXIF orientation 1 to 8 -> as it is to be seen."""
    turned = np.rot90(samples, {3: 2, 4: 2, 5: -1, 6: -1, 7: 1, 8: 1}.get(orientation, 0))
    return turned[:, ::-1] if orientation in (2, 4, 5, 7) else turned


# ------------------------------------------------------------------------------------------ reading


def read_photo(path: str | Path) -> Photo:
    """Read a PNG, JPEG, TIFF, BMP, WebP or GIF file of one gray or RGB picture.

    Raises:
        SMNetError: the file cannot be read, or is none of these; one line that names it.
    """
    data = read_file(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            Image.MAX_IMAGE_PIXELS = None  # the limit below says more
            with Image.open(io.BytesIO(data)) as image:
                check(image, path)
                if image.format == "PNG":
                    check_png(data)
                if image.format == "TIFF":
                    return tiff_photo(image, data)
                image.load()
                return to_photo(image, data)
    except UnidentifiedImageError:
        raise SMNetError(f"{path}: {why_unknown(data)}") from None
    except SMNetError as error:
        raise SMNetError(f"{path}: {str(error).removeprefix(f'{path}: ')}") from None
    except MemoryError:
        raise SMNetError(f"{path}: does not fit into memory") from None
    except Exception as error:  # Pillow's readers raise many kinds on damaged files
        raise SMNetError(f"{path}: is damaged ({error})") from None


def check(image: Image.Image, path: str | Path) -> None:
    """Raise SMNetError for what is a picture, but not one that can be denoised."""
    if image.format not in (*FORMATS.values(), "MPO"):
        raise SMNetError(
            f"is a {image.format} file; PNG, JPEG, TIFF, BMP, WebP and GIF can be read"
        )
    if (
        getattr(image, "n_frames", 1) > 1 and image.format != "MPO"
    ):  # MPO: a JPEG with previews behind it
        raise SMNetError(
            f"has {image.n_frames} frames or pages; one picture a file can be denoised"
        )
    if image.width * image.height > MAX_PIXELS:
        raise SMNetError(
            f"has {image.width}x{image.height} pixels, above {MAX_PIXELS // 1_000_000} megapixels; cut it up"
        )
    if image.mode not in ("L", "LA", "RGB", "RGBA", "RGBX", "P", "PA", "I;16", "I;16B", "I;16L"):
        what = {
            "1": "black and white of 1 bit",
            "F": "floating-point samples",
            "I": "32-bit samples",
        }.get(image.mode, image.mode)
        raise SMNetError(f"is {what}; convert it to gray or RGB of 8 or 16 bits first")
    if image.format == "TIFF" and (bits := tiff_bits(image)) > 8 and bits != 16:
        raise SMNetError(f"has {bits} bits a sample; convert it to 8 or 16 bits first")


def why_unknown(data: bytes) -> str:
    """What to say of a file that Pillow does not know."""
    with contextlib.suppress(Exception):  # of TIFF it knows but a part
        page = tifffile.TiffFile(io.BytesIO(data)).pages[0]
        return f"has {page.dtype} samples in {page.samplesperpixel} channels; convert it to gray or RGB of 8 or 16 bits first"
    return "is damaged or no picture (PNG, JPEG, TIFF, BMP, WebP and GIF can be read)"


def check_png(data: bytes) -> None:
    """Raise SMNetError where a PNG file holds fewer samples than it says, which Pillow takes for
    black."""
    width, height, depth, colours, _, _, interlaced = struct.unpack(">IIBBBBB", data[16:29])
    bits = depth * {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}.get(colours, 1)
    passes = [(0, 0, 1, 1)]  # first row and column, steps
    if interlaced:
        passes = [
            (0, 0, 8, 8),
            (0, 4, 8, 8),
            (4, 0, 8, 4),
            (0, 2, 4, 4),
            (2, 0, 4, 2),
            (0, 1, 2, 2),
            (1, 0, 2, 1),
        ]
    missing = 0  # bytes
    for top, left, down, right in passes:
        rows, columns = len(range(top, height, down)), len(range(left, width, right))
        missing += rows * (1 + (columns * bits + 7) // 8) if columns else 0
    stream = zlib.decompressobj()
    for name, chunk in chunks_of(data):
        rest = chunk[8:-4] if name == b"IDAT" else b""
        while rest and missing > 0:
            missing -= len(stream.decompress(rest, 1 << 20))
            rest = stream.unconsumed_tail
    if missing > len(stream.flush()):
        raise SMNetError("is damaged (its samples end too early)")


def chunks_of(png: bytes) -> list[tuple[bytes, bytes]]:
    """(name, whole chunk) of a PNG file, in its order."""
    found, at = [], 8
    while at + 12 <= len(png):
        end = at + 12 + struct.unpack(">I", png[at : at + 4])[0]
        found.append((png[at + 4 : at + 8], png[at:end]))
        at = end
    return found


def has_its_checksum(chunk: bytes) -> bool:
    """Whether a whole PNG chunk is undamaged."""
    return zlib.crc32(chunk[4:-4]) == int.from_bytes(chunk[-4:], "big")


def tiff_bits(image: TiffImagePlugin.TiffImageFile) -> int:
    """Bits a sample, the most of its channels."""
    return int(max(np.atleast_1d(image.tag_v2.get(BITS, 1))))


def tiff_photo(image: TiffImagePlugin.TiffImageFile, data: bytes) -> Photo:
    """A TIFF file's picture as it lies in the file: Pillow turns it upright, and drops the tag,
    when it is loaded."""
    orientation, exif = image.tag_v2.get(ORIENTATION), exif_of_tiff(image)
    image.load()
    if orientation is not None:
        turn = Image.Transpose
        undo = {
            2: turn.FLIP_LEFT_RIGHT,
            3: turn.ROTATE_180,
            4: turn.FLIP_TOP_BOTTOM,
            5: turn.TRANSPOSE,
            6: turn.ROTATE_90,
            7: turn.TRANSVERSE,
            8: turn.ROTATE_270,
        }.get(orientation)
        if undo is not None:
            image.im = image.im.transpose(undo)
            image._size = image.im.size
        image.tag_v2[ORIENTATION] = orientation
    photo = to_photo(image, data)
    photo.metadata.pop("exif", None)
    if (
        image.tag_v2.get(RESOLUTION[2], 2) == 1 or RESOLUTION[0] not in image.tag_v2
    ):  # Pillow then says 1
        photo.metadata.pop("dpi", None)
    if len(exif):
        photo.metadata["exif"] = exif.tobytes()
    return photo


def exif_of_tiff(image: TiffImagePlugin.TiffImageFile) -> Image.Exif:
    """What other files have in their EXIF: a TIFF file has it among its tags, or in folders of its
    own."""
    exif = Image.Exif()
    with contextlib.suppress(Exception):  # a damaged folder
        found = image.getexif()
        for tag in EXIF_TAGS:
            if tag in found:
                exif[tag] = in_bytes(found[tag])
        for tag in SUB_FOLDERS:
            if folder := found.get_ifd(tag):
                exif[tag] = {
                    key: in_bytes(value) for key, value in folder.items() if key != INTEROPERABILITY
                }
    return exif


def in_bytes(value: object) -> object:
    """A tag's value; text beyond ASCII as the bytes it was read of, for which Pillow would write
    question marks."""
    return (
        value.encode("latin-1", "replace")
        if isinstance(value, str) and not value.isascii()
        else value
    )


def to_photo(image: Image.Image, data: bytes) -> Photo:
    """A loaded image and the bytes it comes from -> Photo."""
    file_format = "JPEG" if image.format == "MPO" else image.format
    info, notes = image.info, []
    photo = Photo(np.empty(0), None, file_format, notes=notes)
    photo.metadata = {
        key: info[key] for key in ("exif", "icc_profile", "dpi", "xmp", "comment") if info.get(key)
    }
    if "exif" in photo.metadata:
        photo.metadata["exif"] = without_exif_thumbnail(photo.metadata["exif"])
    if image.format == "MPO":
        notes.append("the previews behind its first picture are left out")
    if file_format == "JPEG":
        photo.encoding["progressive"] = bool(info.get("progressive"))
        sampling = JpegImagePlugin.get_sampling(image)
        if image.mode == "RGB" and sampling >= 0:
            photo.encoding["subsampling"] = sampling
        # Captions and keywords.
        segments = [
            without_photoshop_thumbnails(segment)
            for name, segment in image.applist
            if name == "APP13"
        ]
        photo.encoding["extra"] = b"".join(
            b"\xff\xed" + struct.pack(">H", len(part) + 2) + part for part in segments
        )
    if file_format == "WEBP":
        photo.encoding["lossless"] = b"VP8L" in data[:64] or (
            b"VP8X" in data[:16] and b"VP8 " not in data
        )
    if file_format == "TIFF":
        lossless = info.get("compression") in TIFF_LOSSLESS
        photo.encoding["compression"] = info["compression"] if lossless else "tiff_adobe_deflate"
        photo.tiff_tags = image.tag_v2
        if image.tag_v2.pop(LAYERS, None):
            notes.append("its Photoshop layers are left out")
        resources = image.tag_v2.pop(RESOURCES, None)
        if isinstance(resources, bytes) and (left := without_photoshop_thumbnails(resources)):
            image.tag_v2[RESOURCES] = left
    if file_format == "PNG":
        sound = (
            chunk
            for name, chunk in chunks_of(data)
            if name in PNG_CHUNKS and has_its_checksum(chunk)
        )
        photo.png_chunks = b"".join(sound)
    if data[24] == 16 if file_format == "PNG" else file_format == "TIFF" and tiff_bits(image) == 16:
        samples = read_16_bit(image, data)
        if file_format == "PNG" and samples.shape[2] == 2:
            notes.append("it is gray with transparency of 16 bits, and becomes RGBA")
    else:
        if (
            file_format == "PNG"
            and image.mode == "L"
            and data[24] in (2, 4)
            and "transparency" in info
        ):
            info["transparency"] *= 255 // (
                2 ** data[24] - 1
            )  # Pillow scales the samples, but not this level
        samples, photo.palette = read_8_bit(image, notes)
    colours = 1 if samples.shape[2] < 3 else 3
    photo.pixels = np.ascontiguousarray(samples[:, :, :colours])
    photo.alpha = (
        np.ascontiguousarray(samples[:, :, colours]) if samples.shape[2] > colours else None
    )
    return photo


def without_photoshop_thumbnails(resources: bytes) -> bytes:
    """Photoshop's resources, of a TIFF or JPEG file, without thumbnails: they would go on showing
    the noisy picture."""
    at = len(PHOTOSHOP) if resources.startswith(PHOTOSHOP) else 0
    kept = resources[:at]
    while resources[at : at + 4] == b"8BIM" and at + 12 <= len(resources):
        size = at + 6 + (resources[at + 6] + 2) // 2 * 2  # behind the number and an even name
        end = size + 4 + (int.from_bytes(resources[size : size + 4], "big") + 1) // 2 * 2
        if int.from_bytes(resources[at + 4 : at + 6], "big") not in (1033, 1036):
            kept += resources[at:end]
        at = end
    return kept + resources[at:]


def without_exif_thumbnail(exif: bytes) -> bytes:
    """EXIF that ends before the folder of its thumbnail, which would go on showing the noisy
    picture; all else as it was."""
    start = 6 if exif.startswith(b"Exif\0\0") else 0
    order = "<" if exif[start : start + 2] == b"II" else ">"
    try:
        first = start + struct.unpack_from(order + "I", exif, start + 4)[0]
        end = first + 2 + 12 * struct.unpack_from(order + "H", exif, first)[0]
    except struct.error:  # damaged
        return exif
    return exif[:end] + bytes(4) + exif[end + 4 :] if end + 4 <= len(exif) else exif


def read_8_bit(image: Image.Image, notes: list[str]) -> tuple[np.ndarray, bool]:
    """(uint8 (H, W, 1 to 4), whether it has a palette that is to be kept)."""
    palette = image.mode == "P"
    if image.format == "TIFF" and (
        image.mode == "RGBX" or len(image.tag_v2.get(BITS, ())) > len(image.getbands())
    ):
        notes.append("its channels beyond colour and transparency are left out")
    if image.mode in ("P", "PA"):
        transparent = image.mode == "PA" or "transparency" in image.info
        if transparent and image.format != "GIF":
            palette = False
            notes.append("it has a palette with transparency, and becomes RGBA")
        image = image.convert("RGBA" if transparent else "RGB")
    elif "transparency" in image.info:
        notes.append("one of its colours is transparent: it becomes one with alpha")
        image = image.convert({"L": "LA", "RGB": "RGBA"}.get(image.mode, image.mode))
    elif image.mode == "RGBX":
        image = image.convert("RGB")
    samples = np.asarray(image)
    return samples if samples.ndim == 3 else samples[:, :, None], palette


def read_16_bit(image: Image.Image, data: bytes) -> np.ndarray:
    """uint16 (H, W, 1 to 4) of a PNG or TIFF file."""
    if image.format == "TIFF":
        try:
            samples = tifffile.imread(io.BytesIO(data))
            if image.tag_v2.get(PLANES, 1) == 2 and samples.ndim == 3:  # one plane after the other
                samples = samples.transpose(1, 2, 0)
        except Exception as error:  # compressed in a way that needs another package
            samples = (
                decode_by_opencv(data) if image.tag_v2.get(ORIENTATION, 1) == 1 else None
            )  # else it turns the picture
            if samples is None:
                raise SMNetError(f"its 16-bit samples cannot be read ({error})") from None
        if image.tag_v2.get(PHOTOMETRIC) == 0:
            raise SMNetError("is a 16-bit TIFF file whose white is 0; convert it first")
    else:
        samples = decode_by_opencv(data)
        if samples is None:
            raise SMNetError("is damaged")
        if data[25] == 4:  # gray with alpha, which OpenCV gives as four channels
            samples = samples[:, :, 2:]
        transparent = dict(chunks_of(data)).get(b"tRNS")
        if data[25] == 0 and transparent:  # one level is; OpenCV passes over it
            level = struct.unpack(">H", transparent[8:10])[0]
            samples = np.dstack([samples, np.where(samples == level, 0, 65535).astype(np.uint16)])
    if samples.ndim == 2:
        samples = samples[:, :, None]
    if samples.dtype != np.uint16 or samples.shape[2] not in (1, 2, 3, 4):
        raise SMNetError(
            f"has {samples.dtype} samples in {samples.shape[2]} channels, which cannot be read"
        )
    return samples


def decode_by_opencv(data: bytes) -> np.ndarray | None:
    """Samples as they are, in the order RGB(A); None where it cannot."""
    samples = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if samples is not None and samples.ndim == 3:
        samples = cv2.cvtColor(
            samples, cv2.COLOR_BGRA2RGBA if samples.shape[2] == 4 else cv2.COLOR_BGR2RGB
        )
    return samples
