"""What the two test scripts share: their options, the sets and weights they find, and the tables
they print."""

import argparse
import dataclasses
import json
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

import utils
from models import SMNet
from smnet import devices, sheets
from smnet.cli import make_parser, number
from smnet.evaluation import AUTHORS, Protocol, averages, evaluate
from smnet.images import (
    SAMPLE_TEST,
    Picture,
    PictureFiles,
    download_advice,
    find_pictures,
    sample_pictures,
    to_float,
    write_picture,
)
from smnet.pairs import find_pairs
from smnet.patches import read_pictures
from smnet.results import as_csv, as_json, paper_results
from smnet.tables import table
from utils import SMNetError, describe, find_model


def test(argv: list[str] | None, *, description: str, defaults: dict, channels: int) -> int:
    """The command of test_gray.py (channels 1) and test_rgb.py (3): tables for every set and sigma
    asked for.

    What cannot be done is said at the end, and the rest done; returns 0, or 1 if something could
    not.
    """
    args = parse_args(argv, description=description, defaults=defaults, channels=channels)
    device = devices.pick_device(args.device)
    if args.save_dir:
        utils.make_folder(args.save_dir)
    for file in filter(None, (args.json, args.csv)):
        utils.check_target(file)
    problems: list[str] = []
    sets = {}
    for wanted in args.test_data:
        name = Path(wanted).resolve().name
        try:
            sets[wanted if name in sets else name] = load_set(
                wanted, args.data_dir, channels, problems, pairs=args.pairs
            )
        except SMNetError as error:
            problems.append(str(error))
    protocol = Protocol(
        **{field.name: vars(args)[field.name] for field in dataclasses.fields(Protocol)}
    )
    reports = []
    for sigma in (args.test_noiseL if args.mode != "R" else [None]) if sets else []:
        try:
            model, weights = find_model(
                channels, sigma if args.mode == "S" else None, real=args.mode == "R",
                weights=args.weights, weights_dir=args.weights_dir, checkpoint=args.checkpoint,
            )  # fmt: skip
        except SMNetError as error:
            if str(error) not in problems:
                problems.append(str(error))
            continue
        model.to(device, memory_format=torch.channels_last)
        for name, pictures in sets.items():
            report = {
                "set": name,
                "sigma": sigma,
                "mode": args.mode,
                **weights,
                "protocol": str(protocol),
            }
            report["paper"] = {} if protocol != AUTHORS else paper_results(name, sigma)
            save = None
            if args.save_dir:
                folder = Path(args.save_dir) / folder_name(report)
                report["saved"] = str(folder)
                save = saver(folder, model if args.save_stages else None)
            scores = evaluate(
                model,
                pictures,
                sigma=sigma,
                protocol=protocol,
                baseline=args.baseline,
                on_stages=save,
            )
            reports.append((report, scores))
            print(table(report, scores), end="\n\n", flush=True)
    if args.json and reports:
        content = [
            {**report, "mean": as_json(averages(s)), "pictures": list(map(as_json, s))}
            for report, s in reports
        ]
        with utils.replacing(args.json) as temporary:
            temporary.write_text(json.dumps(content, indent=1) + "\n")
    if args.csv and reports:
        with utils.replacing(args.csv) as temporary:
            temporary.write_text(as_csv(reports), encoding="utf-8")
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    return 1 if problems else 0


