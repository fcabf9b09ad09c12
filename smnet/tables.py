"""Tables of what test_*.py measured: their files and training logs, rows beside the paper's
figures, Markdown and LaTeX."""

import math
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from smnet.evaluation import Score, averages, noise_name
from smnet.results import all_paper_results

NOT_METHODS = ("noisy",)  # never the best of a row


class Row(NamedTuple):
    """What the figures in a row of the table have in common."""

    set: str
    sigma: float | None  # None: real noise
    protocol: str  # empty: the authors'

    @property
    def noise(self) -> str:
        """As the table has it: "sigma 25, clip"."""
        return ", ".join(filter(None, [noise_name(self.sigma), self.protocol]))


def row_of(run: dict) -> Row:
    """The row that a run's figures go to."""
    return Row(run["set"], run["sigma"], run["protocol"])


def short_names(paths: Iterable[str | Path]) -> dict[str | Path, str]:
    """A name for each path: its last part without .pth or .jsonl, or where two would be the same,
    the path."""
    paths = list(dict.fromkeys(paths))
    names = [Path(path).name.removesuffix(".pth").removesuffix(".jsonl") for path in paths]
    return {path: name if names.count(name) == 1 else str(path) for path, name in zip(paths, names)}


def label(run: dict) -> str:
    """What a run's network is called: "ours-S, width 16"."""
    return f"ours-{run['mode']}, width {run['width']}"


def table_rows(runs: list[dict]) -> dict[Row, dict[str, float]]:
    """PSNR in dB by method for each row, sets in the order of the runs, sigmas rising; ours come
    last.

    Networks of one label that meet in a row are told apart by their files, or folders where that is
    enough in mode S, which has a file for each sigma. The paper's figures stand where the protocol
    was the authors'.
    """
    files: dict[tuple[str, Row], set[str]] = {}
    for run in runs:
        files.setdefault((label(run), row_of(run)), set()).add(run["weights"])
    meeting = {
        ours: [f for (its, _), f in files.items() if its == ours and len(f) > 1]
        for ours in map(label, runs)
    }

    def origin(run: dict) -> str:
        by_folder = run["mode"] == "S" and all(
            len({Path(f).parent for f in few}) == len(few) for few in meeting[label(run)]
        )
        return str(Path(run["weights"]).parent) if by_folder else run["weights"]

    origins: dict[str, dict[str, None]] = {}  # of each label, in the order of the runs
    for run in runs:
        origins.setdefault(label(run), {})[origin(run)] = None
    rows: dict[Row, dict[str, float]] = {}
    order = list(dict.fromkeys(run["set"] for run in runs))
    for run in sorted(
        runs, key=lambda run: (order.index(run["set"]), run["protocol"], run["sigma"] or 0)
    ):
        row = rows.setdefault(row_of(run), {})
        means = {
            method: value for method, value in run["mean"]["psnr"].items() if value is not None
        }  # null: equal pictures
        ours = label(run)
        if meeting[ours]:
            ours += f" ({short_names(origins[ours])[origin(run)]})"
        row |= {method: value for method, value in means.items() if method != "SMNet"}
        if not run["protocol"]:
            row |= all_paper_results().get((run["set"], run["sigma"]), {})
        if "SMNet" in means:
            row[ours] = means["SMNet"]
    return rows


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


def markdown(rows: dict) -> str:
    """The table in Markdown."""
    methods = methods_of(rows)
    lines = [
        "| set | noise | " + " | ".join(methods) + " |",
        "|---|---" + "|---" * len(methods) + "|",
    ]
    for key, row in rows.items():
        lines.append(
            f"| {key.set} | {key.noise} | " + " | ".join(cells(row, methods, "**{}**")) + " |"
        )
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
    for key, row in rows.items():
        lines.append(
            " & ".join(
                [
                    escape(key.set),
                    escape(key.noise).replace("sigma", "$\\sigma$ ="),
                    *cells(row, methods, "\\textbf{{{}}}"),
                ]
            )
            + " \\\\"
        )
    return "\n".join([*lines, "\\bottomrule", "\\end{tabular}"]) + "\n"


def table(report: dict, scores: list[Score]) -> str:
    """The figures of one set at one sigma as aligned text, with the mean and the paper's means
    below."""
    methods = list(scores[0].psnr)
    rows = [*scores, averages(scores)]
    first = max(len("picture"), *(len(row.name) for row in rows))
    epoch = f"epoch {report['epoch']}, " if report["epoch"] else ""
    ours = f"SMNet-{report['mode']}"
    beside = ours in report["paper"]
    protocol = f"; {report['protocol']}" if report["protocol"] else ""
    trained = report.get("noise_range")
    details = f"{epoch}width {report['width']}"
    if report["mode"] == "S" and trained and trained[0] != report["sigma"]:
        details += f", trained at sigma {trained[0]:g}"
    lines = [
        f"{report['set']}, {noise_name(report['sigma'])}, {report['weights']} ({details}){protocol}",
        " " * first
        + "".join(f"{method:>17}" for method in methods)
        + f"   paper's {ours}" * beside,
        "picture".ljust(first) + "      PSNR   SSIM" * len(methods) + "   PSNR".rjust(18) * beside,
    ]
    for row in rows:
        if row is rows[-1]:
            lines.append("-" * (first + 17 * len(methods)))
        lines.append(
            row.name.ljust(first)
            + "".join(f"{row.psnr[m]:10.2f} {row.ssim[m]:6.4f}" for m in methods)
        )
    lines[-1] += f"{report['paper'][ours]:18.2f}" if beside else ""
    without_ssim = sum(math.isnan(row.ssim["SMNet"]) for row in scores)
    if 0 < without_ssim < len(scores):
        lines.append(
            f"the mean SSIM is of {len(scores) - without_ssim} of {len(scores)} pictures: the others are too small for one"
        )
    gain = rows[-1].psnr["SMNet"] - rows[-1].psnr["noisy"]
    lines.append(f"SMNet gains {gain:.2f} dB and takes {rows[-1].seconds:.2f} s a picture")
    if report["paper"]:
        lines.append(
            "paper, PSNR: "
            + ", ".join(f"{method} {value:.2f}" for method, value in report["paper"].items())
        )
    return "\n".join(lines)
