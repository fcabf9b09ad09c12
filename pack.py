"""Make a small file of trained weights for others, with a card that says where it comes from, as in
pretrained/.

    python pack.py weights/model_gray_B_19.pth --log logs/model_gray_B.jsonl \\
        --val_h5 val_gray_data.h5 --results results/gray_B.json \\
        --made_by "python train_gray_blind.py --width 16 ..." --data "BSDS500 train and test" \\
        --commit 0123456789 --output packed

Writes packed/gray_B.pth (weights alone, in half precision where that changes the validation
PSNR by at most 0.005 dB), gray_B.jsonl (the log) and gray_B.md (the card: commit, command, data,
hours, PSNR, SHA-256).
"""

import argparse
import dataclasses
import hashlib
import io
import json
import re
from pathlib import Path

import torch

import utils
from models import SMNet
from smnet import tables
from smnet.cli import make_parser, refuse_overwrite, run_script
from smnet.evaluation import averages, evaluate, noise_name
from smnet.patches import read_pictures
from smnet.results import Run, network_name, read_log, read_runs
from utils import COLORS, SMNetError, replacing

GREATEST_LOSS = 0.005  # dB that half precision may cost
GREATEST_SIZE = 4_000_000  # bytes of a file
TRAINING = ("epoch", "step", "noise_range", "val_psnr", "val_sigma")  # kept of a checkpoint


@dataclasses.dataclass(frozen=True)
class Package:
    """Weights as they are packed."""

    content: bytes  # of the .pth file
    precision: str  # half or single
    loss: float  # dB that half precision costs on the validation pictures


def main(argv: list[str] | None = None) -> int:
    """The command."""
    args = parse_args(argv)
    checkpoint = utils.read_checkpoint(args.weights)
    model = utils.model_from_checkpoint(checkpoint, args.weights).eval()
    if not checkpoint.keys() >= set(TRAINING):
        raise SMNetError(
            f"{args.weights} does not say how it was trained; give weights that train_*.py of "
            "this version wrote"
        )
    name = args.name or re.sub(r"^model_|_(\d+|best)$", "", Path(args.weights).stem)
    targets = [Path(args.output, f"{name}{ending}") for ending in (".pth", ".jsonl", ".md")]
    for target in targets:
        refuse_overwrite(
            target, overwrite=args.overwrite, advice=", or give another --name or --output"
        )
    runs = read_results(args, checkpoint, model)
    log = read_training_log(args, checkpoint)
    package = pack(model, checkpoint, args)
    text = card(name, model, checkpoint, log, runs, package, args)
    log_text = "".join(json.dumps(line) + "\n" for line in log)
    for target, content in zip(targets, (package.content, log_text.encode(), text.encode())):
        with replacing(target) as temporary:
            temporary.write_bytes(content)
    print(
        f"{targets[0]}: {len(package.content) / 1e6:.2f} MB, {package.precision} precision "
        f"(half costs {package.loss:.4f} dB)"
    )
    return 0


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = make_parser(__doc__)
    option = parser.add_argument
    option("weights", metavar="WEIGHTS", help="weights that train_*.py wrote")
    option("--log", required=True, metavar="JSONL", help="the log of that run")
    text = "validation pictures to compare half and single precision on"
    option("--val_h5", required=True, metavar="FILE", help=text)
    text = "what test_*.py --json wrote, for the card"
    option("--results", nargs="*", default=[], metavar="JSON", help=text)
    text = "the command that trained them, for the card"
    option("--made_by", required=True, metavar="COMMAND", help=text)
    option("--data", required=True, metavar="TEXT", help="what they were trained on, for the card")
    text = "commit of the code that trained them, for the card"
    option("--commit", required=True, metavar="HASH", help=text)
    text = "name of the file (default: that of the weights without model_ and epoch)"
    option("--name", metavar="NAME", help=text)
    text = "folder to write to (default: %(default)s)"
    option("-o", "--output", default="pretrained", metavar="DIR", help=text)
    option("--overwrite", action="store_true", help="replace existing files")
    return parser.parse_args(argv)


