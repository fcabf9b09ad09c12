"""Blend the noisy and the denoised picture, luma and colour apart; keep the overall brightness."""

import torch
from torch import Tensor

LUMA = (0.299, 0.587, 0.114)  # of R, G, B (ITU-R BT.601)

LEAST_MARGIN = 0.01  # from black and white where noise may be cut off; or three times its std
GREATEST_SHIFT = 1 / 255  # of a channel that is a network's; in small pictures more is noise's


def keep_brightness(noisy: Tensor, denoised: Tensor) -> Tensor:
    """Undo what a network changes of the brightness and colour of a whole picture.

    Noise has mean 0 in each channel, except where clipping at black or white shifts it; pixels near
    these are not counted.

    Args:
        noisy, denoised: (C, H, W), about in [0, 1].

    Returns:
        (C, H, W), `denoised` with at most one grey level added to each channel.
    """
    margin = max(LEAST_MARGIN, 3 * std_between(noisy, denoised))
    result = denoised.clone()
    for before, after in zip(noisy, result):  # one channel at a time needs less memory
        middle = (after > margin) & (after < 1 - margin)
        total = (before - after).mul_(middle).sum(dtype=torch.float64)
        shift = total / middle.sum().clamp(min=1)
        after += shift.clamp(-GREATEST_SHIFT, GREATEST_SHIFT).to(after.dtype)
    return result


def std_between(noisy: Tensor, denoised: Tensor) -> float:
    """The standard deviation of what differs between two (C, H, W)."""
    moments = [torch.var_mean(a - b, correction=0) for a, b in zip(noisy, denoised)]
    variances, means = map(torch.stack, zip(*moments))
    return (variances.mean() + means.var(correction=0)).sqrt().item()


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
    return std_between(noisy, denoised) * 255
