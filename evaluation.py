"""Measuring a denoiser: the loop that validation and both test scripts share.

The authors' protocol: noise from a generator that is reseeded for every picture (gray: seed 0, one draw; RGB: seed 12,
three draws, PSNR averaged over them), not clipped; output clamped to [0, 1]; mean over the pictures. `Protocol` has what
other papers do.
"""

import csv
import dataclasses
import functools
import math
import time
from collections.abc import Callable
from pathlib import Path
from statistics import fmean

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from skimage.restoration import denoise_nl_means, estimate_sigma
from torch import Tensor
from tqdm import tqdm

from models import SMNet
from pictures import Picture, add_test_noise, psnr, ssim, to_float, to_uint8
from smnet.fast import for_inference

TEST_NOISE = {1: dict(seed=0, draws=1), 3: dict(seed=12, draws=3)}  # by channels
PAPER_RESULTS = Path(__file__).parent / "paper_results.csv"
BLUR_SIGMAS = np.arange(0.5, 3.01, 0.1)  # pixels; the Gaussian blurs that --baseline chooses from, clean picture in hand


@dataclasses.dataclass(frozen=True)
class Protocol:
    """How a denoiser is tested; the defaults are the authors' way."""

    repeats: int = 0  # draws of noise a picture, 0: the authors', 1 for gray and 3 for RGB
    clip: bool = False  # the noisy picture is clipped to [0, 1]
    quantize: bool = False  # the result is rounded to 8 bits before it is measured (KAIR, SwinIR, Restormer)
    y_channel: bool = False  # measured on the luma of BT.601 (BasicSR's test_y_channel); RGB only
    self_ensemble: bool = False  # the mean of the results for all eight orientations of the picture

    def noisy_draws(self, clean: Tensor, sigma: float) -> Tensor:
        """Clean (C, H, W) -> (repeats, C, H, W) with the authors' noise of `sigma`, grey levels."""
        noise = TEST_NOISE[len(clean)]
        noisy = add_test_noise(clean, sigma=sigma, **{**noise, "draws": self.repeats or noise["draws"]})
        return noisy.clamp(0, 1) if self.clip else noisy

    def denoise(self, model: SMNet, noisy: Tensor) -> tuple[Tensor, Tensor]:
        """Noisy (C, H, W) -> (noise mask, output), each (C, H, W) on the CPU; the mask is of the picture as it stands."""
        x = noisy[None].to(next(model.parameters()).device)
        noise_mask, _, output = model.stages(x)
        if self.self_ensemble:
            for k in range(1, 8):
                turned = torch.rot90(x, k % 4, dims=(2, 3))
                result = model(turned.flip(3)).flip(3) if k >= 4 else model(turned)
                output = output + torch.rot90(result, -(k % 4), dims=(2, 3))
            output = output / 8
        return noise_mask[0].cpu(), output[0].cpu()

    def measure(self, clean: Tensor, restored: Tensor, *, rounded: bool = True) -> tuple[float, float]:
        """(PSNR in dB, SSIM) of a (C, H, W) in [0, 1]; `rounded` False leaves out the rounding to 8 bits."""
        if self.quantize and rounded:
            restored = to_float(to_uint8(restored))
        if self.y_channel:
            clean, restored = luma(clean), luma(restored)
        return psnr(clean, restored), ssim(clean, restored)

    def __str__(self) -> str:
        words = [field.name.replace("_", " ") for field in dataclasses.fields(self)[1:] if getattr(self, field.name)]
        return ", ".join(([f"{self.repeats} draws"] if self.repeats else []) + words)


AUTHORS = Protocol()


def noise_name(sigma: float | None) -> str:
    """What the noise is called: "sigma 25", or "real noise" where sigma is None."""
    return "real noise" if sigma is None else f"sigma {sigma:g}"


def luma(picture: Tensor) -> Tensor:
    """RGB (3, H, W) in [0, 1] -> the Y of ITU-R BT.601 as MATLAB's rgb2ycbcr has it, (1, H, W) in [16/255, 235/255]."""
    weights = torch.tensor([65.481, 128.553, 24.966]).view(3, 1, 1)
    return ((picture * weights).sum(0, keepdim=True) + 16) / 255


