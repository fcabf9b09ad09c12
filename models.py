"""SMNet, the Staged Memory Network for image denoising (Yu, Liang, Li, Xiao, ACM Multimedia 2020).

    x (noisy) -> NoiseMemory -> noise mask m -> residual x - m -> ImageMemory -> y (denoised)

Blocks stand leaf to root. Tensors are (N, C, H, W), pictures float32 in [0, 1]. The layers are
those of the authors' released code and weights, which differ from the paper's drawing: three dense
blocks per contextual block, not two, and no ReLU on the stems. This is the network as published;
`smnet/fast.py` converts it into one that needs less time and memory for inference on a CPU.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

MIN_SIDE = 28  # pixels; below this some region of the 4 x 4 grid is too small to be pooled


class NonLocalBlock(nn.Module):
    """Embedded-Gaussian attention (Wang et al. 2018) of a region's pixels to its 2x2-pooled ones.

    The plane is cut into `grid` x `grid` regions of at least 2x2 pixels; grid 1 is the whole plane.
    The scores are not divided by sqrt(d), and the block starts as the identity, as the authors' do.
    (N, width, H, W) -> (N, width, H, W).
    """

    def __init__(self, width: int, grid: int = 1):
        super().__init__()
        self.grid = grid
        self.theta, self.phi, self.g = (nn.Conv2d(width, width // 2, 1) for _ in range(3))
        self.out = nn.Conv2d(width // 2, width, 1)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, x: Tensor) -> Tensor:
        planes = self.theta(x), self.phi(x), self.g(x)  # 3 x (N, width/2, H, W)
        rows = []
        for bands in zip(*(self.cut(plane, dim=2) for plane in planes)):
            regions = zip(*(self.cut(band, dim=3) for band in bands))
            rows.append(torch.cat([self.attend(*region) for region in regions], dim=3))
        return self.out(torch.cat(rows, dim=2)) + x

    def cut(self, plane: Tensor, dim: int) -> Sequence[Tensor]:
        """The pieces that `torch.chunk` gives, the last one smaller; ONNX cannot optimize chunk."""
        size = -(-plane.shape[dim] // self.grid)
        last = plane.shape[dim] - (self.grid - 1) * size
        return plane.split([size] * (self.grid - 1) + [last], dim)

    @staticmethod
    def attend(theta: Tensor, phi: Tensor, g: Tensor) -> Tensor:
        """softmax(theta phi^T) g over one region: 3 x (N, d, h, w) -> (N, d, h, w)."""
        query, key, value = (
            # Channels innermost: otherwise PyTorch falls back to a kernel that stores all scores.
            plane.flatten(2).transpose(1, 2).unsqueeze(1).contiguous()  # (N, 1, pixels, d)
            for plane in (theta, F.max_pool2d(phi, 2), F.max_pool2d(g, 2))
        )
        attended = F.scaled_dot_product_attention(query, key, value, scale=1.0)  # (N, 1, h * w, d)
        return attended.squeeze(1).transpose(1, 2).unflatten(2, theta.shape[2:])

    @torch.no_grad()
    def attention(self, x: Tensor, row: int, column: int) -> Tensor:
        """What (row, column) of x (1, width, H, W) attends to, for grid 1: (H // 2, W // 2)."""
        if self.grid != 1:
            raise ValueError(f"attention over the whole plane needs grid 1, got grid {self.grid}")
        query = self.theta(x)[0, :, row, column]
        keys = F.max_pool2d(self.phi(x), 2)[0]  # (width/2, H // 2, W // 2)
        scores = torch.einsum("d,dhw->hw", query, keys)
        return scores.flatten().softmax(0).view_as(scores)


class DenseBlock(nn.Module):
    """The paper's dense block: four 3x3 convolutions with ReLU, each on all that came before it.

    A 1x1 fusion of all maps follows. `skip`: the block's input is added.
    (N, width, H, W) -> (N, width, H, W).
    """

    LAYERS = 4

    def __init__(self, width: int, growth: int, skip: bool = True):
        super().__init__()
        self.skip = skip
        inputs = [width + i * growth for i in range(self.LAYERS)]
        self.convs = nn.ModuleList(nn.Conv2d(n, growth, 3, padding=1) for n in inputs)
        self.fusion = nn.Conv2d(width + self.LAYERS * growth, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        maps = x
        for conv in self.convs[:-1]:
            maps = torch.cat([maps, F.relu_(conv(maps))], dim=1)  # (N, width + i * growth, H, W)
        last = F.relu_(self.convs[-1](maps))
        # The fusion of [maps, last] is the sum of its parts. So the widest concatenation is never
        # made, which saves a quarter of the memory that training takes.
        split = maps.shape[1]
        fused = F.conv2d(maps, self.fusion.weight[:, :split], self.fusion.bias)
        fused += F.conv2d(last, self.fusion.weight[:, split:])
        return fused.add_(x) if self.skip else fused


class NoiseAwareBlock(nn.Module):
    """The paper's noise-aware block: a non-local block, a dense block, and the input added."""

    def __init__(self, width: int, growth: int, grid: int):
        super().__init__()
        self.non_local = NonLocalBlock(width, grid)
        self.dense = DenseBlock(width, growth, skip=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.dense(self.non_local(x)) + x


class ContextualBlock(nn.Module):
    """The paper's contextual block: three dense blocks, then a dilated convolution with ReLU.

    (N, width, H, W) -> three such maps: first dense block, second dense block, dilated convolution.
    """

    def __init__(self, width: int):
        super().__init__()
        self.dense = nn.ModuleList(DenseBlock(width, growth=width) for _ in range(3))
        self.dilated = nn.Conv2d(width, width, 3, padding=2, dilation=2, bias=False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        first = self.dense[0](x)
        second = self.dense[1](first)
        return first, second, F.relu_(self.dilated(self.dense[2](second)))


class Fusion(nn.Conv2d):
    """A 1x1 convolution of the concatenation of `maps` x (N, width, H, W) -> (N, width, H, W)."""

    def __init__(self, width: int, maps: int):
        super().__init__(maps * width, width, 1)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        return super().forward(torch.cat(maps, dim=1))


class FusionBlock(nn.Module):
    """The paper's fusion block: a Fusion of the contextual blocks' maps, then a 3x3 convolution."""

    def __init__(self, width: int, maps: int):
        super().__init__()
        self.pointwise = Fusion(width, maps)
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        return self.conv(self.pointwise(maps))


def two_convs(channels: int, width: int, out: int) -> nn.Sequential:
    """Two 3x3 convolutions without activation: (N, channels, H, W) -> width -> (N, out, H, W)."""
    sizes = (channels, width), (width, out)
    return nn.Sequential(*(nn.Conv2d(*size, 3, padding=1) for size in sizes))


class NoiseMemory(nn.Module):
    """The paper's noise memory, stage one: an encoder-decoder that gives the noise as a mask.

    (N, channels, H, W) -> noise mask (N, channels, H, W) in (-1, 1); H and W at least 28.
    """

    GRIDS = (1, 2, 4)  # regions per side of the decoder's noise-aware blocks, deepest first

    def __init__(self, channels: int, width: int):
        super().__init__()
        growth = width // 2
        self.stem = two_convs(channels, width, width)
        self.encoder = nn.ModuleList(DenseBlock(width, growth) for _ in self.GRIDS)
        self.decoder = nn.ModuleList(NoiseAwareBlock(width, growth, grid) for grid in self.GRIDS)
        self.merges = nn.ModuleList(Fusion(width, maps) for maps in (2, 2, 3))
        self.head = two_convs(width, width, channels)

    def forward(self, x: Tensor) -> Tensor:
        features = self.stem(x)  # f0 (N, width, H, W)
        skips, indices = [], []
        for block in self.encoder:
            skips.append(features)  # f0, p1, p2
            features = block(features)
            if len(skips) == 1:
                unpooled = features  # b0, the first block's output before pooling
            features, index = F.max_pool2d(features, 2, return_indices=True)
            indices.append(index)
        for block, merge in zip(self.decoder, self.merges):
            skip = skips.pop()
            features = unpool(block(features), indices.pop(), skip)
            features = merge([skip, features] if skips else [skip, features, unpooled])
        return torch.tanh(self.head(features))


def unpool(x: Tensor, indices: Tensor, like: Tensor) -> Tensor:
    """The inverse of 2x2 max pooling: (N, C, h, w) -> the shape and memory format of `like`."""
    # Not by `max_unpool2d`, since ONNX has no unpooling to a free size.
    plane = torch.zeros_like(like.flatten(2), dtype=x.dtype)
    return plane.scatter_(2, indices.flatten(2), x.flatten(2)).view_as(like)


class ImageMemory(nn.Module):
    """The paper's image memory, stage two: contextual blocks at full size, fused into the picture.

    (N, channels, H, W) -> (N, channels, H, W).
    """

    BLOCKS = 3

    def __init__(self, channels: int, width: int):
        super().__init__()
        self.stem = two_convs(channels, width, width)
        self.contextual = nn.ModuleList(ContextualBlock(width) for _ in range(self.BLOCKS))
        self.fusion = FusionBlock(width, maps=3 * self.BLOCKS)
        self.expand = nn.Conv2d(width, 4 * width, 3, padding=1)
        self.project = nn.Conv2d(width, channels, 3, padding=1)

    def forward(self, residual: Tensor) -> Tensor:
        shallow = self.stem[0](residual)  # s (N, width, H, W)
        return self.tail(self.fusion(self.maps(self.stem[1](shallow))) + shallow)

    def maps(self, features: Tensor) -> Sequence[Tensor]:
        """The three maps of each contextual block, the third of which feeds the next block."""
        maps = []
        for block in self.contextual:
            maps += block(features)
            features = maps[-1]
        return maps

    def tail(self, features: Tensor) -> Tensor:
        """To twice the size and back: (N, width, H, W) -> (N, channels, H, W)."""
        doubled = self.project(F.pixel_shuffle(self.expand(features), 2))
        return F.interpolate(doubled, scale_factor=0.5, mode="bilinear", align_corners=False)


class SMNet(nn.Module):
    """Staged Memory Network: noise memory, whose residual feeds the image memory.

    Args:
        channels: 1 for gray, 3 for RGB.
        width: base channels, even; the authors' is 64 (4.85 million parameters).
        shuffle: 1, the authors' network, or 2: pictures are folded by pixel unshuffling, 2x2 pixels
            to four times the channels, and the results unfolded. At twice the width that is the
            same arithmetic, faster on CPUs, and the receptive field doubles.
    """

    def __init__(self, channels: int = 1, width: int = 64, shuffle: int = 1):
        super().__init__()
        if channels < 1 or width < 2 or width % 2 or shuffle < 1:
            got = f"channels {channels}, width {width}, shuffle {shuffle}"
            raise ValueError(f"channels and shuffle must be at least 1 and width even, got {got}")
        self.channels, self.width, self.shuffle = channels, width, shuffle
        self.noise_memory = NoiseMemory(channels * shuffle**2, width)
        self.image_memory = ImageMemory(channels * shuffle**2, width)

    def forward(self, x: Tensor) -> Tensor:
        """Noisy (N, channels, H, W) in about [0, 1] -> denoised, not clamped; any H, W from 1."""
        return self.stages(x)[2]

    def stages(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Look inside: (N, channels, H, W) -> (noise mask, residual, output), each of its shape.

        The noise mask is in (-1, 1); the residual is x - noise mask. Small pictures are padded and
        the results cropped (the authors' code fails on some sizes below 28 pixels).

        Raises:
            ValueError: x is not an (N, channels, H, W) tensor with at least one pixel.
        """
        if x.ndim != 4 or x.shape[1] != self.channels or 0 in x.shape:
            raise ValueError(f"expected a tensor (N, {self.channels}, H, W), got {tuple(x.shape)}")
        height, width = x.shape[-2:]
        x = self.fold(x)
        noise_mask = self.noise_memory(x)
        residual = x - noise_mask
        output = self.image_memory(residual)
        planes = (F.pixel_shuffle(t, self.shuffle) for t in (noise_mask, residual, output))
        return tuple(t[..., :height, :width] for t in planes)

    def fold(self, x: Tensor) -> Tensor:
        """(N, channels, H, W) -> (N, channels * shuffle^2, h, w), h and w at least 28.

        Padded at the bottom and right: mirrored, or the edge repeated where x is too small.
        """
        for axis in (-2, -1):
            missing = max(MIN_SIDE * self.shuffle - x.shape[axis], -x.shape[axis] % self.shuffle)
            if missing > 0:
                pad = (0, 0, 0, missing) if axis == -2 else (0, missing, 0, 0)
                x = F.pad(x, pad, mode="reflect" if missing < x.shape[axis] else "replicate")
        return F.pixel_unshuffle(x, self.shuffle)

    @torch.no_grad()
    def attention(self, x: Tensor, row: int, column: int) -> Tensor:
        """Look inside: what a pixel of x (1, channels, H, W) attends to in the whole picture.

        The deepest noise-aware block's weights (h, w), adding up to 1: one for every 16x16 pixels,
        with `shuffle` 2 for every 32x32.
        """
        block = self.noise_memory.decoder[0].non_local
        seen: list[Tensor] = []
        with block.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0])):
            self.noise_memory(self.fold(x))
        step = 8 * self.shuffle  # pixels from one place of the block's plane to the next
        bottom, right = (side - 1 for side in seen[0].shape[-2:])
        return block.attention(seen[0], min(row // step, bottom), min(column // step, right))
