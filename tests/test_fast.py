"""Fast twins: the network's own results, to rounding, from its own parameters, in less memory."""

import copy

import pytest
import torch
from golden import CASES, assert_golden, golden_input, golden_models, random_model
from torch import nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from models import DenseBlock, Fusion, NonLocalBlock, SMNet
from smnet.fast import (
    FastDenseBlock,
    FastFusion,
    FastNonLocalBlock,
    collapse,
    collapse_tails,
    fast,
    for_inference,
    rows_at_a_time,
)

MEMORY_FORMATS = pytest.mark.parametrize(
    "memory_format", [torch.contiguous_format, torch.channels_last], ids=["NCHW", "channels_last"]
)
TWINS = pytest.mark.parametrize("make_twin", [fast, collapse_tails])


def assert_same(twin: SMNet, model: SMNet, x: torch.Tensor, tolerance: float = 1e-5) -> None:
    """The stages agree, relative to the greatest value of each."""
    with torch.no_grad():
        for ours, theirs in zip(twin.stages(x), model.stages(x), strict=True):
            assert ours.shape == theirs.shape
            assert (ours - theirs).abs().max() <= tolerance * theirs.abs().max()


@pytest.fixture(scope="module")
def authors_models(tmp_path_factory) -> dict[int, SMNet]:
    return golden_models(tmp_path_factory.mktemp("authors"))


@MEMORY_FORMATS
@TWINS
@pytest.mark.parametrize("case", [*CASES[:-1], pytest.param(CASES[-1], marks=pytest.mark.slow)])
def test_a_twin_agrees_with_the_authors_network(authors_models, case, make_twin, memory_format):
    x = golden_input(case).contiguous(memory_format=memory_format)
    model = authors_models[x.shape[1]].to(memory_format=memory_format)
    assert_golden(make_twin(model).stages(x), case)


@TWINS
@pytest.mark.parametrize("width", [4, 16, 32])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("shuffle", [1, 2])
def test_a_twin_agrees_with_its_network(make_twin, shuffle, channels, width):
    model = random_model(channels, width, shuffle)
    assert_same(make_twin(model), model, torch.rand(2, channels, 61, 75))


@pytest.mark.parametrize("shuffle", [1, 2])
@pytest.mark.parametrize("height", [1, 2, 7, 28, 29, 53, 101])
def test_any_size(height, shuffle):
    # In double precision, since mirrored borders give equal values to pool, and rounding decides
    # which is the greatest: the few values that depend on it differ by more than rounding.
    model = random_model(3, 8, shuffle).double()
    twin = fast(model)
    for width in (1, 9, 28, 41, 64):
        x = torch.rand(1, 3, height, width, dtype=torch.float64)
        assert_same(twin, model, x, tolerance=1e-4)
        with torch.no_grad():
            assert (twin(x) - model(x)).abs().median() < 1e-9


@MEMORY_FORMATS
@pytest.mark.parametrize("weights_format", [torch.contiguous_format, torch.channels_last])
def test_memory_formats(memory_format, weights_format):
    model = random_model(1, 16).to(memory_format=weights_format)
    x = torch.rand(2, 1, 230, 70).contiguous(memory_format=memory_format)
    assert_same(fast(model), model, x)


@TWINS
def test_double_precision(make_twin):
    model = random_model(3, 16).double()
    assert_same(make_twin(model), model, torch.rand(1, 3, 40, 50).double(), tolerance=1e-12)


def test_a_call_gives_the_last_stage():
    twin, x = fast(random_model()), torch.rand(1, 1, 40, 30)
    assert torch.equal(twin(x), twin.stages(x)[2])


@pytest.mark.parametrize("shuffle", [1, 2])
def test_attention_of_a_pixel(shuffle):
    model, x = random_model(1, 8, shuffle), torch.rand(1, 1, 70, 100)
    torch.testing.assert_close(fast(model).attention(x, 35, 60), model.attention(x, 35, 60))


def test_wrong_shapes_are_refused():
    with pytest.raises(ValueError, match="expected a tensor"):
        fast(random_model())(torch.zeros(1, 3, 32, 32))


@TWINS
def test_a_twin_has_no_gradients(make_twin):
    twin = make_twin(random_model())
    assert not any(stage.requires_grad for stage in twin.stages(torch.rand(1, 1, 30, 30)))


@TWINS
def test_a_twin_leaves_its_network_as_it_was(make_twin):
    model = random_model(1, 16)
    before, modules = copy.deepcopy(model.state_dict()), list(model.modules())
    make_twin(model)(torch.rand(1, 1, 40, 40))
    assert list(model.modules()) == modules
    assert all(parameter.requires_grad for parameter in model.parameters())
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_a_twin_shares_the_parameters_that_it_uses_as_they_are():
    model = random_model(1, 16)
    twin = fast(model)
    assert twin.noise_memory.stem[0].weight is model.noise_memory.stem[0].weight
    ours, theirs = (m.image_memory.contextual[1].dilated for m in (twin, model))
    assert ours.weight is theirs.weight
    kernel = twin.image_memory.fusion.pointwise.kernels[0]  # a view
    assert kernel.data_ptr() == model.image_memory.fusion.pointwise.weight.data_ptr()


def test_a_twin_holds_no_more_numbers_than_its_network():
    model = random_model(1, 64)
    twin, own = fast(model), {p.untyped_storage().data_ptr() for p in model.parameters()}
    tensors = list(twin.parameters())
    for block in twin.modules():
        if isinstance(block, FastDenseBlock):
            tensors.append(block.kernel)
            for group in block.groups:
                tensors += [group.bias, *group.before, *group.within, group.fusion]
    stores = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
    prepared = sum(size for at, size in stores.items() if at not in own) / 4
    assert prepared < 1.02 * sum(p.numel() for p in model.parameters())


