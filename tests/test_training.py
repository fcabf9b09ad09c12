"""Training: what it writes, that it continues to the same bits, and that it never replaces a run unasked."""

import argparse
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import tensorboardX.record_writer
import torch

import distributed
import evaluation
import learner
import run_files
import train_gray
import train_gray_blind
import train_rgb
import train_rgb_blind
import training
import utils
from event_writer import EventWriter
from models import SMNet
from optimizers import KernelMuon, MovingAverage, as_matrix, rate_factor
from patches import read_pictures
from stopping import StopRequest
from utils import SMNetError

EVERY_OPTION = "--optimizer muon --ema 0.9 --schedule cosine --warmup 2 --grad_clip 1 --lr 2e-3".split()


def final_weights(folder: Path, name: str = "model_gray_L25_3.pth") -> dict:
    return torch.load(folder / "weights" / name, weights_only=True)["model"]


def assert_same_weights(ours: dict, theirs: dict) -> None:
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def log_lines(folder: Path, name: str = "model_gray_L25") -> list[dict]:
    return [json.loads(line) for line in (folder / "logs" / f"{name}.jsonl").read_text().splitlines()]


def folders(folder: Path) -> list[str]:
    """The options that put a run's files into `folder`."""
    return ["--weights_dir", str(folder / "weights"), "--log_dir", str(folder / "logs")]


def everything(folder: Path) -> dict[str, bytes]:
    """The content of all files of a run, by name."""
    return {path.name: path.read_bytes() for part in ("weights", "logs") for path in (folder / part).rglob("*.*")}


def without_time(log: list[dict]) -> list[dict]:
    """The lines of a log but for what a clock said."""
    clocks = ("seconds", "pictures_per_second", "data_wait", "peak_memory_gb")
    return [{key: value for key, value in line.items() if key not in clocks} for line in log]


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.mark.parametrize(
    "script, run, sigma",
    [
        (train_gray, "model_gray_L15", 15),
        (train_gray_blind, "model_gray_B", 25),
        (train_rgb, "model_rgb_L15", 15),
        (train_rgb_blind, "model_rgb_B", 25),
    ],
)
def test_a_run_leaves_weights_best_state_log_and_tensorboard(script, run, sigma, train_args, rgb_h5, tmp_path, capsys):
    words = [*train_args, "--train_h5", str(rgb_h5[0]), "--val_h5", str(rgb_h5[1])] if "rgb" in run else train_args
    assert script.main([*words, *(["--noiseL", "15"] if sigma == 15 else [])]) == 0
    assert files(tmp_path / "weights") == {f"{run}_{what}.pth" for what in (1, 2, 3, "best", "state", "state_previous")}
    lines = log_lines(tmp_path, run)
    assert [(line["epoch"], line["step"]) for line in lines] == [(1, 3), (2, 6), (3, 9)]
    keys = {"epoch", "step", "loss", "train_psnr", "val_psnr", "val_ssim", "val_sigma", "learning_rate", "seconds",
            "pictures_per_second", "data_wait", "peak_memory_gb"}  # fmt: skip
    assert all(line.keys() == keys for line in lines)
    assert lines[0]["val_sigma"] == sigma and lines[0]["learning_rate"] == 5e-4
    assert lines[-1]["loss"] < lines[0]["loss"]
    assert 0 <= lines[-1]["data_wait"] <= 1 and lines[-1]["pictures_per_second"] > 0
    events = b"".join(path.read_bytes() for path in (tmp_path / "logs" / run).iterdir())
    for tag in ("train/loss", "train/psnr", "train/learning_rate", "validation/psnr", "validation/ssim",
                "validation/clean_noisy_mask_residual_output"):  # fmt: skip
        assert tag.encode() in events, tag
    best = torch.load(tmp_path / "weights" / f"{run}_best.pth", weights_only=True)
    assert best["val_psnr"] == max(line["val_psnr"] for line in lines)
    said = capsys.readouterr().out
    assert "step 9 of 9" in said and f"validation at sigma {sigma}" in said  # plain lines where the output is no terminal


def test_validation_is_testing(train_args, gray_h5, tmp_path):
    train_gray.main(train_args)
    model = utils.load_model(tmp_path / "weights" / "model_gray_L25_3.pth")
    tested = evaluation.averages(evaluation.evaluate(model, read_pictures(gray_h5[1], 1), sigma=25))
    line = log_lines(tmp_path)[-1]
    assert (line["val_psnr"], line["val_ssim"]) == (tested.psnr["SMNet"], tested.ssim["SMNet"])


