"""What every script needs: errors of one line, files that are never half-written, and checkpoints.

model = utils.load_model("weights/model_gray_L25_50.pth")   # ours or the authors'
"""

import contextlib
import io
import os
import pickle
import re
import shutil
import struct
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from models import SMNet
from smnet.authors_names import translate_name


class SMNetError(Exception):
    """A user's mistake, or a missing or damaged file: one or two lines that say what was looked
    for, what is there instead, and what to type next."""


class DamagedFile(SMNetError):
    """A file that is there and can be read, but does not hold what it should."""


# ------------------------------------------------------------------------------------ writing files


@contextlib.contextmanager
def replacing(path: str | Path, *, keep: Path | None = None) -> Iterator[Path]:
    """Give a temporary path beside `path`, to be written; it takes the place of `path` when the
    block ends without error.

    So `path` is the old file or the whole new one at any moment, even if the machine is switched
    off. Makes the folder. With `keep`, the old file stays under that name.

    Raises:
        SMNetError: the folder cannot be made or written, or the disk is full.
    """
    path = check_target(path)
    temporary = temporary_path(path)
    try:
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        if keep and path.exists():
            spare = temporary.with_suffix(".keep.tmp")
            try:
                os.link(path, spare)
            except OSError:  # a file system without links
                shutil.copy2(path, spare)
            os.replace(spare, keep)
        os.replace(temporary, path)
    except OSError as error:
        raise SMNetError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def temporary_path(path: Path) -> Path:
    """What `replacing` gives for `path`."""
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


def check_target(path: str | Path) -> Path:
    """Make sure that a file can be written at `path`, whose folder is made if need be.

    Raises:
        SMNetError: `path` is a folder, or its folder cannot be made or written to.
    """
    path = Path(path)
    refuse_folder(path)
    make_folder(path.parent)
    return path


def refuse_folder(path: str | Path) -> None:
    """Raise where a file is to be written and a folder has its name.

    Raises:
        SMNetError: `path` is a folder.
    """
    if os.path.isdir(path):
        raise SMNetError(f"{path} is a folder; give the name of a file to write")


def make_folder(path: str | Path) -> Path:
    """Make a folder with its parents if it is not there.

    Raises:
        SMNetError: it cannot be made, or not be written to.
    """
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SMNetError(f"cannot make the folder {path}: {error.strerror}") from error
    if not os.access(path, os.W_OK):
        raise SMNetError(f"cannot write into the folder {path}: no permission")
    return path


def remove(path: Path) -> None:
    """Remove a file.

    Raises:
        SMNetError: it cannot be removed.
    """
    try:
        path.unlink()
    except OSError as error:
        raise SMNetError(f"cannot remove {path}: {error.strerror}") from error


# ----------------------------------------------------------------------------------- names of files


PRETRAINED = Path(__file__).parent / "pretrained"  # weights that come with SMNet: gray_B.pth, ...
COLORS = {1: "gray", 3: "RGB"}  # what pictures of so many channels are called


def run_name(channels: int, noiseL: float | None, *, real: bool = False) -> str:
    """How the names of a run's files begin: model_gray_L25, blind (`noiseL` None) model_rgb_B, real
    noise model_rgb_R."""
    level = "R" if real else "B" if noiseL is None else f"L{noiseL:g}"
    return f"model_{COLORS[channels].lower()}_{level}"


def shipped_file(channels: int, noiseL: float | None, *, real: bool = False) -> Path:
    """The file in pretrained/ for this noise, as for `run_name`; not all of them exist."""
    return PRETRAINED / f"{run_name(channels, noiseL, real=real).removeprefix('model_')}.pth"


def epochs_on_disk(weights_dir: str | Path, run: str) -> list[int]:
    """The epochs N of a run for which weights_dir/RUN_N.pth exists, in rising order."""
    matches = (
        re.fullmatch(rf"{re.escape(run)}_(\d+)\.pth", path.name)
        for path in Path(weights_dir).glob("*.pth")
    )
    return sorted(int(match[1]) for match in matches if match)


# -------------------------------------------------------------------------------------- checkpoints


def save_checkpoint(path: str | Path, content: dict, *, keep: Path | None = None) -> None:
    """Write `content` (tensors, numbers, strings, lists and dicts of them) as `replacing` does:
    never half-written.

    Raises:
        SMNetError: `path` cannot be written.
    """
    with replacing(path, keep=keep) as temporary:
        buffer = io.BytesIO()  # torch.save itself reports a full disk in a way of its own
        torch.save(content, buffer)
        temporary.write_bytes(buffer.getbuffer())


UNREADABLE = (  # what torch.load raises on damaged files, besides pickle's own error
    AssertionError, AttributeError, EOFError, IndexError, KeyError, OSError, RuntimeError,
    TypeError, ValueError, struct.error, zipfile.BadZipFile, zlib.error,
)  # fmt: skip


