"""Data workers: what they pass on, what happens when they die, and where shared memory is small."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import cv2
import h5py
import numpy as np
import psutil
import pytest
import torch
from helpers import write_folder
from training_helpers import assert_same_weights, final_weights, folders

import dataset_gray
import train_gray
from smnet.training import learner, validation
from smnet.training.advice import workers_advice
from smnet.training.loading import BatchReader
from smnet.training.samples import EpochBatches, PatchDataset, jitter_colors, orient
from utils import SMNetError

ROOT = Path(__file__).parent.parent
WITHOUT_SIGNALS = pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL on Windows")


def patch_set(h5: tuple[Path, Path], channels: int, **changed) -> PatchDataset:
    settings = dict(channels=channels, patch_size=32, noise_range=(0, 55), draws=2, seed=7)
    return PatchDataset(h5[0], **{**settings, **changed})


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("color_jitter", [False, True])
def test_batches_are_the_samples_to_the_bit(rgb_h5, workers, color_jitter):
    """Against the samples' definition, draw by draw: running trainings rely on it."""
    train_set = patch_set(rgb_h5, 3, color_jitter=color_jitter)
    order = EpochBatches(len(train_set), 4, seed=7)
    order.epoch = 3
    with h5py.File(rgb_h5[0], locking=False) as file:
        patches = file["patches"][()]
    with BatchReader(train_set, order, workers=workers, pin_memory=False) as reader:
        for keys, (clean, noisy) in zip(order, reader, strict=True):
            for i, (epoch, index) in enumerate(keys):
                rng = np.random.default_rng((7, epoch, index + 1))
                top, left = rng.integers(48 - 32 + 1, size=2)
                orientation = rng.integers(8)
                patch = patches[index % 12, :, top : top + 32, left : left + 32]
                expected = orient(patch, orientation).astype(np.float32) / 255
                if color_jitter:
                    expected = jitter_colors(expected, rng)
                sigma = np.float32(rng.uniform(0, 55) / 255)
                noise = rng.standard_normal(expected.shape, np.float32)
                np.testing.assert_array_equal(clean[i], expected)
                np.testing.assert_array_equal(noisy[i], expected + sigma * noise)


def test_workers_pass_on_bytes(gray_h5):
    key, crops = (3, 5), patch_set(gray_h5, 1).crop((3, 5))
    assert crops.dtype == torch.uint8 and crops.shape == (1, 1, 32, 32)
    ours, whole = patch_set(gray_h5, 1).finish(key, crops), patch_set(gray_h5, 1)[key]
    assert all(map(torch.equal, ours, whole))


class Threads(PatchDataset):
    """Its crops say how many threads OpenCV has where they are read."""

    def crop(self, key):
        return torch.full_like(super().crop(key), cv2.getNumThreads())


def test_workers_share_the_cores(gray_h5):
    cv2.setNumThreads(2)
    cv2.GaussianBlur(np.zeros((999, 999), np.float32), (0, 0), 3)  # its pool of threads is there
    dataset = Threads(gray_h5[0], channels=1, patch_size=32, noise_range=(0, 0), draws=2, seed=7)
    batches = EpochBatches(len(dataset), 4, seed=7)
    with BatchReader(dataset, batches, workers=1, pin_memory=False) as reader:
        clean, _ = next(iter(reader))
    assert (clean * 255).unique().tolist() == [1] and cv2.getNumThreads() == 2


