"""Finding the weights for a noise level, and what they were trained for."""

import dataclasses
from pathlib import Path
from typing import Literal

import utils
from models import SMNet
from utils import COLORS, SMNetError, describe, epochs_on_disk, run_name, shipped_file


@dataclasses.dataclass(frozen=True)
class TrainedModel:
    """A network from a file, and what the file says of its training."""

    model: SMNet  # in eval mode, on the CPU
    path: Path
    epoch: int | None
    mode: str | None  # S: one noise level, B: blind, R: real noise; None: the file does not say
    noise_range: tuple[float, float] | None  # sigmas of the training, grey levels; mode R: None


def find_model(
    channels: int,
    noiseL: float | None,
    *,
    weights: str | None,
    weights_dir: str,
    checkpoint: int | Literal["best"] | None = None,
    real: bool = False,
) -> TrainedModel:
    """The network for a noise level (None: the blind one).

    Args:
        channels: of the pictures, 1 or 3.
        noiseL: sigma that it was trained at, grey levels.
        weights: a .pth file to use instead of those in `weights_dir`.
        weights_dir: folder that train_*.py wrote to. If that is `weights` and has no matching file,
            the one in pretrained/ is used, with a notice on stdout.
        checkpoint: epoch, or "best": the weights with the highest validation PSNR; None: the
            highest epoch there is.
        real: the network that was trained on pairs of real noise.

    Raises:
        SMNetError: there are no such weights (the message names the command that makes them), or
            they are for other pictures.
    """
    path = (
        Path(weights)
        if weights
        else find_weights(channels, noiseL, weights_dir, checkpoint=checkpoint, real=real)
    )
    trained = load_trained(path)
    if trained.model.channels != channels:
        theirs = COLORS.get(trained.model.channels, f"{trained.model.channels}-channel")
        raise SMNetError(f"{path} is for {theirs} pictures, not {COLORS[channels]} ones")
    return trained


def find_weights(
    channels: int,
    noiseL: float | None,
    weights_dir: str | Path,
    *,
    checkpoint: int | Literal["best"] | None,
    real: bool,
) -> Path:
    """The file of weights that `find_model` loads.

    Raises:
        SMNetError: there is none.
    """
    run = run_name(channels, noiseL, real=real)
    epochs = epochs_on_disk(weights_dir, run)
    shipped = shipped_file(channels, noiseL, real=real)
    default_folder = Path(weights_dir) == Path("weights")
    if default_folder and not epochs and not checkpoint and shipped.is_file():
        here = Path.cwd()
        path = shipped.relative_to(here) if shipped.is_relative_to(here) else shipped
        print(f"using {path}, which comes with the project ({weights_dir} has no {run}_*.pth)")
        return path
    path = Path(weights_dir) / f"{run}_{checkpoint or (epochs[-1] if epochs else 'N')}.pth"
    if not path.is_file():
        advice = advise_on_weights(channels, noiseL, weights_dir, real=real)
        raise SMNetError(f"no weights {path}; {advice}")
    return path


def is_there(channels: int, noiseL: float | None, weights_dir: str | Path, *, real: bool) -> bool:
    """Whether `find_weights` would find such weights, of any epoch."""
    run = run_name(channels, noiseL, real=real)
    shipped = Path(weights_dir) == Path("weights") and shipped_file(channels, noiseL, real=real)
    return bool(epochs_on_disk(weights_dir, run)) or bool(shipped and shipped.is_file())


def advise_on_weights(
    channels: int, noiseL: float | None, weights_dir: str | Path, *, real: bool
) -> str:
    """The end of an error where weights are missing: what there is, and what to type next."""
    color = COLORS[channels].lower()
    names = (path.name for path in Path(weights_dir).glob(f"model_{color}_*.pth"))
    there = sorted(name for name in names if "_state" not in name)
    if real:
        command = f"train_{color}_blind.py --train_h5 train_{'gray_' * (channels == 1)}pairs.h5"
    elif noiseL is None:
        command = f"train_{color}_blind.py"
    else:
        command = f"train_{color}.py --noiseL {noiseL:g}"
    shipped = [file.stem for file in sorted(utils.PRETRAINED.glob(f"{color}_*.pth"))]
    also = f" ({utils.PRETRAINED} has {', '.join(shipped)})" if shipped else ""
    if noiseL is not None:
        also += "; the blind network will do, too: denoise.py --blind, or test_*.py --mode B"
    return (
        f"{describe(there, weights_dir)}. Train them: python {command}, or give --weights FILE"
        f"{also}"
    )


def load_trained(path: Path) -> TrainedModel:
    """Load a network, with what its file says of its training.

    Raises:
        SMNetError: as `utils.load_model`.
    """
    content = utils.read_checkpoint(path)
    model = utils.model_from_checkpoint(content, path).eval()
    mode = noise_range = None
    match content.get("noise_range", "not stated"):
        case None:
            mode = "R"
        case [float() | int() as low, float() | int() as high]:
            mode, noise_range = "S" if low == high else "B", (low, high)
    return TrainedModel(model, path, content.get("epoch"), mode, noise_range)
