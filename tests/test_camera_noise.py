"""Camera noise: pure, without bias, and as coarse as measured on real pairs."""

import dataclasses
import random

import cv2
import numpy as np
import pytest
import skimage.data
import torch
from helpers import synthetic_picture

from docs.figures.draw_camera_noise import (
    as_camera_file,
    as_saved_again,
    main,
    noise_statistics,
    to_ycc,
)
from smnet.camera_noise import SUBSAMPLING, Camera, camera_pair, develop_pair

# 5th and 95th percentiles on the training scenes of PolyU (Xu et al. 2018), by noise_statistics:
# of 80 crops, which were saved again at quality 75, and of 108 parts of full frames, which are as
# the cameras wrote them. The photographs below are softened, as sharp as a camera's are.
SAVED_AGAIN = {
    "luma, lag 1": (0.33, 0.72),
    "luma, lag 4": (0.03, 0.26),
    "chroma, lag 1": (0.86, 0.94),
    "chroma, lag 4": (0.31, 0.74),
    "luma std": (2.08, 5.14),
    "chroma std": (0.85, 2.33),
    "std at 0-63": (0.76, 1.32),
    "std at 64-127": (0.99, 1.87),
    "std at 128-191": (0.68, 2.31),
    "std at 192-255": (0.43, 0.96),
}
CAMERA_FILES = {
    "luma, lag 1": (0.19, 0.74),
    "luma, lag 4": (0.02, 0.54),
    "chroma, lag 1": (0.77, 0.88),
    "chroma, lag 4": (0.14, 0.53),
    "luma std": (2.02, 6.00),
    "chroma std": (0.99, 3.19),
    "std at 0-63": (0.76, 1.81),
    "std at 64-127": (0.94, 2.79),
    "std at 128-191": (0.61, 1.84),
    "std at 192-255": (0.38, 1.19),
}
PLAIN = dict(shot=0.0, read=0.0, quality=None, lens_blur=0.0)


@pytest.fixture(scope="module")
def photographs() -> list[np.ndarray]:
    """Three uint8 (3, 192, 192), softened by a pixel."""
    pictures = (skimage.data.astronaut(), skimage.data.coffee(), skimage.data.chelsea())
    soft = [cv2.GaussianBlur(picture, (0, 0), 1)[20:212, 100:292] for picture in pictures]
    return [np.ascontiguousarray(picture.transpose(2, 0, 1)) for picture in soft]


@pytest.fixture(scope="module")
def mixture(photographs) -> list[tuple[np.ndarray, np.ndarray]]:
    """Pairs as training draws them."""
    return [camera_pair(photographs[i % 3], np.random.default_rng(i)) for i in range(30)]


def draws(count: int, **changes) -> list[Camera]:
    cameras = [Camera.draw(np.random.default_rng(seed)) for seed in range(count)]
    return [dataclasses.replace(camera, **changes) for camera in cameras]


def test_a_pair_depends_on_the_picture_and_the_generator_alone(photographs):
    picture = photographs[0]
    before = picture.copy()
    random.seed(1), np.random.seed(2), torch.manual_seed(3), cv2.setRNGSeed(4)
    expected = random.random(), np.random.rand(), torch.rand(()), cv2.randu(np.zeros(4), 0, 1)

    random.seed(1), np.random.seed(2), torch.manual_seed(3), cv2.setRNGSeed(4)
    pairs = [camera_pair(picture, np.random.default_rng(seed)) for seed in (5, 5, 6)]
    after = random.random(), np.random.rand(), torch.rand(()), cv2.randu(np.zeros(4), 0, 1)
    assert all(np.array_equal(a, b) for a, b in zip(expected, after))
    assert np.array_equal(picture, before)
    assert np.array_equal(pairs[0], pairs[1]) and not np.array_equal(pairs[0], pairs[2])


@pytest.mark.parametrize("size", [(64, 64), (32, 32), (33, 47), (1, 5), (2, 256)])
def test_any_size(size):
    picture = synthetic_picture(0, *size, 3).transpose(2, 0, 1)
    for seed in range(8):
        for side in camera_pair(picture, np.random.default_rng(seed)):
            assert side.shape == (3, *size) and side.dtype == np.uint8
            assert side.flags.c_contiguous


def test_without_noise_both_sides_are_the_picture(photographs):
    for i, camera in enumerate(draws(12, **PLAIN)):
        camera = dataclasses.replace(camera, red=((0, 0), (0, 1), (1, 0), (1, 1))[i % 4])
        picture = photographs[i % 3]
        clean, noisy = develop_pair(picture, camera, np.random.default_rng(i))
        assert np.array_equal(clean, noisy)
        assert np.abs(clean - picture.astype(float)).mean() < 1.5  # demosaicing costs a little
        flat = np.full((3, 32, 32), [[[200]], [[120]], [[70]]], np.uint8)  # a colour comes back
        clean, _ = develop_pair(flat, camera, np.random.default_rng(i))
        assert np.abs(clean - flat.astype(int)).max() <= 1


def test_noise_does_not_shift_the_mean(mixture):
    changes = [noisy - clean.astype(float) for clean, noisy in mixture]
    shifts = [change.mean(axis=(1, 2)) for change in changes]
    dark = [change[clean < 24].mean() for change, (clean, _) in zip(changes, mixture)]
    assert np.abs(np.mean(shifts, axis=0)).max() < 0.15 and np.abs(shifts).max() < 1.5
    assert abs(np.mean(dark)) < 0.4  # noise is cut off at 0 there


