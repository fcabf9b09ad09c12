"""TIFF files, read by tifffile: planes, tiles, predictors, codecs, byte orders, few bits."""

import contextlib
import io
import itertools
import logging
import math
from typing import cast

import numpy as np
import tifffile
from PIL import Image, TiffImagePlugin

from smnet.photos.kinds import RAW, foreign
from smnet.photos.metadata import in_bytes, without_photoshop_thumbnails
from smnet.photos.photo import (
    EXIF_TAGS,
    ICC,
    INTEROPERABILITY_IFD,
    MAX_PIXELS,
    RESOLUTION,
    SUB_IFDS,
    XMP,
    AlphaType,
    Photo,
    is_gray,
    split_alpha,
)
from smnet.photos.pillow import check_size, several_pictures
from utils import SMNetError

PHOTOSHOP_RESOURCES, PHOTOSHOP_LAYERS = 34377, 37724  # tags
IPTC, UNDEFINED = 33723, 7  # a tag, and the type of its bytes
PHOTOMETRIC, DNG_VERSION = 262, 50706
WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, YCBCR = 0, 1, 2, 3, 6  # values of PHOTOMETRIC
SENSOR = (32803, 34892)  # a colour filter array, linear camera raw
COLOURS = {4: "a transparency mask", 5: "CMYK", YCBCR: "YCbCr", 8: "LAB", 9: "LAB", 10: "LAB"}
JPEG = 7  # a compression
LOSSLESS = (1, 5, 8, 32773, 32946, 34925, 50000)  # none, LZW, Deflate, PackBits, ..., LZMA, zstd
ADOBE_DEFLATE = 8
SIGNED, FLOAT = 2, 3  # values of SampleFormat
ALPHA_TYPES: dict[int, AlphaType] = {1: "premultiplied", 2: "straight"}  # by ExtraSamples
MAX_PAGES = 100  # looked at, to find the picture among previews

logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # its errors reach us as exceptions


def read_tiff(data: bytes) -> Photo:
    """A TIFF file's picture."""
    with tifffile.TiffFile(io.BytesIO(data)) as tiff:
        page, previews = find_picture(tiff)
        check_page(page)
        check_size(page.imagewidth, page.imagelength)
        check_segments(page, len(data))
        photo = Photo(np.empty(0), None, "TIFF")
        if previews:
            photo.notes.append("the smaller previews beside it are left out")
        take_tags(photo, page, data)
        take_samples(photo, page)
    kept = int(page.compression) in LOSSLESS
    photo.encoding["compression"] = int(page.compression) if kept else ADOBE_DEFLATE
    return photo


def find_picture(tiff: tifffile.TiffFile) -> tuple[tifffile.TiffPage, int]:
    """The page of the one picture in full size, and the number of previews and masks beside it.

    Raises:
        SMNetError: camera raw, or several pictures.
    """
    pages = cast(list[tifffile.TiffPage], [*itertools.islice(tiff.pages, MAX_PAGES)])
    if not pages:
        raise SMNetError("is a TIFF file without a picture")
    if any(is_camera_raw(each) for page in pages for each in (page, *(page.pages or ()))):
        raise foreign(RAW)
    full = [page for page in pages if not is_preview(page)] or pages[:1]
    if len(full) > 1:
        raise several_pictures(len(tiff.pages) - (len(pages) - len(full)))
    page, stacked = full[0], 1
    with contextlib.suppress(Exception):  # of odd descriptions
        stacked = tiff.series[0].size // page.size  # as ImageJ's, which have one page
    if stacked > 1:
        raise several_pictures(stacked)
    return page, len(pages) - 1 + len(page.pages or ())


def is_preview(page: tifffile.TiffPage) -> bool:
    """Whether a page is a smaller version of another, or a mask."""
    return bool(page.subfiletype & 0b101) or page.tags.valueof(255) == 2


def is_camera_raw(page: tifffile.TiffPage) -> bool:
    return page.photometric in SENSOR or DNG_VERSION in page.tags


