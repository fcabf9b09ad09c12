"""`benchmark.py --sweep`: a training step in every way that it can be computed, and the reading of
data with several workers."""

import dataclasses
import itertools
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import h5py
import numpy as np
import torch

from smnet.devices import has_bf16, is_out_of_memory
from smnet.images import Picture
from smnet.patches import write_patches
from smnet.timing import Setup, free_cache, seconds_in_a_loop, train_task
from smnet.training.loading import BatchReader
from smnet.training.samples import EpochBatches, PatchDataset
from utils import one_line

WIDTHS = (16, 64)
PRECISIONS = ("fp32", "tf32", "bf16")
LAYOUTS = ("NCHW", "channels_last")
WORKERS = (2, 4, 8)
READ_FOR = 3.0  # seconds that batches are read for with so many workers


def ways(base: Setup) -> Iterator[tuple[dict[str, str], Setup]]:
    """(its words, setup) of every way; those that share a compiled network follow each other."""
    choices = itertools.product(
        ("eager", "compile"), WIDTHS, PRECISIONS, LAYOUTS, ("off", "on"), ("adam", "muon")
    )
    names = ("mode", "width", "precision", "layout", "cudnn.benchmark", "optimizer")
    for choice in choices:
        mode, width, precision, layout, benchmark, optimizer = choice
        yield (
            dict(zip(names, map(str, choice))),
            dataclasses.replace(
                base,
                width=width,
                channels_last=layout == "channels_last",
                cudnn_benchmark=benchmark == "on",
                compile=mode == "compile",
                optimizer=optimizer,
                amp=precision == "bf16",
                tf32=precision == "tf32",
            ),
        )


def why_skipped(setup: Setup, device: torch.device) -> str | None:
    """What a way needs that is not there."""
    if device.type != "cuda" and (setup.tf32 or setup.cudnn_benchmark):
        return "skipped: needs CUDA"
    if setup.amp and not has_bf16(device):
        return "skipped: this device has no bf16"
    if setup.optimizer == "muon" and not setup.channels_last:
        return "skipped: muon needs channels_last"
    return None


def sweep_steps(
    base: Setup, device: torch.device, *, time_left: Callable[[], float]
) -> Iterator[dict]:
    """A row for every way: its words, and `seconds` a step or `note`, why there are none."""
    compiled_before = None
    for words, setup in ways(base):
        note = why_skipped(setup, device)
        if not note and time_left() <= 0:
            note = "skipped: no time left"
        if note:
            yield {**words, "note": note}
            continue
        graph = (setup.width, setup.amp, setup.tf32, setup.channels_last)
        if setup.compile and graph != compiled_before:
            torch.compiler.reset()  # else after eight graphs PyTorch compiles no more
            compiled_before = graph
        try:
            row: dict = {"seconds": seconds_in_a_loop(train_task(setup, device), device)}
        except (RuntimeError, MemoryError) as error:
            if is_out_of_memory(error):
                row = {"note": "out of memory"}
            elif setup.compile:  # there is no compiler, say
                why = str(error).strip() or type(error).__name__
                row = {"note": f"failed: {one_line(why.splitlines()[0])}"}
            else:
                raise
        yield {**words, **row}
        free_cache(device)


def sweep_workers(base: Setup, *, time_left: Callable[[], float]) -> Iterator[dict]:
    """A row for every number of workers: pictures read a second, with white and with camera
    noise."""
    side = max(base.size)
    rng = np.random.default_rng(0)
    pictures = [Picture(str(i), rng.integers(0, 256, (3, side, side), np.uint8)) for i in range(32)]
    settings = dict(patch_size=side, stride=side, resize=0, shrink=1)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "patches.h5"
        with h5py.File(path, "w") as file:
            write_patches(file, pictures, channels=3, settings=settings)
        for camera in (0.0, 1.0):
            dataset = PatchDataset(
                path,
                channels=3,
                patch_size=min(base.size),
                noise_range=(0, 55),
                draws=1000,
                seed=0,
                camera=camera,
            )
            for workers in WORKERS:
                row = {"workers": str(workers), "noise": "camera" if camera else "white"}
                if time_left() <= 0:
                    yield {**row, "note": "skipped: no time left"}
                else:
                    rate = pictures_a_second(dataset, workers, base.batchsize)
                    yield {**row, "pictures_per_second": rate}


def pictures_a_second(dataset: PatchDataset, workers: int, batchsize: int) -> float:
    """How fast batches come, their first one, for which the workers start, not counted."""
    batches = EpochBatches(len(dataset), batchsize, seed=0)
    with BatchReader(dataset, batches, workers=workers, pin_memory=False) as reader:
        iterator = iter(reader)
        next(iterator)
        start, count = time.perf_counter(), 0
        for _ in iterator:
            count += batchsize
            if time.perf_counter() - start > READ_FOR:
                break
        return count / (time.perf_counter() - start)
