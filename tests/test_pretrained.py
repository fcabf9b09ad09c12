"""Weights that come with the project: packed with a card, found where there are no others, and
given by torch.hub."""

import hashlib
import json
import shutil
import subprocess
import sys
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
    """The folder that pack.py made of a short run, in place of pretrained/; the run's own weights
    are out of the way."""
    monkeypatch.chdir(tmp_path)
    write_folder(tmp_path / "data" / "Set12", 1, height=40, width=48)
    assert train_gray_blind.main(train_args) == 0
    weights = "weights/model_gray_B_2.pth"
    assert (
        gray_script.main(
            ["--weights", weights, "--test_data", "Set12", "--mode", "B", "--json", "r.json"]
        )
        == 0
    )
    words = [
        "--log",
        "logs/model_gray_B.jsonl",
        "--val_h5",
        str(gray_h5[1]),
        "--results",
        "r.json",
        "-o",
        "shipped",
    ]
    assert (
        pack.main(
            [
                weights,
                *words,
                "--made_by",
                "python train_gray_blind.py --x",
                "--data",
                "stripes",
                "--commit",
                "1a2b",
            ]
        )
        == 0
    )
    (tmp_path / "weights").rename(tmp_path / "trained")
    monkeypatch.setattr(utils, "PRETRAINED", tmp_path / "shipped")
    return tmp_path / "shipped"


def test_a_pack_has_weights_log_and_card(packed, capsys):
    assert sorted(path.name for path in packed.iterdir()) == [
        "gray_B.jsonl",
        "gray_B.md",
        "gray_B.pth",
    ]
    content = torch.load(packed / "gray_B.pth", weights_only=True)
    assert {value.dtype for value in content["model"].values()} == {torch.float16}
    assert content["epoch"] == 2 and content["width"] == 4
    assert (
        len((packed / "gray_B.jsonl").read_text().splitlines()) == 2
    )  # up to the epoch that was packed, of three
    text = (packed / "gray_B.md").read_text()
    for part in (
        "# gray_B: gray, blind, sigma 0 to 55",
        "half precision",
        "python train_gray_blind.py --x",
        "stripes",
        "6 steps",
        hashlib.sha256((packed / "gray_B.pth").read_bytes()).hexdigest(),
        "| Set12 | sigma 25 |",
        "commit: `1a2b`",
    ):
        assert part in text
    trained, shipped = (
        utils.load_model(path) for path in ("trained/model_gray_B_2.pth", packed / "gray_B.pth")
    )
    x = torch.rand(1, 1, 40, 40)
    with torch.inference_mode():
        assert (trained(x) - shipped(x)).abs().max() < 5e-3


def test_what_does_not_fit_is_refused_before_anything_is_written(
    packed, tmp_path, monkeypatch, gray_h5
):
    before = {path.name: path.read_bytes() for path in packed.iterdir()}
    plain = [
        "--val_h5",
        str(gray_h5[1]),
        "--made_by",
        "x",
        "--data",
        "y",
        "--commit",
        "z",
        "-o",
        "shipped",
    ]
    words = [*plain, "--overwrite"]
    log, weights = ["--log", "logs/model_gray_B.jsonl"], "trained/model_gray_B_2.pth"
    (tmp_path / "other.jsonl").write_text(
        '{"step": 1, "val_psnr": 20.0, "train_psnr": 20.0, "seconds": 1.0}\n'
    )
    utils.save_checkpoint("bare.pth", {"model": utils.load_model(weights).state_dict()})
    for given, said in (
        ([weights, "--log", "other.jsonl"], "is not the log of the run"),
        (["bare.pth", *log], "does not say how it was trained"),
        (
            ["trained/model_gray_B_3.pth", *log, "--results", "r.json"],
            "has results of weights/model_gray_B_2.pth",
        ),
    ):
        with pytest.raises(SMNetError, match=said):
            pack.main([*given, *words])
    with pytest.raises(SMNetError, match="gray_B.pth already exists; --overwrite"):
        pack.main([weights, *log, *plain])
    (packed / "mine.md").write_text("my notes")
    with pytest.raises(SMNetError, match="mine.md already exists"):
        pack.main([weights, *log, *plain, "--name", "mine"])
    (packed / "mine.md").unlink()
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


def test_torch_hub(packed):
    root = str(Path(utils.__file__).parent)
    model = torch.hub.load(root, "smnet_gray_blind", source="local")
    assert (
        model.channels == 1
        and not model.training
        and model(torch.rand(1, 1, 30, 30)).shape == (1, 1, 30, 30)
    )
    assert {"smnet_gray", "smnet_rgb", "smnet_gray_blind", "smnet_rgb_blind"} == {
        name for name, value in vars(hubconf).items() if callable(value) and name[0] != "_"
    }  # what torch.hub lists
    with pytest.raises(
        SMNetError, match="rgb_L25.pth does not come with SMNet; in .*shipped there are gray_B"
    ):
        torch.hub.load(root, "smnet_rgb", source="local", sigma=25)


def test_torch_hub_leaves_a_programs_own_modules_alone(packed, tmp_path):
    """In a process of its own, with a module called utils of its own, and one called models that is
    read later."""
    root = Path(utils.__file__).parent
    copy = shutil.copytree(
        root,
        tmp_path / "clone",
        ignore=lambda folder, names: [n for n in names if not n.endswith(".py")],
    )
    shutil.copytree("shipped", copy / "pretrained")
    Path("utils.py").write_text("MINE = 1\n")
    Path("models.py").write_text("MINE = 2\n")
    Path("program.py").write_text(
        "import torch, utils\n"
        "model = torch.hub.load('clone', 'smnet_gray_blind', source='local')\n"
        "import models\n"
        "with torch.inference_mode():\n"
        "    assert model(torch.rand(1, 1, 40, 40)).shape == (1, 1, 40, 40)\n"
        "assert (utils.MINE, models.MINE) == (1, 2)\n"
    )
    subprocess.run([sys.executable, "program.py"], check=True)


SHIPPED = sorted((Path(utils.__file__).parent / "pretrained").glob("*.pth"))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_what_is_shipped_is_what_its_name_and_card_say(path):
    content = utils.read_checkpoint(path)
    model = utils.model_from_checkpoint(content, path)
    low, high = content["noise_range"]
    level = "B" if low < high else f"L{low:g}"
    assert path.stem == f"{'gray' if model.channels == 1 else 'rgb'}_{level}"
    assert path.stat().st_size <= pack.GREATEST_SIZE
    card = path.with_suffix(".md").read_text()
    assert (
        hashlib.sha256(path.read_bytes()).hexdigest() in card
        and f"{content['step']:,} steps" in card
    )
    last = json.loads(path.with_suffix(".jsonl").read_text().splitlines()[-1])
    assert (last["step"], last["val_psnr"]) == (content["step"], content["val_psnr"])
