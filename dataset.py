"""Turn folders of pictures into the two h5 files that the RGB train scripts read.

    python dataset.py                                                  # data/pristine_images_color, data/CBSD68
    python dataset.py --train_dir photos more_photos --holdout 20      # 20 of them set aside for validation
    python dataset.py --train_dir waterloo --resize 256                # the authors' way: whole pictures squeezed to 256x256
    python dataset.py --train_dir data/PolyU --pairs "*_real*" "*_mean*" --holdout 20      # real noise: train_pairs.h5

train_data.h5 holds uint8 patches that together cover every picture; crops, orientations and noise
are drawn when they are read (smnet/patches.py). val_data.h5 holds whole pictures. Where
data/pristine_images_color is missing and no --train_dir is
given, photographs that come with scikit-image are used: enough to run everything, too few to train
    a good network.
"""

import argparse
import json
import sys
from pathlib import Path

import h5py

from smnet.cli import make_parser, number, run_script
from smnet.images import (
    SAMPLE_TEST,
    SAMPLE_TRAIN,
    PictureFiles,
    canonical_path,
    download_advice,
    find_pictures,
    sample_pictures,
)
from smnet.pairs import by_scene, find_pairs, hold_out
from smnet.patches import (
    PATCH_PAIRS,
    PATCHES,
    PICTURE_PAIRS,
    PICTURES,
    Source,
    write_patches,
    write_pictures,
)
from utils import SMNetError, replacing

# --------------------------------------------------------------------------------------------------
# Edit here, or give the option of the same name.
DEFAULTS = dict(
    train_dir=["data/pristine_images_color"],  # folders of training pictures, searched recursively
    val_dir="data/CBSD68",  # folder of validation pictures
    train_h5="train_data.h5",  # file to write: training patches
    val_h5="val_data.h5",  # file to write: validation pictures
    patch_size=256,  # pixels, side of a stored patch
    stride=256,  # pixels from one patch to the next; the last in a row or column moves inward
    resize=0,  # pixels; above 0 every training picture is first squeezed to this square (the authors': 256)
    holdout=0,  # training pictures, evenly spread, that are set aside for validation in place of val_dir; pairs: by scene
)
# --------------------------------------------------------------------------------------------------


def main(argv: list[str] | None = None) -> int:
    return build(argv, description=__doc__, defaults=DEFAULTS, channels=3)


# ----------------------------------------------------------------------------------------- building


def build(argv: list[str] | None, *, description: str, defaults: dict, channels: int) -> int:
    """The command of dataset.py (channels 3) and dataset_gray.py (1): write both h5 files; 0, or 1
    if files were skipped.

    Raises:
        SMNetError: no pictures, none usable, h5 files in the way, or a file cannot be written; the
            old h5 files are then as they were.
    """
    args = parse_args(argv, description=description, defaults=defaults)
    skipped: list[str] = []
    train, val, notes = (
        choose_pairs(args, skipped) if args.pairs else choose_sources(args, defaults, channels)
    )
    for note in notes:
        print(note)
    settings = {name: vars(args)[name] for name in ("patch_size", "stride", "resize", "holdout")}
    settings["train_dir"] = json.dumps(args.train_dir or defaults["train_dir"])
    settings["val_dir"] = str(args.val_dir or defaults["val_dir"])
    if args.pairs:
        beside = Path(args.val_h5).resolve().parent == Path(args.train_h5).resolve().parent
        settings |= {
            "pairs": json.dumps(args.pairs),
            "val_dir": args.val_dir or "",
            "val_h5": Path(args.val_h5).name if beside else str(Path(args.val_h5).resolve()),
        }
    if not args.overwrite:
        kinds = (PATCH_PAIRS, PICTURE_PAIRS) if args.pairs else (PATCHES, PICTURES)
        for path, kind in zip((args.train_h5, args.val_h5), kinds):
            check_replaceable(path, {**settings, "kind": kind, "channels": channels})
    with (
        replacing(args.train_h5) as train_path, h5py.File(train_path, "w") as train_file,
        replacing(args.val_h5) as val_path, h5py.File(val_path, "w") as val_file,
    ):  # fmt: skip
        written = {
            args.train_h5: write_patches(
                train_file, train, channels=channels, settings=settings, skipped=skipped
            ),
            args.val_h5: write_pictures(
                val_file, val, channels=channels, settings=settings, skipped=skipped
            ),
        }
    for path, content in written.items():
        print(f"{path}: {content}, {Path(path).stat().st_size / 1e6:.1f} MB")
    if skipped:
        print(
            f"{len(skipped)} file{'s' * (len(skipped) > 1)} skipped: {', '.join(skipped[:8])}{' ...' * (len(skipped) > 8)}",
            file=sys.stderr,
        )
    return 1 if skipped else 0


