"""What is trained on: crops with noise, each a pure function of (seed, epoch, sample), and the
order of an epoch."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from smnet.patches import PATCH_PAIRS, PATCHES, open_h5
from smnet.training.content import describe_patches, file_identity
from utils import SMNetError

Key = tuple[int, int]  # (epoch, index) of a sample


class PatchDataset(Dataset):
    """Training samples from an h5 file of patches: (clean, noisy, sigma).

    An item is asked for by (epoch, index), index below draws x patches, and is a pure function of
    (seed, epoch, index): crop, one of eight orientations, sigma (uniform in `noise_range`) and
    noise. So neither workers nor processes nor a restart change it. clean and noisy are float32 (C,
    patch_size, patch_size), clean in [0, 1], noisy = clean + sigma/255 * n, not clipped; sigma is a
    float32 scalar in grey levels 0-255. From a file of pairs noisy is the real one, and sigma nan.

    `crop` reads, `finish` adds the noise: a worker that reads passes uint8 crops on, an eighth of
    the bytes. The file is opened by each worker when first read, and stays open: moving or
    replacing it after that changes nothing.

    Args:
        path: file made by dataset.py or dataset_gray.py.
        channels: 1 or 3, as the file.
        patch_size: side of the crop in pixels, at most the stored patches'.
        noise_range: (low, high) of sigma, grey levels 0-255; low == high is one known level.
        draws: how often a patch is drawn in an epoch.
        seed: of every random choice, 0 or more.
        allow_pairs: whether the file may hold pairs of real noise; `noise_range` does not count
            then.
        color_jitter: vary the colours of the clean crop (`jitter_colors`) before noise is added;
            not those of pairs.

    Attributes:
        pairs: whether the file holds pairs of real noise.
        val_h5: the file of validation pairs that was made with it, else None.
        description: what the file holds (`content.describe_patches`).

    Raises:
        SMNetError: the file is missing or not of this kind, or its patches are smaller than
            `patch_size`.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        channels: int,
        patch_size: int,
        noise_range: tuple[float, float],
        draws: int,
        seed: int,
        allow_pairs: bool = False,
        color_jitter: bool = False,
    ):
        self.path, self.channels, self.patch_size = path, channels, patch_size
        self.noise_range, self.draws, self.seed = noise_range, draws, seed
        self.color_jitter = color_jitter
        self.file = None
        with open_h5(path, (PATCHES, PATCH_PAIRS), channels) as file:
            self.stored, _, self.stored_size, _ = file["patches"].shape
            self.pairs = file.attrs["kind"] == PATCH_PAIRS
            self.val_h5 = str(Path(path).parent / file.attrs["val_h5"]) if self.pairs else None
            self.description = describe_patches(file)
            self.identity = file_identity(file)
        if self.pairs and not allow_pairs:
            raise SMNetError(f"{path} holds pairs of real noise, which train_*_blind.py train on")
        if patch_size > self.stored_size:
            raise SMNetError(
                f"{path} holds patches of {self.stored_size}x{self.stored_size}, too small for "
                f"--patch_size {patch_size}; give a smaller one, or make the file anew with a "
                "larger one"
            )

    def __len__(self) -> int:
        return self.draws * self.stored

    def __getstate__(self) -> dict:
        return {**self.__dict__, "file": None}  # an open file does not travel to a worker

    def __getitem__(self, key: Key) -> tuple[Tensor, Tensor, Tensor]:
        return self.finish(key, self.crop(key))

    def open(self) -> None:
        """Open the file.

        Raises:
            SMNetError: it is gone, or another than it was when this object was made.
        """
        file = open_h5(self.path, (PATCHES, PATCH_PAIRS), self.channels)
        if file_identity(file) != self.identity:
            file.close()
            raise SMNetError(f"{self.path} was replaced while training started; start it again")
        self.file = file

    def draw(self, key: Key) -> tuple[np.random.Generator, int, int, int]:
        """(generator, top, left, orientation) of a sample; the generator's next draws are the
        noise's."""
        epoch, index = key
        # index + 1: a seed sequence cannot tell (seed, epoch, 0) from (seed, epoch), which orders
        # the epoch.
        rng = np.random.default_rng((self.seed, epoch, index + 1))
        top, left = rng.integers(self.stored_size - self.patch_size + 1, size=2)
        return rng, top, left, rng.integers(8)

    def crop(self, key: Key) -> Tensor:
        """The crop of a sample as it is stored, uint8 (1, C, patch_size, patch_size); of pairs (2,
        ...), clean and noisy."""
        if self.file is None:
            self.open()
        _, top, left, _ = self.draw(key)
        patch, size = key[1] % self.stored, self.patch_size
        crops = []
        for name in ("patches", "noisy")[: 1 + self.pairs]:
            try:
                stored = self.file[name][patch, :, top : top + size, left : left + size]
            except OSError as error:
                raise SMNetError(f"{self.path} cannot be read: {error}") from None
            crops.append(stored)
        return torch.from_numpy(np.stack(crops))

    def finish(self, key: Key, crops: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What `crop` gave for `key` -> (clean, noisy, sigma)."""
        rng, _, _, orientation = self.draw(key)
        # `astype` keeps the order in memory, by which `jitter_colors` adds up its means: one other
        # order, and the last bits differ.
        clean, *rest = (
            orient(crop, orientation).astype(np.float32) / 255 for crop in crops.numpy()
        )
        if self.pairs:
            noisy, sigma = rest[0], np.nan
        else:
            if self.color_jitter:
                clean = jitter_colors(clean, rng)
            sigma = rng.uniform(*self.noise_range)
            noisy = clean + np.float32(sigma / 255) * rng.standard_normal(clean.shape, np.float32)
        return (
            torch.from_numpy(clean),
            torch.from_numpy(noisy),
            torch.tensor(sigma, dtype=torch.float32),
        )


def orient(patch: np.ndarray, orientation: int) -> np.ndarray:
    """One of the eight orientations of a square (C, H, H): quarter turns by orientation % 4,
    mirrored from 4 on."""
    turned = np.rot90(patch, orientation % 4, axes=(1, 2))
    return turned[:, :, ::-1] if orientation >= 4 else turned


def jitter_colors(patch: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Vary the colours of a patch (C, H, W), float32 in [0, 1]: channels permuted, saturation and
    contrast changed.

    Half of all patches stay as they are. In the others the order of the channels is random, the
    distance of each pixel to its gray is multiplied by 0.5 to 2 (saturation), the distance to the
    patch's mean by 0.6 to 1.4 (contrast), both log-uniform, and the result is clipped to [0, 1]. On
    gray patches only the contrast changes.
    """
    if rng.random() < 0.5:
        return patch
    patch = patch[rng.permutation(len(patch))]
    saturation, contrast = np.exp(rng.uniform(np.log([0.5, 0.6]), np.log([2, 1.4]))).astype(
        np.float32
    )
    gray = patch.mean(axis=0, keepdims=True)
    mean = gray.mean()
    return np.clip(mean + contrast * (gray - mean + saturation * (patch - gray)), 0, 1)


class EpochBatches:
    """A batch sampler: the batches of one epoch, as lists of (epoch, index), in an order drawn from
    (seed, epoch).

    Process `rank` of `size` gets its shard of every batch: together they see what one would see.
    The last batch is left out where it is not full. `skip` leaves out that many batches at the
    beginning: those that were done before an interruption.
    """

    def __init__(self, length: int, batchsize: int, *, seed: int, rank: int = 0, size: int = 1):
        self.length, self.batchsize, self.seed = length, batchsize, seed
        self.rank, self.size = rank, size
        self.epoch, self.skip = 0, 0

    def __len__(self) -> int:
        return self.length // self.batchsize - self.skip

    def __iter__(self) -> Iterator[list[Key]]:
        order = np.random.default_rng((self.seed, self.epoch)).permutation(self.length).tolist()
        for batch in range(self.skip, self.length // self.batchsize):
            indices = order[batch * self.batchsize : (batch + 1) * self.batchsize]
            yield [(self.epoch, index) for index in indices[self.rank :: self.size]]
