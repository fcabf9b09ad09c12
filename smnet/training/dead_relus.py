"""ReLUs that have died, channels that are zero everywhere and so learn nothing any more: counted,
prevented, and revived."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models import ContextualBlock, DenseBlock, SMNet

ALIVE = 1e-3  # share of the places where a channel is above zero; below it is called dead
LOWEST = -0.5  # standard deviations; the mean of a map before its ReLU should not be below


class DeadReluPenalty:
    """Keeps the ReLUs of the dilated convolutions alive (`--dead_relu_penalty`).

    A contextual block sees only what the ReLU at the end of the block before it lets through, and
    no bias lifts the maps before that ReLU. They move up and down together, probably by errors of
    brightness, and those that come below zero everywhere stay there: without this penalty one or
    both of the later blocks saw zeros in every network looked at (docs/network.md).

    The penalty is max(0, LOWEST - mean / std)^2 for each of those maps, over the pixels of a batch
    (of what a process computes of it at a time), averaged over the maps and added up over the
    blocks. A dead ReLU has a gradient of it, too.

    Args:
        model: the network in training; it is watched from now on.
    """

    def __init__(self, model: SMNet):
        self.penalties: list[Tensor] = []
        for module in model.modules():
            if isinstance(module, ContextualBlock):
                module.dilated.register_forward_hook(self.watch)

    def watch(self, conv: nn.Module, inputs: tuple[Tensor, ...], maps: Tensor) -> None:
        """Note the penalty of maps (N, width, H, W), before the ReLU."""
        if conv.training and torch.is_grad_enabled():
            maps = maps.float()
            means, deviations = maps.mean((0, 2, 3)), maps.detach().std((0, 2, 3))
            ratio = means / (deviations + 1e-4)
            self.penalties.append(F.relu(LOWEST - ratio).square().mean())

    def take(self) -> Tensor:
        """The penalty of the forward pass before, a scalar."""
        total = torch.stack(self.penalties).sum()
        self.penalties.clear()
        return total


def relu_convs(model: SMNet) -> list[nn.Module]:
    """The convolutions that a ReLU follows."""
    convs: list[nn.Module] = []
    for module in model.modules():
        if isinstance(module, DenseBlock):
            convs += module.convs
        elif isinstance(module, ContextualBlock):
            convs.append(module.dilated)
    return convs


@contextmanager
def counting_dead_relus(model: SMNet) -> Iterator[dict[nn.Module, Tensor]]:
    """Within it, a forward pass notes for each convolution which of its channels are dead, bool
    (channels,)."""
    dead: dict[nn.Module, Tensor] = {}

    def count(conv: nn.Module, inputs: tuple[Tensor, ...], maps: Tensor) -> None:
        dead[conv] = (maps > 0).float().mean((0, 2, 3)) < ALIVE

    hooks = [conv.register_forward_hook(count) for conv in relu_convs(model)]
    try:
        yield dead
    finally:
        for hook in hooks:
            hook.remove()


@torch.no_grad()
def revive(model: SMNet, pictures: Iterable[Tensor], *, seed: int) -> tuple[int, int]:
    """Give the dead ReLUs of the dense blocks new weights (`--revive`), as Sokar et al. 2023 do for
    dormant neurons; returns (how many, of how many).

    A channel that is dead in all `pictures` gets kernels of zero sum, with the standard deviation
    of its convolution's other kernels, and no bias; the kernels that read it become zero, so that
    the network gives what it gave before, but for what the channel gave in less than `ALIVE` of
    the places. In training they grow from there.

    Args:
        model: the network.
        pictures: noisy ones (1, channels, H, W).
        seed: of the new kernels.
    """
    dead: dict[nn.Module, Tensor] = {}
    for picture in pictures:
        with counting_dead_relus(model) as now:
            model(picture)
        dead = {conv: flags & dead.get(conv, flags) for conv, flags in now.items()}
    generator = torch.Generator().manual_seed(seed)
    revived = channels = 0
    for block in model.modules():
        if not isinstance(block, DenseBlock):
            continue
        convs = cast(list[nn.Conv2d], [*block.convs])
        start = convs[0].in_channels  # of a convolution's maps, among all that follow
        for i, conv in enumerate(convs):
            weight, bias = conv.weight, cast(Tensor, conv.bias)
            lost = dead[conv].nonzero().flatten()
            kernels = torch.randn(len(lost), *weight.shape[1:], generator=generator)
            kernels -= kernels.mean((2, 3), keepdim=True)
            living = weight[~dead[conv]] if len(lost) < len(weight) else weight
            weight[lost], bias[lost] = kernels * living.std(), 0.0
            for reader in (*convs[i + 1 :], block.fusion):
                reader.weight[:, start + lost] = 0
            start += len(weight)
            revived, channels = revived + len(lost), channels + len(weight)
    return revived, channels


def share(dead: dict[nn.Module, Tensor]) -> float:
    """The share of all channels that are dead, 0-1."""
    return torch.cat(list(dead.values())).float().mean().item()
