"""Any size in bounded memory: a picture denoised in overlapping tiles that are blended, or whole
where that fits."""

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from models import SMNet
from smnet.devices import autocast, cuda_kernels, empty_cache, free_memory, is_out_of_memory
from smnet.fast import for_inference
from utils import SMNetError

# All sides are for `shuffle` 1; they are multiplied by the `shuffle` of other networks.
OVERLAP = 40  # pixels that neighbouring tiles share
MARGIN = 8  # of those, the outermost of each tile are not used: they feel its edge most
# Tiles but the last begin at multiples of this, where three 2x2 poolings fall as in the picture.
STEP = 8
SMALLEST = 128  # side of the smallest tile, pixels
# Side of the largest tile, pixels: larger ones are slower a pixel, and smaller ones overlap more.
LARGEST = 640
# Maps of `width` channels, float32, that a forward takes the memory of, measured on a CPU and
# rounded up; elsewhere, where the plain network runs, 20.3 in tensors and the rest for workspaces.
MAPS_HELD, PLAIN_MAPS_HELD = 12, 24


def memory_needed(model: SMNet, pixels: int) -> float:
    """GB that a forward of one picture takes, about."""
    maps = MAPS_HELD if next(model.parameters()).device.type == "cpu" else PLAIN_MAPS_HELD
    return 0.1 + pixels / model.shuffle**2 * model.width * maps * 4 / 1e9


def choose_tile(model: SMNet, memory: float) -> int:
    """The side of the largest tiles that stay within `memory` GB.

    Raises:
        SMNetError: not even the smallest do.
    """
    least_side = SMALLEST * model.shuffle
    for side in range(LARGEST * model.shuffle, least_side - 1, -STEP * model.shuffle):
        if memory_needed(model, side * side) <= memory:
            return side
    least = math.ceil(100 * memory_needed(model, least_side**2)) / 100
    raise SMNetError(
        f"{memory:.2f} GB of memory are too little: tiles of {least_side} pixels need "
        f"{least:.2f}; give --memory or --tile"
    )


def cuts(length: int, tile: int, scale: int = 1) -> list[tuple[int, int]]:
    """The pieces [start, stop) of one axis: few, of one size up to `tile` (a multiple of 8), at
    least OVERLAP shared.

    `scale`: the network's `shuffle`, by which all but the length is multiplied.
    """
    if length <= tile:
        return [(0, length)]
    overlap, multiple = OVERLAP * scale, STEP * scale
    count = math.ceil((length - overlap) / (tile - overlap))
    step = math.ceil((length - overlap) / count / multiple) * multiple
    size = min(step + overlap, length)
    pieces = [(0, size)]
    while pieces[-1][1] < length:
        start = min(len(pieces) * step, length - size)
        pieces.append((start, start + size))
    return pieces


def ramps(pieces: list[tuple[int, int]], scale: int = 1) -> list[Tensor]:
    """A weight (stop - start,) for each piece; where pieces overlap they add up to 1, and change
    smoothly."""
    weights = [torch.ones(stop - start) for start, stop in pieces]
    overlap, margin = OVERLAP * scale, MARGIN * scale
    place = ((torch.arange(overlap) + 0.5 - margin) / (overlap - 2 * margin)).clamp(0, 1)
    up = place * place * (3 - 2 * place)
    for i in range(len(pieces) - 1):
        shared = pieces[i][1] - pieces[i + 1][0]
        weights[i][-overlap:] *= 1 - up
        weights[i + 1][: shared - overlap] = 0
        weights[i + 1][shared - overlap : shared] *= up
    return weights


Tile = tuple[tuple[int, int], Tensor, tuple[int, int], Tensor]  # rows, weights, columns, weights