def read_checkpoint(path: str | Path) -> dict:
    """The dict in a checkpoint file, on the CPU. Code in it is never run: only tensors and plain
    values are read.

    Raises:
        SMNetError: the file is missing, unreadable, truncated, no checkpoint, or would run code
            when read.
    """
    path = Path(path)
    if path.is_dir():
        there = sorted(p.name for p in path.glob("*.pth"))
        raise SMNetError(f"{path} is a folder; give a .pth file; {describe(there, path)}")
    if not path.is_file():
        there = sorted(p.name for p in path.parent.glob("*.pth")) if path.parent.is_dir() else []
        raise SMNetError(
            f"no checkpoint {path}; {describe(there, path.parent)}; train_*.py writes them"
        )
    damaged = DamagedFile(f"{path} is damaged or not a PyTorch checkpoint; copy or make it again")
    try:
        file = io.BytesIO(path.read_bytes())
    except OSError as error:
        raise SMNetError(f"cannot read {path}: {error.strerror}") from None
    try:
        if zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as archive:
                if archive.testzip():  # torch.load does not look at the checksums
                    raise damaged
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pickle protocols, which torch then refuses
            file.seek(0)
            content = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if re.search("unsupported (global|class)", str(error), re.IGNORECASE):
            raise SMNetError(
                f"{path} holds more than tensors and plain values; it was not read, since that "
                "could run code. Give a file with a state dict alone"
            ) from None
        raise damaged from None
    except UNREADABLE:
        raise damaged from None
    if not isinstance(content, dict):
        raise SMNetError(f"{path} holds a {type(content).__name__}, not an SMNet checkpoint")
    return content


FIRST = "noise_memory.stem.0.weight"  # the first convolution: (width, channels, 3, 3)
# Keys that state dicts are kept under; of a training state the moving average comes first.
WRAPPERS = ("average", "model", "params_ema", "params", "state_dict")


def model_from_checkpoint(content: dict, path: str | Path) -> SMNet:
    """The network that a checkpoint's dict holds, on the CPU.

    The dict is ours (`{"model": state dict, ...}`), a bare state dict with the authors' names or
    ours, one wrapped as `params_ema`, `params` or `state_dict`, or a training state, whose moving
    average is taken where there is one. Width and channels are read from the weights. `path` is for
    the messages.

    Raises:
        SMNetError: the dict does not hold exactly an SMNet's weights, or some are NaN or infinite.
    """
    weights = state_dict_in(content, path)
    width, channels = weights[FIRST].shape[:2]
    shuffle = content.get("shuffle", 1)
    try:
        with torch.device("meta"):  # without drawing initial weights from the global generator
            model = SMNet(channels=channels // shuffle**2, width=width, shuffle=shuffle)
    except (ValueError, TypeError, ZeroDivisionError) as error:
        raise SMNetError(f"{path} holds no SMNet weights ({error})") from None
    check_shapes(weights, model.state_dict(), path)
    model.to_empty(device="cpu").load_state_dict(weights)
    for name, value in model.state_dict().items():
        if not value.isfinite().all():
            raise SMNetError(
                f"{path} holds weights that are NaN or infinite ({name!r}); use those of an "
                "earlier epoch"
            )
    return model


def state_dict_in(content: dict, path: str | Path) -> dict[str, Tensor]:
    """The state dict in a checkpoint's dict, under our parameter names.

    Raises:
        SMNetError: there is none that begins as an SMNet's.
    """
    wrapped = next((key for key in WRAPPERS if isinstance(content.get(key), dict)), None)
    weights = content[wrapped] if wrapped else content
    if wrapped == "average":
        print(f"{path} is a training state: its weights are the moving average (--ema)")
        weights = {name: value for name, value in weights.items() if name != "n_averaged"}
    named = {translate_name(str(name)): value for name, value in weights.items()}
    first = named.get(FIRST)
    if isinstance(first, Tensor) and first.ndim == 4:
        return named
    keys = [repr(str(key)[:60]) for key in weights]
    there = ", ".join(keys[:4]) + f" and {len(keys) - 4} more" * (len(keys) > 4)
    raise SMNetError(
        f"{path} holds no SMNet weights: no first convolution 'noise_memory.stem.0' or "
        f"'derain.conv1'; its {wrapped or 'top-level'} keys are {there or 'none'}"
    )


def check_shapes(weights: dict, expected: dict[str, Tensor], path: str | Path) -> None:
    """Raise an SMNetError where the names or shapes of `weights` are not those of `expected`."""
    for what, names in (
        ("lacks", expected.keys() - weights.keys()),
        ("has a foreign", weights.keys() - expected.keys()),
    ):
        if names:
            raise SMNetError(
                f"{path} is not an SMNet: it {what} {sorted(names)[0]!r} ({len(names)} such)"
            )
    for name, value in expected.items():
        shape = weights[name].shape if isinstance(weights[name], Tensor) else None
        if shape != value.shape:
            raise SMNetError(
                f"{path} is not an SMNet: {name!r} has shape {shape and tuple(shape)}, "
                f"not {tuple(value.shape)}"
            )


def load_model(path: str | Path, device: str | torch.device = "cpu") -> SMNet:
    """Load a network from one of our checkpoints or the authors', in eval mode, ready to denoise.

    Args:
        path: a `.pth` file; width and channels are read from it.
        device: where to put it, as `torch.device` takes.

    Raises:
        SMNetError: the file is missing, damaged, not an SMNet, or would run code when read.
    """
    return (
        model_from_checkpoint(read_checkpoint(path), path)
        .to(device, memory_format=torch.channels_last)
        .eval()
    )


# ----------------------------------------------------------------------------------------- messages


def describe(names: list[str], folder: str | Path) -> str:
    """The end of an error: what there is instead, at most eight names."""
    if not Path(folder).is_dir():
        return f"there is no folder {folder}"
    if not names:
        return f"{folder} has none"
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return f"in {folder} there are {', '.join(names[:8])}{more}"


def one_line(text: str) -> str:
    """Text that may hold file names, whose line breaks and undecodable bytes are escaped."""
    text = text.encode("utf-8", "backslashreplace").decode("utf-8")
    return text.replace("\r", "\\r").replace("\n", "\\n")
