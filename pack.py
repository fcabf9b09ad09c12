"""Make a small file of trained weights for others, with a card that says where it comes from: what
lies in pretrained/.

    python pack.py weights/model_gray_B_19.pth --log logs/model_gray_B.jsonl --val_h5 val_gray_data.h5 \\
        --results results/gray_B.json --made_by "python train_gray_blind.py --width 16 ..." --data
        "BSDS500 train and test" \\ --commit 0123456789

Writes pretrained/gray_B.pth (weights alone, in half precision where that changes the validation
PSNR by at most 0.005 dB), gray_B.jsonl (the log) and gray_B.md (the card: commit, command, data,
hours, PSNR, SHA-256).
"""

import argparse
import hashlib
import io
import json
import re
from pathlib import Path

import torch

import utils
from models import SMNet
from smnet import results, tables
from smnet.cli import make_parser, run_script
from smnet.evaluation import averages, evaluate, noise_name
from smnet.patches import read_pictures
from utils import SMNetError, replacing

GREATEST_LOSS = 0.005  # dB that half precision may cost
GREATEST_SIZE = 2_000_000  # bytes of a file


def main(argv: list[str] | None = None) -> int:
    """The command."""
    args = parse_args(argv)
    content = utils.read_checkpoint(args.weights)
    model = utils.model_from_checkpoint(content, args.weights).eval()
    name = args.name or re.sub(r"^model_|_(\d+|best)$", "", Path(args.weights).stem)
    if not {"step", "epoch", "noise_range", "val_psnr", "val_sigma"} <= content.keys():
        raise SMNetError(
            f"{args.weights} does not say how it was trained; give weights that train_*.py of this version wrote"
        )
    targets = {
        ending: Path(args.output) / f"{name}{ending}" for ending in (".pth", ".jsonl", ".md")
    }
    for target in targets.values():
        if target.exists() and not args.overwrite:
            raise SMNetError(
                f"{target} is there already; give --overwrite to replace it, or another --name or --output"
            )
    problems: list[str] = []
    log = results.read_log(Path(args.log), problems)
    runs = [run for path in args.results for run in results.read_runs(Path(path), problems)]
    expected = (Path(args.weights).name, content["epoch"], model.width)
    foreign = [
        run["weights"]
        for run in runs
        if (Path(run["weights"]).name, run["epoch"], run["width"]) != expected
    ]
    if foreign:
        problems.append(
            f"{', '.join(args.results)}: has results of {foreign[0]}, not of {args.weights}"
        )
    if problems:
        raise SMNetError(problems[0])
    lines = [line for line in log if line["step"] <= content["step"]]
    if not lines or (lines[-1]["step"], lines[-1]["val_psnr"]) != (
        content["step"],
        content["val_psnr"],
    ):
        raise SMNetError(f"{args.log} is not the log of the run that {args.weights} is of")

    halves = {key: value.half() for key, value in model.state_dict().items()}
    half = utils.model_from_checkpoint({"model": halves}, args.weights)
    loss = validate(model, args.val_h5, content["val_sigma"]) - validate(
        half, args.val_h5, content["val_sigma"]
    )
    in_half = loss <= GREATEST_LOSS
    loss = round(loss, 4) + 0.0  # as it is shown, never minus zero
    weights = halves if in_half else model.state_dict()
    training = {
        key: content[key] for key in ("epoch", "step", "noise_range", "val_psnr", "val_sigma")
    }
    packed = io.BytesIO()
    torch.save(
        {"model": weights, "channels": model.channels, "width": model.width, **training}, packed
    )
    size = packed.getbuffer().nbytes
    if size > GREATEST_SIZE:
        raise SMNetError(
            f"{args.weights} makes {size / 1e6:.1f} MB, more than {GREATEST_SIZE / 1e6:.0f}; nothing was written"
        )
    precision = "half" if in_half else "single"
    text = card(
        name,
        model,
        content,
        lines,
        runs,
        args,
        precision=precision,
        loss=loss,
        packed=packed.getvalue(),
    )
    files = {
        ".pth": packed.getvalue(),
        ".jsonl": "".join(json.dumps(line) + "\n" for line in lines).encode(),
        ".md": text.encode(),
    }
    for ending, file in files.items():
        with replacing(targets[ending]) as temporary:
            temporary.write_bytes(file)
    print(
        f"{targets['.pth']}: {size / 1e6:.2f} MB, {precision} precision (half costs {loss:.4f} dB)"
    )
    return 0


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = make_parser(__doc__)
    option = parser.add_argument
    option("weights", metavar="WEIGHTS", help="weights that train_*.py wrote")
    option("--log", required=True, metavar="JSONL", help="the log of that run")
    option(
        "--val_h5",
        required=True,
        metavar="FILE",
        help="validation pictures to compare half and single precision on",
    )
    option(
        "--results",
        nargs="*",
        default=[],
        metavar="JSON",
        help="what test_*.py --json wrote, for the card",
    )
    option(
        "--made_by",
        required=True,
        metavar="COMMAND",
        help="the command that trained them, for the card",
    )
    option("--data", required=True, metavar="TEXT", help="what they were trained on, for the card")
    option(
        "--commit",
        required=True,
        metavar="HASH",
        help="commit of the code that trained them, for the card",
    )
    option(
        "--name",
        metavar="NAME",
        help="of the file (default: that of the weights without model_ and epoch)",
    )
    option(
        "-o",
        "--output",
        default="pretrained",
        metavar="DIR",
        help="folder to write to (default: %(default)s)",
    )
    option("--overwrite", action="store_true", help="replace files that are there")
    return parser.parse_args(argv)


def validate(model: SMNet, val_h5: str, sigma: float | None) -> float:
    """Mean PSNR in dB on validation pictures, or pairs where sigma is None."""
    pictures = read_pictures(val_h5, model.channels, pairs=sigma is None)
    return averages(evaluate(model, pictures, sigma=sigma)).psnr["SMNet"]


def card(
    name: str,
    model: SMNet,
    content: dict,
    log: list[dict],
    runs: list[dict],
    args: argparse.Namespace,
    *,
    precision: str,
    loss: float,
    packed: bytes,
) -> str:
    """The text of a card, in Markdown."""
    levels = content["noise_range"]
    color = "RGB" if model.channels == 3 else "gray"
    if levels is None:
        task = "real noise"
    elif levels[0] == levels[1]:
        task = f"sigma {levels[0]:g}"
    else:
        task = f"blind, sigma {levels[0]:g} to {levels[1]:g}"
    hours = log[-1]["seconds"] / 3600
    lines = [
        f"# {name}: {color}, {task}",
        "",
        f"SMNet of width {model.width} ({sum(p.numel() for p in model.parameters()):,} parameters), {precision} precision "
        f"(half costs {loss:.4f} dB).",
        "",
        f"- commit: `{args.commit}`",
        f"- command: `{args.made_by}`",
        f"- data: {args.data}",
        f"- training: {content['step']:,} steps, {hours:.2f} hours (validation not counted); log: {name}.jsonl",
        f"- on the validation pictures: {content['val_psnr']:.3f} dB at {noise_name(content['val_sigma'])}",
        f"- SHA-256: `{hashlib.sha256(packed).hexdigest()}`",
    ]
    if runs:
        lines += [
            "",
            "PSNR in dB by test_*.py; the best of a row in bold:",
            "",
            tables.markdown(tables.table_rows(runs)).strip(),
        ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    run_script(main)
