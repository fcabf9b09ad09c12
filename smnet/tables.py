"""Tables of what test_*.py measured: aligned text of one run, and rows of many beside the paper's
figures, in Markdown and LaTeX."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import fmean
from typing import NamedTuple, TypeVar

from smnet.evaluation import Score, noise_name
from smnet.results import Run
from utils import one_line

NOT_METHODS = ("noisy",)  # never the best of a row


# -------------------------------------------------------------------------- the table of one run


def table(run: Run) -> str:
    """The figures of a run as aligned text, with the mean and the paper's means below."""
    methods = list(run.scores[0].psnr)
    mean = run.mean
    names = [one_line(score.name) for score in run.scores]
    first = max(map(len, ["picture", *names]))
    ours = f"SMNet-{run.mode}"
    beside = run.paper.get(ours)
    mean_line = table_row("mean".ljust(first), mean, mean_psnr(run.scores))
    lines = [
        heading(run),
        " " * first
        + "".join(f"{method:>17}" for method in methods)
        + f"   paper's {ours}" * (beside is not None),
        "picture".ljust(first)
        + "      PSNR   SSIM" * len(methods)
        + f"{'PSNR':>18}" * (beside is not None),
    ]
    for name, score in zip(names, run.scores):
        figures = {method: psnr_text(score.psnr[method]) for method in methods}
        lines.append(table_row(name.ljust(first), score, figures))
    lines.append("-" * (first + 17 * len(methods)))
    lines.append(mean_line if beside is None else f"{mean_line}{beside:18.2f}")
    return "\n".join(lines + remarks(run, mean))


def heading(run: Run) -> str:
    """What was measured: the set, the noise, the weights and the protocol."""
    details = [] if run.epoch is None else [f"epoch {run.epoch}"]
    details.append(run.network)
    if run.noise_range and run.sigma is not None:
        low, high = run.noise_range
        if not low <= run.sigma <= high:
            trained = f"{low:g}" if low == high else f"{low:g} to {high:g}"
            details.append(f"trained at sigma {trained}")
    names = f"{run.set}, {noise_name(run.sigma)}, {run.weights} ({', '.join(details)})"
    return one_line(f"{names}; {run.protocol}" if run.protocol else names)


def table_row(name: str, score: Score, figures: dict[str, str]) -> str:
    """A line of the table: the PSNR as text and the SSIM of every method."""
    cells = (f"{figures[method]:>10} {ssim_text(score.ssim[method]):>6}" for method in figures)
    return name + "".join(cells)


def remarks(run: Run, mean: Score) -> list[str]:
    """The lines below a table: what its means leave out, the gain, and the paper's figures."""
    lines, count = [], len(run.scores)
    for method in mean.psnr:
        equal = sum(score.psnr[method] == math.inf for score in run.scores)
        if 0 < equal < count:
            lines.append(
                f"{method}: no mean PSNR, since {equal} of {count} pictures equal the clean ones"
            )
    with_ssim = sum(not math.isnan(score.ssim["SMNet"]) for score in run.scores)
    if 0 < with_ssim < count:
        lines.append(
            f"the mean SSIM is of {with_ssim} of {count} pictures: the others are too small for one"
        )
    gain = mean.psnr["SMNet"] - mean.psnr["noisy"]
    gains = f"gains {gain:.2f} dB and " if math.isfinite(gain) else ""
    lines.append(f"SMNet {gains}takes {mean.seconds:.2f} s per picture")
    if run.paper:
        figures = (f"{method} {value:.2f}" for method, value in run.paper.items())
        lines.append(f"paper, PSNR: {', '.join(figures)}")
    return lines


def mean_psnr(scores: Sequence[Score]) -> dict[str, str]:
    """Each method's mean PSNR as text: "equal" where all its pictures equal the clean ones, "-"
    where some do, which have no PSNR."""
    columns = {method: [score.psnr[method] for score in scores] for method in scores[0].psnr}
    some_equal = {
        method for method, values in columns.items() if min(values) < max(values) == math.inf
    }
    return {
        method: "-" if method in some_equal else psnr_text(fmean(values))
        for method, values in columns.items()
    }


def psnr_text(value: float) -> str:
    """A PSNR with two decimals; "equal" where the pictures are equal."""
    return "equal" if value == math.inf else f"{value:.2f}"


def ssim_text(value: float) -> str:
    """An SSIM with four decimals; "-" where the pictures are too small for one."""
    return "-" if math.isnan(value) else f"{value:.4f}"


# ------------------------------------------------------------------------ the tables of many runs


class Row(NamedTuple):
    """What the figures in a row of the table have in common."""

    set: str
    sigma: float | None  # None: real noise
    protocol: str  # empty: the authors'

    @property
    def noise(self) -> str:
        """As the table has it: "sigma 25, clip"."""
        return ", ".join(filter(None, [noise_name(self.sigma), self.protocol]))


def row_of(run: Run) -> Row:
    """The row that a run's figures go to."""
    return Row(run.set, run.sigma, run.protocol)


Name = TypeVar("Name", str, Path)


def short_names(paths: Iterable[Name]) -> dict[Name, str]:
    """A name for each path: its last part without .pth or .jsonl, or where two would be the same,
    the path."""
    paths = list(dict.fromkeys(paths))
    names = [Path(path).name.removesuffix(".pth").removesuffix(".jsonl") for path in paths]
    counts = Counter(names)
    return {path: name if counts[name] == 1 else str(path) for path, name in zip(paths, names)}


