"""Finding weights: in weights/, in pretrained/, and what a file says of its training."""

import json
from pathlib import Path

import cv2
import torch
from helpers import synthetic_picture

import denoise
import test_gray as gray_script


def test_they_are_taken_where_there_are_no_others(packed, tmp_path, capsys):
    assert gray_script.main(["--mode", "B", "--test_data", "Set12", "--json", "x.json"]) == 0
    assert (
        "using shipped/gray_B.pth, which comes with the project (weights has no model_gray_B_*.pth)"
        in capsys.readouterr().out
    )
    assert json.loads(Path("x.json").read_text())[0]["weights"] == str(
        Path("shipped", "gray_B.pth")
    )
    cv2.imwrite("photo.png", synthetic_picture(0, 40, 48))
    assert denoise.main(["photo.png"]) == 0
    assert Path("photo_denoised.png").is_file()
    for words in (["-c", "2"], ["--mode", "S"]):  # asked for, and not there
        assert (
            gray_script.main(
                [*(["--mode", "B"] if "-c" in words else []), *words, "--test_data", "Set12"]
            )
            == 1
        )
        assert "shipped has gray_B)" in capsys.readouterr().err
    (tmp_path / "mine").mkdir()
    assert (
        gray_script.main(["--mode", "B", "--test_data", "Set12", "--weights_dir", "mine"]) == 1
    )  # none but those
    (tmp_path / "trained").rename(tmp_path / "weights")
    assert gray_script.main(["--mode", "B", "--test_data", "Set12"]) == 0
    assert "weights/model_gray_B_3.pth" in capsys.readouterr().out


def test_the_file_says_what_a_network_was_trained_for(packed, capsys):
    words = ["--weights", "shipped/gray_B.pth", "--test_data", "Set12", "--json", "x.json"]
    assert gray_script.main(words) == 0  # --mode S, the default
    assert (
        json.loads(Path("x.json").read_text())[0]["mode"] == "B"
        and "paper's SMNet-B" in capsys.readouterr().out
    )
    content = torch.load("shipped/gray_B.pth", weights_only=True)
    torch.save(content | {"noise_range": [15, 15]}, "l15.pth")
    assert gray_script.main(["--weights", "l15.pth", *words[2:]]) == 0
    out = capsys.readouterr().out
    assert "paper's SMNet-S" in out and "width 4, trained at sigma 15)" in out