@WITHOUT_SIGNALS
@pytest.mark.parametrize("workers, killed", [(1, 1), (2, 1), (2, 2)])
@pytest.mark.parametrize("where", ["training", "validation"])
@pytest.mark.slow
def test_a_worker_that_dies_ends_training_with_its_state_saved(
    workers, killed, where, train_args, tmp_path, monkeypatch, capfd
):
    words = [*train_args, "--draws", "4", "--epochs", "1", "--workers", str(workers)]
    train_gray.main([*words, *folders(tmp_path / "whole")])
    places = {"training": (learner.Learner, "step"), "validation": (validation, "evaluate")}
    module, name = places[where]
    original, calls = getattr(module, name), []

    def killing(*args, **kwargs):
        calls.append(1)
        if len(calls) == (4 if where == "training" else 1):
            for worker in multiprocessing.active_children()[:killed]:
                os.kill(worker.pid, signal.SIGKILL)
            time.sleep(0.3)  # in the midst of a step it must not be noticed
        return original(*args, **kwargs)

    handlers = signal.getsignal(signal.SIGCHLD)
    capfd.readouterr()
    with pytest.raises(SMNetError) as caught, monkeypatch.context() as patch:
        patch.setattr(module, name, killing)
        train_gray.main(words)
    step = 4 if where == "training" else 12
    assert "a data worker was killed (SIGKILL)" in str(caught.value)
    assert f"_state.pth is at step {step}: go on with --resume" in str(caught.value)
    assert "\n" not in str(caught.value) and "Traceback" not in capfd.readouterr().err
    assert not multiprocessing.active_children()
    assert signal.getsignal(signal.SIGCHLD) is handlers
    train_gray.main([*words, "--resume"])
    assert_same_weights(
        final_weights(tmp_path, "model_gray_L25_1.pth"),
        final_weights(tmp_path / "whole", "model_gray_L25_1.pth"),
    )


def start(*words: str, wrapper: tuple[str, ...] = ()) -> subprocess.Popen:
    """train_gray.py in a process group of its own."""
    command = [*wrapper, sys.executable, str(ROOT / "train_gray.py"), *words]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"},
        start_new_session=True,
    )


def data_workers(process: subprocess.Popen, count: int) -> list[psutil.Process]:
    """Its children, once training has begun."""
    end = time.monotonic() + 120
    while time.monotonic() < end and process.poll() is None:
        children = psutil.Process(process.pid).children()
        if len(children) >= count:
            time.sleep(1)  # for their first batches
            return children
        time.sleep(0.02)
    process.kill()
    raise AssertionError(process.communicate())


LONG = ["--draws", "4000", "--save_every", "0"]


@WITHOUT_SIGNALS
@pytest.mark.slow
def test_the_process_ends_within_five_seconds_of_its_workers_death(train_args):
    process = start(*train_args, *LONG, "--workers", "2")
    workers = data_workers(process, 2)
    workers[0].kill()
    killed = time.monotonic()
    _, said = process.communicate(timeout=60)
    assert time.monotonic() - killed < 5
    assert process.returncode == 1
    assert said.startswith("error: a data worker was killed (SIGKILL)") and said.count("\n") == 1
    assert not any(worker.is_running() for worker in workers)


@WITHOUT_SIGNALS
@pytest.mark.slow
def test_a_schedulers_sigterm_to_all_saves_and_stops(train_args, tmp_path):
    process = start(*train_args, *LONG, "--workers", "2")
    workers = data_workers(process, 2)
    os.killpg(process.pid, signal.SIGTERM)
    said, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM and not errors
    assert "stopped by SIGTERM: the training state is saved" in said
    assert not any(worker.is_running() for worker in workers)


@WITHOUT_SIGNALS
@pytest.mark.slow
def test_workers_do_not_outlive_a_killed_process(train_args):
    process = start(*train_args, *LONG, "--workers", "2")
    workers = data_workers(process, 2)
    process.kill()
    process.communicate()
    gone, alive = psutil.wait_procs(workers, timeout=20)
    assert not alive


def shared_memory_of(size: str) -> tuple[str, ...]:
    """The beginning of a command that sees a small /dev/shm; skips where that is not allowed."""
    mount = f'mount -t tmpfs -o size={size} tmpfs /dev/shm && exec "$@"'
    wrapper = ("unshare", "--mount", "sh", "-c", mount, "sh")
    try:
        allowed = subprocess.run([*wrapper, "true"], capture_output=True).returncode == 0
    except FileNotFoundError:
        allowed = False
    if not allowed:
        pytest.skip("no mount namespaces here")
    return wrapper