def check_page(page: tifffile.TiffPage) -> None:
    """Raise SMNetError for pictures that cannot be denoised, and say why."""
    channels = page.samplesperpixel
    bits = page.bitspersample
    if page.imagedepth > 1:
        raise several_pictures(page.imagedepth)
    if page.sampleformat == FLOAT:
        count = f"{channels} channel{'s' * (channels > 1)}"
        raise SMNetError(
            f"has float{bits} samples in {count}, which are floating-point numbers;"
            " convert it to 8 or 16 bits first"
        )
    if page.sampleformat == SIGNED:
        raise SMNetError(f"has signed {bits}-bit samples; convert it to unsigned ones first")
    if page.sampleformat != 1:
        raise SMNetError("has complex or untyped samples; convert it to 8 or 16 bits first")
    if bits == 1 and page.photometric != PALETTE:
        raise SMNetError("is black and white of 1 bit; convert it to gray of 8 bits first")
    if bits == 32:
        raise SMNetError("has 32-bit samples; convert it to 8 or 16 bits first")
    if bits not in ((1, 2, 4, 8) if page.photometric == PALETTE else (2, 4, 8, 16)):
        raise SMNetError(f"has {bits} bits a sample; convert it to 8 or 16 bits first")
    check_colours(page)


def check_colours(page: tifffile.TiffPage) -> None:
    """Raise SMNetError for what is neither gray, RGB nor of a palette."""
    photometric, channels = page.photometric, page.samplesperpixel
    if PHOTOMETRIC not in page.tags:
        raise SMNetError("does not say whether it is gray or RGB; save it anew")
    if photometric == YCBCR and page.compression == JPEG and page.planarconfig == 1:
        photometric = RGB  # the decoder converts it
    if photometric not in (WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE):
        found = COLOURS.get(photometric, f"of photometric interpretation {photometric:d}")
        raise SMNetError(f"is {found}; convert it to gray or RGB first")
    colours = 3 if photometric == RGB else 1
    if channels < colours or (colours == 1 and channels > 2):
        what = "RGB" if colours == 3 else "not RGB"
        raise SMNetError(
            f"has {channels} channels that are {what}; convert it to gray or RGB first"
        )


def check_segments(page: tifffile.TiffPage, size: int) -> None:
    """Raise SMNetError where strips or tiles are missing, which tifffile takes for black, or so
    large that they can only be damage."""
    offsets = page.tags.valueof(324) or page.tags.valueof(273) or ()
    counts = page.tags.valueof(325) or page.tags.valueof(279)
    expected = math.prod(page.chunked)
    # What is cut off, the other codecs miss: JPEG's makes it up.
    whole = page.compression == JPEG and counts is not None
    usable = sum(
        0 < start < size and count > 0 and not (whole and start + count > size)
        for start, count in zip(offsets, counts or (size,) * len(offsets))
    )
    if usable < expected or len(offsets) < expected:
        raise SMNetError("is damaged (some of its samples are missing)")
    if page.is_tiled and page.tilewidth * page.tilelength > MAX_PIXELS:
        raise SMNetError(f"is damaged (it has tiles of {page.tilewidth}x{page.tilelength} pixels)")


