"""The network: the authors' outputs from the authors' names, any size, every way of running it."""

import re

import numpy as np
import pytest
import torch
from golden import CASES, assert_golden, golden_input, golden_models, random_model
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

import models
from models import ImageMemory, NonLocalBlock, SMNet

MEMORY_FORMATS = pytest.mark.parametrize(
    "memory_format", [torch.contiguous_format, torch.channels_last], ids=["NCHW", "channels_last"]
)


@pytest.fixture(scope="module")
def authors_models(tmp_path_factory) -> dict[int, SMNet]:
    return golden_models(tmp_path_factory.mktemp("authors"))


@MEMORY_FORMATS
@pytest.mark.parametrize("gradients", [False, True], ids=["inference", "training"])
@pytest.mark.parametrize("case", CASES)
def test_agrees_with_the_authors_network(authors_models, case, gradients, memory_format):
    x = golden_input(case).contiguous(memory_format=memory_format)
    model = authors_models[x.shape[1]].to(memory_format=memory_format)
    with torch.inference_mode(not gradients):
        assert_golden(model.stages(x), case)


class Stages(torch.nn.Module):
    """A network as a module that gives all its stages, for what takes a module's forward."""

    def __init__(self, model: SMNet):
        super().__init__()
        self.model = model

    def forward(self, x):
        return self.model.stages(x)


@pytest.mark.slow
@pytest.mark.parametrize("gradients", [False, True], ids=["inference", "training"])
def test_exported_with_free_sizes_agrees_with_the_authors_network(authors_models, gradients):
    free = {2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC}
    example = torch.rand(1, 1, 96, 160)
    with torch.set_grad_enabled(gradients):
        program = torch.export.export(
            Stages(authors_models[1]), (example,), dynamic_shapes={"x": free}
        )
    for case in CASES[:2]:
        assert_golden(program.module()(golden_input(case)), case)


@pytest.mark.slow
@pytest.mark.parametrize("gradients", [False, True], ids=["inference", "training"])
def test_compiled_as_one_graph_agrees_with_the_authors_network(authors_models, gradients):
    compiled = torch.compile(Stages(authors_models[3]), fullgraph=True, backend="aot_eager")
    case = CASES[3]
    with torch.set_grad_enabled(gradients):
        assert_golden(compiled(golden_input(case)), case)
    torch.compiler.reset()


def test_all_four_golden_cases_are_there():
    assert CASES == ["1x1x64x64", "1x1x67x93", "3x1x48x80", "3x2x101x75"]


@pytest.mark.parametrize("channels, parameters", [(1, 4_853_282), (3, 4_857_894)])
def test_parameter_counts(channels, parameters):
    assert sum(p.numel() for p in SMNet(channels=channels).parameters()) == parameters


def test_compact_network_has_the_stated_size():
    assert sum(p.numel() for p in SMNet(width=16).parameters()) == 304_778


SIDES = [1, 2, 3, 5, 7, 13, 14, 15, 20, 21, 26, 27, 28, 29, 31, 37, 52, 53, 67, 101]


@pytest.mark.parametrize("shuffle", [1, 2])
@pytest.mark.parametrize("height", SIDES)
def test_any_size(height, shuffle):
    model = random_model(channels=3, shuffle=shuffle)
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


def test_shuffle_is_unshuffling_by_hand_around_a_network_of_more_channels():
    folded = random_model(channels=3, width=8, shuffle=2)
    inner = random_model(channels=12, width=8)
    inner.load_state_dict(folded.state_dict())
    x = torch.rand(2, 3, 62, 70)
    with torch.inference_mode():
        expected = [F.pixel_shuffle(t, 2) for t in inner.stages(F.pixel_unshuffle(x, 2))]
        for ours, theirs in zip(folded.stages(x), expected, strict=True):
            torch.testing.assert_close(ours, theirs, atol=0, rtol=0)


def test_an_odd_side_is_mirrored_to_a_multiple_of_shuffle_and_cropped():
    model, x = random_model(shuffle=2), torch.rand(1, 1, 61, 57)
    padded = np.pad(x[0, 0].numpy(), ((0, 1), (0, 1)), mode="reflect")
    with torch.inference_mode():
        expected = model(torch.from_numpy(padded)[None, None])[..., :61, :57]
        torch.testing.assert_close(model(x), expected)


def test_pictures_in_a_batch_do_not_mix():
    model, x = random_model(), torch.rand(3, 1, 33, 30)
    with torch.inference_mode():
        torch.testing.assert_close(model(x)[1:2], model(x[1:2]), atol=1e-5, rtol=0)


