"""Measure real camera noise and simulated noise, and draw both.

    python -m docs.figures.draw_camera_noise data/PolyU data/PolyU_full

Prints quartiles and draws camera_noise.png beside this file, or with --output elsewhere. Scenes
that `dataset.py --holdout 20` sets aside are left out. Two kinds of files are compared, each with
simulated ones that are written alike: full frames as the cameras wrote them (4:2:2, quality about
90 to 98), and crops that were saved again (4:2:0, quality 75, as all clean pictures of the set).
"""

import argparse
import dataclasses
from collections.abc import Iterator
from pathlib import Path

import cv2
import matplotlib
import numpy as np

from smnet.camera_noise import YCC_FROM_RGB, Camera, Pair, camera_pair, develop_pair
from smnet.cli import make_parser, number, run_script
from smnet.images import find_pictures, read_picture
from smnet.pairs import find_pairs, hold_out, scene
from utils import make_folder

matplotlib.use("Agg")  # no window: files alone
from matplotlib import pyplot as plt  # noqa: E402

SIDE = 512  # pixels, side of the parts that are measured of a full frame
CROP = 96  # pixels, side of the noise shown
GAIN = 8  # factor by which the noise shown is amplified
COLUMNS = 5  # pictures shown of each kind, from weak to strong noise
BRIGHTNESS = (0, 64, 128, 192, 256)  # luma where the brightness steps begin and end


def main(argv: list[str] | None = None) -> int:
    """The command; returns 0."""
    args = parse_args(argv)
    pairs, held_out = hold_out(find_pairs([args.crops], "*_real*", "*_mean*")[0], args.holdout)
    crops = [(read_picture(pair.clean, 3), read_picture(pair.noisy, 3)) for pair in pairs]
    words = {scene(pair.name).split("_")[-1] for pair in held_out}
    frames = list(parts_of_frames(args.frames, words))
    sources = [clean for clean, _ in crops]
    if args.clean:
        sources = [shrink(read_picture(path, 3), args.shrink) for path in find_pictures(args.clean)]
    shown = {
        "camera files, real": frames,
        "camera files, simulated": [as_camera_file(*numbered) for numbered in enumerate(sources)],
        "saved again, real": crops,
        "saved again, simulated": [as_saved_again(*numbered) for numbered in enumerate(sources)],
    }
    drawn = [camera_pair(clean, np.random.default_rng(i)) for i, clean in enumerate(sources)]
    groups = shown | {"as drawn in training": drawn}
    measured = {name: [noise_statistics(*pair) for pair in group] for name, group in groups.items()}
    print_quartiles(measured)
    path = make_folder(args.output) / "camera_noise.png"
    draw(path, shown, measured)
    print(f"{path}: drawn")
    return 0


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """The options."""
    parser = make_parser(__doc__)
    parser.add_argument("crops", help="folder of PolyU's crops, *_real* and *_mean*")
    parser.add_argument("frames", help="folder of PolyU's full frames, *_Real* and *_mean*")
    parser.add_argument("--holdout", type=number(int, 1), default=20, help="crops left out (20)")
    parser.add_argument("--clean", help="folder of pictures to simulate on (clean crops)")
    parser.add_argument("--shrink", type=number(int, 1), default=1, help="divides their sides (1)")
    parser.add_argument("--output", default=Path(__file__).parent, help="folder (this file's)")
    return parser.parse_args(argv)


