"""Batches for the training loop: worker processes read the crops, this process adds the noise.

For 8 RGB crops of 256x256 the noise takes 23 ms of a CPU core wherever it is added. Passing float
pictures from a worker costs 13 ms more, bytes 3 ms. On a GPU this process prepares the next batch
while the GPU computes. Where a step takes less time than the noise, `data_wait` in the log tells.

The bytes travel through a pipe, which takes no longer than /dev/shm: that is 64 MB in containers,
and full, it kills the worker.
"""

import contextlib
import multiprocessing
import signal
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torch.utils.data._utils import signal_handling

from smnet.cli import stop_signals
from smnet.training.samples import EpochBatches, Key, PatchDataset
from utils import SMNetError

SHARED_MEMORY = Path("/dev/shm")  # where the workers' locks are


class DataError(SMNetError):
    """The next batch cannot be read; all steps before it are whole."""


class Crops(Dataset):
    """The part of a `PatchDataset` that workers do: an item is a key and its uint8 crops."""

    def __init__(self, train_set: PatchDataset):
        self.train_set = train_set

    def __getitem__(self, key: Key) -> tuple[Key, np.ndarray]:
        return key, self.train_set.crop(key).numpy()

    @staticmethod
    def collate(samples: list[tuple[Key, np.ndarray]]) -> tuple[list[Key], np.ndarray]:
        """One array of all crops: a tensor would travel through shared memory."""
        return [key for key, _ in samples], np.stack([crops for _, crops in samples])


class BatchReader:
    """The batches of an epoch, again and again: (clean, noisy), float32 (n, C, H, W) each.

    Within the `with` block; at its end the workers are gone, whatever has happened. Where a worker
    dies, `DataError` is raised as soon as a batch is wanted, and at once within `at_once()`, never
    in the midst of a step.

    Args:
        train_set: what is read.
        batches: the order; its `epoch` and `skip` are set by the caller before each iteration.
        workers: processes that read; 0: this one does.
        pin_memory: whether the batches are put into memory that a GPU copies from by itself.
    """

    def __init__(
        self, train_set: PatchDataset, batches: EpochBatches, *, workers: int, pin_memory: bool
    ):
        self.train_set, self.pin_memory = train_set, pin_memory
        # Its advice on the number of workers is given by `workers_advice`, in one line.
        warnings.filterwarnings("ignore", "This DataLoader will create")
        self.loader = DataLoader(
            Crops(train_set),
            batch_sampler=batches,
            num_workers=workers,
            persistent_workers=workers > 0,
            collate_fn=Crops.collate,
            generator=torch.Generator(),  # or the workers' seeds come from the global generator
            worker_init_fn=prepare_worker,
        )
        self.iterator: Any = None
        self.others = set(multiprocessing.active_children())
        self.workers: list = []  # processes
        self.immediate = False  # whether a worker's death is raised where it is noticed
        self.handler_before: Any = None

    def __enter__(self) -> "BatchReader":
        return self

    def __exit__(self, *exception) -> None:
        """Kill the workers: they only read, and they do not listen to SIGTERM."""
        alive = set(multiprocessing.active_children()) - self.others
        for worker in alive:
            worker.kill()
        for worker in alive:
            worker.join()
        if self.workers:
            forget_workers(self.iterator)
        if self.handler_before is not None:
            signal.signal(signal.SIGCHLD, self.handler_before)
        self.workers, self.handler_before = [], None

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        with self.at_once(), failures_explained(self.check):
            with one_opencv_thread():
                self.iterator = iter(self.loader)
            self.watch_workers()
        while True:
            with self.at_once(), failures_explained(self.check):
                try:
                    keys, crops = next(self.iterator)
                except StopIteration:
                    return
                batch = self.finish(keys, crops)
            yield batch

    def watch_workers(self) -> None:
        """Have this process told when a worker dies; else PyTorch looks every five seconds."""
        self.workers = getattr(self.iterator, "_workers", [])
        in_main_thread = threading.current_thread() is threading.main_thread()
        if self.workers and self.handler_before is None and in_main_thread:
            if hasattr(signal, "SIGCHLD"):  # not on Windows
                # In place of PyTorch's, which raises in the midst of a step.
                self.handler_before = signal.signal(signal.SIGCHLD, self.child_ended)

    def finish(self, keys: list[Key], crops: np.ndarray) -> tuple[Tensor, Tensor]:
        """Add the noise."""
        shape = (len(keys), *crops.shape[2:])
        clean, noisy = (torch.empty(shape, pin_memory=self.pin_memory) for _ in range(2))
        for i, key in enumerate(keys):
            clean[i], noisy[i], _ = self.train_set.finish(key, torch.from_numpy(crops[i]))
        return clean, noisy

    @contextlib.contextmanager
    def at_once(self) -> Iterator[None]:
        """Within this block a worker's death is raised without waiting."""
        self.immediate = True
        try:
            self.check()
            yield
        finally:
            self.immediate = False

    def child_ended(self, number: int, frame: object) -> None:
        """The handler of SIGCHLD."""
        if self.immediate:
            self.check()

    def check(self) -> None:
        """Raise if a worker has died."""
        for worker in self.workers:
            if not worker.is_alive():
                raise DataError(f"a data worker {how_it_died(worker.exitcode)}")


def forget_workers(iterator: Any) -> None:
    """Tell a DataLoader's iterator that its workers are gone.

    Its own way to end them would wait for ever for a lock that a killed one held, and until then it
    takes their end for a failure.
    """
    iterator._shutdown = True
    signal_handling._remove_worker_pids(id(iterator))
    iterator._worker_pids_set = False
    for queue in iterator._index_queues:
        queue.cancel_join_thread()
        queue.close()


def how_it_died(status: int) -> str:
    """What to say of a process that ended with `status`, negative for a signal."""
    if status >= 0:
        return f"ended with status {status}"
    name = signal.Signals(-status).name
    if name == "SIGKILL":
        return f"was killed ({name}): probably out of memory; --workers 0 needs less"
    return f"died ({name})"


@contextlib.contextmanager
def failures_explained(check: Callable[[], None]) -> Iterator[None]:
    """Turn what reading a batch may raise into a `DataError` of one line.

    PyTorch may notice first that a worker has died; `check` then raises how.
    """
    try:
        yield
    except DataError:
        raise
    except SMNetError as error:  # a worker's error comes with its traceback before it
        raise DataError(str(error).rsplit("SMNetError: ", 1)[-1].strip()) from None
    except RuntimeError as error:
        text = str(error)
        if "DataLoader worker" in text and ("killed" in text or "exited" in text):
            check()
            raise DataError("a data worker died") from None
        raise


@contextlib.contextmanager
def one_opencv_thread() -> Iterator[None]:
    """Workers that start within it have one thread of OpenCV each: they share the cores already.

    Set before they fork, since a forked process that shrinks OpenCV's pool of threads waits for
    threads that it does not have.
    """
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(threads)


def prepare_worker(worker: int) -> None:
    """Called first in a worker. What stops a run reaches it as well, but the loop is still to get
    its batch: it ends when the loop kills it, or by itself when that is gone."""
    for number in stop_signals():
        signal.signal(number, signal.SIG_IGN)
    if multiprocessing.get_start_method() != "fork":
        cv2.setNumThreads(1)