def take_samples(photo: Photo, page: tifffile.TiffPage) -> None:
    """Set pixels, alpha and palette."""
    planes, _, height, width, contiguous = page.shaped
    samples = page.asarray(squeeze=False, maxworkers=1)
    samples = samples.reshape(planes, height, width, contiguous).transpose(1, 2, 0, 3)
    samples = samples.reshape(height, width, planes * contiguous)
    bits = page.bitspersample
    if page.photometric == PALETTE:
        photo.palette = True
        photo.pixels = look_up(samples[:, :, 0], page)
        if samples.shape[2] > 1:
            photo.notes.append("the channel beside its palette is left out")
        return
    if bits < 8:
        samples = samples * np.uint8(255 // (2**bits - 1))
    colours = 1 if page.photometric in (WHITE_IS_ZERO, BLACK_IS_ZERO) else 3
    if page.photometric == WHITE_IS_ZERO:
        samples[:, :, 0] = np.iinfo(samples.dtype).max - samples[:, :, 0]
    extra = find_alpha(page, samples.shape[2] - colours)
    left = samples.shape[2] - colours - (extra is not None)
    if left:
        those = f"{left} of its {samples.shape[2]} channels {'are' if left > 1 else 'is'}"
        photo.notes.append(f"{those} left out")
    kept = [*range(colours), *([] if extra is None else [colours + extra])]
    photo.pixels, photo.alpha = split_alpha(samples[:, :, kept])
    if extra is not None:
        photo.alpha_type = ALPHA_TYPES.get(said(page, extra), "unknown")


def said(page: tifffile.TiffPage, extra: int) -> int:
    """What the file says that an extra channel is, in the numbers of ExtraSamples."""
    return int(page.extrasamples[extra]) if extra < len(page.extrasamples) else 0


def find_alpha(page: tifffile.TiffPage, extras: int) -> int | None:
    """Which of the channels behind the colours is alpha, or may be: the first that is said to be,
    else the only one there is."""
    alphas = [extra for extra in range(extras) if said(page, extra) in ALPHA_TYPES]
    return alphas[0] if alphas else 0 if extras == 1 else None


def look_up(indices: np.ndarray, page: tifffile.TiffPage) -> np.ndarray:
    """(H, W) in a palette -> uint8 (H, W, 3), or (H, W, 1) where it holds only grays."""
    colours: np.ndarray = np.asarray(page.colormap).T  # 16 bits each
    if colours.max() > 255:  # else written by programs that took them for 8 bits
        colours = colours >> 8
    pixels = colours.astype(np.uint8)[indices]
    return np.ascontiguousarray(pixels[:, :, :1]) if is_gray(pixels) else pixels


# --------------------------------------------------------------------------------------------- tags


def take_tags(photo: Photo, page: tifffile.TiffPage, data: bytes) -> None:
    """Set tags and metadata, read by Pillow: EXIF in other formats is written by it."""
    tags = read_directory(data, page.offset)
    if isinstance(captions := page.tags.valueof(IPTC), bytes):
        # Where they are stored as 32-bit integers, which is usual, Pillow keeps only the first.
        tags.tagtype[IPTC], tags[IPTC] = UNDEFINED, captions
    if tags.pop(PHOTOSHOP_LAYERS, None):
        photo.notes.append("its Photoshop layers are left out")
    resources = tags.pop(PHOTOSHOP_RESOURCES, None)
    if isinstance(resources, bytes) and (left := without_photoshop_thumbnails(resources)):
        tags[PHOTOSHOP_RESOURCES] = left
    photo.tiff_tags = tags
    for tag, key in ((ICC, "icc_profile"), (XMP, "xmp")):
        if isinstance(tags.get(tag), bytes):
            photo.metadata[key] = tags[tag]
    with contextlib.suppress(Exception):  # 0/0
        across, down = (float(tags[tag]) for tag in RESOLUTION[:2])
        unit = {2: 1, 3: 2.54}.get(tags.get(RESOLUTION[2], 2))  # inches and centimetres
        if unit and math.isfinite(across) and math.isfinite(down) and across > 0 < down:
            photo.metadata["dpi"] = across * unit, down * unit
    if len(exif := find_exif(tags, data)):
        photo.metadata["exif"] = exif.tobytes()


def read_directory(
    data: bytes, offset: int, *, group: int | None = None
) -> TiffImagePlugin.ImageFileDirectory_v2:
    """The tags at `offset` of a TIFF file; `group` is the tag that points there."""
    header = data[: 16 if data[2] == 43 else 8]
    tags = TiffImagePlugin.ImageFileDirectory_v2(header, group=group)
    tags._bigtiff = b"+" in data[:4]  # Pillow overlooks it where the byte order is big-endian
    file = io.BytesIO(data)
    file.seek(offset)
    tags.load(file)
    return tags


def find_exif(tags: TiffImagePlugin.ImageFileDirectory_v2, data: bytes) -> Image.Exif:
    """What other files have in their EXIF: a TIFF file has it among its tags, or in folders of its
    own."""
    exif = Image.Exif()
    for tag in EXIF_TAGS:
        with contextlib.suppress(Exception):  # a damaged value
            if tag in tags:
                exif[tag] = in_bytes(tags[tag])
    for tag in SUB_IFDS:
        with contextlib.suppress(Exception):  # a damaged folder
            folder = read_directory(data, tags[tag], group=tag)
            exif[tag] = {
                key: in_bytes(value) for key, value in folder.items() if key != INTEROPERABILITY_IFD
            }
    return exif
