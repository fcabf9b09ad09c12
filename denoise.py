"""Denoise your own pictures, of any size, and keep what they are.

    python denoise.py photo.jpg                          # blind network; writes photo_denoised.jpg
    python denoise.py holiday -o clean                   # a folder with all folders in it
    python denoise.py a.png b.tif -o clean --noiseL 25   # the network trained at sigma 25
    python denoise.py photo.jpg --real                   # the network trained on pairs of real noise
    python denoise.py photo.jpg --compare --save_stages  # sheets: before and after, a look inside

Gray pictures go through the gray network and colour ones through the RGB network in weights/, or
where that has none in
pretrained/. 8 or 16 bits, alpha, EXIF, ICC profile, resolution and format stay as they are. Exit
    status: 0, 1 if a picture was
skipped, 2 for wrong arguments.
"""

import argparse
import contextlib
import os
import sys
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

import utils
from smnet import devices, sheets
from smnet.cli import make_parser, number, run_script
from smnet.jobs import Job, find_jobs
from smnet.photos.reading import FORMATS, OTHERS, Photo, read_photo, upright
from smnet.photos.writing import check_format, write_photo
from smnet.tiling import LARGEST, SMALLEST, Denoiser
from smnet.weights import find_model
from utils import SMNetError

# --------------------------------------------------------------------------------------------------
# Defaults; each is also an option of the command line
DEFAULTS = dict(
    noiseL=None,  # sigma that the network was trained at, grey levels; None: the blind network
    weights_dir="weights",  # folder that train_*.py wrote weights to
    memory=None,  # GB that the network may take; None: half of what is free
    tile=None,  # side of the tiles that larger pictures are cut into, pixels; 0: never; None: 640, or less as memory allows
    quality=95,  # of JPEG and lossy WebP files, 1-100
    device="auto",  # auto, cpu, cuda, cuda:1 or mps
)
# --------------------------------------------------------------------------------------------------


def main(argv: list[str] | None = None) -> int:
    """The command; returns 0, or 1 if a picture was skipped."""
    args = parse_args(argv)
    problems: list[str] = []
    others: set[Path] = set()
    jobs = find_jobs(args, problems, others)
    denoisers = DenoiserCache(args)
    done = 0
    try:
        for i, job in enumerate(jobs):
            try:
                line = denoise_file(
                    job, denoisers, args, label=f"{i + 1}/{len(jobs)} {job.source.name}"
                )
                print(one_line(line), flush=True)
                done += 1
            except SMNetError as error:
                problems.append(str(error))
            except (MemoryError, RuntimeError) as error:
                if not devices.is_out_of_memory(error):
                    raise
                problems.append(
                    f"{job.source}: does not fit into memory with all that is asked for; cut it up or scale it down"
                )
    finally:  # on Ctrl-C too
        for problem in problems:
            print(f"skipped: {one_line(problem)}", file=sys.stderr)
    endings = ", ".join(sorted({path.suffix.lower() for path in others}))
    passed = (
        f", passed over {len(others)} of kinds that cannot be read ({endings})" if others else ""
    )
    if problems or others or len(jobs) > 1:
        print(f"denoised {done} picture{'s' * (done != 1)}, skipped {len(problems)}{passed}")
    return 1 if problems else 0


def one_line(text: str) -> str:
    """The names of files may have line breaks."""
    return text.replace("\n", "\\n")


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = make_parser(__doc__)
    option = parser.add_argument
    option(
        "pictures",
        nargs="+",
        metavar="PICTURE|FOLDER",
        help="files, or folders with all below them",
    )
    text = "a folder for the results, or a file where one picture is given (default: NAME_denoised beside each)"
    option("-o", "--output", metavar="OUT", help=text)
    text = "sigma that the network was trained at, grey levels 0-255 (default: the blind network)"
    option("--noiseL", type=number(float, 0, 255), metavar="SIGMA", help=text)
    option(
        "--real",
        action="store_true",
        help="the network trained on pairs of real noise, in place of the blind one",
    )
    text = "the weights to use, ours or the authors'; one file, or one for gray and one for RGB"
    option("--weights", nargs="+", metavar="FILE", help=text)
    option(
        "--weights_dir",
        metavar="DIR",
        help="folder that train_*.py wrote weights to (default: %(default)s, else pretrained/)",
    )
    text = "GB that the network may take: what fits is denoised whole (default: half of what is free, and tiles, which are faster)"
    option("--memory", type=number(float, 0.01), metavar="GB", help=text)
    text = f"side of the tiles that larger pictures are cut into, pixels, at least {SMALLEST}, or 0: never (default: {LARGEST}, "
    text += "or less as the memory allows)"
    option(
        "--tile", type=lambda t: 0 if t == "0" else number(int, SMALLEST)(t), metavar="N", help=text
    )
    text = "of JPEG and lossy WebP files, 1-100 (default: %(default)s)"
    option("--quality", type=number(int, 1, 100), metavar="N", help=text)
    option("--overwrite", action="store_true", help="replace results that are there already")
    option(
        "--compare",
        action="store_true",
        help="write NAME_compare.png beside each: before, after, what was removed",
    )
    text = "write NAME_stages.png beside each: noise mask, residual, output and attention (see the README)"
    option("--save_stages", action="store_true", help=text)
    text = "pixel of the upright picture whose attention --save_stages shows (default: the middle)"
    option("--point", nargs=2, type=number(int, 0), metavar=("ROW", "COLUMN"), help=text)
    option("--device", metavar="NAME", help="auto, cpu, cuda, cuda:1 or mps (default: %(default)s)")
    parser.set_defaults(**DEFAULTS)
    args = parser.parse_args(argv)
    if bool(args.weights) + args.real + (args.noiseL is not None) > 1:
        parser.error("--noiseL, --real and --weights each name a network: give one of them")
    if args.point and not args.save_stages:
        parser.error("--point is for --save_stages")
    ending = Path(args.output or "").suffix.lower()
    if ending and not os.path.isdir(args.output):
        if ending in FORMATS and (len(args.pictures) > 1 or os.path.isdir(args.pictures[0])):
            parser.error(
                f"-o {args.output} names one file, but several pictures are given, or a folder; name a folder by -o"
            )
        if ending not in FORMATS and ending in (*OTHERS, *Image.registered_extensions()):
            parser.error(
                f"-o {args.output}: pictures are written as {', '.join(FORMATS)}; give one, or make the folder"
            )
    return args


