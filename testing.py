"""What the two test scripts share: their options, the sets and weights they find, and the tables they print."""

import argparse
import csv
import io
import json
import math
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import sheets
import utils
from evaluation import Score, averages, evaluate, paper_results
from models import SMNet
from pictures import SAMPLE_TEST, find_pictures, read_picture, sample_pictures, to_float, write_picture
from utils import SMNetError, describe, make_parser, number


def test(argv: list[str] | None, *, description: str, defaults: dict, channels: int) -> int:
    """The command of test_gray.py (channels 1) and test_rgb.py (3): tables for every set and sigma asked for.

    What cannot be done is said at the end, and the rest done; returns 0, or 1 if something could not.
    """
    args = parse_args(argv, description=description, defaults=defaults)
    device = utils.pick_device(args.device)
    if args.save_dir:
        utils.make_folder(args.save_dir)
    for file in filter(None, (args.json, args.csv)):
        utils.check_target(file)
    problems: list[str] = []
    sets = {}
    for wanted in args.test_data:
        name = Path(wanted).resolve().name
        try:
            sets[wanted if name in sets else name] = load_set(wanted, args.data_dir, channels, problems)
        except SMNetError as error:
            problems.append(str(error))
    reports = []
    for sigma in args.test_noiseL if sets else []:
        try:
            model, weights = find_model(
                channels, sigma if args.mode == "S" else None,
                weights=args.weights, weights_dir=args.weights_dir, checkpoint=args.checkpoint,
            )  # fmt: skip
        except SMNetError as error:
            if str(error) not in problems:
                problems.append(str(error))
            continue
        model.to(device, memory_format=torch.channels_last)
        for name, pictures in sets.items():
            folder = Path(args.save_dir or "") / f"{name.strip('/.')}_sigma{sigma:g}"
            save = saver(folder, model if args.save_stages else None) if args.save_dir else None
            scores = evaluate(model, pictures, sigma=sigma, baseline=args.baseline, on_stages=save)
            report = {"set": name, "sigma": sigma, "mode": args.mode, **weights, "paper": paper_results(name, sigma)}
            reports.append((report, scores))
            print(table(report, scores), end="\n\n", flush=True)
    if args.json and reports:
        content = [{**report, "mean": as_json(averages(s)), "pictures": list(map(as_json, s))} for report, s in reports]
        with utils.replacing(args.json) as temporary:
            temporary.write_text(json.dumps(content, indent=1) + "\n")
    if args.csv and reports:
        with utils.replacing(args.csv) as temporary:
            temporary.write_text(as_csv(reports))
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    return 1 if problems else 0


