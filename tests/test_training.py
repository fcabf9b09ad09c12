"""Training: what it writes, that it continues to the same bits, and that it never replaces a run unasked."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import evaluation
import train_gray
import train_gray_blind
import training_run
import utils
from dataset import read_pictures
from models import SMNet
from optimizers import KernelMuon, as_matrix, moving_average, rate_factor
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


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_run_leaves_weights_best_state_log_and_tensorboard(train_args, tmp_path, capsys):
    assert train_gray.main(["--noiseL", "15", *train_args]) == 0
    run = "model_gray_L15"
    assert files(tmp_path / "weights") == {f"{run}_{what}.pth" for what in (1, 2, 3, "best", "state")}
    lines = log_lines(tmp_path, run)
    assert [(line["epoch"], line["step"]) for line in lines] == [(1, 3), (2, 6), (3, 9)]
    keys = {"epoch", "step", "loss", "train_psnr", "val_psnr", "val_ssim", "val_sigma", "learning_rate", "seconds"}
    assert all(line.keys() == keys for line in lines)
    assert lines[0]["val_sigma"] == 15 and lines[0]["learning_rate"] == 5e-4
    assert lines[-1]["loss"] < lines[0]["loss"]
    events = b"".join(path.read_bytes() for path in (tmp_path / "logs" / run).iterdir())
    for tag in (b"train/loss", b"train/psnr", b"train/learning_rate", b"validation/psnr", b"validation/ssim",
                b"validation/clean_noisy_mask_residual_output"):  # fmt: skip
        assert tag in events, tag
    best = torch.load(tmp_path / "weights" / f"{run}_best.pth", weights_only=True)
    assert best["val_psnr"] == max(line["val_psnr"] for line in lines)
    said = capsys.readouterr().out
    assert "step 9 of 9" in said and "validation at sigma 15" in said  # plain lines where the output is no terminal


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
        steps = training_run.Run.step

        def interrupted(run, *batch):
            if run.done.step == 5:  # in the middle of the second epoch
                raise KeyboardInterrupt
            return steps(run, *batch)

        patch.setattr(training_run.Run, "step", interrupted)
        train_gray.main([*train_args, *again])
    assert train_gray.main([*train_args, *again, "--resume"]) == 0
    assert "epoch 1, step 3" in capsys.readouterr().out
    assert_same_weights(final_weights(tmp_path / "b"), straight)
    without_time = [[{**line, "seconds": 0} for line in log] for log in (straight_log, log_lines(tmp_path / "b"))]
    assert without_time[0] == without_time[1]


def test_a_run_stopped_by_max_steps_goes_on_mid_epoch_to_the_same_bits(train_args, tmp_path):
    train_gray.main(train_args)
    straight = final_weights(tmp_path)
    elsewhere = folders(tmp_path / "b")
    train_gray.main([*train_args, *elsewhere, "--max_steps", "4"])
    assert [(line["epoch"], line["step"]) for line in log_lines(tmp_path / "b")] == [(1, 3), (2, 4)]
    train_gray.main([*train_args, *elsewhere, "--resume"])
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
    with pytest.raises(SMNetError, match="_3.pth would be replaced"):
        train_gray.main([*train_args, *elsewhere, "-c", "1"])
    train_gray.main([*train_args, *elsewhere, "--epochs", "2", "-c", "1", "--overwrite"])
    assert "from its weights alone" in capsys.readouterr().out
    assert files(tmp_path / "b" / "weights") == {f"model_gray_L25_{what}.pth" for what in (1, 2, "best", "state")}
    assert [line["epoch"] for line in log_lines(tmp_path / "b")] == [1, 2]


def test_starting_afresh_never_replaces_a_run_unasked(train_args, tmp_path):
    train_gray.main(train_args)
    before = {path.name: path.read_bytes() for path in (tmp_path / "weights").iterdir()}
    for words in ([], ["-checkpoint", "0"], ["--init", str(tmp_path / "weights" / "model_gray_L25_1.pth")]):
        with pytest.raises(SMNetError, match="--resume to continue it, --overwrite to replace it"):
            train_gray.main([*train_args, *words])
    assert {path.name: path.read_bytes() for path in (tmp_path / "weights").iterdir()} == before
    train_gray.main([*train_args, "--epochs", "1", "--overwrite"])
    assert files(tmp_path / "weights") == {f"model_gray_L25_{what}.pth" for what in (1, "best", "state")}
    assert len(log_lines(tmp_path)) == 1 and len(list((tmp_path / "logs" / "model_gray_L25").iterdir())) == 1


def test_init_starts_from_given_weights(train_args, tmp_path):
    train_gray.main([*train_args, "--epochs", "1"])
    given = str(tmp_path / "weights" / "model_gray_L25_1.pth")
    train_gray_blind.main([*train_args, "--epochs", "1", "--init", given, "--lr", "0"])
    assert_same_weights(final_weights(tmp_path, "model_gray_B_1.pth"), final_weights(tmp_path, "model_gray_L25_1.pth"))


def test_a_known_level_is_the_blind_one_with_low_equal_high(train_args, tmp_path):
    train_gray.main([*train_args, "--epochs", "1", "--noiseL", "25"])
    train_gray_blind.main([*train_args, "--epochs", "1", "--noiseL_range", "25", "25"])
    assert_same_weights(final_weights(tmp_path, "model_gray_B_1.pth"), final_weights(tmp_path, "model_gray_L25_1.pth"))


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


def test_training_leaves_the_global_generators_alone(train_args, tmp_path):
    train_gray.main([*train_args, "--epochs", "1", "--seed", "3"])
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
    average = torch.optim.swa_utils.AveragedModel(torch.nn.Linear(1, 1), multi_avg_fn=moving_average(0.999))
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

    assert "leave out --resume" in error("--resume")
    assert "model_gray_L25_7.pth" in error("-c", "7")
    assert "python dataset_gray.py" in error("--train_h5", str(tmp_path / "none.h5"))
    assert "not smnet training patches" in error("--train_h5", str(gray_h5[1]))
    assert "too small for --patch_size 64" in error("--patch_size", "64")
    assert "12 samples an epoch, less than --batchsize 99" in error("--batchsize", "99")
    assert "'nonsense'" in error("--device", "nonsense")
    (tmp_path / "file").touch()
    assert "cannot make the folder" in error("--weights_dir", str(tmp_path / "file"))
    assert "cannot make the folder" in error("--log_dir", str(tmp_path / "file" / "logs"))
    assert "the loss is" in error("--lr", "1e30", "--epochs", "20")
    train_gray.main([*train_args, "--overwrite"])
    assert "has width 4, this command --width 6; give --width 4" in error("--width", "6", "--resume")
    assert "width 4" in error("--width", "6", "--overwrite", "--init", str(weights / "model_gray_L25_1.pth"))
    assert "trained with seed 0, this command has 1" in error("--seed", "1", "--resume")
    assert "in" in error("-c", "8") and "model_gray_L25_3.pth" in error("-c", "8")
    state = weights / "model_gray_L25_state.pth"
    state.write_bytes(state.read_bytes()[:1000])
    assert "damaged" in error("--resume")


WRONG = """--noiseL 256; --noiseL x; --batchsize 0; --width 5; --resume -c 3; --lr nan; --lr -1; --resume --init x; --ema 1;
    --noise 25; --optimizer sgd; --seed -1; --betas 0.9"""


@pytest.mark.parametrize("words", WRONG.split(";"))
def test_wrong_arguments_exit_with_2(train_args, words):
    with pytest.raises(SystemExit) as caught:
        train_gray.main([*train_args, *words.split()])
    assert caught.value.code == 2
