"""Picking a device, and telling that it has no memory left."""

import pytest
import torch

from smnet import devices
from utils import SMNetError


def test_a_device_that_is_not_there_is_one_line():
    assert devices.pick_device("cpu").type == "cpu"
    if not torch.cuda.is_available():
        with pytest.raises(SMNetError, match="use --device auto or cpu"):
            devices.pick_device("cuda")


def test_out_of_memory_is_known_by_all_its_words():
    for words in (
        "CUDA out of memory",
        "not enough memory: you tried to allocate 9 bytes",
        "CUBLAS_STATUS_ALLOC_FAILED",
    ):
        assert devices.is_out_of_memory(RuntimeError(words))
    assert not devices.is_out_of_memory(RuntimeError("sizes of tensors must match"))
