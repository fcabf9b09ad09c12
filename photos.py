"""Users' picture files, read and written so that all but the denoised colours stays as it was.

Kept: 8 or 16 bits, gray or RGB, palette, alpha, EXIF with its orientation, ICC profile, XMP, comments, resolution, file format.
Pillow does the work; what it has no mode for, 16-bit RGB, OpenCV (PNG) and tifffile (TIFF) do.
"""

import dataclasses
import io
import struct
import warnings
from pathlib import Path

import cv2
import numpy as np
import tifffile
from PIL import Image, JpegImagePlugin, TiffImagePlugin, UnidentifiedImageError

from utils import SMNetError, replacing

MAX_PIXELS = 250_000_000
FORMATS = {
    ".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".tif": "TIFF", ".tiff": "TIFF", ".bmp": "BMP", ".webp": "WEBP",
    ".gif": "GIF",
}  # fmt: skip
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
# TIFF tags that say how the samples lie in the file; the others say something of the picture.
TIFF_LAYOUT = {254, 255, 256, 257, 258, 259, 262, 263, 266, 273, 277, 278, 279, 280, 281, 284, 292, 293, 297, 301, 317, 320,
               *range(322, 326), *range(330, 348), 512, 513, 514, 515, 519, 520, 521, 529, 530, 531, 532}  # fmt: skip
TIFF_LOSSLESS = ("raw", "packbits", "tiff_lzw", "tiff_deflate", "tiff_adobe_deflate", "zstd", "lzma")
ORIENTATION, ICC, RESOLUTION, SUB_FOLDERS = 274, 34675, (282, 283, 296), (34665, 34853, 40965)  # TIFF tags


@dataclasses.dataclass
class Photo:
    """A picture file's content."""

    pixels: np.ndarray  # (H, W, 1) gray or (H, W, 3) RGB, uint8 or uint16, as they lie in the file, orientation not applied
    alpha: np.ndarray | None  # (H, W) of the same type
    format: str  # as Pillow calls it
    palette: bool = False
    save: dict = dataclasses.field(default_factory=dict)  # what Pillow's save() takes to keep the rest
    png_chunks: bytes | None = None  # where it comes from a PNG file
    tiff_tags: TiffImagePlugin.ImageFileDirectory_v2 | None = None
    notes: list[str] = dataclasses.field(default_factory=list)  # what cannot be kept

    @property
    def levels(self) -> int:
        """The value of white: 255 or 65535."""
        return int(np.iinfo(self.pixels.dtype).max)


# ------------------------------------------------------------------------------------------------------------- reading


def read_photo(path: str | Path) -> Photo:
    """Read a PNG, JPEG, TIFF, BMP, WebP or GIF file of one gray or RGB picture.

    Raises:
        SMNetError: the file cannot be read, or is none of these; one line that names it.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise SMNetError(f"{path}: {error.strerror or error}") from None
    if not data:
        raise SMNetError(f"{path}: is empty")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            Image.MAX_IMAGE_PIXELS = None  # the limit below says more
            with Image.open(io.BytesIO(data)) as image:
                check(image, path)
                orientation = image.tag_v2.get(ORIENTATION) if image.format == "TIFF" else None
                image.load()
                if orientation is not None:
                    image = as_stored(image, orientation)
                return to_photo(image, data)
    except UnidentifiedImageError:
        raise SMNetError(f"{path}: is damaged or no picture (PNG, JPEG, TIFF, BMP, WebP and GIF can be read)") from None
    except SMNetError as error:
        raise SMNetError(f"{path}: {str(error).removeprefix(f'{path}: ')}") from None
    except MemoryError:
        raise SMNetError(f"{path}: does not fit into memory") from None
    except Exception as error:  # Pillow's readers raise many kinds on damaged files
        raise SMNetError(f"{path}: is damaged ({error})") from None


def check(image: Image.Image, path: str | Path) -> None:
    """Raise SMNetError for what is a picture, but not one that can be denoised."""
    if image.format not in (*FORMATS.values(), "MPO"):
        raise SMNetError(f"is a {image.format} file; PNG, JPEG, TIFF, BMP, WebP and GIF can be read")
    if getattr(image, "n_frames", 1) > 1 and image.format != "MPO":  # MPO: a JPEG with previews behind it
        raise SMNetError(f"has {image.n_frames} frames or pages; one picture a file can be denoised")
    if image.width * image.height > MAX_PIXELS:
        raise SMNetError(f"has {image.width}x{image.height} pixels, above {MAX_PIXELS // 1_000_000} megapixels; cut it up")
    if image.mode not in ("L", "LA", "RGB", "RGBA", "RGBX", "P", "PA", "I;16", "I;16B", "I;16L"):
        what = {"1": "black and white of 1 bit", "F": "floating-point samples", "I": "32-bit samples"}.get(
            image.mode, image.mode
        )
        raise SMNetError(f"is {what}; convert it to gray or RGB of 8 or 16 bits first")


def as_stored(image: TiffImagePlugin.TiffImageFile, orientation: int) -> TiffImagePlugin.TiffImageFile:
    """A TIFF file's image as it lies in the file: Pillow has turned it upright and dropped the tag."""
    turn = Image.Transpose
    undo = {2: turn.FLIP_LEFT_RIGHT, 3: turn.ROTATE_180, 4: turn.FLIP_TOP_BOTTOM, 5: turn.TRANSPOSE, 6: turn.ROTATE_90,
            7: turn.TRANSVERSE, 8: turn.ROTATE_270}.get(orientation)  # fmt: skip
    if undo is not None:
        image.im = image.im.transpose(undo)
        image._size = image.im.size
    image.tag_v2[ORIENTATION] = orientation
    return image


