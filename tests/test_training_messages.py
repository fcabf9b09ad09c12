"""Mistakes in training, and machines too small for it: a line or two, and nothing is lost."""

import argparse
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers import write_folder

import dataset_gray
import train_gray
from models import SMNet
from smnet.evaluation import Protocol
from smnet.training import advice, learner
from utils import SMNetError

FULL_DISK = """
import resource, sys
import dataset_gray
import train_gray
from smnet import cli
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv.pop()), resource.RLIM_INFINITY))
cli.run_script(lambda: train_gray.main(sys.argv[1:]))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="no such limit on Windows")
def test_a_full_disk_is_one_line_and_harms_nothing(train_args, tmp_path):
    """Files may not grow past 300,000 bytes: the first state fits, the second, with Adam's memory,
    does not."""
    root = Path(train_gray.__file__).parent
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, *train_args, "300000"],
        env={**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 1 and done.stderr.startswith("error: cannot write"), done.stderr
    assert done.stderr.count("\n") == 1
    (state,) = (tmp_path / "weights").iterdir()
    assert torch.load(state, weights_only=True)["progress"]["step"] == 0  # whole


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
    assert "has width 4, this command --width 6; give --width 4" in error(
        "--width", "6", "--resume"
    )
    assert "width 4" in error(
        "--width", "6", "--overwrite", "--init", str(weights / "model_gray_L25_1.pth")
    )
    assert "--seed was 0, is now 1" in error("--seed", "1", "--resume")
    assert "the last weights there: -c 3" in error("-c", "8")
    state = weights / "model_gray_L25_state.pth"
    state.write_bytes(state.read_bytes()[:1000])
    (weights / "model_gray_L25_state_previous.pth").write_bytes(b"")
    assert "damaged" in error("--resume")
    state.unlink()
    (weights / "model_gray_L25_state_previous.pth").unlink()
    assert "the last weights there: -c 3" in error("--resume")


WRONG = """--noiseL 256; --noiseL x; --batchsize 0; --width 5; --resume -c 3; --lr nan; --lr -1;
    -c 1 --init x; --ema 1; --noise 25; --optimizer sgd; --seed -1; --seed 99999999999999999999;
    --lr inf; --betas 0.9"""


@pytest.mark.parametrize("words", WRONG.split(";"))
def test_wrong_arguments_exit_with_2(train_args, words):
    with pytest.raises(SystemExit) as caught:
        train_gray.main([*train_args, *words.split()])
    assert caught.value.code == 2


def test_what_diverges_is_never_saved(train_args, tmp_path):
    with pytest.raises(
        SMNetError, match="training has diverged"
    ):  # in its only step, whose loss was still finite
        train_gray.main([*train_args, "--max_steps", "1", "--lr", "1000"])
    assert not (tmp_path / "weights" / "model_gray_L25_1.pth").exists()


@pytest.mark.slow
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_log_on_a_full_disk_is_one_line(train_args):
    """As in `python train_gray.py > log`."""
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, train_gray.__file__, *train_args],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=300,
        )
    assert (done.returncode, done.stderr) == (
        1,
        "error: the output: No space left on device\n",
    )


@pytest.mark.slow
def test_too_little_memory_is_said_before_the_first_step(train_args, tmp_path, monkeypatch, capsys):
    write_folder(tmp_path / "large", 4, height=1024, width=1024)
    data = tmp_path / "large.h5", tmp_path / "large_val.h5"
    words = f"--train_dir {tmp_path}/large --holdout 1 --patch_size 1024"
    words += f" --train_h5 {data[0]} --val_h5 {data[1]}"
    dataset_gray.main(words.split())

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(learner.Learner, "step", stop)
    words = f"--train_h5 {data[0]} --patch_size 1024 --draws 99 --batchsize 99 --width 64".split()
    with pytest.raises(KeyboardInterrupt):
        train_gray.main([*train_args, *words])
    said = capsys.readouterr().out
    assert "a step takes about 5979.5 GB and" in said and "a larger --accumulate" in said
    assert "--amp (halves the memory)" in said
    with pytest.raises(KeyboardInterrupt):
        train_gray.main([*train_args, "--overwrite"])
    assert "GB is free" not in capsys.readouterr().out


def test_validation_goes_on_in_tiles_where_pictures_do_not_fit(train_args, monkeypatch, capsys):
    denoise, asked = Protocol.denoise, []

    def small(protocol, model, noisy):
        asked.append(protocol.tile)
        if protocol.tile is None:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return denoise(protocol, model, noisy)

    monkeypatch.setattr(Protocol, "denoise", small)
    train_gray.main([*train_args, "--max_steps", "2"])
    assert "validation pictures do not fit into memory whole: in tiles of 256" in (
        capsys.readouterr().out
    )
    assert asked[0] is None and set(asked[1:]) == {256}


def test_the_memory_a_step_takes_is_known_before():
    def needed(processes: int = 1, **changed) -> float:
        usual = dict(batchsize=8, patch_size=256, width=64, accumulate=1, amp=False, shuffle=1)
        args = argparse.Namespace(**{**usual, **changed})
        return advice.memory_needed(
            args, device="cpu", processes=processes, processes_here=processes
        )

    assert 28 < needed() < 32  # measured: 3.5 to 3.8 GB for one picture of 256x256, with --amp 2.0
    assert 3.5 < needed(accumulate=8) == needed(batchsize=1) < 4
    assert 1.8 < needed(batchsize=1, amp=True) < 2.1
    assert 0.3 < needed(patch_size=48, width=16) < 0.4
    # Three processes of up to three pictures.
    assert 33 < needed(processes=3) == needed(processes=3, batchsize=9) < 36


def test_a_step_holds_as_much_memory_as_is_said():
    """What the graph of a step keeps, by autograd's own account."""
    torch.manual_seed(0)
    model = SMNet(1, 8).to(memory_format=torch.channels_last)
    parameters = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor  # held, so that no address comes twice
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = model(torch.rand(2, 1, 64, 64)).square().mean()
    size = sum(t.untyped_storage().nbytes() for at, t in kept.items() if at not in parameters)
    loss.backward()
    assert 0.6 < size / (2 * 64 * 64 * 8) / advice.BYTES_HELD["cpu"][False] < 1.1


@pytest.mark.parametrize("name", ["SLURM_STEP_NUM_TASKS", "WORLD_SIZE"])
def test_other_launchers_than_torchrun_are_one_line(train_args, tmp_path, monkeypatch, name):
    monkeypatch.setenv(name, "8")
    with pytest.raises(SMNetError, match="started 8 times at once .* start torchrun"):
        train_gray.main(train_args)
    assert not (tmp_path / "weights").exists()
    monkeypatch.setenv(name, "1")
    train_gray.main([*train_args, "--max_steps", "1"])
