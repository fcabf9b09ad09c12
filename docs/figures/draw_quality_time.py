"""Draw quality against time: PSNR on Set12 at sigma 25 over the seconds of a forward.

    python benchmark.py --peers --size 512 512 --width 32 --shuffle 2 --json > width_32.json
    python benchmark.py --peers --size 512 512 --width 64 --json > width_64.json
    python test_gray.py --mode B --test_data Set12 --test_noiseL 25 --json gray_B.json
    python -m docs.figures.draw_quality_time width_32.json width_64.json --pretrained gray_B.json

Draws quality_time.png beside this file, or elsewhere with --output. Seconds are of one run each,
relative to that run's DnCNN, so that runs of one machine can be drawn together. The quality of the
others is that of their papers; ours is what test_gray.py measured (--pretrained, its --json).
"""

import argparse
import json
from pathlib import Path

import matplotlib

from smnet.cli import make_parser, run_script
from smnet.evaluation import averages
from smnet.figures import save
from smnet.results import network_name, read_runs
from utils import SMNetError, make_folder

matplotlib.use("Agg")  # no window: files alone
from matplotlib import pyplot as plt  # noqa: E402

SET, SIGMA = "Set12", 25.0
PUBLISHED = {  # PSNR in dB of blind or any-level networks, by their papers
    "FFDNet": 30.44,  # Zhang et al., TIP 2018
    "DnCNN": 30.36,  # DnCNN-B, Zhang et al., TIP 2017
    "DRUNet": 30.94,  # Zhang et al., TPAMI 2022
    "SMNet, width 64": 30.66,  # SMNet-B, Yu et al., ACM MM 2020
}


def main(argv: list[str] | None = None) -> int:
    """The command; returns 0."""
    args = parse_args(argv)
    quality = {**PUBLISHED, **measured(args.pretrained)}
    times: dict[str, float] = {}  # of DnCNN's
    for path in args.benchmarks:
        rows = json.loads(Path(path).read_text())["rows"]
        seconds = {row["network"]: row["seconds"] for row in rows}
        times |= {name: seconds[name] / seconds["DnCNN"] for name in seconds}
    if missing := times.keys() - quality.keys():
        raise SMNetError(
            f"no PSNR of {', '.join(sorted(missing))}; give --pretrained what test_gray.py --json "
            f"wrote of it on {SET} at sigma {SIGMA:g}"
        )
    path = make_folder(args.output) / "quality_time.png"
    print(f"{save(draw(times, quality), path)}: drawn")
    return 0


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = make_parser(__doc__)
    option = parser.add_argument
    option("benchmarks", nargs="+", metavar="JSON", help="what benchmark.py --peers --json printed")
    text = f"what test_gray.py --test_data {SET} --json wrote"
    option("--pretrained", nargs="*", default=[], metavar="JSON", help=text)
    text = "folder for the figure (default: that of this file)"
    option("--output", default=Path(__file__).parent, metavar="DIR", help=text)
    return parser.parse_args(argv)


def measured(paths: list[str]) -> dict[str, float]:
    """PSNR in dB of our networks, by their names in the benchmark."""
    found = {}
    for run in (run for path in paths for run in read_runs(path)):
        if (run.set, run.sigma) == (SET, SIGMA):
            name = f"SMNet, {network_name(run.width, run.shuffle)}"
            found[name] = averages(run.scores).psnr["SMNet"]
    return found


def draw(times: dict[str, float], quality: dict[str, float]) -> plt.Figure:
    """A point for each network."""
    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    for name, time in times.items():
        ours = name.startswith("SMNet")
        axes.plot(time, quality[name], "o" if ours else "s", color="C3" if ours else "C0")
        axes.annotate(name, (time, quality[name]), (6, 4), textcoords="offset points")
    axes.set(xscale="log", xlabel="seconds of a forward, DnCNN's = 1", ylabel="PSNR in dB")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_title(f"{SET}, sigma {SIGMA:g}, gray; a CPU", fontsize="medium")
    axes.margins(0.25)
    axes.grid(alpha=0.3)
    return figure


if __name__ == "__main__":
    run_script(main)
