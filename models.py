"""SMNet, the Staged Memory Network for image denoising (Yu, Liang, Li, Xiao, ACM Multimedia 2020).

    x (noisy) -> NoiseMemory -> noise mask m -> residual x - m -> ImageMemory -> y (denoised)

Blocks stand leaf to root: NonLocalBlock, DenseBlock, NoiseAwareBlock, ContextualBlock, FusionBlock, NoiseMemory,
ImageMemory, SMNet. Tensors are (N, C, H, W) float32 with pictures in [0, 1]. The layers are those of the authors' released
code and weights, which differ from the paper's drawing: three dense blocks per contextual block, not two, and no ReLU
on the stems.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

MIN_SIDE = 28  # pixels; below this some region of the 4 x 4 grid is too small to be pooled
STRIP_BYTES, STRIP_ROWS = 5 * 2**19, 96  # of a dense block's input computed at a time on CPU, about; and at least
PIECE_BYTES = 2**23  # of a map added to others at a time on CPU, about


class NonLocalBlock(nn.Module):
    """Embedded-Gaussian attention (Wang et al. 2018) of every place over the 2x2-pooled places of its region.

    The plane is cut along H, then W, into `grid` pieces as `torch.chunk` cuts, and attention runs within each piece; grid
    1 is the whole plane. The 1x1 convolutions are pointwise, so they run once over the whole plane. The scores are not
    divided by sqrt(d), and the block starts as the identity (the output convolution starts at zero), as the authors' do.

    (N, width, H, W) -> (N, width, H, W); every region needs at least 2x2 places.
    """

    def __init__(self, width: int, grid: int = 1):
        super().__init__()
        self.grid = grid
        self.theta = nn.Conv2d(width, width // 2, 1)
        self.phi = nn.Conv2d(width, width // 2, 1)
        self.g = nn.Conv2d(width, width // 2, 1)
        self.out = nn.Conv2d(width // 2, width, 1)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, x: Tensor) -> Tensor:
        planes = self.theta(x), self.phi(x), self.g(x)  # 3 x (N, width/2, H, W)
        if x.shape[2] % self.grid == 0 and x.shape[3] % self.grid == 0:
            attended = self.attend_equal_regions(*planes)
        else:
            attended = self.attend_regions(*planes)
        return self.out(attended) + x

    def attend_regions(self, *planes: Tensor) -> Tensor:
        """Region by region: 3 x (N, d, H, W) -> (N, d, H, W)."""
        rows = []
        for band in zip(*(plane.chunk(self.grid, dim=2) for plane in planes)):
            regions = zip(*(plane.chunk(self.grid, dim=3) for plane in band))
            rows.append(torch.cat([self.attend(*region) for region in regions], dim=3))
        return torch.cat(rows, dim=2)

    def attend_equal_regions(self, *planes: Tensor) -> Tensor:
        """The same where all regions are of one size, as a batch of them."""
        grid = self.grid
        batches = []
        for plane in planes:
            cut = plane.unflatten(3, (grid, -1)).unflatten(2, (grid, -1))  # (N, d, grid, H / grid, grid, W / grid)
            batches.append(cut.permute(0, 2, 4, 1, 3, 5).flatten(0, 2))  # (N * grid * grid, d, H / grid, W / grid)
        attended = self.attend(*batches).unflatten(0, (-1, grid, grid))
        return attended.permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3)

    @torch.no_grad()
    def attention(self, x: Tensor, row: int, column: int) -> Tensor:
        """What the place (row, column) attends to, for grid 1: (1, width, H, W) -> weights (H // 2, W // 2), adding up to 1."""
        if self.grid != 1:
            raise ValueError(f"attention over the whole plane is asked for, this block has grid {self.grid}")
        query = self.theta(x)[0, :, row, column]
        keys = F.max_pool2d(self.phi(x), 2)[0]  # (width/2, H // 2, W // 2)
        return torch.einsum("d,dhw->hw", query, keys).flatten().softmax(0).view(keys.shape[1:])

    @staticmethod
    def attend(theta: Tensor, phi: Tensor, g: Tensor) -> Tensor:
        """softmax(theta phi^T) g over one region: 3 x (N, d, h, w) -> (N, d, h, w)."""
        n, d, h, w = theta.shape
        query, key, value = (
            # Laid out with the channels innermost: otherwise PyTorch falls back to a kernel that stores all scores.
            plane.flatten(2).transpose(1, 2).unsqueeze(1).contiguous()  # (N, 1, places, d)
            for plane in (theta, F.max_pool2d(phi, 2), F.max_pool2d(g, 2))
        )
        if not torch.is_grad_enabled() and theta.device.type == "cpu" and not torch.compiler.is_exporting():
            pad = (0, -d % 16)  # zeros, for whole registers: products with fewer columns are slower
            query, key, value = (F.pad(x, pad) for x in (query, key, value))
        attended = F.scaled_dot_product_attention(query, key, value, scale=1.0)[..., :d]  # (N, 1, h * w, d)
        return attended.squeeze(1).transpose(1, 2).unflatten(2, (h, w))


def strip_rows(x: Tensor, size: int) -> int:
    """Rows of (N, C, H, W) to compute at a time without gradients: on CPU large maps are cut, into about `size` bytes each."""
    height = x.shape[2]
    if x.device.type != "cpu" or torch.compiler.is_compiling():
        return height
    strips = min(round(x.numel() * x.element_size() / size), height // STRIP_ROWS)
    return -(-height // max(1, strips))


class FusingConv2d(nn.Conv2d):
    """A 1x1 convolution of the concatenation of `maps` x (N, width, H, W) -> (N, width, H, W).

    Without gradients they are added up as they come, so that none of them need be kept.
    """

    def __init__(self, width: int, maps: int):
        super().__init__(maps * width, width, 1)

    def forward(self, maps: Iterable[Tensor]) -> Tensor:
        if torch.is_grad_enabled():
            return super().forward(torch.cat(list(maps), dim=1))
        kernels = iter(self.weight.split(self.out_channels, dim=1))
        maps = iter(maps)
        total = F.conv2d(next(maps), next(kernels), self.bias)
        rows = strip_rows(total, PIECE_BYTES)
        for new, kernel in zip(maps, kernels):
            for piece, target in zip(new.split(rows, dim=2), total.split(rows, dim=2)):
                target.add_(F.conv2d(piece, kernel))
        return total


def trim(x: Tensor, above: int, below: int) -> Tensor:
    """(N, C, H, W) without its first `above` and last `below` rows."""
    return x[:, :, above : x.shape[2] - below]


class Group(NamedTuple):
    """Convolutions of a dense block that are computed at once, as one with all their channels."""

    first: int  # the first one's number in the block
    bias: Tensor  # (channels)
    before: list[Tensor]  # kernels (channels, C, 3, 3) for the block's input and for the maps of each group before
    within: list[Tensor]  # kernels (rest of the channels, growth, 3, 3) for the maps of each of the group but the last
    fusion: Tensor  # kernel (width, channels, 1, 1) from the group's maps to the block's result


class DenseBlock(nn.Module):
    """The paper's dense block: four 3x3 convolutions with ReLU, each on all that came before, then a 1x1 fusion.

    The block's input is added at the end unless `skip` is False.

    (N, width, H, W) -> (N, width, H, W).
    """

    LAYERS = 4

    def __init__(self, width: int, growth: int, skip: bool = True):
        super().__init__()
        self.skip = skip
        self.convs = nn.ModuleList(nn.Conv2d(width + i * growth, growth, 3, padding=1) for i in range(self.LAYERS))
        self.fusion = nn.Conv2d(width + self.LAYERS * growth, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        if not torch.is_grad_enabled() and not torch.compiler.is_exporting():  # sums in place make for clumsy ONNX
            return self.by_strips(x)
        fused = self.by_concatenation(x)
        return fused.add_(x) if self.skip else fused

    def by_strips(self, x: Tensor) -> Tensor:
        """All of it without gradients, large maps strip by strip: what is in between stays small, and in the CPU's cache."""
        kernel = self.fusion.weight[:, : x.shape[1]]
        if self.skip:
            kernel = kernel + torch.eye(len(kernel), dtype=kernel.dtype, device=kernel.device)[:, :, None, None]
        result = F.conv2d(x, kernel, self.fusion.bias)
        groups = self.groups()
        height, rows = x.shape[2], strip_rows(x, STRIP_BYTES)
        for top in range(0, height, rows):
            bottom = min(top + rows, height)
            above, below = min(top, self.LAYERS), min(height - bottom, self.LAYERS)
            self.add_groups(x[:, :, top - above : bottom + below], groups, above, below, result[:, :, top:bottom])
        return result

    def by_concatenation(self, x: Tensor) -> Tensor:
        """The fused maps, before the skip."""
        maps = x
        for conv in self.convs[:-1]:
            maps = torch.cat([maps, F.relu_(conv(maps))], dim=1)  # (N, width + i * growth, H, W)
        last = F.relu_(self.convs[-1](maps))
        # The fusion of [maps, last] is the sum of its parts, so the widest concatenation need not be made.
        split = maps.shape[1]
        fused = F.conv2d(maps, self.fusion.weight[:, :split], self.fusion.bias)
        fused += F.conv2d(last, self.fusion.weight[:, split:])
        return fused

    def groups(self) -> list[Group]:
        """The convolutions as `add_groups` takes them. Those of few channels are slow, so they go in groups of 32 channels."""
        width, growth = self.fusion.out_channels, self.convs[0].out_channels
        size = max(1, 32 // growth)
        groups = []
        for first in range(0, self.LAYERS, size):
            convs = self.convs[first : first + size]
            common = width + first * growth  # channels that are there before the group
            kernel = torch.cat([conv.weight[:, :common] for conv in convs])
            before = kernel.split([width] + [size * growth] * (first // size), dim=1)
            within = []
            for i in range(1, len(convs)):
                start = common + (i - 1) * growth
                within.append(torch.cat([conv.weight[:, start : start + growth] for conv in convs[i:]]))
            bias = torch.cat([conv.bias for conv in convs])
            fusion = self.fusion.weight[:, common : common + len(bias)]
            groups.append(Group(first, bias, list(before), within, fusion))
        return groups

    def add_groups(self, x: Tensor, groups: list[Group], above: int, below: int, result: Tensor) -> None:
        """Add the new maps' share of the fusion to `result`, without gradients and concatenations: each is convolved by itself.

        The first `above` and last `below` rows of `x` are there for the others' sake only, and not in the result. They are
        dropped as they become false, a row with every convolution.
        """
        maps = [x]  # and those of each group
        for group in groups:
            true = self.LAYERS - group.first  # rows beyond the result that still count
            drop = max(0, above - true), max(0, below - true)
            maps = [trim(before, *drop) for before in maps]
            above, below = above - drop[0], below - drop[1]
            new = F.conv2d(maps[0], group.before[0], group.bias, padding=1)
            for before, kernel in zip(maps[1:], group.before[1:]):
                new.add_(F.conv2d(before, kernel, padding=1))
            rest = new
            for kernel in group.within:
                one, rest = rest.split([kernel.shape[1], len(kernel)], dim=1)
                rest.add_(F.conv2d(F.relu(one), kernel, padding=1))
            maps.append(F.relu_(new))
            result.add_(F.conv2d(trim(new, above, below), group.fusion))


class NoiseAwareBlock(nn.Module):
    """The paper's noise-aware block: a non-local block, then a dense block; the block's input is added at the end.

    (N, width, H, W) -> (N, width, H, W).
    """

    def __init__(self, width: int, growth: int, grid: int):
        super().__init__()
        self.non_local = NonLocalBlock(width, grid)
        self.dense = DenseBlock(width, growth, skip=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.dense(self.non_local(x)) + x


class ContextualBlock(nn.Module):
    """The paper's contextual block: three dense blocks in a row, then a dilated convolution with ReLU.

    (N, width, H, W) -> three maps (N, width, H, W), as they come: first dense block, second dense block, dilated convolution.
    """

    def __init__(self, width: int):
        super().__init__()
        self.dense = nn.ModuleList(DenseBlock(width, growth=width) for _ in range(3))
        self.dilated = nn.Conv2d(width, width, 3, padding=2, dilation=2, bias=False)

    def forward(self, x: Tensor) -> Iterator[Tensor]:
        for dense in self.dense[:-1]:
            x = dense(x)
            yield x
        yield F.relu_(self.dilated(self.dense[-1](x)))


class FusionBlock(nn.Module):
    """The paper's fusion of the contextual blocks' maps into one: 1x1, then 3x3 convolution.

    `maps` x (N, width, H, W) -> (N, width, H, W).
    """

    def __init__(self, width: int, maps: int):
        super().__init__()
        self.pointwise = FusingConv2d(width, maps)
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, maps: Iterable[Tensor]) -> Tensor:
        return self.conv(self.pointwise(maps))


class NoiseMemory(nn.Module):
    """The paper's noise memory, stage one: an encoder-decoder that remembers the noise and gives it as a mask.

    (N, channels, H, W) -> noise mask (N, channels, H, W) in (-1, 1); H and W at least 28.
    """

    GRIDS = (1, 2, 4)  # regions per side of the decoder's noise-aware blocks, deepest first

    def __init__(self, channels: int, width: int):
        super().__init__()
        growth = width // 2
        self.stem = nn.Sequential(nn.Conv2d(channels, width, 3, padding=1), nn.Conv2d(width, width, 3, padding=1))
        self.encoder = nn.ModuleList(DenseBlock(width, growth) for _ in self.GRIDS)
        self.decoder = nn.ModuleList(NoiseAwareBlock(width, growth, grid) for grid in self.GRIDS)
        self.merges = nn.ModuleList(FusingConv2d(width, maps) for maps in (2, 2, 3))
        self.head = nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.Conv2d(width, channels, 3, padding=1))

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
        return torch.tanh(self.tail(features))

    def tail(self, features: Tensor) -> Tensor:
        """The head's two convolutions: (N, width, H, W) -> (N, channels, H, W)."""
        first, second = self.head
        return convolve_twice(features, first, second.weight, second.bias)


def unpool(x: Tensor, indices: Tensor, like: Tensor) -> Tensor:
    """The inverse of 2x2 max pooling: every value back to its place in (N, C, H, W) of the size of `like`, zero elsewhere."""
    if torch.compiler.is_exporting():  # ONNX has no word for unpooling with a free size
        plane = torch.zeros_like(like).flatten(2)
        return plane.scatter(2, indices.flatten(2), x.flatten(2)).view_as(like)
    return F.max_unpool2d(x, indices, 2, output_size=like.shape[-2:])


class ImageMemory(nn.Module):
    """The paper's image memory, stage two: contextual blocks whose maps are fused into the picture, at full size throughout.

    (N, channels, H, W) -> (N, channels, H, W).
    """

    BLOCKS = 3

    def __init__(self, channels: int, width: int):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(channels, width, 3, padding=1), nn.Conv2d(width, width, 3, padding=1))
        self.contextual = nn.ModuleList(ContextualBlock(width) for _ in range(self.BLOCKS))
        self.fusion = FusionBlock(width, maps=3 * self.BLOCKS)
        self.expand = nn.Conv2d(width, 4 * width, 3, padding=1)
        self.project = nn.Conv2d(width, channels, 3, padding=1)

    def forward(self, residual: Tensor) -> Tensor:
        shallow = self.stem[0](residual)  # s (N, width, H, W)
        return self.tail(self.fusion(self.maps(self.stem[1](shallow))) + shallow)

    def maps(self, features: Tensor) -> Iterator[Tensor]:
        """The three maps of each contextual block, as they come."""
        for block in self.contextual:
            maps = block(features)
            for features in maps:  # the block's input is not kept meanwhile
                yield features

    def tail(self, features: Tensor) -> Tensor:
        """(N, width, H, W) -> (N, channels, H, W).

        The authors shuffle the four-fold width to twice the size, convolve there and shrink bilinearly by half, which is 2x2
        averaging. That is one strided convolution of the shuffled plane, and so, exactly and borders included, one 3x3
        convolution of the plane before the shuffle, with the averaged kernel shuffled back.
        """
        kernel = F.avg_pool2d(F.pad(self.project.weight, (2, 2, 2, 2)), 2, stride=1)  # (channels, width, 6, 6)
        kernel = F.pixel_unshuffle(kernel, 2)  # (channels, 4 * width, 3, 3)
        return convolve_twice(features, self.expand, kernel, self.project.bias)


def convolve_twice(x: Tensor, first: nn.Conv2d, kernel: Tensor, bias: Tensor) -> Tensor:
    """Two 3x3 convolutions with nothing between them, the second to few channels: (N, C, H, W) -> (N, channels, H, W).

    Without gradients, where there would be more than nine maps a channel in between, they are not made: `first` is multiplied
    with each of the second kernel's nine places, and the nine results are shifted and added, by a convolution with ones;
    which is the same at the borders, too.
    """
    channels = len(kernel)
    if torch.is_grad_enabled() or first.out_channels <= 9 * channels:
        return F.conv2d(first(x), kernel, bias, padding=1)
    places = kernel.flatten(2).transpose(1, 2).flatten(0, 1)  # (channels * 9, middle)
    weight = (places @ first.weight.flatten(1)).unflatten(1, first.weight.shape[1:])
    parts = F.conv2d(x, weight, places @ first.bias, padding=1)  # (N, channels * 9, H, W)
    like = {"dtype": parts.dtype, "device": parts.device}
    shifts = torch.eye(9, **like).flatten()[None]  # the place of each of a channel's nine parts
    shifts = torch.kron(torch.eye(channels, **like), shifts).view(channels, channels * 9, 3, 3)
    return F.conv2d(parts, shifts, bias, padding=1)


class SMNet(nn.Module):
    """Staged Memory Network: noise memory, whose residual feeds the image memory.

    Args:
        channels: 1 for gray, 3 for RGB.
        width: base channels, an even number; the authors' is 64 (4,853,282 parameters gray, 4,857,894 RGB).
        shuffle: 1, the authors' network, or 2: the picture is folded first by pixel unshuffling, 2x2 pixels to four times
            the channels, and the results are unfolded. At twice the width that is the same arithmetic on a quarter of the
            places, which CPUs do faster, and the network sees twice as far.
    """

    def __init__(self, channels: int = 1, width: int = 64, shuffle: int = 1):
        super().__init__()
        if shuffle < 1:
            raise ValueError(f"shuffle must be at least 1, got {shuffle}")
        if channels < 1 or width < 2 or width % 2:
            raise ValueError(f"channels must be at least 1 and width even, got channels {channels}, width {width}")
        self.channels = channels
        self.width = width
        self.shuffle = shuffle
        self.noise_memory = NoiseMemory(channels * shuffle**2, width)
        self.image_memory = ImageMemory(channels * shuffle**2, width)

    def forward(self, x: Tensor) -> Tensor:
        """Noisy (N, channels, H, W) in about [0, 1] -> denoised (N, channels, H, W), not clamped; any H, W from 1."""
        return self.stages(x)[2]

    def stages(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Look inside: noisy picture (N, channels, H, W) -> (noise mask, residual, output), each of its shape.

        The noise mask is in (-1, 1); the residual is x - noise mask. Sides below 28 pixels are padded to 28 and the results
        cropped (the authors' code fails on some of those sizes).

        Raises:
            ValueError: x is no (N, channels, H, W) tensor with at least one pixel.
        """
        if x.ndim != 4 or x.shape[1] != self.channels or 0 in x.shape:
            raise ValueError(f"expected a tensor (N, {self.channels}, H, W), got {tuple(x.shape)}")
        height, width = x.shape[-2:]
        x = F.pixel_unshuffle(self.pad(x), self.shuffle)
        noise_mask = self.noise_memory(x)
        residual = x - noise_mask
        output = self.image_memory(residual)
        planes = (F.pixel_shuffle(t, self.shuffle) for t in (noise_mask, residual, output))
        return tuple(t[..., :height, :width] for t in planes)

    def pad(self, x: Tensor) -> Tensor:
        """(N, channels, H, W) -> sides of at least 28 x shuffle pixels and multiples of `shuffle`.

        Mirrored at the bottom and right, or the edge repeated where x is too small to mirror.
        """
        for axis in (-2, -1):
            missing = max(MIN_SIDE * self.shuffle - x.shape[axis], -x.shape[axis] % self.shuffle)
            if missing > 0:
                pad = (0, 0, 0, missing) if axis == -2 else (0, missing, 0, 0)
                x = F.pad(x, pad, mode="reflect" if missing < x.shape[axis] else "replicate")
        return x

    @torch.no_grad()
    def attention(self, x: Tensor, row: int, column: int) -> Tensor:
        """Look inside: what a pixel attends to in the deepest noise-aware block, which sees the whole picture.

        Args:
            x: noisy picture (1, channels, H, W).
            row, column: the pixel.

        Returns:
            (h, w), adding up to 1: a weight for every 16x16 pixels (every second of the 8 times smaller plane's places),
            with `shuffle` 2 for every 32x32.
        """
        block = self.noise_memory.decoder[0].non_local
        seen: list[Tensor] = []
        hook = block.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        try:
            self.noise_memory(F.pixel_unshuffle(self.pad(x), self.shuffle))
        finally:
            hook.remove()
        height, width = seen[0].shape[-2:]
        scale = 8 * self.shuffle
        return block.attention(seen[0], min(row // scale, height - 1), min(column // scale, width - 1))
