"""What is said before the first step: what begins, and where this machine is too small for it."""

import argparse
import math
import os
import shutil
import sys

from smnet.devices import free_memory
from smnet.training import distributed
from smnet.training.learner import Learner
from smnet.training.loading import SHARED_MEMORY
from smnet.training.samples import PatchDataset
from utils import SMNetError

# Held by a step for its backward, bytes a pixel and base channel: in float32, with --amp. Measured
# on CPUs; a GPU has not been measured yet.
BYTES_HELD = {"cpu": (900, 460), "cuda": (900, 460), "mps": (900, 460)}


def announce(learner: Learner, train_set: PatchDataset, *, name: str) -> None:
    """Say what begins, and where this machine is too small for it."""
    args, done = learner.args, learner.done
    if train_set.real:
        print(f"{noise_added(train_set, args)}; the validation is on the pairs in {args.val_h5}")
    elif train_set.clean:
        print(noise_added(train_set, args))
    processes = f" in {distributed.size()} processes" if distributed.size() > 1 else ""
    parameters = sum(p.numel() for p in learner.model.parameters())
    print(
        f"{name}: {parameters:,} parameters on {learner.device}{processes}, "
        f"{learner.steps_per_epoch:,} steps an epoch, "
        f"steps {done.step + 1:,} to {learner.total_steps:,}"
    )
    for advice in (memory_advice(learner), workers_advice(args.workers, distributed.local_size())):
        if advice:
            print(advice)
    sys.stdout.flush()


def noise_added(train_set: PatchDataset, args: argparse.Namespace) -> str:
    """What noise the crops get, where some of it is real or a camera's."""
    if train_set.only_pairs:
        return f"{', '.join(args.train_h5)} holds pairs of real noise: no noise is added"
    shares = [(args.camera, "get a camera's noise"), (args.clean, "stay clean")]
    words = [f"{share:.0%} {what}" for share, what in shares if share]
    pairs = any(file.pairs for file in train_set.files)
    crops = "of the crops that are not pairs" if pairs else "of the crops"
    return f"{crops}, {', '.join([*words, 'the others get white noise'])}"


def memory_advice(learner: Learner) -> str | None:
    """A line to print where a step will not fit: a process that takes too much is ended without a
    word."""
    device = learner.device.type
    needed, free = memory_needed(learner.args, device=device), free_memory(learner.device)
    if needed <= free:
        return None
    return (
        f"a step takes about {needed:.1f} GB and only {free:.1f} GB is free: give "
        "a larger --accumulate (splits the batch), --amp (halves the memory), or a smaller "
        "--patch_size, --batchsize or --width"
    )


def memory_needed(
    args: argparse.Namespace,
    *,
    device: str,
    processes: int | None = None,
    processes_here: int | None = None,
) -> float:
    """GB that a step takes of one process's device, about; on the CPU all processes of this machine
    together.

    Args:
        args: as `options.parse_args` gives.
        device: "cpu", "cuda" or "mps".
        processes: how many share a batch, by default as many as there are.
        processes_here: how many of them are on this machine.
    """
    share = math.ceil(args.batchsize / (processes or distributed.size()))
    pixels = math.ceil(share / args.accumulate) * args.patch_size**2 / args.shuffle**2
    one = 0.1 + pixels * args.width * BYTES_HELD[device][args.amp] / 1e9
    return one * ((processes_here or distributed.local_size()) if device == "cpu" else 1)


def check_shared_memory(workers: int, processes: int) -> None:
    """Raise where the locks of the data workers will not fit into shared memory.

    Args:
        workers: of one process.
        processes: on this machine.
    """
    if not workers or not SHARED_MEMORY.is_dir():
        return
    needed = processes * (8 + 3 * workers) * 4096  # pages, as measured
    free = shutil.disk_usage(SHARED_MEMORY).free
    if free < needed:
        raise SMNetError(
            f"{SHARED_MEMORY} has {free / 1000:.0f} kB free, and --workers {workers} needs "
            f"{needed / 1000:.0f}: give the container more (--shm-size 64m), or --workers 0"
        )


def workers_advice(workers: int, processes: int) -> str | None:
    """A line to print where there are more workers than CPU cores."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    if workers * processes <= max(2, cores or 1):
        return None
    return f"--workers {workers}: more than this machine's {cores} CPU cores can run at once"