class DenoiserCache:
    """The networks for gray and RGB pictures, read when first needed."""

    def __init__(self, args: argparse.Namespace):
        self.args, self.device = args, devices.pick_device(args.device)
        self.found: dict[int, tuple[Denoiser, str] | str] = {}

    def get(self, channels: int) -> tuple[Denoiser, str]:
        """The denoiser for pictures of 1 or 3 channels, and the name of its weights.

        Raises:
            SMNetError: no such weights; the second time in fewer words.
        """
        if channels not in self.found:
            self.found[channels] = "no weights for such pictures, as said before"
            self.found[channels] = self.read(channels)
        found = self.found[channels]
        if isinstance(found, str):
            raise SMNetError(found)
        return found

    def read(self, channels: int) -> tuple[Denoiser, str]:
        """From the disk."""
        args, errors = self.args, []
        for weights in args.weights or [None]:
            try:
                trained = find_model(
                    channels,
                    args.noiseL,
                    real=args.real,
                    weights=weights,
                    weights_dir=args.weights_dir,
                )
                model = trained.model.to(self.device, memory_format=torch.channels_last)
                return Denoiser(model, memory=args.memory, tile=args.tile), str(trained.path)
            except SMNetError as error:
                errors.append(str(error))
        raise SMNetError("; ".join(errors))


def denoise_file(
    job: Job, denoisers: DenoiserCache, args: argparse.Namespace, *, label: str
) -> str:
    """Denoise one file; returns a line that says what was done.

    Raises:
        SMNetError: it cannot be read, denoised or written; the line names it.
    """
    start = time.perf_counter()
    source, target = job.source, job.target
    photo = read_photo(source)
    noisy = to_tensor(photo)
    channels, height, width = noisy.shape
    try:
        file_format = check_format(target, photo)
        if file_format != photo.format and target.suffix.lower() == source.suffix.lower():
            photo.notes.append(
                f"it is a {photo.format} file, and becomes {file_format} as its name says"
            )
        utils.check_target(target)
        for path in (target, *job.sheets.values()):
            check_name(path)
        denoiser, weights = denoisers.get(channels)
        tiles = len(denoiser.tiles(height, width))
        with tqdm(total=tiles, desc=label, unit="tile", leave=False, disable=None) as bar:
            output = denoiser(noisy, on_tile=bar.update)
        write_photo(target, photo, to_samples(output, photo), quality=args.quality)
    except SMNetError as error:
        raise SMNetError(f"{source}: {error}") from None
    shown = [as_shown(picture, photo) for picture in (noisy, output)] if job.sheets else []
    colours = {
        key: value
        for key, value in photo.metadata.items()
        if key == "icc_profile" and channels == 3
    }
    for what, path in job.sheets.items():
        try:
            drawn = (
                sheets.comparison(*shown)
                if what == "compare"
                else sheets.stages(denoiser.model, shown[0], args.point)
            )
            write_photo(path, Photo(drawn, None, "PNG", metadata=colours), drawn)
        except SMNetError as error:
            raise SMNetError(
                f"{source}: {target} is written, but this sheet is not: {error}"
            ) from None
    size = (
        f"{width}x{height} {'gray' if channels == 1 else 'RGB'} of {photo.pixels.itemsize * 8} bits"
    )
    cut = f"{tiles} tiles, " if tiles > 1 else ""
    notes = "".join(f"; {note}" for note in photo.notes)
    return (
        f"{source} -> {target}: {size}, {cut}{time.perf_counter() - start:.1f} s, {weights}{notes}"
    )


def check_name(path: Path) -> None:
    """Raise where the file system takes no name of this length."""
    try:
        with contextlib.suppress(FileNotFoundError):
            os.lstat(utils.temporary_path(path))  # the longer one
    except OSError as error:
        raise SMNetError(
            f"cannot write {path}: {error.strerror}; give the picture a shorter name"
        ) from None


def to_tensor(photo: Photo) -> torch.Tensor:
    """The samples as float32 (C, H, W) in [0, 1]."""
    samples = torch.from_numpy(photo.pixels.astype(np.float32)).permute(2, 0, 1)
    return samples.contiguous().div_(photo.white)


def as_shown(picture: torch.Tensor, photo: Photo) -> torch.Tensor:
    """(C, H, W) as it lies in the file -> turned as its EXIF says."""
    turned = upright(picture.permute(1, 2, 0).numpy(), photo.orientation)
    return torch.from_numpy(np.ascontiguousarray(turned.transpose(2, 0, 1)))


def to_samples(picture: torch.Tensor, photo: Photo) -> np.ndarray:
    """(C, H, W) in about [0, 1] -> samples (H, W, C) of the photo's type, clamped and rounded."""
    levels = picture.clamp(0, 1).mul_(photo.white).round_().permute(1, 2, 0).numpy()
    return np.ascontiguousarray(levels.astype(photo.pixels.dtype))


if __name__ == "__main__":
    run_script(main)
