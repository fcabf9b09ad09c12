"""The options that the two test scripts share, and what they stand for."""

import argparse
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

from smnet.cli import make_parser, number
from smnet.evaluation import WHOLE
from smnet.tiling import LARGEST, SMALLEST


def parse_args(
    argv: list[str] | None, *, description: str, defaults: dict, channels: int
) -> argparse.Namespace:
    """Read a test script's command line.

    `defaults` are the script's; `test_data`, `test_noiseL` and `pairs` stay None where they are not
    given, since their defaults depend on the mode: `wanted_sets`, `wanted_sigmas`, `wanted_pairs`.
    """
    parser = make_parser(description)
    for flags, text, more in options(defaults):
        parser.add_argument(*flags, help=text, **more)
    if channels == 3:
        text = "measure the luma (BT.601) alone"
        parser.add_argument("--y_channel", action="store_true", help=text)
    else:
        parser.set_defaults(y_channel=False)
    args = parser.parse_args(argv)
    for wrong, message in conflicts(args):
        if wrong:
            parser.error(message)
    return args


def options(defaults: dict) -> Iterator[tuple[list[str], str, dict]]:
    """(flags, help text, what else argparse takes) of each option."""

    def option(flags: str, text: str, **more) -> tuple[list[str], str, dict]:
        return flags.split(), text, more

    def preset(name: str, text: str, **more) -> tuple[list[str], str, dict]:
        shown = f"{text} (default: {defaults[name]})"
        return option(f"--{name}", shown, default=defaults[name], **more)

    def words(name: str) -> str:
        return " ".join(map(str, defaults[name]))

    sigma, flag = number(float, 0, 255), {"action": "store_true"}
    text = (
        f"test sets: {words('all_data')} in --data_dir, sample, any folder of pictures, an .h5 "
        "file of validation pictures, or all: those of the named sets that are there (default: "
        f"{words('test_data')}; mode R: {words('real_data')})"
    )
    yield option("--test_data", text, nargs="+", metavar="NAME|DIR")
    text = (
        f"sigma of the test noise, grey levels 0-255, or all: {words('all_noiseL')} "
        f"(default: {words('test_noiseL')})"
    )
    sigma_or_all = {"type": lambda word: word if word == "all" else sigma(word)}
    yield option("--test_noiseL", text, nargs="+", metavar="SIGMA", **sigma_or_all)
    text = "S: the network trained at the test's sigma, B: blind, R: real noise, tested on pairs"
    yield preset("mode", text, choices=["S", "B", "R"])
    text = (
        "mode R: name patterns of the noisy and the clean pictures in a test set, or two folders "
        f"in it (default: {words('pairs')})"
    )
    yield option("--pairs", text, nargs=2, metavar=("NOISY", "CLEAN"))
    text = (
        "epoch of the weights in --weights_dir, or best: those with the highest validation PSNR "
        "(default: the highest epoch; if there are none, the weights in pretrained/ are used)"
    )
    epoch = number(int, 1)
    epoch_or_best = {"type": lambda word: word if word == "best" else epoch(word)}
    yield option("-c -checkpoint --checkpoint", text, metavar="N|best", **epoch_or_best)
    text = "weights to use, ours or the authors', whatever --mode says (a .pth file)"
    yield option("--weights", text, metavar="FILE")
    yield preset("weights_dir", "folder that train_*.py wrote weights to", metavar="DIR")
    yield preset("data_dir", "folder of the test sets", metavar="DIR")
    text = (
        "draws of noise a picture, whose figures are averaged; 0: the authors', 1 for gray and 3 "
        "for RGB (default: 0)"
    )
    yield option("--repeats", text, type=number(int, 0), default=0, metavar="N")
    yield option("--clip", "clip the noisy pictures to [0, 1]", **flag)
    yield option("--quantize", "round results to 8 bits before they are measured", **flag)
    text = "compute in bf16 or fp16: faster where the device has it, PSNR less than 0.01 dB apart"
    yield option("--amp", text, **flag)
    text = "average over the eight orientations of a picture: better, 8 times as long"
    yield option("--self_ensemble", text, **flag)
    text = (
        f"side of the tiles that larger pictures are cut into, pixels, at least {SMALLEST}; 0: "
        f"whole pictures (default: whole up to {WHOLE / 1e6:g} megapixel, above it tiles of "
        f"{LARGEST}; for networks of --shuffle 2 both sides are doubled)"
    )
    yield option("--tile", text, type=number(int, 0), metavar="N")
    text = "also measure the best Gaussian blur and scikit-image's NL-means"
    yield option("--baseline", text, **flag)
    text = "write clean, noisy, denoised and noise mask (+ 0.5) there, as PNG"
    yield option("--save_dir", text, metavar="DIR")
    text = (
        "with --save_dir: also write a sheet of noise mask, residual, output and attention for "
        "each picture"
    )
    yield option("--save_stages", text, **flag)
    yield option("--json", "write all results there, as JSON", metavar="FILE")
    yield option("--csv", "write a row per picture there, as CSV", metavar="FILE")
    yield preset("device", "auto, cpu, cuda, cuda:1 or mps", metavar="NAME")


def conflicts(args: argparse.Namespace) -> list[tuple[bool, str]]:
    """(whether the command line has it, message) of what does not go together."""
    real = args.mode == "R"
    return [
        (
            bool(args.checkpoint and args.weights),
            "--checkpoint names weights in --weights_dir, --weights is a file: give one of them",
        ),
        (
            bool(real and (args.clip or args.repeats or args.test_noiseL)),
            "--test_noiseL, --clip and --repeats are for synthetic noise, but --mode R tests on "
            "real noise",
        ),
        (
            bool(args.pairs and not real),
            f"--pairs is for real noise: give --mode R, not {args.mode}",
        ),
        (
            0 < (args.tile or 0) < SMALLEST,
            f"--tile {args.tile}: the smallest tiles have {SMALLEST} pixels; 0: whole pictures",
        ),
        (
            bool(args.save_stages and not args.save_dir),
            "--save_stages needs --save_dir, the folder that the sheets go to",
        ),
    ]


def wanted_sets(args: argparse.Namespace, defaults: dict) -> list[str]:
    """The test sets asked for; `all` stands for those of the script that exist, or all of them."""
    known = defaults["real_data" if args.mode == "R" else "all_data"]
    wanted = args.test_data or (known if args.mode == "R" else defaults["test_data"])
    if "all" not in wanted:
        return list(wanted)
    there = [name for name in known if (Path(args.data_dir) / name).is_dir()]
    return [*(name for name in wanted if name != "all"), *(there or known)]


def wanted_sigmas(args: argparse.Namespace, defaults: dict) -> list[float | None]:
    """The noise levels asked for, `all` expanded, each once; [None] for real noise."""
    if args.mode == "R":
        return [None]
    wanted = args.test_noiseL or defaults["test_noiseL"]
    expanded = (defaults["all_noiseL"] if sigma == "all" else [sigma] for sigma in wanted)
    return list(dict.fromkeys(chain.from_iterable(expanded)))


def wanted_pairs(args: argparse.Namespace, defaults: dict) -> tuple[str, str] | None:
    """The patterns or folders of pairs of real noise; None where the noise is synthetic."""
    return tuple(args.pairs or defaults["pairs"]) if args.mode == "R" else None