def read_results(args: argparse.Namespace, checkpoint: dict, model: SMNet) -> list[Run]:
    """The runs in --results.

    Raises:
        SMNetError: a file cannot be read, or has runs of other weights.
    """
    runs = [run for path in args.results for run in read_runs(path)]
    expected = (Path(args.weights).name, checkpoint["epoch"], model.width, model.shuffle)
    for run in runs:
        if (Path(run.weights).name, run.epoch, run.width, run.shuffle) != expected:
            raise SMNetError(
                f"{', '.join(args.results)}: has results of {run.weights}, not of {args.weights}"
            )
    return runs


def read_training_log(args: argparse.Namespace, checkpoint: dict) -> list[dict]:
    """The lines of --log up to the epoch of the weights.

    Raises:
        SMNetError: it cannot be read, or is another run's.
    """
    lines = [line for line in read_log(args.log) if line["step"] <= checkpoint["step"]]
    last = (lines[-1]["step"], lines[-1]["val_psnr"]) if lines else None
    if last != (checkpoint["step"], checkpoint["val_psnr"]):
        raise SMNetError(f"{args.log} is not the log of the run that {args.weights} is from")
    return lines


def pack(model: SMNet, checkpoint: dict, args: argparse.Namespace) -> Package:
    """The weights alone, in half precision where that costs little.

    Raises:
        SMNetError: the file would be too large.
    """
    halves = {key: value.half() for key, value in model.state_dict().items()}
    shape = {"channels": model.channels, "width": model.width, "shuffle": model.shuffle}
    rounded = utils.model_from_checkpoint({"model": halves, **shape}, args.weights)
    sigma = checkpoint["val_sigma"]
    loss = validate(model, args.val_h5, sigma) - validate(rounded, args.val_h5, sigma)
    in_half = loss <= GREATEST_LOSS
    weights = halves if in_half else model.state_dict()
    file = io.BytesIO()
    training = {key: checkpoint[key] for key in TRAINING}
    torch.save({"model": weights, **shape, **training}, file)
    content = file.getvalue()
    if len(content) > GREATEST_SIZE:
        raise SMNetError(
            f"{args.weights} makes {len(content) / 1e6:.1f} MB, more than "
            f"{GREATEST_SIZE / 1e6:.0f}; nothing was written"
        )
    shown = round(loss, 4) + 0.0  # never minus zero
    return Package(content, "half" if in_half else "single", shown)


def validate(model: SMNet, val_h5: str, sigma: float | None) -> float:
    """Mean PSNR in dB on validation pictures, or on pairs where sigma is None."""
    pictures = read_pictures(val_h5, model.channels, pairs=sigma is None)
    return averages(evaluate(model, pictures, sigma=sigma)).psnr["SMNet"]


def card(
    name: str,
    model: SMNet,
    checkpoint: dict,
    log: list[dict],
    runs: list[Run],
    package: Package,
    args: argparse.Namespace,
) -> str:
    """The text of a card, in Markdown."""
    count = sum(p.numel() for p in model.parameters())
    hours = log[-1]["seconds"] / 3600
    lines = [
        f"# {name}: {COLORS[model.channels]}, {task_name(checkpoint['noise_range'])}",
        "",
        f"SMNet of {network_name(model.width, model.shuffle)} ({count:,} parameters), "
        f"{package.precision} precision (half costs {package.loss:.4f} dB).",
        "",
        f"- commit: `{args.commit}`",
        f"- command: `{args.made_by}`",
        f"- data: {args.data}",
        f"- training: {checkpoint['step']:,} steps, {hours:.2f} hours (validation not counted); "
        f"log: {name}.jsonl",
        f"- validation PSNR: {checkpoint['val_psnr']:.3f} dB at "
        f"{noise_name(checkpoint['val_sigma'])}",
        f"- SHA-256: `{hashlib.sha256(package.content).hexdigest()}`",
    ]
    if runs:
        table = tables.markdown(tables.table_rows(runs)).strip()
        lines += ["", "PSNR in dB by test_*.py; the best of a row in bold:", "", table]
    return "\n".join(lines) + "\n"


def task_name(noise_range: list[float] | None) -> str:
    """What a network was trained for: "sigma 25", "blind, sigma 0 to 55" or "real noise"."""
    if noise_range is None:
        return noise_name(None)
    low, high = noise_range
    return noise_name(low) if low == high else f"blind, sigma {low:g} to {high:g}"


if __name__ == "__main__":
    run_script(main)
