"""Test noise to the bit, PSNR and SSIM against plain formulas, and the baselines."""

import math

import numpy as np
import pytest
import torch
from helpers import synthetic_planes
from scipy.ndimage import gaussian_filter

from smnet import evaluation, metrics
from smnet.images import to_float
from smnet.metrics import add_test_noise, psnr, ssim


def test_the_noise_is_the_authors():
    gray = add_test_noise(torch.zeros(1, 5, 4), sigma=25, **evaluation.TEST_NOISE[1])
    torch.manual_seed(0)
    assert torch.equal(gray, 25 / 255 * torch.randn(1, 1, 5, 4))
    rgb = add_test_noise(torch.zeros(3, 5, 4), sigma=50, **evaluation.TEST_NOISE[3])
    torch.manual_seed(12)
    assert torch.equal(rgb, 50 / 255 * torch.randn(3, 3, 5, 4))
    # The bits themselves, should a library ever change its generator:
    np.testing.assert_allclose(
        gray.flatten()[:3] * 255 / 25, [-1.1258, -1.1524, -0.2506], atol=1e-4
    )


def test_psnr_and_ssim_against_the_formulas():
    torch.manual_seed(0)
    clean = to_float(synthetic_planes(0, 32, 40, 3))
    other = (clean + 0.1 * torch.randn(clean.shape)).clamp(0, 1)
    assert psnr(clean, other) == pytest.approx(
        10 * math.log10(1 / np.mean((clean.numpy() - other.numpy()) ** 2)), abs=1e-4
    )
    assert psnr(clean, clean) == math.inf

    def blur(plane):
        return gaussian_filter(plane.astype(np.float64), 1.5, truncate=3.5)

    values = []
    for x, y in zip(clean.numpy(), other.numpy()):
        mx, my = blur(x), blur(y)
        vx, vy, cov = (
            blur(x * x.astype(float)) - mx**2,
            blur(y * y.astype(float)) - my**2,
            blur(x * y.astype(float)) - mx * my,
        )
        plane = ((2 * mx * my + 1e-4) * (2 * cov + 9e-4)) / (
            (mx**2 + my**2 + 1e-4) * (vx + vy + 9e-4)
        )
        values.append(plane[5:-5, 5:-5].mean())
    assert ssim(clean, other) == pytest.approx(np.mean(values), abs=1e-4)
    assert math.isnan(ssim(clean[:, :10], other[:, :10]))
    with pytest.raises(ValueError, match="shapes differ"):
        psnr(clean, clean[:1])


def test_baselines_denoise():
    clean = to_float(synthetic_planes(0, 64, 64))
    for picture in (clean, clean.expand(3, -1, -1)):
        noisy = add_test_noise(picture, sigma=25, seed=0, draws=1)[0]
        results = metrics.baselines(picture, noisy, 25)
        assert list(results) == ["blur", "NL-means"]
        assert all(psnr(picture, result) > psnr(picture, noisy) + 3 for result in results.values())
