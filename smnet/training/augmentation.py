"""How training crops are varied: orientations and colours."""

import numpy as np


def orient(patch: np.ndarray, orientation: int) -> np.ndarray:
    """One of the eight orientations of a square (C, H, H): quarter turns by orientation % 4,
    mirrored from 4 on."""
    turned = np.rot90(patch, orientation % 4, axes=(1, 2))
    return turned[:, :, ::-1] if orientation >= 4 else turned


def jitter_colors(patch: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Vary the colours of a patch (C, H, W), float32 in [0, 1]: channels permuted, saturation and
    contrast changed.

    Half of all patches stay as they are. In the others the order of the channels is random, the
    distance of each pixel to its gray is multiplied by 0.5 to 2 (saturation), the distance to the
    patch's mean by 0.6 to 1.4 (contrast), both log-uniform, and the result is clipped to [0, 1]. On
    gray patches only the contrast changes.
    """
    if rng.random() < 0.5:
        return patch
    patch = patch[rng.permutation(len(patch))]
    saturation, contrast = np.exp(rng.uniform(np.log([0.5, 0.6]), np.log([2, 1.4]))).astype(
        np.float32
    )
    gray = patch.mean(axis=0, keepdims=True)
    mean = gray.mean()
    return np.clip(mean + contrast * (gray - mean + saturation * (patch - gray)), 0, 1)
