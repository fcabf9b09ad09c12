"""What is trained on: crops with noise, each a pure function of (seed, epoch, sample), and the
order of an epoch."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import h5py
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from smnet.camera_noise import camera_pair
from smnet.images import to_channels
from smnet.patches import PATCH_PAIRS, PATCHES, open_h5
from smnet.training.augmentation import jitter_colors, orient
from smnet.training.content import describe_patches, describe_together, file_identity
from utils import SMNetError

Key = tuple[int, int]  # (epoch, index) of a sample


class PatchFile:
    """An h5 file of training patches or of pairs; each process opens it when it first reads.

    It stays open: moving or replacing the file after that changes nothing.

    Args:
        path: file made by dataset.py or dataset_gray.py.
        channels: 1 or 3, as the file.

    Attributes:
        stored: number of patches.
        side: of a patch, pixels.
        pairs: whether it holds pairs of real noise.
        val_h5: the file of validation pairs that was made with it, else None.
        description: what it holds (`content.describe_patches`).

    Raises:
        SMNetError: the file is missing or not of this kind.
    """

    def __init__(self, path: str | Path, channels: int):
        self.path, self.channels = path, channels
        self.file: h5py.File | None = None
        with open_h5(path, (PATCHES, PATCH_PAIRS), channels) as file:
            self.stored, _, self.side, _ = file["patches"].shape
            self.pairs = file.attrs["kind"] == PATCH_PAIRS
            self.val_h5 = str(Path(path).parent / file.attrs["val_h5"]) if self.pairs else None
            self.description = describe_patches(file)
            self.identity = file_identity(file)

    def __getstate__(self) -> dict:
        return {**self.__dict__, "file": None}  # an open file does not travel to a worker

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

    def close(self) -> None:
        """Close the file until it is read again."""
        if self.file is not None:
            self.file.close()
            self.file = None

    def read(self, patch: int, top: int, left: int, size: int) -> np.ndarray:
        """A crop of a patch, uint8 (1, C, size, size), or of a pair (2, ...), clean and noisy.

        Raises:
            SMNetError: the file cannot be read.
        """
        if self.file is None:
            self.open()
        inside = np.s_[patch, :, top : top + size, left : left + size]
        try:
            return np.stack([self.file[name][inside] for name in self.names])
        except OSError as error:
            raise SMNetError(f"{self.path} cannot be read: {error}") from None

    @property
    def names(self) -> tuple[str, ...]:
        """The data sets in the file."""
        return ("patches", "noisy") if self.pairs else ("patches",)


class PatchDataset(Dataset):
    """Training samples from h5 files of patches: (clean, noisy, sigma).

    An item is asked for by (epoch, index), index below draws x patches, and is a pure function of
    (seed, epoch, index): crop, one of eight orientations, and the noise. So neither workers nor
    processes nor a restart change it. clean and noisy are float32 (C, patch_size, patch_size),
    clean in [0, 1]. What noise a crop gets:

    - a pair: its own, which is real;
    - with probability `camera`: that of a random camera (`camera_noise.camera_pair`);
    - with probability `clean`: none;
    - else white noise, noisy = clean + sigma/255 * n, not clipped, sigma uniform in `noise_range`.

    sigma is a float32 scalar in grey levels 0-255, nan for real and camera noise, 0 for none.

    `crop` reads, `finish` adds white noise: a worker that reads passes uint8 crops on, an eighth of
    the bytes.

    Args:
        paths: files made by dataset.py or dataset_gray.py.
        channels: 1 or 3, as the files; with `camera` the files are RGB, and crops become gray.
        patch_size: side of the crop in pixels, at most the stored patches'.
        noise_range: (low, high) of sigma, grey levels 0-255; low == high is one known level.
        draws: how often a patch is drawn in an epoch.
        seed: of every random choice, 0 or more.
        allow_pairs: whether the files may hold pairs of real noise.
        camera: 0-1, share of the crops that are no pairs that get camera noise.
        clean: 0-1, share of the same crops that get no noise; at most 1 together with `camera`.
        color_jitter: vary the colours of crops (`jitter_colors`) before they get white noise.

    Attributes:
        stored: patches in all files.
        real: whether there is real or camera noise, which has no sigma.
        only_pairs: whether there is nothing but pairs.
        val_h5: the file of validation pairs that was made with the first pairs, else None.
        description: what the files hold (`content.describe_patches`).

    Raises:
        SMNetError: a file is missing or not of this kind, or its patches are smaller than
            `patch_size`.
    """

    def __init__(
        self,
        paths: str | Path | Sequence[str | Path],
        *,
        channels: int,
        patch_size: int,
        noise_range: tuple[float, float],
        draws: int,
        seed: int,
        allow_pairs: bool = False,
        camera: float = 0.0,
        clean: float = 0.0,
        color_jitter: bool = False,
    ):
        self.channels, self.patch_size, self.noise_range = channels, patch_size, noise_range
        self.draws, self.seed, self.camera, self.clean = draws, seed, camera, clean
        self.color_jitter = color_jitter
        paths = [paths] if isinstance(paths, str | Path) else paths
        stored_channels = 3 if camera else channels
        self.files = [PatchFile(path, stored_channels) for path in paths]
        self.stored = sum(file.stored for file in self.files)
        self.real = camera > 0 or any(file.pairs for file in self.files)
        self.only_pairs = all(file.pairs for file in self.files)
        self.val_h5 = next((file.val_h5 for file in self.files if file.pairs), None)
        self.description = describe_together([file.description for file in self.files])
        for file in self.files:
            self.check(file, allow_pairs=allow_pairs)

    def check(self, file: PatchFile, *, allow_pairs: bool) -> None:
        """Raise where a file does not suit."""
        if file.pairs and not allow_pairs:
            raise SMNetError(
                f"{file.path} holds pairs of real noise, which train_*_blind.py train on"
            )
        if self.patch_size > file.side:
            raise SMNetError(
                f"{file.path} holds patches of {file.side}x{file.side}, too small for "
                f"--patch_size {self.patch_size}; give a smaller one, or make the file anew with a "
                "larger one"
            )

    def __len__(self) -> int:
        return self.draws * self.stored

    def __getitem__(self, key: Key) -> tuple[Tensor, Tensor, Tensor]:
        return self.finish(key, self.crop(key))

    def close(self) -> None:
        """Close the files until they are read again."""
        for file in self.files:
            file.close()

    def locate(self, index: int) -> tuple[PatchFile, int]:
        """The file of a sample, and the number of its patch there."""
        patch = index % self.stored
        for file in self.files:
            if patch < file.stored:
                break
            patch -= file.stored
        return file, patch

    def draw(self, key: Key) -> tuple[np.random.Generator, int, int, int, str]:
        """(generator, top, left, orientation, noise) of a sample; noise is "pair", "camera", "none"
        or "white", and the generator's next draws are the noise's."""
        epoch, index = key
        file, _ = self.locate(index)
        # index + 1: a seed sequence cannot tell (seed, epoch, 0) from (seed, epoch), which orders
        # the epoch.
        rng = np.random.default_rng((self.seed, epoch, index + 1))
        top, left = rng.integers(file.side - self.patch_size + 1, size=2)
        orientation = rng.integers(8)
        noise = "pair" if file.pairs else "white"
        if not file.pairs and self.camera + self.clean > 0:
            share = rng.random()
            if share < self.camera + self.clean:
                noise = "camera" if share < self.camera else "none"
        return rng, int(top), int(left), int(orientation), noise

    def crop(self, key: Key) -> Tensor:
        """The crop of a sample, uint8 (1, C, patch_size, patch_size), not yet turned.

        Of data sets with real or camera noise (2, ...), clean and noisy; noisy is a copy of clean
        where white noise is to come.
        """
        rng, top, left, _, noise = self.draw(key)
        file, patch = self.locate(key[1])
        crops = file.read(patch, top, left, self.patch_size)
        if noise == "camera":
            crops = np.stack(camera_pair(crops[0], rng))
        elif self.real and noise != "pair":
            crops = np.repeat(crops, 2, axis=0)
        if crops.shape[1] > self.channels:
            crops = np.stack([to_channels(crop.transpose(1, 2, 0), 1) for crop in crops])
        return torch.from_numpy(crops)

    def finish(self, key: Key, crops: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What `crop` gave for `key` -> (clean, noisy, sigma)."""
        rng, _, _, orientation, noise = self.draw(key)
        # `astype` keeps the order in memory, by which `jitter_colors` adds up its means: one other
        # order, and the last bits differ.
        clean, *rest = (
            orient(crop, orientation).astype(np.float32) / 255 for crop in crops.numpy()
        )
        if noise in ("pair", "camera"):
            noisy, sigma = rest[0], np.nan
        else:
            if self.color_jitter:
                clean = jitter_colors(clean, rng)
            sigma = 0.0 if noise == "none" else rng.uniform(*self.noise_range)
            noisy = clean + np.float32(sigma / 255) * rng.standard_normal(clean.shape, np.float32)
        return (
            torch.from_numpy(clean),
            torch.from_numpy(noisy),
            torch.tensor(sigma, dtype=torch.float32),
        )


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