@pytest.mark.parametrize("options", [[], EVERY_OPTION], ids=["the paper's", "every option"])
@pytest.mark.parametrize("workers", ["0", "2"])
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


@pytest.mark.parametrize("words", [["--resume"], ["-c", "2"], ["--resume", "--workers", "2"]], ids=" ".join)
def test_a_run_stopped_by_max_steps_goes_on_mid_epoch_to_the_same_bits(train_args, tmp_path, words, capsys):
    train_gray.main(train_args)
    straight = final_weights(tmp_path)
    elsewhere = folders(tmp_path / "b")
    train_gray.main([*train_args, *elsewhere, "--max_steps", "4"])
    assert [(line["epoch"], line["step"]) for line in log_lines(tmp_path / "b")] == [(1, 3), (2, 4)]
    train_gray.main([*train_args, *elsewhere, *words])
    assert "--max_steps was 4, is now 0" in capsys.readouterr().out
    assert_same_weights(final_weights(tmp_path / "b"), straight)
    assert [(line["epoch"], line["step"]) for line in log_lines(tmp_path / "b")] == [(1, 3), (2, 6), (3, 9)]


def test_checkpoint_option_continues_exactly_or_from_weights_and_says_which(train_args, tmp_path, capsys):
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


def test_an_epoch_cut_short_is_not_passed_over_in_silence(train_args, tmp_path, capsys):
    train_gray.main([*train_args, "--max_steps", "2"])
    for file in (tmp_path / "weights").glob("*_state*.pth"):
        file.unlink()
    train_gray.main([*train_args, "--epochs", "2", "-c", "1"])
    assert "its last 1 steps are left out" in capsys.readouterr().out


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
    train_gray.main([*train_args, "--resume", "--val_noiseL", "15"])  # PSNRs that cannot be compared
    assert torch.load(weights / "model_gray_L25_best.pth", weights_only=True)["val_sigma"] == 15


def test_changed_options_are_said_and_count(train_args, tmp_path, capsys):
    train_gray.main([*train_args, "--epochs", "1"])
    train_gray.main([*train_args, "--resume", "--lr", "0", "--schedule", "cosine"])
    said = capsys.readouterr().out
    assert "--lr was 0.0005, is now 0.0" in said and "--schedule was multistep, is now cosine" in said
    assert_same_weights(final_weights(tmp_path), final_weights(tmp_path, "model_gray_L25_1.pth"))


@pytest.mark.parametrize("amp, bf16", [([], True), (["--amp"], True), (["--amp"], False)], ids=["float32", "bf16", "fp16"])
def test_clipping_limits_the_gradient(train_args, amp, bf16, monkeypatch):
    monkeypatch.setattr(learner, "has_bf16", lambda device: bf16)
    norms = []
    clip = torch.nn.utils.clip_grad_norm_

    def watched(parameters, limit):
        parameters = list(parameters)
        clip(parameters, limit)
        norms.append(torch.linalg.vector_norm(torch.stack([p.grad.norm() for p in parameters])).item())

    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", watched)
    train_gray.main([*train_args, "--epochs", "1", "--grad_clip", "0.01", *amp])
    assert len(norms) == 3
    if not bf16:  # where scaled gradients overflow, the step is left out
        norms = [norm for norm in norms if np.isfinite(norm)]
    assert norms and all(norm == pytest.approx(0.01, rel=1e-3) for norm in norms)


