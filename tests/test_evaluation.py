"""The loop that testing and validation share: draws of noise, protocols, and what is timed."""

import math

import numpy as np
import pytest
import torch
from helpers import synthetic_planes

from models import SMNet
from smnet import evaluation
from smnet.devices import cuda_kernels
from smnet.fast import fast, with_float32_output
from smnet.images import Picture, to_float
from smnet.metrics import add_test_noise, psnr
from smnet.tiling import Denoiser


def test_evaluate_averages_the_draws_and_clamps():
    torch.manual_seed(0)
    model, picture = SMNet(3, 4), synthetic_planes(0, 30, 33, 3)
    torch.manual_seed(7)
    stages = []
    (score,) = evaluation.evaluate(
        model, [Picture("a", picture)], sigma=50, on_stages=lambda *s: stages.append(s)
    )
    clean = to_float(picture)
    noisy = add_test_noise(clean, sigma=50, seed=12, draws=3)
    with torch.inference_mode():
        expected = [psnr(clean, model(x[None])[0].clamp(0, 1)) for x in noisy]
    assert score.psnr["SMNet"] == pytest.approx(np.mean(expected), abs=1e-4)
    assert score.psnr["noisy"] == pytest.approx(np.mean([psnr(clean, x) for x in noisy]))
    assert (
        len(stages) == 1
        and torch.equal(stages[0][1], clean)
        and torch.equal(stages[0][2], noisy[0])
    )


def scores_of(**protocol) -> evaluation.Score:
    torch.manual_seed(0)
    model = SMNet(3, 4)
    picture = synthetic_planes(0, 30, 34, 3)
    (score,) = evaluation.evaluate(
        model, [Picture("a", picture)], sigma=50, protocol=evaluation.Protocol(**protocol)
    )
    return score


def test_protocols_against_plain_formulas():
    torch.manual_seed(0)
    model = SMNet(3, 4).eval()
    clean = to_float(synthetic_planes(0, 30, 34, 3))
    noisy = add_test_noise(clean, sigma=50, seed=12, draws=3)
    with torch.inference_mode():
        outputs = [model(x[None])[0].clamp(0, 1) for x in noisy]
        clipped = [model(x.clamp(0, 1)[None])[0].clamp(0, 1) for x in noisy]
    figures = {
        "plain": ({}, [psnr(clean, x) for x in outputs]),
        "clip": ({"clip": True}, [psnr(clean, x) for x in clipped]),
        "quantize": (
            {"quantize": True},
            [psnr(clean, torch.from_numpy(np.round(x.numpy() * 255) / 255)) for x in outputs],
        ),
    }
    y = [65.481, 128.553, 24.966]
    lumas = [sum(w * plane for w, plane in zip(y, x.double())) + 16 for x in (clean, *outputs)]
    mses = [(lumas[0] - other).square().mean().item() for other in lumas[1:]]
    figures["y"] = ({"y_channel": True}, [10 * math.log10(255**2 / mse) for mse in mses])
    for name, (options, expected) in figures.items():
        assert scores_of(**options).psnr["SMNet"] == pytest.approx(np.mean(expected), abs=1e-4), (
            name
        )
    assert (
        len({round(scores_of(**options).psnr["SMNet"], 7) for options, _ in figures.values()}) == 4
    )
    assert scores_of(clip=True).psnr["noisy"] > scores_of().psnr["noisy"] + 0.5
    more = add_test_noise(clean, sigma=50, seed=12, draws=5)
    assert scores_of(repeats=5).psnr["noisy"] == pytest.approx(
        np.mean([psnr(clean, x) for x in more]), abs=1e-5
    )


def test_self_ensemble_is_the_mean_of_eight_orientations():
    torch.manual_seed(0)
    model, x = SMNet(1, 4).eval(), torch.rand(1, 30, 34)
    protocol = evaluation.Protocol(self_ensemble=True)
    with torch.inference_mode():
        results = []
        for mirrored in (False, True):
            for turns in range(4):
                turned = np.rot90(x[0].numpy()[:, ::-1] if mirrored else x[0].numpy(), turns)
                result = model(torch.from_numpy(turned.copy())[None, None])[0, 0].numpy()
                back = np.rot90(result, -turns)
                results.append(back[:, ::-1] if mirrored else back)
        mask, output = protocol.denoise(model, x)
        np.testing.assert_allclose(output[0].numpy(), np.mean(results, axis=0), atol=1e-5)
        assert torch.equal(mask, evaluation.AUTHORS.denoise(model, x)[0])


@pytest.mark.parametrize("shuffle", [1, 2])
def test_amp_is_close_and_said(shuffle):
    torch.manual_seed(0)
    model, x = with_float32_output(fast(SMNet(1, 8, shuffle).eval())), torch.rand(1, 60, 68)
    protocol = evaluation.Protocol(amp=True)
    with torch.inference_mode():
        for ours, theirs in zip(protocol.denoise(model, x), evaluation.AUTHORS.denoise(model, x)):
            assert ours.dtype == torch.float32 and not torch.equal(ours, theirs)
            assert (ours - theirs).abs().mean() < 0.01
    assert str(protocol) == "amp"


