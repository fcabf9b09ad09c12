"""Denoise your own pictures, of any size, and keep what they are.

    python denoise.py photo.jpg                          # writes photo_denoised.jpg
    python denoise.py holiday -o clean                   # a folder with all folders in it
    python denoise.py a.png b.tif -o clean --noiseL 25   # white noise of sigma 25; or --blind
    python denoise.py photo.jpg --strength 70            # leave some of the noise in
    python denoise.py photo.jpg --strength 0 --chroma 100          # colour noise only
    python denoise.py photo.jpg --compare --save_stages  # sheets: before and after, a look inside

Gray pictures go through the gray network and colour ones through the RGB network: the one for the
noise of cameras, unless --blind or --noiseL names another; from weights/, else from pretrained/.
8 or 16 bits, alpha, EXIF, ICC profile, resolution and format stay as they are (docs/denoising.md).
Exit status: 0, 1 if a picture was skipped, 2 for wrong arguments.
"""

import argparse
import contextlib
import itertools
import os
import sys
import time
from pathlib import Path

import torch
from PIL import Image
from tqdm import tqdm

import utils
from smnet import devices, sheets
from smnet.cli import make_parser, number, report_problems, run_script
from smnet.denoisers import DenoiserCache, denoise, remove_noise  # noqa: F401  # denoise: arrays
from smnet.jobs import Job, Plan, expand_patterns, find_jobs, refuse_results
from smnet.photos.photo import FORMATS, OTHERS, Photo, as_shown, to_samples, to_tensor
from smnet.photos.reading import read_photo
from smnet.photos.writing import check_format, write_photo
from smnet.strength import noise_found, take_out
from smnet.tiling import LARGEST, SMALLEST, Denoiser
from utils import SMNetError, one_line

# --------------------------------------------------------------------------------------------------
# Defaults; each is also an option of the command line
DEFAULTS = dict(
    noiseL=None,  # sigma of white noise that the network was trained at, grey levels
    strength=100,  # percent of the noise found that is taken out
    chroma=None,  # the same for the colour noise alone, percent; None: as strength
    weights_dir="weights",  # folder that train_*.py wrote weights to
    memory=None,  # GB that the network may take; None: half of what is free
    # side of the tiles that larger pictures are cut into, pixels; 0: never; None: 640 (networks of
    # --shuffle 2: 1280), or less as the memory allows
    tile=None,
    amp=False,  # compute in bf16 or fp16, faster where the device has it
    self_ensemble=False,  # average over eight orientations: slightly better, 8 times as long
    quality=95,  # of JPEG and lossy WebP files, 1-100
    device="auto",  # auto, cpu, cuda, cuda:1 or mps
)
# --------------------------------------------------------------------------------------------------


def main(argv: list[str] | None = None) -> int:
    """The command; returns 0, or 1 if a picture was skipped."""
    args = parse_args(argv)
    wanted = ["compare"] * args.compare + ["stages"] * args.save_stages
    plan = find_jobs(args.pictures, output=args.output, sheets=wanted, overwrite=args.overwrite)
    denoisers = DenoiserCache(
        devices.pick_device(args.device),
        mode=args.mode,
        noiseL=args.noiseL,
        weights=args.weights or (),
        weights_dir=args.weights_dir,
        memory=args.memory,
        tile=args.tile,
        amp=args.amp,
        self_ensemble=args.self_ensemble,
    )
    problems, done = [*plan.problems], 0
    try:
        for i, job in enumerate(plan.jobs):
            try:
                label = f"{i + 1}/{len(plan.jobs)} {job.source.name}"
                print(one_line(denoise_file(job, denoisers, args, label=label)), flush=True)
                done += 1
            except SMNetError as error:
                problems.append(str(error))
    finally:  # on Ctrl-C too
        status = report_problems(problems, prefix="skipped")
    if problems or plan.others or plan.already or plan.results or len(plan.jobs) > 1:
        print(summary(plan, done=done, skipped=len(problems)))
    return status


def summary(plan: Plan, *, done: int, skipped: int) -> str:
    """The last line."""
    line = f"denoised {done} picture{'s' * (done != 1)}, skipped {skipped}"
    if plan.already:
        line += f", {plan.already} already there (--overwrite replaces results)"
    if plan.results:
        line += f", left out {plan.results} result{'s' * (plan.results > 1)} of earlier runs"
    if plan.others:
        endings = ", ".join(sorted({path.suffix.lower() for path in plan.others}))
        line += f", ignored {len(plan.others)} in unsupported formats ({endings})"
    return line


