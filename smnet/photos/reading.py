"""Users' picture files, read by what they are, with all that writing.py needs to write them as they
were.

photo = read_photo("holiday/beach.tif")
"""

import stat
import warnings
from collections.abc import Callable
from pathlib import Path

from PIL import UnidentifiedImageError

from smnet.photos.jpeg import read_jpeg
from smnet.photos.kinds import find_format, unknown
from smnet.photos.photo import Photo
from smnet.photos.pillow import new_photo, open_image, take_samples
from smnet.photos.png import read_png
from smnet.photos.tiff import read_tiff
from utils import SMNetError


def read_photo(path: str | Path) -> Photo:
    """Read a PNG, JPEG, TIFF, BMP, WebP or GIF file of one gray or RGB picture.

    Raises:
        SMNetError: the file cannot be read, or is none of these; one line that names it.
    """
    data = read_file(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd metadata
            return READERS[find_format(data)](data)
    except SMNetError as error:
        raise SMNetError(f"{path}: {error}") from None
    except UnidentifiedImageError:
        raise SMNetError(f"{path}: {unknown()}") from None
    except MemoryError:
        raise SMNetError(f"{path}: does not fit into memory") from None
    except Exception as error:  # the readers raise many kinds on damaged files
        reason = " ".join(str(error).split()) or type(error).__name__
        raise SMNetError(f"{path}: is damaged ({reason})") from None


def read_file(path: str | Path) -> bytes:
    """The bytes of a picture file.

    Raises:
        SMNetError: it cannot be read, or is empty; one line that names it.
    """
    try:
        if not stat.S_ISREG(Path(path).stat().st_mode):  # a pipe would be waited for
            raise SMNetError(f"{path}: is not a file")
        data = Path(path).read_bytes()
    except OSError as error:
        raise SMNetError(f"{path}: {error.strerror or error}") from None
    if not data:
        raise SMNetError(f"{path}: is empty")
    return data


def read_simple(data: bytes) -> Photo:
    """A BMP or GIF file's picture."""
    with open_image(data) as image:
        image.load()
        photo = new_photo(image, image.format)
        take_samples(photo, image)
    return photo


def read_webp(data: bytes) -> Photo:
    """A WebP file's picture."""
    photo = read_simple(data)
    extended = b"VP8X" in data[:16] and b"VP8 " not in data
    photo.encoding["lossless"] = b"VP8L" in data[:64] or extended
    return photo


READERS: dict[str, Callable[[bytes], Photo]] = {
    "PNG": read_png,
    "JPEG": read_jpeg,
    "TIFF": read_tiff,
    "WEBP": read_webp,
    "BMP": read_simple,
    "GIF": read_simple,
}
