"""The network: the authors' outputs from the authors' names, any size, and its pieces against plain references."""

import re
import zlib
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

import models
import utils
from models import ImageMemory, NonLocalBlock, SMNet

GOLDEN = np.load(Path(__file__).parent / "golden.npz")
SEED = int(GOLDEN["seed"])
CASES = sorted({key.split("/")[0] for key in GOLDEN.files if "/" in key})


def authors_names() -> dict[str, str]:
    """Our parameter name -> the authors', written out by hand from their checkpoints, independently of the loader's rules."""
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
        attention = (
            f"{decoder}.non_local" if i == 0 else f"{decoder}.region_non_local.non_local_block"
        )
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


def computed_weight(name: str, shape: torch.Size) -> torch.Tensor:
    """The reference weight of an authors' parameter: a function of its name."""
    values = np.random.default_rng([SEED, zlib.crc32(name.encode())]).standard_normal(tuple(shape))
    if len(shape) == 1:
        return torch.from_numpy((0.05 * values).astype(np.float32))
    gain = 4 if ".theta." in name or ".phi." in name else 1
    return torch.from_numpy((values * gain / np.sqrt(np.prod(shape[1:]))).astype(np.float32))


@pytest.fixture(scope="module")
def authors_models(tmp_path_factory) -> dict[int, SMNet]:
    """By channels: the reference networks, through our loader from files like the authors'."""
    names, models = authors_names(), {}
    for channels in (1, 3):
        weights = {}
        prefix = (
            "module." if channels == 1 else ""
        )  # theirs have it; a state dict saved without DataParallel has not
        for ours, value in SMNet(channels).state_dict().items():
            weights[prefix + names[ours]] = computed_weight(names[ours], value.shape)
        path = tmp_path_factory.mktemp("authors") / "net.pth"
        torch.save(weights, path)
        models[channels] = utils.load_model(path)
    return models


@pytest.mark.parametrize(
    "memory_format", [torch.contiguous_format, torch.channels_last], ids=["NCHW", "channels_last"]
)
@pytest.mark.parametrize("gradients", [False, True], ids=["inference", "training"])
@pytest.mark.parametrize("case", CASES)
def test_agrees_with_the_authors_network(authors_models, case, gradients, memory_format):
    c, n, h, w = map(int, case.split("x"))
    x = torch.from_numpy(
        np.random.default_rng([SEED, c, n, h, w]).random((n, c, h, w), dtype=np.float32)
    )
    model = authors_models[c].to(memory_format=memory_format)
    with torch.inference_mode(
        not gradients
    ):  # without gradients the blocks add up parts instead of concatenating
        stages = model.stages(x.contiguous(memory_format=memory_format))
    for name, ours in zip(("noise_mask", "residual", "output"), stages):
        np.testing.assert_allclose(
            ours.detach().numpy(), GOLDEN[f"{case}/{name}"], atol=2e-4, rtol=0, err_msg=name
        )


def test_all_four_golden_cases_are_there():
    assert CASES == ["1x1x64x64", "1x1x67x93", "3x1x48x80", "3x2x101x75"]


@pytest.mark.parametrize("channels, parameters", [(1, 4_853_282), (3, 4_857_894)])
def test_parameter_counts(channels, parameters):
    assert sum(p.numel() for p in SMNet(channels=channels).parameters()) == parameters


def test_compact_network_has_the_stated_size():
    assert sum(p.numel() for p in SMNet(width=16).parameters()) == 304_778


def random_model(channels: int = 1, width: int = 4) -> SMNet:
    """A small network whose non-local blocks are not the identity."""
    torch.manual_seed(1)
    model = SMNet(channels, width).eval()
    for block in model.noise_memory.decoder:
        torch.nn.init.normal_(block.non_local.out.weight)
    return model


SIDES = [1, 2, 3, 5, 7, 13, 14, 15, 20, 21, 26, 27, 28, 29, 31, 37, 52, 53, 67, 101]


@pytest.mark.parametrize("height", SIDES)
def test_any_size(height):
    model = random_model(channels=3)
    for width in (1, 9, 27, 28, 41, 64):
        x = torch.rand(1, 3, height, width)
        with torch.inference_mode():
            mask, residual, output = model.stages(x)
        assert mask.shape == residual.shape == output.shape == x.shape
        assert output.isfinite().all()
        assert mask.abs().max() < 1
        torch.testing.assert_close(residual, x - mask)


def test_small_pictures_are_mirrored_to_28_and_cropped():
    model, x = random_model(), torch.rand(1, 1, 20, 17)
    padded = np.pad(x[0, 0].numpy(), ((0, 8), (0, 11)), mode="reflect")
    with torch.inference_mode():
        expected = model(torch.from_numpy(padded)[None, None])[..., :20, :17]
        torch.testing.assert_close(model(x), expected)


