"""The devices that networks run on, and their memory."""

import contextlib
import ctypes
import math
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import torch

from utils import SMNetError


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error says that this process or its GPU has no memory left."""
    # CUDA, MPS; Windows; Linux; cuBLAS; cuDNN; MPS, one tensor too large; C++; oneDNN
    words = "out of memory|not enough memory|can't allocate memory|ALLOC_FAILED"
    words += "|unable to find an engine|Invalid buffer size|bad_alloc"
    words += "|could not create a (primitive|memory object)$"
    return (
        isinstance(error, MemoryError | torch.OutOfMemoryError)
        or re.search(words, str(error)) is not None
    )


def reuse_memory() -> None:
    """Have freed memory kept for the next tensor: fresh pages cost the system more time than many a
    layer its arithmetic.

    By glibc's malloc, which otherwise gives large pieces back at once; elsewhere nothing is done.
    """
    with contextlib.suppress(OSError, AttributeError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt
        trim_threshold, mmap_threshold = -1, -3  # as malloc.h numbers them
        mallopt(trim_threshold, 2**31 - 1)
        mallopt(mmap_threshold, 2**30) or mallopt(mmap_threshold, 2**25)  # for older versions


def trim_memory() -> None:
    """Give freed memory back to the system (glibc's malloc; elsewhere nothing is done)."""
    with contextlib.suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)


def pick_device(name: str) -> torch.device:
    """`auto` (CUDA, else Apple's MPS, else CPU), `cpu`, `cuda`, `cuda:1`, `mps` -> the device.

    Raises:
        SMNetError: there is no such device on this machine, or this PyTorch cannot use it.
    """
    if name != "auto":
        return usable_device(name)
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    for name in (backend for backend, there in available.items() if there):
        try:
            return usable_device(name)
        except UnusableDevice as error:
            print(f"{error}: the CPU is used", file=sys.stderr)
    return torch.device("cpu")


class UnusableDevice(SMNetError):
    """A device that is there, but not for this PyTorch."""


def usable_device(name: str) -> torch.device:
    """The device of this name, on which a sum has been computed.

    Raises:
        UnusableDevice: this PyTorch has no code for it, or wrong code.
        SMNetError: there is no such device, or no memory left on it.
    """
    try:
        device = torch.device(name)
        if device.type not in ("cpu", "cuda", "mps"):
            raise NotImplementedError
        torch.ones(1, device=device).add_(1).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        if is_out_of_memory(error):
            raise SMNetError(
                f"device {name!r} has no memory left: others use it; wait, or use --device cpu"
            ) from None
        if "no kernel image" in str(error):  # wheels leave out old and brand-new GPUs
            raise UnusableDevice(
                f"this PyTorch ({torch.__version__}) was not built for the GPU {name!r}; install "
                "one that was (pytorch.org), or use --device cpu"
            ) from None
        raise SMNetError(
            f"device {name!r} is not available on this machine; use --device auto or cpu"
        ) from None
    if device.type == "mps" and torch.__version__ < "2.14":
        raise UnusableDevice(  # pytorch/pytorch issue 192212
            f"PyTorch {torch.__version__} computes wrong convolutions on MPS; install 2.14 or "
            "later, or use --device cpu"
        )
    return device


def has_bf16(device: torch.device) -> bool:
    """Whether a device has bf16: on GPUs, as instructions of its own; CPUs all have it, though
    those without AVX-512 BF16, AMX or the like are slower with it."""
    if device.type == "cuda":
        with torch.cuda.device(device):
            return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu"


def autocast(device: torch.device, *, enabled: bool) -> torch.autocast:
    """Within it, if enabled, convolutions are computed in bf16, on GPUs without it in fp16."""
    dtype = torch.bfloat16 if has_bf16(device) else torch.float16
    return torch.autocast(device.type, dtype, enabled=enabled)


@contextlib.contextmanager
def cuda_kernels(*, tf32: bool, benchmark: bool) -> Iterator[None]:
    """Within it, float32 products on CUDA may have 10-bit mantissas (`tf32`), and cuDNN times its
    kernels for every new shape (`benchmark`)."""
    cudnn: Any = torch.backends.cudnn
    matmul = torch.backends.cuda.matmul
    with keeping_precisions():
        try:
            _ = cudnn.allow_tf32, matmul.allow_tf32  # which torch.compile reads, too
        except RuntimeError:  # the caller's program uses the newer flags
            cudnn.conv.fp32_precision = matmul.fp32_precision = "tf32" if tf32 else "ieee"
        else:
            cudnn.allow_tf32 = matmul.allow_tf32 = tf32
        benchmark_before, cudnn.benchmark = cudnn.benchmark, benchmark
        try:
            yield
        finally:
            cudnn.benchmark = benchmark_before


@contextlib.contextmanager
def keeping_precisions() -> Iterator[None]:
    """Afterwards PyTorch's flags for float32 products are what they were, the older and the newer
    ones (PyTorch 2.9), which depend on each other and cannot all be read in every state."""
    backends: Any = torch.backends
    cudnn, matmul = backends.cudnn, backends.cuda.matmul
    places = [matmul]
    places += [getattr(cudnn, name, None) for name in ("conv", "rnn")]
    places += [getattr(backends.mkldnn, "matmul", None)]
    newer = [(place, place.fp32_precision) for place in places if hasattr(place, "fp32_precision")]
    older = None
    with contextlib.suppress(RuntimeError):  # the caller's program uses the newer flags
        older = torch.get_float32_matmul_precision(), cudnn.allow_tf32
    try:
        yield
    finally:
        if older:
            torch.set_float32_matmul_precision(older[0])
            cudnn.allow_tf32 = older[1]
        for place, precision in newer:
            place.fp32_precision = precision


def peak_memory(device: torch.device, *, reset: bool = True) -> float:
    """Peak memory in GB: of PyTorch's tensors on CUDA, else of this process; 0 where the system
    does not tell.

    With `reset` the peak starts anew from what is in use now (on CUDA and Linux), and that is
    returned.
    """
    if device.type == "cuda":
        if reset:
            torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.max_memory_allocated(device) / 1e9
    with contextlib.suppress(OSError):
        if reset:
            Path("/proc/self/clear_refs").write_text("5")
        status = Path("/proc/self/status").read_text()
        return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) * 1024 / 1e9
    return 0.0


def synchronize(device: torch.device) -> None:
    """Wait until a device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def empty_cache(device: torch.device) -> None:
    """Give back what PyTorch keeps of a GPU's memory for its next tensors."""
    if device.type in ("cuda", "mps"):
        getattr(torch, device.type).empty_cache()


def free_memory(device: torch.device) -> float:
    """GB free for this process."""
    if device.type == "cuda":
        # what PyTorch keeps for its next tensors
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return (torch.cuda.mem_get_info(device)[0] + kept) / 1e9
    return min(psutil.virtual_memory().available, left_in_container()) / 1e9


def left_in_container(root: str = "/sys/fs/cgroup") -> float:
    """Bytes that this container may still take, by Linux's control groups; infinite where they set
    no limit."""
    for limit, used, cached in (
        ("memory.max", "memory.current", "inactive_file"),  # version 2
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "total_inactive_file"),
    ):
        with contextlib.suppress(OSError, ValueError, TypeError):  # a limit may be the word "max"
            left = int(Path(root, limit).read_text()) - int(Path(root, used).read_text())
            statistics = Path(root, limit).with_name("memory.stat").read_text()
            return left + int(re.search(rf"^{cached} (\d+)", statistics, re.MULTILINE)[1])
    return math.inf
