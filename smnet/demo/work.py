"""What the page of demo.py does with a picture, by the code of denoise.py; no page is needed."""

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import tifffile
import torch
from PIL import Image
from torch import Tensor

from smnet import sheets
from smnet.demo.sessions import Result, Session
from smnet.denoisers import DenoiserCache, remove_noise
from smnet.devices import is_out_of_memory
from smnet.images import to_uint8
from smnet.photos.photo import FORMATS, Photo, as_shown, to_samples, to_tensor
from smnet.photos.reading import read_photo
from smnet.photos.writing import write_photo
from smnet.strength import noise_found, take_out
from smnet.tiling import Denoiser
from utils import COLORS, SMNetError

# The networks to choose from: what the page calls them, and (mode, noiseL) of DenoiserCache.
PHOTOGRAPH = "photograph"
NETWORKS: dict[str, tuple[str | None, float | None]] = {
    PHOTOGRAPH: (None, None),
    "white noise, any level": ("B", None),
    "white noise, sigma 15": ("S", 15),
    "white noise, sigma 25": ("S", 25),
    "white noise, sigma 50": ("S", 50),
}


class Limits(NamedTuple):
    """The largest pictures that are taken."""

    megapixels: float
    megabytes: float  # of the file


class Stopped(Exception):
    """Nobody waits for the result any more."""


class Networks:
    """The networks of `NETWORKS`, read when first needed."""

    def __init__(self, device: torch.device, weights_dir: str):
        self.device, self.weights_dir = device, weights_dir
        self.caches: dict[str, DenoiserCache] = {}

    def get(self, choice: str, channels: int) -> tuple[Denoiser, str]:
        """The denoiser for pictures of 1 or 3 channels, and the name of its weights.

        Raises:
            SMNetError: no such weights.
        """
        mode, noiseL = NETWORKS[choice]
        if choice not in self.caches:
            self.caches[choice] = DenoiserCache(
                self.device, mode=mode, noiseL=noiseL, weights_dir=self.weights_dir
            )
        try:
            return self.caches[choice].get(channels)
        except SMNetError:
            del self.caches[choice]  # which would say less the second time
            raise


# ------------------------------------------------------------------------------- reading, denoising


def open_picture(path: Path, limits: Limits) -> Photo:
    """Read a picture file that is within the limits.

    Raises:
        SMNetError: it cannot be read, or is too large; the line begins with its name.
    """
    try:
        megabytes = path.stat().st_size / 1e6
        if megabytes > limits.megabytes:
            size = f"{megabytes:.1f} MB, above the {limits.megabytes:g} MB"
            raise SMNetError(f"{path}: has {size} that this page takes; use denoise.py")
        check_pixels(path, *picture_size(path), limits)
        photo = read_photo(path)
        check_pixels(path, photo.pixels.shape[1], photo.pixels.shape[0], limits)
        return photo
    except (SMNetError, OSError) as error:
        raise SMNetError(str(error).replace(str(path), path.name)) from None


def check_pixels(path: Path, width: int, height: int, limits: Limits) -> None:
    """Raise for a picture that is too large for the page."""
    if width * height > limits.megapixels * 1e6:
        size = f"{width}x{height} pixels, above the {limits.megapixels:g} megapixels"
        raise SMNetError(f"{path}: has {size} that this page takes; use denoise.py")


def picture_size(path: Path) -> tuple[int, int]:
    """Width and height by a file's header, so that what is too large need not be decoded; (0, 0) if
    it has none that can be read, which `read_photo` explains."""
    with contextlib.suppress(Exception), tifffile.TiffFile(path) as tiff:
        pages = [page.aspage() for page in tiff.pages]  # the first may be a preview
        return max(((p.imagewidth, p.imagelength) for p in pages), key=math.prod)
    with contextlib.suppress(Exception), Image.open(path) as image:
        return image.size
    return 0, 0


def denoise_picture(
    session: Session,
    networks: Networks,
    choice: str,
    limits: Limits,
    on_tile: Callable[[int, int], object],
) -> Result:
    """Denoise the picture of a page, until its `wanted` is false or it has another picture.

    `on_tile(done, tiles)` is called before the first tile and after each.

    Raises:
        SMNetError: it cannot be read or denoised.
        Stopped: it is no longer wanted.
    """
    source = session.source
    check_wanted(session, source)
    start = time.perf_counter()
    photo = open_picture(source, limits)
    noisy = to_tensor(photo)
    denoiser, weights = networks.get(choice, len(noisy))
    tiles, done = len(denoiser.tiles(*noisy.shape[1:])), 0

    def count() -> None:
        nonlocal done
        done += 1
        check_wanted(session, source)
        on_tile(done, tiles)

    on_tile(0, tiles)
    denoised = remove_noise(noisy, denoiser, weights, on_tile=count)
    check_wanted(session, source)
    seconds = time.perf_counter() - start
    return Result(source.name, photo, denoised, denoiser, weights, seconds)


