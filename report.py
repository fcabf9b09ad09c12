"""Draw what was measured: PSNR against sigma beside the paper's methods, training curves, tables, crops to look at.

    python test_gray.py --mode B --test_data all --test_noiseL all --json results/gray.json --save_dir results/pictures
    python report.py                                    # results/*.json and logs/*.jsonl -> results/
    python report.py a.json b.json --logs logs/model_gray_B.jsonl -o figures --crops 2

Writes psnr_SET.png, curves.png, table.md and table.tex (the best of a row in bold) and, of test runs with --save_dir,
crop_SET_NOISE_PICTURE.png: noisy, ours, clean and error, with a box enlarged. The paper's figures are from paper_results.csv.
"""

import argparse
import json
import sys
from pathlib import Path

import cv2
import matplotlib
import numpy as np

from evaluation import all_paper_results
from pictures import read_picture
from utils import SMNetError, describe, make_folder, make_parser, number, replacing, run_script

matplotlib.use("Agg")  # no window: files alone
from matplotlib import pyplot as plt  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402
from matplotlib.patches import Rectangle  # noqa: E402

# ------------------------------------------------------------------------------------------------------------
# Edit here, or give the option of the same name.
DEFAULTS = dict(
    output="results",  # folder to write to
    crops=3,  # pictures of each test run that crops are drawn of, evenly spread
    box=None,  # row, column and side of the enlarged square, pixels; None: where the clean picture has most detail
    error_gain=5,  # factor by which errors are brightened
)
# ------------------------------------------------------------------------------------------------------------

NOT_METHODS = ("noisy",)  # never the best of a row


def main(argv: list[str] | None = None) -> int:
    """The command; returns 0, or 1 if a file could not be used."""
    args = parse_args(argv)
    problems: list[str] = []
    runs = [run for path in args.json for run in read_runs(path, problems)]
    logs = {path.stem: lines for path in args.logs if (lines := read_log(path, problems))}
    if not runs and not logs:
        raise SMNetError("; ".join(problems) or "nothing to report")
    folder = make_folder(args.output)
    written = []
    if runs:
        rows = table_rows(runs)
        for path, text in ((folder / "table.md", markdown(rows)), (folder / "table.tex", latex(rows))):
            with replacing(path) as temporary:
                temporary.write_text(text)
            written.append(path)
        print(markdown(rows))
        for name in dict.fromkeys(run["set"] for run in runs if run["sigma"] is not None):
            written.append(save(draw_psnr(name, rows), folder / f"psnr_{file_name(name)}.png"))
    if logs:
        written.append(save(draw_curves(logs), folder / "curves.png"))
    for run in runs:
        for picture in spread(run["pictures"], args.crops if "saved" in run else 0):
            target = folder / f"crop_{file_name(run['set'])}_{noise_of(run).replace(' ', '')}_{file_name(picture['name'])}.png"
            try:
                written.append(save(draw_crop(run, picture, box=args.box, error_gain=args.error_gain), target))
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
    option("json", nargs="*", type=Path, metavar="JSON", help="files that test_*.py --json wrote (default: OUTPUT/*.json)")
    option("--logs", nargs="*", type=Path, metavar="JSONL", help="logs of train_*.py (default: logs/*.jsonl)")
    option("-o", "--output", metavar="DIR", help=f"folder to write to {shown}")
    option("--crops", type=number(int, 0), metavar="N", help=f"pictures of each test run to draw crops of {shown}")
    text = "the enlarged square, pixels (default: where the clean picture has most detail)"
    option("--box", type=number(int, 0), nargs=3, metavar=("ROW", "COLUMN", "SIDE"), help=text)
    option("--error_gain", type=number(float, 0.1), metavar="X", help=f"factor by which errors are brightened {shown}")
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


# ------------------------------------------------------------------------------------------------------------ reading


