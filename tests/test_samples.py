"""Training samples: each a function of (seed, epoch, index), whatever the workers."""

import pickle
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from helpers import write_pairs
from torch.utils.data import DataLoader

import dataset
from smnet.training.samples import EpochBatches, PatchDataset, orient
from utils import SMNetError


def patches_of(gray_h5, **changed) -> PatchDataset:
    settings = dict(channels=1, patch_size=32, noise_range=(0, 55), draws=2, seed=5)
    return PatchDataset(gray_h5[0], **{**settings, **changed})


def test_a_sample_is_a_function_of_seed_epoch_and_index(gray_h5):
    samples = patches_of(gray_h5)
    assert len(samples) == 2 * 12
    clean, noisy, sigma = samples[3, 7]
    assert (
        clean.shape == noisy.shape == (1, 32, 32)
        and clean.dtype == noisy.dtype == sigma.dtype == torch.float32
    )
    torch.rand(10)
    np.random.rand(10)
    again = pickle.loads(pickle.dumps(samples))  # as it travels to a worker that is not forked
    for ours, theirs in zip(again[3, 7], (clean, noisy, sigma)):
        assert torch.equal(ours, theirs)
    for other in (samples[4, 7], samples[3, 8], samples[3, 19], patches_of(gray_h5, seed=6)[3, 7]):
        assert not torch.equal(other[1], noisy)


def test_noise_is_white_gaussian_of_the_level_and_not_clipped(gray_h5):
    samples = patches_of(gray_h5, noise_range=(50, 50), patch_size=48)
    items = [samples[0, i] for i in range(24)]
    assert all(sigma == 50 for _, _, sigma in items)
    noise = torch.stack([noisy - clean for clean, noisy, _ in items]) * 255 / 50
    assert abs(noise.mean()) < 0.02 and abs(noise.std() - 1) < 0.02
    assert abs((noise[..., 1:] * noise[..., :-1]).mean()) < 0.02
    assert (
        min(noisy.min() for _, noisy, _ in items) < 0
        and max(noisy.max() for _, noisy, _ in items) > 1
    )


def test_blind_levels_fill_their_range(gray_h5):
    samples = patches_of(gray_h5)
    sigmas = np.array([samples[epoch, i][2] for epoch in range(10) for i in range(24)])
    assert 0 <= sigmas.min() < 5 and 50 < sigmas.max() <= 55 and abs(sigmas.mean() - 27.5) < 4


def test_the_eight_orientations_are_distinct():
    patch = np.arange(9).reshape(1, 3, 3)
    assert len({orient(patch, i).tobytes() for i in range(8)}) == 8


@pytest.fixture(scope="session")
def mixed_h5(rgb_h5, tmp_path_factory) -> list[Path]:
    """RGB patches, and pairs of them with noise of 12 grey levels."""
    folder = tmp_path_factory.mktemp("mixed_h5")
    write_pairs(folder / "pictures", [f"{scene}_{i}" for scene in ("a", "b", "c") for i in (1, 2)])
    words = f"--train_dir {folder}/pictures --pairs *_real* *_mean* --holdout 2 --patch_size 48"
    words += f" --train_h5 {folder}/train.h5 --val_h5 {folder}/val.h5"
    assert dataset.main(words.split()) == 0
    return [rgb_h5[0], folder / "train.h5"]


def test_pairs_camera_noise_and_white_noise_mix(mixed_h5):
    mixed = dict(channels=3, allow_pairs=True, camera=0.5, noise_range=(40, 40), draws=8)
    samples = PatchDataset(mixed_h5, patch_size=32, seed=5, **mixed)
    photographs, pairs = (file.stored for file in samples.files)
    assert samples.real and not samples.only_pairs and len(samples) == 8 * (photographs + pairs)
    levels = {"pair": [], "camera": [], "white": []}
    for index in range(len(samples)):
        clean, noisy, sigma = samples[0, index]
        is_pair = index % samples.stored >= photographs
        kind = "pair" if is_pair else "camera" if torch.isnan(sigma) else "white"
        levels[kind].append(255 * (noisy - clean).std().item())
        assert kind == "white" or 0 <= noisy.min() and noisy.max() <= 1
        assert is_pair <= bool(torch.isnan(sigma))
    assert len(levels["pair"]) == 8 * pairs and max(levels["pair"]) < 15
    assert 37 < min(levels["white"]) and max(levels["white"]) < 43
    assert 0.35 < len(levels["camera"]) / (8 * photographs) < 0.65
    for key in ((0, 3), (1, samples.stored - 1)):
        for ours, again in zip(samples[key], pickle.loads(pickle.dumps(samples))[key]):
            assert torch.equal(ours.nan_to_num(), again.nan_to_num())


