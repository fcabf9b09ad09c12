"""Draw what was measured: PSNR against sigma beside the paper's methods, training curves, tables,
crops to look at.

    python test_gray.py --mode B --test_data all --test_noiseL all --json results/gray.json \\
        --save_dir results/pictures
    python report.py                                  # results/*.json and logs/*.jsonl -> results/
    python report.py a.json b.json --logs logs/model_gray_B.jsonl -o figures --crops 2

Writes psnr_SET.png, curves.png, table.md and table.tex (the best of a row in bold) and, of test
runs with --save_dir, crop_SET_NOISE_PICTURE.png: noisy, ours, clean and error, with a box enlarged.
The paper's figures are those of smnet/paper_results.csv.
"""

import argparse
import itertools
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TypeVar

from smnet.cli import make_parser, number, report_problems, run_script
from smnet.figures import draw_crop, draw_curves, draw_psnr, save
from smnet.results import Run, read_log, read_runs
from smnet.tables import contradictions, latex, markdown, short_names, table_rows
from utils import SMNetError, describe, make_folder, one_line, replacing

# --------------------------------------------------------------------------------------------------
# Edit here, or give the option of the same name.
DEFAULTS = dict(
    output="results",  # folder to write to
    crops=3,  # pictures of each test run that crops are drawn of, evenly spread
    box=None,  # row, column, side of the enlarged square, pixels; None: where most detail is
    error_gain=5,  # factor by which errors are brightened
)
# --------------------------------------------------------------------------------------------------

T = TypeVar("T")


def main(argv: list[str] | None = None) -> int:
    """The command; returns 0, or 1 if a file could not be used."""
    args = parse_args(argv)
    run_files, log_files = find_inputs(args)
    read, problems = read_each(run_files, read_runs)
    runs = [run for found in read.values() for run in found]
    lines, more = read_each(log_files, read_log)
    problems += more + contradictions(runs)
    logs = {one_line(name): lines[path] for path, name in short_names(lines).items()}
    if not runs and not logs:
        raise SMNetError("; ".join(problems) or "nothing to report")
    folder = make_folder(args.output)
    written = []
    if runs:
        written += write_tables(runs, folder) + write_psnr_plots(runs, folder)
    if logs:
        written.append(save(draw_curves(logs), folder / "curves.png"))
    crops, more = write_crops(runs, folder, args)
    print(one_line(f"wrote {', '.join(map(str, written + crops))}"))
    return report_problems(problems + more, prefix="error")


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = make_parser(__doc__)
    option, shown = parser.add_argument, "(default: %(default)s)"
    text = "files that test_*.py --json wrote (default, with no --logs: OUTPUT/*.json)"
    option("json", nargs="*", type=Path, metavar="JSON", help=text)
    text = "logs of train_*.py (default, where no JSON is named: logs/*.jsonl)"
    option("--logs", nargs="*", type=Path, metavar="JSONL", help=text)
    option("-o", "--output", metavar="DIR", help=f"folder to write to {shown}")
    text = f"pictures of each test run to draw crops of {shown}"
    option("--crops", type=number(int, 0), metavar="N", help=text)
    text = "the enlarged square, pixels (default: where the clean picture has most detail)"
    option("--box", type=number(int, 0), nargs=3, metavar=("ROW", "COLUMN", "SIDE"), help=text)
    text = f"factor by which errors are brightened {shown}"
    option("--error_gain", type=number(float, 0.1), metavar="X", help=text)
    parser.set_defaults(**DEFAULTS)
    args = parser.parse_args(argv)
    if args.box and args.box[2] < 2:
        parser.error("--box: SIDE must be at least 2 pixels")
    return args


def find_inputs(args: argparse.Namespace) -> tuple[list[Path], list[Path]]:
    """(files of runs, training logs): those named, or else those in OUTPUT and logs/.

    Raises:
        SMNetError: none are named, and there are none.
    """
    if args.logs is not None:
        return args.json, args.logs
    if args.json:
        return args.json, []
    output = Path(args.output)
    runs, logs = sorted(output.glob("*.json")), sorted(Path("logs").glob("*.jsonl"))
    if not runs and not logs:
        there = sorted(path.name for path in output.glob("*"))
        raise SMNetError(
            f"no results to draw: no .json in {output} ({describe(there, output)}), no "
            f"logs/*.jsonl; make some: python test_gray.py --json {output}/gray.json"
        )
    return runs, logs


def read_each(paths: Iterable[Path], read: Callable[[Path], T]) -> tuple[dict[Path, T], list[str]]:
    """(what `read` makes of each file, what is wrong with the others)."""
    found, problems = {}, []
    for path in paths:
        try:
            found[path] = read(path)
        except SMNetError as error:
            problems.append(str(error))
    return {path: content for path, content in found.items() if content}, problems


def write_tables(runs: list[Run], folder: Path) -> list[Path]:
    """Write the table as Markdown and LaTeX, and print it."""
    rows = table_rows(runs)
    print(markdown(rows))
    files = {folder / "table.md": markdown(rows), folder / "table.tex": latex(rows)}
    for path, text in files.items():
        with replacing(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
    return list(files)


def write_psnr_plots(runs: list[Run], folder: Path) -> list[Path]:
    """Draw PSNR against sigma for every set and protocol of synthetic noise."""
    rows = table_rows(runs)
    plots = dict.fromkeys((row.set, row.protocol) for row in rows if row.sigma is not None)
    written: list[Path] = []
    for name, protocol in plots:
        target = free_path(folder, f"psnr_{file_name(name, protocol)}", written)
        written.append(save(draw_psnr(name, protocol, rows), target))
    return written


def write_crops(
    runs: list[Run], folder: Path, args: argparse.Namespace
) -> tuple[list[Path], list[str]]:
    """(crops drawn of the runs whose pictures were saved, what could not be drawn)."""
    saved = [run for run in runs if run.saved]
    folders = short_names(run.saved for run in saved)
    written, problems = [], []
    for run in saved:
        for score in spread(run.scores, args.crops):
            name = f"crop_{file_name(folders[run.saved], score.name)}"
            target = free_path(folder, name, written)
            try:
                figure = draw_crop(run, score, box=args.box, error_gain=args.error_gain)
                written.append(save(figure, target))
            except SMNetError as error:
                problems.append(str(error))
    return written, problems


def spread(items: Sequence[T], count: int) -> list[T]:
    """`count` items at even distances, or all."""
    count = min(count, len(items))
    return [items[i * len(items) // count] for i in range(count)]


def free_path(folder: Path, name: str, written: Sequence[Path]) -> Path:
    """Where to write NAME.png: NAME_2.png where that was just written for another, and so on."""
    names = (f"{name}_{n}" if n > 1 else name for n in itertools.count(1))
    return next(path for name in names if (path := folder / f"{name}.png") not in written)


def file_name(*words: str) -> str:
    """A part of a file's name from names of sets, pictures and protocols."""
    name = "_".join(filter(None, words)).strip("/.").replace(", ", "_")
    return name.replace("/", "_").replace(" ", "_")


if __name__ == "__main__":
    run_script(main)
