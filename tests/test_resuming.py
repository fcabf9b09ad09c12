"""Training goes on to the same bits, and never replaces a run unasked."""

import json
import shutil

import h5py
import pytest
import torch
from training_helpers import (
    EVERY_OPTION,
    assert_same_weights,
    everything,
    files,
    final_weights,
    folders,
    log_lines,
    without_time,
)

import train_gray
import train_gray_blind
import utils
from smnet.training import learner
from utils import SMNetError


@pytest.mark.parametrize("options", [[], EVERY_OPTION], ids=["the paper's", "every option"])
@pytest.mark.parametrize("workers", ["0", pytest.param("2", marks=pytest.mark.slow)])
def test_continuing_gives_the_same_bits(train_args, tmp_path, options, workers, capsys):
    more = [*options, "--max_steps", "9"]  # the schedule's length, whatever --epochs
    train_gray.main([*train_args, *more])
    straight, straight_log = final_weights(tmp_path), log_lines(tmp_path)
    again = [*more, "--workers", workers, *folders(tmp_path / "b")]
    with pytest.raises(KeyboardInterrupt), pytest.MonkeyPatch.context() as patch:
        steps = learner.Learner.step

        def interrupted(self, *batch):
            if self.done.step == 5:  # in the middle of the second epoch
                raise KeyboardInterrupt
            return steps(self, *batch)

        patch.setattr(learner.Learner, "step", interrupted)
        train_gray.main([*train_args, *again])
    assert train_gray.main([*train_args, *again, "--resume"]) == 0
    assert "epoch 1, step 3" in capsys.readouterr().out
    assert_same_weights(final_weights(tmp_path / "b"), straight)
    assert without_time(straight_log) == without_time(log_lines(tmp_path / "b"))


@pytest.mark.slow
@pytest.mark.parametrize(
    "words", [["--resume"], ["-c", "2"], ["--resume", "--workers", "2"]], ids=" ".join
)
def test_a_run_stopped_by_max_steps_goes_on_mid_epoch_to_the_same_bits(
    train_args, tmp_path, words, capsys
):
    train_gray.main(train_args)
    straight = final_weights(tmp_path)
    elsewhere = folders(tmp_path / "b")
    train_gray.main([*train_args, *elsewhere, "--max_steps", "4"])
    assert [(line["epoch"], line["step"]) for line in log_lines(tmp_path / "b")] == [(1, 3), (2, 4)]
    train_gray.main([*train_args, *elsewhere, *words])
    assert "--max_steps was 4, is now 0" in capsys.readouterr().out
    assert_same_weights(final_weights(tmp_path / "b"), straight)
    assert [(line["epoch"], line["step"]) for line in log_lines(tmp_path / "b")] == [
        (1, 3),
        (2, 6),
        (3, 9),
    ]


@pytest.mark.slow
def test_checkpoint_option_continues_exactly_or_from_weights_and_says_which(
    train_args, tmp_path, capsys
):
    train_gray.main(train_args)
    straight = final_weights(tmp_path)
    elsewhere = folders(tmp_path / "b")
    train_gray.main([*train_args, *elsewhere, "--epochs", "2"])
    train_gray.main([*train_args, *elsewhere, "-checkpoint", "2"])
    assert "continuing exactly after epoch 2" in capsys.readouterr().out
    assert_same_weights(final_weights(tmp_path / "b"), straight)
    with pytest.raises(SMNetError, match="_2.pth would be replaced"):
        train_gray.main([*train_args, *elsewhere, "-c", "1"])
    train_gray.main([*train_args, *elsewhere, "--epochs", "2", "-c", "1", "--overwrite"])
    assert "from its weights alone" in capsys.readouterr().out
    assert files(tmp_path / "b" / "weights") == {
        f"model_gray_L25_{what}.pth" for what in (1, 2, "best", "state", "state_previous")
    }
    assert [line["epoch"] for line in log_lines(tmp_path / "b")] == [1, 2]
    state = tmp_path / "b" / "weights" / "model_gray_L25_state.pth"
    state.write_bytes(state.read_bytes()[:999])
    train_gray.main([*train_args, *elsewhere, "-c", "2"])
    assert "the training state cannot be used" in capsys.readouterr().out


def test_a_state_of_other_settings_is_not_replaced_unasked(train_args, tmp_path):
    train_gray.main([*train_args, "--epochs", "2"])
    before = everything(tmp_path)
    with pytest.raises(SMNetError, match="_state.pth would be replaced"):
        train_gray.main([*train_args, "--epochs", "2", "-c", "2", "--seed", "1"])
    assert everything(tmp_path) == before