def to_photo(image: Image.Image, data: bytes) -> Photo:
    """A loaded image and the bytes it comes from -> Photo."""
    kind = "JPEG" if image.format == "MPO" else image.format
    info, notes = image.info, []
    keep = {key: info[key] for key in ("exif", "icc_profile", "dpi", "xmp", "comment") if info.get(key)}
    if image.format == "MPO":
        notes.append("the previews behind its first picture are left out")
    if kind == "JPEG":
        keep["progressive"] = bool(info.get("progressive"))
        sampling = JpegImagePlugin.get_sampling(image)
        if image.mode == "RGB" and sampling >= 0:
            keep["subsampling"] = sampling
    if kind == "WEBP":
        keep["lossless"] = b"VP8L" in data[:64] or (b"VP8X" in data[:16] and b"VP8 " not in data)
    tags = None
    if kind == "TIFF":
        tags = image.tag_v2
        keep = {"compression": info["compression"] if info.get("compression") in TIFF_LOSSLESS else "tiff_adobe_deflate"}
    photo = Photo(np.empty(0), None, kind, save=keep, notes=notes, tiff_tags=tags)
    if kind == "PNG":
        photo.png_chunks = b"".join(chunk for name, chunk in chunks_of(data) if name in PNG_CHUNKS)
    if is_16_bit(image, data):
        samples = read_16_bit(image, data)
        if tags is not None and any(tag in tags for tag in SUB_FOLDERS):
            notes.append("its EXIF and GPS folders cannot be kept in a TIFF of 16 bits")
        if kind == "PNG" and samples.shape[2] == 2:
            notes.append("it is gray with alpha of 16 bits, and becomes RGBA")
    else:
        samples, photo.palette = read_8_bit(image, notes)
    colours = 1 if samples.shape[2] < 3 else 3
    photo.pixels = np.ascontiguousarray(samples[:, :, :colours])
    photo.alpha = np.ascontiguousarray(samples[:, :, colours]) if samples.shape[2] > colours else None
    return photo


def is_16_bit(image: Image.Image, data: bytes) -> bool:
    """Whether the file has 16 bits a sample, which Pillow shows as 8 where it is RGB."""
    if image.format == "PNG":
        return data[24] == 16
    return image.format == "TIFF" and 16 in np.atleast_1d(image.tag_v2.get(258, 8))


