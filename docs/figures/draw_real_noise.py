"""Draw crops of real noise: noisy, denoised by several means, and the mean of many shots.

    python dataset.py --train_dir data/PolyU --pairs "*_real*" "*_mean*" --holdout 20
    python -m docs.figures.draw_real_noise val_pairs.h5

Draws real_noise.jpg beside this file, or elsewhere with --output: of the pairs in an .h5 file of
validation pairs those named by --names, and of each the part of SIDE pixels around its middle.
"""

import argparse
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from smnet.cli import make_parser, run_script
from smnet.images import Picture, to_float
from smnet.metrics import baselines, psnr
from smnet.patches import read_pictures
from smnet.sheets import sheet
from smnet.strength import keep_brightness
from smnet.tiling import Denoiser
from utils import SMNetError, load_model, make_folder, replacing

SIDE = 110  # pixels, of the part that is shown
ZOOM = 2
NAMES = ["bicycle_8", "printer_14", "classroom_4", "waterhouse_10"]  # one of each camera


def main(argv: list[str] | None = None) -> int:
    """The command; returns 0."""
    args = parse_args(argv)
    networks = {Path(path).stem: Denoiser(load_model(path)) for path in args.weights}
    panels = []
    pictures = read_pictures(args.pairs, channels=3, pairs=True)
    for name in args.names:
        found = [picture for picture in pictures if name in picture.name]
        if not found:
            known = ", ".join(picture.name for picture in pictures)
            raise SMNetError(f"{args.pairs} has no pair named {name}; there are {known}")
        panels += row_of(found[0], networks)
    drawn = sheet(panels, columns=len(panels) // len(args.names))
    path = make_folder(args.output) / "real_noise.jpg"
    with replacing(path) as temporary:
        Image.fromarray(drawn).save(temporary, "JPEG", quality=90, subsampling=0)
    print(f"{path}: drawn")
    return 0


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = make_parser(__doc__)
    option, shown = parser.add_argument, "(default: %(default)s)"
    option("pairs", metavar="FILE", help="validation pairs, made by dataset.py")
    option("--names", nargs="+", default=NAMES, metavar="NAME", help=f"parts of names {shown}")
    default = ["pretrained/rgb_B.pth", "pretrained/rgb_R.pth"]
    option("--weights", nargs="+", default=default, metavar="FILE", help=f"networks {shown}")
    text = "folder for the figure (default: that of this file)"
    option("--output", default=Path(__file__).parent, metavar="DIR", help=text)
    return parser.parse_args(argv)


def row_of(picture: Picture, networks: dict[str, Denoiser]) -> list[tuple[str, Tensor]]:
    """The panels of one pair: (label, (3, H, W))."""
    clean, noisy = to_float(picture.clean), to_float(picture.noisy)
    results = {"noisy": noisy, **baselines(clean, noisy, None)}
    for name, network in networks.items():
        results[name] = keep_brightness(noisy, network(noisy)).clamp(0, 1)  # as denoise.py
    panels = [
        (f"{name}, {psnr(clean, result):.1f} dB", middle(result))
        for name, result in results.items()
    ]
    return [*panels, ("mean of many shots", middle(clean))]


def middle(picture: Tensor) -> Tensor:
    """(3, H, W) -> its middle, enlarged."""
    top, left = (max(0, (side - SIDE) // 2) for side in picture.shape[1:])
    part = picture[:, top : top + SIDE, left : left + SIDE].permute(1, 2, 0).numpy()
    large = cv2.resize(np.ascontiguousarray(part), None, fx=ZOOM, fy=ZOOM)
    return torch.from_numpy(large).permute(2, 0, 1)


if __name__ == "__main__":
    run_script(main)