# --------------------------------------------------------------------------------- the command line


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = make_parser(__doc__)
    option = parser.add_argument
    text = "picture files, patterns such as *.jpg, or folders (searched recursively)"
    option("pictures", nargs="+", metavar="PICTURE|FOLDER", help=text)
    text = "a folder for the results, or a file for the only one (default: NAME_denoised beside it)"
    option("-o", "--output", metavar="OUT", help=text)
    text = "for white noise of this sigma, grey levels 0-255"
    option("--noiseL", type=number(float, 0, 255), metavar="SIGMA", help=text)
    text = "for white noise of any level, sigma 0-55"
    option("--blind", action="store_const", const="B", dest="mode", help=text)
    text = "for real camera noise (the default if such a network exists, else --blind)"
    option("--real", action="store_const", const="R", dest="mode", help=text)
    text = "the weights to use, ours or the authors'; one file, or one for gray and one for RGB"
    option("--weights", nargs="+", metavar="FILE", help=text)
    text = "folder that train_*.py wrote weights to (default: %(default)s, else pretrained/)"
    option("--weights_dir", metavar="DIR", help=text)
    text = "percentage of the estimated noise to remove, 0-100 (default: %(default)s)"
    option("--strength", type=number(float, 0, 100), metavar="PERCENT", help=text)
    text = "the same for colour noise; --strength is then for brightness (default: as --strength)"
    option("--chroma", type=number(float, 0, 100), metavar="PERCENT", help=text)
    text = "memory limit in GB, within which pictures are denoised whole where they fit (default: "
    text += "in tiles, which are faster, within half of the free memory)"
    option("--memory", type=number(float, 0.01), metavar="GB", help=text)
    text = "side of the tiles that larger pictures are cut into, pixels, at least "
    text += f"{SMALLEST}, or 0: never (default: {LARGEST}, or less as the memory allows; for "
    text += "networks of --shuffle 2, such as rgb_R, both are doubled)"
    option("--tile", type=tile_side, metavar="N", help=text)
    text = "compute in bf16 or fp16: faster on devices that have it (docs/denoising.md)"
    option("--amp", action=argparse.BooleanOptionalAction, help=text)
    text = "average over the eight orientations of a picture: better, 8 times as long"
    option("--self_ensemble", action=argparse.BooleanOptionalAction, help=text)
    text = "quality of JPEG and lossy WebP files, 1-100 (default: %(default)s)"
    option("--quality", type=number(int, 1, 100), metavar="N", help=text)
    option("--overwrite", action="store_true", help="replace results that already exist")
    text = "write RESULT_compare.png beside each: before, after, what was removed"
    option("--compare", action="store_true", help=text)
    text = "write RESULT_stages.png beside each: noise mask, residual, output and attention"
    option("--save_stages", action="store_true", help=text)
    text = "pixel of the upright picture whose attention --save_stages shows (default: the middle)"
    option("--point", nargs=2, type=number(int, 0), metavar=("ROW", "COLUMN"), help=text)
    option("--device", metavar="NAME", help="auto, cpu, cuda, cuda:1 or mps (default: %(default)s)")
    parser.set_defaults(**DEFAULTS)
    check_dashes(parser, sys.argv[1:] if argv is None else argv)
    args = parser.parse_args(argv)
    args.pictures = expand_patterns(args.pictures)
    if bool(args.weights) + bool(args.mode) + (args.noiseL is not None) > 1:
        parser.error("--noiseL, --blind, --real and --weights each name a network: give one")
    if args.noiseL is not None:
        args.mode = "S"
    if args.point and not args.save_stages:
        parser.error("--point is for --save_stages")
    check_output(parser, args.output, args.pictures)
    return args


def tile_side(text: str) -> float:
    """An argparse type: 0, or a side that tiles can have."""
    return 0 if text == "0" else number(int, SMALLEST)(text)


def check_dashes(parser: argparse.ArgumentParser, words: list[str]) -> None:
    """End with a hint where a picture's name would be taken for an option, or for weights."""
    for word in words[: words.index("--")] if "--" in words else words:
        is_option = "=" in word or word.startswith("-o")
        if word.startswith("-") and not is_option and Path(word).suffix.lower() in FORMATS:
            parser.error(f"{word} would be an option; write ./{word} for the picture")
    behind = words[words.index("--weights") + 1 :] if "--weights" in words else []
    for word in itertools.takewhile(lambda word: not word.startswith("-"), behind):
        if Path(word).suffix.lower() in FORMATS or os.path.isdir(word):
            parser.error(f"{word} stands behind --weights; put the pictures before it")


