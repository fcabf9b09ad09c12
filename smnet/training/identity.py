"""Initial weights with which the network returns about its input (`--identity_start`)."""

import torch
from torch import nn

from models import ContextualBlock, DenseBlock, SMNet
from utils import SMNetError

QUIET = 0.1  # times PyTorch's initial weights, for what should hardly change the picture at first


@torch.no_grad()
def start_as_identity(model: SMNet) -> SMNet:
    """Change the initial weights so that the picture passes both stages; return the network.

    The noise mask starts near zero. In the image memory the first maps of every layer are the
    residual's channels: they pass the dense blocks, the dilated convolutions with their ReLU, the
    fusion and the tail unchanged. All other weights stay as PyTorch made them.

    Raises:
        SMNetError: the network has fewer maps than the (folded) picture has channels.
    """
    channels = model.channels * model.shuffle**2
    if model.width < channels:
        raise SMNetError(
            f"--identity_start needs a --width of at least {channels}, the channels of the "
            f"(folded) picture; got {model.width}"
        )
    for module in model.image_memory.modules():
        if isinstance(module, DenseBlock):
            stay_silent(module.fusion, channels)  # the skip connection is what passes
        elif isinstance(module, ContextualBlock):
            pass_on(module.dilated, channels)
    convs = {name: m for name, m in model.named_modules() if isinstance(m, nn.Conv2d)}
    for name in ("stem.0", "stem.1", "fusion.conv"):
        pass_on(convs[f"image_memory.{name}"], channels)
    average_maps(convs["image_memory.fusion.pointwise"], channels)
    open_tail(convs["image_memory.expand"], convs["image_memory.project"], channels)
    quieten(convs["noise_memory.head.1"])
    return model


def quieten(conv: nn.Conv2d) -> None:
    """Let a convolution give little."""
    conv.weight.mul_(QUIET)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)


def stay_silent(conv: nn.Conv2d, channels: int) -> None:
    """Let the first `channels` maps out of a convolution be zero."""
    conv.weight[:channels] = 0
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)


def pass_on(conv: nn.Conv2d, channels: int) -> None:
    """Let the first `channels` maps out of a 3x3 convolution be its first maps in."""
    stay_silent(conv, channels)
    for i in range(channels):
        conv.weight[i, i, 1, 1] = 1


def average_maps(pointwise: nn.Conv2d, channels: int) -> None:
    """Let the fusion's first maps be the mean of those of the dilated convolutions."""
    stay_silent(pointwise, channels)
    width = pointwise.out_channels
    dilated = range(2 * width, pointwise.in_channels, 3 * width)  # where each one's maps begin
    for i in range(channels):
        for first in dilated:
            pointwise.weight[i, first + i] = 1 / len(dilated)


def open_tail(expand: nn.Conv2d, project: nn.Conv2d, channels: int) -> None:
    """Let the tail return its first maps halved: it gets the fusion's plus the stem's."""
    stay_silent(expand, 4 * channels)
    quieten(project)
    project.weight[:, :channels] = 0
    for i in range(channels):
        expand.weight[4 * i : 4 * i + 4, i, 1, 1] = 0.5  # the four places of one map, doubled
        project.weight[i, i, 1, 1] = 1
