"""What the tests share: synthetic pictures, folders and h5 files of them, networks of random
weights."""

from pathlib import Path

import cv2
import numpy as np
import torch

import utils
from models import SMNet

# Options of a train script that make a run take seconds.
TINY = (
    "--width 4 --patch_size 32 --draws 1 --batchsize 4 --epochs 3 --workers 0 --device cpu".split()
)


# Six pairs of three scenes, as `write_pairs` names them, and the patterns that find them.
PAIR_NAMES = [
    "canon_chair_1",
    "canon_chair_2",
    "nikon_wall_1",
    "nikon_wall_2",
    "nikon_wall_3",
    "sony_door_1",
]
PAIR_PATTERNS = "*_real*", "*_mean*"


def synthetic_picture(seed: int, height: int, width: int, channels: int = 1) -> np.ndarray:
    """uint8 (H, W, C) with smooth shapes and edges, so that there is something to denoise."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    planes = []
    for _ in range(channels):
        a, b, c, d = rng.uniform(0.02, 0.15, 4)
        plane = 128 + 60 * np.sin(a * x + b * y) + 50 * np.sign(np.sin(c * x - d * y))
        planes.append(plane.clip(0, 255))
    return np.stack(planes, axis=-1).astype(np.uint8)


def synthetic_planes(seed: int, height: int, width: int, channels: int = 1) -> np.ndarray:
    """The same as uint8 (C, H, W)."""
    return synthetic_picture(seed, height, width, channels).transpose(2, 0, 1).copy()


def write_folder(folder: Path, count: int, *, height=64, width=80, channels=1) -> Path:
    """Write `count` synthetic PNG pictures into `folder` and return it."""
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        cv2.imwrite(str(folder / f"{i:02d}.png"), synthetic_picture(i, height, width, channels))
    return folder


def write_pairs(folder: Path, names: list[str], *, side: int = 64) -> Path:
    """Write NAME_mean.png and NAME_real.png, the second with noise, for each name."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for i, name in enumerate(names):
        clean = synthetic_picture(i, side, side, 3)
        noisy = (clean + 12 * rng.standard_normal(clean.shape)).clip(0, 255).astype(np.uint8)
        cv2.imwrite(str(folder / f"{name}_mean.png"), clean)
        cv2.imwrite(str(folder / f"{name}_real.png"), noisy)
    return folder


def build_h5(folder: Path, script, channels: int) -> tuple[Path, Path]:
    """(train_h5, val_h5) of 3 + 2 synthetic pictures in patches of 48x48: 12 patches."""
    write_folder(folder / "train", 3, channels=channels)
    write_folder(folder / "val", 2, height=40, width=52, channels=channels)
    words = f"--train_dir {folder}/train --val_dir {folder}/val --patch_size 48"
    words += f" --train_h5 {folder}/train.h5 --val_h5 {folder}/val.h5"
    assert script.main(words.split()) == 0
    return folder / "train.h5", folder / "val.h5"


def save_model(folder: Path, name: str, channels: int = 1, seed: int = 0, **more) -> None:
    """Write FOLDER/NAME.pth, a network of width 4 with random weights, and what else is to stand in
    the file."""
    torch.manual_seed(seed)
    model = SMNet(channels, 4)
    content = {"model": model.state_dict(), "channels": channels, "width": 4, **more}
    utils.save_checkpoint(folder / f"{name}.pth", content)
