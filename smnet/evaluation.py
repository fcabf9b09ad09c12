"""Measuring a denoiser: the loop that validation and both test scripts share.

The authors' protocol: noise from a generator that is reseeded for every picture (gray: seed 0, one
draw; RGB: seed 12, three draws, PSNR averaged over them), not clipped; output clamped to [0, 1];
mean over the pictures. `Protocol` has what other papers do.
"""

import dataclasses
import functools
import math
import time
from collections.abc import Callable, Sequence
from statistics import fmean, median

import torch
from torch import Tensor
from tqdm import tqdm

from models import SMNet
from smnet.devices import autocast, cuda_kernels, synchronize
from smnet.fast import for_inference
from smnet.images import Picture, to_float, to_uint8
from smnet.metrics import add_test_noise, baselines, luma, psnr, ssim
from smnet.tiling import LARGEST, in_tiles, other_orientations, possible_side, tile_grid

TEST_NOISE = {1: dict(seed=0, draws=1), 3: dict(seed=12, draws=3)}  # by channels
WHOLE = 1_000_000  # pixels of the largest picture that is denoised whole unless tiles are asked for


@dataclasses.dataclass(frozen=True)
class Protocol:
    """How a denoiser is tested; the defaults are the authors' way, but for tiles of large
    pictures."""

    repeats: int = 0  # draws of noise a picture, 0: the authors', 1 for gray and 3 for RGB
    clip: bool = False  # the noisy picture is clipped to [0, 1]
    quantize: bool = False  # the result is rounded to 8 bits before it is measured (KAIR, SwinIR)
    y_channel: bool = False  # measured on the luma of BT.601 (BasicSR's test_y_channel); RGB only
    amp: bool = False  # the network computes in bf16, on GPUs without it in fp16
    self_ensemble: bool = False  # the mean of the results for all eight orientations of the picture
    # Side of the tiles that the picture is cut into, pixels; 0: whole pictures; None: whole up to
    # `WHOLE` pixels, and tiles of 640 above (with `shuffle` 2: 1280).
    tile: int | None = None

    def noisy_draws(self, clean: Tensor, sigma: float) -> Tensor:
        """Clean (C, H, W) -> (repeats, C, H, W) with the authors' noise of `sigma`, grey levels."""
        noise = TEST_NOISE[len(clean)]
        noisy = add_test_noise(
            clean, sigma=sigma, **{**noise, "draws": self.repeats or noise["draws"]}
        )
        return noisy.clamp(0, 1) if self.clip else noisy

    def cuts(self, height: int, width: int) -> bool:
        """Whether a picture is cut into tiles although none were asked for."""
        return self.tile is None and height * width > WHOLE

    def denoise(self, model: SMNet, noisy: Tensor) -> tuple[Tensor, Tensor]:
        """Noisy (C, H, W) -> (noise mask, output), each (C, H, W) on the CPU; the mask is of the
        picture as it stands."""
        height, width = noisy.shape[-2:]
        whole = max(height, width)
        side = self.tile or whole
        if self.cuts(height, width):
            side = LARGEST * model.shuffle
        if side < whole:
            side = possible_side(side, model.shuffle)
        tiles = tile_grid(height, width, side, model.shuffle)
        both = in_tiles(noisy, tiles, functools.partial(self.forward, model))
        return both[: len(noisy)], both[len(noisy) :]

    def forward(self, model: SMNet, noisy: Tensor) -> Tensor:
        """Noisy (C, H, W), a picture or a tile -> noise mask and output, (2C, H, W) on the CPU."""
        x = noisy[None].to(next(model.parameters()).device)
        with autocast(x.device, enabled=self.amp):
            noise_mask, _, output = model.stages(x)
            if self.self_ensemble:
                output = (output + sum(other_orientations(model, x))) / 8
        return torch.cat([noise_mask[0].float(), output[0]]).cpu()

    def measure(
        self, clean: Tensor, restored: Tensor, *, rounded: bool = True
    ) -> tuple[float, float]:
        """(PSNR in dB, SSIM) of a (C, H, W) in [0, 1]; `rounded` False leaves out the rounding to 8
        bits."""
        if self.quantize and rounded:
            restored = to_float(to_uint8(restored))
        if self.y_channel:
            clean, restored = luma(clean), luma(restored)
        return psnr(clean, restored), ssim(clean, restored)

    def __str__(self) -> str:
        draws = "1 draw" if self.repeats == 1 else f"{self.repeats} draws"
        words = {"repeats": draws, "tile": f"tiles of {self.tile}"}
        return ", ".join(
            words.get(field.name, field.name.replace("_", " "))
            for field in dataclasses.fields(self)
            if getattr(self, field.name)
        )


AUTHORS = Protocol()


