"""Finding weights: in weights/, in pretrained/, and what a file says of its training."""

import json
from pathlib import Path

import cv2
import pytest
import torch
from helpers import save_model, synthetic_picture

import denoise
import test_gray as gray_script
from smnet.weights import find_model, load_trained
from utils import SMNetError

BLIND = "--mode B --test_data Set12 --json x.json".split()


def test_shipped_weights_are_used_with_a_notice_where_there_are_no_others(packed, capsys):
    assert gray_script.main(BLIND) == 0
    notice = "which comes with the project (weights has no model_gray_B_*.pth)"
    assert f"using shipped/gray_B.pth, {notice}" in capsys.readouterr().out
    (run,) = json.loads(Path("x.json").read_text())
    assert run["weights"] == str(Path("shipped", "gray_B.pth"))


def test_shipped_weights_denoise(packed):
    cv2.imwrite("photo.png", synthetic_picture(0, 40, 48))
    assert denoise.main(["photo.png"]) == 0
    assert Path("photo_denoised.png").is_file()


@pytest.mark.parametrize("words", [["-c", "2"], ["-c", "best"], ["--mode", "S"]])
def test_shipped_weights_are_not_used_for_an_epoch_or_sigma_that_is_missing(packed, capsys, words):
    assert gray_script.main([*BLIND, *words]) == 1
    assert "shipped has gray_B)" in capsys.readouterr().err


def test_the_best_weights_are_those_of_that_name(tmp_path):
    for name, epoch in (("3", 3), ("10", 10), ("best", 3)):
        save_model(tmp_path, f"model_gray_B_{name}", epoch=epoch)
    options = dict(weights=None, weights_dir=str(tmp_path))
    assert find_model(1, None, **options).epoch == 10
    best = find_model(1, None, checkpoint="best", **options)
    assert best.path == tmp_path / "model_gray_B_best.pth" and best.epoch == 3
    expected = r"no weights .*model_gray_L25_best.pth; in .* there are model_gray_B_10.pth, .*"
    with pytest.raises(SMNetError, match=expected):
        find_model(1, 25, checkpoint="best", **options)


def test_shipped_weights_are_not_used_for_another_folder(packed):
    Path("mine").mkdir()
    assert gray_script.main([*BLIND, "--weights_dir", "mine"]) == 1


def test_ones_own_weights_come_first(packed, capsys):
    Path("trained").rename("weights")
    assert gray_script.main(BLIND) == 0
    assert "weights/model_gray_B_3.pth" in capsys.readouterr().out


def test_the_file_says_the_mode_that_its_network_is_tested_in(packed, capsys):
    words = "--weights shipped/gray_B.pth --test_data Set12 --json x.json"
    assert gray_script.main(words.split()) == 0  # --mode S, the default
    assert json.loads(Path("x.json").read_text())[0]["mode"] == "B"
    assert "paper's SMNet-B" in capsys.readouterr().out


def test_the_file_says_the_sigma_that_its_network_was_trained_at(packed, capsys):
    content = torch.load("shipped/gray_B.pth", weights_only=True)
    torch.save(content | {"noise_range": [15, 15]}, "l15.pth")
    assert gray_script.main("--weights l15.pth --test_data Set12".split()) == 0
    out = capsys.readouterr().out
    assert "paper's SMNet-S" in out and "width 4, trained at sigma 15)" in out


@pytest.mark.parametrize(
    ("more", "mode", "noise_range"),
    [
        ({}, None, None),
        ({"noise_range": None}, "R", None),
        ({"noise_range": [25, 25]}, "S", (25, 25)),
        ({"noise_range": [0.0, 55.0]}, "B", (0, 55)),
        ({"noise_range": "loud"}, None, None),
    ],
)
def test_the_mode_is_read_from_the_range_of_the_noise(tmp_path, more, mode, noise_range):
    save_model(tmp_path, "a", epoch=7, **more)
    trained = load_trained(tmp_path / "a.pth")
    assert (trained.mode, trained.noise_range, trained.epoch) == (mode, noise_range, 7)


def test_missing_weights_are_named_with_the_command_that_makes_them(tmp_path):
    save_model(tmp_path, "model_gray_B_3")
    expected = r"no weights .*model_gray_L25_N.pth; in .* there are model_gray_B_3.pth. Train them:"
    with pytest.raises(SMNetError, match=f"{expected} python train_gray.py --noiseL 25"):
        find_model(1, 25, weights=None, weights_dir=tmp_path)
