"""Muon for kernels: the same bits as PyTorch's own, in one process and in several."""

import torch
from torch import nn

from models import SMNet
from smnet.training.optimizers import KernelMuon, as_matrix, newton_schulz


def kernels_of(seed: int) -> list[nn.Parameter]:
    torch.manual_seed(seed)
    model = SMNet(channels=3, width=8).to(memory_format=torch.channels_last)
    return [p for p in model.parameters() if p.ndim == 4 and min(p.shape[:2]) > 1]


def test_grouped_muon_gives_the_bits_of_pytorchs():
    ours, theirs = kernels_of(0), kernels_of(0)
    matrices = [nn.Parameter(as_matrix(kernel.detach()).clone()) for kernel in theirs]
    grouped = KernelMuon(ours, lr=0.01)
    single = torch.optim.Muon(matrices, lr=0.01, weight_decay=0.0, adjust_lr_fn="original")
    assert len(grouped.shapes) < len(ours) / 5  # otherwise nothing is grouped
    for _ in range(3):
        for kernel, matrix in zip(ours, matrices):
            kernel.grad = torch.randn_like(kernel)
            matrix.grad = as_matrix(kernel.grad).clone()
        grouped.step()
        single.step()
    for kernel, matrix in zip(ours, matrices):
        assert torch.equal(as_matrix(kernel.detach()), matrix.detach())


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
