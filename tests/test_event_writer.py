"""TensorBoard's files."""

import struct
from pathlib import Path

import pytest
import tensorboardX.event_file_writer
import tensorboardX.record_writer
import torch
from tensorboardX.proto.event_pb2 import Event
from training_helpers import folders

import train_gray
from smnet.training import learner, loop
from smnet.training.event_writer import EventWriter
from utils import SMNetError


def events(folder: Path) -> list[Event]:
    """All that the event files hold, as far as they are whole, in the order they were written."""
    found = []
    for path in sorted(folder.glob("events.out.tfevents.*"), key=lambda p: p.stat().st_mtime_ns):
        content, at = path.read_bytes(), 0
        while at + 12 <= len(content):
            (length,) = struct.unpack("<Q", content[at : at + 8])
            if at + 16 + length <= len(content):
                found.append(Event.FromString(content[at + 12 : at + 12 + length]))
            at += 16 + length
    return found


def points(folder: Path, tag: str = "train/loss") -> dict[int, float]:
    """A curve as TensorBoard shows it: {step: value}; a restart hides what was written from its
    step on."""
    curve: dict[int, float] = {}
    for event in events(folder):
        if event.HasField("session_log"):
            curve = {step: value for step, value in curve.items() if step < event.step}
        for value in event.summary.value:
            if value.tag == tag:
                assert event.step not in curve, f"step {event.step} is there twice"
                curve[event.step] = value.simple_value
    return curve


def test_a_full_disk_under_tensorboards_files_is_one_line(tmp_path, capfd, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    writer = EventWriter(tmp_path, first_step=1, to_disk=True)
    monkeypatch.setattr(tensorboardX.record_writer.RecordWriter, "write", full)
    for _ in range(2):
        with pytest.raises(SMNetError, match="cannot write into .*: No space left on device"):
            writer.scalars({"a": 1.0}, 1)
    monkeypatch.setattr(tensorboardX.record_writer.RecordWriter, "close", full)
    with pytest.raises(SMNetError, match="cannot write into .*: No space left on device"):
        writer.close()
    assert "Traceback" not in capfd.readouterr().err


def test_flushed_points_are_in_the_file(tmp_path):
    writer = EventWriter(tmp_path, first_step=1, to_disk=True)
    writer.scalars({"train/loss": 0.5}, 10)
    writer.image("picture", torch.rand(3, 8, 8), 10)
    writer.flush()
    assert points(tmp_path) == {10: 0.5} and events(tmp_path)[-1].summary.value[0].tag == "picture"
    again = EventWriter(tmp_path, first_step=16, to_disk=True, points=writer.points)
    again.close()  # written again, and hidden where it was
    assert points(tmp_path) == {10: 0.5}


def test_a_restart_within_the_same_second_keeps_the_file_before(tmp_path, monkeypatch):
    monkeypatch.setattr(tensorboardX.event_file_writer.time, "time", lambda: 1_700_000_000.0)
    for step in (1, 2):
        writer = EventWriter(tmp_path, first_step=step, to_disk=True)
        writer.scalars({"train/loss": step / 2}, step)
        writer.close()
    assert points(tmp_path) == {1: 0.5, 2: 1.0}


@pytest.mark.slow
@pytest.mark.parametrize("lost", [False, True], ids=["killed", "its file lost, too"])
def test_a_kill_loses_no_point_that_the_state_has_passed(train_args, tmp_path, monkeypatch, lost):
    """The process ends in the midst of the second epoch, without closing its files."""
    monkeypatch.setattr(loop, "LOG_EVERY", 1)
    words = [*train_args, "--save_every", "0"]
    train_gray.main([*words, *folders(tmp_path / "whole")])
    step = learner.Learner.step

    def killed(self, *batch):
        if self.done.step == 5:
            raise KeyboardInterrupt
        return step(self, *batch)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(learner.Learner, "step", killed)
        patch.setattr(EventWriter, "close", lambda self: None)
        train_gray.main(words)
    folder = tmp_path / "logs" / "model_gray_L25"
    assert points(folder).keys() == {1, 2, 3, 4, 5}
    if lost:
        for path in folder.iterdir():
            path.unlink()
    train_gray.main([*words, "--resume"])
    whole = points(tmp_path / "whole" / "logs" / "model_gray_L25")
    expected = {step: value for step, value in whole.items() if step > 3 or not lost}
    assert points(folder) == expected and len(whole) == 9
