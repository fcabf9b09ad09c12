"""Between noisy and denoised: exact at both ends, luma and colour apart."""

import pytest
import torch

from smnet.strength import LUMA, noise_found, take_out


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
