"""Real noise from end to end: an h5 file of pairs, training and testing on it."""

import json
import shutil
from pathlib import Path

import cv2
import h5py
import numpy as np
import pytest
import torch
from helpers import PAIR_NAMES, PAIR_PATTERNS, save_model, synthetic_picture

import dataset
import dataset_gray
import denoise
import test_gray as test_gray_script
import test_rgb as test_rgb_script
import train_gray
import train_gray_blind
import train_rgb_blind
import utils
from models import SMNet
from smnet.images import to_float
from smnet.pairs import scene
from smnet.patches import read_pictures
from smnet.training.samples import PatchDataset
from utils import SMNetError


def build(script=dataset, *words: str) -> int:
    return script.main(
        ["--train_dir", "data/PolyU", "--pairs", *PAIR_PATTERNS, "--patch_size", "48", *words]
    )


def test_the_h5_file_keeps_pairs_together(pairs_folder, capsys):
    cv2.imwrite("data/PolyU/alone_real.png", synthetic_picture(0, 64, 64, 3))
    cv2.imwrite("data/PolyU/odd_1_real.png", synthetic_picture(0, 64, 64, 3))
    cv2.imwrite("data/PolyU/odd_1_mean.png", synthetic_picture(0, 64, 60, 3))
    assert build(dataset, "--holdout", "2") == 1
    said = capsys.readouterr()
    assert "alone_real.png: has no clean partner" in said.err and "2 files skipped" in said.err
    assert "odd_1_real.png: is 64x64, its clean partner odd_1_mean.png is 60x64" in said.err
    val = read_pictures("val_pairs.h5", 3, pairs=True)
    with h5py.File("train_pairs.h5") as file:
        names = json.loads(file.attrs["sources"])
        assert not {scene(name) for name in names} & {scene(picture.name) for picture in val}
        assert len(names) + len(val) == 6
        first = cv2.imread(f"data/PolyU/{names[0]}_real.png")[:48, :48, ::-1].transpose(2, 0, 1)
        np.testing.assert_array_equal(file["noisy"][0], first)
    train_set = PatchDataset(
        "train_pairs.h5",
        channels=3,
        patch_size=32,
        noise_range=(0, 55),
        draws=8,
        seed=0,
        allow_pairs=True,
    )
    assert train_set.real and train_set.only_pairs
    for index in range(0, len(train_set), 5):
        clean, noisy, sigma = train_set[1, index]
        assert (
            torch.isnan(sigma) and 8 < 255 * (noisy - clean).std() < 15
        )  # noise, not another place or orientation
    again = train_set[1, 3]
    assert torch.equal(again[1], train_set[1, 3][1])


@pytest.mark.slow
def test_train_and_test_on_pairs(pairs_folder, capsys):
    build(dataset, "--holdout", "2")
    words = """--train_h5 train_pairs.h5 --width 4 --patch_size 32 --batchsize 4 --draws 1
        --workers 0 --device cpu --save_every 0""".split()
    assert train_rgb_blind.main([*words, "--epochs", "1"]) == 0
    said = capsys.readouterr().out
    assert (
        "train_pairs.h5 holds pairs of real noise: no noise is added" in said
        and "validation of real noise" in said
    )
    assert train_rgb_blind.main([*words, "--epochs", "2", "--resume"]) == 0
    assert (
        train_rgb_blind.main([*words, "--epochs", "2", "--weights_dir", "w", "--log_dir", "l"]) == 0
    )  # the same in one go
    assert (
        train_rgb_blind.main(
            [*words, "--epochs", "2", "--weights_dir", "w", "--log_dir", "l", "-c", "2"]
        )
        == 0
    )
    assert "continuing exactly after epoch 2" in capsys.readouterr().out
    whole = torch.load("w/model_rgb_R_2.pth", weights_only=True)["model"]
    weights = torch.load("weights/model_rgb_R_2.pth", weights_only=True)
    assert all(torch.equal(weights["model"][name], value) for name, value in whole.items())
    assert weights["val_sigma"] is None and weights["noise_range"] is None
    (_, line) = map(json.loads, Path("logs/model_rgb_R.jsonl").read_text().splitlines())
    capsys.readouterr()

    command = "--mode R --test_data val_pairs.h5 PolyU --baseline --json x.json --csv x.csv"
    assert test_rgb_script.main([*command.split(), "--save_dir", "out"]) == 0
    said = capsys.readouterr().out
    assert "PolyU, real noise, weights/model_rgb_R_2.pth" in said and "SMNet gains" in said
    held_out, everything = json.loads(Path("x.json").read_text())
    assert held_out["mean"]["psnr"]["SMNet"] == pytest.approx(line["val_psnr"], abs=1e-3)
    assert [picture["name"] for picture in everything["pictures"]] == PAIR_NAMES
    clean, noisy = (
        to_float(cv2.imread(f"data/PolyU/{PAIR_NAMES[0]}_{x}.png").transpose(2, 0, 1))
        for x in ("mean", "real")
    )
    expected = -10 * np.log10((clean - noisy).square().mean().item())
    assert everything["pictures"][0]["psnr"]["noisy"] == pytest.approx(expected, abs=1e-3)
    assert everything["mean"]["psnr"]["NL-means"] > everything["mean"]["psnr"]["noisy"] + 1
    assert (
        pairs_folder / "out" / "PolyU_real_model_rgb_R_2" / f"{PAIR_NAMES[0]}_clean.png"
    ).is_file()

    assert denoise.main(["data/PolyU/sony_door_1_real.png", "--real", "-o", "done.png"]) == 0
    assert cv2.imread("done.png").shape == (64, 64, 3)


