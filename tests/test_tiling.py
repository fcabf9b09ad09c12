"""smnet/tiling.py: any size in bounded memory, without seams."""

import pytest
import torch
from helpers import synthetic_picture
from hypothesis import given, settings
from hypothesis import strategies as st

from models import SMNet
from smnet import tiling
from smnet.fast import fast
from smnet.tiling import OVERLAP, SMALLEST, Denoiser, cuts, ramps
from utils import SMNetError


@given(
    length=st.integers(1, 9000),
    tile=st.integers(SMALLEST // 8, 100).map(lambda eighths: 8 * eighths),
    shuffle=st.sampled_from([1, 2]),
)
@settings(max_examples=200, deadline=None)
def test_tiles_cover_everything_once(length, tile, shuffle):
    pieces = cuts(length, tile * shuffle, shuffle)
    weights = torch.zeros(length)
    for (start, stop), ramp in zip(pieces, ramps(pieces, shuffle), strict=True):
        assert 0 <= start < stop <= length and stop - start <= tile * shuffle
        weights[start:stop] += ramp
    assert (weights - 1).abs().max() < 1e-6
    assert all(a[1] - b[0] >= OVERLAP * shuffle for a, b in zip(pieces, pieces[1:]))
    assert len({b - a for a, b in pieces}) == 1
    assert all(start % (8 * shuffle) == 0 for start, _ in pieces[:-1])


def test_tiles_of_large_pictures_cost_at_most_15_percent_more():
    for width, height in ((4000, 3000), (6000, 4000), (8000, 6000)):
        total = sum(b - a for a, b in cuts(width, tiling.LARGEST)) * sum(
            b - a for a, b in cuts(height, tiling.LARGEST)
        )
        assert total <= 1.15 * width * height


@pytest.mark.slow
@given(height=st.integers(1, 300), width=st.integers(1, 300))
@settings(max_examples=15, deadline=None)
def test_any_size_in_tiles(height, width):
    torch.manual_seed(0)
    model = SMNet(1, 2)
    x = torch.rand(1, height, width)
    output = Denoiser(model, tile=SMALLEST)(x)
    assert output.shape == x.shape and output.isfinite().all()
    if max(height, width) <= SMALLEST:
        with torch.inference_mode():
            assert torch.equal(output, fast(model)(x[None])[0])


def test_amp_is_close():
    torch.manual_seed(0)
    model, x = SMNet(1, 8), torch.rand(1, 60, 68)
    ours, theirs = Denoiser(model, amp=True)(x), Denoiser(model)(x)
    assert ours.dtype == torch.float32 and 0 < (ours - theirs).abs().mean() < 0.01
    assert len(ours.unique()) > 0.9 * ours.numel()  # in bf16 there would be some hundred


def test_self_ensemble_turns_and_mirrors_with_the_picture():
    torch.manual_seed(0)
    model, x = SMNet(1, 8), torch.rand(1, 40, 52)
    denoiser, single = Denoiser(model, self_ensemble=True), Denoiser(model)
    for move in (lambda t: torch.rot90(t, 1, dims=(1, 2)), lambda t: t.flip(2)):
        torch.testing.assert_close(denoiser(move(x)), move(denoiser(x)), rtol=0, atol=1e-5)
        assert (single(move(x)) - move(single(x))).abs().max() > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("shuffle, tile", [(1, 136), (2, 272)])
def test_tiles_are_seamless(shuffle, tile):
    """A network with small weights sees far too little to notice the tiles; what it gives must not
    show them either."""
    torch.manual_seed(3)
    model = SMNet(1, 4, shuffle).eval()
    height, width = 300 * shuffle, 420 * shuffle
    picture = torch.from_numpy(synthetic_picture(5, height, width)[:, :, 0].copy())[None] / 255
    noisy = picture + 0.1 * torch.randn(1, height, width)
    whole, tiled = Denoiser(model, tile=0)(noisy), Denoiser(model, tile=tile)(noisy)
    difference = (tiled - whole)[0]
    assert difference.square().mean() < 1e-4 * (whole - noisy).square().mean()
    for axis, length in ((0, height), (1, width)):
        steps = difference.diff(dim=axis).square().mean(dim=1 - axis).sqrt()
        pieces = cuts(length, tile, shuffle)
        borders = [edge - 1 for piece in pieces for edge in piece if 0 < edge < length]
        own = whole[0].diff(dim=axis).square().mean().sqrt()
        assert steps[borders].max() < 0.05 * own


class Small(torch.nn.Module):
    """A device on which not more than `room` pixels fit."""

    def __init__(self, room: int):
        super().__init__()
        self.room, self.width, self.channels, self.shuffle = room, 4, 1, 1
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.asked: list[int] = []

    def forward(self, x):
        self.asked.append(max(x.shape[-2:]))
        if x.shape[-1] * x.shape[-2] > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return x * 1


def test_running_out_of_memory_halves_the_tiles_and_goes_on():
    model, x = Small(room=200 * 200), torch.rand(1, 500, 700)
    denoiser = Denoiser(model, tile=512)
    assert torch.allclose(denoiser(x), x, atol=1e-6)
    assert max(model.asked[2:]) < 512 and denoiser.limit < 200 < denoiser.limit * 2
    model.asked.clear()
    denoiser(x)
    assert max(model.asked) <= 200  # it has learned
    with pytest.raises(SMNetError, match="not enough memory on cpu for [0-9]+x[0-9]+ pixels$"):
        Denoiser(Small(room=10), tile=512)(x)


def test_memory_decides():
    model = SMNet(1, 16)
    needed = tiling.memory_needed(model, 1000 * 1000)
    assert len(Denoiser(model, memory=needed + 0.01).tiles(1000, 1000)) == 1
    assert len(Denoiser(model, memory=needed - 0.01).tiles(1000, 1000)) > 1
    assert len(Denoiser(model).tiles(600, 600)) == 1
    folded = SMNet(1, 16, shuffle=2)
    assert tiling.memory_needed(folded, 2000 * 2000) == pytest.approx(needed)
    assert len(Denoiser(folded).tiles(1200, 1200)) == 1
    rows = [tile[0] for tile in Denoiser(folded, tile=SMALLEST).tiles(400, 250)]
    assert rows == [(0, 240), (160, 400)]  # of at most 256 pixels, the least that it can have
    with pytest.raises(SMNetError, match="too little"):
        Denoiser(model, memory=0.01).tiles(500, 500)