def read_runs(path: Path, problems: list[str]) -> list[dict]:
    """The runs in a file of test_*.py --json; what is wrong with it is added to `problems`."""
    try:
        runs = json.loads(path.read_text())
        for run in runs:
            float(run["mean"]["psnr"]["SMNet"])
            _ = run["set"], run["sigma"], run["mode"], run["width"], run["weights"], run["pictures"][0]["name"]
    except OSError as error:
        problems.append(f"{path}: {error.strerror}")
    except (ValueError, KeyError, TypeError, IndexError):
        problems.append(f"{path}: was not written by test_*.py --json")
    else:
        return runs
    return []


def read_log(path: Path, problems: list[str]) -> list[dict]:
    """The lines of a training log; what is wrong with it is added to `problems`."""
    try:
        lines = [json.loads(line) for line in path.read_text().splitlines() if line.strip()]
        for line in lines:
            _ = line["step"] + line["val_psnr"] + line["train_psnr"] + line["seconds"]
    except OSError as error:
        problems.append(f"{path}: {error.strerror}")
    except (ValueError, KeyError, TypeError):
        problems.append(f"{path}: is no training log")
    else:
        return lines
    return []


# ------------------------------------------------------------------------------------------------------------ tables


def noise_of(run: dict) -> str:
    """ "sigma 25" or "real noise"."""
    return "real noise" if run["sigma"] is None else f"sigma {run['sigma']:g}"


def label(run: dict) -> str:
    """What a run's network is called: "ours-S, width 16", and how it was tested where that was not the authors' way."""
    protocol = run.get("protocol")
    return f"ours-{run['mode']}, width {run['width']}" + (f", {protocol}" if protocol else "")


def table_rows(runs: list[dict]) -> dict[tuple[str, float | None], dict[str, float]]:
    """PSNR in dB by method for each (set, sigma), sets in the order of the runs, sigmas rising.

    Ours come last; two networks of one label are told apart by their files.
    """
    files: dict[str, set[str]] = {}
    for run in runs:
        if run["mode"] != "S":  # one file for all sigmas
            files.setdefault(label(run), set()).add(run["weights"])
    rows: dict[tuple[str, float | None], dict[str, float]] = {}
    order = list(dict.fromkeys(run["set"] for run in runs))
    for run in sorted(runs, key=lambda run: (order.index(run["set"]), run["sigma"] or 0)):
        row = rows.setdefault((run["set"], run["sigma"]), {})
        means = dict(run["mean"]["psnr"])
        ours = label(run)
        if len(files.get(ours, ())) > 1 or ours in row:
            ours += f" ({Path(run['weights']).stem})"
        row.update({method: means[method] for method in means if method != "SMNet"})
        row.update(all_paper_results().get((run["set"], run["sigma"]), {}))
        row[ours] = means["SMNet"]
    return rows


def methods_of(rows: dict) -> list[str]:
    """All columns: what was measured beside ours, the paper's, ours."""
    found = list(dict.fromkeys(method for row in rows.values() for method in row))
    return sorted(found, key=lambda method: method.startswith("ours-"))


def cells(row: dict[str, float], methods: list[str], bold: str) -> list[str]:
    """A row's figures with two decimals; the highest as `bold` has it."""
    best = max((f"{row[m]:.2f}" for m in methods if m in row and m not in NOT_METHODS), key=float)
    return [
        "" if m not in row else bold.format(best) if f"{row[m]:.2f}" == best and m not in NOT_METHODS else f"{row[m]:.2f}"
        for m in methods
    ]


def markdown(rows: dict) -> str:
    """The table in Markdown."""
    methods = methods_of(rows)
    lines = ["| set | noise | " + " | ".join(methods) + " |", "|---|---" + "|---" * len(methods) + "|"]
    for (name, sigma), row in rows.items():
        noise = noise_of({"sigma": sigma})
        lines.append(f"| {name} | {noise} | " + " | ".join(cells(row, methods, "**{}**")) + " |")
    return "\n".join(lines) + "\n"