def test_starting_afresh_never_replaces_a_run_unasked(train_args, tmp_path):
    train_gray.main(train_args)
    before = everything(tmp_path)
    for words in ([], ["-checkpoint", "0"], ["--init", str(tmp_path / "weights" / "model_gray_L25_1.pth")]):
        with pytest.raises(SMNetError, match="--resume to continue it, --overwrite to replace it"):
            train_gray.main([*train_args, *words])
    for leftover in ("model_gray_L25_state.pth", "model_gray_L25_best.pth"):  # alone they are an earlier run's as well
        (tmp_path / "alone").mkdir(exist_ok=True)
        (tmp_path / "alone" / leftover).write_bytes(before[leftover])
        with pytest.raises(SMNetError, match=leftover):
            train_gray.main([*train_args, "--weights_dir", str(tmp_path / "alone"), "--log_dir", str(tmp_path / "new")])
        (tmp_path / "alone" / leftover).unlink()
    with pytest.raises(SMNetError, match="jsonl|tfevents"):  # the log is protected, too
        train_gray.main([*train_args, "--weights_dir", str(tmp_path / "alone")])
    assert everything(tmp_path) == before
    train_gray.main([*train_args, "--epochs", "1", "--overwrite"])
    assert files(tmp_path / "weights") == {f"model_gray_L25_{what}.pth" for what in (1, "best", "state", "state_previous")}
    assert len(log_lines(tmp_path)) == 1 and len(list((tmp_path / "logs" / "model_gray_L25").iterdir())) == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "Ctrl-C"])
@pytest.mark.parametrize("where", ["training", "validation"])
def test_a_signal_saves_and_stops_with_its_status(train_args, tmp_path, number, where, monkeypatch, capsys):
    train_gray.main(train_args)
    handler = signal.getsignal(number)
    straight, straight_log = final_weights(tmp_path), log_lines(tmp_path)
    module, name = {"training": (learner.Learner, "step"), "validation": (training, "evaluate")}[where]
    original, calls = getattr(module, name), []

    def signalled(*args, **kwargs):
        calls.append(1)
        if len(calls) == 2:  # step 2, or the second validation
            signal.raise_signal(number)
        return original(*args, **kwargs)

    monkeypatch.setattr(module, name, signalled)
    elsewhere = folders(tmp_path / "b")
    with pytest.raises(SystemExit) as caught:
        train_gray.main([*train_args, *elsewhere])
    assert caught.value.code == 128 + number
    assert f"stopped by {number.name}" in capsys.readouterr().out
    assert train_gray.main([*train_args, *elsewhere, "--resume"]) == 0
    assert ("at step 2" if where == "training" else "at step 6") in capsys.readouterr().out
    assert_same_weights(final_weights(tmp_path / "b"), straight)
    log = log_lines(tmp_path / "b")
    assert without_time(log) == without_time(straight_log)
    speeds = [line["pictures_per_second"] for line in log]
    assert [speed is None for speed in speeds] == [False, where == "validation", False]  # validated by another process
    assert signal.getsignal(number) is handler


def test_a_second_ctrl_c_stops_at_once():
    with pytest.raises(SystemExit) as caught, StopRequest() as stop:
        signal.raise_signal(signal.SIGINT)
        assert stop.signal == signal.SIGINT
        signal.raise_signal(signal.SIGINT)
    assert caught.value.code == 130