@dataclasses.dataclass
class Score:
    """One picture's figures: PSNR in dB and SSIM, mean over the draws of noise, of what each method makes of it."""

    name: str
    psnr: dict[str, float]  # by method: "noisy", "SMNet" and, with baselines, "blur" and "NL-means"
    ssim: dict[str, float]
    seconds: float  # the network's time for one draw


@torch.inference_mode()
def evaluate(
    model: SMNet, pictures: list[Picture], *, sigma: float | None, protocol: Protocol = AUTHORS, baseline: bool = False,
    on_stages: Callable[[str, Tensor, Tensor, Tensor, Tensor], None] | None = None,
) -> list[Score]:  # fmt: skip
    """Denoise each picture under the authors' test noise, or its real noisy partner where it has one, and measure the result.

    The noisy picture is measured as the network gets it; every result is clamped to [0, 1].

    Args:
        model: the network; its own device is used. It is in eval mode meanwhile.
        pictures: of the network's channels.
        sigma: of the noise, grey levels 0-255; None where all pictures have noisy partners.
        protocol: what is done otherwise than by the authors.
        baseline: measure a Gaussian blur of the best width and NL-means, too.
        on_stages: called for each picture's first draw as on_stages(name, clean, noisy, noise_mask, output), each (C, H, W).
    """
    was_training = model.training
    network = for_inference(model.eval())
    scores = []
    for name, picture, partner in tqdm(pictures, desc=noise_name(sigma), unit="picture", leave=False, disable=None):
        clean = to_float(picture)
        draws, seconds = [], 0.0
        for i, noisy in enumerate(protocol.noisy_draws(clean, sigma) if partner is None else to_float(partner)[None]):
            start = time.perf_counter()
            noise_mask, output = protocol.denoise(network, noisy)
            seconds += time.perf_counter() - start
            results = {"SMNet": output.clamp(0, 1), **(baselines(clean, noisy, sigma) if baseline else {})}
            figures = {"noisy": protocol.measure(clean, noisy, rounded=False)}
            draws.append(figures | {method: protocol.measure(clean, result) for method, result in results.items()})
            if on_stages and i == 0:
                on_stages(name, clean, noisy, noise_mask, output)
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


def baselines(clean: Tensor, noisy: Tensor, sigma: float | None) -> dict[str, Tensor]:
    """What everyone has: the Gaussian blur that suits this picture best, and scikit-image's NL-means at the true sigma.

    (C, H, W) each. NL-means: its fast form with the parameters of scikit-image's gallery (patches of 5, distance 6, h =
    0.6 sigma); real noise (`sigma` None) is estimated by scikit-image. The blur
    is chosen with the clean picture in hand, which flatters it.
    """
    picture = noisy.numpy()
    blurs = (torch.from_numpy(gaussian_filter(picture, (0, width, width))).clamp(0, 1) for width in BLUR_SIGMAS)
    planes, axis = (picture[0], None) if len(picture) == 1 else (picture, 0)
    level = estimate_sigma(planes, average_sigmas=True, channel_axis=axis) if sigma is None else sigma / 255
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


@functools.cache
def all_paper_results() -> dict[tuple[str, float], dict[str, float]]:
    """The paper's mean PSNR in dB by method, for each (test set, sigma in grey levels) that it has."""
    found: dict[tuple[str, float], dict[str, float]] = {}
    with open(PAPER_RESULTS, newline="") as file:
        for row in csv.DictReader(file):
            found.setdefault((row["set"], float(row["sigma"])), {})[row["method"]] = float(row["psnr_db"])
    return found


def paper_results(test_set: str, sigma: float | None) -> dict[str, float]:
    """The paper's mean PSNR in dB by method, for a test set and a sigma in grey levels; empty where it has none."""
    return all_paper_results().get((test_set, sigma), {})
