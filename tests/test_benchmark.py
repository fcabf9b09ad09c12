"""The benchmark's reference computes what our network does, and its figures are of the right kind;
no time is asserted."""

import json

import pytest
import torch
from torch.nn import functional as F

import benchmark
from models import SMNet


@pytest.mark.parametrize("channels", [1, 3])
def test_one_step_of_ours_and_of_the_plain_reference_have_the_same_gradients(channels):
    torch.manual_seed(0)
    ours = SMNet(channels, 16)
    for block in ours.noise_memory.decoder:
        torch.nn.init.normal_(block.non_local.out.weight, std=0.1)
    plain = benchmark.plain_reference(ours)
    ours.to(memory_format=torch.channels_last)
    clean = torch.rand(2, channels, 48, 48)
    noisy = clean + 0.1 * torch.randn_like(clean)
    for model in (ours, plain):
        F.mse_loss(model(noisy), clean).backward()
    for (name, p), q in zip(ours.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(
            p.grad, q.grad, atol=1e-5, rtol=0, msg=lambda text, name=name: f"{name}: {text}"
        )
    with torch.inference_mode():
        torch.testing.assert_close(ours(noisy), plain(noisy), atol=1e-5, rtol=0)


def test_the_work_is_the_published_networks():
    assert benchmark.multiply_adds(SMNet(1, 64), 64, 64) / 64**2 == pytest.approx(4.198e6, rel=1e-3)


def test_the_command(capsys):
    words = "--width 4 --size 32 40 --batchsize 2 --repeats 1 --device cpu --what"
    assert benchmark.main([*words.split(), "all", "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    for kind in ("forward", "train"):
        assert figures[kind]["ours"]["seconds"] > 0 and figures[kind]["speedup"] > 0
        assert figures[kind]["ours"]["peak_gb"] >= 0
    assert benchmark.main([*words.split(), "forward"]) == 0
    assert "times as fast as the plain reference" in capsys.readouterr().out