@pytest.mark.parametrize("shape", [(1, 3, 32, 32), (1, 32, 32), (1, 1, 0, 32)])
def test_wrong_shapes_are_refused(shape):
    with pytest.raises(ValueError, match=re.escape("(N, 1, H, W)")):
        SMNet(1, 4)(torch.zeros(shape))


@pytest.mark.parametrize("arguments", [(0, 4, 1), (1, 0, 1), (1, 5, 1), (1, 4, 0)])
def test_wrong_arguments_are_refused(arguments):
    with pytest.raises(ValueError, match="must be at least 1 and width even, got channels"):
        SMNet(*arguments)


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
            attended = torch.einsum("nqk,ndk->ndq", attention, value)
            attended = attended.reshape(2, 4, *region.shape[2:])
            expected[:, :, top : top + h, left : left + w] = block.out(attended) + region
    torch.testing.assert_close(block(x), expected, atol=1e-4, rtol=1e-4)


@MEMORY_FORMATS
def test_attention_never_stores_all_scores(memory_format):
    block = NonLocalBlock(8).to(memory_format=torch.channels_last)
    x = torch.randn(1, 8, 40, 40).contiguous(memory_format=memory_format)
    # It fails if only the plain kernel will do.
    with sdpa_kernel([SDPBackend.FLASH_ATTENTION]), torch.inference_mode():
        assert block(x).shape == x.shape


@pytest.mark.parametrize("skip", [True, False])
def test_a_dense_block_is_convolutions_of_concatenations(skip):
    torch.manual_seed(0)
    block = models.DenseBlock(8, 4, skip=skip)
    x = torch.randn(2, 8, 9, 11)
    maps = [x]
    for conv in block.convs:
        maps.append(F.relu(conv(torch.cat(maps, dim=1))))
    expected = block.fusion(torch.cat(maps, dim=1)) + (x if skip else 0)
    torch.testing.assert_close(block(x), expected, atol=1e-6, rtol=1e-5)


def test_a_dense_block_saves_no_concatenation_of_all_maps_for_training():
    block, saved = models.DenseBlock(16, 16), {}

    def save(tensor):
        storage = tensor.untyped_storage()
        saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(save, lambda tensor: tensor):
        block(torch.randn(1, 16, 32, 32))
    parameters = {p.untyped_storage().data_ptr() for p in block.parameters()}
    maps = sum(size for at, size in saved.items() if at not in parameters) / (4 * 16 * 32 * 32)
    assert round(maps) == 1 + (2 + 3 + 4) + 4  # the input, three concatenations, four new maps


@MEMORY_FORMATS
@pytest.mark.parametrize("height, width", [(8, 12), (9, 13)])
def test_unpooling_is_the_inverse_of_max_pooling(height, width, memory_format):
    x = torch.rand(2, 3, height, width).contiguous(memory_format=memory_format)
    pooled, indices = F.max_pool2d(x, 2, return_indices=True)
    expected = F.max_unpool2d(pooled, indices, 2, output_size=(height, width))
    unpooled = models.unpool(pooled, indices, x)
    assert torch.equal(unpooled, expected) and unpooled.is_contiguous(memory_format=memory_format)


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
        # phi's bias adds the same to all scores of a query, which softmax ignores.
        if not name.endswith("phi.bias"):
            assert parameter.grad is not None and parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize("shuffle", [1, 2])
def test_attention_of_a_pixel(shuffle):
    model = random_model(shuffle=shuffle)
    height, width = 70 * shuffle, 100 * shuffle
    x = torch.rand(1, 1, height, width)
    weights = model.attention(x, height - 1, width - 1)
    assert weights.shape == (4, 6) and weights.sum().item() == pytest.approx(1, abs=1e-5)
    block, seen = model.noise_memory.decoder[0].non_local, []
    with torch.no_grad():
        with block.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0])):
            model(x)
        keys = F.max_pool2d(block.phi(seen[0]), 2)[0].flatten(1)
        scores = block.theta(seen[0])[0, :, 7, 11] @ keys
    torch.testing.assert_close(weights.flatten(), scores.softmax(0))


def test_attention_over_the_whole_plane_needs_grid_1():
    with pytest.raises(ValueError, match="grid 4"):
        NonLocalBlock(4, grid=4).attention(torch.rand(1, 4, 16, 16), 0, 0)
