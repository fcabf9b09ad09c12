"""Draw what was measured: PSNR against sigma beside the paper's methods, training curves, tables,
crops to look at.

    python test_gray.py --mode B --test_data all --test_noiseL all --json results/gray.json --save_dir results/pictures
    python report.py                                    # results/*.json and logs/*.jsonl -> results/
    python report.py a.json b.json --logs logs/model_gray_B.jsonl -o figures --crops 2

Writes psnr_SET.png, curves.png, table.md and table.tex (the best of a row in bold) and, of test
runs with --save_dir,
crop_SET_NOISE_PICTURE.png: noisy, ours, clean and error, with a box enlarged. The paper's figures
    are from paper_results.csv.
"""

import argparse
import sys
from pathlib import Path

import cv2
import matplotlib
import numpy as np

from smnet.cli import make_parser, number, run_script
from smnet.images import read_picture
from smnet.metrics import to_db
from smnet.results import all_paper_results, read_log, read_runs
from smnet.tables import NOT_METHODS, Row, latex, markdown, row_of, short_names, table_rows
from utils import SMNetError, describe, make_folder, replacing

matplotlib.use("Agg")  # no window: files alone
from matplotlib import pyplot as plt  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402
from matplotlib.patches import Rectangle  # noqa: E402

# --------------------------------------------------------------------------------------------------
# Edit here, or give the option of the same name.
DEFAULTS = dict(
    output="results",  # folder to write to
    crops=3,  # pictures of each test run that crops are drawn of, evenly spread
    box=None,  # row, column and side of the enlarged square, pixels; None: where the clean picture has most detail
    error_gain=5,  # factor by which errors are brightened
)
# --------------------------------------------------------------------------------------------------

OTHER_RUN = 0.5  # dB that a saved picture may differ by from its figure, which is not rounded and may be of several draws


