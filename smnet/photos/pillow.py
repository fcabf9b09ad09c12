"""Pictures that Pillow decodes and encodes: checks, samples of 8 bits, palettes."""

import io
import warnings

import numpy as np
from PIL import Image

from smnet.photos.metadata import without_exif_thumbnail
from smnet.photos.photo import FORMATS, MAX_PIXELS, Photo, is_gray, split_alpha
from utils import SMNetError

Image.MAX_IMAGE_PIXELS = None  # the limit here is MAX_PIXELS, and its message says more
warnings.filterwarnings("ignore", module="PIL")  # of odd metadata
READABLE_MODES = ("L", "LA", "RGB", "RGBA", "P", "PA", "I;16", "I;16B", "I;16L")
MODES = {
    "1": "black and white of 1 bit",
    "F": "of floating-point samples",
    "I": "of 32-bit samples",
}


def open_image(data: bytes) -> Image.Image:
    """A file of one picture, its samples not yet decoded.

    Raises:
        SMNetError: it holds several pictures, or one that cannot be denoised.
    """
    image = Image.open(io.BytesIO(data))
    if image.format not in (*FORMATS.values(), "MPO"):
        raise SMNetError(f"is {image.format}, which cannot be read")
    check_size(image.width, image.height)
    # MPO: a JPEG file with previews behind it
    if image.format != "MPO" and (frames := getattr(image, "n_frames", 1)) > 1:
        raise several_pictures(frames)
    if image.mode not in READABLE_MODES:
        found = MODES.get(image.mode, image.mode)
        raise SMNetError(f"is {found}; convert it to gray or RGB of 8 or 16 bits first")
    return image


def check_size(width: int, height: int) -> None:
    """Raise for a picture that is too large."""
    if width * height > MAX_PIXELS:
        limit = MAX_PIXELS // 1_000_000
        raise SMNetError(f"has {width}x{height} pixels, above {limit} megapixels; cut it up")


def several_pictures(count: int) -> SMNetError:
    """The error for a file of more than one picture."""
    frames = f"{count} frames or pages"
    return SMNetError(f"holds {count} pictures ({frames}); save the one to denoise by itself")


def new_photo(image: Image.Image, file_format: str) -> Photo:
    """A photo of a loaded image's metadata, without a thumbnail; its samples are still to come."""
    keys = ("exif", "icc_profile", "dpi", "xmp", "comment")
    metadata = {key: image.info[key] for key in keys if image.info.get(key)}
    if "exif" in metadata:
        metadata["exif"] = without_exif_thumbnail(metadata["exif"])
    return Photo(np.empty(0), None, file_format, metadata=metadata)


TRANSPARENT_COLOUR = "one of its colours is transparent: it becomes one with alpha"


def take_samples(photo: Photo, image: Image.Image) -> None:
    """Set the photo's samples and palette from a loaded image of 8 bits, and note what changes."""
    if image.mode in ("P", "PA"):
        transparent = image.mode == "PA" or "transparency" in image.info
        samples = np.asarray(image.convert("RGBA" if transparent else "RGB"))
        photo.palette = not transparent or image.format == "GIF"
        # A palette of grays is a gray picture, but a profile for RGB goes with RGB or a palette.
        if is_gray(samples) and (photo.palette or photo.profile_space != b"RGB "):
            samples = samples[:, :, [0, 3] if transparent else [0]]
        if not photo.palette:
            kind = "gray with alpha" if samples.shape[2] == 2 else "RGBA"
            photo.notes.append(f"it has a palette with transparency, and becomes {kind}")
    elif "transparency" in image.info:
        photo.notes.append(TRANSPARENT_COLOUR)
        samples = np.asarray(image.convert({"L": "LA", "RGB": "RGBA"}.get(image.mode, image.mode)))
    else:
        samples = np.asarray(image)
    photo.pixels, photo.alpha = split_alpha(samples)


def to_image(photo: Photo, pixels: np.ndarray) -> Image.Image:
    """uint8 (H, W, 1 to 4) -> Pillow's image, with a palette where the photo has one and its format
    takes it."""
    if not photo.palette or photo.format in ("JPEG", "WEBP"):
        return Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
    if pixels.shape[2] == 1:
        image = Image.fromarray(pixels[:, :, 0])
        image.putpalette(np.arange(256).repeat(3).tolist())
        return image
    if pixels.shape[2] == 2:  # of GIF
        pixels = pixels[:, :, [0, 0, 0, 1]]
    clear = pixels[:, :, 3] < 128 if pixels.shape[2] == 4 else None
    image = Image.fromarray(np.ascontiguousarray(pixels[:, :, :3])).quantize(
        256 if clear is None else 255, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE
    )
    return image if clear is None else with_transparency(image, clear)


def with_transparency(image: Image.Image, clear: np.ndarray) -> Image.Image:
    """A palette image of at most 255 colours, transparent where `clear` is true."""
    transparent = Image.fromarray(np.where(clear, 255, np.asarray(image)).astype(np.uint8))
    transparent.putpalette((image.getpalette() + [0] * 768)[:768])
    transparent.info["transparency"] = 255
    return transparent
