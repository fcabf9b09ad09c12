"""Going on with other data, another start or settings is said or refused, never done in silence."""

import shutil
from pathlib import Path

import pytest
import torch
from helpers import PAIR_PATTERNS, write_folder
from training_helpers import (
    assert_same_weights,
    everything,
    final_weights,
    folders,
)

import dataset_gray
import train_gray
import train_gray_blind
import utils
from smnet.training import options
from smnet.training.settings import SettingsDiffer, compare, settings_of
from utils import SMNetError


def state_file(folder: Path, run: str = "model_gray_L25") -> Path:
    return folder / "weights" / f"{run}_state.pth"


@pytest.mark.slow
def test_states_of_earlier_versions_resume_to_the_same_bits(train_args, tmp_path, capsys):
    """They say nothing of data, start or TensorBoard's points."""
    train_gray.main(train_args)
    elsewhere = folders(tmp_path / "b")
    train_gray.main([*train_args, *elsewhere, "--max_steps", "4"])
    state = torch.load(state_file(tmp_path / "b"), weights_only=True)
    del state["points"]
    for key in ("train_h5", "train_data", "val_data", "init"):
        del state["settings"][key]
    utils.save_checkpoint(state_file(tmp_path / "b"), state)
    capsys.readouterr()
    train_gray.main([*train_args, *elsewhere, "--resume"])
    said = capsys.readouterr().out
    assert said.startswith("--max_steps was 4, is now 0\nresumed after 1 epochs, at step 4\n")
    assert_same_weights(final_weights(tmp_path / "b"), final_weights(tmp_path))
    settings = torch.load(state_file(tmp_path / "b"), weights_only=True)["settings"]
    assert settings["train_data"]["patches"] == 12 and settings["init"] is None


@pytest.fixture
def other_h5(tmp_path) -> tuple[Path, Path]:
    """As many patches and pictures as the usual data set, of the same names; other pictures."""
    for part, count, size in (("train", 4, (64, 80)), ("val", 3, (40, 52))):
        folder = write_folder(tmp_path / "other" / part, count, height=size[0], width=size[1])
        for i in range(1, count):
            (folder / f"{i:02d}.png").replace(folder / f"{i - 1:02d}.png")
    files = tmp_path / "other" / "train.h5", tmp_path / "other" / "val.h5"
    words = f"--train_dir {tmp_path}/other/train --val_dir {tmp_path}/other/val --patch_size 48"
    dataset_gray.main([*words.split(), "--train_h5", str(files[0]), "--val_h5", str(files[1])])
    return files


@pytest.mark.parametrize("name", ["another name", "the same name"])
def test_other_training_data_are_refused(train_args, gray_h5, other_h5, tmp_path, name):
    here = tmp_path / "train.h5"
    shutil.copy(gray_h5[0], here)
    train_gray.main([*train_args, "--train_h5", str(here), "--epochs", "1"])
    before = everything(tmp_path)
    if name == "the same name":
        other_h5[0].replace(here)
    given = here if name == "the same name" else other_h5[0]
    with pytest.raises(SMNetError) as caught:
        train_gray.main([*train_args, "--train_h5", str(given), "--resume"])
    said = str(caught.value)
    assert f"--train_h5 was {here} (12 patches, 3 pictures, patch_size 48" in said
    assert f"is now {given} (12 patches, 3 pictures, patch_size 48" in said
    assert "start a run from its weights with --init" in said
    assert everything(tmp_path) == before


def test_moved_data_are_the_same_data(train_args, gray_h5, tmp_path, capsys):
    moved = tmp_path / "elsewhere" / "patches.h5", tmp_path / "elsewhere" / "pictures.h5"
    moved[0].parent.mkdir()
    for old, new in zip(gray_h5, moved):
        shutil.copy(old, new)
    train_gray.main([*train_args, "--epochs", "1"])
    best = torch.load(state_file(tmp_path), weights_only=True)["progress"]["best"]
    words = ["--train_h5", str(moved[0]), "--val_h5", str(moved[1]), "--lr", "0"]
    train_gray.main([*train_args, *words, "--epochs", "2", "--resume"])
    said = capsys.readouterr().out
    assert f"--train_h5 was {gray_h5[0]}, is now {moved[0]}: of the same content" in said
    assert f"--val_h5 was {gray_h5[1]}, is now {moved[1]}" in said
    assert torch.load(state_file(tmp_path), weights_only=True)["progress"]["best"] == best


def test_other_validation_pictures_make_a_new_best(train_args, gray_h5, other_h5, tmp_path, capsys):
    here = tmp_path / "val.h5"
    shutil.copy(gray_h5[1], here)
    train_gray.main([*train_args, "--val_h5", str(here), "--epochs", "1"])
    state = torch.load(state_file(tmp_path), weights_only=True)
    state["progress"]["best"] = 99.0
    utils.save_checkpoint(state_file(tmp_path), state)
    other_h5[1].replace(here)
    train_gray.main([*train_args, "--val_h5", str(here), "--epochs", "2", "--resume"])
    assert f"--val_h5 was {here} (2 pictures, checksum" in capsys.readouterr().out
    assert torch.load(state_file(tmp_path), weights_only=True)["progress"]["best"] < 99