def test_continuing_from_weights_goes_on_counting_the_time(train_args, tmp_path):
    train_gray.main([*train_args, "--epochs", "1"])
    (before,) = log_lines(tmp_path)
    (tmp_path / "weights" / "model_gray_L25_state.pth").unlink()
    log = tmp_path / "logs" / "model_gray_L25.jsonl"
    log.write_text(json.dumps({**before, "seconds": 5000.0}) + "\n")
    train_gray.main([*train_args, "--epochs", "2", "-c", "1"])
    assert log_lines(tmp_path)[1]["seconds"] > 5000


def test_the_best_weights_are_there_though_only_the_epochs_came_along(train_args, tmp_path):
    train_gray.main([*train_args, "--epochs", "2"])
    first, second = ((tmp_path / "weights" / f"model_gray_L25_{i}.pth") for i in (1, 2))
    utils.save_checkpoint(first, {**torch.load(first, weights_only=True), "val_psnr": 98.0})
    for what in ("state", "state_previous", "best"):
        first.with_name(f"model_gray_L25_{what}.pth").unlink()
    train_gray.main([*train_args, "--epochs", "3", "-c", "2"])  # no epoch is better
    best = first.with_name("model_gray_L25_best.pth")
    assert best.read_bytes() == first.read_bytes()


def test_an_epoch_cut_short_is_not_passed_over_in_silence(train_args, tmp_path, capsys):
    train_gray.main([*train_args, "--max_steps", "2"])
    for file in (tmp_path / "weights").glob("*_state*.pth"):
        file.unlink()
    train_gray.main([*train_args, "--epochs", "2", "-c", "1"])
    assert "its last 1 steps are left out" in capsys.readouterr().out


@pytest.mark.parametrize("words", [[], ["-c", "1"]], ids=["afresh", "from weights"])
def test_a_run_that_replaces_another_resumes_from_its_first_epoch(
    train_args, tmp_path, monkeypatch, words
):
    """The earlier run's later files would be in the way."""
    train_gray.main(train_args)
    (tmp_path / "weights" / "model_gray_L25_state.pth").unlink()

    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(learner.Learner, "step", interrupted)
        train_gray.main([*train_args, *words, "--overwrite"])
    train_gray.main([*train_args, "--resume"])
    assert [line["epoch"] for line in log_lines(tmp_path)] == [1, 2, 3]


def test_an_older_state_does_not_replace_later_weights_unasked(train_args, tmp_path):
    state = tmp_path / "weights" / "model_gray_L25_state.pth"
    train_gray.main([*train_args, "--epochs", "1"])
    old = state.read_bytes()
    train_gray.main([*train_args, "--resume"])
    state.write_bytes(old)
    before = everything(tmp_path)
    with pytest.raises(SMNetError, match="_3.pth would be replaced"):
        train_gray.main([*train_args, "--resume"])
    assert everything(tmp_path) == before


def test_the_best_survives_continuing_from_weights(train_args, tmp_path):
    train_gray.main([*train_args, "--epochs", "1"])
    weights = tmp_path / "weights"
    best = torch.load(weights / "model_gray_L25_best.pth", weights_only=True)
    utils.save_checkpoint(weights / "model_gray_L25_best.pth", {**best, "val_psnr": 99.0})
    (weights / "model_gray_L25_state.pth").unlink()
    train_gray.main([*train_args, "-c", "1", "--epochs", "2"])
    assert torch.load(weights / "model_gray_L25_best.pth", weights_only=True)["val_psnr"] == 99.0
    train_gray.main(
        [*train_args, "--resume", "--val_noiseL", "15"]
    )  # PSNRs that cannot be compared
    assert torch.load(weights / "model_gray_L25_best.pth", weights_only=True)["val_sigma"] == 15


def test_the_best_on_other_pictures_does_not_count(train_args, tmp_path, gray_h5):
    train_gray.main([*train_args, "--epochs", "1"])
    weights = tmp_path / "weights"
    best = weights / "model_gray_L25_best.pth"
    utils.save_checkpoint(best, {**torch.load(best, weights_only=True), "val_psnr": 99.0})
    (weights / "model_gray_L25_state.pth").unlink()
    other = tmp_path / "other.h5"
    shutil.copy(gray_h5[1], other)
    with h5py.File(other, "r+") as file:
        file["00000"][:] = 255 - file["00000"][:]
    train_gray.main([*train_args, "-c", "1", "--epochs", "2", "--val_h5", str(other)])
    assert torch.load(best, weights_only=True)["epoch"] == 2


