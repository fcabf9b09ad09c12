"""Training: what it writes and what its options do."""

import numpy as np
import pytest
import torch
from training_helpers import (
    EVERY_OPTION,
    assert_same_weights,
    files,
    final_weights,
    folders,
    log_lines,
)

import train_gray
import train_gray_blind
import train_rgb
import train_rgb_blind
import utils
from models import SMNet
from smnet import devices, evaluation
from smnet.patches import read_pictures
from smnet.training import learner, validation
from utils import SMNetError


@pytest.mark.parametrize(
    "script, run, sigma",
    [
        (train_gray, "model_gray_L15", 15),
        (train_gray_blind, "model_gray_B", 25),
        (train_rgb, "model_rgb_L15", 15),
        (train_rgb_blind, "model_rgb_B", 25),
    ],
)
def test_a_run_leaves_weights_best_state_log_and_tensorboard(
    script, run, sigma, train_args, rgb_h5, tmp_path, capsys
):
    words = (
        [*train_args, "--train_h5", str(rgb_h5[0]), "--val_h5", str(rgb_h5[1])]
        if "rgb" in run
        else train_args
    )
    assert script.main([*words, *(["--noiseL", "15"] if sigma == 15 else [])]) == 0
    assert files(tmp_path / "weights") == {
        f"{run}_{what}.pth" for what in (1, 2, 3, "best", "state", "state_previous")
    }
    lines = log_lines(tmp_path, run)
    assert [(line["epoch"], line["step"]) for line in lines] == [(1, 3), (2, 6), (3, 9)]
    keys = {
        "epoch",
        "step",
        "loss",
        "train_psnr",
        "val_psnr",
        "val_ssim",
        "val_sigma",
        "learning_rate",
        "seconds",
        "pictures_per_second",
        "data_wait",
        "peak_memory_gb",
        "dead_relus",
    }
    assert all(line.keys() == keys for line in lines)
    assert lines[0]["val_sigma"] == sigma and lines[0]["learning_rate"] == 5e-4
    assert lines[-1]["loss"] < lines[0]["loss"]
    assert 0 <= lines[-1]["data_wait"] <= 1 and lines[-1]["pictures_per_second"] > 0
    events = b"".join(path.read_bytes() for path in (tmp_path / "logs" / run).iterdir())
    for tag in (
        "train/loss",
        "train/psnr",
        "train/learning_rate",
        "validation/psnr",
        "validation/ssim",
        "validation/dead_relus",
        "validation/clean_noisy_mask_residual_output",
    ):
        assert tag.encode() in events, tag
    best = torch.load(tmp_path / "weights" / f"{run}_best.pth", weights_only=True)
    assert best["val_psnr"] == max(line["val_psnr"] for line in lines)
    said = capsys.readouterr().out
    assert (
        "step 9 of 9" in said and f"validation at sigma {sigma}" in said
    )  # plain lines where the output is no terminal


def test_validation_is_testing(train_args, gray_h5, tmp_path):
    train_gray.main(train_args)
    model = utils.load_model(tmp_path / "weights" / "model_gray_L25_3.pth")
    tested = evaluation.averages(evaluation.evaluate(model, read_pictures(gray_h5[1], 1), sigma=25))
    line = log_lines(tmp_path)[-1]
    assert (line["val_psnr"], line["val_ssim"]) == (tested.psnr["SMNet"], tested.ssim["SMNet"])


@pytest.mark.parametrize(
    "amp, bf16",
    [([], True), (["--amp"], True), (["--amp"], False)],
    ids=["float32", "bf16", "fp16"],
)
def test_clipping_limits_the_gradient(train_args, amp, bf16, monkeypatch):
    monkeypatch.setattr(devices, "has_bf16", lambda device: bf16)
    norms = []
    clip = torch.nn.utils.clip_grad_norm_

    def watched(parameters, limit):
        parameters = list(parameters)
        clip(parameters, limit)
        norms.append(
            torch.linalg.vector_norm(torch.stack([p.grad.norm() for p in parameters])).item()
        )

    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", watched)
    train_gray.main([*train_args, "--epochs", "1", "--grad_clip", "0.01", *amp])
    assert len(norms) == 3
    if not bf16:  # where scaled gradients overflow, the step is left out
        norms = [norm for norm in norms if np.isfinite(norm)]
    assert norms and all(norm == pytest.approx(0.01, rel=1e-3) for norm in norms)


def test_init_starts_from_given_weights(train_args, tmp_path):
    train_gray.main([*train_args, "--epochs", "1"])
    given = str(tmp_path / "weights" / "model_gray_L25_1.pth")
    train_gray_blind.main([*train_args, "--epochs", "1", "--init", given, "--lr", "0"])
    assert_same_weights(
        final_weights(tmp_path, "model_gray_B_1.pth"),
        final_weights(tmp_path, "model_gray_L25_1.pth"),
    )


def test_a_known_level_is_the_blind_one_with_low_equal_high(train_args, tmp_path):
    train_gray.main([*train_args, "--epochs", "1", "--noiseL", "25"])
    train_gray_blind.main([*train_args, "--epochs", "1", "--noiseL_range", "25", "25"])
    assert_same_weights(
        final_weights(tmp_path, "model_gray_B_1.pth"),
        final_weights(tmp_path, "model_gray_L25_1.pth"),
    )