def test_a_share_of_clean_crops_is_left_as_it_is(mixed_h5):
    mixed = dict(patch_size=32, noise_range=(40, 40), draws=8, seed=5, camera=0.4)
    samples = PatchDataset(mixed_h5[0], channels=3, clean=0.4, **mixed)
    without = PatchDataset(mixed_h5[0], channels=3, clean=0.0, **mixed)
    untouched = 0
    for index in range(len(samples)):
        clean, noisy, sigma = samples[0, index]
        assert (sigma == 0) == torch.equal(clean, noisy)
        untouched += bool(sigma == 0)
        if torch.isnan(sigma):  # the same crops get a camera's noise
            assert torch.equal(noisy, without[0, index][1])
    assert 0.25 < untouched / len(samples) < 0.55


def test_gray_camera_noise_is_the_gray_of_colour(mixed_h5):
    mixed = dict(patch_size=32, noise_range=(0, 55), draws=1, seed=5, camera=1.0)
    colour, gray = (
        PatchDataset(mixed_h5[0], channels=channels, **mixed)[0, 4] for channels in (3, 1)
    )
    weights = torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)
    for ours, theirs in zip(gray[:2], colour[:2]):
        assert ours.shape == (1, 32, 32)
        assert (ours - (theirs * weights).sum(0, keepdim=True)).abs().max() < 1 / 255


def test_workers_and_global_generators_change_nothing(gray_h5):
    torch.manual_seed(0)
    np.random.seed(0)
    batches = EpochBatches(24, 4, seed=5)
    batches.epoch = 2
    seen = []
    for workers in (0, 2):
        loader = DataLoader(
            patches_of(gray_h5),
            batch_sampler=batches,
            num_workers=workers,
            generator=torch.Generator(),
        )
        seen.append(torch.cat([noisy for _, noisy, _ in loader]))
    assert torch.equal(*seen)
    after = torch.rand(1), np.random.rand()
    torch.manual_seed(0)
    np.random.seed(0)
    assert after == (torch.rand(1), np.random.rand())


def test_an_epoch_is_every_draw_once_in_an_order_of_its_own():
    batches = EpochBatches(26, 4, seed=0)
    epochs = []
    for epoch in (0, 1):
        batches.epoch = epoch
        keys = [key for batch in batches for key in batch]
        assert {e for e, _ in keys} == {epoch}
        epochs.append([index for _, index in keys])
        assert (
            len(batches) == 6 and len(set(epochs[-1])) == 24 and set(epochs[-1]) <= set(range(26))
        )
    assert epochs[0] != epochs[1]
    batches.skip = 2
    assert [index for batch in batches for _, index in batch] == epochs[1][8:] and len(batches) == 4


def test_wrong_h5_files_are_one_line(gray_h5, tmp_path):
    train, val = gray_h5
    cut, text = tmp_path / "cut.h5", tmp_path / "text.h5"
    cut.write_bytes(train.read_bytes()[:5000])
    text.write_text("hello")
    with h5py.File(tmp_path / "foreign.h5", "w") as file:
        file["x"] = 1
    for path, channels, said in (
        (tmp_path / "none.h5", 1, "there are cut.h5, foreign.h5, text.h5"),
        (cut, 1, "damaged"),
        (text, 1, "damaged"),
        (tmp_path / "foreign.h5", 1, "something else"),
        (val, 1, "smnet validation pictures, not smnet training patches"),
        (train, 3, "has 1 channels, this script needs 3; make it: python dataset.py"),
    ):
        with pytest.raises(SMNetError) as caught:
            PatchDataset(
                path, channels=channels, patch_size=32, noise_range=(25, 25), draws=1, seed=0
            )
        assert said in str(caught.value) and "python dataset" in str(caught.value)
    with pytest.raises(SMNetError, match="too small for --patch_size 64"):
        patches_of(gray_h5, patch_size=64)