def test_going_back_finds_the_best_of_the_epochs_that_stay(train_args, tmp_path):
    train_gray.main([*train_args, "--epochs", "3"])
    best = tmp_path / "weights" / "model_gray_L25_best.pth"
    for what, psnr in ((1, 98.0), (2, 97.0), (3, 99.0), ("best", 99.0)):
        file = tmp_path / "weights" / f"model_gray_L25_{what}.pth"
        content = torch.load(file, weights_only=True)
        epoch = 3 if what == "best" else content["epoch"]
        utils.save_checkpoint(file, {**content, "epoch": epoch, "val_psnr": psnr})
    with pytest.raises(SMNetError, match="_3.pth would be replaced"):
        train_gray.main([*train_args, "-c", "2", "--epochs", "3"])
    train_gray.main([*train_args, "-c", "2", "--epochs", "3", "--overwrite"])
    content = torch.load(best, weights_only=True)
    assert (content["epoch"], content["val_psnr"]) == (1, 98.0)


def test_changed_options_are_said_and_count(train_args, tmp_path, capsys):
    train_gray.main([*train_args, "--epochs", "1"])
    train_gray.main([*train_args, "--resume", "--lr", "0", "--schedule", "cosine"])
    said = capsys.readouterr().out
    assert (
        "--lr was 0.0005, is now 0.0" in said and "--schedule was multistep, is now cosine" in said
    )
    assert_same_weights(final_weights(tmp_path), final_weights(tmp_path, "model_gray_L25_1.pth"))


def test_starting_afresh_never_replaces_a_run_unasked(train_args, tmp_path):
    train_gray.main(train_args)
    before = everything(tmp_path)
    for words in (
        [],
        ["-checkpoint", "0"],
        ["--init", str(tmp_path / "weights" / "model_gray_L25_1.pth")],
    ):
        with pytest.raises(SMNetError, match="--resume to continue it, --overwrite to replace it"):
            train_gray.main([*train_args, *words])
    for leftover in (
        "model_gray_L25_state.pth",
        "model_gray_L25_best.pth",
    ):  # alone they are an earlier run's as well
        (tmp_path / "alone").mkdir(exist_ok=True)
        (tmp_path / "alone" / leftover).write_bytes(before[leftover])
        with pytest.raises(SMNetError, match=leftover):
            train_gray.main(
                [
                    *train_args,
                    "--weights_dir",
                    str(tmp_path / "alone"),
                    "--log_dir",
                    str(tmp_path / "new"),
                ]
            )
        (tmp_path / "alone" / leftover).unlink()
    with pytest.raises(SMNetError, match="jsonl|tfevents"):  # the log is protected, too
        train_gray.main([*train_args, "--weights_dir", str(tmp_path / "alone")])
    assert everything(tmp_path) == before
    train_gray.main([*train_args, "--epochs", "1", "--overwrite"])
    assert files(tmp_path / "weights") == {
        f"model_gray_L25_{what}.pth" for what in (1, "best", "state", "state_previous")
    }
    assert (
        len(log_lines(tmp_path)) == 1
        and len(list((tmp_path / "logs" / "model_gray_L25").iterdir())) == 1
    )


def test_a_damaged_state_falls_back_to_the_one_before(train_args, tmp_path, capsys):
    train_gray.main(train_args)
    straight = final_weights(tmp_path)
    state = tmp_path / "weights" / "model_gray_L25_state.pth"

    def flip():
        content = bytearray(state.read_bytes())
        middle = len(content) // 2
        content[middle : middle + 4000] = bytes(
            byte ^ 255 for byte in content[middle : middle + 4000]
        )
        state.write_bytes(content)

    for damage in (lambda: state.write_bytes(state.read_bytes()[:5000]), state.unlink, flip):
        damage()  # more than once: the good one must not be lost to the damaged one
        assert train_gray.main([*train_args, "--resume"]) == 0
        assert "going on from the state before it" in capsys.readouterr().out
        assert_same_weights(final_weights(tmp_path), straight)


def test_a_run_from_given_weights_goes_on_by_the_same_command(train_args, tmp_path, capsys):
    train_gray.main([*train_args, "--epochs", "1"])
    words = [*train_args, "--init", str(tmp_path / "weights" / "model_gray_L25_1.pth")]
    train_gray_blind.main([*words, "--epochs", "1"])
    train_gray_blind.main([*words, "--epochs", "2", "--resume"])
    assert "resumed after 1 epochs, at step 3" in capsys.readouterr().out
    train_gray_blind.main([*words, "--epochs", "2", *folders(tmp_path / "at_once")])
    at_once = final_weights(tmp_path / "at_once", "model_gray_B_2.pth")
    assert_same_weights(final_weights(tmp_path, "model_gray_B_2.pth"), at_once)


def test_a_finished_run_resumed_has_nothing_to_do(train_args, tmp_path, capsys):
    train_gray.main([*train_args, "--epochs", "1"])
    before = (tmp_path / "weights" / "model_gray_L25_state.pth").read_bytes()
    assert train_gray.main([*train_args, "--epochs", "1", "--resume"]) == 0
    assert "all 3 steps are done" in capsys.readouterr().out
    assert (tmp_path / "weights" / "model_gray_L25_state.pth").read_bytes() == before
