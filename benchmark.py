"""Time a forward and a training step of any network, as ratios measured in the same run.

    python benchmark.py                                          # width 64, gray, 256x256
    python benchmark.py --width 16 --batchsize 8 --size 48 48    # the compact training step
    python benchmark.py --channels 3 --size 481 321 --what forward --device cuda
    python benchmark.py --amp --compile --what train             # as the train scripts' options
    python benchmark.py --peers --width 32 --shuffle 2 --size 512 512   # DnCNN, FFDNet, DRUNet
    python benchmark.py --sweep --device cuda                    # a training step in every way

Ratios are to the machine's best conv2d rate (3x3, 256 -> 64 channels, float32, the same picture
size, the faster of NCHW and channels_last), and to a plain reference: the network in NCHW, its
attention with all scores stored, as published, float32 and default Adam. Ours is the network in
channels_last with fused Adam; for a forward on a CPU, its fast twin. Tasks take turns, A, B, A, B,
so that a machine that changes its speed changes all; each turn begins with one that does not count,
and lasts 50 ms or more. Medians are printed. Work is nominal: multiply-adds of the convolutions as
published, attention excluded, times 3 for a training step.
"""

import argparse
import copy
import json
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import torch
from torch.utils.flop_counter import FlopCounterMode

from models import SMNet
from smnet.cli import make_parser, number, run_script
from smnet.devices import pick_device
from smnet.peers import MULTIPLE, PEERS, forward_of_peer
from smnet.results import network_name
from smnet.sweep import sweep_steps, sweep_workers
from smnet.timing import TASKS, Setup, conv_task, medians, nan_last, peak

# --------------------------------------------------------------------------------------------------
# Hyperparameters: edit here, or give the option of the same name.
DEFAULTS = dict(
    channels=1,  # 1 gray, 3 RGB
    width=64,  # base channels of the network
    shuffle=1,  # 2: 2x2 pixels are folded into four times the channels
    batchsize=1,  # pictures
    size=[256, 256],  # pixels, height and width of a picture
    what="all",  # forward, train or all
    repeats=5,  # turns of each
    device="auto",  # CUDA, else MPS, else CPU
    limit=480,  # seconds after which a sweep leaves out what it has not timed
)
# --------------------------------------------------------------------------------------------------

WAYS = ("amp", "tf32", "compile")  # options of the train scripts that are timed here


def main(argv: list[str] | None = None) -> int:
    """The command; returns 0."""
    args = parse_args(argv)
    device = pick_device(args.device)
    size, names = tuple(args.size), ("channels", "width", "shuffle", "batchsize", *WAYS)
    setup = Setup(size=size, **{name: getattr(args, name) for name in names})

    if args.sweep:
        for row in sweep(setup, device, limit=args.limit):
            print(json.dumps(row) if args.json else row_in_words(row), flush=True)
        return 0
    if args.peers:
        figures = compare_with_peers(setup, device, repeats=args.repeats)
        print(as_json(figures) if args.json else peers_in_words(figures))
        return 0
    work = multiply_adds(SMNet(args.channels, args.width, args.shuffle), *args.size)
    figures = {"multiply_adds_per_pixel": work / (args.size[0] * args.size[1])}
    figures |= measured_on(device)
    for what in TASKS if args.what == "all" else (args.what,):
        figures[what] = measure(what, work, setup, device, repeats=args.repeats)
    print(as_json(figures) if args.json else report(figures, setup))
    return 0


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = make_parser(__doc__)
    option, shown = parser.add_argument, "(default: %(default)s)"
    whole, flag = number(int, 1), argparse.BooleanOptionalAction
    option("--channels", type=int, choices=[1, 3], help=f"1 gray, 3 RGB {shown}")
    option("--width", type=number(int, 2), metavar="N", help=f"base channels {shown}")
    text = "2: fold 2x2 pixels into four times the channels, 1: do not"
    option("--shuffle", type=whole, metavar="N", help=f"{text} {shown}")
    option("--batchsize", type=whole, metavar="N", help=f"pictures {shown}")
    text = "pixels of a picture (default: 256 256)"
    option("--size", type=whole, nargs=2, metavar=("H", "W"), help=text)
    option("--what", choices=["forward", "train", "all"], help=f"what to time {shown}")
    text = "ours in bf16, on old GPUs fp16; with --peers all"
    option("--amp", action=flag, default=False, help=text)
    option("--tf32", action=flag, default=False, help="on CUDA: ours with 10-bit mantissas")
    option("--compile", action=flag, default=False, help="ours compiled, which takes minutes")
    text = "time the forward of other papers' networks beside ours, in seconds and memory"
    option("--peers", action="store_true", help=text)
    text = "time a training step in every precision, memory layout and mode, of widths 16 and 64"
    option("--sweep", action="store_true", help=text)
    text = "seconds after which a sweep leaves out the rest"
    option("--limit", type=number(float, 0), metavar="SECONDS", help=f"{text} {shown}")
    option("--repeats", type=whole, metavar="N", help=f"turns of each {shown}")
    option("--device", metavar="NAME", help=f"auto, cpu, cuda, cuda:1 or mps {shown}")
    option("--json", action="store_true", help="print the results as JSON, of a sweep a row a line")
    parser.set_defaults(**DEFAULTS)
    args = parser.parse_args(argv)
    if args.width % 2:
        parser.error(f"--width {args.width} is odd: it must be even")
    check_benchmark(parser, args)
    return args


