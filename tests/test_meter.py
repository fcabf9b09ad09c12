"""What the log says of time: speed without the first steps, and the share of it spent waiting."""

import time

import pytest
import torch
from training_helpers import log_lines

import train_gray
from smnet.training.meter import Meter
from smnet.training.samples import PatchDataset


@pytest.mark.slow
def test_speed_leaves_out_the_first_ten_steps_of_a_process():
    """They hold compiling, set-up and the workers' start."""

    def steps(meter: Meter, count: int, seconds: float) -> None:
        for _ in range(count):
            time.sleep(seconds)
            meter.add(torch.zeros(()))
        meter.read()

    for before, times_the_mean in ((0, 3), (5, 3), (10, 1), (99, 1)):
        meter, start = Meter(torch.device("cpu"), steps_before=before), time.monotonic()
        steps(meter, 10, 0.08)
        assert meter.steps_per_second() == pytest.approx(10 / (time.monotonic() - start), rel=0.1)
        steps(meter, 10, 0.005)
        mean = 20 / (time.monotonic() - start)
        assert meter.steps_per_second() > 0.9 * times_the_mean * mean
        assert times_the_mean > 1 or meter.steps_per_second() < 1.1 * mean


def test_waiting_for_data_is_measured(train_args, tmp_path, monkeypatch):
    crop = PatchDataset.crop

    def slow(self, key):
        time.sleep(0.1)
        return crop(self, key)

    monkeypatch.setattr(PatchDataset, "crop", slow)
    train_gray.main([*train_args, "--epochs", "1"])
    (line,) = log_lines(tmp_path)
    assert line["data_wait"] * line["seconds"] == pytest.approx(12 * 0.1, rel=0.4)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA")
def test_waiting_counts_only_while_the_gpu_has_nothing_to_do():
    device = torch.device("cuda")

    def waited(busy: bool) -> float:
        meter = Meter(device, steps_before=0)

        def batches():
            for _ in range(3):
                time.sleep(0.05)
                yield None

        for _ in meter.timed(batches()):
            if busy:
                torch.cuda._sleep(2_000_000_000)  # about a second
            meter.add(torch.zeros((), device=device))
        return meter.read().waited

    assert waited(busy=False) == pytest.approx(0.15, abs=0.03)
    assert waited(busy=True) == pytest.approx(0.05, abs=0.03)  # the first batch's alone