def parse_args(argv: list[str] | None, *, description: str, defaults: dict) -> argparse.Namespace:
    """Read the command line; train_dir and val_dir stay None where they are not given, and the
    script's stand for them."""
    parser = make_parser(description)
    option, shown = parser.add_argument, "(default: %(default)s)"
    option(
        "--train_dir",
        nargs="+",
        metavar="DIR",
        help=f"folders of training pictures (default: {defaults['train_dir'][0]})",
    )
    option(
        "--val_dir",
        metavar="DIR",
        help=f"folder of validation pictures (default: {defaults['val_dir']})",
    )
    text = "with --pairs: of that name with pairs in place of data"
    option(
        "--train_h5",
        metavar="FILE",
        help=f"patches to write (default: {defaults['train_h5']}; {text})",
    )
    option(
        "--val_h5",
        metavar="FILE",
        help=f"validation pictures to write (default: {defaults['val_h5']}; {text})",
    )
    option(
        "--patch_size",
        type=number(int, 8),
        metavar="N",
        help=f"side of a stored patch, pixels {shown}",
    )
    option(
        "--stride",
        type=number(int, 1),
        metavar="N",
        help="pixels from one patch to the next (default: the patch size)",
    )
    option(
        "--resize",
        type=number(int, 0),
        metavar="N",
        help=f"squeeze training pictures to NxN pixels first, 0: no {shown}",
    )
    option(
        "--holdout",
        type=number(int, 0),
        metavar="N",
        help=f"training pictures set aside to validate, 0: none; pairs: by scene, 0: a fifth {shown}",
    )
    option("--overwrite", action="store_true", help="replace h5 files that were made otherwise")
    option(
        "--pairs",
        nargs=2,
        metavar=("NOISY", "CLEAN"),
        help="real noise: two folders of files of the same names, or two patterns of names, as "
        '"*_real*" "*_mean*", in --train_dir and --val_dir; a scene is a name without the number at its end',
    )
    not_given = dict.fromkeys(("train_dir", "val_dir", "stride", "train_h5", "val_h5"))
    parser.set_defaults(**{**defaults, **not_given})
    args = parser.parse_args(argv)
    if args.holdout and args.val_dir:
        parser.error("--holdout and --val_dir both say what to validate on: give one of them")
    if 0 < args.resize < args.patch_size:
        parser.error(f"--resize {args.resize} is below --patch_size {args.patch_size}")
    for name in ("train_h5", "val_h5"):
        if (
            vars(args)[name] is None
        ):  # pairs get files of their own, so that no other data set is replaced
            file = Path(defaults[name])
            vars(args)[name] = str(
                file.with_stem(file.stem.replace("data", "pairs")) if args.pairs else file
            )
    if Path(args.train_h5).resolve() == Path(args.val_h5).resolve():
        parser.error(f"--train_h5 and --val_h5 are both {args.train_h5}")
    if args.pairs and args.resize:
        parser.error("--resize would take the noise out of --pairs")
    if args.pairs and not args.train_dir:
        if any("*" in word for word in args.pairs):
            parser.error("--pairs with patterns needs --train_dir, the folders to look in")
        args.train_dir = ["."]
    if (
        args.stride is None
    ):  # not given: the script's, or the patch size where only that was changed
        args.stride = (
            defaults["stride"] if args.patch_size == defaults["patch_size"] else args.patch_size
        )
    if args.stride > args.patch_size:
        parser.error(
            f"--stride {args.stride} above --patch_size {args.patch_size} would leave out parts of the pictures"
        )
    return args