def parse_args(
    argv: list[str] | None, *, description: str, defaults: dict, channels: int
) -> argparse.Namespace:
    """Read a test script's command line; the script's `all_data` and `all_noiseL` are what `all`
    stands for."""
    parser = make_parser(description)
    option, sigma = parser.add_argument, number(float, 0, 255)
    known = " ".join(defaults["all_data"])
    text = f"test sets: {known} in --data_dir, sample, any folder of pictures, or all: those of the first that are there"
    option(
        "--test_data",
        nargs="+",
        metavar="NAME|DIR",
        help=f"{text} (default: {' '.join(defaults['test_data'])}; mode R: {' '.join(defaults['real_data'])})",
    )
    text = f"sigma of the test noise, grey levels 0-255, or all: {' '.join(map(str, defaults['all_noiseL']))}"
    option(
        "--test_noiseL",
        nargs="+",
        metavar="SIGMA",
        type=lambda t: t if t == "all" else sigma(t),
        help=f"{text} (default: {' '.join(map(str, defaults['test_noiseL']))})",
    )
    text = "S: the network trained at the sigma of the test, B: the blind one, R: that of real noise, tested on pairs"
    option("--mode", choices=["S", "B", "R"], help=f"{text} (default: %(default)s)")
    text = "mode R: patterns of the names of noisy and clean pictures in a test set, or two folders in it"
    option(
        "--pairs",
        nargs=2,
        metavar=("NOISY", "CLEAN"),
        help=f"{text} (default: {' '.join(defaults['pairs'])})",
    )
    text = "epoch of the weights in --weights_dir (default: the highest there; where there are none, those in pretrained/)"
    option("-c", "-checkpoint", "--checkpoint", type=number(int, 1), metavar="N", help=text)
    option(
        "--weights",
        metavar="FILE",
        help="the weights to use, ours or the authors', whatever --mode says (a .pth file)",
    )
    option(
        "--weights_dir",
        metavar="DIR",
        help="folder that train_*.py wrote weights to (default: %(default)s)",
    )
    option("--data_dir", metavar="DIR", help="folder of the test sets (default: %(default)s)")
    text = "draws of noise a picture, whose figures are averaged, 0: the authors', 1 for gray and 3 for RGB (default: 0)"
    option("--repeats", type=number(int, 0), default=0, metavar="N", help=text)
    option("--clip", action="store_true", help="clip the noisy pictures to [0, 1]")
    option(
        "--quantize", action="store_true", help="round results to 8 bits before they are measured"
    )
    if channels == 3:
        option("--y_channel", action="store_true", help="measure the luma (BT.601) alone")
    option(
        "--self_ensemble",
        action="store_true",
        help="average over the eight orientations of a picture: better, 8 times as long",
    )
    option(
        "--baseline",
        action="store_true",
        help="measure the best Gaussian blur and scikit-image's NL-means, too",
    )
    option(
        "--save_dir",
        metavar="DIR",
        help="write clean, noisy, denoised and noise mask (+ 0.5) there, as PNG",
    )
    text = "with --save_dir: write a sheet of noise mask, residual, output and attention of every picture, too (see the README)"
    option("--save_stages", action="store_true", help=text)
    option("--json", metavar="FILE", help="write all figures there, as JSON")
    option("--csv", metavar="FILE", help="write a row per picture there, as CSV")
    option("--device", metavar="NAME", help="auto, cpu, cuda, cuda:1 or mps (default: %(default)s)")
    parser.set_defaults(
        **{
            key: value
            for key, value in defaults.items()
            if key not in ("all_data", "all_noiseL", "real_data")
        }
    )
    parser.set_defaults(
        test_data=None,
        test_noiseL=None,
        pairs=None,
        **({"y_channel": False} if channels == 1 else {}),
    )
    args = parser.parse_args(argv)
    if args.checkpoint and args.weights:
        parser.error(
            "--checkpoint is an epoch of the weights in --weights_dir, --weights a file: give one of them"
        )
    real = args.mode == "R"
    if real and (args.clip or args.repeats or args.test_noiseL):
        parser.error(
            "--test_noiseL, --clip and --repeats are of synthetic noise, which --mode R has none of"
        )
    args.test_noiseL = args.test_noiseL or defaults["test_noiseL"]
    if args.pairs and not real:
        parser.error(f"--pairs are of real noise: give --mode R, not {args.mode}")
    all_data = defaults["real_data" if real else "all_data"]
    args.pairs = args.pairs or (defaults["pairs"] if real else None)
    args.test_data = args.test_data or (all_data if real else defaults["test_data"])
    if args.save_stages and not args.save_dir:
        parser.error("--save_stages needs --save_dir, the folder that the sheets go to")
    args.test_noiseL = list(
        dict.fromkeys(defaults["all_noiseL"] if "all" in args.test_noiseL else args.test_noiseL)
    )
    if "all" in args.test_data:
        there = [name for name in all_data if (Path(args.data_dir) / name).is_dir()]
        args.test_data = [*(name for name in args.test_data if name != "all"), *(there or all_data)]
    return args


