"""The same network in less time and memory where no gradients are needed: `fast(model)`, on a CPU.

    twin = fast(model)
    denoised = twin(noisy)  # as model(noisy), but for rounding

A twin shares the network's parameters where it uses them as they are, and holds kernels that were
rearranged once, when it was made: it is a snapshot. Make a new one after the weights have changed;
the old one would mix both. It has no gradients. How it differs from `models.py`:

- concatenations are never made: each map is convolved by itself and the results are added;
- dense blocks run in strips of rows, so that the maps in between stay in the CPU's cache;
- convolutions of few channels, which are slow, are computed in groups;
- the nine maps of the image memory are added up as they come, a piece of them at a time;
- both tails are two small convolutions (`collapse_tails` does this alone, on any device);
- attention is over channels padded with zeros to whole registers.
"""

import copy
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models import DenseBlock, Fusion, ImageMemory, NonLocalBlock, SMNet

STRIP_BYTES = 5 * 2**19  # of a dense block's input that is computed at a time, about
PIECE_BYTES = 2**23  # of a map that is added to others at a time, about
LEAST_ROWS = 96  # of a strip or piece; cutting costs more than it saves below
GROUP_CHANNELS = 32  # of convolutions that are computed at once
REGISTER = 16  # numbers; products with fewer columns are slower


def for_inference(model: SMNet, *, amp: bool = False) -> SMNet:
    """What to run where no gradients are needed: a fast twin on a CPU, elsewhere the network; with
    `amp`, for autocast, their outputs in float32.

    Modules other than SMNet, twins included, are returned as they are.
    """
    if type(model) is not SMNet:
        return model
    on_cpu = next(model.parameters()).device.type == "cpu"
    if amp:
        return with_float32_output(fast(model) if on_cpu else sharing_parameters(model))
    return fast(model) if on_cpu else model


@torch.no_grad()
def fast(model: SMNet) -> SMNet:
    """A twin of a network on a CPU: same calls, same results but for rounding, no gradients."""
    twin = Twin(model, FastImageMemory)
    for parent in list(twin.modules()):
        for name, child in parent.named_children():
            if type(child) in CONVERTERS:
                setattr(parent, name, CONVERTERS[type(child)](child))
    return twin


def sharing_parameters(model: SMNet) -> SMNet:
    """A copy of a network with the same parameters."""
    return copy.deepcopy(model, {id(p): p for p in model.parameters()})


def with_float32_output(model: SMNet) -> SMNet:
    """The network, changed so that its last convolution is in float32 under autocast, too: in bf16
    its results would be a grey level apart."""
    memory = model.image_memory
    if isinstance(memory, CollapsedImageMemory):
        memory.collapsed[-1] = InFloat32(memory.collapsed[-1])
    else:
        setattr(memory, "project", InFloat32(memory.project))  # noqa: B010  # mypy: a Conv2d
    return model


class InFloat32(nn.Module):
    """A module that autocast leaves alone."""

    def __init__(self, module: nn.Module):
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            return self.module(x.float())


@torch.no_grad()
def collapse_tails(model: SMNet) -> SMNet:
    """A twin with only its tails collapsed, to a tenth of their arithmetic; on any device."""
    return Twin(model, CollapsedImageMemory)


