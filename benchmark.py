"""Time one forward and one training step of any network, as ratios measured in the same run.

    python benchmark.py                                          # width 64 on a 256x256 gray picture
    python benchmark.py --width 16 --batchsize 8 --size 48 48    # the compact training step
    python benchmark.py --channels 3 --size 481 321 --what forward --device cuda

Ratios are to the machine's best conv2d rate (3x3, 256 -> 64 channels, float32, the same picture size, the faster of NCHW and
channels_last), and to a plain reference that stands in this file: eager, NCHW, concatenations that grow, attention run
region by region with all scores stored, default Adam (ours: fused). Turns are taken A, B, A, B, so that a machine that changes
its speed changes both; medians are printed. Work is nominal: multiply-adds of the convolutions as published, attention
excluded, times 3 for a training step.
"""

import argparse
import copy
import json
import multiprocessing
import statistics
import time
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models import DenseBlock, FusingConv2d, ImageMemory, NoiseMemory, NonLocalBlock, SMNet
from smnet.cli import make_parser, number, run_script
from smnet.devices import peak_memory, pick_device, reuse_memory

# ------------------------------------------------------------------------------------------------------------
# Edit here, or give the option of the same name.
DEFAULTS = dict(
    channels=1,  # 1 gray, 3 RGB
    width=64,  # base channels of the network
    batchsize=1,  # pictures
    size=[256, 256],  # pixels, height and width of a picture
    what="all",  # forward, train or all
    repeats=7,  # counted turns of each, after one that is not
    device="auto",  # CUDA, else MPS, else CPU
)
# ------------------------------------------------------------------------------------------------------------


# ------------------------------------------------------------------------------------------------------------ the reference


class PlainNonLocalBlock(NonLocalBlock):
    """Every region by itself, its 1x1 convolutions included, and all its scores in memory."""

    def forward(self, x: Tensor) -> Tensor:
        rows = []
        for band in x.chunk(self.grid, dim=2):
            rows.append(torch.cat([self.region(piece) for piece in band.chunk(self.grid, dim=3)], dim=3))
        return torch.cat(rows, dim=2)

    def region(self, x: Tensor) -> Tensor:
        n, _, h, w = x.shape
        theta = self.theta(x).flatten(2).transpose(1, 2)  # (N, h * w, d)
        phi = F.max_pool2d(self.phi(x), 2).flatten(2)  # (N, d, h * w / 4)
        g = F.max_pool2d(self.g(x), 2).flatten(2).transpose(1, 2)  # (N, h * w / 4, d)
        attended = torch.softmax(theta @ phi, dim=-1) @ g
        return self.out(attended.transpose(1, 2).reshape(n, -1, h, w)) + x


class PlainDenseBlock(DenseBlock):
    """Every convolution on a new concatenation of all maps before it."""

    def forward(self, x: Tensor) -> Tensor:
        maps = [x]
        for conv in self.convs:
            maps.append(F.relu(conv(torch.cat(maps, dim=1))))
        fused = self.fusion(torch.cat(maps, dim=1))
        return fused + x if self.skip else fused


class PlainFusingConv2d(FusingConv2d):
    """One concatenation of all maps."""

    def forward(self, maps: Iterable[Tensor]) -> Tensor:
        return nn.Conv2d.forward(self, torch.cat(list(maps), dim=1))


class PlainNoiseMemory(NoiseMemory):
    """The head's convolutions one after the other."""

    def tail(self, features: Tensor) -> Tensor:
        return self.head(features)


class PlainImageMemory(ImageMemory):
    """The tail as published: twice the size and back."""

    def tail(self, features: Tensor) -> Tensor:
        doubled = self.project(F.pixel_shuffle(self.expand(features), 2))
        return F.interpolate(doubled, size=features.shape[-2:], mode="bilinear", align_corners=False)


