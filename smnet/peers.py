"""Networks of other papers by their layers, with random weights: enough to time them beside SMNet.

As their authors run them: batch normalisation folded into the convolutions, no gradients.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from smnet.timing import Setup, Task, random_pictures, run_forward

MULTIPLE = 8  # of which the sides of a picture must be for all of them


def conv_relu(inputs: int, outputs: int, *, bias: bool = True) -> list[nn.Module]:
    return [nn.Conv2d(inputs, outputs, 3, padding=1, bias=bias), nn.ReLU(inplace=True)]


def chain(inputs: int, features: int, outputs: int, layers: int) -> nn.Sequential:
    """3x3 convolutions with ReLU between them."""
    inner = [layer for _ in range(layers - 2) for layer in conv_relu(features, features)]
    last = nn.Conv2d(features, outputs, 3, padding=1)
    return nn.Sequential(*conv_relu(inputs, features), *inner, last)


class DnCNN(nn.Module):
    """Zhang et al., TIP 2017, the blind one: 20 layers of 64 channels, a residual."""

    def __init__(self, channels: int):
        super().__init__()
        self.body = chain(channels, 64, channels, 20)

    def forward(self, noisy: Tensor) -> Tensor:
        return noisy - self.body(noisy)


class FFDNet(nn.Module):
    """Zhang et al., TIP 2018: 2x2 pixels folded, the noise level as a map; 15 layers of 64 channels
    for gray pictures, 12 of 96 for RGB. Sides must be even."""

    def __init__(self, channels: int):
        super().__init__()
        features, layers = (64, 15) if channels == 1 else (96, 12)
        self.body = chain(5 if channels == 1 else 15, features, 4 * channels, layers)
        self.fold, self.unfold = nn.PixelUnshuffle(2), nn.PixelShuffle(2)

    def forward(self, noisy: Tensor) -> Tensor:
        folded = self.fold(noisy)
        maps = self.body[0].in_channels - folded.shape[1]  # of the noise level
        sigma = folded.new_full((len(folded), maps, *folded.shape[2:]), 25 / 255)
        return self.unfold(self.body(torch.cat([folded, sigma], dim=1)))


class ResidualBlock(nn.Module):
    def __init__(self, features: int):
        super().__init__()
        first = conv_relu(features, features, bias=False)
        self.body = nn.Sequential(*first, nn.Conv2d(features, features, 3, padding=1, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


class DRUNet(nn.Module):
    """Zhang et al., TPAMI 2022: a U-Net of 64, 128, 256, 512 channels with four residual blocks at
    each scale, the noise level as a map. Sides must be divisible by 8."""

    def __init__(self, channels: int):
        super().__init__()
        widths = [64, 128, 256, 512]

        def blocks(features: int) -> list[nn.Module]:
            return [ResidualBlock(features) for _ in range(4)]

        self.head = nn.Conv2d(channels + 1, widths[0], 3, padding=1, bias=False)
        self.down = nn.ModuleList(
            nn.Sequential(*blocks(fine), nn.Conv2d(fine, coarse, 2, stride=2, bias=False))
            for fine, coarse in zip(widths, widths[1:])
        )
        self.body = nn.Sequential(*blocks(widths[-1]))
        self.up = nn.ModuleList(
            nn.Sequential(nn.ConvTranspose2d(coarse, fine, 2, stride=2, bias=False), *blocks(fine))
            for fine, coarse in reversed([*zip(widths, widths[1:])])
        )
        self.tail = nn.Conv2d(widths[0], channels, 3, padding=1, bias=False)

    def forward(self, noisy: Tensor) -> Tensor:
        sigma = torch.full_like(noisy[:, :1], 25 / 255)
        maps = [self.head(torch.cat([noisy, sigma], dim=1))]
        for down in self.down:
            maps.append(down(maps[-1]))
        x = self.body(maps[-1])
        for up in self.up:
            x = up(x + maps.pop())
        return self.tail(x + maps.pop())


PEERS: dict[str, Callable[[int], nn.Module]] = {
    "FFDNet": FFDNet,
    "DnCNN": DnCNN,
    "DRUNet": DRUNet,
}


def forward_of_peer(name: str, setup: Setup, device: torch.device) -> Task:
    """One forward of `PEERS[name]`, without gradients, of pictures as a setup has them."""
    model = PEERS[name](setup.channels).to(device, memory_format=setup.memory_format)
    return run_forward(model, random_pictures(setup, device), setup, device)
