"""Fixtures: synthetic pictures, data sets and a network small enough to train in seconds."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

import dataset
import dataset_gray
import utils
from models import SMNet
from smnet.tiling import Denoiser

torch.set_num_threads(2)


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


def save_weights(folder: Path, name: str, *, channels: int = 1, seed: int = 0) -> None:
    """Write random weights of width 4."""
    torch.manual_seed(seed)
    model = SMNet(channels, 4)
    content = {"model": model.state_dict(), "channels": channels, "width": 4}
    utils.save_checkpoint(folder / f"{name}.pth", content)


def write_folder(folder, count: int, *, height: int = 64, width: int = 80, channels: int = 1):
    """Write `count` synthetic PNG pictures into `folder` and return it."""
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        cv2.imwrite(str(folder / f"{i:02d}.png"), synthetic_picture(i, height, width, channels))
    return folder


def build_h5(folder, script, channels: int) -> tuple[Path, Path]:
    """(train_h5, val_h5) of 3 + 2 synthetic pictures in patches of 48x48: 12 patches."""
    train = write_folder(folder / "train", 3, channels=channels)
    val = write_folder(folder / "val", 2, height=40, width=52, channels=channels)
    files = folder / "train.h5", folder / "val.h5"
    words = [
        "--train_dir",
        train,
        "--val_dir",
        val,
        "--train_h5",
        files[0],
        "--val_h5",
        files[1],
        "--patch_size",
        "48",
    ]
    assert script.main([str(word) for word in words]) == 0
    return files


@pytest.fixture(autouse=True)
def nothing_pretrained(tmp_path, monkeypatch):
    """The weights that come with the project are out of the way: what a test does not make, it does
    not find."""
    monkeypatch.setattr(utils, "PRETRAINED", tmp_path / "pretrained")


@pytest.fixture(scope="session")
def gray_h5(tmp_path_factory) -> tuple[Path, Path]:
    return build_h5(tmp_path_factory.mktemp("gray_h5"), dataset_gray, channels=1)


@pytest.fixture(scope="session")
def rgb_h5(tmp_path_factory) -> tuple[Path, Path]:
    return build_h5(tmp_path_factory.mktemp("rgb_h5"), dataset, channels=3)


@pytest.fixture
def train_args(gray_h5, tmp_path):
    """Command-line words for a run of train_gray*.py that takes seconds: 3 steps an epoch, 3
    epochs."""
    return [
        "--train_h5",
        str(gray_h5[0]),
        "--val_h5",
        str(gray_h5[1]),
        "--width",
        "4",
        "--patch_size",
        "32",
        "--draws",
        "1",
        "--batchsize",
        "4",
        "--epochs",
        "3",
        "--workers",
        "0",
        "--device",
        "cpu",
        "--weights_dir",
        str(tmp_path / "weights"),
        "--log_dir",
        str(tmp_path / "logs"),
    ]


@pytest.fixture
def work(tmp_path, monkeypatch):
    """An empty folder to work in, with random weights for gray and RGB, blind and gray sigma 25."""
    monkeypatch.chdir(tmp_path)
    save_weights(tmp_path / "weights", "model_gray_B_1")
    save_weights(tmp_path / "weights", "model_gray_L25_1", seed=1)
    save_weights(tmp_path / "weights", "model_rgb_B_1", channels=3)
    return tmp_path


@pytest.fixture
def unchanged(monkeypatch):
    """A denoiser that changes nothing, so that whatever differs in the result is the files'
    doing."""
    monkeypatch.setattr(Denoiser, "__call__", lambda self, picture, on_tile=None: picture.clone())