def main(argv: list[str] | None = None) -> int:
    """The command; returns 0, or 1 if a file could not be used."""
    args = parse_args(argv)
    problems: list[str] = []
    runs = [run for path in args.json for run in read_runs(path, problems)]
    read = {path: lines for path in args.logs if (lines := read_log(path, problems))}
    logs = {name: read[path] for path, name in short_names(read).items()}
    if not runs and not logs:
        raise SMNetError("; ".join(problems) or "nothing to report")
    folder = make_folder(args.output)
    written = []
    if runs:
        rows = table_rows(runs)
        for path, text in (
            (folder / "table.md", markdown(rows)),
            (folder / "table.tex", latex(rows)),
        ):
            with replacing(path) as temporary:
                temporary.write_text(text, encoding="utf-8")
            written.append(path)
        print(markdown(rows))
        for name, protocol in dict.fromkeys(
            (row.set, row.protocol) for row in rows if row.sigma is not None
        ):
            target = folder / f"psnr_{file_name(name, protocol)}.png"
            written.append(save(draw_psnr(name, protocol, rows), target))
    if logs:
        written.append(save(draw_curves(logs), folder / "curves.png"))
    saved = [run for run in runs if "saved" in run]
    folders = short_names(run["saved"] for run in saved)
    for run in saved:
        for picture in spread(run["pictures"], args.crops):
            target = folder / f"crop_{file_name(folders[run['saved']], picture['name'])}.png"
            try:
                written.append(
                    save(draw_crop(run, picture, box=args.box, error_gain=args.error_gain), target)
                )
            except SMNetError as error:
                problems.append(str(error))
    print(f"wrote {', '.join(str(path) for path in written)}")
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    return 1 if problems else 0


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line; files that are not named are looked for in results/ and logs/."""
    parser = make_parser(__doc__)
    option, shown = parser.add_argument, "(default: %(default)s)"
    text = "files that test_*.py --json wrote (default, with no --logs: OUTPUT/*.json)"
    option("json", nargs="*", type=Path, metavar="JSON", help=text)
    text = "logs of train_*.py (default, where no JSON is named: logs/*.jsonl)"
    option("--logs", nargs="*", type=Path, metavar="JSONL", help=text)
    option("-o", "--output", metavar="DIR", help=f"folder to write to {shown}")
    option(
        "--crops",
        type=number(int, 0),
        metavar="N",
        help=f"pictures of each test run to draw crops of {shown}",
    )
    text = "the enlarged square, pixels (default: where the clean picture has most detail)"
    option("--box", type=number(int, 0), nargs=3, metavar=("ROW", "COLUMN", "SIDE"), help=text)
    option(
        "--error_gain",
        type=number(float, 0.1),
        metavar="X",
        help=f"factor by which errors are brightened {shown}",
    )
    parser.set_defaults(**DEFAULTS)
    args = parser.parse_args(argv)
    if args.box and args.box[2] < 2:
        parser.error("--box: SIDE must be at least 2 pixels")
    if args.logs is None:
        args.logs = [] if args.json else sorted(Path("logs").glob("*.jsonl"))
        args.json = args.json or sorted(Path(args.output).glob("*.json"))
        if not args.json and not args.logs:
            there = sorted(path.name for path in Path(args.output).glob("*"))
            raise SMNetError(
                f"no results to draw: no .json in {args.output} ({describe(there, args.output)}), no logs/*.jsonl; make some: "
                f"python test_gray.py --json {args.output}/gray.json"
            )
    return args


# ----------------------------------------------------------------------------------------- pictures


def draw_psnr(name: str, protocol: str, rows: dict[Row, dict[str, float]]) -> Figure:
    """PSNR against sigma on one set: ours in strong lines; the paper's methods, where that is the
    protocol, in thin ones."""
    points: dict[str, dict[float, float]] = {}  # by method and sigma
    for (its_set, sigma), row in all_paper_results().items() if not protocol else ():
        if (
            its_set == name
        ):  # the paper's have all their points, whichever sigmas were measured here
            for method, value in row.items():
                points.setdefault(method, {})[sigma] = value
    for key, row in rows.items():
        if (key.set, key.protocol) == (name, protocol) and key.sigma is not None:
            for method in row.keys() - set(NOT_METHODS):
                points.setdefault(method, {})[key.sigma] = row[method]
    figure, axes = plt.subplots(figsize=(8.5, 5), layout="constrained")
    best_first = sorted(points.items(), key=lambda point: -max(point[1].values()))
    for i, (method, values) in enumerate(best_first):
        x, y = zip(*sorted(values.items()))
        ours = method.startswith("ours-")
        axes.plot(
            x,
            y,
            label=method,
            color=plt.get_cmap("tab20")(i % 20),
            marker="osD^v<>"[i % 7],
            markersize=7 if ours else 4,
            linewidth=2.5 if ours else 1,
            linestyle="-" if ours else "--",
            zorder=3 if ours else 2,
        )
    axes.set(
        title=", ".join(filter(None, [name, protocol])),
        xlabel="sigma (grey levels)",
        ylabel="PSNR (dB)",
    )
    axes.grid(alpha=0.3)
    figure.legend(fontsize="small", loc="outside right upper")
    return figure


def draw_curves(logs: dict[str, list[dict]]) -> Figure:
    """Validation and training PSNR of each run against the steps."""
    figure, both = plt.subplots(1, 2, figsize=(12, 5), layout="constrained")
    for axes, key, title in zip(
        both, ("val_psnr", "train_psnr"), ("validation", "training, mean of the epoch")
    ):
        for name, lines in logs.items():
            hours = lines[-1]["seconds"] / 3600
            steps, values = [line["step"] for line in lines], [line[key] for line in lines]
            axes.plot(steps, values, marker=".", label=f"{name} ({hours:.1f} h)")
        axes.set(title=title, xlabel="steps", ylabel="PSNR (dB)")
        axes.grid(alpha=0.3)
    both[0].legend(fontsize="small")
    return figure


def draw_crop(run: dict, picture: dict, *, box: list[int] | None, error_gain: float) -> Figure:
    """Noisy, ours, clean and error of one picture, with a box enlarged below each.

    Raises:
        SMNetError: a picture that the test run saved is not there any more, or is another run's.
    """
    stem = Path(run["saved"]) / picture["name"]
    files = {
        what: stem.with_name(f"{stem.name}_{what}.png") for what in ("noisy", "denoised", "clean")
    }
    noisy, ours, clean = (read_picture(path, 3).transpose(1, 2, 0) for path in files.values())
    error = np.abs(ours.astype(float) - clean) * error_gain
    row, column, side = fit_box(box, clean.shape) if box else busiest_box(clean)
    psnr = picture["psnr"]
    found = to_db(np.square((ours.astype(float) - clean) / 255).mean())
    if (
        psnr["SMNet"] is not None
        and "y channel" not in run["protocol"]
        and abs(found - psnr["SMNet"]) > OTHER_RUN
    ):
        raise SMNetError(
            f"{files['denoised']}: is of another run, {found:.2f} dB in place of {psnr['SMNet']:.2f}"
        )
    panels = {
        f"noisy, {in_db(psnr['noisy'])}": noisy,
        f"ours-{run['mode']}, {in_db(psnr['SMNet'])}": ours,
        "clean": clean,
        f"error x {error_gain:g}": error.clip(0, 255).astype(np.uint8),
    }
    figure, grid = plt.subplots(
        2,
        4,
        figsize=(14, 3.5 + 3.5 * clean.shape[0] / clean.shape[1]),
        layout="constrained",
        height_ratios=[clean.shape[0] / clean.shape[1], 1],
    )
    for (title, pixels), whole, part in zip(panels.items(), *grid):
        whole.imshow(pixels)
        whole.add_patch(
            Rectangle((column, row), side, side, fill=False, edgecolor="red", linewidth=1.5)
        )
        whole.set_title(title)
        part.imshow(pixels[row : row + side, column : column + side], interpolation="nearest")
        for axes in (whole, part):
            axes.set_axis_off()
    figure.suptitle(f"{run['set']}, {picture['name']}, {row_of(run).noise}, {run['weights']}")
    return figure


def busiest_box(clean: np.ndarray) -> tuple[int, int, int]:
    """(row, column, side) of the square, a fifth of the shorter side, that has most detail in (H,
    W, 3)."""
    height, width = clean.shape[:2]
    side = max(2, min(height, width) // 5)
    gray = cv2.cvtColor(clean, cv2.COLOR_RGB2GRAY).astype(np.float32)
    detail = np.abs(cv2.Laplacian(gray, cv2.CV_32F))
    sums = cv2.integral(detail)
    totals = sums[side:, side:] - sums[:-side, side:] - sums[side:, :-side] + sums[:-side, :-side]
    row, column = np.unravel_index(totals.argmax(), totals.shape)
    return int(row), int(column), side


def fit_box(box: list[int], shape: tuple[int, ...]) -> tuple[int, int, int]:
    """A box moved and shrunk into a picture (H, W, ...)."""
    side = min(box[2], *shape[:2])
    return min(box[0], shape[0] - side), min(box[1], shape[1] - side), side


def in_db(value: float | None) -> str:
    """A PSNR as text; JSON's null stands for equal pictures."""
    return "equal" if value is None else f"{value:.2f} dB"


def spread(items: list, count: int) -> list:
    """`count` items at even distances, or all."""
    count = min(count, len(items))
    return [items[i * len(items) // count] for i in range(count)]


def file_name(*words: str) -> str:
    """A part of a file's name from names of sets, pictures and protocols."""
    return (
        "_".join(filter(None, words))
        .strip("/.")
        .replace("/", "_")
        .replace(", ", "_")
        .replace(" ", "_")
    )


def save(figure: Figure, path: Path) -> Path:
    """Write a figure as PNG and return its path."""
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)
    plt.close(figure)
    return path


if __name__ == "__main__":
    run_script(main)
