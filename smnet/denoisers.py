"""The networks that denoise users' pictures: which one, read when it is first needed, and used."""

import functools
import threading
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from smnet.devices import pick_device
from smnet.strength import keep_brightness, take_out
from smnet.tiling import Denoiser
from smnet.weights import find_model, is_there
from utils import SMNetError


class DenoiserCache:
    """The networks for gray and RGB pictures, read when first needed.

    Args:
        device: where they run.
        mode: "R" the network of real noise, "B" the blind one, "S" that of the level `noiseL`;
            None: S where `noiseL` is given, else R where there is one, else B.
        noiseL: sigma that the network was trained at, grey levels; mode S alone.
        weights: files to use instead, one, or one for gray and one for RGB.
        weights_dir: folder that train_*.py wrote weights to.
        memory, tile, amp, self_ensemble: as `Denoiser` takes them.

    Raises:
        SMNetError: no such mode, or one that does not go with `noiseL`.
    """

    def __init__(
        self,
        device: torch.device,
        *,
        mode: str | None = None,
        noiseL: float | None = None,
        weights: Sequence[str] = (),
        weights_dir: str = "weights",
        memory: float | None = None,
        tile: int | None = None,
        amp: bool = False,
        self_ensemble: bool = False,
    ):
        if noiseL is not None and mode is None:
            mode = "S"
        if mode not in (None, "R", "B", "S") or (mode == "S") != (noiseL is not None):
            raise SMNetError(
                f"mode {mode!r} with noiseL {noiseL}: give mode R or B, or S with noiseL"
            )
        self.device, self.mode, self.noiseL = device, mode, noiseL
        self.weights, self.weights_dir = weights, weights_dir
        self.options: dict = dict(memory=memory, tile=tile, amp=amp, self_ensemble=self_ensemble)
        self.found: dict[int, tuple[Denoiser, str] | str] = {}

    def get(self, channels: int) -> tuple[Denoiser, str]:
        """The denoiser for pictures of 1 or 3 channels, and the name of its weights.

        Raises:
            SMNetError: no such weights; the second time in fewer words.
        """
        if channels not in self.found:
            try:
                self.found[channels] = self.read(channels)
            except SMNetError:
                self.found[channels] = "no weights for such pictures, as said before"
                raise
        found = self.found[channels]
        if isinstance(found, str):
            raise SMNetError(found)
        return found

    def read(self, channels: int) -> tuple[Denoiser, str]:
        """From the disk."""
        errors = []
        real = self.mode == "R"
        if self.mode is None and not self.weights:
            real = is_there(channels, None, self.weights_dir, real=True)
        for weights in self.weights or [None]:
            try:
                trained = find_model(
                    channels, self.noiseL, real=real, weights=weights, weights_dir=self.weights_dir
                )
                model = trained.model.to(self.device, memory_format=torch.channels_last)
                return Denoiser(model, **self.options), str(trained.path)
            except SMNetError as error:
                errors.append(str(error))
        raise SMNetError("; ".join(errors))


def remove_noise(
    noisy: Tensor,
    denoiser: Denoiser,
    weights: str,
    *,
    on_tile: Callable[[], object] | None = None,
) -> Tensor:
    """All the noise that a network finds, taken out; brightness and colour as a whole stay.

    Args:
        noisy: (C, H, W) in about [0, 1].
        denoiser, weights: as `DenoiserCache.get` gives them.
        on_tile: called after every tile.

    Returns:
        (C, H, W), not clamped.

    Raises:
        SMNetError: the network gives values that are not finite, or memory is too small.
    """
    denoised = denoiser(noisy, on_tile=on_tile)
    if not denoised.isfinite().all():
        advice = "leave out --amp" if denoiser.amp else "use other weights"
        raise SMNetError(f"{weights} gives values that are not finite; {advice}")
    return keep_brightness(noisy, denoised)


# Threads wait for each other in `denoise`: they would read the same weights twice, change PyTorch's
# global flags under each other, and each forward takes the whole device anyway.
ONE_AT_A_TIME = threading.Lock()


def denoise(
    picture: np.ndarray,
    *,
    mode: str | None = None,
    noiseL: float | None = None,
    strength: float = 100,
    chroma: float | None = None,
    weights: str | None = None,
    self_ensemble: bool = False,
    device: str = "auto",
) -> np.ndarray:
    """Denoise an array: the same networks and tiles as the command.

    Args:
        picture: (H, W) or (H, W, 1) gray, or (H, W, 3) RGB; uint8, uint16, or float in about
            [0, 1].
        mode: "R" for the noise of cameras, "B" for white noise of any level, "S" for white noise of
            sigma `noiseL`; None: S if `noiseL` is given, else R if there is such a network, else B.
        noiseL: grey levels 0-255, with mode S.
        strength, chroma: percent, as `smnet.strength.take_out`.
        weights: a .pth file to use instead.
        self_ensemble: whether to average over the eight orientations: better, 8 times as long.
        device: auto, cpu, cuda, cuda:1 or mps.

    Returns:
        An array of the same shape and type, computed in float32; floats are not clamped. Threads
        may call this at the same time, and wait for each other.

    Raises:
        SMNetError: another shape, type or mode, values that are not finite, or no such weights.
    """
    planes = picture if picture.ndim == 3 else picture[..., None]
    dtype = picture.dtype
    if planes.ndim != 3 or planes.shape[2] not in (1, 3) or 0 in planes.shape:
        raise SMNetError(f"an array (H, W), (H, W, 1) or (H, W, 3) is needed, not {picture.shape}")
    if not (dtype.kind == "f" or dtype.kind == "u" and dtype.itemsize <= 2):
        raise SMNetError(f"an array of uint8, uint16 or float is needed, not {dtype}")
    white = np.iinfo(dtype).max if dtype.kind == "u" else 1
    noisy = torch.from_numpy(np.ascontiguousarray(planes.transpose(2, 0, 1), np.float32)) / white
    if not noisy.isfinite().all():
        raise SMNetError("the array has values that are not finite")
    with ONE_AT_A_TIME:
        try:
            denoisers = cached_denoisers(mode, noiseL, weights, self_ensemble, device)
            denoiser, name = denoisers.get(len(noisy))
        except SMNetError:
            cached_denoisers.cache_clear()  # the weights may be there next time
            raise
        denoised = remove_noise(noisy, denoiser, name)
    output = take_out(noisy, denoised, strength=strength, chroma=chroma)
    samples = output.permute(1, 2, 0).numpy().reshape(picture.shape)
    if dtype.kind == "f":
        return samples.astype(dtype)
    return np.rint(samples.clip(0, 1) * white).astype(dtype)


@functools.cache
def cached_denoisers(
    mode: str | None, noiseL: float | None, weights: str | None, self_ensemble: bool, device: str
) -> DenoiserCache:
    """The networks of `denoise`, kept from call to call."""
    return DenoiserCache(
        pick_device(device),
        mode=mode,
        noiseL=noiseL,
        weights=[weights] if weights else (),
        self_ensemble=self_ensemble,
    )
