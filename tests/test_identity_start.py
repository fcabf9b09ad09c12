"""`--identity_start`: training begins at a network that passes the picture on."""

import pytest
import torch
from training_helpers import EVERY_OPTION, final_weights, folders

import train_gray
from models import SMNet
from smnet.metrics import to_db
from smnet.training.identity import start_as_identity
from utils import SMNetError


@pytest.mark.parametrize(
    "channels, width, shuffle", [(1, 4, 1), (3, 4, 1), (1, 16, 1), (1, 32, 2), (3, 32, 2)]
)
def test_the_network_starts_as_about_the_identity(channels, width, shuffle):
    torch.manual_seed(3)
    x = torch.rand(1, channels, 61, 70)
    plain = SMNet(channels, width, shuffle)
    with torch.no_grad():
        before = (plain(x) - x).square().mean().item()
        after = (start_as_identity(plain)(x) - x).square().mean().item()
    assert to_db(before) < 10 and to_db(after) > 33


def test_nothing_but_the_random_part_differs_from_the_picture():
    """With those weights at zero it is the identity, to the rounding."""
    model, x = start_as_identity(SMNet(1, 8, 2)), 0.25 + torch.rand(1, 1, 64, 64) / 2
    with torch.no_grad():
        model.image_memory.project.weight[:, 4:] = 0
        mask, residual, output = model.stages(x)
    torch.testing.assert_close(output, residual, rtol=0, atol=1e-5)
    assert mask.abs().max() < 0.2


def test_every_layer_still_learns():
    """No gradient is zero but those behind the non-local blocks' zero weights."""
    torch.manual_seed(0)
    model, x = start_as_identity(SMNet(1, 16)), torch.rand(2, 1, 48, 48)
    (model(x) - x.flip(3)).square().mean().backward()
    silent = {n for n, p in model.named_parameters() if not p.grad.abs().max() > 0}
    assert all("non_local" in name for name in silent)


def test_too_narrow_a_network_is_said(train_args):
    with pytest.raises(SMNetError, match="--identity_start needs a --width of at least 16"):
        train_gray.main([*train_args, "--identity_start", "--shuffle", "4"])


def test_a_run_starts_from_it_and_init_comes_before_it(train_args, tmp_path):
    one_step = ["--identity_start", "--max_steps", "1", "--lr", "1e-9"]
    train_gray.main([*train_args, *one_step])
    weights = final_weights(tmp_path, "model_gray_L25_1.pth")
    stem = weights["image_memory.stem.0.weight"]
    assert stem[0, 0, 1, 1] == pytest.approx(1, abs=1e-6)
    init = tmp_path / "weights" / "model_gray_L25_1.pth"
    elsewhere = folders(tmp_path / "b")
    seed = ["--seed", "5", "--init", str(init)]
    train_gray.main([*train_args, *one_step, *seed, *elsewhere])
    again = final_weights(tmp_path / "b", "model_gray_L25_1.pth")
    for name, weight in weights.items():
        torch.testing.assert_close(again[name], weight, rtol=0, atol=1e-6)
    assert "--identity_start" in EVERY_OPTION  # so the tests of resuming try it, too
