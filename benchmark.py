"""Time one forward and one training step of any network, as ratios measured in the same run.

    python benchmark.py                                          # width 64, gray, 256x256
    python benchmark.py --width 16 --batchsize 8 --size 48 48    # the compact training step
    python benchmark.py --channels 3 --size 481 321 --what forward --device cuda
    python benchmark.py --width 32 --shuffle 2                   # pictures folded first

Ratios are to the machine's best conv2d rate (3x3, 256 -> 64 channels, float32, the same picture
size, the faster of NCHW and channels_last), and to a plain reference: the network in NCHW, its
attention with all scores stored, as published, and default Adam. Ours is the network in
channels_last with fused Adam; for a forward on a CPU, its fast twin. Turns are taken A, B, A, B, so
that a machine that changes its speed changes both; medians are printed. Work is nominal:
multiply-adds of the convolutions as published, attention excluded, times 3 for a training step.
"""

import argparse
import copy
import json
import multiprocessing
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from models import NonLocalBlock, SMNet
from smnet.cli import make_parser, number, run_script
from smnet.devices import peak_memory, pick_device, reuse_memory
from smnet.fast import for_inference

# --------------------------------------------------------------------------------------------------
# Hyperparameters: edit here, or give the option of the same name.
DEFAULTS = dict(
    channels=1,  # 1 gray, 3 RGB
    width=64,  # base channels of the network
    shuffle=1,  # 2: 2x2 pixels are folded into four times the channels
    batchsize=1,  # pictures
    size=[256, 256],  # pixels, height and width of a picture
    what="all",  # forward, train or all
    repeats=7,  # counted turns of each, after one that is not
    device="auto",  # CUDA, else MPS, else CPU
)
# --------------------------------------------------------------------------------------------------


# ---------------------------------------------------------------------------------- the reference


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


def multiply_adds(model: SMNet, height: int, width: int) -> int:
    """Nominal multiply-adds of the convolutions as published for one picture."""
    model = copy.deepcopy(model).to("meta")  # there nothing is computed
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.empty(1, model.channels, height, width, device="meta"))
    return counter.get_flop_counts()["Global"][torch.ops.aten.convolution] // 2


# ---------------------------------------------------------------------------------- measuring