def check_replaceable(path: str, attributes: dict) -> None:
    """Raise where there is a file that the same command did not make, by its attributes: that would
    be lost."""
    if not Path(path).exists():
        return
    try:
        with h5py.File(path, "r", locking=False) as file:
            same = all(file.attrs.get(name) == value for name, value in attributes.items())
    except OSError:
        same = False
    if not same:
        raise SMNetError(
            f"{path} is there, and was made otherwise; give --overwrite to replace it, or other names: --train_h5, --val_h5"
        )


def choose_pairs(
    args: argparse.Namespace, skipped: list[str]
) -> tuple[list[PictureFiles], list[PictureFiles], list[str]]:
    """(training pairs, validation pairs, lines to print); pictures without a partner are named and
    added to `skipped`.

    Raises:
        SMNetError: no pairs, or too few scenes to set some aside.
    """
    pairs, problems = find_pairs(args.train_dir, *args.pairs)
    if args.val_dir:
        val, more = find_pairs([args.val_dir], *args.pairs)
        if {pair.noisy.resolve() for pair in val} & {pair.noisy.resolve() for pair in pairs}:
            raise SMNetError(f"--val_dir {args.val_dir} has pairs in common with --train_dir")
        train, problems = pairs, problems + more
        note = f"{len(train)} pairs to train on, {len(val)} to validate on"
    else:
        train, val = hold_out(pairs, args.holdout or max(1, len(pairs) // 5))
        scenes = by_scene(pairs)
        held = [name for name, members in scenes.items() if members[0] in val]
        note = (
            f"{len(train)} pairs to train on, {len(val)} of {len(held)} other scenes set aside to validate on: "
            f"{', '.join(held[:8])}{' ...' * (len(held) > 8)}"
        )
    for problem in problems:
        print(f"skipped {problem}", file=sys.stderr)
        skipped.append(problem.split(":")[0])
    return train, val, [note]


def choose_sources(
    args: argparse.Namespace, defaults: dict, channels: int
) -> tuple[list[Source], list[Source], list[str]]:
    """(training pictures, validation pictures, lines to print): from the folders asked for, else
    from the defaults.

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
        train, files = [], set()
        for i, folder in enumerate(folders):
            for path in find_pictures(folder):
                name = (
                    f"{i}/{path.relative_to(folder)}"
                    if len(folders) > 1
                    else str(path.relative_to(folder))
                )
                if (
                    canonical_path(path) not in files
                ):  # where folders overlap, one of two could be held out
                    train.append(PictureFiles(name, path))
                files.add(canonical_path(path))
    if args.holdout:
        if args.holdout >= len(train):
            raise SMNetError(
                f"--holdout {args.holdout} leaves nothing of {len(train)} training pictures to train on"
            )
        chosen = {i * len(train) // args.holdout for i in range(args.holdout)}
        val = [train[i] for i in sorted(chosen)]
        return [source for i, source in enumerate(train) if i not in chosen], val, notes
    folder = Path(args.val_dir or defaults["val_dir"])
    if args.val_dir is None and not folder.is_dir():
        if not sample:
            raise SMNetError(
                f"no validation pictures: {folder} is missing ({download_advice(folder).strip('; ')}); give --val_dir DIR, or "
                "--holdout N to set some aside"
            )
        val = sample_pictures(SAMPLE_TEST, channels)
        notes.append(
            f"{folder} is missing: validating on the {len(val)} sample test photographs instead{download_advice(folder)}"
        )
        return train, val, notes
    return (
        train,
        [PictureFiles(str(path.relative_to(folder)), path) for path in find_pictures(folder)],
        notes,
    )


if __name__ == "__main__":
    run_script(main)
