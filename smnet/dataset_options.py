"""The options that the two dataset scripts share."""

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

from smnet.cli import make_parser, number
from utils import one_line


@dataclasses.dataclass(frozen=True)
class Options:
    """What a command line asks for."""

    train_dir: list[str] | None  # None: the script's
    val_dir: str | None  # None: the script's, or pictures are held out
    train_h5: str
    val_h5: str
    patch_size: int
    stride: int
    resize: int
    shrink: int
    holdout: int
    overwrite: bool
    pairs: tuple[str, str] | None


def parse_options(argv: list[str] | None, *, description: str, defaults: dict) -> Options:
    """Read a dataset script's command line; `defaults` are the script's."""
    parser = make_parser(description)
    option, shown = parser.add_argument, "(default: %(default)s)"
    text = f"folders of training pictures (default: {defaults['train_dir'][0]})"
    option("--train_dir", nargs="+", metavar="DIR", help=text)
    text = f"folder of validation pictures (default: {defaults['val_dir']})"
    option("--val_dir", metavar="DIR", help=text)
    text = f"file to write, training patches (default: {defaults['train_h5']}; with --pairs: "
    text += f"{name_of_pairs(defaults['train_h5'])})"
    option("--train_h5", metavar="FILE", help=text)
    text = f"file to write, validation pictures (default: {defaults['val_h5']}; with --pairs: "
    text += f"{name_of_pairs(defaults['val_h5'])})"
    option("--val_h5", metavar="FILE", help=text)
    text = f"side of a stored patch, pixels {shown}"
    option("--patch_size", type=number(int, 8), metavar="N", help=text)
    text = f"pixels from one patch to the next (default: {defaults['stride'] or 'the patch size'})"
    option("--stride", type=number(int, 1), metavar="N", help=text)
    text = f"resize training pictures to NxN first, ignoring aspect ratio, 0: off {shown}"
    option("--resize", type=number(int, 0), metavar="N", help=text)
    text = (
        "average squares of NxN pixels of the training pictures before they are cut, which takes "
        f"noise and JPEG artefacts out of large photographs, 1: no {shown}"
    )
    option("--shrink", type=number(int, 1), metavar="N", help=text)
    text = (
        "training pictures set aside to validate on, 0: none; of pairs, whole scenes, 0: a fifth "
        f"{shown}"
    )
    option("--holdout", type=number(int, 0), metavar="N", help=text)
    text = "replace h5 files that were made with other settings"
    option("--overwrite", action="store_true", help=text)
    text = (
        "real noise: two folders of files of the same names, or two name patterns such as "
        '"*_real*" "*_mean*", in --train_dir and --val_dir; a scene is a name without the number '
        "at its end"
    )
    option("--pairs", nargs=2, metavar=("NOISY", "CLEAN"), help=text)
    not_given = dict.fromkeys(("train_dir", "val_dir", "stride", "train_h5", "val_h5"))
    parser.set_defaults(**{**defaults, **not_given})
    options = with_defaults(Options(**vars(parser.parse_args(argv))), defaults)
    for wrong, message in conflicts(options):
        if wrong:
            parser.error(message)
    return options


def name_of_pairs(h5: str) -> str:
    """The h5 file for pairs: they get files of their own and replace no other data set."""
    return str(Path(h5).with_stem(Path(h5).stem.replace("data", "pairs")))


def with_defaults(options: Options, defaults: dict) -> Options:
    """The options with what was not given filled in: h5 files, stride, and for pairs the folder."""

    def h5(name: str) -> str:
        return name_of_pairs(defaults[name]) if options.pairs else defaults[name]

    two_folders = options.pairs and not any("*" in word for word in options.pairs)
    return dataclasses.replace(
        options,
        train_dir=options.train_dir or (["."] if two_folders else None),
        train_h5=options.train_h5 or h5("train_h5"),
        val_h5=options.val_h5 or h5("val_h5"),
        stride=options.stride or defaults["stride"] or options.patch_size,
    )


def conflicts(options: Options) -> Iterator[tuple[bool, str]]:
    """(whether the options have it, message) of what does not go together."""
    size, stride, resize = options.patch_size, options.stride, options.resize
    yield (
        bool(options.holdout and options.val_dir),
        "--holdout and --val_dir both say what to validate on: give one of them",
    )
    yield 0 < resize < size, f"--resize {resize} is below --patch_size {size}"
    yield (
        Path(options.train_h5).resolve() == Path(options.val_h5).resolve(),
        f"--train_h5 and --val_h5 are both {options.train_h5}",
    )
    for name, used in (("--resize", resize), ("--shrink", options.shrink > 1)):
        yield bool(options.pairs and used), f"{name} would take the noise out of --pairs"
    yield (
        bool(options.pairs and not options.train_dir),
        "--pairs with patterns needs --train_dir, the folders to look in",
    )
    yield (
        stride > size,
        f"a stride of {stride} above a patch size of {size} would leave out parts of the pictures",
    )


def settings_of(options: Options, defaults: dict) -> dict:
    """What the h5 files say of how they were made."""
    settings = {
        "patch_size": options.patch_size,
        "stride": options.stride,
        "resize": options.resize,
        "shrink": options.shrink,
        "holdout": options.holdout,
        "train_dir": json.dumps(options.train_dir or defaults["train_dir"]),
        "val_dir": one_line(str(options.val_dir or defaults["val_dir"])),
    }
    if options.pairs:
        val_h5 = Path(options.val_h5).resolve()
        beside = val_h5.parent == Path(options.train_h5).resolve().parent
        settings |= {
            "pairs": json.dumps(options.pairs),
            "val_dir": one_line(options.val_dir or ""),
            "val_h5": one_line(val_h5.name if beside else str(val_h5)),
        }
    return settings
