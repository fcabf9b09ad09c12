"""How much of the noise that was found is taken out, for luma and colour apart, without a second
forward."""

import torch
from torch import Tensor

LUMA = (0.299, 0.587, 0.114)  # of R, G, B (ITU-R BT.601)


def take_out(
    noisy: Tensor, denoised: Tensor, *, strength: float = 100, chroma: float | None = None
) -> Tensor:
    """Between a noisy picture and a denoised one.

    Args:
        noisy, denoised: (C, H, W), C = 1 or 3 (RGB).
        strength: percent of the noise found that is taken out; 0 gives `noisy` itself.
        chroma: the same for the colour noise alone, None: as `strength`. `strength` is then that of
            the luma. Gray pictures have no colour noise.

    Returns:
        (C, H, W), not clamped.
    """
    if len(noisy) == 1 or chroma is None or chroma == strength:
        if strength == 100:
            return denoised
        return torch.lerp(noisy, denoised, strength / 100) if strength else noisy
    removed = noisy - denoised
    weights = torch.tensor(LUMA, dtype=removed.dtype, device=removed.device).view(3, 1, 1)
    luma = (removed * weights).sum(0, keepdim=True)
    return noisy - (strength / 100 * luma + chroma / 100 * (removed - luma))


def noise_found(noisy: Tensor, denoised: Tensor) -> float:
    """How much noise was found: the standard deviation of what differs, grey levels 0-255."""
    return (noisy - denoised).std(correction=0).item() * 255
