"""SMNet with the weights in pretrained/, by torch.hub.

    model = torch.hub.load(".", "smnet_gray_blind", source="local")  # in a clone of SMNet
    model = torch.hub.load(".", "smnet_rgb", source="local", sigma=25)
    with torch.inference_mode():
        denoised = model(noisy)  # (N, C, H, W) in [0, 1], any size

All are in eval mode. The cards beside the weights say how they were trained and what they reach.
"""

import pathlib
import sys

import torch

dependencies = ["torch"]
if tuple(map(int, torch.__version__.split(".")[:2])) < (2, 9):
    raise ImportError(f"SMNet needs PyTorch 2.9 or later, this is {torch.__version__}")

# Many programs have modules called models and utils. Ours are imported without taking these names
# from them.
_file = pathlib.Path(getattr(sys.modules.get("utils"), "__file__", None) or "/")
if _file.resolve() == pathlib.Path(__file__).resolve().with_name("utils.py"):
    import models
    import utils
else:
    _theirs = {name: sys.modules.pop(name, None) for name in ("models", "utils")}
    import models
    import utils

    for _name, _module in _theirs.items():
        del sys.modules[_name]
        if _module is not None:
            sys.modules[_name] = _module


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


def smnet_gray_real(device: str | torch.device = "cpu") -> models.SMNet:
    """Gray photographs, the noise of cameras."""
    return _shipped(1, None, device, real=True)


def smnet_rgb_real(device: str | torch.device = "cpu") -> models.SMNet:
    """RGB photographs, the noise of cameras."""
    return _shipped(3, None, device, real=True)


def _shipped(
    channels: int, sigma: float | None, device: str | torch.device, *, real: bool = False
) -> models.SMNet:
    """The network for a noise level (None: blind, or real noise) on a device, as `torch.device`
    takes.

    Raises:
        SMNetError: there are no such weights in pretrained/.
    """
    file = utils.shipped_file(channels, None if sigma is None else float(sigma), real=real)
    if not file.is_file():
        there = sorted(path.stem for path in utils.PRETRAINED.glob("*.pth"))
        raise utils.SMNetError(
            f"{file.name} does not come with SMNet; {utils.describe(there, file.parent)}"
        )
    return utils.load_model(file, device)