def test_gray_pairs(pairs_folder, capsys):
    build(dataset_gray, "--holdout", "2")
    words = """--train_h5 train_gray_pairs.h5 --width 4 --patch_size 32 --batchsize 4 --draws 1
        --workers 0 --epochs 1 --device cpu""".split()
    assert train_gray_blind.main(words) == 0
    assert test_gray_script.main(["--mode", "R", "--test_data", "val_gray_pairs.h5"]) == 0
    with pytest.raises(SMNetError, match="train_.*_blind.py train on"):
        train_gray.main(words)


TWO_FOLDERS = "--pairs noisy clean --patch_size 48".split()


@pytest.fixture
def two_folders(pairs_folder):
    """train/ and val/ with folders noisy/ and clean/ of six and two pairs."""
    for i in range(6):
        clean = synthetic_picture(i, 56, 56, 3)
        for side, picture in (("noisy", np.roll(clean, 1, axis=0)), ("clean", clean)):
            for part in ("train", "val")[: 1 + (i < 2)]:
                (pairs_folder / part / side).mkdir(parents=True, exist_ok=True)
                cv2.imwrite(f"{part}/{side}/img_{i}.png", picture)
    return pairs_folder


@pytest.mark.parametrize("train_dir", [["train"], ["train", "./train"]], ids=["once", "twice"])
def test_pairs_of_two_folders_are_held_out_each_once(two_folders, capsys, train_dir):
    assert dataset.main(["--train_dir", *train_dir, *TWO_FOLDERS, "--holdout", "2"]) == 0
    assert "4 pairs to train on, 2 of 2 other scenes set aside" in capsys.readouterr().out


def test_two_folders_need_no_train_dir_and_a_fifth_is_set_aside(two_folders, capsys):
    assert dataset.main("--pairs train/noisy train/clean --patch_size 48".split()) == 0
    assert "5 pairs to train on, 1 of 1 other scenes" in capsys.readouterr().out


def test_pairs_of_a_validation_folder(two_folders, capsys):
    assert dataset.main(["--train_dir", "train", "--val_dir", "val", *TWO_FOLDERS]) == 0
    assert "6 pairs to train on, 2 to validate on" in capsys.readouterr().out
    with h5py.File("train_pairs.h5") as file:
        assert json.loads(file.attrs["pairs"]) == ["noisy", "clean"]
        assert file.attrs["val_dir"] == "val"


def test_files_of_other_pairs_are_replaced_only_with_overwrite(two_folders):
    words = ["--train_dir", "train", *TWO_FOLDERS]
    assert dataset.main([*words, "--holdout", "2"]) == 0
    with pytest.raises(SMNetError, match="train_pairs.h5 already exists"):
        dataset.main([*words, "--val_dir", "val"])
    assert dataset.main([*words, "--val_dir", "val", "--overwrite"]) == 0


def test_pairs_are_not_validated_on_where_they_are_trained_on(two_folders):
    with pytest.raises(SMNetError, match="has pairs in common with --train_dir"):
        dataset.main(["--train_dir", "train", "--val_dir", "train", *TWO_FOLDERS])