def latex(rows: dict) -> str:
    """The table in LaTeX, for the package booktabs."""
    methods = methods_of(rows)

    def escape(text: str) -> str:
        return "".join(f"\\{char}" if char in "_&%#$" else char for char in text)

    lines = [
        "% needs \\usepackage{booktabs}",
        f"\\begin{{tabular}}{{ll{'r' * len(methods)}}}",
        "\\toprule",
        " & ".join(["Set", "Noise", *map(escape, methods)]) + " \\\\",
        "\\midrule",
    ]
    for (name, sigma), row in rows.items():
        noise = "real" if sigma is None else f"$\\sigma = {sigma:g}$"
        lines.append(" & ".join([escape(name), noise, *cells(row, methods, "\\textbf{{{}}}")]) + " \\\\")
    return "\n".join([*lines, "\\bottomrule", "\\end{tabular}"]) + "\n"


# ------------------------------------------------------------------------------------------------------------ pictures


def draw_psnr(name: str, rows: dict) -> Figure:
    """PSNR against sigma on one set: ours in strong lines, the paper's methods in thin ones."""
    points = {sigma: row for (its_set, sigma), row in rows.items() if its_set == name and sigma is not None}
    paper = {method: {} for method in methods_of(rows) if method not in NOT_METHODS}
    for method in paper:  # the paper's methods have their points at the paper's sigmas, measured here or not
        known = {s: row[method] for (its_set, s), row in all_paper_results().items() if its_set == name and method in row}
        paper[method] = {**known, **{sigma: row[method] for sigma, row in points.items() if method in row}}
    figure, axes = plt.subplots(figsize=(7, 5), layout="constrained")
    for method, values in paper.items():
        if values:
            x, y = zip(*sorted(values.items()))
            ours = method.startswith("ours-")
            axes.plot(x, y, marker="o", label=method, linewidth=2.5 if ours else 1, markersize=7 if ours else 4,
                      linestyle="-" if ours else "--", zorder=3 if ours else 2)  # fmt: skip
    axes.set(title=name, xlabel="sigma (grey levels)", ylabel="PSNR (dB)")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    return figure


def draw_curves(logs: dict[str, list[dict]]) -> Figure:
    """Validation and training PSNR of each run against the steps."""
    figure, both = plt.subplots(1, 2, figsize=(12, 5), layout="constrained")
    for axes, key, title in zip(both, ("val_psnr", "train_psnr"), ("validation", "training, mean of the epoch")):
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
        SMNetError: a picture that the test run saved is not there any more.
    """
    stem = Path(run["saved"]) / picture["name"]
    files = {what: stem.with_name(f"{stem.name}_{what}.png") for what in ("noisy", "denoised", "clean")}
    noisy, ours, clean = (read_picture(path, 3).transpose(1, 2, 0) for path in files.values())
    error = np.abs(ours.astype(float) - clean) * error_gain
    row, column, side = fit_box(box, clean.shape) if box else busiest_box(clean)
    psnr = picture["psnr"]
    panels = {
        f"noisy, {in_db(psnr['noisy'])}": noisy,
        f"{label(run).split(',')[0]}, {in_db(psnr['SMNet'])}": ours,
        "clean": clean,
        f"error x {error_gain:g}": error.clip(0, 255).astype(np.uint8),
    }
    figure, grid = plt.subplots(2, 4, figsize=(14, 3.5 + 3.5 * clean.shape[0] / clean.shape[1]), layout="constrained",
                                height_ratios=[clean.shape[0] / clean.shape[1], 1])  # fmt: skip
    for (title, pixels), whole, part in zip(panels.items(), *grid):
        whole.imshow(pixels)
        whole.add_patch(Rectangle((column, row), side, side, fill=False, edgecolor="red", linewidth=1.5))
        whole.set_title(title)
        part.imshow(pixels[row : row + side, column : column + side], interpolation="nearest")
        for axes in (whole, part):
            axes.set_axis_off()
    figure.suptitle(f"{run['set']}, {picture['name']}, {noise_of(run)}")
    return figure


def busiest_box(clean: np.ndarray) -> tuple[int, int, int]:
    """(row, column, side) of the square, a fifth of the shorter side, that has most detail in (H, W, 3)."""
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


def file_name(text: str) -> str:
    """A set's or picture's name as part of a file name."""
    return text.strip("/.").replace("/", "_")


def save(figure: Figure, path: Path) -> Path:
    """Write a figure as PNG and return its path."""
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)
    plt.close(figure)
    return path


if __name__ == "__main__":
    run_script(main)