def parse_args(argv: list[str] | None, *, description: str, defaults: dict) -> argparse.Namespace:
    """Read a test script's command line; the script's `all_data` and `all_noiseL` are what `all` stands for."""
    parser = make_parser(description)
    option, sigma = parser.add_argument, number(float, 0, 255)
    known = " ".join(defaults["all_data"])
    text = f"test sets: {known} in --data_dir, sample, any folder of pictures, or all: those of the first that are there"
    option("--test_data", nargs="+", metavar="NAME|DIR", help=f"{text} (default: {' '.join(defaults['test_data'])})")
    text = f"sigma of the test noise, grey levels 0-255, or all: {' '.join(map(str, defaults['all_noiseL']))}"
    option("--test_noiseL", nargs="+", metavar="SIGMA", type=lambda t: t if t == "all" else sigma(t),
           help=f"{text} (default: {' '.join(map(str, defaults['test_noiseL']))})")  # fmt: skip
    text = "S: the network trained at the sigma of the test, B: the blind one"
    option("--mode", choices=["S", "B"], help=f"{text} (default: %(default)s)")
    text = "epoch of the weights in --weights_dir (default: the highest there)"
    option("-c", "-checkpoint", "--checkpoint", type=number(int, 1), metavar="N", help=text)
    option("--weights", metavar="FILE", help="the weights to use, ours or the authors', whatever --mode says (a .pth file)")
    option("--weights_dir", metavar="DIR", help="folder that train_*.py wrote weights to (default: %(default)s)")
    option("--data_dir", metavar="DIR", help="folder of the test sets (default: %(default)s)")
    option("--baseline", action="store_true", help="measure the best Gaussian blur and scikit-image's NL-means, too")
    option("--save_dir", metavar="DIR", help="write noisy, denoised and noise mask (+ 0.5) there, as PNG")
    text = "with --save_dir: write a sheet of noise mask, residual, output and attention of every picture, too (see the README)"
    option("--save_stages", action="store_true", help=text)
    option("--json", metavar="FILE", help="write all figures there, as JSON")
    option("--csv", metavar="FILE", help="write a row per picture there, as CSV")
    option("--device", metavar="NAME", help="auto, cpu, cuda, cuda:1 or mps (default: %(default)s)")
    parser.set_defaults(**{key: value for key, value in defaults.items() if not key.startswith("all_")})
    args = parser.parse_args(argv)
    if args.save_stages and not args.save_dir:
        parser.error("--save_stages needs --save_dir, the folder that the sheets go to")
    if "all" in args.test_noiseL:
        args.test_noiseL = defaults["all_noiseL"]
    if "all" in args.test_data:
        there = [name for name in defaults["all_data"] if (Path(args.data_dir) / name).is_dir()]
        args.test_data = [*(name for name in args.test_data if name != "all"), *(there or defaults["all_data"])]
    return args


def load_set(wanted: str, data_dir: str, channels: int, problems: list[str]) -> list[tuple[str, np.ndarray]]:
    """(name, uint8 (C, H, W)) of a test set's pictures; unreadable ones are named in `problems` and left out.

    Raises:
        SMNetError: no such set or folder, or no readable picture in it.
    """
    if wanted == "sample":
        return sample_pictures(SAMPLE_TEST, channels)
    folder = next((path for path in (Path(data_dir) / wanted, Path(wanted)) if path.is_dir()), None)
    if folder is None:
        there = sorted(p.name for p in Path(data_dir).iterdir() if p.is_dir()) if Path(data_dir).is_dir() else []
        raise SMNetError(
            f"no test set {wanted}: neither {Path(data_dir) / wanted} nor {wanted} is a folder; {describe(there, data_dir)}. "
            "Put its pictures there, or give --test_data sample for scikit-image's photographs"
        )
    paths = find_pictures(folder)
    stems = [path.relative_to(folder).with_suffix("") for path in paths]
    pictures = []
    for path, stem in zip(paths, stems):
        try:
            name = str(stem) if stems.count(stem) == 1 else str(path.relative_to(folder))
            pictures.append((name, read_picture(path, channels)))
        except SMNetError as error:
            problems.append(f"skipped {error}")
    if not pictures:
        raise SMNetError(f"none of the {len(paths)} pictures in {folder} can be read")
    return pictures


def find_model(
    channels: int, noiseL: float | None, *, weights: str | None, weights_dir: str, checkpoint: int | None = None
) -> tuple[SMNet, dict]:
    """The network for a sigma (None: the blind one) and what to report of it.

    Args:
        channels: of the pictures, 1 or 3.
        noiseL: sigma that it was trained at, grey levels.
        weights: a .pth file that is taken instead.
        weights_dir: folder that train_*.py wrote to.
        checkpoint: epoch; None: the highest there.

    Raises:
        SMNetError: no such weights, or they are for other pictures; the message names the command that makes them.
    """
    kind = "gray" if channels == 1 else "rgb"
    if weights:
        path = Path(weights)
    else:
        run = utils.run_name(channels, noiseL)
        epochs = utils.epochs_on_disk(weights_dir, run)
        path = Path(weights_dir) / f"{run}_{checkpoint or (epochs[-1] if epochs else 'N')}.pth"
        if not path.is_file():
            there = sorted(p.name for p in Path(weights_dir).glob("*.pth") if "_state" not in p.stem)
            command = f"train_{kind}_blind.py" if noiseL is None else f"train_{kind}.py --noiseL {noiseL:g}"
            raise SMNetError(
                f"no weights {path}; {describe(there, weights_dir)}. Make them: python {command}, or give --weights FILE"
            )
    content = utils.read_checkpoint(path)
    model = utils.model_from_checkpoint(content, path).eval()
    if model.channels != channels:
        theirs = "RGB" if model.channels == 3 else "gray"
        raise SMNetError(f"{path} is for {theirs} pictures, not {'gray' if channels == 1 else 'RGB'} ones")
    return model, {"weights": str(path), "epoch": content.get("epoch"), "width": model.width}


