"""Optimizers, learning rates and the moving average of the weights that training offers."""

import argparse
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from smnet.training import distributed


def make_optimizers(
    model: nn.Module, args: argparse.Namespace
) -> list[tuple[torch.optim.Optimizer, float]]:
    """(optimizer, its full learning rate) for `--optimizer adam`, or `muon`: Muon for the kernels,
    Adam for the rest.

    Kernels are the convolution weights with more than one input and output channel.
    """
    kernels = (
        [p for p in model.parameters() if p.ndim == 4 and min(p.shape[:2]) > 1]
        if args.optimizer == "muon"
        else []
    )
    chosen = {id(p) for p in kernels}
    rest = [p for p in model.parameters() if id(p) not in chosen]
    # The fused kernel of MPS does not skip the steps whose fp16 gradients overflow.
    fused = rest[0].device.type != "mps"
    adam = torch.optim.Adam(rest, lr=args.lr, betas=tuple(args.betas), fused=fused)
    optimizers: list[tuple[torch.optim.Optimizer, float]] = [(adam, args.lr)]
    if kernels:
        optimizers.append((KernelMuon(kernels, lr=args.muon_lr), args.muon_lr))
    return optimizers


class KernelMuon(torch.optim.Muon):
    """PyTorch's Muon (orthogonalised momentum, Keller Jordan 2024) for kernels, in groups.

    PyTorch's takes matrices, so it gets each kernel (out, in, k, k) as a view (out, k * k * in) of
    the same memory. It orthogonalises one matrix after the other, some 3,400 small operations a
    step for SMNet; here the matrices of one shape are one batch, with the same results (on a CPU
    in bf16, the same bits). Under torchrun each process orthogonalises its share of the groups.

    Momentum 0.95, Nesterov, five Newton-Schulz steps (on CUDA in bf16), the rate times
    sqrt(max(1, rows / columns)), no weight decay.

    Args:
        kernels: 4-D parameters in channels_last memory.
        lr: learning rate.
    """

    def __init__(self, kernels: list[nn.Parameter], *, lr: float):
        self.kernels = kernels
        matrices = [as_matrix(kernel.detach()) for kernel in kernels]
        for kernel, matrix in zip(kernels, matrices):
            assert matrix.data_ptr() == kernel.data_ptr(), "kernels must be in channels_last memory"
        super().__init__(
            matrices, lr=lr, weight_decay=0.0, momentum=0.95, nesterov=True, adjust_lr_fn="original"
        )
        self.shapes: dict[tuple[int, int], list[int]] = {}  # (short, long side): their matrices
        for i, matrix in enumerate(matrices):
            short, long = sorted(matrix.shape)
            self.shapes.setdefault((short, long), []).append(i)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One update from the kernels' gradients, all of which must be there."""
        group = self.param_groups[0]
        matrices = group["params"]
        gradients = [as_matrix(kernel.grad) for kernel in self.kernels]
        for matrix in matrices:
            if not self.state[matrix]:
                self.state[matrix]["momentum_buffer"] = torch.zeros_like(matrix)
        momenta = [self.state[matrix]["momentum_buffer"] for matrix in matrices]
        torch._foreach_lerp_(momenta, gradients, 1 - group["momentum"])
        updates = torch._foreach_lerp(gradients, momenta, group["momentum"])  # Nesterov's
        for members, batch in zip(self.shapes.values(), self.orthogonalise(updates)):
            for i, update in zip(members, batch):
                rows, columns = matrices[i].shape
                lr = group["lr"] * math.sqrt(max(1, rows / columns))
                matrices[i].add_(update.mT if rows > columns else update, alpha=-lr)

    def orthogonalise(self, updates: Sequence[Tensor]) -> list[Tensor]:
        """The orthogonalised matrices (n, short, long) of each shape, on every process."""
        batches, waiting = [], []
        for number, members in enumerate(self.shapes.values()):
            wide = [
                updates[i].mT if len(updates[i]) > updates[i].shape[1] else updates[i]
                for i in members
            ]
            batch = torch.stack(wide)
            batch = batch.to(precision(batch.device))
            owner = number % distributed.size()
            if owner == distributed.rank():
                batch = newton_schulz(batch)
            batches.append(batch)
            waiting.append(distributed.send_from(owner, batch))
        for wait in waiting:
            wait()
        return batches

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the kernels' gradients."""
        for kernel in self.kernels:
            kernel.grad = None


def precision(device: torch.device) -> torch.dtype:
    """What matrices are orthogonalised in: bf16, as PyTorch does, where it is fast.

    A CPU without bf16 instructions took 0.38 s a step for it at width 32, in float32 0.05 s.
    """
    return torch.bfloat16 if device.type == "cuda" else torch.float32


def newton_schulz(batch: Tensor, *, steps: int = 5) -> Tensor:
    """Matrices (n, rows, columns), rows <= columns -> about the nearest with orthonormal rows.

    The quintic iteration of Keller Jordan's Muon, as in torch.optim.Muon.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    norms = torch.linalg.vector_norm(batch, dim=(1, 2), keepdim=True)
    batch = batch / norms.clamp(min=1e-7)  # so that no singular value is above 1
    for _ in range(steps):
        gram = batch @ batch.mT
        polynomial = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        batch = torch.baddbmm(batch, polynomial, batch, beta=a)
    return batch


def as_matrix(kernel: Tensor) -> Tensor:
    """(out, in, k, k) -> (out, k * k * in): a view where the kernel is in channels_last memory."""
    return kernel.permute(0, 2, 3, 1).flatten(1)


def lr_factor(
    step: int, *, steps_per_epoch: int, total_steps: int, args: argparse.Namespace
) -> float:
    """What the full learning rates are multiplied by at `step` (0 is the first): warm-up, then
    `--schedule`."""
    if step < args.warmup:
        return (step + 1) / args.warmup
    if args.schedule == "cosine":
        return 0.5 * (
            1 + math.cos(math.pi * (step - args.warmup) / max(1, total_steps - args.warmup))
        )
    return 0.1 ** sum(step >= epoch * steps_per_epoch for epoch in args.milestones)


class MovingAverage(AveragedModel):
    """A copy of a network whose weights follow it: average += (1 - d) * (weights - average) at
    every update.

    d is min(decay, (1 + n) / (10 + n)) after n updates, so that a short run's average forgets the
    initial weights. Unlike PyTorch's own update this never makes the CPU wait for a GPU.

    Args:
        model: the network; `self.module` is the average, which the first update makes equal to it.
        decay: per update, 0 to 1.
    """

    def __init__(self, model: nn.Module, *, decay: float):
        super().__init__(model)
        self.decay = decay

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        n = int(self.n_averaged)  # on the CPU
        d = min(self.decay, (1 + n) / (10 + n)) if n else 0.0
        torch._foreach_lerp_(list(self.module.parameters()), list(model.parameters()), 1 - d)
        self.n_averaged += 1
