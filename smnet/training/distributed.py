"""One run in several processes, as torchrun starts them: who this one is, and what they tell each
other.

    torchrun --nproc_per_node=8 train_rgb.py --noiseL 25

Everything here does the plain thing, at no cost, where the script was started without torchrun.
"""

import os
import re
import secrets
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from typing import Any

import torch
import torch.distributed as dist

from smnet import devices
from utils import SMNetError

LAUNCHED = "TORCHELASTIC_RUN_ID" in os.environ  # by torchrun
# How many processes srun, Open MPI, MPICH and others say that they started.
COUNTS = ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "WORLD_SIZE")


# How gloo and NCCL say that another process has gone.
LOST = "closed by peer|reset by peer|pair closure|remote process exited|Broken pipe|broken pipe"


@contextmanager
def loss_explained() -> Iterator[None]:
    """Turn the failure of an exchange with a process that has ended into one line.

    Raises:
        SMNetError: another process has ended.
    """
    try:
        yield
    except RuntimeError as error:
        if LAUNCHED and re.search(LOST, str(error)):
            raise SMNetError("another process of this run has ended, so this one ends") from None
        raise


@contextmanager
def processes(device: torch.device) -> Iterator[None]:
    """Join the other processes for as long as the block runs, NCCL on CUDA, else gloo; only process
    0 prints meanwhile.

    Raises:
        SMNetError: another launcher than torchrun started several processes.
    """
    if not LAUNCHED:
        refuse_other_launchers()
        yield
        return
    store = fresh_store()
    name_launch(store)
    dist.init_process_group(
        "nccl" if device.type == "cuda" else "gloo", store=store, rank=rank(), world_size=size()
    )
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere if rank() else sys.stdout):
        yield
    # Not after an error: the others may be waiting for this process, and torchrun ends them.
    dist.destroy_process_group()


def refuse_other_launchers() -> None:
    """Raise where this is one of several processes that would each train the same run."""
    for name in COUNTS:
        count = os.environ.get(name, "")
        if count.isdigit() and int(count) > 1:
            raise SMNetError(
                f"started {count} times at once ({name}), but only torchrun's processes share a "
                "run; start torchrun --nproc_per_node=GPUS once on each machine"
            )


def fresh_store() -> dist.Store:
    """A store of keys that the processes of this life share, with nothing in it.

    torchrun keeps one store over all its restarts (`--max-restarts`), where a process started anew
    would read addresses of dead ones. The restart count does not tell lives apart: on several
    machines it differs from one to the next. So every process puts a random token there, and they
    go on once all have seen the same tokens, its own new one among them.
    """
    store, _, _ = next(dist.rendezvous("env://"))
    store.set(f"token/{rank()}", secrets.token_hex(8))
    while True:
        tokens = [store.get(f"token/{other}") for other in range(size())]
        store.set(f"seen/{rank()}", b" ".join(tokens))
        if all(store.get(f"seen/{other}") == b" ".join(tokens) for other in range(size())):
            return dist.PrefixStore(b" ".join(tokens).decode(), store)
        time.sleep(0.05)


def pick_device(name: str) -> torch.device:
    """This process's device for `--device NAME`: under torchrun its own GPU, or the CPU.

    Raises:
        SMNetError: no such device, one GPU for all, or more processes than GPUs.
    """
    if not LAUNCHED:
        return devices.pick_device(name)
    if name not in ("auto", "cpu", "cuda"):
        raise SMNetError(
            f"--device {name}: torchrun gives each process a GPU of its own; leave --device out, "
            "or choose GPUs by CUDA_VISIBLE_DEVICES=1,2 before the command"
        )
    if name == "cpu" or not torch.cuda.is_available():
        return devices.pick_device("cpu" if name == "auto" else name)
    if local_rank() >= torch.cuda.device_count():
        raise SMNetError(
            f"--nproc_per_node is above the {torch.cuda.device_count()} GPUs of this machine"
        )
    torch.cuda.set_device(local_rank())
    return devices.pick_device(f"cuda:{local_rank()}")


def rank() -> int:
    """This process's number, 0 for the one that writes files and speaks."""
    return int(os.environ["RANK"]) if LAUNCHED else 0


def size() -> int:
    """The number of processes."""
    return int(os.environ["WORLD_SIZE"]) if LAUNCHED else 1


def local_size() -> int:
    """The number of processes on this machine."""
    return int(os.environ["LOCAL_WORLD_SIZE"]) if LAUNCHED else 1


def local_rank() -> int:
    """This process's number on its own machine, which is that of its GPU."""
    return int(os.environ["LOCAL_RANK"]) if LAUNCHED else 0


_launch: str | None = None


def name_launch(store: dist.Store) -> None:
    """Set what `launch_id` gives: a random name that the first process leaves in the store.

    torchrun's own id does not do: it is "none" or what the user gives by --rdzv_id, perhaps the
    same again.
    """
    global _launch
    while isinstance(
        store, dist.PrefixStore
    ):  # the store that all restarts have in common is behind these
        store = store.underlying_store
    _launch = store.compare_set("smnet/launch", "", secrets.token_hex(8)).decode()


def launch_id() -> str | None:
    """What tells this launch of torchrun from others, the same in all its processes and restarts;
    None without torchrun."""
    return _launch


def shard(items: list) -> list:
    """Every size()-th item, beginning with this process's number: together the processes have each
    item once."""
    return items[rank() :: size()]


def gather_shards(shared: list) -> list:
    """The inverse of `shard`, on every process: what each made of its items, in the order of the
    whole list."""
    if not LAUNCHED:
        return shared
    shares: list[list] = [[]] * size()
    dist.all_gather_object(shares, shared)
    whole: list[Any] = [None] * sum(map(len, shares))
    for i, part in enumerate(shares):
        whole[i :: size()] = part
    return whole


def broadcast(value: Any) -> Any:
    """What process 0 has, on every process; the others' value is not looked at."""
    if not LAUNCHED:
        return value
    box = [value]
    dist.broadcast_object_list(box)
    return box[0]


def send_from(sender: int, tensor: torch.Tensor) -> Callable[[], object]:
    """Begin to overwrite `tensor` with process `sender`'s; call what is returned to wait for it."""
    if not LAUNCHED:
        return lambda: None
    return dist.broadcast(tensor, src=sender, async_op=True).wait


def reduce_sum(values: torch.Tensor) -> torch.Tensor:
    """The sum of a tensor over the processes, on every one."""
    if LAUNCHED:
        dist.all_reduce(values)
    return values


def reduce_max(number: int, device: torch.device) -> int:
    """The greatest of a whole number over the processes, on every one."""
    if not LAUNCHED:
        return number
    box = torch.tensor(number, device=device)
    dist.all_reduce(box, op=dist.ReduceOp.MAX)
    return int(box)
