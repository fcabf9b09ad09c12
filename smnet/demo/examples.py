"""Pictures at hand: scikit-image's photographs with a camera's noise and with white noise."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from smnet.camera_noise import camera_pair
from smnet.images import sample_pictures


class Example(NamedTuple):
    """A noisy picture to try."""

    path: Path
    caption: str


# (name in skimage.data, channels, sigma of white noise in grey levels or None: a camera's, seed).
# Both cameras reduce noise and write JPEG; the seeds are some of those whose noise can be seen.
EXAMPLES = (
    ("coffee", 3, None, 10),
    ("astronaut", 3, None, 13),
    ("chelsea", 3, 25, 0),
    ("camera", 1, 50, 0),
)


def make_examples(folder: Path) -> list[Example]:
    """Write the pictures into a folder; the same ones every time."""
    return [make_example(folder, *example) for example in EXAMPLES]


def make_example(folder: Path, name: str, channels: int, sigma: float | None, seed: int) -> Example:
    """Write one of them, as an 8-bit PNG file."""
    clean = sample_pictures((name,), channels)[0].clean
    rng = np.random.default_rng(seed)
    if sigma is None:
        _, noisy = camera_pair(clean, rng)
        noise, caption = "camera_noise", "camera noise"
    else:
        noisy = clean + sigma * rng.standard_normal(clean.shape)
        noisy = np.rint(noisy.clip(0, 255)).astype(np.uint8)
        noise, caption = f"sigma_{sigma}", f"sigma {sigma}"
    path = folder / f"{name}_{noise}.png"
    Image.fromarray(noisy[0] if channels == 1 else noisy.transpose(1, 2, 0)).save(path)
    return Example(path, caption)