def read_8_bit(image: Image.Image, notes: list[str]) -> tuple[np.ndarray, bool]:
    """(uint8 (H, W, 1 to 4), whether it has a palette that is to be kept)."""
    palette = image.mode == "P"
    if image.mode in ("P", "PA"):
        transparent = image.mode == "PA" or "transparency" in image.info
        if transparent:
            palette = False
            notes.append("it has a palette with transparency, and becomes RGBA")
        image = image.convert("RGBA" if transparent else "RGB")
    elif "transparency" in image.info:  # one colour of it is
        image = image.convert({"L": "LA", "RGB": "RGBA"}.get(image.mode, image.mode))
    elif image.mode == "RGBX":
        image = image.convert("RGB")
    samples = np.asarray(image)
    return samples if samples.ndim == 3 else samples[:, :, None], palette


def read_16_bit(image: Image.Image, data: bytes) -> np.ndarray:
    """uint16 (H, W, 1, 3 or 4) of a PNG or TIFF file."""
    if image.format == "TIFF":
        try:
            samples = tifffile.imread(io.BytesIO(data))
            if image.tag_v2.get(284, 1) == 2 and samples.ndim == 3:  # one plane after the other
                samples = samples.transpose(1, 2, 0)
        except Exception as error:  # compressed in a way that needs another package
            if image.tag_v2.get(ORIENTATION, 1) != 1:  # OpenCV turns the picture
                raise SMNetError(f"its 16-bit samples cannot be read ({error})") from None
            samples = decode_by_opencv(data)
        if image.tag_v2.get(262) == 0:
            raise SMNetError("is a 16-bit TIFF file whose white is 0; convert it first")
    else:
        samples = decode_by_opencv(data)
        if data[25] == 4:  # gray with alpha, which OpenCV gives as four channels
            samples = samples[:, :, 2:]
    if samples.ndim == 2:
        samples = samples[:, :, None]
    if samples.dtype != np.uint16 or samples.shape[2] not in (1, 2, 3, 4):
        raise SMNetError(f"has {samples.dtype} samples in {samples.shape[2]} channels, which cannot be read")
    return samples


def decode_by_opencv(data: bytes) -> np.ndarray:
    """Samples as they are, in the order RGB(A)."""
    samples = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if samples is None:
        raise SMNetError("is damaged")
    if samples.ndim == 3:
        samples = cv2.cvtColor(samples, cv2.COLOR_BGRA2RGBA if samples.shape[2] == 4 else cv2.COLOR_BGR2RGB)
    return samples


# ------------------------------------------------------------------------------------------------------------- writing


def write_photo(path: str | Path, photo: Photo, pixels: np.ndarray, *, quality: int = 95) -> None:
    """Write `pixels`, of the shape and type of `photo.pixels`, with all else that `photo` holds; never half-written.

    The format is that of the file name's ending. `quality` is that of JPEG and lossy WebP, 1 to 100.

    Raises:
        SMNetError: the format cannot hold such a picture, or the file cannot be written.
    """
    kind = FORMATS.get(Path(path).suffix.lower())
    if kind is None:
        raise SMNetError(f"{path}: pictures are written as {', '.join(FORMATS)}")
    if pixels.dtype == np.uint16 and kind not in ("PNG", "TIFF"):
        raise SMNetError(f"{path}: {kind} cannot hold 16 bits a sample; give a .png or .tif name")
    if photo.alpha is not None and kind in ("JPEG", "GIF"):
        raise SMNetError(f"{path}: {kind} cannot hold this transparency; give a .png name")
    if photo.alpha is not None:
        pixels = np.dstack([pixels, photo.alpha])
    try:
        if kind == "PNG":
            encoded = as_png(photo, pixels)
        elif kind == "TIFF" and pixels.dtype == np.uint16:
            encoded = as_16_bit_tiff(photo, pixels)
        else:
            encoded = by_pillow(photo, pixels, kind, quality)
    except (OSError, ValueError, KeyError) as error:
        raise SMNetError(f"{path}: cannot be written as {kind} ({error})") from None
    with replacing(path) as temporary:
        temporary.write_bytes(encoded)


