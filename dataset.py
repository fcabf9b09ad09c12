"""Turn folders of pictures into the two h5 files that the RGB train scripts read, and read them back.

    python dataset.py                                                  # data/pristine_images_color, data/CBSD68
    python dataset.py --train_dir photos more_photos --holdout 20      # 20 of them set aside for validation
    python dataset.py --train_dir waterloo --resize 256                # the authors' way: whole pictures squeezed to 256x256

train_data.h5 holds uint8 patches that together cover every picture; crops, orientations and noise are drawn when they are
read. val_data.h5 holds whole pictures. Where data/pristine_images_color is missing and no --train_dir is given, photographs
that come with scikit-image are used: enough to run everything, too few to train a good network.
"""

import argparse
import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import cv2
import h5py
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm

from pictures import SAMPLE_TEST, SAMPLE_TRAIN, find_pictures, read_picture, sample_pictures
from utils import SMNetError, make_parser, number, replacing, run_script

# ------------------------------------------------------------------------------------------------------------
# Edit here, or give the option of the same name.
DEFAULTS = dict(
    train_dir=["data/pristine_images_color"],  # folders of training pictures, searched recursively
    val_dir="data/CBSD68",  # folder of validation pictures
    train_h5="train_data.h5",  # file to write: training patches
    val_h5="val_data.h5",  # file to write: validation pictures
    patch_size=256,  # pixels, side of a stored patch
    stride=256,  # pixels from one patch to the next; the last in a row or column moves inward
    resize=0,  # pixels; above 0 every training picture is first squeezed to this square (the authors': 256)
    holdout=0,  # training pictures, evenly spread, that are set aside for validation in place of val_dir
)
# ------------------------------------------------------------------------------------------------------------

PATCHES, PICTURES = "smnet training patches", "smnet validation pictures"  # the attribute "kind" of our h5 files


def main(argv: list[str] | None = None) -> int:
    return build(argv, description=__doc__, defaults=DEFAULTS, channels=3)


# ------------------------------------------------------------------------------------------------------------ building


def build(argv: list[str] | None, *, description: str, defaults: dict, channels: int) -> int:
    """The command of dataset.py (channels 3) and dataset_gray.py (1): write both h5 files; 0, or 1 if files were skipped.

    Raises:
        SMNetError: no pictures, none usable, or a file cannot be written; the old h5 files are then as they were.
    """
    parser = make_parser(description)
    option, shown = parser.add_argument, "(default: %(default)s)"
    option("--train_dir", nargs="+", metavar="DIR", help=f"folders of training pictures (default: {defaults['train_dir'][0]})")
    option("--val_dir", metavar="DIR", help=f"folder of validation pictures (default: {defaults['val_dir']})")
    option("--train_h5", metavar="FILE", help=f"patches to write {shown}")
    option("--val_h5", metavar="FILE", help=f"validation pictures to write {shown}")
    option("--patch_size", type=number(int, 8), metavar="N", help=f"side of a stored patch, pixels {shown}")
    option("--stride", type=number(int, 1), metavar="N", help="pixels from one patch to the next (default: the patch size)")
    option("--resize", type=number(int, 0), metavar="N", help=f"squeeze training pictures to NxN pixels first, 0: no {shown}")
    option("--holdout", type=number(int, 0), metavar="N", help=f"training pictures set aside to validate, 0: none {shown}")
    parser.set_defaults(**{**defaults, "train_dir": None, "val_dir": None, "stride": None})
    args = parser.parse_args(argv)
    if args.holdout and args.val_dir:
        parser.error("--holdout and --val_dir both say what to validate on: give one of them")
    if 0 < args.resize < args.patch_size:
        parser.error(f"--resize {args.resize} is below --patch_size {args.patch_size}")
    if Path(args.train_h5).resolve() == Path(args.val_h5).resolve():
        parser.error(f"--train_h5 and --val_h5 are both {args.train_h5}")
    if args.stride is None:  # not given: the script's, or the patch size where only that was changed
        args.stride = defaults["stride"] if args.patch_size == defaults["patch_size"] else args.patch_size
    if args.stride > args.patch_size:
        parser.error(f"--stride {args.stride} above --patch_size {args.patch_size} would leave out parts of the pictures")

    train, val, notes = choose_sources(args, defaults, channels)
    for note in notes:
        print(note)
    settings = {name: vars(args)[name] for name in ("patch_size", "stride", "resize", "holdout")}
    skipped: list[str] = []
    with (
        replacing(args.train_h5) as train_path, h5py.File(train_path, "w") as train_file,
        replacing(args.val_h5) as val_path, h5py.File(val_path, "w") as val_file,
    ):  # fmt: skip
        written = {
            args.train_h5: write_patches(train_file, train, channels=channels, settings=settings, skipped=skipped),
            args.val_h5: write_pictures(val_file, val, channels=channels, skipped=skipped),
        }
    for path, content in written.items():
        print(f"{path}: {content}, {Path(path).stat().st_size / 1e6:.1f} MB")
    if skipped:
        print(f"{len(skipped)} file{'s' * (len(skipped) > 1)} skipped: {', '.join(skipped[:8])}{' ...' * (len(skipped) > 8)}",
              file=sys.stderr)  # fmt: skip
    return 1 if skipped else 0