def noise_name(sigma: float | None) -> str:
    """What the noise is called: "sigma 25", or "real noise" where sigma is None."""
    return "real noise" if sigma is None else f"sigma {sigma:g}"


@dataclasses.dataclass
class Score:
    """One picture's figures: PSNR in dB and SSIM, mean over the draws of noise, of what each method
    makes of it."""

    name: str
    psnr: dict[str, float]  # by method: "noisy", "SMNet" and, with baselines, "blur" and "NL-means"
    ssim: dict[str, float]
    seconds: float  # the network's time for one draw, the median


OnStages = Callable[[str, Tensor, Tensor, Tensor, Tensor], None]


@torch.inference_mode()
@cuda_kernels(tf32=False, benchmark=False)
def evaluate(
    model: SMNet,
    pictures: Sequence[Picture],
    *,
    sigma: float | None,
    protocol: Protocol = AUTHORS,
    baseline: bool = False,
    warm_up: bool = False,
    on_stages: OnStages | None = None,
) -> list[Score]:
    """Denoise each picture under the authors' test noise, or its real noisy partner where it has
    one, and measure the result.

    The noisy picture is measured as the network gets it; every result is clamped to [0, 1]. Where
    the network's output is not finite, its PSNR is nan. On CUDA, float32 is exact, whatever
    PyTorch's settings are.

    Unless the protocol says otherwise, pictures of more than 1 megapixel, larger than any of the
    paper's test sets, are denoised in tiles, blended as denoise.py does: whole, they can need tens
    of GB. PSNR changes by about 0.01 dB.

    Args:
        model: the network, on its own device. It is in eval mode meanwhile.
        pictures: of the network's channels.
        sigma: of the noise, grey levels 0-255; None where all pictures have noisy partners.
        protocol: what is done differently from the authors.
        baseline: also measure a Gaussian blur of the best width and NL-means.
        warm_up: run the network once before the first picture, so that its preparations do not
            count in the seconds.
        on_stages: called for each picture's first draw with a finite output as
            on_stages(name, clean, noisy, noise_mask, output), each (C, H, W).
    """
    was_training = model.training
    try:
        network = for_inference(model.eval(), amp=protocol.amp)
        if warm_up and pictures:
            once = dataclasses.replace(protocol, self_ensemble=False)
            once.denoise(network, to_float(pictures[0].clean))
        bar = tqdm(pictures, desc=noise_name(sigma), unit="picture", leave=False, disable=None)
        return [
            measure_picture(
                network, picture, sigma, protocol, baseline=baseline, on_stages=on_stages
            )
            for picture in bar
        ]
    finally:
        model.train(was_training)


def measure_picture(
    model: SMNet,
    picture: Picture,
    sigma: float | None,
    protocol: Protocol,
    *,
    baseline: bool,
    on_stages: OnStages | None,
) -> Score:
    """One picture's score, as `evaluate` says; the seconds are the median over its draws."""
    clean = to_float(picture.clean)
    if picture.noisy is None:
        noisy_draws = protocol.noisy_draws(clean, sigma)
    else:
        noisy_draws = to_float(picture.noisy)[None]
    draws, seconds = [], []
    for noisy in noisy_draws:
        start = clock(model)
        noise_mask, output = protocol.denoise(model, noisy)
        seconds.append(clock(model) - start)
        figures = {
            "noisy": protocol.measure(clean, noisy, rounded=False),
            "SMNet": (math.nan, math.nan),
        }
        if output.isfinite().all():
            figures["SMNet"] = protocol.measure(clean, output.clamp(0, 1))
            if on_stages and not draws:
                on_stages(picture.name, clean, noisy, noise_mask, output)
        for method, result in (baselines(clean, noisy, sigma) if baseline else {}).items():
            figures[method] = protocol.measure(clean, result)
        draws.append(figures)
    psnrs, ssims = (
        {method: fmean(figures[method][i] for figures in draws) for method in draws[0]}
        for i in (0, 1)
    )
    return Score(picture.name, psnr=psnrs, ssim=ssims, seconds=median(seconds))


def clock(model: SMNet) -> float:
    """Seconds, read once the model's device has done all that it was given."""
    synchronize(next(model.parameters()).device)
    return time.perf_counter()


def averages(scores: Sequence[Score]) -> Score:
    """The mean over the pictures, as a score named "mean".

    The mean SSIM leaves out pictures that are too small for one; the seconds are the median.
    """
    with_ssim = [score for score in scores if not math.isnan(score.ssim["SMNet"])]
    return Score(
        "mean",
        psnr={method: fmean(score.psnr[method] for score in scores) for method in scores[0].psnr},
        ssim={
            method: fmean(s.ssim[method] for s in with_ssim) if with_ssim else math.nan
            for method in scores[0].ssim
        },
        seconds=median(score.seconds for score in scores),
    )
