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
    ):
        assert devices.is_out_of_memory(RuntimeError(words))
    assert not devices.is_out_of_memory(RuntimeError("sizes of tensors must match"))


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
