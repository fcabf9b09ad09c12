"""What benchmark.py times, and how: networks, training steps, and loops of them that take turns."""

import copy
import dataclasses
import gc
import math
import multiprocessing
import statistics
import time
from argparse import Namespace
from collections.abc import Callable, Mapping
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models import NonLocalBlock, SMNet
from smnet.devices import (
    autocast,
    cuda_kernels,
    empty_cache,
    is_out_of_memory,
    peak_memory,
    reuse_memory,
    synchronize,
    trim_memory,
)
from smnet.fast import for_inference
from smnet.training.optimizers import make_optimizers

Task = Callable[[], object]
Name = TypeVar("Name")

LEAST_SECONDS = 0.05  # of a loop that is timed
RATES = Namespace(lr=5e-4, betas=(0.9, 0.999), muon_lr=0.01)  # any: they do not change the time


@dataclasses.dataclass(frozen=True)
class Setup:
    """A network, its input, and the way it is computed."""

    channels: int = 1
    width: int = 64
    shuffle: int = 1
    batchsize: int = 1
    size: tuple[int, int] = (256, 256)
    plain: bool = False  # the reference: attention as published and Adam as PyTorch has it
    channels_last: bool = True
    amp: bool = False  # convolutions in bf16, or fp16 on GPUs without it
    tf32: bool = False
    compile: bool = False
    cudnn_benchmark: bool = False
    optimizer: str = "adam"

    @property
    def memory_format(self) -> torch.memory_format:
        return torch.channels_last if self.channels_last else torch.contiguous_format

    def reference(self) -> "Setup":
        """The same network and input, computed plainly in float32."""
        kept = ("channels", "width", "shuffle", "batchsize", "size")
        return Setup(
            **{name: getattr(self, name) for name in kept}, plain=True, channels_last=False
        )


# ---------------------------------------------------------------------------------- the tasks


def attend_as_published(theta: Tensor, phi: Tensor, g: Tensor) -> Tensor:
    """`NonLocalBlock.attend` with all scores in memory: 3 x (N, d, h, w) -> (N, d, h, w)."""
    query = theta.flatten(2).transpose(1, 2)  # (N, h * w, d)
    key = F.max_pool2d(phi, 2).flatten(2)  # (N, d, h * w / 4)
    value = F.max_pool2d(g, 2).flatten(2).transpose(1, 2)  # (N, h * w / 4, d)
    attended = torch.softmax(query @ key, dim=-1) @ value
    return attended.transpose(1, 2).reshape(theta.shape)


def plain_reference(model: SMNet) -> SMNet:
    """A copy of the network with its weights, in NCHW, and the published attention."""
    plain = copy.deepcopy(model).to(memory_format=torch.contiguous_format)
    for module in plain.modules():
        if isinstance(module, NonLocalBlock):
            module.attend = attend_as_published  # type: ignore[method-assign]
    return plain


def conv_task(memory_format: torch.memory_format, setup: Setup, device: torch.device) -> Task:
    """The machine's yardstick: one 3x3 convolution, 256 -> 64 channels, without gradients."""
    x = torch.randn(setup.batchsize, 256, *setup.size, device=device)
    x = x.contiguous(memory_format=memory_format)
    conv = nn.Conv2d(256, 64, 3, padding=1).to(device, memory_format=memory_format)

    @torch.inference_mode()
    def task() -> Tensor:
        with cuda_kernels(tf32=False, benchmark=True):
            return conv(x)

    return task


def forward_task(setup: Setup, device: torch.device) -> Task:
    """One forward without gradients; on a CPU, unless it is compiled, of the fast twin."""
    model, x = network_and_input(setup, device)
    if not (setup.plain or setup.compile):
        model = for_inference(model, amp=setup.amp)
    return run_forward(torch.compile(model) if setup.compile else model, x, setup, device)


def run_forward(model: Callable, x: Tensor, setup: Setup, device: torch.device) -> Task:
    """One forward of any network, without gradients."""

    @torch.no_grad()
    def task() -> Tensor:
        with (
            cuda_kernels(tf32=setup.tf32, benchmark=setup.cudnn_benchmark),
            autocast(device, enabled=setup.amp),
        ):
            return model(x)

    return task