def check_benchmark(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """End where options do not go together."""
    if args.peers and args.sweep:
        parser.error("--peers and --sweep are two benchmarks: give one of them")
    ignored: tuple[str, ...] = () if args.sweep else ("limit",)
    if args.peers:
        ignored += ("what", "compile")
        if any(side % MULTIPLE for side in args.size):
            height, width = args.size
            parser.error(f"--peers needs sides divisible by {MULTIPLE}, not {height}x{width}")
    if args.sweep:
        ignored += ("what", "width", "shuffle", "repeats", *WAYS)
    for name in ignored:
        if getattr(args, name) != parser.get_default(name):
            which = "--sweep" if args.sweep else "--peers" if args.peers else "all but --sweep"
            parser.error(f"--{name} has no meaning for {which}")


def as_json(figures: dict) -> str:
    """The figures; what could not be measured is null."""
    return re.sub(r"\bNaN\b", "null", json.dumps(figures, indent=1))


def measured_on(device: torch.device) -> dict:
    """Of what the figures are: threads, device, PyTorch."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)
    return {"threads": torch.get_num_threads(), "device": name, "torch": torch.__version__}


# ------------------------------------------------------------------------------- ours beside plain


def multiply_adds(model: SMNet, height: int, width: int) -> int:
    """Nominal multiply-adds of the convolutions as published for one picture."""
    model = copy.deepcopy(model).to("meta")  # there nothing is computed
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.empty(1, model.channels, height, width, device="meta"))
    return counter.get_flop_counts()["Global"][torch.ops.aten.convolution] // 2


def measure(what: str, work: int, setup: Setup, device: torch.device, *, repeats: int) -> dict:
    """The figures of one forward or training step; `work`: multiply-adds of a picture's forward."""
    ours = replace(setup, cudnn_benchmark=what == "train")  # as the train scripts have it
    setups = {"ours": ours, "plain": setup.reference()}
    peaks = {name: peak(TASKS[what], of, device) for name, of in setups.items()}
    makers: dict[str, Callable] = {
        name: partial(TASKS[what], of, device) for name, of in setups.items()
    }
    for name, memory_format in (
        ("conv2d NCHW", torch.contiguous_format),
        ("conv2d channels_last", torch.channels_last),
    ):
        makers[name] = partial(conv_task, memory_format, setup, device)
    seconds = medians(makers, repeats=repeats, device=device)
    conv_flops = 2 * 9 * 256 * 64 * setup.size[0] * setup.size[1] * setup.batchsize
    layouts = seconds["conv2d NCHW"], seconds["conv2d channels_last"]
    best_rate = conv_flops / min(layouts, key=nan_last)
    flops = 2 * work * setup.batchsize * (3 if what == "train" else 1)
    figures: dict = {"conv2d_gflops": best_rate / 1e9}
    for name in setups:
        figures[name] = {
            "seconds": seconds[name],
            "share_of_conv2d": flops / seconds[name] / best_rate,
            "peak_gb": peaks[name],
        }
    return figures | {"speedup": seconds["plain"] / seconds["ours"]}


def in_words(setup: Setup) -> str:
    """The pictures, and the options that are on."""
    height, width = setup.size
    color = "gray" if setup.channels == 1 else "RGB"
    options = "".join(f", {name}" for name in WAYS if getattr(setup, name))
    return f"{color}, {setup.batchsize} x {height}x{width} pixels{options}"


def report(figures: dict, setup: Setup) -> str:
    """The figures as aligned text."""
    lines = [
        f"{network_name(setup.width, setup.shuffle)}, {in_words(setup)}, {figures['device']}, "
        f"{figures['threads']} threads, "
        f"{figures['multiply_adds_per_pixel'] / 1e6:.3f} M multiply-adds a pixel",
    ]
    for what in TASKS:
        if what in figures:
            found = figures[what]
            lines.append(f"\n{what:8}   conv2d: {found['conv2d_gflops']:.0f} GFLOP/s")
            lines.append("           seconds   of conv2d   peak GB")
            for name in ("ours", "plain"):
                seconds, share, gb = found[name].values()
                lines.append(f"{name:8} {seconds:9.4f} {share:10.0%} {gb:9.2f}")
            lines.append(f"ours is {found['speedup']:.2f} times as fast as the plain reference")
    return "\n".join(lines)


# ------------------------------------------------------------------------------- ours beside others


def compare_with_peers(setup: Setup, device: torch.device, *, repeats: int) -> dict:
    """Seconds and peak memory of one forward of ours and of each peer; a peer's is that of the
    faster of NCHW and channels_last."""
    ours = f"SMNet, {network_name(setup.width, setup.shuffle)}"
    layouts = [replace(setup, channels_last=channels_last) for channels_last in (False, True)]
    tasks = {(ours, setup): TASKS["forward"]}
    tasks |= {(name, way): partial(forward_of_peer, name) for name in PEERS for way in layouts}
    makers = {key: partial(task, key[1], device) for key, task in tasks.items()}
    seconds = medians(makers, repeats=repeats, device=device)
    rows = []
    for name in (ours, *PEERS):
        ways = [key for key in tasks if key[0] == name]
        key = min(ways, key=lambda way: nan_last(seconds[way]))
        rows.append(
            {"network": name, "seconds": seconds[key], "peak_gb": peak(tasks[key], key[1], device)}
        )
    return {"pictures": in_words(setup), **measured_on(device), "rows": rows}


def peers_in_words(figures: dict) -> str:
    """The figures as aligned text."""
    lines = [
        f"one forward: {figures['pictures']}, {figures['device']}, {figures['threads']} threads",
        f"{'':28} seconds  of DnCNN's  peak GB",
    ]
    dncnn = next(row["seconds"] for row in figures["rows"] if row["network"] == "DnCNN")
    for row in figures["rows"]:
        share = row["seconds"] / dncnn
        lines.append(
            f"{row['network']:28} {row['seconds']:7.3f} {share:10.2f} {row['peak_gb']:9.2f}"
        )
    return "\n".join(lines)


# ------------------------------------------------------------------------------- every way


def sweep(setup: Setup, device: torch.device, *, limit: float) -> Iterator[dict]:
    """The rows of a sweep: workers first, which take seconds, then the ways of a step."""
    end = time.monotonic() + limit

    def time_left() -> float:
        return end - time.monotonic()

    yield {**measured_on(device), "pictures": in_words(setup)}
    yield from sweep_workers(setup, time_left=time_left)
    yield from sweep_steps(setup, device, time_left=time_left)


def row_in_words(row: dict) -> str:
    """A row as text."""
    words = []
    for name, value in row.items():
        match name:
            case "seconds":
                words.append(f"{1000 * value:.1f} ms")
            case "pictures_per_second":
                words.append(f"{value:.0f} pictures/s")
            case "width" | "workers" | "cudnn.benchmark" | "threads" | "torch":
                words.append(f"{name} {value}")
            case _:
                words.append(str(value))
    return ", ".join(words)


if __name__ == "__main__":
    run_script(main)