@pytest.mark.parametrize("make", [fast, lambda model: model], ids=["twin", "plain"])
def test_amp_keeps_the_output_in_float32(make):
    torch.manual_seed(0)
    model, x = with_float32_output(make(SMNet(1, 8).eval())), torch.rand(1, 60, 68)
    for protocol in (
        evaluation.Protocol(amp=True),
        evaluation.Protocol(amp=True, self_ensemble=True),
    ):
        with torch.inference_mode():
            output = protocol.denoise(model, x)[1]
        assert output.dtype == torch.float32 and len(output.unique()) > 0.9 * output.numel()


def evaluate_one(model: SMNet, **options) -> evaluation.Score:
    (score,) = evaluation.evaluate(
        model, [Picture("a", synthetic_planes(0, 30, 34))], sigma=50, **options
    )
    return score


def test_evaluation_leaves_the_global_generator_and_the_mode_alone():
    torch.manual_seed(7)
    model = SMNet(1, 4).train()
    torch.manual_seed(7)
    evaluate_one(model, warm_up=True)
    assert torch.equal(torch.rand(1), torch.rand(1, generator=torch.Generator().manual_seed(7)))
    assert model.training


def test_float32_is_exact_on_cuda_whatever_the_settings_are():
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    model, seen = SMNet(1, 4), []
    model.noise_memory.register_forward_hook(
        lambda *_: seen.append((cudnn.allow_tf32, matmul.allow_tf32, cudnn.benchmark))
    )
    with cuda_kernels(tf32=True, benchmark=True):
        evaluate_one(model)
        assert seen == [(False, False, False)]
        assert cudnn.allow_tf32 and matmul.allow_tf32 and cudnn.benchmark


def test_protocols_in_words():
    assert str(evaluation.AUTHORS) == ""
    every = evaluation.Protocol(
        repeats=2, clip=True, quantize=True, y_channel=True, amp=True, self_ensemble=True, tile=640
    )
    assert str(every) == "2 draws, clip, quantize, y channel, amp, self ensemble, tiles of 640"
    assert str(evaluation.Protocol(tile=0)) == ""


@pytest.mark.parametrize("shuffle", [1, 2])
def test_tiles_are_those_of_denoise_py(shuffle):
    torch.manual_seed(0)
    model = fast(SMNet(1, 4, shuffle).eval())
    x = torch.rand(1, 150 * shuffle, 170 * shuffle)
    with torch.inference_mode():
        mask, output = evaluation.Protocol(tile=135 * shuffle).denoise(model, x)
        whole_mask, whole = evaluation.Protocol(tile=0).denoise(model, x)
    assert torch.equal(output, Denoiser(model, tile=135 * shuffle)(x))
    assert 0 < (output - whole).abs().max() and (output - whole).abs().mean() < 0.01
    assert mask.shape == x.shape and (mask - whole_mask).abs().mean() < 0.01


def test_only_large_pictures_are_cut_unless_tiles_are_asked_for(monkeypatch):
    monkeypatch.setattr(evaluation, "WHOLE", 150 * 160)
    monkeypatch.setattr(evaluation, "LARGEST", 128)
    model, sides = SMNet(1, 4), []
    model.noise_memory.register_forward_hook(lambda _, x, y: sides.append(tuple(y.shape[2:])))
    pictures = [Picture(str(w), synthetic_planes(0, 150, w)) for w in (160, 161)]
    evaluation.evaluate(model, pictures, sigma=25)
    assert sides == [(150, 160), *[(96, 104)] * 4]
    sides.clear()
    evaluation.evaluate(model, pictures, sigma=25, protocol=evaluation.Protocol(tile=0))
    assert sides == [(150, 160), (150, 161)]


def test_warming_up_is_one_forward_more_and_changes_no_figure():
    model = SMNet(1, 4)
    forwards = []
    model.noise_memory.register_forward_hook(lambda *_: forwards.append(1))
    cold = evaluate_one(model)
    assert len(forwards) == 1
    warm = evaluate_one(model, warm_up=True)
    assert len(forwards) == 3 and warm.psnr == cold.psnr


def test_the_seconds_are_medians():
    scores = [evaluation.Score("a", {"SMNet": 30.0}, {"SMNet": 0.9}, s) for s in (1.0, 2.0, 90.0)]
    assert evaluation.averages(scores).seconds == 2.0


@pytest.mark.parametrize("protocol", [evaluation.AUTHORS, evaluation.Protocol(quantize=True)])
def test_outputs_that_are_not_finite_have_no_psnr(protocol):
    model = SMNet(1, 4)
    with torch.no_grad():
        for parameter in model.image_memory.parameters():
            parameter.mul_(1e30)
    saved = []
    score = evaluate_one(model, protocol=protocol, on_stages=lambda *stages: saved.append(stages))
    assert math.isnan(score.psnr["SMNet"]) and math.isfinite(score.psnr["noisy"]) and not saved