def synchronize(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def medians(
    tasks: dict[str, Callable[[], object]], *, repeats: int, device: torch.device
) -> dict[str, float]:
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


def conv_task(
    memory_format: torch.memory_format, args: argparse.Namespace, device: torch.device
) -> Callable[[], object]:
    """The machine's yardstick: one 3x3 convolution, 256 -> 64 channels, without gradients."""
    x = torch.randn(args.batchsize, 256, *args.size, device=device).contiguous(
        memory_format=memory_format
    )
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


def make_task(
    what: str, plain: bool, args: argparse.Namespace, device: torch.device
) -> Callable[[], object]:
    """`what` "forward" or "train" of our network, or of the reference with the same weights."""
    torch.manual_seed(0)
    model = SMNet(args.channels, args.width, args.shuffle).to(device)
    memory_format = torch.contiguous_format if plain else torch.channels_last
    model = plain_reference(model) if plain else model.to(memory_format=memory_format)
    x = torch.rand(args.batchsize, args.channels, *args.size, device=device)
    x = x.contiguous(memory_format=memory_format)
    if what == "train":
        return train_task(model, x, fused=not plain)
    return forward_task(model if plain else for_inference(model), x)


def measure_peak(
    what: str, plain: bool, args: argparse.Namespace, answer: multiprocessing.Queue
) -> None:
    """Put into `answer` the peak memory in GB that a task takes; runs in a process of its own."""
    device = pick_device(args.device)
    reuse_memory()  # as the scripts do
    small = argparse.Namespace(**{**vars(args), "size": [32, 32], "batchsize": 1})
    make_task(what, plain, small, device)()  # loads the libraries
    before = peak_memory(device)
    task = make_task(what, plain, args, device)
    for _ in range(2):
        task()
    answer.put(peak_memory(device, reset=False) - before)


def peak(what: str, plain: bool, args: argparse.Namespace) -> float:
    """Peak memory of a task in GB, over what PyTorch itself takes; nan if it ran out of memory."""
    context = multiprocessing.get_context("spawn")
    answer = context.Queue()
    process = context.Process(target=measure_peak, args=(what, plain, args, answer))
    process.start()
    process.join()
    return float("nan") if process.exitcode else answer.get()


def measure(what: str, work: int, args: argparse.Namespace, device: torch.device) -> dict:
    """The figures of one forward or training step; `work`: multiply-adds of a picture's forward."""
    peaks = {"ours": peak(what, False, args), "plain": peak(what, True, args)}
    tasks = {
        "conv2d NCHW": conv_task(torch.contiguous_format, args, device),
        "conv2d channels_last": conv_task(torch.channels_last, args, device),
        "ours": make_task(what, False, args, device),
        "plain": make_task(what, True, args, device),
    }
    seconds = medians(tasks, repeats=args.repeats, device=device)
    conv_flops = 2 * 9 * 256 * 64 * args.size[0] * args.size[1] * args.batchsize
    best_rate = conv_flops / min(seconds["conv2d NCHW"], seconds["conv2d channels_last"])
    flops = 2 * work * args.batchsize * (3 if what == "train" else 1)
    figures: dict = {"conv2d_gflops": best_rate / 1e9}
    for name in peaks:
        share = flops / seconds[name] / best_rate
        figures[name] = dict(seconds=seconds[name], share_of_conv2d=share, peak_gb=peaks[name])
    return figures | {"speedup": seconds["plain"] / seconds["ours"]}


# ---------------------------------------------------------------------------------- the command


def main(argv: list[str] | None = None) -> int:
    parser = make_parser(__doc__)
    option, shown = parser.add_argument, "(default: %(default)s)"
    whole, text = number(int, 1), "2: fold 2x2 pixels into four times the channels, 1: do not"
    option("--channels", type=int, choices=[1, 3], help=f"1 gray, 3 RGB {shown}")
    option("--width", type=number(int, 2), metavar="N", help=f"base channels {shown}")
    option("--shuffle", type=whole, metavar="N", help=f"{text} {shown}")
    option("--batchsize", type=whole, metavar="N", help=f"pictures {shown}")
    text = "pixels of a picture (default: 256 256)"
    option("--size", type=whole, nargs=2, metavar=("H", "W"), help=text)
    option("--what", choices=["forward", "train", "all"], help=f"what to time {shown}")
    option("--repeats", type=whole, metavar="N", help=f"counted turns of each {shown}")
    option("--device", metavar="NAME", help=f"auto, cpu, cuda, cuda:1 or mps {shown}")
    option("--json", action="store_true", help="print the figures as JSON")
    parser.set_defaults(**DEFAULTS)
    args = parser.parse_args(argv)
    device = pick_device(args.device)

    work = multiply_adds(SMNet(args.channels, args.width, args.shuffle), *args.size)
    figures: dict = {"multiply_adds_per_pixel": work / (args.size[0] * args.size[1])}
    figures |= {"threads": torch.get_num_threads(), "device": str(device)}
    for what in ("forward", "train") if args.what == "all" else (args.what,):
        figures[what] = measure(what, work, args, device)
    print(json.dumps(figures, indent=1) if args.json else report(figures, args))
    return 0


def report(figures: dict, args: argparse.Namespace) -> str:
    """The figures as aligned text."""
    network = f"width {args.width}" + (f", shuffle {args.shuffle}" if args.shuffle > 1 else "")
    pictures = f"{'gray' if args.channels == 1 else 'RGB'}, {args.batchsize} x {args.size[0]}x"
    lines = [
        f"{network}, {pictures}{args.size[1]} pixels, {figures['device']}, "
        f"{figures['threads']} threads, "
        f"{figures['multiply_adds_per_pixel'] / 1e6:.3f} M multiply-adds a pixel",
    ]
    for what in ("forward", "train"):
        if what in figures:
            found = figures[what]
            lines.append(f"\n{what:8}   conv2d: {found['conv2d_gflops']:.0f} GFLOP/s")
            lines.append("           seconds   of conv2d   peak GB")
            for name in ("ours", "plain"):
                seconds, share, gb = found[name].values()
                lines.append(f"{name:8} {seconds:9.3f} {share:10.0%} {gb:9.2f}")
            lines.append(f"ours is {found['speedup']:.2f} times as fast as the plain reference")
    return "\n".join(lines)


if __name__ == "__main__":
    run_script(main)
