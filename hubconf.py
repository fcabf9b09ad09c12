"""Networks with the weights in pretrained/, by torch.hub.

    model = torch.hub.load(".", "smnet_gray_blind", source="local")        # in a clone of this repository
    model = torch.hub.load(".", "smnet_rgb", source="local", sigma=25)
    denoised = model(noisy)                                                # (N, C, H, W) in [0, 1], any size

All are in eval mode. The cards beside the weights say how they were trained and what they reach.
"""

import pathlib

import torch

import models
import utils

dependencies = ["torch"]
if pathlib.Path(utils.__file__).parent != pathlib.Path(__file__).parent:
    raise ImportError(f"the module {utils.__file__} is in the way of SMNet's utils.py; load SMNet in a process of its own")


def smnet_gray_blind(device: str | torch.device = "cpu") -> models.SMNet:
    """Gray pictures, sigma 0 to 55."""
    return _shipped(1, None, device)


def smnet_rgb_blind(device: str | torch.device = "cpu") -> models.SMNet:
    """RGB pictures, sigma 0 to 55."""
    return _shipped(3, None, device)


def smnet_gray(sigma: float = 25, device: str | torch.device = "cpu") -> models.SMNet:
    """Gray pictures of one noise level, 15, 25 or 50."""
    return _shipped(1, sigma, device)


def smnet_rgb(sigma: float = 25, device: str | torch.device = "cpu") -> models.SMNet:
    """RGB pictures of one noise level, 15, 25 or 50."""
    return _shipped(3, sigma, device)


def _shipped(channels: int, sigma: float | None, device: str | torch.device) -> models.SMNet:
    """The network for a noise level (None: blind).

    Raises:
        SMNetError: there are no such weights in pretrained/.
    """
    file = f"{utils.run_name(channels, sigma).removeprefix('model_')}.pth"
    return utils.load_model(utils.PRETRAINED / file, utils.pick_device(str(device)))