Source = tuple[str, Path | np.ndarray]  # a picture's name, and its file or its uint8 (C, H, W)


def choose_sources(args: argparse.Namespace, defaults: dict, channels: int) -> tuple[list[Source], list[Source], list[str]]:
    """(training pictures, validation pictures, lines to print): from the folders asked for, else from the defaults.

    Raises:
        SMNetError: a folder that was asked for is missing or holds no picture.
    """
    notes = []
    folders = args.train_dir or defaults["train_dir"]
    sample = args.train_dir is None and not any(Path(folder).is_dir() for folder in folders)
    if sample:
        train = sample_pictures(SAMPLE_TRAIN, channels)
        notes.append(
            f"{folders[0]} is missing: training on the {len(train)} sample photographs of scikit-image instead "
            "(--train_dir DIR for your own)"
        )
    else:
        # Numbers, where several folders are given: pictures of the same name stay apart.
        train = [
            (f"{i}/{path.relative_to(folder)}" if len(folders) > 1 else str(path.relative_to(folder)), path)
            for i, folder in enumerate(folders)
            for path in find_pictures(folder)
        ]
    if args.holdout:
        if args.holdout >= len(train):
            raise SMNetError(f"--holdout {args.holdout} leaves nothing of {len(train)} training pictures to train on")
        chosen = {i * len(train) // args.holdout for i in range(args.holdout)}
        val = [train[i] for i in sorted(chosen)]
        return [source for i, source in enumerate(train) if i not in chosen], val, notes
    folder = Path(args.val_dir or defaults["val_dir"])
    if args.val_dir is None and not folder.is_dir():
        if not sample:
            raise SMNetError(
                f"no validation pictures: {folder} is missing; give --val_dir DIR, or --holdout N to set some aside"
            )
        val = sample_pictures(SAMPLE_TEST, channels)
        notes.append(f"{folder} is missing: validating on the {len(val)} sample test photographs instead")
        return train, val, notes
    return train, [(str(path.relative_to(folder)), path) for path in find_pictures(folder)], notes


def read_sources(
    sources: list[Source], *, channels: int, min_side: int, skipped: list[str]
) -> Iterator[tuple[str, np.ndarray]]:
    """(name, uint8 (C, H, W)) of each source, with a progress bar; unreadable and too small ones are named and skipped."""
    bar = tqdm(sources, unit="picture", disable=None)
    for name, picture in bar:
        try:
            if isinstance(picture, Path):
                picture = read_picture(picture, channels)
            if min(picture.shape[1:]) < min_side:
                raise SMNetError(f"{name}: is {picture.shape[2]}x{picture.shape[1]}, smaller than {min_side}x{min_side}")
        except SMNetError as error:
            bar.write(f"skipped {error}", file=sys.stderr)
            skipped.append(name)
        else:
            yield name, picture


def cut_patches(picture: np.ndarray, *, patch_size: int, stride: int) -> Iterator[np.ndarray]:
    """(C, H, W) -> (C, patch_size, patch_size) pieces that cover it all: the last of a row or column moves inward."""

    def starts(side: int) -> list[int]:
        last = side - patch_size
        return sorted({*range(0, last, stride), last})

    for top in starts(picture.shape[1]):
        for left in starts(picture.shape[2]):
            yield picture[:, top : top + patch_size, left : left + patch_size]


def write_patches(file: h5py.File, sources: list[Source], *, channels: int, settings: dict, skipped: list[str]) -> str:
    """Fill an h5 file with training patches; append the names that were left out to `skipped`; return what was written.

    Content: data set "patches" uint8 (n, C, patch_size, patch_size), one chunk each; "source" int32 (n,), the picture that
    a patch is from; attributes kind, channels, sources (a JSON list of names) and the settings.

    Raises:
        SMNetError: no usable picture.
    """
    size, names, origin = settings["patch_size"], [], []
    min_side = 1 if settings["resize"] else size
    shape = (channels, size, size)
    patches = file.create_dataset("patches", (0, *shape), np.uint8, maxshape=(None, *shape), chunks=(1, *shape))
    for name, picture in read_sources(sources, channels=channels, min_side=min_side, skipped=skipped):
        if settings["resize"]:
            picture = squeeze(picture, settings["resize"])
        pieces = list(cut_patches(picture, patch_size=size, stride=settings["stride"]))
        patches.resize(len(origin) + len(pieces), axis=0)
        patches[len(origin) :] = np.stack(pieces)
        origin += [len(names)] * len(pieces)
        names.append(name)
    if not names:
        raise SMNetError(
            f"none of the {len(sources)} training pictures is usable: sides of {min_side} pixels are needed (--patch_size)"
        )
    file["source"] = np.array(origin, np.int32)
    file.attrs.update(kind=PATCHES, channels=channels, sources=json.dumps(names), **settings)
    return f"{len(origin)} patches of {size}x{size} from {len(names)} pictures"


def squeeze(picture: np.ndarray, side: int) -> np.ndarray:
    """uint8 (C, H, W) -> (C, side, side), whatever its proportions."""
    resized = cv2.resize(picture.transpose(1, 2, 0), (side, side), interpolation=cv2.INTER_AREA)
    return resized.reshape(side, side, len(picture)).transpose(2, 0, 1)


def write_pictures(file: h5py.File, sources: list[Source], *, channels: int, skipped: list[str]) -> str:
    """Fill an h5 file with validation pictures; append the names that were left out to `skipped`; return what was written.

    Content: one uint8 (C, H, W) data set per picture, "00000" and so on, with the attribute name; attributes kind, channels.

    Raises:
        SMNetError: no usable picture.
    """
    count = 0
    for name, picture in read_sources(sources, channels=channels, min_side=1, skipped=skipped):
        file.create_dataset(f"{count:05d}", data=picture).attrs["name"] = name
        count += 1
    if not count:
        raise SMNetError(f"none of the {len(sources)} validation pictures is usable")
    file.attrs.update(kind=PICTURES, channels=channels)
    return f"{count} pictures"


# ------------------------------------------------------------------------------------------------------------ reading


def open_h5(path: str | Path, kind: str, channels: int) -> h5py.File:
    """Open one of our h5 files and check that it is of this kind and these channels.

    Raises:
        SMNetError: missing, damaged, of another kind, or of other channels; the message names the command that makes it.
    """
    command = "python dataset.py" if channels == 3 else "python dataset_gray.py"
    if not Path(path).is_file():
        there = sorted(p.name for p in Path(path).parent.glob("*.h5"))
        raise SMNetError(
            f"no file {path} ({'there are ' + ', '.join(there) if there else 'no h5 file there'}); make it: {command}"
        )
    try:
        file = h5py.File(path, "r")
    except OSError:
        raise SMNetError(f"{path} is damaged or no h5 file; make it anew: {command}") from None
    found, found_channels = file.attrs.get("kind"), file.attrs.get("channels")
    if found == kind and found_channels == channels:
        return file
    file.close()
    if found != kind:
        raise SMNetError(f"{path} holds {found or 'something else'}, not {kind}; make it: {command}")
    raise SMNetError(f"{path} has {found_channels} channels, this script needs {channels}; make it: {command}")


class PatchDataset(Dataset):
    """Training samples from an h5 file of patches: (clean, noisy, sigma).

    An item is asked for by (epoch, index), index below draws x patches, and is a pure function of (seed, epoch, index):
    crop, one of eight orientations, sigma (uniform in `noise_range`) and noise. So neither workers nor processes nor a
    restart change it. clean and noisy are float32 (C, patch_size, patch_size), clean in [0, 1], noisy = clean + sigma/255 *
    n, not clipped; sigma is a float32 scalar in grey levels 0-255. The file is opened by each worker when first read.

    Args:
        path: file made by dataset.py or dataset_gray.py.
        channels: 1 or 3, as the file.
        patch_size: side of the crop in pixels, at most the stored patches'.
        noise_range: (low, high) of sigma, grey levels 0-255; low == high is one known level.
        draws: how often a patch is drawn in an epoch.
        seed: of every random choice, 0 or more.

    Raises:
        SMNetError: the file is missing or not of this kind, or its patches are smaller than `patch_size`.
    """

    def __init__(
        self, path: str | Path, *, channels: int, patch_size: int, noise_range: tuple[float, float], draws: int, seed: int
    ):
        self.path, self.channels, self.patch_size = path, channels, patch_size
        self.noise_range, self.draws, self.seed = noise_range, draws, seed
        self.patches = None
        with open_h5(path, PATCHES, channels) as file:
            self.stored, _, stored_size, _ = file["patches"].shape
        if patch_size > stored_size:
            raise SMNetError(
                f"{path} holds patches of {stored_size}x{stored_size}, too small for --patch_size {patch_size}; "
                "give a smaller one, or make the file anew with a larger one"
            )

    def __len__(self) -> int:
        return self.draws * self.stored

    def __getstate__(self) -> dict:
        return {**self.__dict__, "patches": None}  # an open file does not travel to a worker

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
        epoch, index = key
        if self.patches is None:
            self.patches = open_h5(self.path, PATCHES, self.channels)["patches"]
        # index + 1: a seed sequence cannot tell (seed, epoch, 0) from (seed, epoch), which orders the epoch.
        rng = np.random.default_rng((self.seed, epoch, index + 1))
        size, stored_size = self.patch_size, self.patches.shape[-1]
        top, left = rng.integers(stored_size - size + 1, size=2)
        patch = self.patches[index % self.stored, :, top : top + size, left : left + size]
        patch = orient(patch, rng.integers(8))
        clean = patch.astype(np.float32) / 255
        sigma = rng.uniform(*self.noise_range)
        noisy = clean + np.float32(sigma / 255) * rng.standard_normal(clean.shape, np.float32)
        return torch.from_numpy(clean), torch.from_numpy(noisy), torch.tensor(sigma, dtype=torch.float32)


def orient(patch: np.ndarray, orientation: int) -> np.ndarray:
    """One of the eight orientations of a square (C, H, H): quarter turns by orientation % 4, mirrored from 4 on."""
    turned = np.rot90(patch, orientation % 4, axes=(1, 2))
    return turned[:, :, ::-1] if orientation >= 4 else turned


class EpochBatches:
    """A batch sampler: the batches of one epoch, as lists of (epoch, index), in an order drawn from (seed, epoch).

    The last batch is left out where it is not full. `skip` leaves out that many batches at the beginning: those that were
    done before an interruption.
    """

    def __init__(self, length: int, batchsize: int, *, seed: int):
        self.length, self.batchsize, self.seed = length, batchsize, seed
        self.epoch, self.skip = 0, 0

    def __len__(self) -> int:
        return self.length // self.batchsize - self.skip

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        order = np.random.default_rng((self.seed, self.epoch)).permutation(self.length).tolist()
        for batch in range(self.skip, self.length // self.batchsize):
            yield [(self.epoch, index) for index in order[batch * self.batchsize : (batch + 1) * self.batchsize]]


def read_pictures(path: str | Path, channels: int) -> Iterable[tuple[str, np.ndarray]]:
    """The validation pictures of an h5 file: a list of (name, uint8 (C, H, W)).

    Raises:
        SMNetError: the file is missing or not of this kind.
    """
    with open_h5(path, PICTURES, channels) as file:
        return [(file[key].attrs["name"], file[key][()]) for key in sorted(file)]


if __name__ == "__main__":
    run_script(main)
