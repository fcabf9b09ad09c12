"""Signals and kills: the state is saved, and what a killed process left is removed."""

import os
import signal
import subprocess
import sys

import pytest
import torch
from training_helpers import (
    assert_same_weights,
    files,
    final_weights,
    folders,
    log_lines,
    without_time,
)

import train_gray
from smnet.training import learner, loop, run_files, validation
from smnet.training.run_lock import RunLock
from smnet.training.signals import StopRequest
from utils import SMNetError


@pytest.mark.slow
@pytest.mark.parametrize(
    "number, where",
    [
        (signal.SIGTERM, "training"),
        (signal.SIGTERM, "validation"),
        (signal.SIGINT, "training"),
        (signal.SIGINT, "validation"),
        (getattr(signal, "SIGHUP", signal.SIGINT), "training"),
    ],
    ids=["SIGTERM", "SIGTERM in validation", "Ctrl-C", "Ctrl-C in validation", "SIGHUP"],
)
def test_a_signal_saves_and_stops_with_its_status(
    train_args, tmp_path, number, where, monkeypatch, capsys
):
    train_gray.main(train_args)
    handler = signal.getsignal(number)
    straight, straight_log = final_weights(tmp_path), log_lines(tmp_path)
    module, name = {"training": (learner.Learner, "step"), "validation": (validation, "evaluate")}[
        where
    ]
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
    assert [speed is None for speed in speeds] == [
        False,
        where == "validation",
        False,
    ]  # validated by another process
    assert signal.getsignal(number) is handler


def test_a_reader_that_the_same_ctrl_c_ended_costs_nothing(train_args, tmp_path, monkeypatch):
    """`train_gray.py 2>&1 | tee log`: Ctrl-C ends tee first, and no line can be written."""
    read_end, write_end = os.pipe()
    original = learner.Learner.step

    def signalled(self, *args):
        if self.done.step == 1:
            os.close(read_end)
            signal.raise_signal(signal.SIGINT)
        return original(self, *args)

    monkeypatch.setattr(learner.Learner, "step", signalled)
    monkeypatch.setattr(loop, "SAY_EVERY", 0)
    with monkeypatch.context() as patch, open(write_end, "w") as nobody:
        patch.setattr(sys, "stdout", nobody)
        with pytest.raises(SystemExit) as caught:
            train_gray.main(train_args)
    assert caught.value.code == 130
    state = torch.load(tmp_path / "weights" / "model_gray_L25_state.pth", weights_only=True)
    assert state["progress"]["step"] == 2


def test_a_second_ctrl_c_stops_at_once():
    with pytest.raises(SystemExit) as caught, StopRequest() as stop:
        signal.raise_signal(signal.SIGINT)
        assert stop.signal == signal.SIGINT
        signal.raise_signal(signal.SIGINT)
    assert caught.value.code == 130


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="a signal of Linux and macOS")
def test_a_closed_terminal_is_no_error_and_nohup_is_heeded(monkeypatch):
    terminal, screen = os.openpty()
    monkeypatch.setattr(os, "isatty", lambda number: number == 2)
    with StopRequest() as stop:
        assert stop.terminals == [2]
        stop.terminals = [screen]
        os.close(terminal)
        signal.raise_signal(signal.SIGHUP)
        assert stop.signal == signal.SIGHUP
    os.write(screen, b"this would fail on the closed terminal")
    os.close(screen)
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopRequest() as stop:
            signal.raise_signal(signal.SIGHUP)
        assert not stop.signal
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_background_job_of_a_shell_still_listens_to_ctrl_c():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with StopRequest() as stop:
            signal.raise_signal(signal.SIGINT)
        assert stop.signal == signal.SIGINT
    finally:
        signal.signal(signal.SIGINT, before)


HOLDER = """
import fcntl, sys, time
file = open(sys.argv[1], "w")
fcntl.lockf(file, fcntl.LOCK_EX)
file.write("process 7 on host")
file.flush()
print("locked", flush=True)
time.sleep(600)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="nothing is locked there")
@pytest.mark.parametrize("folder", ["weights", "logs"])
def test_a_run_that_another_process_trains_is_left_alone(train_args, tmp_path, folder):
    (tmp_path / folder).mkdir()
    lock = tmp_path / folder / ".model_gray_L25.lock"
    command = [sys.executable, "-c", HOLDER, str(lock)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "locked\n"
        with pytest.raises(SMNetError, match="process 7 on host is training model_gray_L25 in"):
            train_gray.main([*train_args, "--overwrite"])
        assert files(tmp_path / folder) == {lock.name} and files(tmp_path) == {folder}
        holder.kill()
    assert train_gray.main([*train_args, "--epochs", "1"]) == 0  # a dead process holds nothing
    assert not {lock.name} & (files(tmp_path / "weights") | files(tmp_path / "logs"))


@pytest.mark.skipif(sys.platform == "win32", reason="nothing is locked there")
def test_a_lock_whose_file_is_removed_meanwhile_is_taken_anew(tmp_path, monkeypatch):
    lock = RunLock(tmp_path / "a.lock", "a")
    opened, original = [], os.open

    def open_slowly(path, *more):
        descriptor = original(path, *more)
        if not opened:
            path.unlink()  # by who had the lock, between our opening and our locking
        opened.append(descriptor)
        return descriptor

    monkeypatch.setattr(os, "open", open_slowly)
    lock.acquire()
    assert len(opened) == 2 and os.path.samestat(os.fstat(lock.descriptor), lock.path.stat())
    lock.release()
    lock.release()
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(sys.platform == "win32", reason="nothing is locked there")
def test_disks_without_locks_or_room_do_not_stop_a_run(tmp_path, monkeypatch):
    def fails(*_):
        raise OSError(28, "No space left on device")

    lock = RunLock(tmp_path / "a.lock", "a")
    monkeypatch.setattr(os, "write", fails)
    lock.acquire()
    lock.release()
    monkeypatch.setattr("fcntl.lockf", fails)
    lock.acquire()
    assert lock.descriptor is None and not list(tmp_path.iterdir())


def test_leftovers_of_a_killed_process_are_removed(train_args, tmp_path):
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / ".model_gray_L25_state.pth.123.tmp").write_text("half")
    (tmp_path / "weights" / ".model_gray_L15_state.pth.123.tmp").write_text("another run's")
    train_gray.main([*train_args, "--epochs", "1"])
    assert [p.name for p in (tmp_path / "weights").glob(".*")] == [
        ".model_gray_L15_state.pth.123.tmp"
    ]


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


def test_the_state_is_saved_every_so_often_and_the_one_before_kept(
    train_args, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(loop, "LOG_EVERY", 1)
    monkeypatch.setattr(
        run_files.RunFiles,
        "remove_later_than",
        lambda *_: pytest.fail("stop here, before the epoch's files"),
    )
    with pytest.raises(pytest.fail.Exception):
        train_gray.main([*train_args, "--save_every", "0"])
    steps = {
        what: torch.load(tmp_path / "weights" / f"model_gray_L25_{what}.pth", weights_only=True)[
            "progress"
        ]["step"]
        for what in ("state", "state_previous")
    }
    assert steps == {"state": 3, "state_previous": 2}