@pytest.mark.slow
def test_accumulation_changes_nothing_but_rounding(train_args, tmp_path):
    train_gray.main(train_args)
    train_gray.main([*train_args, *folders(tmp_path / "b"), "--accumulate", "3"])
    ours, theirs = final_weights(tmp_path / "b"), final_weights(tmp_path)
    assert all((ours[name] - theirs[name]).abs().max() < 1e-4 for name in theirs)
    assert all(
        abs(a["loss"] - b["loss"]) < 1e-5
        for a, b in zip(log_lines(tmp_path), log_lines(tmp_path / "b"))
    )


@pytest.mark.slow
def test_bf16_trains_alike_and_continues_to_the_same_bits(train_args, tmp_path, monkeypatch):
    seen = []
    loss = learner.Learner.loss
    monkeypatch.setattr(
        learner.Learner,
        "loss",
        lambda self, errors: seen.append(errors.dtype) or loss(self, errors),
    )
    train_gray.main(train_args)
    train_gray.main([*train_args, *folders(tmp_path / "b"), "--amp"])
    assert set(seen) == {torch.float32}  # the loss is in full precision
    for full, mixed in zip(log_lines(tmp_path), log_lines(tmp_path / "b")):
        assert full["loss"] != mixed["loss"] and mixed["loss"] == pytest.approx(
            full["loss"], rel=0.05
        )
    elsewhere = folders(tmp_path / "c")
    train_gray.main([*train_args, *elsewhere, "--amp", "--max_steps", "4"])
    train_gray.main([*train_args, *elsewhere, "--amp", "--resume"])
    assert_same_weights(final_weights(tmp_path / "c"), final_weights(tmp_path / "b"))


@pytest.mark.slow
def test_fp16_scales_its_gradients_and_continues_to_the_same_bits(
    train_args, tmp_path, monkeypatch
):
    monkeypatch.setattr(devices, "has_bf16", lambda device: False)
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
            seen.append(
                (
                    whole.__name__,
                    torch.backends.cuda.matmul.allow_tf32,
                    torch.backends.cudnn.allow_tf32,
                )
            )
            return whole(*args, **kwargs)

        return call

    monkeypatch.setattr(learner.Learner, "step", watched(learner.Learner.step))
    monkeypatch.setattr(validation, "evaluate", watched(validation.evaluate))
    train_gray.main([*train_args, "--epochs", "1", "--tf32"])
    assert set(seen) == {("step", True, True), ("evaluate", False, False)}
    with pytest.raises(SMNetError, match="diverged"):
        train_gray.main([*train_args, "--tf32", "--lr", "1000", "--epochs", "20", "--overwrite"])
    assert not torch.backends.cuda.matmul.allow_tf32


@pytest.mark.slow
def test_compile_captures_the_whole_network_and_trains_alike(train_args, tmp_path, monkeypatch):
    compiled = []
    # The capture is what can go wrong here; Inductor, PyTorch's default behind it, takes minutes on
    # CPU.
    original = torch.compile
    monkeypatch.setattr(
        torch,
        "compile",
        lambda m: compiled.append(m) or original(m, backend="aot_eager", fullgraph=True),
    )
    train_gray.main([*train_args, "--epochs", "1", "--compile"])
    train_gray.main([*train_args, "--epochs", "1", *folders(tmp_path / "b")])
    ours, theirs = (
        final_weights(tmp_path, "model_gray_L25_1.pth"),
        final_weights(tmp_path / "b", "model_gray_L25_1.pth"),
    )
    assert len(compiled) == 1 and ours.keys() == theirs.keys()
    assert all((ours[name] - theirs[name]).abs().max() < 1e-4 for name in theirs)


def test_saved_weights_are_the_average(train_args, tmp_path):
    train_gray.main([*train_args, "--epochs", "1", "--ema", "0.9"])
    state = torch.load(tmp_path / "weights" / "model_gray_L25_state.pth", weights_only=True)
    saved = final_weights(tmp_path, "model_gray_L25_1.pth")
    assert_same_weights(
        saved,
        {k.removeprefix("module."): v for k, v in state["average"].items() if k != "n_averaged"},
    )
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


def test_muon_takes_the_kernels_and_adam_the_rest(train_args, tmp_path):
    train_gray.main([*train_args, "--epochs", "1", *EVERY_OPTION])
    state = torch.load(tmp_path / "weights" / "model_gray_L25_state.pth", weights_only=True)
    model = SMNet(1, 4)
    kernels = [p for p in model.parameters() if p.ndim == 4 and p.shape[0] > 1 and p.shape[1] > 1]
    adam, muon = (len(optimizer["param_groups"][0]["params"]) for optimizer in state["optimizers"])
    assert muon == len(kernels) and adam + muon == len(list(model.parameters()))


def test_the_psnr_loss_trains_otherwise_and_logs_the_mean_squared_error(train_args, tmp_path):
    train_gray.main(train_args)
    train_gray.main([*train_args, *folders(tmp_path / "b"), "--loss", "psnr"])
    mse, psnr = log_lines(tmp_path), log_lines(tmp_path / "b")
    assert psnr[0]["loss"] == pytest.approx(mse[0]["loss"], rel=0.05)  # the same first step
    assert psnr[-1]["loss"] != mse[-1]["loss"] and psnr[-1]["loss"] < psnr[0]["loss"]
    with pytest.raises(SMNetError, match="--loss was psnr, is now mse"):
        train_gray.main([*train_args, *folders(tmp_path / "b"), "--resume", "--epochs", "4"])
