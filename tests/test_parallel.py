"""Several processes under torchrun, on CPU: the same run as one process, whatever their number, and
after one of them dies."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
from training_helpers import final_weights, folders, log_lines

import train_gray

ROOT = Path(__file__).parent.parent
TORCHRUN = [sys.executable, "-m", "torch.distributed.run"]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform == "win32", reason="torchrun's gloo needs Linux or macOS"),
]


def options(train_args: list[str], folder: Path) -> list[str]:
    """20 steps in 7 epochs, batches of 4, like the other runs of a test, into a folder of their
    own."""
    return [*train_args, "--max_steps", "20", "--epochs", "9", *folders(folder)]


def start(words: list[str], *launch: str) -> subprocess.Popen:
    """train_gray.py under torchrun."""
    command = [*TORCHRUN, *launch, str(ROOT / "train_gray.py"), *words]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    )


def finish(process: subprocess.Popen) -> str:
    """Wait for its end, which must be a good one; what it said."""
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 0, said
    return said


@pytest.fixture(scope="module")
def alone(gray_h5, tmp_path_factory) -> tuple[Path, dict, list[dict]]:
    """The same run in one process, without torchrun: its weights and log."""
    folder = tmp_path_factory.mktemp("alone")
    data = [
        "--train_h5",
        str(gray_h5[0]),
        "--val_h5",
        str(gray_h5[1]),
        "--width",
        "4",
        "--patch_size",
        "32",
        "--draws",
        "1",
        "--batchsize",
        "4",
        "--workers",
        "0",
        "--device",
        "cpu",
    ]
    train_gray.main(options(data, folder))
    return folder, final_weights(folder, "model_gray_L25_7.pth"), log_lines(folder)


def assert_same_run(folder: Path, alone: tuple[Path, dict, list[dict]]) -> None:
    """The losses to 1e-5, the validation to 1e-3 dB, the weights to 1e-4, and the same files."""
    _, weights, log = alone
    ours = final_weights(folder, "model_gray_L25_7.pth")
    assert all((ours[name] - weights[name]).abs().max() < 1e-4 for name in weights)
    lines = log_lines(folder)
    assert [(line["epoch"], line["step"]) for line in lines] == [
        (line["epoch"], line["step"]) for line in log
    ]
    for a, b in zip(lines, log):
        assert abs(a["loss"] - b["loss"]) < 1e-5 and abs(a["val_psnr"] - b["val_psnr"]) < 1e-3, (
            json.dumps([a, b])
        )
    assert sorted(p.name for p in (folder / "weights").iterdir()) == sorted(
        p.name for p in (alone[0] / "weights").iterdir()
    )


@pytest.mark.parametrize(
    "processes, more",
    [(2, ["--accumulate", "2"]), (3, ["--accumulate", "2"]), (4, [])],
    ids=["2", "3", "4"],  # 3: shares of 2, 1 and 1 pictures
)
def test_the_run_is_the_same_whatever_the_number_of_processes(
    processes, more, train_args, tmp_path, alone
):
    said = finish(
        start(
            [*options(train_args, tmp_path), *more], "--standalone", f"--nproc_per_node={processes}"
        )
    )
    assert said.count("validation at sigma 25") == 7  # one process speaks
    assert "Grad strides" not in said
    assert_same_run(tmp_path, alone)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for_the_first_epoch(folder: Path) -> None:
    """Until its line is in the log."""
    end = time.monotonic() + 300
    while not (folder / "logs" / "model_gray_L25.jsonl").is_file():
        assert time.monotonic() < end, "no epoch was done in 300 seconds"
        time.sleep(0.01)


def workers_of(launcher: int) -> list[int]:
    """The processes that torchrun has started."""
    return [
        int(line)
        for line in subprocess.run(
            ["pgrep", "-P", str(launcher)], capture_output=True, text=True
        ).stdout.split()
    ]


@pytest.mark.parametrize("rank, standalone", [(0, True), (1, False)])
def test_a_killed_worker_is_started_again_and_the_run_goes_on(
    rank, standalone, train_args, tmp_path, alone
):
    words = [*options(train_args, tmp_path), "--save_every", "0"]
    where = "--standalone" if standalone else f"--master_port={free_port()}"
    process = start(words, where, "--nproc_per_node=2", "--max-restarts=1")
    wait_for_the_first_epoch(tmp_path)
    os.kill(workers_of(process.pid)[rank], signal.SIGKILL)
    said = finish(process)
    assert "resumed after" in said
    assert_same_run(tmp_path, alone)


@pytest.mark.parametrize("rank, restarts", [(0, 1), (1, 0)])
def test_a_killed_data_worker_is_a_failure_that_torchrun_sees(
    rank, restarts, train_args, tmp_path, alone
):
    words = [*options(train_args, tmp_path), "--save_every", "0", "--workers", "1"]
    launch = ["--standalone", "--nproc_per_node=2", f"--max-restarts={restarts}"]
    process = start(words, *launch)
    wait_for_the_first_epoch(tmp_path)
    readers = psutil.Process(workers_of(process.pid)[rank]).children()
    assert len(readers) == 1
    readers[0].kill()
    killed = time.monotonic()
    said, _ = process.communicate(timeout=300)
    assert "error: a data worker was killed (SIGKILL)" in said
    assert not readers[0].is_running()
    if restarts:
        assert process.returncode == 0 and "resumed after" in said
        assert_same_run(tmp_path, alone)
    else:
        assert process.returncode == 1 and time.monotonic() - killed < 30
        assert said.count("Traceback") == 1  # torchrun's own


def test_another_launch_is_no_restart(train_args, tmp_path):
    words = [*options(train_args, tmp_path), "--max_steps", "3"]
    names = []
    for _ in range(2):
        said = finish(
            start([*words, "--overwrite"], f"--master_port={free_port()}", "--nproc_per_node=1")
        )
        assert "steps 1 to 3" in said and "resumed" not in said
        names.append(
            torch.load(tmp_path / "weights" / "model_gray_L25_state.pth", weights_only=True)[
                "launch"
            ]
        )
    assert names[0] != names[1] and "none" not in names


def test_two_machines_of_which_one_loses_its_worker(train_args, tmp_path, alone):
    endpoint = f"--rdzv_endpoint=127.0.0.1:{free_port()}"
    launch = ["--nnodes=2", "--nproc_per_node=1", "--rdzv_backend=c10d", endpoint, "--rdzv_id=1"]
    words = [*options(train_args, tmp_path), "--save_every", "0"]
    both = [start(words, *launch, "--max-restarts=1") for _ in range(2)]
    wait_for_the_first_epoch(tmp_path)
    os.kill(workers_of(both[1].pid)[0], signal.SIGKILL)
    said = [finish(process) for process in both]
    assert "resumed after" in "".join(said)
    assert_same_run(tmp_path, alone)


def test_a_restart_does_not_continue_another_run_that_it_may_not_replace(train_args, tmp_path):
    words = options(train_args, tmp_path)
    train_gray.main([*words, "--max_steps", "3"])
    before = {path.name: path.read_bytes() for path in (tmp_path / "weights").iterdir()}
    process = start(words, "--standalone", "--nproc_per_node=1", "--max-restarts=1")
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 1 and said.count("would be replaced") >= 2
    assert {path.name: path.read_bytes() for path in (tmp_path / "weights").iterdir()} == before


def test_what_keeps_the_first_process_from_starting_ends_them_all(train_args, tmp_path):
    words = options(train_args, tmp_path)
    train_gray.main([*words, "--max_steps", "3"])
    process = start(words, "--standalone", "--nproc_per_node=2")
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 1 and said.count("would be replaced") == 1
    assert "SMNetError" not in said


def test_sigterm_saves_and_the_run_resumes(train_args, tmp_path, alone):
    words = [*options(train_args, tmp_path)]
    process = start(words, "--standalone", "--nproc_per_node=2")
    wait_for_the_first_epoch(tmp_path)
    process.terminate()
    process.communicate(timeout=120)
    assert process.returncode != 0
    state = torch.load(tmp_path / "weights" / "model_gray_L25_state.pth", weights_only=True)
    assert 3 <= state["progress"]["step"] < 20
    finish(start([*words, "--resume"], "--standalone", "--nproc_per_node=2"))
    assert_same_run(tmp_path, alone)


def test_a_batch_smaller_than_the_processes_is_one_line(train_args, tmp_path):
    process = start(
        [*options(train_args, tmp_path), "--batchsize", "1"], "--standalone", "--nproc_per_node=2"
    )
    said, _ = process.communicate(timeout=120)
    assert (
        process.returncode == 1
        and "error: --batchsize 1 is the whole batch, too small for 2 processes" in said
    )
