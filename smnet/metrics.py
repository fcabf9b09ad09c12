"""Test noise, PSNR, SSIM, and what a denoiser has to beat: a Gaussian blur and NL-means."""

import math

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from skimage.metrics import structural_similarity
from skimage.restoration import denoise_nl_means, estimate_sigma
from torch import Tensor


def add_test_noise(clean: Tensor, *, sigma: float, seed: int, draws: int) -> Tensor:
    """Clean (C, H, W) in [0, 1] -> (draws, C, H, W) with white Gaussian noise of sigma/255, not
    clipped, not rounded.

    The noise comes from a CPU generator of its own, seeded for every picture, as in the authors'
    protocol: the same seed and shape give the same bits everywhere.

    Args:
        clean: (C, H, W).
        sigma: grey levels 0-255.
        seed: of the generator.
        draws: of noise.
    """
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn((draws, *clean.shape), generator=generator)
    return clean + noise.mul_(sigma / 255)


def psnr(clean: Tensor, restored: Tensor) -> float:
    """Peak signal-to-noise ratio in dB of two (C, H, W) in [0, 1]: data range 1, over all channels;
    equal pictures give inf."""
    if clean.shape != restored.shape:
        raise ValueError(f"shapes differ: {tuple(clean.shape)} and {tuple(restored.shape)}")
    error = (clean.double() - restored.double()).square().mean().item()
    return to_db(error)


def to_db(mse: float) -> float:
    """Mean squared error of pictures in [0, 1] -> PSNR in dB."""
    return -10 * math.log10(mse) if mse else math.inf


def ssim(clean: Tensor, restored: Tensor) -> float:
    """Structural similarity of two (C, H, W) in [0, 1], as Wang et al. 2004 define it.

    Gaussian window of standard deviation 1.5 (11x11), K1 = 0.01, K2 = 0.03, data range 1,
    population covariance; mean over the places and, for RGB, over the channels. Computed by
    scikit-image. Pictures with a side under 11 pixels give nan.
    """
    if min(clean.shape[-2:]) < 11:
        return math.nan
    value = structural_similarity(
        clean.numpy(), restored.numpy(), channel_axis=0, data_range=1.0,
        gaussian_weights=True, sigma=1.5, use_sample_covariance=False,
    )  # fmt: skip
    return float(value)


BLUR_WIDTHS = np.arange(0.5, 3.01, 0.1)  # pixels; the Gaussian blurs that --baseline tries


def luma(picture: Tensor) -> Tensor:
    """RGB (3, H, W) in [0, 1] -> the Y of ITU-R BT.601 as MATLAB's rgb2ycbcr has it, (1, H, W) in
    [16/255, 235/255]."""
    weights = torch.tensor([65.481, 128.553, 24.966]).view(3, 1, 1)
    return ((picture * weights).sum(0, keepdim=True) + 16) / 255


def baselines(clean: Tensor, noisy: Tensor, sigma: float | None) -> dict[str, Tensor]:
    """What a denoiser has to beat, (C, H, W) each: the Gaussian blur that suits this picture best,
    and scikit-image's NL-means at the true sigma.

    NL-means is its fast form with the parameters of scikit-image's gallery (patches of 5, distance
    6, h = 0.6 sigma); real noise (`sigma` None) is estimated by scikit-image. The blur is chosen
    with the clean picture in hand, which flatters it.
    """
    picture = noisy.numpy()
    blurs = (
        torch.from_numpy(gaussian_filter(picture, (0, width, width))).clamp(0, 1)
        for width in BLUR_WIDTHS
    )
    planes, axis = (picture[0], None) if len(picture) == 1 else (picture, 0)
    level = (
        estimate_sigma(planes, average_sigmas=True, channel_axis=axis)
        if sigma is None
        else sigma / 255
    )
    means = denoise_nl_means(
        planes,
        patch_size=5,
        patch_distance=6,
        h=0.6 * level or 1e-6,
        sigma=level,
        fast_mode=True,
        channel_axis=axis,
    )
    return {
        "blur": max(blurs, key=lambda blurred: psnr(clean, blurred)),
        "NL-means": torch.from_numpy(means).reshape(clean.shape).clamp(0, 1),
    }