def load_set(
    wanted: str,
    data_dir: str,
    channels: int,
    problems: list[str],
    *,
    pairs: tuple[str, str] | None = None,
) -> list[Picture]:
    """A test set's pictures; unreadable ones are named in `problems` and left out.

    `pairs`, where noisy partners are wanted: the two patterns or folders of `find_pairs`. A .h5
        file of validation pictures or
    pairs, as dataset*.py write, is a test set as well.

    Raises:
        SMNetError: no such set or folder, or no readable picture in it.
    """
    if Path(wanted).suffix == ".h5":
        found = read_pictures(wanted, channels, pairs=None)
        if bool(pairs) != (found[0].noisy is not None):
            raise SMNetError(
                f"{wanted} holds {'no ' * bool(pairs)}pairs of real noise, which --mode R and no other is for"
            )
        return found
    if wanted == "sample" and not pairs:
        return sample_pictures(SAMPLE_TEST, channels)
    folder = next((path for path in (Path(data_dir) / wanted, Path(wanted)) if path.is_dir()), None)
    if folder is None:
        ways = f"{download_advice(wanted)}{', or' if download_advice(wanted) else ';'} put its pictures there"
        ways += "" if pairs else ", or give --test_data sample for scikit-image's photographs"
        there = (
            sorted(p.name for p in Path(data_dir).iterdir() if p.is_dir())
            if Path(data_dir).is_dir()
            else []
        )
        raise SMNetError(
            f"no test set {wanted}: neither {Path(data_dir) / wanted} nor {wanted} is a folder; {describe(there, data_dir)}"
            f"{ways}"
        )
    if pairs:
        files, without_partner = find_pairs([folder], *pairs)
        problems += [f"skipped {problem}" for problem in without_partner]
    else:
        paths = find_pictures(folder)
        stems = [path.relative_to(folder).with_suffix("") for path in paths]
        names = [
            str(s) if stems.count(s) == 1 else str(path.relative_to(folder))
            for path, s in zip(paths, stems)
        ]
        files = [PictureFiles(name, path) for name, path in zip(names, paths)]
    pictures = []
    for file in files:
        try:
            pictures.append(file.read(channels))
        except SMNetError as error:
            problems.append(f"skipped {error}")
    if not pictures:
        raise SMNetError(
            f"none of the {len(files)} {'pairs' if pairs else 'pictures'} in {folder} can be read"
        )
    return pictures


def folder_name(report: dict) -> str:
    """The folder for a run's pictures, of set, noise, weights and protocol."""
    noise = "real" if report["sigma"] is None else f"sigma{report['sigma']:g}"
    protocol = report["protocol"].replace(", ", "_").replace(" ", "_")
    return "_".join(
        filter(None, [report["set"].strip("/."), noise, Path(report["weights"]).stem, protocol])
    )


def saver(
    folder: Path, model: SMNet | None
) -> Callable[[str, Tensor, Tensor, Tensor, Tensor], None]:
    """An `on_stages` for `evaluate` that writes four PNG files a picture, and with a model a sheet
    of its stages."""

    def save(name: str, clean: Tensor, noisy: Tensor, noise_mask: Tensor, output: Tensor) -> None:
        for what, picture in (
            ("clean", clean),
            ("noisy", noisy),
            ("denoised", output),
            ("mask", noise_mask + 0.5),
        ):
            write_picture(folder / f"{name}_{what}.png", picture)
        if model:
            write_picture(
                folder / f"{name}_stages.png",
                to_float(sheets.stages(model, noisy).transpose(2, 0, 1)),
            )

    return save
