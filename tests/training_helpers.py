"""What the tests of training share."""

import json
from pathlib import Path

import torch

EVERY_OPTION = (
    "--optimizer muon --ema 0.9 --schedule cosine --warmup 2 --grad_clip 1 --lr 2e-3"
    " --identity_start --dead_relu_penalty 1e-3".split()
)


def final_weights(folder: Path, name: str = "model_gray_L25_3.pth") -> dict:
    return torch.load(folder / "weights" / name, weights_only=True)["model"]


def assert_same_weights(ours: dict, theirs: dict) -> None:
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def log_lines(folder: Path, name: str = "model_gray_L25") -> list[dict]:
    return [
        json.loads(line) for line in (folder / "logs" / f"{name}.jsonl").read_text().splitlines()
    ]


def folders(folder: Path) -> list[str]:
    """The options that put a run's files into `folder`."""
    return ["--weights_dir", str(folder / "weights"), "--log_dir", str(folder / "logs")]


def everything(folder: Path) -> dict[str, bytes]:
    """The content of all files of a run, by name."""
    return {
        path.name: path.read_bytes()
        for part in ("weights", "logs")
        for path in (folder / part).rglob("*.*")
    }


def without_time(log: list[dict]) -> list[dict]:
    """The lines of a log but for what a clock said."""
    clocks = ("seconds", "pictures_per_second", "data_wait", "peak_memory_gb")
    return [{key: value for key, value in line.items() if key not in clocks} for line in log]


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}