def to_image(photo: Photo, pixels: np.ndarray) -> Image.Image:
    """uint8 (H, W, 1 to 4) -> Pillow's image, with a palette where the photo had one."""
    image = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
    if photo.palette:
        image = image.quantize(256, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    return image


def by_pillow(photo: Photo, pixels: np.ndarray, kind: str, quality: int) -> bytes:
    """Encode 8 bits."""
    options = dict(photo.save)
    if kind == "TIFF" and photo.tiff_tags is not None:
        options["tiffinfo"] = picture_tags(photo.tiff_tags)
    elif kind != "TIFF":
        options.pop("compression", None)
    if kind in ("JPEG", "WEBP"):
        options["quality"] = quality
    buffer = io.BytesIO()
    to_image(photo, pixels).save(buffer, kind, **options)
    return buffer.getvalue()


def as_png(photo: Photo, pixels: np.ndarray) -> bytes:
    """Encode, and take over what the source file said of the picture."""
    if pixels.dtype == np.uint16:
        if pixels.shape[2] == 2:  # gray with alpha, which OpenCV has no way to write
            pixels = pixels[:, :, [0, 0, 0, 1]]
        order = {1: [0], 3: [2, 1, 0], 4: [2, 1, 0, 3]}[pixels.shape[2]]
        data = cv2.imencode(".png", pixels[:, :, order])[1].tobytes()
    else:
        buffer = io.BytesIO()
        to_image(photo, pixels).save(buffer, "PNG")
        data = buffer.getvalue()
    kept = photo.png_chunks
    if kept is None:  # from another format: what Pillow makes of it
        tiny = io.BytesIO()
        options = {key: value for key, value in photo.save.items() if key in ("exif", "icc_profile", "dpi")}
        if photo.tiff_tags is not None:
            options = {"icc_profile": photo.tiff_tags.get(ICC)}
        Image.new("L", (1, 1)).save(tiny, "PNG", **options)
        kept = b"".join(chunk for name, chunk in chunks_of(tiny.getvalue()) if name in PNG_CHUNKS)
    header = 8 + 25  # signature and IHDR
    return data[:header] + kept + data[header:]


def chunks_of(png: bytes) -> list[tuple[bytes, bytes]]:
    """(name, whole chunk) of a PNG file, in its order."""
    found, at = [], 8
    while at + 12 <= len(png):
        end = at + 12 + struct.unpack(">I", png[at : at + 4])[0]
        found.append((png[at + 4 : at + 8], png[at:end]))
        at = end
    return found


def picture_tags(tags: TiffImagePlugin.ImageFileDirectory_v2) -> TiffImagePlugin.ImageFileDirectory_v2:
    """The TIFF tags that say something of the picture, sub-folders (EXIF, GPS) with them."""
    kept = TiffImagePlugin.ImageFileDirectory_v2()
    for tag, value in tags.items():
        if tag not in TIFF_LAYOUT:
            kept.tagtype[tag] = tags.tagtype[tag]
            kept[tag] = value
    return kept


def as_16_bit_tiff(photo: Photo, pixels: np.ndarray) -> bytes:
    """Encode with tifffile, which keeps all tags but EXIF's sub-folders."""
    options: dict = {"compression": "zlib", "predictor": True, "metadata": None, "software": False}
    extra = []
    tags = photo.tiff_tags if photo.tiff_tags is not None else {}
    if ICC in tags:
        options["iccprofile"] = tags[ICC]
    elif photo.save.get("icc_profile"):
        options["iccprofile"] = photo.save["icc_profile"]
    if all(tag in tags for tag in RESOLUTION):
        options |= {"resolution": tuple(float(tags[tag]) for tag in RESOLUTION[:2]), "resolutionunit": tags[RESOLUTION[2]]}
    for tag, value in tags.items():
        if tag in TIFF_LAYOUT or tag in (ICC, *RESOLUTION, *SUB_FOLDERS):
            continue
        if isinstance(value, str):
            extra.append((tag, 2, 0, value, True))
        elif isinstance(value, bytes):
            extra.append((tag, 1, len(value), value, True))
        elif isinstance(value, int):
            extra.append((tag, tags.tagtype[tag], 1, value, True))
    alpha = pixels.shape[2] in (2, 4)
    buffer = io.BytesIO()
    tifffile.imwrite(
        buffer, pixels if pixels.shape[2] > 1 else pixels[:, :, 0], photometric="rgb" if pixels.shape[2] > 2 else "minisblack",
        planarconfig="contig" if pixels.shape[2] > 1 else None, extrasamples=["unassalpha"] if alpha else None, extratags=extra,
        **options,
    )  # fmt: skip
    return buffer.getvalue()
