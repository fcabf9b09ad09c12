"""A user's picture in memory, with all that it takes to write it as it was."""

import contextlib
import dataclasses
from typing import Literal

import numpy as np
import torch
from PIL import Image, TiffImagePlugin, TiffTags
from torch import Tensor

MAX_PIXELS = 250_000_000  # larger pictures are refused
# The formats that can be read and written, by the ending of a file's name.
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
OTHERS = tuple(
    ".heic .heif .avif .jxl .jp2 .psd .ppm .pgm .tga .exr .raw .dng .cr2 .cr3 .nef .arw .orf .raf"
    " .rw2 .pef .srw".split()
)
# What a photo's metadata are called in messages.
WORDS = {
    "exif": "EXIF",
    "icc_profile": "colour profile",
    "dpi": "resolution",
    "xmp": "XMP",
    "comment": "comment",
}
# Tags of EXIF and TIFF
ORIENTATION = 274
RESOLUTION = (282, 283, 296)  # horizontal, vertical, unit
XMP, ICC = 700, 34675
EXIF_IFD, GPS_IFD = 34665, 34853
SUB_IFDS = (EXIF_IFD, GPS_IFD)
INTEROPERABILITY_IFD = 40965  # a pointer in EXIF's, often to nowhere
# Those of a TIFF file's tags that other files have in their EXIF.
EXIF_TAGS = (270, 271, 272, ORIENTATION, 305, 306, 315, 33432)

# EXIF's owner, serial number, lens maker and lens model: Pillow lacks their type.
for text_tag in (42032, 42033, 42035, 42036):
    TiffTags.TAGS_V2_GROUPS[EXIF_IFD][text_tag] = TiffTags.TagInfo(text_tag, "text", TiffTags.ASCII)


AlphaType = Literal["straight", "premultiplied", "unknown"]


@dataclasses.dataclass
class Photo:
    """A picture file's content; samples are as they lie in the file, orientation not applied."""

    pixels: np.ndarray  # (H, W, 1) gray or (H, W, 3) RGB, uint8 or uint16
    alpha: np.ndarray | None  # (H, W) of the same type
    format: str  # as Pillow calls it
    # What the alpha channel is: "premultiplied" colours hold it as a factor (TIFF's associated
    # alpha), "unknown" is a fourth channel of which the file does not say what it is.
    alpha_type: AlphaType = "straight"
    palette: bool = False  # whether the file has one, of at most 256 colours
    # exif, icc_profile, dpi, xmp and comment, as Pillow's save() takes them
    metadata: dict = dataclasses.field(default_factory=dict)
    # what else it takes to write the same format as before
    encoding: dict = dataclasses.field(default_factory=dict)
    png_chunks: bytes = b""  # those that describe the picture or its colours
    tiff_tags: TiffImagePlugin.ImageFileDirectory_v2 | None = None
    notes: list[str] = dataclasses.field(default_factory=list)  # what cannot be kept

    @property
    def white(self) -> int:
        """The value of white: 255 or 65535."""
        return int(np.iinfo(self.pixels.dtype).max)

    @property
    def profile_space(self) -> bytes:
        """What its colour profile is for, as ICC writes it: b"GRAY", b"RGB ", ...; else b""."""
        return self.metadata.get("icc_profile", b"")[16:20]

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

    def straight_pixels(self) -> np.ndarray:
        """`pixels` of full opacity: colours that hold alpha as a factor are divided by it."""
        if self.alpha is None or self.alpha_type != "premultiplied":
            return self.pixels
        alpha = self.alpha[:, :, None].astype(np.float64)
        straight = np.divide(
            self.pixels * float(self.white), alpha, out=np.zeros(self.pixels.shape), where=alpha > 0
        )
        return straight.round().clip(0, self.white).astype(self.pixels.dtype)


def upright(samples: np.ndarray, orientation: int) -> np.ndarray:
    """(H, W, ...) as it lies in a file of EXIF orientation 1 to 8 -> as it is to be seen."""
    turned = np.rot90(samples, {3: 2, 4: 2, 5: -1, 6: -1, 7: 1, 8: 1}.get(orientation, 0))
    return turned[:, ::-1] if orientation in (2, 4, 5, 7) else turned


def split_alpha(samples: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """(H, W) or (H, W, 1 to 4) -> gray or RGB (H, W, 1 or 3), and alpha (H, W) or None."""
    if samples.ndim == 2:
        samples = samples[:, :, None]
    colours = 1 if samples.shape[2] < 3 else 3
    pixels = np.ascontiguousarray(samples[:, :, :colours])
    if samples.shape[2] == colours:
        return pixels, None
    return pixels, np.ascontiguousarray(samples[:, :, colours])


def is_gray(samples: np.ndarray) -> bool:
    """Whether RGB (H, W, 3 or 4) holds nothing but grays."""
    red, green, blue = (samples[:, :, channel] for channel in range(3))
    return np.array_equal(red, green) and np.array_equal(red, blue)


def to_tensor(photo: Photo) -> Tensor:
    """The samples as float32 (C, H, W) in [0, 1]."""
    samples = torch.from_numpy(photo.pixels.astype(np.float32)).permute(2, 0, 1)
    return samples.contiguous().div_(photo.white)


def as_shown(picture: Tensor, photo: Photo) -> Tensor:
    """(C, H, W) as it lies in the file -> turned as its EXIF says."""
    turned = upright(picture.permute(1, 2, 0).numpy(), photo.orientation)
    return torch.from_numpy(np.ascontiguousarray(turned.transpose(2, 0, 1)))


def to_samples(picture: Tensor, photo: Photo) -> np.ndarray:
    """(C, H, W) in about [0, 1] -> samples (H, W, C) of the photo's type, clamped and rounded.

    Colours that hold alpha as a factor stay at most alpha, or as they were where they exceeded it.
    """
    levels = picture.clamp(0, 1).mul_(photo.white).round_().permute(1, 2, 0).numpy()
    samples = np.ascontiguousarray(levels.astype(photo.pixels.dtype))
    if photo.alpha is not None and photo.alpha_type == "premultiplied":
        highest = np.maximum(photo.alpha[:, :, None], photo.pixels)
        np.minimum(samples, highest, out=samples)
    return samples