def test_a_network_is_tested_on_two_folders(two_folders):
    save_model(Path(), "net", channels=3)
    command = "--mode R --weights net.pth --test_data val --pairs noisy clean --json x.json"
    assert test_rgb_script.main(command.split()) == 0
    (run,) = json.loads(Path("x.json").read_text())
    assert [picture["name"] for picture in run["pictures"]] == ["img_0", "img_1"]


def test_training_starts_from_given_weights(pairs_folder):
    build(dataset, "--holdout", "2")
    torch.manual_seed(5)
    model = SMNet(3, 4)
    utils.save_checkpoint("net.pth", {"model": model.state_dict()})
    words = "--train_h5 train_pairs.h5 --width 4 --patch_size 32 --batchsize 4 --workers 0".split()
    assert (
        train_rgb_blind.main(
            [*words, "--init", "net.pth", "--max_steps", "1", "--lr", "0", "--device", "cpu"]
        )
        == 0
    )
    trained = torch.load("weights/model_rgb_R_1.pth", weights_only=True)["model"]
    assert all(torch.equal(trained[name], value) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("script", "words"),
    [
        (dataset, "--train_dir data/PolyU --pairs *_real* *_mean* --resize 48 --patch_size 48"),
        (dataset, "--train_dir data/PolyU --pairs *_real* *_mean* --shrink 2"),
        (dataset, "--train_dir data/PolyU --pairs a"),
        (dataset, "--pairs *_real* *_mean*"),
        (test_rgb_script, "--mode R --clip"),
        (test_rgb_script, "--mode R --repeats 2"),
        (test_rgb_script, "--mode R --test_noiseL 25"),
        (test_rgb_script, "--mode B --pairs *_real* *_mean*"),
    ],
)
def test_options_that_do_not_go_with_pairs_exit_with_2(pairs_folder, script, words):
    with pytest.raises(SystemExit) as caught:
        script.main(words.split())
    assert caught.value.code == 2


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--mode R --test_data PolyU", "train_rgb_blind.py --train_h5 train_pairs.h5"),
        ("--mode R --test_data CC", "python download.py CC"),
        (
            "--mode R --test_data PolyU --pairs *_a* *_b*",
            "no pair *_a*, *_b* in data/PolyU",
        ),
        ("--mode R", "python download.py CC"),
        ("--mode B --test_data val_pairs.h5", "which only --mode R tests on"),
        ("--mode R --test_data val_data.h5", "holds no pairs"),
    ],
)
def test_what_cannot_be_tested_is_one_line(pairs_folder, capsys, rgb_h5, words, said):
    build(dataset, "--holdout", "2")
    shutil.copy(rgb_h5[1], "val_data.h5")
    capsys.readouterr()
    assert test_rgb_script.main(words.split()) == 1
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1


PAIRS = "--train_h5 train_pairs.h5 --width 4 --patch_size 32"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            f"{PAIRS} --val_h5 val_data.h5",
            "not smnet validation pairs; make it: python dataset.py --pairs",
        ),
        (f"{PAIRS} --val_h5 val_none.h5", "no file val_none.h5"),
        (f"{PAIRS} --noiseL_range 0 55", "to which --noiseL_range does not apply"),
        (f"{PAIRS} --val_noiseL 25", "to which --val_noiseL does not apply"),
        (
            "--train_h5 train_data.h5 --val_h5 val_pairs.h5 --width 4 --patch_size 32",
            "not smnet validation pictures",
        ),
    ],
)
def test_what_cannot_be_trained_on_is_one_line(pairs_folder, rgb_h5, words, said):
    build(dataset, "--holdout", "2")
    for source, target in zip(rgb_h5, ("train_data.h5", "val_data.h5")):
        shutil.copy(source, target)
    with pytest.raises(SMNetError, match=said):
        train_rgb_blind.main(words.split())


def test_a_validation_file_with_the_defaults_name_is_taken_as_given(pairs_folder):
    build(dataset, "--holdout", "2")
    with pytest.raises(SMNetError, match="no file val_data.h5"):
        train_rgb_blind.main([*PAIRS.split(), "--val_h5", "val_data.h5"])


def test_the_pairs_that_were_set_aside_are_missed(pairs_folder):
    build(dataset, "--holdout", "2")
    Path("val_pairs.h5").unlink()
    with pytest.raises(SMNetError, match="no file val_pairs.h5; .* --pairs"):
        train_rgb_blind.main(PAIRS.split())