def parts_of_frames(folder: str, held_out: set[str]) -> Iterator[Pair]:
    """Four parts of each full frame, but none of a scene with a held-out word.

    The frames' names shorten words ("bicyc" for "bicycle"), and a word stands for its scenes of
    all cameras here.
    """
    for name, clean, noisy in find_pairs([folder], "*_Real*", "*_mean*")[0]:
        if any(word.startswith(name.split("_")[-1]) for word in held_out):
            continue
        pair = read_picture(clean, 3), read_picture(noisy, 3)
        _, height, width = pair[0].shape
        for top in (height // 3 - SIDE // 2, 2 * height // 3 - SIDE // 2):
            for left in (width // 3 - SIDE // 2, 2 * width // 3 - SIDE // 2):
                part = np.s_[:, top : top + SIDE, left : left + SIDE]
                yield pair[0][part], pair[1][part]


def shrink(picture: np.ndarray, factor: int) -> np.ndarray:
    """uint8 (3, H, W) with sides divided by `factor`."""
    image = picture.transpose(1, 2, 0)
    size = image.shape[1] // factor, image.shape[0] // factor
    shrunk = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    return np.ascontiguousarray(shrunk.transpose(2, 0, 1))


def as_camera_file(seed: int, source: np.ndarray) -> Pair:
    """A simulated pair, written as full frames are.

    The clean side is not saved again: its source, a clean crop, already was.
    """
    rng = np.random.default_rng(seed)
    quality = int(rng.integers(90, 99))
    camera = dataclasses.replace(Camera.draw(rng), quality=quality, sharing=(1, 2))
    return develop_pair(source, camera, rng)


def as_saved_again(seed: int, source: np.ndarray) -> Pair:
    """A simulated pair, written as crops are."""
    rng = np.random.default_rng(seed)
    camera = dataclasses.replace(Camera.draw(rng), quality=None)
    clean, noisy = develop_pair(source, camera, rng)
    return save_again(clean), save_again(noisy)


def save_again(picture: np.ndarray) -> np.ndarray:
    """uint8 (3, H, W) as it comes back from JPEG of quality 75, 4:2:0."""
    _, data = cv2.imencode(".jpg", picture[::-1].transpose(1, 2, 0), [cv2.IMWRITE_JPEG_QUALITY, 75])
    return cv2.imdecode(data, cv2.IMREAD_COLOR).transpose(2, 0, 1)[::-1]


def noise_statistics(clean: np.ndarray, noisy: np.ndarray) -> dict[str, float]:
    """What is measured of a pair of uint8 (3, H, W): noise is noisy - clean, in grey levels.

    Correlations are of pixels 1 or 4 apart in a row or column, averaged over both, and for chroma
    over Cb and Cr. The standard deviation of luma noise within a brightness step is relative to
    that of the whole picture, and NaN if fewer than 2000 pixels are that bright.
    """
    noise = to_ycc(noisy) - to_ycc(clean)
    luma = to_ycc(clean)[0]
    found = {}
    for lag in (1, 4):
        y, cb, cr = (correlation(plane, lag) for plane in noise)
        found[f"luma, lag {lag}"], found[f"chroma, lag {lag}"] = y, (cb + cr) / 2
    found["luma std"] = noise[0].std()
    found["chroma std"] = np.sqrt(noise[1:].var(axis=(1, 2)).mean())
    for low, high in zip(BRIGHTNESS, BRIGHTNESS[1:]):
        inside = noise[0][(luma >= low) & (luma < high)]
        std = inside.std() / noise[0].std() if inside.size >= 2000 else np.nan
        found[f"std at {low}-{high - 1}"] = std
    return {name: float(value) for name, value in found.items()}


def to_ycc(picture: np.ndarray) -> np.ndarray:
    """(3, H, W) RGB to luma, Cb and Cr."""
    return np.tensordot(YCC_FROM_RGB, picture.astype(np.float32), axes=1)


def correlation(plane: np.ndarray, lag: int) -> float:
    """Of pixels `lag` apart in (H, W), the average over rows and columns."""
    plane = plane - plane.mean()
    across = (plane[:, lag:] * plane[:, :-lag]).mean()
    down = (plane[lag:] * plane[:-lag]).mean()
    return (across + down) / 2 / plane.var()


def column(rows: list[dict[str, float]], name: str) -> np.ndarray:
    """One statistic of all pictures that have it."""
    values = np.array([row[name] for row in rows])
    return values[~np.isnan(values)]


def print_quartiles(measured: dict[str, list[dict[str, float]]]) -> None:
    """Median (lower to upper quartile) of every statistic."""
    print(f"{'':15}" + "".join(f"{name:26}" for name in measured))
    for name in measured["saved again, real"][0]:
        columns = [column(rows, name) for rows in measured.values()]
        quartiles = [np.quantile(values, [0.5, 0.25, 0.75]) for values in columns]
        words = ["{:5.2f} ({:5.2f} to {:5.2f})".format(*values) for values in quartiles]
        print(f"{name:15}" + "".join(f"{word:26}" for word in words))


def weak_to_strong(pairs: list[Pair], rows: list[dict[str, float]]) -> list[np.ndarray]:
    """The noise of some pairs, evenly spread by its strength, where the picture is flattest."""
    order = np.argsort([row["luma std"] for row in rows])
    places = ((np.arange(COLUMNS) + 0.5) / COLUMNS * len(order)).astype(int)
    return [noise_of_flattest(*pairs[i]) for i in order[places]]


def noise_of_flattest(clean: np.ndarray, noisy: np.ndarray) -> np.ndarray:
    """Amplified noise, uint8 (CROP, CROP, 3) around 128, where brightness varies least.

    Black and white places are not looked at if there are others.
    """
    luma = to_ycc(clean)[0]
    corners = np.mgrid[0 : luma.shape[0] - CROP + 1 : 32, 0 : luma.shape[1] - CROP + 1 : 32]
    places = [np.s_[y : y + CROP, x : x + CROP] for y, x in corners.reshape(2, -1).T]
    bright = [place for place in places if 40 < luma[place].mean() < 200]
    flattest = min(bright or places, key=lambda place: luma[place].std())
    noise = 128 + GAIN * (noisy.astype(int) - clean)
    return noise[(slice(None), *flattest)].clip(0, 255).astype(np.uint8).transpose(1, 2, 0)


def draw(path: Path, shown: dict[str, list[Pair]], measured: dict[str, list]) -> None:
    """Write the figure: noise of each kind from weak to strong, and its statistics below."""
    figure = plt.figure(figsize=(8, 11), layout="constrained")
    noises, boxes = figure.subfigures(2, height_ratios=[7, 4])  # type: ignore[misc]
    axes = noises.subplots(len(shown), COLUMNS)
    for row, (name, pairs) in zip(axes, shown.items()):
        for axis, noise in zip(row, weak_to_strong(pairs, measured[name])):
            axis.imshow(noise)
            axis.set(xticks=[], yticks=[])
        row[0].set_ylabel(name.replace(", ", ",\n"))
    noises.suptitle(f"Noise x {GAIN} of pictures with weak to strong noise")

    names = list(measured["saved again, real"][0])
    (upper_left, upper_right), (lower, legend) = boxes.subplots(2, 2, width_ratios=[2, 1])
    for axis, chosen, unit in (
        (upper_left, names[:4], "correlation"),
        (upper_right, names[4:6], "grey levels"),
        (lower, names[6:], "luma std, relative"),
    ):
        for k, side in enumerate(shown):
            axis.boxplot(
                [column(measured[side], name) for name in chosen],
                positions=[i + 0.2 * (k - 1.5) for i in range(len(chosen))],
                widths=0.17, whis=(5, 95), showfliers=False, patch_artist=True, label=side,
                boxprops=dict(facecolor=f"C{k}"), medianprops=dict(color="black"),
            )  # fmt: skip
        axis.set_xticks(range(len(chosen)), [name.removeprefix("std at ") for name in chosen])
        axis.set_ylabel(unit)
    lower.set_xlabel("luma of the clean pixel")
    legend.axis("off")
    legend.legend(*lower.get_legend_handles_labels(), loc="center", frameon=False)
    figure.savefig(path, dpi=80)
    plt.close(figure)


if __name__ == "__main__":
    run_script(main)
