"""Measuring a denoiser: the loop that validation and both test scripts share.

The authors' protocol: noise from a generator that is reseeded for every picture (gray: seed 0, one draw; RGB: seed 12,
three draws, PSNR averaged over them), not clipped; output clamped to [0, 1]; mean over the pictures.
"""

import csv
import dataclasses
import math
import time
from collections.abc import Callable
from pathlib import Path
from statistics import fmean

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from skimage.restoration import denoise_nl_means
from torch import Tensor
from tqdm import tqdm

from models import SMNet
from pictures import add_test_noise, psnr, ssim, to_float

TEST_NOISE = {1: dict(seed=0, draws=1), 3: dict(seed=12, draws=3)}  # by channels
PAPER_RESULTS = Path(__file__).parent / "paper_results.csv"
BLUR_SIGMAS = np.arange(0.5, 3.01, 0.1)  # pixels; the Gaussian blurs that --baseline chooses from, clean picture in hand


@dataclasses.dataclass
class Score:
    """One picture's figures: PSNR in dB and SSIM, mean over the draws of noise, of what each method makes of it."""

    name: str
    psnr: dict[str, float]  # by method: "noisy", "SMNet" and, with baselines, "blur" and "NL-means"
    ssim: dict[str, float]
    seconds: float  # the network's time for one draw


@torch.inference_mode()
def evaluate(
    model: SMNet, pictures: list[tuple[str, np.ndarray]], *, sigma: float, baseline: bool = False,
    on_stages: Callable[[str, Tensor, Tensor, Tensor], None] | None = None,
) -> list[Score]:  # fmt: skip
    """Denoise each picture under the authors' test noise and measure the result.

    The noisy picture is measured as the network gets it, not clipped; every result is clamped to [0, 1].

    Args:
        model: the network; its own device is used. It is in eval mode meanwhile.
        pictures: (name, uint8 (C, H, W)), C as the network's.
        sigma: of the noise, grey levels 0-255.
        baseline: measure a Gaussian blur of the best width and NL-means, too.
        on_stages: called for each picture's first draw as on_stages(name, noisy, noise_mask, output), each (C, H, W).
    """
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    scores = []
    for name, picture in tqdm(pictures, desc=f"sigma {sigma:g}", unit="picture", leave=False, disable=None):
        clean = to_float(picture)
        draws, seconds = [], 0.0
        for i, noisy in enumerate(add_test_noise(clean, sigma=sigma, **TEST_NOISE[model.channels])):
            start = time.perf_counter()
            noise_mask, _, output = (stage[0].cpu() for stage in model.stages(noisy[None].to(device)))
            seconds += time.perf_counter() - start
            results = {"noisy": noisy, "SMNet": output.clamp(0, 1)}
            if baseline:
                results |= baselines(clean, noisy, sigma)
            draws.append({method: (psnr(clean, result), ssim(clean, result)) for method, result in results.items()})
            if on_stages and i == 0:
                on_stages(name, noisy, noise_mask, output)
        by_method = {method: [draw[method] for draw in draws] for method in draws[0]}
        scores.append(
            Score(
                name,
                psnr={method: fmean(p for p, _ in values) for method, values in by_method.items()},
                ssim={method: fmean(s for _, s in values) for method, values in by_method.items()},
                seconds=seconds / len(draws),
            )
        )
    model.train(was_training)
    return scores


def baselines(clean: Tensor, noisy: Tensor, sigma: float) -> dict[str, Tensor]:
    """What everyone has: the Gaussian blur that suits this picture best, and scikit-image's NL-means at the true sigma.

    (C, H, W) each. NL-means: its fast form with the parameters of scikit-image's gallery (patches of 5, distance 6, h =
    0.6 sigma). The blur is chosen with the clean picture in hand, which flatters it.
    """
    picture = noisy.numpy()
    blurs = (torch.from_numpy(gaussian_filter(picture, (0, width, width))).clamp(0, 1) for width in BLUR_SIGMAS)
    level = sigma / 255
    planes, axis = (picture[0], None) if len(picture) == 1 else (picture, 0)
    means = denoise_nl_means(
        planes, patch_size=5, patch_distance=6, h=0.6 * level or 1e-6, sigma=level, fast_mode=True, channel_axis=axis
    )
    return {
        "blur": max(blurs, key=lambda blurred: psnr(clean, blurred)),
        "NL-means": torch.from_numpy(means).reshape(clean.shape).clamp(0, 1),
    }


def averages(scores: list[Score]) -> Score:
    """The mean over the pictures, as a score named "mean"; the mean SSIM leaves out pictures too small for one."""
    with_ssim = [score for score in scores if not math.isnan(score.ssim["SMNet"])]
    return Score(
        "mean",
        psnr={method: fmean(score.psnr[method] for score in scores) for method in scores[0].psnr},
        ssim={method: fmean(s.ssim[method] for s in with_ssim) if with_ssim else math.nan for method in scores[0].ssim},
        seconds=fmean(score.seconds for score in scores),
    )


def paper_results(test_set: str, sigma: float) -> dict[str, float]:
    """The paper's mean PSNR in dB by method, for a test set and a sigma in grey levels; empty where it has none."""
    with open(PAPER_RESULTS, newline="") as file:
        return {
            row["method"]: float(row["psnr_db"])
            for row in csv.DictReader(file)
            if row["set"] == test_set and float(row["sigma"]) == sigma
        }
