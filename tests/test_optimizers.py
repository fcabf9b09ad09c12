"""Optimizers, learning rates and the moving average of the weights."""

import numpy as np
import pytest
import torch

from smnet.training.optimizers import KernelMuon, MovingAverage, as_matrix, lr_factor


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