def test_the_state_is_saved_every_so_often_and_the_one_before_kept(train_args, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(training, "LOG_EVERY", 1)
    monkeypatch.setattr(run_files.RunFiles, "remove_later_than", lambda *_: pytest.fail("stop here, before the epoch's files"))
    with pytest.raises(pytest.fail.Exception):
        train_gray.main([*train_args, "--save_every", "0"])
    steps = {what: torch.load(tmp_path / "weights" / f"model_gray_L25_{what}.pth", weights_only=True)["progress"]["step"]
             for what in ("state", "state_previous")}  # fmt: skip
    assert steps == {"state": 3, "state_previous": 2}


def test_a_damaged_state_falls_back_to_the_one_before(train_args, tmp_path, capsys):
    train_gray.main(train_args)
    straight = final_weights(tmp_path)
    state = tmp_path / "weights" / "model_gray_L25_state.pth"

    def flip():
        content = bytearray(state.read_bytes())
        middle = len(content) // 2
        content[middle : middle + 4000] = bytes(byte ^ 255 for byte in content[middle : middle + 4000])
        state.write_bytes(content)

    for damage in (lambda: state.write_bytes(state.read_bytes()[:5000]), state.unlink, flip):
        damage()  # more than once: the good one must not be lost to the damaged one
        assert train_gray.main([*train_args, "--resume"]) == 0
        assert "going on from the state before it" in capsys.readouterr().out
        assert_same_weights(final_weights(tmp_path), straight)


def test_what_diverges_is_never_saved(train_args, tmp_path):
    with pytest.raises(SMNetError, match="training has diverged"):  # in its only step, whose loss was still finite
        train_gray.main([*train_args, "--max_steps", "1", "--lr", "1000"])
    assert not (tmp_path / "weights" / "model_gray_L25_1.pth").exists()


FULL_DISK = """
import resource, sys
import train_gray, utils
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv.pop()), resource.RLIM_INFINITY))
utils.run_script(lambda: train_gray.main(sys.argv[1:]))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no such limit on Windows")
def test_a_full_disk_is_one_line_and_harms_nothing(train_args, tmp_path):
    """Files may not grow past 300,000 bytes: the first state fits, the second, with Adam's memory, does not."""
    root = Path(train_gray.__file__).parent
    done = subprocess.run([sys.executable, "-c", FULL_DISK, *train_args, "300000"], env={**os.environ, "PYTHONPATH": str(root)},
                          capture_output=True, text=True, timeout=300)  # fmt: skip
    assert done.returncode == 1 and done.stderr.startswith("error: cannot write"), done.stderr
    assert done.stderr.count("\n") == 1
    (state,) = (tmp_path / "weights").iterdir()
    assert torch.load(state, weights_only=True)["progress"]["step"] == 0  # whole


def test_a_full_disk_under_tensorboards_files_is_one_line(tmp_path, capfd, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    writer = EventWriter(tmp_path, first_step=1, to_disk=True)
    monkeypatch.setattr(tensorboardX.record_writer.RecordWriter, "write", full)
    writer.scalars({"a": 1.0}, 1)
    writer.writer.file_writer.event_writer._worker.join(20)
    for call in (lambda: writer.scalars({"a": 1.0}, 2), writer.close):
        with pytest.raises(SMNetError, match="cannot write into .*: No space left on device"):
            call()
    assert "Traceback" not in capfd.readouterr().err
    threading.excepthook = writer.hook_before


def test_leftovers_of_a_killed_process_are_removed(train_args, tmp_path):
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / ".model_gray_L25_state.pth.123.tmp").write_text("half")
    (tmp_path / "weights" / ".model_gray_L15_state.pth.123.tmp").write_text("another run's")
    train_gray.main([*train_args, "--epochs", "1"])
    assert [p.name for p in (tmp_path / "weights").glob(".*")] == [".model_gray_L15_state.pth.123.tmp"]


def test_init_starts_from_given_weights(train_args, tmp_path):
    train_gray.main([*train_args, "--epochs", "1"])
    given = str(tmp_path / "weights" / "model_gray_L25_1.pth")
    train_gray_blind.main([*train_args, "--epochs", "1", "--init", given, "--lr", "0"])
    assert_same_weights(final_weights(tmp_path, "model_gray_B_1.pth"), final_weights(tmp_path, "model_gray_L25_1.pth"))


def test_a_run_from_given_weights_goes_on_by_the_same_command(train_args, tmp_path, capsys):
    train_gray.main([*train_args, "--epochs", "1"])
    words = [*train_args, "--init", str(tmp_path / "weights" / "model_gray_L25_1.pth")]
    train_gray_blind.main([*words, "--epochs", "1"])
    train_gray_blind.main([*words, "--epochs", "2", "--resume"])
    assert "resumed after 1 epochs, at step 3" in capsys.readouterr().out
    train_gray_blind.main([*words, "--epochs", "2", *folders(tmp_path / "at_once")])
    at_once = final_weights(tmp_path / "at_once", "model_gray_B_2.pth")
    assert_same_weights(final_weights(tmp_path, "model_gray_B_2.pth"), at_once)


def test_a_known_level_is_the_blind_one_with_low_equal_high(train_args, tmp_path):
    train_gray.main([*train_args, "--epochs", "1", "--noiseL", "25"])
    train_gray_blind.main([*train_args, "--epochs", "1", "--noiseL_range", "25", "25"])
    assert_same_weights(final_weights(tmp_path, "model_gray_B_1.pth"), final_weights(tmp_path, "model_gray_L25_1.pth"))


def test_accumulation_changes_nothing_but_rounding(train_args, tmp_path):
    train_gray.main(train_args)
    train_gray.main([*train_args, *folders(tmp_path / "b"), "--accumulate", "3"])
    ours, theirs = final_weights(tmp_path / "b"), final_weights(tmp_path)
    assert all((ours[name] - theirs[name]).abs().max() < 1e-4 for name in theirs)
    assert all(abs(a["loss"] - b["loss"]) < 1e-5 for a, b in zip(log_lines(tmp_path), log_lines(tmp_path / "b")))


def test_bf16_trains_alike_and_continues_to_the_same_bits(train_args, tmp_path, monkeypatch):
    seen = []
    head = torch.nn.functional.mse_loss
    monkeypatch.setattr(torch.nn.functional, "mse_loss", lambda output, clean: seen.append(output.dtype) or head(output, clean))
    train_gray.main(train_args)
    train_gray.main([*train_args, *folders(tmp_path / "b"), "--amp"])
    assert set(seen) == {torch.float32}  # the loss is in full precision
    for full, mixed in zip(log_lines(tmp_path), log_lines(tmp_path / "b")):
        assert full["loss"] != mixed["loss"] and mixed["loss"] == pytest.approx(full["loss"], rel=0.05)
    elsewhere = folders(tmp_path / "c")
    train_gray.main([*train_args, *elsewhere, "--amp", "--max_steps", "4"])
    train_gray.main([*train_args, *elsewhere, "--amp", "--resume"])
    assert_same_weights(final_weights(tmp_path / "c"), final_weights(tmp_path / "b"))


def test_fp16_scales_its_gradients_and_continues_to_the_same_bits(train_args, tmp_path, monkeypatch):
    monkeypatch.setattr(learner, "has_bf16", lambda device: False)
    train_gray.main([*train_args, "--amp"])
    train_gray.main([*train_args, *folders(tmp_path / "b"), "--amp", "--max_steps", "4"])
    train_gray.main([*train_args, *folders(tmp_path / "b"), "--amp", "--resume"])
    assert_same_weights(final_weights(tmp_path / "b"), final_weights(tmp_path))
    state = torch.load(tmp_path / "weights" / "model_gray_L25_state.pth", weights_only=True)
    assert state["scaler"]["scale"] > 1
    with pytest.raises(SMNetError, match="fp16 goes with --optimizer adam alone"):
        train_gray.main([*train_args, *folders(tmp_path / "c"), "--amp", "--optimizer", "muon"])


def test_tf32_is_for_steps_and_never_for_validation(train_args, monkeypatch):
    seen = []

    def watched(whole):
        def call(*args, **kwargs):
            seen.append((whole.__name__, torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32))
            return whole(*args, **kwargs)

        return call

    monkeypatch.setattr(learner.Learner, "step", watched(learner.Learner.step))
    monkeypatch.setattr(training, "evaluate", watched(training.evaluate))
    train_gray.main([*train_args, "--epochs", "1", "--tf32"])
    assert set(seen) == {("step", True, True), ("evaluate", False, False)}
    with pytest.raises(SMNetError, match="diverged"):
        train_gray.main([*train_args, "--tf32", "--lr", "1000", "--epochs", "20", "--overwrite"])
    assert not torch.backends.cuda.matmul.allow_tf32


def test_too_little_memory_is_said_before_the_first_step(train_args, tmp_path, monkeypatch, capsys):
    train_gray.main(train_args)
    assert "are free" not in capsys.readouterr().out
    monkeypatch.setattr(training, "free_memory", lambda device: 0.001)
    train_gray.main([*train_args, *folders(tmp_path / "b")])
    assert "a step takes about 0.1 GB and 0.0 GB are free: a larger --accumulate" in capsys.readouterr().out


def test_the_memory_a_step_takes_is_known_before(monkeypatch):
    def needed(**changed) -> float:
        usual = {"batchsize": 8, "patch_size": 256, "width": 64, "shuffle": 1, "accumulate": 1, "amp": False}
        args = argparse.Namespace(**{**usual, **changed})
        return learner.Learner.memory_needed(argparse.Namespace(args=args, device=torch.device("cpu")))

    assert 28 < needed() < 32  # measured: 3.5 to 3.8 GB for one picture of 256x256, with --amp 2.0
    assert 3.5 < needed(accumulate=8) == needed(batchsize=1) < 4 and 1.8 < needed(batchsize=1, amp=True) < 2.1
    assert 0.3 < needed(patch_size=48, width=16) < 0.4
    assert 0.3 < needed(patch_size=64, width=32, shuffle=2) < 0.4
    monkeypatch.setattr(distributed, "size", lambda: 3)
    monkeypatch.setattr(distributed, "local_size", lambda: 3)
    assert 33 < needed() == needed(batchsize=9) < 36  # three processes of up to three pictures


def test_fewer_steps_than_are_done_end_the_run(train_args, tmp_path, monkeypatch):
    steps = learner.Learner.step

    def signalled(self, *batch):
        if self.done.step == 4:
            signal.raise_signal(signal.SIGTERM)
        return steps(self, *batch)

    monkeypatch.setattr(learner.Learner, "step", signalled)
    with pytest.raises(SystemExit):
        train_gray.main(train_args)
    assert train_gray.main([*train_args, "--resume", "--max_steps", "4"]) == 0
    assert [(line["epoch"], line["step"]) for line in log_lines(tmp_path)] == [(1, 3), (2, 5)]


def test_compile_captures_the_whole_network_and_trains_alike(train_args, tmp_path, monkeypatch):
    compiled = []
    # The capture is what can go wrong here; Inductor, PyTorch's default behind it, takes minutes on CPU.
    original = torch.compile
    monkeypatch.setattr(torch, "compile", lambda m: compiled.append(m) or original(m, backend="aot_eager", fullgraph=True))
    train_gray.main([*train_args, "--epochs", "1", "--compile"])
    train_gray.main([*train_args, "--epochs", "1", *folders(tmp_path / "b")])
    ours, theirs = final_weights(tmp_path, "model_gray_L25_1.pth"), final_weights(tmp_path / "b", "model_gray_L25_1.pth")
    assert len(compiled) == 1 and ours.keys() == theirs.keys()
    assert all((ours[name] - theirs[name]).abs().max() < 1e-4 for name in theirs)


def test_a_finished_run_resumed_has_nothing_to_do(train_args, tmp_path, capsys):
    train_gray.main([*train_args, "--epochs", "1"])
    before = (tmp_path / "weights" / "model_gray_L25_state.pth").read_bytes()
    assert train_gray.main([*train_args, "--epochs", "1", "--resume"]) == 0
    assert "all 3 steps are done" in capsys.readouterr().out
    assert (tmp_path / "weights" / "model_gray_L25_state.pth").read_bytes() == before


def test_saved_weights_are_the_average(train_args, tmp_path):
    train_gray.main([*train_args, "--epochs", "1", "--ema", "0.9"])
    state = torch.load(tmp_path / "weights" / "model_gray_L25_state.pth", weights_only=True)
    saved = final_weights(tmp_path, "model_gray_L25_1.pth")
    assert_same_weights(saved, {k.removeprefix("module."): v for k, v in state["average"].items() if k != "n_averaged"})
    assert any(not torch.equal(saved[name], state["model"][name]) for name in saved)


@pytest.mark.parametrize("words", [[], ["--init"]], ids=["afresh", "from weights"])
def test_training_leaves_the_global_generators_alone(train_args, tmp_path, words):
    if words:
        train_gray.main([*train_args, *folders(tmp_path / "given"), "--epochs", "1"])
        words = [*words, str(tmp_path / "given" / "weights" / "model_gray_L25_1.pth")]
    train_gray.main([*train_args, "--epochs", "1", "--seed", "3", *words])
    after = torch.rand(1), torch.initial_seed()
    torch.manual_seed(3)
    SMNet(1, 4)  # the initial weights are all that is drawn from it
    assert after == (torch.rand(1), torch.initial_seed())


def test_rates():
    args = type("Args", (), dict(schedule="multistep", milestones=(10, 40), warmup=0))
    at = lambda epoch: rate_factor(epoch * 7, steps_per_epoch=7, total_steps=350, args=args)  # noqa: E731
    assert [round(at(epoch), 6) for epoch in (0, 9, 10, 39, 40, 49)] == [1, 1, 0.1, 0.1, 0.01, 0.01]
    args.schedule, args.warmup = "cosine", 4
    rates = [rate_factor(step, steps_per_epoch=7, total_steps=104, args=args) for step in range(104)]
    assert rates[:5] == [0.25, 0.5, 0.75, 1, 1] and rates[54] == pytest.approx(0.5) and 0 < rates[-1] < 1e-3


def test_muon_orthogonalises_kernels_in_place():
    torch.manual_seed(0)
    kernel = torch.nn.Parameter(torch.randn(8, 6, 3, 3).to(memory_format=torch.channels_last))
    before = kernel.detach().clone()
    optimizer = KernelMuon([kernel], lr=0.01)
    kernel.grad = torch.randn(8, 6, 3, 3)
    optimizer.step()
    change = as_matrix((kernel.detach() - before) / 0.01)
    assert np.all(np.abs(torch.linalg.svdvals(change).numpy() - 1) < 0.4)  # five Newton-Schulz steps come that near to 1
    with pytest.raises(AssertionError, match="channels_last"):
        KernelMuon([torch.nn.Parameter(torch.randn(8, 6, 3, 3))], lr=0.01)


def test_the_average_forgets_the_initial_weights():
    average = MovingAverage(torch.nn.Linear(1, 1), decay=0.999)
    for value in (1000.0, *[1.0] * 400):
        average.update_parameters(torch.nn.Linear(1, 1).requires_grad_(False).apply(lambda m, v=value: m.weight.fill_(v)))
    assert abs(average.module.weight.item() - 1) < 1e-3


def test_muon_takes_the_kernels_and_adam_the_rest(train_args, tmp_path):
    train_gray.main([*train_args, "--epochs", "1", *EVERY_OPTION])
    state = torch.load(tmp_path / "weights" / "model_gray_L25_state.pth", weights_only=True)
    model = SMNet(1, 4)
    kernels = [p for p in model.parameters() if p.ndim == 4 and p.shape[0] > 1 and p.shape[1] > 1]
    adam, muon = (len(optimizer["param_groups"][0]["params"]) for optimizer in state["optimizers"])
    assert muon == len(kernels) and adam + muon == len(list(model.parameters()))


def test_mistakes_are_a_line_or_two(train_args, gray_h5, tmp_path):
    weights = tmp_path / "weights"

    def error(*words: str) -> str:
        with pytest.raises(SMNetError) as caught:
            train_gray.main([*train_args, *words])
        assert str(caught.value).count("\n") < 2
        return str(caught.value)

    assert "leave the option out" in error("--resume")
    assert not list(tmp_path.iterdir())
    assert "model_gray_L25_7.pth" in error("-c", "7")
    assert "python dataset_gray.py" in error("--train_h5", str(tmp_path / "none.h5"))
    assert "not smnet training patches" in error("--train_h5", str(gray_h5[1]))
    assert "too small for --patch_size 64" in error("--patch_size", "64")
    assert "12 samples an epoch, less than --batchsize 99" in error("--batchsize", "99")
    assert "'nonsense'" in error("--device", "nonsense")
    (tmp_path / "file").touch()
    assert "cannot make the folder" in error("--weights_dir", str(tmp_path / "file"))
    assert "cannot make the folder" in error("--log_dir", str(tmp_path / "file" / "logs"))
    assert "training has diverged" in error("--lr", "1000", "--epochs", "20")
    train_gray.main([*train_args, "--overwrite"])
    assert "has width 4, this command --width 6; give --width 4" in error("--width", "6", "--resume")
    assert "width 4" in error("--width", "6", "--overwrite", "--init", str(weights / "model_gray_L25_1.pth"))
    assert "trained with 0 (--seed), this command has 1" in error("--seed", "1", "--resume")
    assert "the last weights there: -c 3" in error("-c", "8")
    state = weights / "model_gray_L25_state.pth"
    state.write_bytes(state.read_bytes()[:1000])
    (weights / "model_gray_L25_state_previous.pth").write_bytes(b"")
    assert "damaged" in error("--resume")
    state.unlink()
    (weights / "model_gray_L25_state_previous.pth").unlink()
    assert "the last weights there: -c 3" in error("--resume")


WRONG = """--noiseL 256; --noiseL x; --batchsize 0; --width 5; --resume -c 3; --lr nan; --lr -1; -c 1 --init x; --ema 1;
    --noise 25; --optimizer sgd; --seed -1; --seed 99999999999999999999; --lr inf; --betas 0.9"""


@pytest.mark.parametrize("words", WRONG.split(";"))
def test_wrong_arguments_exit_with_2(train_args, words):
    with pytest.raises(SystemExit) as caught:
        train_gray.main([*train_args, *words.split()])
    assert caught.value.code == 2