@pytest.mark.slow
def test_too_little_shared_memory_is_one_line_before_anything_is_written(train_args, tmp_path):
    process = start(*train_args, "--workers", "2", wrapper=shared_memory_of("16k"))
    said, errors = process.communicate(timeout=100)
    assert (process.returncode, said) == (1, "")
    assert errors == (
        "error: /dev/shm has 16 kB free, and --workers 2 needs 57: give the container more "
        "(--shm-size 64m), or --workers 0\n"
    )
    assert not (tmp_path / "weights").exists()


@pytest.mark.slow
def test_batches_take_no_shared_memory(train_args):
    """12 pictures of 48x48 and two workers, five batches in flight: 138 kB as bytes, and more than
    a megabyte as floats; the workers' locks take 57 kB."""
    wrapper = shared_memory_of("60k")
    words = ["--draws", "8", "--epochs", "1", "--batchsize", "12", "--workers", "2"]
    process = start(*train_args, *words, "--patch_size", "48", wrapper=wrapper)
    said, errors = process.communicate(timeout=100)
    assert process.returncode == 0 and not errors and "step 8 of 8" in said


def test_more_workers_than_cores_are_said():
    assert workers_advice(2, 1) is None
    assert "--workers 9999: more than this machine's" in workers_advice(9999, 1)


def test_many_workers_are_one_line(train_args, capfd):
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        train_gray.main([*train_args, "--epochs", "1", "--workers", "9"])
    said = capfd.readouterr()
    cores = len(psutil.Process().cpu_affinity())
    assert "DataLoader" not in said.out + said.err
    assert ("--workers 9: more than this machine's" in said.out) == (cores < 9)


def make_h5(folder: Path, seed: int) -> Path:
    """Another train.h5 of as many patches of the same names."""
    write_folder(folder / "train", 3 + seed)
    for name in range(seed):
        (folder / "train" / f"{name:02d}.png").unlink()
    for i, path in enumerate(sorted((folder / "train").iterdir())):
        path.rename(folder / "train" / f"{i:02d}.png")
    words = f"--train_dir {folder}/train --val_dir {folder}/train --patch_size 48"
    dataset_gray.main(
        [*words.split(), "--train_h5", f"{folder}/train.h5", "--val_h5", f"{folder}/val.h5"]
    )
    return folder / "train.h5"


@pytest.mark.parametrize("workers", [0, 1])
def test_an_h5_replaced_while_it_is_read_changes_nothing(tmp_path, workers):
    """dataset*.py replaces by rename: what is open stays what it was."""
    path, other = make_h5(tmp_path / "a", 0), make_h5(tmp_path / "b", 1)
    train_set = patch_set((path, path), 1)
    expected = [train_set[key] for batch in EpochBatches(24, 4, seed=7) for key in batch]
    again = patch_set((path, path), 1)
    seen = []
    order = EpochBatches(24, 4, seed=7)
    with BatchReader(again, order, workers=workers, pin_memory=False) as reader:
        for clean, noisy in reader:
            if not seen:
                os.replace(other, path)
            seen += list(zip(clean, noisy))
    for (clean, noisy), (clean_before, noisy_before, _) in zip(seen, expected, strict=True):
        assert torch.equal(clean, clean_before) and torch.equal(noisy, noisy_before)


def test_an_h5_replaced_before_it_is_read_is_one_line(tmp_path):
    path, other = make_h5(tmp_path / "a", 0), make_h5(tmp_path / "b", 1)
    train_set = patch_set((path, path), 1)
    os.replace(other, path)
    for workers in (0, 1):
        order = EpochBatches(24, 4, seed=7)
        with (
            pytest.raises(SMNetError, match="train.h5 was replaced while training started"),
            BatchReader(train_set, order, workers=workers, pin_memory=False) as reader,
        ):
            next(iter(reader))
