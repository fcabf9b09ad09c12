"""Optimizers, learning rates and the moving average of the weights."""

import numpy as np
import pytest
import torch
from torch import nn

from models import SMNet
from smnet.training import optimizers
from smnet.training.optimizers import (
    KernelMuon,
    MovingAverage,
    as_matrix,
    lr_factor,
    newton_schulz,
)

RATE = 0.01


def test_rates():
    args = type("Args", (), dict(schedule="multistep", milestones=(10, 40), warmup=0))
    at = lambda epoch: lr_factor(epoch * 7, steps_per_epoch=7, total_steps=350, args=args)  # noqa: E731
    assert [round(at(epoch), 6) for epoch in (0, 9, 10, 39, 40, 49)] == [1, 1, 0.1, 0.1, 0.01, 0.01]
    args.schedule, args.warmup = "cosine", 4
    rates = [lr_factor(step, steps_per_epoch=7, total_steps=104, args=args) for step in range(104)]
    assert (
        rates[:5] == [0.25, 0.5, 0.75, 1, 1]
        and rates[54] == pytest.approx(0.5)
        and 0 < rates[-1] < 1e-3
    )


def test_muon_orthogonalises_kernels_in_place():
    torch.manual_seed(0)
    kernel = torch.nn.Parameter(torch.randn(8, 6, 3, 3).to(memory_format=torch.channels_last))
    before = kernel.detach().clone()
    optimizer = KernelMuon([kernel], lr=0.01)
    kernel.grad = torch.randn(8, 6, 3, 3)
    optimizer.step()
    change = as_matrix((kernel.detach() - before) / 0.01)
    assert np.all(
        np.abs(torch.linalg.svdvals(change).numpy() - 1) < 0.4
    )  # five Newton-Schulz steps come that near to 1
    with pytest.raises(AssertionError, match="channels_last"):
        KernelMuon([torch.nn.Parameter(torch.randn(8, 6, 3, 3))], lr=0.01)


def test_the_average_forgets_the_initial_weights():
    average = MovingAverage(torch.nn.Linear(1, 1), decay=0.999)
    for value in (1000.0, *[1.0] * 400):
        average.update_parameters(
            torch.nn.Linear(1, 1).requires_grad_(False).apply(lambda m, v=value: m.weight.fill_(v))
        )
    assert abs(average.module.weight.item() - 1) < 1e-3


def kernels_of(seed: int) -> list[nn.Parameter]:
    torch.manual_seed(seed)
    model = SMNet(channels=3, width=8).to(memory_format=torch.channels_last)
    return [p for p in model.parameters() if p.ndim == 4 and min(p.shape[:2]) > 1]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_grouped_muon_gives_what_pytorchs_gives(dtype, monkeypatch):
    """In PyTorch's bf16 to the bit; in float32 to the rounding of bf16."""
    monkeypatch.setattr(optimizers, "precision", lambda device: dtype)
    ours, theirs = kernels_of(0), kernels_of(0)
    matrices = [nn.Parameter(as_matrix(kernel.detach()).clone()) for kernel in theirs]
    grouped = KernelMuon(ours, lr=RATE)
    single = torch.optim.Muon(matrices, lr=RATE, weight_decay=0.0, adjust_lr_fn="original")
    assert len(grouped.shapes) < len(ours) / 5  # otherwise nothing is grouped
    for _ in range(3):
        for kernel, matrix in zip(ours, matrices):
            kernel.grad = torch.randn_like(kernel)
            matrix.grad = as_matrix(kernel.grad).clone()
        grouped.step()
        single.step()
    for kernel, matrix in zip(ours, matrices):
        difference = (as_matrix(kernel.detach()) - matrix.detach()).abs().max().item()
        assert difference == 0 if dtype == torch.bfloat16 else 0 < difference < 0.1 * RATE


def test_grouped_muon_loads_the_state_of_pytorchs():
    kernels = kernels_of(0)
    matrices = [nn.Parameter(as_matrix(kernel.detach()).clone()) for kernel in kernels]
    single = torch.optim.Muon(matrices, lr=0.01, weight_decay=0.0, adjust_lr_fn="original")
    for matrix in matrices:
        matrix.grad = torch.randn_like(matrix)
    single.step()
    grouped = KernelMuon(kernels, lr=0.01)
    grouped.load_state_dict(single.state_dict())
    for theirs, ours in zip(matrices, grouped.param_groups[0]["params"]):
        buffers = single.state[theirs], grouped.state[ours]
        assert torch.equal(*(state["momentum_buffer"] for state in buffers))


def test_newton_schulz_makes_rows_nearly_orthonormal():
    torch.manual_seed(0)
    singular = torch.linalg.svdvals(newton_schulz(torch.randn(5, 12, 40)))
    assert singular.shape == (5, 12) and 0.6 < singular.min() and singular.max() < 1.3