def test_another_init_is_said_and_not_read(train_args, tmp_path, capsys):
    train_gray.main([*train_args, *folders(tmp_path / "given"), "--epochs", "1"])
    given = str(tmp_path / "given" / "weights" / "model_gray_L25_1.pth")
    train_gray.main([*train_args, "--epochs", "1", "--init", given])
    capsys.readouterr()
    train_gray.main([*train_args, "--epochs", "1", "--init", given, "--resume"])
    assert "--init" not in capsys.readouterr().out
    train_gray.main([*train_args, "--epochs", "1", "--init", "other.pth", "--resume"])
    said = capsys.readouterr().out
    assert f"--init was {given}, is now other.pth: --resume does not read it" in said


def test_a_state_of_another_mode_is_refused(train_args, tmp_path):
    train_gray.main([*train_args, "--epochs", "1"])
    state_file(tmp_path).replace(state_file(tmp_path, "model_gray_B"))
    with pytest.raises(SMNetError, match="training noise was sigma 25, is now sigma 0 to 55"):
        train_gray_blind.main([*train_args, "--resume"])


def test_ema_on_or_off_is_refused_in_plain_words(train_args, tmp_path):
    train_gray.main([*train_args, "--epochs", "1", "--ema", "0.999"])
    with pytest.raises(SMNetError, match="--ema was 0.999, is now 0"):
        train_gray.main([*train_args, "--resume"])


def test_shares_of_clean_crops_are_said_and_do_not_change(train_args, tmp_path, capsys):
    train_gray_blind.main([*train_args, "--epochs", "1", "--clean", "0.3"])
    assert "of the crops, 30% stay clean, the others get white noise" in capsys.readouterr().out
    with pytest.raises(SMNetError, match="--clean was 0.3, is now 0.0"):
        train_gray_blind.main([*train_args, "--resume"])
    train_gray_blind.main([*train_args, "--epochs", "1", "--overwrite"])
    with pytest.raises(SMNetError, match="--clean was 0.0, is now 0.3"):
        train_gray_blind.main([*train_args, "--resume", "--clean", "0.3"])
    with pytest.raises(SystemExit):
        train_gray_blind.main([*train_args, "--camera", "0.6", "--clean", "0.5"])
    assert "together they may be at most 1" in capsys.readouterr().err


def test_the_white_noise_beside_a_cameras_does_not_change():
    before, now = map(settings_with_camera, (("30", "55"), ("0", "20")))
    assert before["noise_range"] is None  # a network of real noise
    with pytest.raises(SettingsDiffer, match="noise was sigma 30 to 55, is now sigma 0 to 20"):
        compare(before, now)
    del before["white_noise"]  # as states of earlier versions
    compare(before, now)


def settings_with_camera(noise_range: tuple[str, str]) -> dict:
    """Of a training on photographs, half of them with a camera's noise."""
    words = ["--camera", "0.5", "--noiseL_range", *noise_range]
    args = options.parse_args(words, description="", defaults=train_gray_blind.DEFAULTS)
    args = options.args_for_real_noise(args, val_h5="val.h5", only_pairs=False)
    return settings_of(args, samples=8, train_data={}, val_data={})


def test_pairs_in_the_scripts_entry_are_validated_on(pairs_folder, monkeypatch):
    words = ["--train_dir", "data/PolyU", "--pairs", *PAIR_PATTERNS, "--patch_size", "48"]
    dataset_gray.main(words)
    dataset_gray.main(["--train_dir", "data/PolyU", "--holdout", "1", "--patch_size", "48"])
    args = options.parse_args([], description="", defaults=train_gray_blind.DEFAULTS)
    assert Path(args.val_h5).is_file()
    real = options.args_for_real_noise(args, val_h5="with_the_pairs.h5", only_pairs=True)
    assert real.val_h5 == "with_the_pairs.h5"  # the entry names a file for synthetic noise
    edited = {**train_gray_blind.DEFAULTS, "val_h5": "val_gray_pairs.h5"}
    args = options.parse_args([], description="", defaults=edited)
    real = options.args_for_real_noise(args, val_h5="with_the_pairs.h5", only_pairs=True)
    assert real.val_h5 == "val_gray_pairs.h5"


def test_a_states_weights_are_its_average(train_args, tmp_path, capsys):
    train_gray.main([*train_args, "--epochs", "1", "--ema", "0.9"])
    state, average = state_file(tmp_path), final_weights(tmp_path, "model_gray_L25_1.pth")
    capsys.readouterr()
    assert_same_weights(utils.load_model(state).state_dict(), average)
    assert f"{state} is a training state: its weights are the moving average" in (
        capsys.readouterr().out
    )
    words = ["--epochs", "1", "--lr", "0", "--init", str(state), *folders(tmp_path / "b")]
    train_gray.main([*train_args, *words])
    assert "moving average" in capsys.readouterr().out
    assert_same_weights(final_weights(tmp_path / "b", "model_gray_L25_1.pth"), average)
    train_gray.main([*train_args, "--epochs", "1", *folders(tmp_path / "c")])
    capsys.readouterr()
    raw = torch.load(state_file(tmp_path / "c"), weights_only=True)["model"]
    assert_same_weights(utils.load_model(state_file(tmp_path / "c")).state_dict(), raw)
    assert not capsys.readouterr().out
