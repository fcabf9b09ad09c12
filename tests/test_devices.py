"""Picking a device, and telling that it has no memory left."""

import math

import pytest
import torch

from smnet import devices
from smnet.training import distributed
from utils import SMNetError


def test_a_device_that_is_not_there_is_one_line():
    assert devices.pick_device("cpu").type == "cpu"
    if not torch.cuda.is_available():
        with pytest.raises(SMNetError, match="use --device auto or cpu"):
            devices.pick_device("cuda")


def test_a_gpu_that_this_pytorch_has_no_code_for(monkeypatch, capsys):
    """`auto` goes on without it; who asked for it is told what to do."""

    def ones(*size, device):
        if device.type == "cuda":
            raise RuntimeError("CUDA error: no kernel image is available for execution")
        return torch.zeros(*size)

    monkeypatch.setattr(torch, "ones", ones)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert devices.pick_device("auto").type == "cpu"
    assert "was not built for the GPU 'cuda'" in capsys.readouterr().err
    with pytest.raises(SMNetError, match="or use --device cpu"):
        devices.pick_device("cuda")


def test_mps_of_a_pytorch_that_computes_wrong_convolutions_there(monkeypatch):
    monkeypatch.setattr(torch, "ones", lambda *size, device: torch.zeros(*size))
    assert devices.pick_device("mps").type == "mps"
    monkeypatch.setattr(torch, "__version__", torch.torch_version.TorchVersion("2.13.0"))
    with pytest.raises(SMNetError, match="2.13.0 computes wrong convolutions on MPS; install 2.14"):
        devices.pick_device("mps")


def test_torchrun_chooses_the_gpus(monkeypatch):
    monkeypatch.setattr(distributed, "LAUNCHED", True)
    for name in ("cuda:1", "mps", "nonsense"):
        with pytest.raises(SMNetError, match="torchrun gives each process a GPU of its own"):
            distributed.pick_device(name)
    assert distributed.pick_device("cpu").type == "cpu"


@pytest.mark.parametrize("precision", ["highest", "high", "medium"])
def test_the_callers_precision_comes_back(precision):
    matmul, conv = torch.backends.cuda.matmul, torch.backends.cudnn.conv
    usual = torch.get_float32_matmul_precision()
    try:
        with devices.keeping_precisions():
            torch.set_float32_matmul_precision(precision)
            before = matmul.fp32_precision, conv.fp32_precision
            with devices.cuda_kernels(tf32=precision == "highest", benchmark=True):
                assert matmul.allow_tf32 == (precision == "highest")
            assert torch.get_float32_matmul_precision() == precision
            assert (matmul.fp32_precision, conv.fp32_precision) == before
    finally:
        assert torch.get_float32_matmul_precision() == usual


def test_out_of_memory_is_known_by_all_its_words():
    for words in (
        "CUDA out of memory",
        "not enough memory: you tried to allocate 9 bytes",
        "CUBLAS_STATUS_ALLOC_FAILED",
        "Invalid buffer size: 9.00 GiB",
        "std::bad_alloc",
        "could not create a primitive",
    ):
        assert devices.is_out_of_memory(RuntimeError(words))
    for words in ("sizes of tensors must match", "could not create a primitive descriptor for a"):
        assert not devices.is_out_of_memory(RuntimeError(words))


def test_a_containers_limit_counts(tmp_path):
    assert devices.left_in_container(str(tmp_path)) == math.inf
    files = {"memory.max": "max", "memory.current": "300", "memory.stat": "a 1\ninactive_file 50\n"}
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    assert devices.left_in_container(str(tmp_path)) == math.inf
    (tmp_path / "memory.max").write_text("1000\n")
    assert devices.left_in_container(str(tmp_path)) == 750


def test_a_containers_limit_counts_by_version_1_too(tmp_path):
    files = {
        "limit_in_bytes": "1000", "usage_in_bytes": "300", "stat": "total_inactive_file 50\n",
    }  # fmt: skip
    (tmp_path / "memory").mkdir()
    for name, text in files.items():
        (tmp_path / "memory" / f"memory.{name}").write_text(text)
    assert devices.left_in_container(str(tmp_path)) == 750