def test_kernels_are_prepared_once_so_a_twin_does_not_follow_its_network():
    model, x = random_model(1, 16), torch.rand(1, 1, 40, 40)
    twin = fast(model)
    before = twin(x)
    with torch.no_grad():
        for block in model.modules():
            if isinstance(block, DenseBlock):
                block.convs[0].weight.mul_(2)
    assert torch.equal(twin(x), before)
    assert_same(fast(model), model, x)


def test_making_a_twin_draws_no_random_numbers():
    model = random_model()
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    fast(model)
    assert torch.equal(torch.rand(1), expected)


# -------------------------------------------------------------------------------- where it is used


def test_on_a_cpu_inference_runs_a_twin():
    model, x = random_model(), torch.rand(1, 1, 30, 30)
    assert torch.equal(for_inference(model)(x), fast(model)(x))


def test_a_twin_is_not_converted_again():
    twin = fast(random_model())
    assert for_inference(twin) is twin


@pytest.mark.parametrize("module", [SMNet(1, 4).to("meta"), nn.Conv2d(1, 1, 3)])
def test_other_devices_and_modules_run_as_they_are(module):
    assert for_inference(module) is module


# ------------------------------------------------------------------------------------------ blocks


@MEMORY_FORMATS
@pytest.mark.parametrize("growth", [4, 16, 32], ids=["one group", "two groups", "four groups"])
@pytest.mark.parametrize(
    "batch, height, width, rows, strips",
    [(1, 128, 20, 64, 2), (1, 201, 33, 64, 3), (2, 300, 17, 64, 4), (1, 41, 12, 3, 11)],
    ids=["two", "three", "batch", "last is one row"],
)
def test_a_dense_block_in_strips(growth, batch, height, width, rows, strips, memory_format):
    torch.manual_seed(0)
    plain = DenseBlock(8, growth).to(memory_format=memory_format)
    x = torch.randn(batch, 8, height, width).contiguous(memory_format=memory_format)
    with torch.no_grad():
        block = FastDenseBlock(plain, strip_bytes=1, least_rows=rows)
        assert len(block.strips(x)) == strips
        assert torch.allclose(block(x), plain(x), atol=1e-6)


@pytest.mark.parametrize("skip", [True, False])
def test_a_dense_block_in_one_strip(skip):
    torch.manual_seed(0)
    plain, x = DenseBlock(8, 16, skip=skip), torch.randn(2, 8, 20, 30)
    with torch.no_grad():
        block = FastDenseBlock(plain)
        assert block.strips(x) == [(0, 20)]
        assert torch.allclose(block(x), plain(x), atol=1e-6)


def test_strips_have_about_the_bytes_asked_for():
    x = torch.empty(1, 4, 100, 10)  # 16,000 bytes
    assert rows_at_a_time(x, 4000, 1) == 25
    assert rows_at_a_time(x, 4000, 40) == 50  # strips of fewer than 40 rows are not made
    assert rows_at_a_time(x, 10**6, 1) == 100


def test_maps_are_fused_in_pieces_as_they_come():
    torch.manual_seed(0)
    plain = Fusion(32, 3)
    maps = [torch.randn(1, 32, 400, 300) for _ in range(3)]  # 15 MB each, added by halves
    with torch.no_grad():
        fused = FastFusion(plain)(iter(maps))
        assert torch.allclose(fused, plain(maps), atol=1e-5)


@pytest.mark.parametrize("width", [8, 32])
@pytest.mark.parametrize("grid, h, w", [(1, 9, 11), (4, 17, 14), (4, 16, 22)])
def test_padded_attention_gives_the_same(width, grid, h, w):
    torch.manual_seed(0)
    plain, x = NonLocalBlock(width, grid), torch.randn(2, width, h, w)
    nn.init.normal_(plain.out.weight)
    with torch.no_grad():
        block = FastNonLocalBlock(plain)
        assert block.theta.out_channels == 16
        torch.testing.assert_close(block(x), plain(x), atol=1e-5, rtol=1e-5)


def test_attention_never_stores_all_scores():
    block = fast(random_model(1, 8)).noise_memory.decoder[0].non_local
    with sdpa_kernel([SDPBackend.FLASH_ATTENTION]), torch.inference_mode():
        assert block(torch.randn(1, 8, 40, 40)).shape == (1, 8, 40, 40)


@pytest.mark.parametrize("channels, collapsed", [(1, True), (3, True), (4, False)])
def test_two_convolutions_collapse_where_that_is_less_work(channels, collapsed):
    torch.manual_seed(0)
    first, second = nn.Conv2d(5, 32, 3, padding=1), nn.Conv2d(32, channels, 3, padding=1)
    x = torch.randn(2, 5, 7, 9)
    with torch.no_grad():
        both = collapse(first, second.weight, second.bias)
        assert both[0].out_channels == (9 * channels if collapsed else 32)
        torch.testing.assert_close(both(x), second(first(x)), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("height, width", [(28, 28), (31, 45)])
def test_the_collapsed_tail_is_shuffle_convolution_and_bilinear_halving(height, width):
    model = random_model(3, 8)
    features, stage = torch.randn(1, 8, height, width), model.image_memory
    with torch.no_grad():
        doubled = stage.project(F.pixel_shuffle(stage.expand(features), 2))
        expected = F.interpolate(doubled, scale_factor=0.5, mode="bilinear", align_corners=False)
        ours = collapse_tails(model).image_memory.tail(features)
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-5)
