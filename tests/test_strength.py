"""Between noisy and denoised: exact at both ends, luma and colour apart."""

import pytest
import torch

from smnet.strength import LUMA, keep_brightness, noise_found, take_out


@pytest.fixture
def pictures() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(3, 20, 30, generator=generator), torch.rand(3, 20, 30, generator=generator)


def luma(picture: torch.Tensor) -> torch.Tensor:
    return torch.einsum("c,chw->hw", torch.tensor(LUMA), picture)


def test_the_ends_are_exact(pictures):
    noisy, denoised = pictures
    assert torch.equal(take_out(noisy, denoised), denoised)
    assert torch.equal(take_out(noisy, denoised, strength=0), noisy)
    assert torch.equal(take_out(noisy, denoised, strength=0, chroma=0), noisy)
    assert torch.equal(take_out(noisy, denoised, strength=100, chroma=100), denoised)


def test_half_is_half_way(pictures):
    noisy, denoised = pictures
    torch.testing.assert_close(take_out(noisy, denoised, strength=50), (noisy + denoised) / 2)


def test_colour_noise_alone_keeps_the_luma(pictures):
    noisy, denoised = pictures
    result = take_out(noisy, denoised, strength=0, chroma=100)
    torch.testing.assert_close(luma(result), luma(noisy))
    colours, theirs = (picture - luma(picture) for picture in (result, denoised))
    torch.testing.assert_close(colours, theirs)


def test_gray_pictures_have_no_colour_noise(pictures):
    noisy, denoised = (picture[:1] for picture in pictures)
    assert torch.equal(take_out(noisy, denoised, strength=0, chroma=100), noisy)


def test_the_noise_found_is_a_standard_deviation_in_grey_levels():
    noisy = torch.zeros(1, 100, 100)
    noisy[:, ::2] = 20 / 255
    assert noise_found(noisy, torch.full_like(noisy, 0.3)) == pytest.approx(10)


def test_a_networks_shift_of_a_channel_is_undone():
    generator = torch.Generator().manual_seed(1)
    clean = 0.2 + 0.6 * torch.rand(3, 200, 300, generator=generator)
    noisy = clean + 0.02 * torch.randn(clean.shape, generator=generator)
    shifts = torch.tensor([0.6, -0.4, 0.0]).view(3, 1, 1) / 255
    kept = keep_brightness(noisy, clean + shifts)
    assert (kept.mean((1, 2)) - noisy.mean((1, 2))).abs().max() < 1e-6
    torch.testing.assert_close(kept, clean, atol=0.1 / 255, rtol=0)


def test_where_noise_is_cut_off_the_mean_may_change():
    generator = torch.Generator().manual_seed(1)
    clean = torch.zeros(1, 200, 300)
    clean[:, 100:] = 0.5
    noisy = (clean + 0.1 * torch.randn(clean.shape, generator=generator)).clamp(0, 1)
    assert noisy[:, :100].mean() > 0.03  # black has become gray
    torch.testing.assert_close(keep_brightness(noisy, clean), clean, atol=0.3 / 255, rtol=0)


def test_dark_tones_in_strong_noise_are_not_made_brighter():
    generator = torch.Generator().manual_seed(1)
    clean = 0.12 + 0.1 * torch.rand(1, 200, 300, generator=generator)
    noisy = (clean + 50 / 255 * torch.randn(clean.shape, generator=generator)).clamp(0, 1)
    assert torch.equal(keep_brightness(noisy, clean), clean)


def test_small_pictures_change_by_one_grey_level_at_most():
    noisy, denoised = torch.full((3, 1, 1), 0.6), torch.full((3, 1, 1), 0.5)
    assert torch.equal(keep_brightness(noisy, denoised), denoised + 1 / 255)
    black = torch.zeros(1, 4, 4)
    assert torch.equal(keep_brightness(black + 0.1, black), black)