def possible_side(side: int, scale: int = 1) -> int:
    """`side` rounded down to one that tiles can have, at least that of the smallest."""
    step = STEP * scale
    return max(side // step * step, SMALLEST * scale)


def tile_grid(height: int, width: int, side: int, scale: int = 1) -> list[Tile]:
    """The tiles of a picture, of sides up to `side`, which `possible_side` gave, or one tile where
    neither side of the picture is longer."""
    pieces = (cuts(length, side, scale) for length in (height, width))
    rows, columns = ([*zip(axis, ramps(axis, scale))] for axis in pieces)
    return [(*row, *column) for row in rows for column in columns]


def in_tiles(
    picture: Tensor,
    tiles: list[Tile],
    forward: Callable[[Tensor], Tensor],
    on_tile: Callable[[], object] | None = None,
) -> Tensor:
    """A picture (C, H, W) -> what `forward` makes of its tiles, (D, H, W), blended.

    `on_tile()` is called after every tile, if there are several.
    """
    if len(tiles) == 1:
        return forward(picture)
    output = None
    for (top, bottom), rows, (left, right), columns in tiles:
        piece = forward(picture[:, top:bottom, left:right])
        if output is None:
            output = piece.new_zeros(len(piece), *picture.shape[1:])
        output[:, top:bottom, left:right] += piece * (rows[:, None] * columns)
        if on_tile:
            on_tile()
    return output


def other_orientations(network: Callable[[Tensor], Tensor], x: Tensor) -> Iterator[Tensor]:
    """What `network` makes of the seven other orientations of x (N, C, H, W), each turned back.

    With the result for x itself, their mean is the geometric self-ensemble (Lim et al., EDSR,
    2017).
    """
    for k in range(1, 8):
        turned = torch.rot90(x, k % 4, dims=(2, 3))
        result = network(turned.flip(3)).flip(3) if k >= 4 else network(turned)
        yield torch.rot90(result, -(k % 4), dims=(2, 3))


class Denoiser:
    """A network that denoises pictures of any size, in tiles where they are large.

    Args:
        model: the network; its own device is used.
        memory: GB that a forward may take: what fits is denoised whole. None: half of what is free,
            and tiles for all that is larger than one, since they are faster then.
        tile: side of the tiles, pixels; None: by the memory, 0: no tiles.
        amp: whether the network computes in bf16 or fp16.
        self_ensemble: whether to average the results for all eight orientations of a tile.
    """

    def __init__(
        self,
        model: SMNet,
        *,
        memory: float | None = None,
        tile: int | None = None,
        amp: bool = False,
        self_ensemble: bool = False,
    ):
        self.model, self.memory, self.tile = for_inference(model.eval(), amp=amp), memory, tile
        self.amp, self.self_ensemble = amp, self_ensemble
        self.smallest = possible_side(0, model.shuffle)
        self.device = next(model.parameters()).device
        self.limit: float = math.inf  # side of the tiles that have not run out of memory

    def side(self, height: int, width: int) -> int:
        """Of the tiles for a picture; at least its longer side: it is denoised whole."""
        whole = max(height, width)
        if self.tile is not None:
            side = self.tile or whole
        elif self.memory and memory_needed(self.model, height * width) <= self.memory:
            side = whole
        else:
            side = choose_tile(self.model, self.memory or free_memory(self.device) / 2)
        side = int(min(side, self.limit))
        return whole if side >= whole else possible_side(side, self.model.shuffle)

    def tiles(self, height: int, width: int) -> list[Tile]:
        """The tiles of a picture."""
        return tile_grid(height, width, self.side(height, width), self.model.shuffle)

    @torch.inference_mode()
    def __call__(self, picture: Tensor, on_tile: Callable[[], object] | None = None) -> Tensor:
        """Noisy (C, H, W) in [0, 1], on the CPU -> denoised (C, H, W) there, not clamped.

        `on_tile()` is called after every tile. Where the device runs out of memory the tiles are
        halved.

        Raises:
            SMNetError: tiles of the smallest size do not fit into memory.
        """
        return in_tiles(picture, self.tiles(*picture.shape[-2:]), self.one, on_tile)

    def one(self, piece: Tensor) -> Tensor:
        """One forward, or, where it runs out of memory, several of tiles half the size."""
        height, width = piece.shape[-2:]
        if max(height, width) <= self.limit:
            try:
                exact = cuda_kernels(tf32=False, benchmark=False)
                with exact, autocast(self.device, enabled=self.amp):
                    x = piece[None].to(self.device)
                    output = self.model(x).float()
                    if self.self_ensemble:
                        output = (output + sum(other_orientations(self.model, x))) / 8
                    return output[0].cpu()
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
            if max(height, width) <= self.smallest:
                advice = "" if self.device.type == "cpu" else "; try --device cpu"
                raise SMNetError(
                    f"not enough memory on {self.device} for {width}x{height} pixels{advice}"
                )
            self.limit = possible_side(max(height, width) // 2, self.model.shuffle)
            empty_cache(self.device)
        return self(piece)