def plain_reference(model: SMNet) -> SMNet:
    """A copy of the network, with its weights, that computes everything the plain way, in NCHW."""
    plain = copy.deepcopy(model).to(memory_format=torch.contiguous_format)
    for module in plain.modules():
        for ours, theirs in (
            (NonLocalBlock, PlainNonLocalBlock),
            (DenseBlock, PlainDenseBlock),
            (FusingConv2d, PlainFusingConv2d),
            (NoiseMemory, PlainNoiseMemory),
            (ImageMemory, PlainImageMemory),
        ):
            if type(module) is ours:
                module.__class__ = theirs
    return plain


def multiply_adds(model: SMNet, height: int, width: int) -> int:
    """Nominal multiply-adds of all convolutions for one picture, as published, attention excluded."""
    total = 0

    def count(conv: nn.Conv2d, _: tuple, output: Tensor) -> None:
        nonlocal total
        total += output.numel() * conv.weight[0].numel()

    plain = plain_reference(model).to("cpu")
    for module in plain.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(count)
    with torch.inference_mode():
        plain(torch.zeros(1, model.channels, height, width))
    return total


# ------------------------------------------------------------------------------------------------------------ measuring


def synchronize(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def medians(tasks: dict[str, Callable[[], object]], *, repeats: int, device: torch.device) -> dict[str, float]:
    """Median seconds of each task; the tasks take turns."""
    seconds: dict[str, list[float]] = {name: [] for name in tasks}
    for turn in range(repeats + 1):
        for name, task in tasks.items():
            start = time.perf_counter()
            task()
            synchronize(device)
            if turn:
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def conv_task(memory_format: torch.memory_format, args: argparse.Namespace, device: torch.device) -> Callable[[], object]:
    """The machine's yardstick: one 3x3 convolution, 256 -> 64 channels, without gradients."""
    x = torch.randn(args.batchsize, 256, *args.size, device=device).contiguous(memory_format=memory_format)
    conv = nn.Conv2d(256, 64, 3, padding=1).to(device, memory_format=memory_format)
    return torch.inference_mode()(lambda: conv(x))


def forward_task(model: SMNet, x: Tensor) -> Callable[[], object]:
    """One forward without gradients."""
    return torch.inference_mode()(lambda: model(x))


def train_task(model: SMNet, x: Tensor, *, fused: bool) -> Callable[[], object]:
    """One training step: forward, backward, Adam."""
    optimizer = torch.optim.Adam(model.parameters(), fused=fused)
    target = torch.rand_like(x)

    def step() -> None:
        optimizer.zero_grad()
        F.mse_loss(model(x), target).backward()
        optimizer.step()

    return step


def make_task(kind: str, plain: bool, args: argparse.Namespace, device: torch.device) -> Callable[[], object]:
    """`kind` "forward" or "train" of our network, or of the plain reference with the same weights."""
    torch.manual_seed(0)
    model = SMNet(args.channels, args.width).to(device)
    memory_format = torch.contiguous_format if plain else torch.channels_last
    model = plain_reference(model) if plain else model.to(memory_format=memory_format)
    x = torch.rand(args.batchsize, args.channels, *args.size, device=device).contiguous(memory_format=memory_format)
    return train_task(model, x, fused=not plain) if kind == "train" else forward_task(model, x)


def measure_peak(kind: str, plain: bool, args: argparse.Namespace, answer: multiprocessing.Queue) -> None:
    """Put into `answer` the peak memory in GB that a task takes; runs in a process of its own."""
    device = pick_device(args.device)
    reuse_memory()  # as the scripts do
    small = argparse.Namespace(**{**vars(args), "size": [32, 32], "batchsize": 1})
    make_task(kind, plain, small, device)()  # loads the libraries
    before = peak_memory(device)
    task = make_task(kind, plain, args, device)
    for _ in range(2):
        task()
    answer.put(peak_memory(device, reset=False) - before)


def peak(kind: str, plain: bool, args: argparse.Namespace) -> float:
    """Peak memory of a task in GB, over what PyTorch itself takes."""
    context = multiprocessing.get_context("spawn")
    answer = context.Queue()
    process = context.Process(target=measure_peak, args=(kind, plain, args, answer))
    process.start()
    process.join()
    return answer.get() if process.exitcode == 0 else float("nan")  # nan: it ran out of memory, or was killed


# ------------------------------------------------------------------------------------------------------------ the command


def main(argv: list[str] | None = None) -> int:
    parser = make_parser(__doc__)
    option, shown = parser.add_argument, "(default: %(default)s)"
    option("--channels", type=int, choices=[1, 3], help=f"1 gray, 3 RGB {shown}")
    option("--width", type=number(int, 2), metavar="N", help=f"base channels of the network {shown}")
    option("--batchsize", type=number(int, 1), metavar="N", help=f"pictures {shown}")
    option("--size", type=number(int, 1), nargs=2, metavar=("H", "W"), help="pixels of a picture (default: 256 256)")
    option("--what", choices=["forward", "train", "all"], help=f"what to time {shown}")
    option("--repeats", type=number(int, 1), metavar="N", help=f"counted turns of each {shown}")
    option("--device", metavar="NAME", help=f"auto, cpu, cuda, cuda:1 or mps {shown}")
    option("--json", action="store_true", help="print the figures as JSON")
    parser.set_defaults(**DEFAULTS)
    args = parser.parse_args(argv)
    device = pick_device(args.device)

    work = multiply_adds(SMNet(args.channels, args.width), *args.size)
    pixels = args.size[0] * args.size[1]
    conv_flops = 2 * 9 * 256 * 64 * pixels * args.batchsize
    figures: dict = {"multiply_adds_per_pixel": work / pixels, "threads": torch.get_num_threads(), "device": str(device)}
    for kind in ("forward", "train") if args.what == "all" else (args.what,):
        peaks = {name: peak(kind, plain, args) for name, plain in (("ours", False), ("plain", True))}
        tasks = {
            "conv2d NCHW": conv_task(torch.contiguous_format, args, device),
            "conv2d channels_last": conv_task(torch.channels_last, args, device),
            "ours": make_task(kind, False, args, device),
            "plain": make_task(kind, True, args, device),
        }
        seconds = medians(tasks, repeats=args.repeats, device=device)
        best_rate = conv_flops / min(seconds["conv2d NCHW"], seconds["conv2d channels_last"])
        flops = 2 * work * args.batchsize * (3 if kind == "train" else 1)
        figures[kind] = {
            "conv2d_gflops": best_rate / 1e9,
            **{
                name: {"seconds": seconds[name], "share_of_conv2d": flops / seconds[name] / best_rate, "peak_gb": peaks[name]}
                for name in peaks
            },
            "speedup": seconds["plain"] / seconds["ours"],
        }
    print(json.dumps(figures, indent=1) if args.json else report(figures, args))
    return 0


def report(figures: dict, args: argparse.Namespace) -> str:
    """The figures as aligned text."""
    lines = [
        f"width {args.width}, {'gray' if args.channels == 1 else 'RGB'}, {args.batchsize} x {args.size[0]}x{args.size[1]} "
        f"pixels, {figures['device']}, {figures['threads']} threads, "
        f"{figures['multiply_adds_per_pixel'] / 1e6:.3f} M multiply-adds a pixel",
    ]
    for kind in ("forward", "train"):
        if kind in figures:
            found = figures[kind]
            lines.append(f"\n{kind:8}   conv2d: {found['conv2d_gflops']:.0f} GFLOP/s")
            lines.append("           seconds   of conv2d   peak GB")
            for name in ("ours", "plain"):
                f = found[name]
                lines.append(f"{name:8} {f['seconds']:9.3f} {f['share_of_conv2d']:10.0%} {f['peak_gb']:9.2f}")
            lines.append(f"ours is {found['speedup']:.2f} times as fast as the plain reference")
    return "\n".join(lines)


if __name__ == "__main__":
    run_script(main)