@pytest.mark.parametrize("growth", [4, 16, 32], ids=["one group", "two groups", "four groups"])
@pytest.mark.parametrize(
    "batch, height, width, rows, strips",
    [
        (1, 128, 20, 64, 2),
        (1, 201, 33, 64, 3),
        (2, 300, 17, 64, 4),
        (1, 41, 12, 3, 11),
    ],  # the last: the last strip is one row
)
@pytest.mark.parametrize(
    "memory_format", [torch.contiguous_format, torch.channels_last], ids=["NCHW", "channels_last"]
)
def test_dense_blocks_in_strips_give_the_same(
    growth, batch, height, width, rows, strips, memory_format, monkeypatch
):
    torch.manual_seed(0)
    block = models.DenseBlock(8, growth).to(memory_format=memory_format)
    x = torch.randn(batch, 8, height, width).contiguous(memory_format=memory_format)
    plain = block.by_concatenation(x) + x
    with torch.inference_mode():
        assert torch.allclose(block(x), plain, atol=1e-6)
        monkeypatch.setattr(models, "STRIP_BYTES", 1)
        monkeypatch.setattr(models, "STRIP_ROWS", rows)
        monkeypatch.setattr(
            models.DenseBlock, "add_groups", counted := Mock(side_effect=block.add_groups)
        )
        in_strips = block(x)
    assert counted.call_count == strips
    assert torch.allclose(in_strips, plain, atol=1e-6)


def test_pictures_in_a_batch_do_not_mix():
    model, x = random_model(), torch.rand(3, 1, 33, 30)
    with torch.inference_mode():
        torch.testing.assert_close(model(x)[1:2], model(x[1:2]), atol=1e-5, rtol=0)


@pytest.mark.parametrize("shape", [(1, 3, 32, 32), (1, 32, 32), (1, 1, 0, 32)])
def test_wrong_shapes_are_refused(shape):
    with pytest.raises(ValueError, match=re.escape("(N, 1, H, W)")):
        SMNet(1, 4)(torch.zeros(shape))


@pytest.mark.parametrize("grid, height, width", [(1, 9, 11), (2, 13, 8), (4, 17, 14), (4, 16, 22)])
def test_region_attention_against_the_plain_formula(grid, height, width):
    torch.manual_seed(0)
    block = NonLocalBlock(8, grid)
    torch.nn.init.normal_(block.out.weight)
    x = torch.randn(2, 8, height, width)
    expected = torch.empty_like(x)
    h, w = -(-height // grid), -(-width // grid)  # pieces of ceil(n / k), the last smaller
    for top in range(0, height, h):
        for left in range(0, width, w):
            region = x[:, :, top : top + h, left : left + w]
            query = block.theta(region).flatten(2)
            key = F.max_pool2d(block.phi(region), 2).flatten(2)
            value = F.max_pool2d(block.g(region), 2).flatten(2)
            attention = torch.softmax(torch.einsum("ndq,ndk->nqk", query, key), dim=-1)
            attended = torch.einsum("nqk,ndk->ndq", attention, value).reshape(
                2, 4, *region.shape[2:]
            )
            expected[:, :, top : top + h, left : left + w] = block.out(attended) + region
    torch.testing.assert_close(block(x), expected, atol=1e-4, rtol=1e-4)


def test_attention_never_stores_all_scores():
    block = NonLocalBlock(8).to(memory_format=torch.channels_last)
    x = torch.randn(1, 8, 40, 40)
    with (
        sdpa_kernel([SDPBackend.FLASH_ATTENTION]),
        torch.inference_mode(),
    ):  # fails if only the plain kernel will do
        for memory_format in (torch.contiguous_format, torch.channels_last):
            assert block(x.contiguous(memory_format=memory_format)).shape == x.shape


@pytest.mark.parametrize("height, width", [(28, 28), (31, 45)])
def test_tail_is_shuffle_convolution_and_bilinear_halving(height, width):
    torch.manual_seed(0)
    stage = ImageMemory(3, 4)
    features = torch.randn(1, 4, height, width)
    doubled = stage.project(F.pixel_shuffle(stage.expand(features), 2))
    expected = F.interpolate(doubled, scale_factor=0.5, mode="bilinear", align_corners=False)
    torch.testing.assert_close(stage.tail(features), expected, atol=1e-5, rtol=1e-5)


def test_every_parameter_learns():
    model = random_model(width=16)
    model(torch.rand(2, 1, 64, 64)).square().sum().backward()
    for name, parameter in model.named_parameters():
        if not name.endswith(
            "phi.bias"
        ):  # it adds the same to all scores of a query, which softmax ignores
            assert parameter.grad is not None and parameter.grad.abs().max() > 0, name


def test_attention_of_a_pixel():
    model = random_model()
    x = torch.rand(1, 1, 70, 100)
    weights = model.attention(x, 69, 99)
    assert weights.shape == (4, 6) and weights.sum().item() == pytest.approx(1, abs=1e-5)
    block, seen = model.noise_memory.decoder[0].non_local, []
    hook = block.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        model(x)
        hook.remove()
        features = seen[0]
        scores = block.theta(features)[0, :, 7, 11] @ F.max_pool2d(block.phi(features), 2)[
            0
        ].flatten(1)
    torch.testing.assert_close(weights.flatten(), scores.softmax(0))
    with pytest.raises(ValueError, match="grid 4"):
        model.noise_memory.decoder[2].non_local.attention(features, 0, 0)
