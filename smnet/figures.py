"""Figures for report.py: PSNR against sigma, training curves, crops to look at."""

from pathlib import Path

import cv2
import matplotlib
import numpy as np

from smnet.evaluation import Score
from smnet.images import read_picture
from smnet.metrics import to_db
from smnet.results import Run, all_paper_results
from smnet.tables import NOT_METHODS, Row, row_of
from utils import SMNetError, one_line, replacing

matplotlib.use("Agg")  # no window: files alone
matplotlib.rcParams["text.parse_math"] = False  # a $ in a name is a dollar sign
from matplotlib import pyplot as plt  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402
from matplotlib.patches import Rectangle  # noqa: E402

# What the mean squared error of a saved picture may differ by from its figure, which may be of
# several draws: a share of it, and what rounding to 8 bits adds.
OTHER_RUN, ROUNDING = 0.12, 0.1 / 255**2


def draw_psnr(name: str, protocol: str, rows: dict[Row, dict[str, float]]) -> Figure:
    """PSNR against sigma on one set: ours in strong lines; the paper's methods, where that is the
    protocol, in thin ones."""
    points = psnr_points(name, protocol, rows)
    figure, axes = plt.subplots(figsize=(8.5, 5), layout="constrained")
    best_first = sorted(points.items(), key=lambda point: -max(point[1].values()))
    for i, (method, values) in enumerate(best_first):
        x, y = zip(*sorted(values.items()))
        ours = method.startswith("ours-")
        axes.plot(
            x,
            y,
            label=one_line(method),
            color=plt.get_cmap("tab20")(i % 20),
            marker="osD^v<>"[i % 7],
            markersize=7 if ours else 4,
            linewidth=2.5 if ours else 1,
            linestyle="-" if ours else "--",
            zorder=3 if ours else 2,
        )
    axes.set(
        title=one_line(", ".join(filter(None, [name, protocol]))),
        xlabel="sigma (grey levels)",
        ylabel="PSNR (dB)",
    )
    axes.grid(alpha=0.3)
    figure.legend(fontsize="small", loc="outside right upper")
    return figure


def psnr_points(
    name: str, protocol: str, rows: dict[Row, dict[str, float]]
) -> dict[str, dict[float, float]]:
    """PSNR in dB by method and sigma on one set: the paper's at all its sigmas, where the protocol
    is the authors', and what was measured."""
    points: dict[str, dict[float, float]] = {}
    papers = {} if protocol else all_paper_results()
    figures = [(sigma, row) for (its_set, sigma), row in papers.items() if its_set == name]
    figures += [
        (key.sigma, row)
        for key, row in rows.items()
        if (key.set, key.protocol) == (name, protocol) and key.sigma is not None
    ]
    for sigma, row in figures:
        for method, value in row.items():
            if method not in NOT_METHODS:
                points.setdefault(method, {})[sigma] = value
    return points


def draw_curves(logs: dict[str, list[dict]]) -> Figure:
    """Validation and training PSNR of each run against the steps."""
    figure, both = plt.subplots(1, 2, figsize=(12, 5), layout="constrained")
    for axes, key, title in zip(
        both, ("val_psnr", "train_psnr"), ("validation", "training, mean of the epoch")
    ):
        curves = {}
        for name, lines in logs.items():
            hours = lines[-1]["seconds"] / 3600
            steps, values = [line["step"] for line in lines], [line[key] for line in lines]
            (curves[f"{name} ({hours:.1f} h)"],) = axes.plot(steps, values, marker=".")
        axes.set(title=title, xlabel="steps", ylabel="PSNR (dB)")
        axes.grid(alpha=0.3)
    # With labels of its own, since others that begin with "_" are left out.
    both[0].legend(curves.values(), curves.keys(), fontsize="small")
    return figure


def draw_crop(run: Run, score: Score, *, box: list[int] | None, error_gain: float) -> Figure:
    """Noisy, ours, clean and error of one picture, with a box enlarged below each.

    Raises:
        SMNetError: a picture that the test run saved is no longer there, or is another run's.
    """
    noisy, ours, clean = saved_pictures(run, score)
    error = np.abs(ours.astype(float) - clean) * error_gain
    row, column, side = fit_box(box, clean.shape) if box else busiest_box(clean)
    panels = {
        f"noisy, {in_db(score.psnr['noisy'])}": noisy,
        f"ours-{run.mode}, {in_db(score.psnr['SMNet'])}": ours,
        "clean": clean,
        f"error x {error_gain:g}": error.clip(0, 255).astype(np.uint8),
    }
    aspect = min(clean.shape[0] / clean.shape[1], 4)  # very high pictures are drawn smaller
    figure, grid = plt.subplots(
        2, 4, figsize=(14, 3.5 + 3.5 * aspect), layout="constrained", height_ratios=[aspect, 1]
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
    figure.suptitle(one_line(f"{run.set}, {score.name}, {row_of(run).noise}, {run.weights}"))
    return figure


def saved_pictures(run: Run, score: Score) -> list[np.ndarray]:
    """The noisy, the denoised and the clean picture that a test run saved, uint8 (H, W, 3).

    Raises:
        SMNetError: one is no longer there, or is another run's.
    """
    files = [Path(run.saved, f"{score.name}_{what}.png") for what in ("noisy", "denoised", "clean")]
    noisy, ours, clean = (read_picture(path, 3).transpose(1, 2, 0) for path in files)
    if not noisy.shape == ours.shape == clean.shape:
        raise SMNetError(f"{files[1]}: is from another run, of another size than {files[2].name}")
    expected = score.psnr["SMNet"]
    found, wanted = np.square((ours.astype(float) - clean) / 255).mean(), 10 ** (-expected / 10)
    comparable = np.isfinite(expected) and "y channel" not in run.protocol
    if comparable and abs(found - wanted) > OTHER_RUN * wanted + ROUNDING:
        raise SMNetError(
            f"{files[1]}: is from another run, {to_db(found):.2f} dB instead of {expected:.2f}"
        )
    return [noisy, ours, clean]


def busiest_box(clean: np.ndarray) -> tuple[int, int, int]:
    """(row, column, side) of the square with most detail in (H, W, 3), a fifth of the shorter
    side."""
    height, width = clean.shape[:2]
    side = min(max(2, min(height, width) // 5), height, width)
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


def in_db(value: float) -> str:
    """A PSNR as text."""
    return f"{value:.2f} dB" if np.isfinite(value) else "equal"


def save(figure: Figure, path: Path) -> Path:
    """Write a figure as PNG and return its path."""
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)
    plt.close(figure)
    return path