def labels_of(runs: list[Run]) -> list[str]:
    """What each run's network is called: "ours-S, width 16".

    Networks of one size and mode that meet in a row are told apart by their files.
    """
    labels = [f"ours-{run.mode}, {run.network}" for run in runs]
    groups: dict[str, list[Run]] = {}
    for run, label in zip(runs, labels):
        groups.setdefault(label, []).append(run)
    origins = {label: origins_of(members) for label, members in groups.items()}
    return [label + origins[label][run.weights] for run, label in zip(runs, labels)]


def origins_of(runs: list[Run]) -> dict[str, str]:
    """What tells the networks of one label apart, by their files: " (name)", or empty where no two
    meet in a row.

    The folders' names where they are enough in mode S, which has a file for each sigma.
    """
    files: dict[Row, set[str]] = {}
    for run in runs:
        files.setdefault(row_of(run), set()).add(run.weights)
    meeting = [names for names in files.values() if len(names) > 1]
    if not meeting:
        return dict.fromkeys((run.weights for run in runs), "")
    by_folder = runs[0].mode == "S" and all(
        len({Path(name).parent for name in names}) == len(names) for names in meeting
    )
    origins = {
        run.weights: str(Path(run.weights).parent) if by_folder else run.weights for run in runs
    }
    short = short_names(origins.values())
    return {weights: f" ({short[origin]})" for weights, origin in origins.items()}


def table_rows(runs: list[Run]) -> dict[Row, dict[str, float]]:
    """PSNR in dB by method for each row, sets in the order of the runs, sigmas rising.

    The paper's figures stand where the protocol was the authors'; equal pictures have none.
    """
    order = list(dict.fromkeys(run.set for run in runs))
    by_row = sorted(
        zip(runs, labels_of(runs)),
        key=lambda pair: (order.index(pair[0].set), pair[0].protocol, pair[0].sigma or 0),
    )
    rows: dict[Row, dict[str, float]] = {}
    for run, label in by_row:
        means = {method: value for method, value in run.mean.psnr.items() if math.isfinite(value)}
        ours = {label: means.pop("SMNet")} if "SMNet" in means else {}
        rows.setdefault(row_of(run), {}).update(means | run.paper | ours)
    return rows


def contradictions(runs: list[Run]) -> list[str]:
    """A line for each figure of one network in one row that another run contradicts, as after
    training anew: the table shows the last."""
    seen: dict[tuple[Row, str], str] = {}
    lines = []
    for run, label in zip(runs, labels_of(runs)):
        key, figure = (row_of(run), label), psnr_text(run.mean.psnr["SMNet"])
        if seen.get(key, figure) != figure:
            lines.append(
                f"{run.set}, {row_of(run).noise}, {run.weights}: {seen[key]} dB in one run and "
                f"{figure} dB in another; give the files of one network"
            )
        seen[key] = figure
    return lines


def methods_of(rows: dict) -> list[str]:
    """All columns: what was measured beside ours, the paper's, ours."""
    found = list(dict.fromkeys(method for row in rows.values() for method in row))
    return sorted(found, key=lambda method: method.startswith("ours-"))


def cells(row: dict[str, float], methods: list[str], bold: str) -> list[str]:
    """A row's figures with two decimals; the highest as `bold` has it."""
    best = max(
        (f"{row[m]:.2f}" for m in methods if m in row and m not in NOT_METHODS),
        key=float,
        default="",
    )
    return [
        ""
        if m not in row
        else bold.format(best)
        if f"{row[m]:.2f}" == best and m not in NOT_METHODS
        else f"{row[m]:.2f}"
        for m in methods
    ]


def markdown(rows: dict[Row, dict[str, float]]) -> str:
    """The table in Markdown."""

    def line(cells: Iterable[str]) -> str:
        return "| " + " | ".join(one_line(cell).replace("|", "\\|") for cell in cells) + " |"

    methods = methods_of(rows)
    header = ["set", "noise", *methods]
    body = ([key.set, key.noise, *cells(row, methods, "**{}**")] for key, row in rows.items())
    return "\n".join([line(header), "|---" * len(header) + "|", *map(line, body)]) + "\n"


# What LaTeX takes for commands.
LATEX = str.maketrans(
    {char: f"\\{char}" for char in "_&%#${}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
)


def latex(rows: dict[Row, dict[str, float]]) -> str:
    """The table in LaTeX, for the package booktabs."""

    def escape(text: str) -> str:
        return one_line(text).translate(LATEX)

    def line(cells: Iterable[str]) -> str:
        return " & ".join(cells) + " \\\\"

    methods = methods_of(rows)
    body = []
    for key, row in rows.items():
        noise = escape(key.noise).replace("sigma", "$\\sigma$ =")
        body.append(line([escape(key.set), noise, *cells(row, methods, "\\textbf{{{}}}")]))
    header = line(["Set", "Noise", *map(escape, methods)])
    lines = [
        "% needs \\usepackage{booktabs}",
        f"\\begin{{tabular}}{{ll{'r' * len(methods)}}}",
        "\\toprule",
        header,
        "\\midrule",
        *body,
        "\\bottomrule",
        "\\end{tabular}",
    ]
    return "\n".join(lines) + "\n"