def train_task(setup: Setup, device: torch.device) -> Task:
    """One training step: forward, backward, optimizer."""
    model, x = network_and_input(setup, device)
    if setup.plain:
        optimizers: list = [torch.optim.Adam(model.parameters())]
    else:
        args = Namespace(**vars(RATES), optimizer=setup.optimizer)
        optimizers = [optimizer for optimizer, _ in make_optimizers(model, args)]
    forward = torch.compile(model) if setup.compile else model
    target = torch.rand_like(x)

    def step() -> None:
        with cuda_kernels(tf32=setup.tf32, benchmark=setup.cudnn_benchmark):
            for optimizer in optimizers:
                optimizer.zero_grad()
            with autocast(device, enabled=setup.amp):
                output = forward(x)
            F.mse_loss(output.float(), target).backward()
            for optimizer in optimizers:
                optimizer.step()

    return step


TASKS = {"forward": forward_task, "train": train_task}


def network_and_input(setup: Setup, device: torch.device) -> tuple[SMNet, Tensor]:
    """A network with random weights and pictures, both as a setup says."""
    torch.manual_seed(0)
    model = SMNet(setup.channels, setup.width, setup.shuffle).to(device)
    if setup.plain:
        model = plain_reference(model)
    return model.to(memory_format=setup.memory_format), random_pictures(setup, device)


def random_pictures(setup: Setup, device: torch.device) -> Tensor:
    """The input that a setup says, (N, C, H, W) in [0, 1)."""
    x = torch.rand(setup.batchsize, setup.channels, *setup.size, device=device)
    return x.contiguous(memory_format=setup.memory_format)


# ---------------------------------------------------------------------------------- their time


def free_cache(device: torch.device) -> None:
    """Give back the memory of the turn before."""
    gc.collect()  # optimizers are in cycles
    empty_cache(device)


def seconds_of(task: Task, device: torch.device, *, times: int = 1) -> float:
    """Seconds that a task takes, on average of so many times one after the other."""
    synchronize(device)
    start = time.perf_counter()
    for _ in range(times):
        task()
    synchronize(device)
    return (time.perf_counter() - start) / times


def seconds_in_a_loop(task: Task, device: torch.device) -> float:
    """Seconds that a task takes, in a loop of at least `LEAST_SECONDS`, after one that does not
    count."""
    task()
    once = seconds_of(task, device)
    if once >= LEAST_SECONDS:
        return once
    return seconds_of(task, device, times=math.ceil(LEAST_SECONDS / max(once, 1e-6)))


def medians(
    makers: Mapping[Name, Callable[[], Task]], *, repeats: int, device: torch.device
) -> dict[Name, float]:
    """Median seconds of tasks that take turns: A, B, A, B, so that a machine that changes its speed
    changes all; nan where one runs out of memory. Each is made for its turn alone, so that no two
    are in memory together."""
    seconds: dict[Name, list[float]] = {name: [] for name in makers}
    for _ in range(repeats):
        for name, make in makers.items():
            try:
                seconds[name].append(seconds_in_a_loop(make(), device))
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                seconds[name].append(math.nan)
            free_cache(device)
    return {
        name: math.nan if any(map(math.isnan, values)) else statistics.median(values)
        for name, values in seconds.items()
    }


def nan_last(seconds: float) -> float:
    """To compare by: what ran out of memory is never the fastest."""
    return math.inf if math.isnan(seconds) else seconds


# ---------------------------------------------------------------------------------- their memory


def peak(make: Callable[[Setup, torch.device], Task], setup: Setup, device: torch.device) -> float:
    """Peak memory in GB of the task that `make(setup, device)` gives, over what PyTorch itself
    takes, measured in a process of its own; nan if it ran out of memory, and of compiled networks
    on a CPU, where the compiler's own memory would count.

    `make` can be pickled.
    """
    if setup.compile and device.type == "cpu":
        return math.nan
    context = multiprocessing.get_context("spawn")
    answer = context.Queue()
    process = context.Process(target=measure_peak, args=(make, setup, device, answer))
    process.start()
    process.join()
    return math.nan if process.exitcode else answer.get()


def measure_peak(
    make: Callable[[Setup, torch.device], Task],
    setup: Setup,
    device: torch.device,
    answer: multiprocessing.Queue,
) -> None:
    """Put into `answer` what `peak` returns."""
    reuse_memory()  # as the scripts do
    small = dataclasses.replace(setup, size=(32, 32), batchsize=1, compile=False)
    make(small, device)()  # loads the libraries
    free_cache(device)
    trim_memory()  # else the task would take what this has left
    before = peak_memory(device)
    task = make(setup, device)
    for _ in range(2):
        task()
    answer.put(peak_memory(device, reset=False) - before)
