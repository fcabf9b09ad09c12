"""Losses, clock and waiting of the training steps at hand."""

import dataclasses
import time
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from smnet.training import distributed

WARM_UP = 10  # steps of a process that its speed leaves out: compiling, set-up, workers' start


@dataclasses.dataclass
class Reading:
    """What has happened since the reading before."""

    losses: list[float]  # of each step, over all processes
    seconds: float
    waited: float  # seconds of these in which the device had nothing to do for want of data


class Meter:
    """Measures the steps of one epoch in this process.

    Losses stay on the device until `read`, the only place where a GPU is waited for. There, waiting
    counts only from the end of one step on the GPU to the beginning of the next.

    Args:
        device: what trains.
        steps_before: that this process has done in earlier epochs.
    """

    def __init__(self, device: torch.device, *, steps_before: int):
        self.device, self.warm_up = device, max(0, WARM_UP - steps_before)
        self.losses: list[Tensor] = []
        self.waits: list[tuple] = []  # on CUDA: (end of a step, start of the next, seconds)
        self.waited = 0.0
        self.step_done: torch.cuda.Event | None = None
        self.steps = 0
        self.started = self.read_at = self.warm_at = time.monotonic()
        self.warm_steps = 0  # that the speed leaves out

    def timed(self, batches: Iterable[tuple[Tensor, Tensor]]) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches; how long each is waited for counts."""
        iterator, asked = iter(batches), time.monotonic()
        for batch in iterator:
            self.came(time.monotonic() - asked)
            yield batch
            asked = time.monotonic()

    def came(self, seconds: float) -> None:
        """A batch has come after so many seconds."""
        if self.step_done is None:
            self.waited += seconds
        else:
            self.waits.append((self.step_done, self.event(), seconds))

    def add(self, loss: Tensor) -> None:
        """A step was done (on a GPU: queued)."""
        self.losses.append(loss)
        self.steps += 1
        if self.device.type == "cuda":
            self.step_done = self.event()

    def event(self) -> torch.cuda.Event:
        """A mark in the GPU's queue."""
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self.device))
        return event

    def read(self) -> Reading:
        """Wait for the device and read all off."""
        losses = distributed.reduce_sum(torch.stack(self.losses)).tolist()
        for end, start, seconds in self.waits:
            self.waited += min(seconds, end.elapsed_time(start) / 1000)
        now = time.monotonic()
        reading = Reading(losses, now - self.read_at, self.waited)
        self.losses, self.waits, self.waited, self.read_at = [], [], 0.0, now
        if self.warm_steps < self.warm_up <= self.steps:
            self.warm_at, self.warm_steps = now, self.steps
        return reading

    def steps_per_second(self) -> float:
        """Until the last reading, without the process's first steps where there are others."""
        steps, since = self.steps - self.warm_steps, self.warm_at
        if not steps:
            steps, since = self.steps, self.started
        return steps / (self.read_at - since)
