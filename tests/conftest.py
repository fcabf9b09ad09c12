"""Fixtures: data sets, and networks small enough to train in seconds."""

import os
import shutil
import signal
from pathlib import Path

import pytest
import torch
from helpers import PAIR_NAMES, TINY, build_h5, save_model, write_folder, write_pairs

import dataset
import dataset_gray
import pack
import test_gray as gray_script
import train_gray_blind
import utils
from smnet import testing
from smnet.denoisers import cached_denoisers
from smnet.tiling import Denoiser

# Networks of these tests are too small for several threads, and beside other work those wait for
# each other. What tests start in processes of their own has one, too.
os.environ.setdefault("OMP_NUM_THREADS", "1")
torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))


@pytest.fixture(autouse=True)
def nothing_pretrained(tmp_path, monkeypatch):
    """The weights that come with the project are out of the way: what a test does not make, it does
    not find."""
    monkeypatch.setattr(utils, "PRETRAINED", tmp_path / "pretrained")


@pytest.fixture(scope="session", autouse=True)
def sets_of_any_size():
    """Set12 and the like count as whole, though they have a picture or two in these tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(testing, "PAPER_PICTURES", {})
        yield


@pytest.fixture(autouse=True)
def hangups_are_heard():
    """Also where the tests run under nohup."""
    hangup = getattr(signal, "SIGHUP", None)
    before = hangup and signal.signal(hangup, signal.SIG_DFL)
    yield
    if hangup:
        signal.signal(hangup, before)


@pytest.fixture(scope="session")
def gray_h5(tmp_path_factory) -> tuple[Path, Path]:
    return build_h5(tmp_path_factory.mktemp("gray_h5"), dataset_gray, channels=1)


@pytest.fixture(scope="session")
def rgb_h5(tmp_path_factory) -> tuple[Path, Path]:
    return build_h5(tmp_path_factory.mktemp("rgb_h5"), dataset, channels=3)


@pytest.fixture
def train_args(gray_h5, tmp_path) -> list[str]:
    """Command-line words for a run of train_gray*.py that takes seconds: 3 steps an epoch, 3
    epochs."""
    words = f"--train_h5 {gray_h5[0]} --val_h5 {gray_h5[1]}"
    words += f" --weights_dir {tmp_path}/weights --log_dir {tmp_path}/logs"
    return [*words.split(), *TINY]


@pytest.fixture(scope="session")
def trained_run(gray_h5, tmp_path_factory) -> Path:
    """A folder with trained/ and logs/ of a short run of train_gray_blind.py, a set data/Set12, and
    r.json, what test_gray.py measured of its second epoch."""
    folder = tmp_path_factory.mktemp("run")
    write_folder(folder / "data" / "Set12", 1, height=40, width=48)
    words = f"--train_h5 {gray_h5[0]} --val_h5 {gray_h5[1]}"
    words += f" --weights_dir {folder}/trained --log_dir {folder}/logs"
    assert train_gray_blind.main([*words.split(), *TINY]) == 0
    words = f"--weights {folder}/trained/model_gray_B_2.pth --data_dir {folder}/data --mode B"
    assert gray_script.main([*words.split(), "--json", f"{folder}/r.json"]) == 0
    return folder


@pytest.fixture(scope="session")
def packed_run(trained_run, gray_h5) -> Path:
    """The same folder with shipped/, what pack.py made of the second epoch."""
    words = f"{trained_run}/trained/model_gray_B_2.pth --log {trained_run}/logs/model_gray_B.jsonl"
    words += f" --val_h5 {gray_h5[1]} --results {trained_run}/r.json -o {trained_run}/shipped"
    words += " --data stripes --commit 1a2b"
    assert pack.main([*words.split(), "--made_by", "python train_gray_blind.py --x"]) == 0
    return trained_run


@pytest.fixture
def packed(packed_run, tmp_path, monkeypatch) -> Path:
    """A copy of that folder as the working folder, with shipped/ in place of pretrained/."""
    shutil.copytree(packed_run, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(utils, "PRETRAINED", tmp_path / "shipped")
    return tmp_path / "shipped"


@pytest.fixture
def work(tmp_path, monkeypatch):
    """An empty folder to work in, with random weights for gray and RGB, blind and gray sigma 25."""
    monkeypatch.chdir(tmp_path)
    cached_denoisers.cache_clear()
    save_model(tmp_path / "weights", "model_gray_B_1")
    save_model(tmp_path / "weights", "model_gray_L25_1", seed=1)
    save_model(tmp_path / "weights", "model_rgb_B_1", channels=3)
    return tmp_path


@pytest.fixture
def unchanged(monkeypatch):
    """A denoiser that changes nothing, so that whatever differs in the result is the files'
    doing."""
    monkeypatch.setattr(Denoiser, "__call__", lambda self, picture, on_tile=None: picture.clone())


@pytest.fixture
def pairs_folder(tmp_path, monkeypatch) -> Path:
    """A folder to work in, with data/PolyU of the pairs `PAIR_NAMES`."""
    monkeypatch.chdir(tmp_path)
    write_pairs(tmp_path / "data" / "PolyU", PAIR_NAMES)
    return tmp_path