def saver(folder: Path, model: SMNet | None) -> Callable[[str, Tensor, Tensor, Tensor], None]:
    """An `on_stages` for `evaluate` that writes three PNG files a picture, and with a model a sheet of its stages."""

    def save(name: str, noisy: Tensor, noise_mask: Tensor, output: Tensor) -> None:
        for what, picture in (("noisy", noisy), ("denoised", output), ("mask", noise_mask + 0.5)):
            write_picture(folder / f"{name}_{what}.png", picture)
        if model:
            write_picture(folder / f"{name}_stages.png", to_float(sheets.stages(model, noisy).transpose(2, 0, 1)))

    return save


# ------------------------------------------------------------------------------------------------------------ reporting


def table(report: dict, scores: list[Score]) -> str:
    """The figures of one set at one sigma as aligned text, with the mean and the paper's means below."""
    methods = list(scores[0].psnr)
    rows = [*scores, averages(scores)]
    first = max(len("picture"), *(len(row.name) for row in rows))
    epoch = f"epoch {report['epoch']}, " if report["epoch"] else ""
    ours = f"SMNet-{report['mode']}"
    beside = ours in report["paper"]
    lines = [
        f"{report['set']}, sigma {report['sigma']:g}, {report['weights']} ({epoch}width {report['width']})",
        " " * first + "".join(f"{method:>17}" for method in methods) + f"   paper's {ours}" * beside,
        "picture".ljust(first) + "      PSNR   SSIM" * len(methods) + "   PSNR".rjust(18) * beside,
    ]
    for row in rows:
        if row is rows[-1]:
            lines.append("-" * (first + 17 * len(methods)))
        lines.append(row.name.ljust(first) + "".join(f"{row.psnr[m]:10.2f} {row.ssim[m]:6.4f}" for m in methods))
    lines[-1] += f"{report['paper'][ours]:18.2f}" if beside else ""
    lines.append(f"SMNet takes {rows[-1].seconds:.2f} s a picture")
    if report["paper"]:
        lines.append("paper, PSNR: " + ", ".join(f"{method} {value:.2f}" for method, value in report["paper"].items()))
    return "\n".join(lines)


def as_json(score: Score) -> dict:
    """A score as JSON has it: what is no finite number (PSNR of equal pictures, SSIM of tiny ones) becomes null."""

    def finite(values: dict[str, float]) -> dict[str, float | None]:
        return {method: value if math.isfinite(value) else None for method, value in values.items()}

    return {"name": score.name, "psnr": finite(score.psnr), "ssim": finite(score.ssim), "seconds": score.seconds}


def as_csv(reports: list[tuple[dict, list[Score]]]) -> str:
    """A row per set, sigma and picture, with PSNR and SSIM of every method."""
    methods = list(reports[0][1][0].psnr)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["set", "sigma", "weights", "picture", *(f"{kind}_{m}" for m in methods for kind in ("psnr", "ssim"))])
    for report, scores in reports:
        for score in [*scores, averages(scores)]:
            figures = [f"{values[m]:.4f}" for m in methods for values in (score.psnr, score.ssim)]
            writer.writerow([report["set"], f"{report['sigma']:g}", report["weights"], score.name, *figures])
    return text.getvalue()