def check_wanted(session: Session, source: Path) -> None:
    """Raise `Stopped` where nobody waits for the result of `source`."""
    if not session.wanted or session.source is not source:
        raise Stopped


@contextlib.contextmanager
def one_line_errors(session: Session) -> Iterator[None]:
    """Turn what can go wrong with a user's picture into `SMNetError`, and all that goes wrong after
    the page was closed into `Stopped`."""
    try:
        yield
    except (SMNetError, OSError, MemoryError, RuntimeError) as error:
        if not session.folder.exists():
            raise Stopped from None
        if is_out_of_memory(error):
            raise SMNetError(
                "the picture does not fit into memory; cut it up or scale it down"
            ) from None
        if isinstance(error, OSError):
            raise SMNetError(f"cannot write the result: {error.strerror or error}") from None
        raise


def describe(result: Result) -> dict[str, str]:
    """What is said of a result beside the pictures, by what it is called."""
    channels, height, width = result.denoised.shape
    bits = result.photo.pixels.itemsize * 8
    return {
        "noise found": f"{noise_found(result.noisy, result.denoised):.1f} grey levels",
        "time": f"{result.seconds:.1f} s",
        "picture": f"{result.name}, {width}x{height} {COLORS[channels]}, {bits} bits",
        "weights": result.weights,
    }


# -------------------------------------------------------------------------------- files to be shown


def show_before(session: Session, result: Result) -> Path:
    """Write the picture as it came, as an upright PNG file of 8 bits."""
    return write_png(session.new_file("before", "before.png"), result.noisy, result.photo)


def show_after(
    session: Session, result: Result, strength: float, chroma: float | None
) -> tuple[Path, Path]:
    """Write the same of the result, for percents as `take_out` takes them, and four times what was
    taken out, about grey."""
    noisy = result.noisy
    output = take_out(noisy, result.denoised, strength=strength, chroma=chroma)
    removed = as_shown((noisy - output) * 4 + 0.5, result.photo)
    return (
        write_png(session.new_file("after", "after.png"), output, result.photo),
        write_png(session.new_file("removed", "removed.png"), removed),
    )


def write_png(path: Path, picture: Tensor, photo: Photo | None = None) -> Path:
    """Write (C, H, W) in about [0, 1] in a photo's colours and turned as its EXIF says, quickly."""
    profile = None
    if photo:
        picture = as_shown(picture, photo)
        profile = photo.metadata.get("icc_profile") if len(picture) == 3 else None
    samples = to_uint8(picture)
    image = Image.fromarray(samples[0] if len(samples) == 1 else samples.transpose(1, 2, 0))
    image.save(path, compress_level=1, icc_profile=profile)
    return path


def save(
    session: Session, result: Result, strength: float, chroma: float | None
) -> tuple[Path, list[str]]:
    """(the file to download, what could not be kept): as denoise.py writes it.

    Raises:
        SMNetError: it cannot be written.
    """
    photo = result.photo
    output = take_out(result.noisy, result.denoised, strength=strength, chroma=chroma)
    path = session.new_file("download", name_of_result(result))
    lost = write_photo(path, photo, to_samples(output, photo))
    return path, [*photo.notes, *lost]


def name_of_result(result: Result) -> str:
    """NAME_denoised, with the ending that the picture had; if that is another format's, with one of
    its own."""
    name, file_format = Path(result.name), result.photo.format
    ending = name.suffix
    if FORMATS.get(ending.lower()) != file_format:
        ending = next(ending for ending, named in FORMATS.items() if named == file_format)
    return f"{name.stem}_denoised{ending}"


def draw_stages(session: Session, result: Result) -> Path:
    """The sheet of denoise.py's --save_stages, as a PNG file."""
    before = as_shown(result.noisy, result.photo)
    sheet = sheets.stages(result.denoiser.model, before)
    path = session.new_file("stages", f"{Path(result.name).stem}_stages.png")
    Image.fromarray(sheet).save(path)
    return path
