"""Weights that come with the project: packed with a card, found where there are no others, and given by torch.hub."""

import hashlib
import json
from pathlib import Path

import cv2
import pytest
import torch
from conftest import synthetic_picture, write_folder

import denoise
import hubconf
import pack
import test_gray as gray_script
import train_gray_blind
import utils
from utils import SMNetError


@pytest.fixture
def packed(train_args, gray_h5, tmp_path, monkeypatch) -> Path:
    """The folder that pack.py made of a short run, in place of pretrained/; the run's own weights are out of the way."""
    monkeypatch.chdir(tmp_path)
    write_folder(tmp_path / "data" / "Set12", 1, height=40, width=48)
    assert train_gray_blind.main(train_args) == 0
    weights = "weights/model_gray_B_2.pth"
    assert gray_script.main(["--weights", weights, "--test_data", "Set12", "--mode", "B", "--json", "r.json"]) == 0
    words = ["--log", "logs/model_gray_B.jsonl", "--val_h5", str(gray_h5[1]), "--results", "r.json", "-o", "shipped"]
    assert pack.main([weights, *words, "--made_by", "python train_gray_blind.py --x", "--data", "stripes"]) == 0
    (tmp_path / "weights").rename(tmp_path / "trained")
    monkeypatch.setattr(utils, "PRETRAINED", tmp_path / "shipped")
    return tmp_path / "shipped"


def test_a_pack_has_weights_log_and_card(packed, capsys):
    assert sorted(path.name for path in packed.iterdir()) == ["gray_B.jsonl", "gray_B.md", "gray_B.pth"]
    content = torch.load(packed / "gray_B.pth", weights_only=True)
    assert {value.dtype for value in content["model"].values()} == {torch.float16}
    assert content["epoch"] == 2 and content["width"] == 4
    assert len((packed / "gray_B.jsonl").read_text().splitlines()) == 2  # up to the epoch that was packed, of three
    text = (packed / "gray_B.md").read_text()
    for part in (
        "# gray_B: gray, blind, sigma 0 to 55", "half precision", "python train_gray_blind.py --x", "stripes", "6 steps",
        hashlib.sha256((packed / "gray_B.pth").read_bytes()).hexdigest(), "| Set12 | sigma 25 |", "commit: `",
    ):  # fmt: skip
        assert part in text
    trained, shipped = (utils.load_model(path) for path in ("trained/model_gray_B_2.pth", packed / "gray_B.pth"))
    x = torch.rand(1, 1, 40, 40)
    with torch.inference_mode():
        assert (trained(x) - shipped(x)).abs().max() < 5e-3


def test_what_does_not_fit_is_refused_before_anything_is_written(packed, tmp_path, monkeypatch, gray_h5):
    before = {path.name: path.read_bytes() for path in packed.iterdir()}
    words = ["--val_h5", str(gray_h5[1]), "--made_by", "x", "--data", "y", "-o", "shipped"]
    log, weights = ["--log", "logs/model_gray_B.jsonl"], "trained/model_gray_B_2.pth"
    (tmp_path / "other.jsonl").write_text('{"step": 1, "val_psnr": 20.0, "train_psnr": 20.0, "seconds": 1.0}\n')
    utils.save_checkpoint("bare.pth", {"model": utils.load_model(weights).state_dict()})
    for given, said in (
        ([weights, "--log", "other.jsonl"], "is not the log of the run"),
        (["bare.pth", *log], "does not say how it was trained"),
        (["trained/model_gray_B_3.pth", *log, "--results", "r.json"], "has results of weights/model_gray_B_2.pth"),
    ):
        with pytest.raises(SMNetError, match=said):
            pack.main([*given, *words])
    monkeypatch.setattr(pack, "GREATEST_SIZE", 10)
    with pytest.raises(SMNetError, match="more than"):
        pack.main([weights, *log, *words])
    assert {path.name: path.read_bytes() for path in packed.iterdir()} == before
    monkeypatch.setattr(pack, "GREATEST_SIZE", 10**6)
    monkeypatch.setattr(pack, "GREATEST_LOSS", -1)
    assert pack.main([weights, *log, *words]) == 0
    assert "single precision" in (packed / "gray_B.md").read_text()
    content = torch.load(packed / "gray_B.pth", weights_only=True)["model"]
    trained = torch.load(weights, weights_only=True)["model"]
    assert all(torch.equal(content[name], value) for name, value in trained.items())


def test_they_are_taken_where_there_are_no_others(packed, tmp_path, capsys):
    assert gray_script.main(["--mode", "B", "--test_data", "Set12", "--json", "x.json"]) == 0
    assert "there is no model_gray_B_*.pth in weights: taking shipped/gray_B.pth" in capsys.readouterr().out
    assert json.loads(Path("x.json").read_text())[0]["weights"] == str(Path("shipped", "gray_B.pth"))
    cv2.imwrite("photo.png", synthetic_picture(0, 40, 48))
    assert denoise.main(["photo.png"]) == 0
    assert Path("photo_denoised.png").is_file()
    for words in (["-c", "2"], ["--mode", "S"]):  # asked for, and not there
        assert gray_script.main([*(["--mode", "B"] if "-c" in words else []), *words, "--test_data", "Set12"]) == 1
        assert "(shipped/ has gray_B)" in capsys.readouterr().err
    assert gray_script.main(["--mode", "B", "--test_data", "Set12", "--weights_dir", "wieghts"]) == 1
    (tmp_path / "trained").rename(tmp_path / "weights")
    assert gray_script.main(["--mode", "B", "--test_data", "Set12"]) == 0
    assert "weights/model_gray_B_3.pth" in capsys.readouterr().out


def test_torch_hub(packed):
    root = str(Path(utils.__file__).parent)
    model = torch.hub.load(root, "smnet_gray_blind", source="local")
    assert model.channels == 1 and not model.training and model(torch.rand(1, 1, 30, 30)).shape == (1, 1, 30, 30)
    assert {"smnet_gray", "smnet_rgb", "smnet_gray_blind", "smnet_rgb_blind"} == {
        name for name, value in vars(hubconf).items() if callable(value) and name[0] != "_"
    }  # what torch.hub lists
    with pytest.raises(SMNetError, match="rgb_L25.pth"):
        torch.hub.load(root, "smnet_rgb", source="local", sigma=25)