@pytest.mark.parametrize("simulate", [as_saved_again, as_camera_file])
def test_noise_is_as_coarse_and_strong_as_real_noise(photographs, simulate):
    measured = {as_saved_again: SAVED_AGAIN, as_camera_file: CAMERA_FILES}[simulate]
    rows = [noise_statistics(*simulate(seed, photographs[seed % 3])) for seed in range(30)]
    for name, (low, high) in measured.items():
        median = np.nanmedian([row[name] for row in rows])
        assert low < median < high, f"{name}: {median:.2f}, real noise has {low} to {high}"


def test_the_mixture_brackets_the_real_strength(mixture):
    strengths = [noise_statistics(*pair)["luma std"] for pair in mixture]
    weak, strong = np.quantile(strengths, [0.1, 0.9])
    assert weak < SAVED_AGAIN["luma std"][0] and SAVED_AGAIN["luma std"][1] < strong


def test_in_linear_light_noise_grows_with_brightness():
    # 5th and 95th percentiles on PolyU's 80 crops, in flat places: the standard deviation of linear
    # luma at luma 0-47, 96-143, 144-191 and 192-239, relative to that at 48-95.
    real = np.array([(0.13, 0.58), (1.18, 2.43), (1.12, 3.06), (1.16, 2.89)])
    ramp = np.broadcast_to(np.arange(240, dtype=np.uint8), (3, 48, 240))
    ratios = []
    for seed in range(24):
        clean, noisy = (to_ycc(side)[0] for side in camera_pair(ramp, np.random.default_rng(seed)))
        noise = (noisy.clip(0) / 255) ** 2.2 - (clean / 255) ** 2.2
        steps = [(clean >= low) & (clean < low + 48) for low in range(0, 240, 48)]
        deviations = np.array([noise[step].std() for step in steps])
        ratios.append(np.delete(deviations, 1) / deviations[1])
    median = np.median(ratios, axis=0)
    assert (real[:, 0] < median).all() and (median < real[:, 1]).all(), median
    assert median[0] < 1 < median[1] < median[2]


def test_every_draw_is_in_range():
    cameras = draws(400)
    for camera in cameras:
        assert set(camera.red) <= {0, 1} and set(camera.offset) <= set(range(16))
        assert np.allclose(camera.matrix.sum(axis=1), 1) and np.linalg.cond(camera.matrix) < 10
        assert camera.gains.min() >= 1 and camera.gains.max() < 4.4
        assert 0 <= camera.lens_blur <= 1
        assert 0.3 <= camera.contrast <= 1 and 1e-4 <= camera.shot <= 0.012
        line = np.exp(2.18 * np.log(camera.shot) + 1.2)
        assert line / 15 < camera.read < line * 15  # 4.5 standard deviations
        assert 0.5 <= camera.luma_blur <= 1.1 and 0.7 <= camera.chroma_blur <= 1.8
        assert 2 <= camera.broad_blur <= 6 and 0 <= camera.sharpness <= 0.9
        assert 0.2 <= camera.luma_kept <= 0.8 and 0.1 <= camera.chroma_kept <= 0.6
        assert 0.5 <= camera.chroma_left <= 1 and 0.2 <= camera.detail <= 1
        assert camera.quality is None or 60 <= camera.quality <= 98
        assert camera.sharing in SUBSAMPLING
    assert {camera.red for camera in cameras} == {(0, 0), (0, 1), (1, 0), (1, 1)}
    assert 0.1 < np.mean([camera.quality is None for camera in cameras]) < 0.2
    assert min(c.quality for c in cameras if c.quality) < 64
    assert {c.sharing for c in cameras if c.quality} == set(SUBSAMPLING)


@pytest.mark.parametrize("sharing", SUBSAMPLING)
@pytest.mark.parametrize("offset", [(0, 0), (3, 6)])
def test_the_clean_side_has_the_chroma_of_jpeg(sharing, offset):
    picture = np.ascontiguousarray(skimage.data.astronaut()[:96, 100:196].transpose(2, 0, 1))
    settings = PLAIN | dict(quality=100, sharing=sharing, offset=offset)
    for i, camera in enumerate(draws(4, **settings)):
        clean, noisy = develop_pair(picture, camera, np.random.default_rng(i))
        assert np.abs(noisy - clean.astype(float)).mean() < 0.8  # rounding, no lost colour detail
        assert 0.97 < colour_detail(noisy) / colour_detail(clean) < 1.1  # rounding adds some


def colour_detail(picture):
    """Standard deviation of fine chroma, grey levels."""
    red, green, blue = picture.astype(np.float32)
    chroma = red - green, blue - green
    return np.mean([(c - cv2.GaussianBlur(c, (0, 0), 2)).std() for c in chroma])


def test_the_figure_is_drawn(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("docs.figures.draw_camera_noise.SIDE", 128)
    for folder, ending, side, names in (
        ("crops", "real", 128, ("canon_a_1", "canon_b_1", "nikon_c_1")),
        ("frames", "Real", 224, ("canon_a", "nikon_c")),
    ):
        (tmp_path / folder).mkdir()
        for i, name in enumerate(names):
            clean = synthetic_picture(i, side, side, 3)
            clean = clean / 8 + np.linspace(0, 230, side)[:, None, None]  # of all brightness
            noisy = clean + 5 * np.random.default_rng(i).standard_normal(clean.shape)
            cv2.imwrite(str(tmp_path / folder / f"{name}_mean.png"), clean)
            cv2.imwrite(str(tmp_path / folder / f"{name}_{ending}.png"), noisy.clip(0, 255))
    words = [str(tmp_path / "crops"), str(tmp_path / "frames"), "--holdout", "1"]
    assert main([*words, "--output", str(tmp_path / "out")]) == 0
    assert cv2.imread(str(tmp_path / "out" / "camera_noise.png")).shape[2] == 3
    assert "chroma, lag 4" in capsys.readouterr().out