class Twin(SMNet):
    """SMNet with other, equivalent modules and the same parameters, without gradients."""

    def __init__(self, model: SMNet, image_memory: "type[CollapsedImageMemory]"):
        nn.Module.__init__(self)
        self.channels, self.width, self.shuffle = model.channels, model.width, model.shuffle
        shared = sharing_parameters(model)
        self.noise_memory = shared.noise_memory
        first, second = self.noise_memory.head
        self.noise_memory.head = collapse(first, second.weight, second.bias)
        self.image_memory = image_memory(shared.image_memory)

    @torch.no_grad()
    def stages(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return super().stages(x)


# ------------------------------------------------------------------------------------------- tails


class CollapsedImageMemory(ImageMemory):
    """The image memory with its tail collapsed.

    The published tail shuffles the four-fold width to twice the size, convolves there and halves
    bilinearly, which is 2x2 averaging. That is one strided convolution of the shuffled plane, and
    so, exactly and borders included, one 3x3 convolution of the plane before the shuffle, with the
    averaged kernel shuffled back.
    """

    def __init__(self, plain: ImageMemory):
        nn.Module.__init__(self)
        self.stem, self.contextual, self.fusion = plain.stem, plain.contextual, plain.fusion
        kernel = F.pad(plain.project.weight, (2, 2, 2, 2))
        kernel = F.avg_pool2d(kernel, 2, stride=1)  # (channels, width, 6, 6)
        kernel = F.pixel_unshuffle(kernel, 2)  # (channels, 4 * width, 3, 3)
        self.collapsed = collapse(plain.expand, kernel, plain.project.bias)

    def tail(self, features: Tensor) -> Tensor:
        return self.collapsed(features)


def collapse(first: nn.Conv2d, kernel: Tensor, bias: Tensor) -> nn.Sequential:
    """Two 3x3 convolutions with nothing between them, the second to few channels, as smaller ones.

    Where there would be more than nine maps a channel in between, they are not made: `first` is
    multiplied with each of the second kernel's nine places, and a convolution with ones shifts and
    adds the nine results, which is the same at the borders, too.

    Args:
        first: C -> middle channels.
        kernel, bias: of the second, (channels, middle, 3, 3) and (channels).
    """
    channels = len(kernel)
    if first.out_channels <= 9 * channels:
        return nn.Sequential(first, as_conv(kernel, bias))
    places = kernel.flatten(2).transpose(1, 2).flatten(0, 1)  # (channels * 9, middle)
    weight = (places @ first.weight.flatten(1)).unflatten(1, first.weight.shape[1:])
    one_hot = torch.eye(9).flatten()[None]  # the place of each of a channel's nine parts
    shifts = torch.kron(torch.eye(channels), one_hot).view(channels, channels * 9, 3, 3)
    return nn.Sequential(as_conv(weight, places @ first.bias), as_conv(shifts.to(weight), bias))


def as_conv(weight: Tensor, bias: Tensor) -> nn.Conv2d:
    """A convolution with these parameters that keeps the plane's size."""
    out_channels, in_channels, size, _ = weight.shape
    options = {"padding": size // 2, "device": "meta"}  # there no initial weights are drawn
    conv = nn.Conv2d(in_channels, out_channels, size, **options)
    conv.weight, conv.bias = (nn.Parameter(t, requires_grad=False) for t in (weight, bias))
    return conv


# ------------------------------------------------------------------------------------------ blocks


class FastImageMemory(CollapsedImageMemory):
    """The image memory with its maps fused as they come."""

    def maps(self, features: Tensor) -> Iterator[Tensor]:
        for block in self.contextual:
            for dense in block.dense[:-1]:
                features = dense(features)
                yield features
            features = F.relu_(block.dilated(block.dense[-1](features)))
            yield features


class FastFusion(nn.Module):
    """A Fusion that adds up its maps' shares as they come, so that none of them need be kept."""

    def __init__(self, plain: Fusion):
        super().__init__()
        self.kernels = plain.weight.split(plain.out_channels, dim=1)
        self.bias = plain.bias

    def forward(self, maps: Iterable[Tensor]) -> Tensor:
        maps, kernels = iter(maps), iter(self.kernels)
        total = F.conv2d(next(maps), next(kernels), self.bias)
        rows = rows_at_a_time(total, PIECE_BYTES, LEAST_ROWS)
        for new, kernel in zip(maps, kernels):
            for piece, target in zip(new.split(rows, dim=2), total.split(rows, dim=2)):
                target.add_(F.conv2d(piece, kernel))
        return total


class FastNonLocalBlock(NonLocalBlock):
    """A non-local block whose scores are of channels padded with zeros to whole registers."""

    def __init__(self, plain: NonLocalBlock):
        nn.Module.__init__(self)
        self.grid = plain.grid
        more = -plain.theta.out_channels % REGISTER
        self.theta, self.phi, self.g = (
            as_conv(F.pad(conv.weight, (0, 0, 0, 0, 0, 0, 0, more)), F.pad(conv.bias, (0, more)))
            for conv in (plain.theta, plain.phi, plain.g)
        )
        self.out = as_conv(F.pad(plain.out.weight, (0, 0, 0, 0, 0, more)), plain.out.bias)


class Group(NamedTuple):
    """Convolutions of a dense block that are computed at once, as one with all their channels."""

    reach: int  # rows beyond the result that the maps before it are needed for
    bias: Tensor  # (channels)
    before: tuple[Tensor, ...]  # kernels (channels, C, 3, 3) for the input and each group before
    within: list[Tensor]  # kernels (channels left, growth, 3, 3) for each map of its own but one
    fusion: Tensor  # kernel (width, channels, 1, 1) from the group's maps to the block's result


class FastDenseBlock(nn.Module):
    """A DenseBlock that computes large maps strip by strip, and concatenates nothing."""

    def __init__(
        self, plain: DenseBlock, *, strip_bytes: int = STRIP_BYTES, least_rows: int = LEAST_ROWS
    ):
        super().__init__()
        self.strip_bytes, self.least_rows = strip_bytes, least_rows
        weight = plain.fusion.weight
        width = len(weight)
        skip = torch.eye(width).to(weight)[:, :, None, None] if plain.skip else 0
        self.kernel, self.bias = weight[:, :width] + skip, plain.fusion.bias  # from the input
        self.groups = group(plain)

    def forward(self, x: Tensor) -> Tensor:
        result = F.conv2d(x, self.kernel, self.bias)
        height, reach = x.shape[2], self.groups[0].reach
        for top, bottom in self.strips(x):
            above, below = min(top, reach), min(height - bottom, reach)
            strip = x[:, :, top - above : bottom + below]
            self.add_strip(strip, above, below, result[:, :, top:bottom])
        return result

    def strips(self, x: Tensor) -> list[tuple[int, int]]:
        """Rows [top, bottom) that are computed at a time."""
        height, rows = x.shape[2], rows_at_a_time(x, self.strip_bytes, self.least_rows)
        return [(top, min(top + rows, height)) for top in range(0, height, rows)]

    def add_strip(self, x: Tensor, above: int, below: int, result: Tensor) -> None:
        """Add the new maps' share of the fusion to `result`.

        The first `above` and last `below` rows of `x` are not in the result, but what others are
        computed from. They are dropped as they become false, a row with every convolution.
        """
        maps = [x]  # and those of each group
        for reach, bias, before, within, fusion in self.groups:
            drop = max(0, above - reach), max(0, below - reach)
            maps = [trim(one, *drop) for one in maps]
            above, below = above - drop[0], below - drop[1]
            new = F.conv2d(maps[0], before[0], bias, padding=1)
            for one, kernel in zip(maps[1:], before[1:]):
                new.add_(F.conv2d(one, kernel, padding=1))
            rest = new
            for kernel in within:
                one, rest = rest.split([kernel.shape[1], len(kernel)], dim=1)
                rest.add_(F.conv2d(F.relu(one), kernel, padding=1))
            maps.append(F.relu_(new))
            result.add_(F.conv2d(trim(new, above, below), fusion))


def group(block: DenseBlock) -> list[Group]:
    """A dense block's convolutions in groups of about 32 channels."""
    width, growth = block.fusion.out_channels, block.convs[0].out_channels
    size = max(1, GROUP_CHANNELS // growth)
    groups = []
    for first in range(0, block.LAYERS, size):
        convs = block.convs[first : first + size]
        common = width + first * growth  # channels that are there before the group
        kernel = torch.cat([conv.weight[:, :common] for conv in convs])
        within = []
        for i in range(1, len(convs)):
            start = common + (i - 1) * growth
            within.append(torch.cat([c.weight[:, start : start + growth] for c in convs[i:]]))
        bias = torch.cat([conv.bias for conv in convs])
        groups.append(
            Group(
                reach=block.LAYERS - first,
                bias=bias,
                before=kernel.split([width] + [size * growth] * (first // size), dim=1),
                within=within,
                fusion=block.fusion.weight[:, common : common + len(bias)],
            )
        )
    return groups


def rows_at_a_time(x: Tensor, size: int, least: int) -> int:
    """Rows of the parts, equal ones of about `size` bytes, that (N, C, H, W) is cut into."""
    height = x.shape[2]
    parts = min(round(x.numel() * x.element_size() / size), height // least)
    return -(-height // max(1, parts))


def trim(x: Tensor, above: int, below: int) -> Tensor:
    """(N, C, H, W) without its first `above` and last `below` rows."""
    return x[:, :, above : x.shape[2] - below]


CONVERTERS = {DenseBlock: FastDenseBlock, Fusion: FastFusion, NonLocalBlock: FastNonLocalBlock}
