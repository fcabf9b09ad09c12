"""The h5 files: patches cover every picture, and pictures are shrunk exactly."""

import numpy as np
import pytest
from helpers import synthetic_planes

from smnet.patches import cut_patches, shrink_by


@pytest.mark.parametrize("height, width, stride", [(48, 48, 48), (50, 131, 48), (97, 96, 20)])
def test_patches_cover_the_whole_picture(height, width, stride):
    picture = np.arange(height * width).reshape(1, height, width)
    pieces = list(cut_patches(picture, patch_size=48, stride=stride))
    assert {piece.shape for piece in pieces} == {(1, 48, 48)}
    assert set(np.concatenate([piece.ravel() for piece in pieces])) == set(range(height * width))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("factor, height, width", [(2, 40, 60), (3, 41, 62), (5, 44, 49)])
def test_shrinking_averages_squares(channels, factor, height, width):
    picture = synthetic_planes(0, height, width, channels)
    h, w = height // factor, width // factor
    squares = picture[:, : h * factor, : w * factor].reshape(channels, h, factor, w, factor)
    expected = squares.mean(axis=(2, 4))
    shrunk = shrink_by(picture, factor)
    assert shrunk.dtype == np.uint8 and shrunk.shape == (channels, h, w)
    assert np.abs(shrunk - expected).max() <= 0.5 + 1e-6