def check_output(parser: argparse.ArgumentParser, output: str | None, pictures: list[str]) -> None:
    """End where -o names a file for several pictures, or one of a format that is not written."""
    ending = Path(output or "").suffix.lower()
    if not ending or os.path.isdir(output):
        return
    names = ", ".join(FORMATS)
    if ending in FORMATS and (len(pictures) > 1 or os.path.isdir(pictures[0])):
        parser.error(
            f"-o {output} names one file, but several pictures are given, or a folder; "
            "name a folder by -o"
        )
    if ending not in FORMATS and ending in (*OTHERS, *Image.registered_extensions()):
        parser.error(f"-o {output}: pictures are written as {names}; give one, or make the folder")


# --------------------------------------------------------------------------------------- a picture


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
    try:
        noisy = to_tensor(photo)
        channels, height, width = noisy.shape
        notes = [*photo.notes, *check_targets(job, photo)]
        denoiser, weights = denoisers.get(channels)
        tiles = len(denoiser.tiles(height, width))
        with tqdm(total=tiles, desc=label, unit="tile", leave=False, disable=None) as bar:
            denoised = remove_noise(noisy, denoiser, weights, on_tile=bar.update)
        output = take_out(noisy, denoised, strength=args.strength, chroma=args.chroma)
        refuse_results(job, overwrite=args.overwrite)  # one may have come to be in the meantime
        # The sheets come first, so that a picture whose result is there is wholly done.
        failure = write_sheets(job, photo, noisy, output, denoiser, args.point)
        notes += write_photo(target, photo, to_samples(output, photo), quality=args.quality)
        if failure:
            raise SMNetError(f"{target} is written, but not its sheets: {failure}")
    except SMNetError as error:
        raise SMNetError(f"{source}: {error}") from None
    except (MemoryError, RuntimeError) as error:
        if not devices.is_out_of_memory(error):
            raise
        raise SMNetError(
            f"{source}: not enough memory for this picture and its outputs; "
            "crop it or scale it down"
        ) from None
    bits = photo.pixels.itemsize * 8
    size = f"{width}x{height} {'gray' if channels == 1 else 'RGB'} of {bits} bits"
    cut = f"{tiles} tiles, " if tiles > 1 else ""
    seconds = time.perf_counter() - start
    found = f"noise of {noise_found(noisy, denoised):.1f} grey levels"
    done = f"{source} -> {target}: {size}, {found}, {cut}{seconds:.1f} s, {weights}"
    return "; ".join([done, *notes])


def check_targets(job: Job, photo: Photo) -> list[str]:
    """Raise where the results cannot be written, before the work; returns a note where the format
    changes against its name."""
    file_format = check_format(job.target, photo)
    utils.check_target(job.target)
    for path in job.results:
        check_name(path)
    same_ending = job.target.suffix.lower() == job.source.suffix.lower()
    if file_format != photo.format and same_ending:
        return [f"it is a {photo.format} file, and becomes {file_format} as its name says"]
    return []


def check_name(path: Path) -> None:
    """Raise where the file system takes no name of this length."""
    try:
        with contextlib.suppress(FileNotFoundError):
            os.lstat(utils.temporary_path(path))  # the longer one
    except OSError as error:
        raise SMNetError(
            f"cannot write {path}: {error.strerror}; give the picture a shorter name"
        ) from None


def write_sheets(
    job: Job,
    photo: Photo,
    noisy: torch.Tensor,
    output: torch.Tensor,
    denoiser: Denoiser,
    point: tuple[int, int] | None,
) -> str | None:
    """Write the sheets asked for, in the photo's colours; returns what went wrong, if anything."""
    if not job.sheets:
        return None
    keys = ("icc_profile",) if len(noisy) == 3 else ()
    metadata = {key: photo.metadata[key] for key in keys if key in photo.metadata}
    drawn = {}
    try:
        before, after = as_shown(noisy, photo), as_shown(output, photo)
        for sheet, path in job.sheets.items():
            if sheet == "compare":
                drawn[path] = sheets.comparison(before, after)
            else:
                drawn[path] = sheets.stages(denoiser.model, before, point)
        for path, samples in drawn.items():
            write_photo(path, Photo(samples, None, "PNG", metadata=metadata), samples)
    except SMNetError as error:
        return str(error)
    except (MemoryError, RuntimeError) as error:
        if not devices.is_out_of_memory(error):
            raise
        return "not enough memory"
    return None


if __name__ == "__main__":
    run_script(main)
