"""The authors' network: its outputs for computed weights, and those weights as a checkpoint."""

import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import utils
from models import SMNet

GOLDEN = np.load(Path(__file__).parent / "golden.npz")
SEED = int(GOLDEN["seed"])
CASES = sorted({key.split("/")[0] for key in GOLDEN.files if "/" in key})  # "CxNxHxW"


def golden_input(case: str) -> Tensor:
    """The noisy pictures (N, C, H, W) of a case."""
    c, n, h, w = map(int, case.split("x"))
    pictures = np.random.default_rng([SEED, c, n, h, w]).random((n, c, h, w), dtype=np.float32)
    return torch.from_numpy(pictures)


def assert_golden(stages: tuple[Tensor, Tensor, Tensor], case: str) -> None:
    """Noise mask, residual and output are the authors' to 2e-4."""
    for name, ours in zip(("noise_mask", "residual", "output"), stages, strict=True):
        theirs = GOLDEN[f"{case}/{name}"]
        np.testing.assert_allclose(ours.detach(), theirs, atol=2e-4, rtol=0, err_msg=name)


def golden_models(folder: Path) -> dict[int, SMNet]:
    """By channels: the reference networks, through our loader from files like the authors'."""
    names, models = authors_names(), {}
    for channels in (1, 3):
        weights = {}
        # Theirs have the prefix; a state dict saved without DataParallel has not.
        prefix = "module." if channels == 1 else ""
        for ours, value in SMNet(channels).state_dict().items():
            weights[prefix + names[ours]] = computed_weight(names[ours], value.shape)
        torch.save(weights, folder / f"{channels}.pth")
        models[channels] = utils.load_model(folder / f"{channels}.pth")
    return models


def authors_names() -> dict[str, str]:
    """Our parameter name -> the authors', written by hand, independently of the loader's rules."""
    names = {}

    def both(ours: str, theirs: str) -> None:
        names[f"{ours}.weight"], names[f"{ours}.bias"] = f"{theirs}.weight", f"{theirs}.bias"

    def dense(ours: str, theirs: str) -> None:
        for i in range(4):
            both(f"{ours}.convs.{i}", f"{theirs}.conv_list.{i}.0")
        both(f"{ours}.fusion", f"{theirs}.fusion.0")

    for i in range(2):
        both(f"noise_memory.stem.{i}", f"derain.conv{i + 1}")
        both(f"image_memory.stem.{i}", f"sr.conv{i + 1}")
    for i in range(3):
        dense(f"noise_memory.encoder.{i}", f"derain.up_{i + 1}")
        decoder = f"derain.down_{3 - i}"
        dense(f"noise_memory.decoder.{i}.dense", f"{decoder}.dense")
        region = "region_non_local.non_local_block"
        attention = f"{decoder}.{region if i else 'non_local'}"
        for ours, theirs in (("theta", "theta"), ("phi", "phi.0"), ("g", "g.0"), ("out", "W")):
            both(f"noise_memory.decoder.{i}.non_local.{ours}", f"{attention}.{theirs}")
        for j in range(3):
            dense(f"image_memory.contextual.{i}.dense.{j}", f"sr.dense_{3 * i + j + 1}")
        names[f"image_memory.contextual.{i}.dilated.weight"] = f"sr.dilate_{i + 1}.0.weight"
    both("noise_memory.merges.0", "derain.down_2_fusion")
    both("noise_memory.merges.1", "derain.down_1_fusion")
    both("noise_memory.merges.2", "derain.fusion.0")
    both("noise_memory.head.0", "derain.fusion.1")
    both("noise_memory.head.1", "derain.final_conv.0")
    both("image_memory.fusion.pointwise", "sr.fusion.0")
    both("image_memory.fusion.conv", "sr.fusion.1")
    both("image_memory.expand", "sr.UPNet.0")
    both("image_memory.project", "sr.UPNet.2")
    return names


def computed_weight(name: str, shape: torch.Size) -> Tensor:
    """The reference weight of an authors' parameter: a function of its name."""
    rng = np.random.default_rng([SEED, zlib.crc32(name.encode())])
    values = rng.standard_normal(tuple(shape))
    if len(shape) == 1:
        return torch.from_numpy((0.05 * values).astype(np.float32))
    gain = 4 if ".theta." in name or ".phi." in name else 1
    return torch.from_numpy((values * gain / np.sqrt(np.prod(shape[1:]))).astype(np.float32))


def random_model(channels: int = 1, width: int = 4, shuffle: int = 1) -> SMNet:
    """A small network whose non-local blocks are not the identity."""
    torch.manual_seed(1)
    model = SMNet(channels, width, shuffle).eval()
    for block in model.noise_memory.decoder:
        torch.nn.init.normal_(block.non_local.out.weight)
    return model
