"""What every script needs: errors of one line, files that are never half-written, and checkpoints.

model = utils.load_model("weights/model_gray_L25_50.pth")   # ours or the authors'
"""

import contextlib
import io
import os
import pickle
import re
import shutil
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from models import SMNet


class SMNetError(Exception):
    """A user's mistake or a missing or damaged file, in a line or two: what, where, what is there
    instead, what to type."""


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
    if os.path.isdir(path):
        raise SMNetError(f"{path} is a folder; give the name of a file to write")
    make_folder(path.parent)
    return path


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


# -------------------------------------------------------------------------------------- checkpoints


PRETRAINED = (
    Path(__file__).parent / "pretrained"
)  # weights that come with the project: gray_B.pth, rgb_L25.pth, ...


def run_name(channels: int, noiseL: float | None, *, real: bool = False) -> str:
    """The name that a run's files begin with: model_gray_L25, `noiseL` None: model_rgb_B (blind),
    real noise: model_rgb_R."""
    level = "R" if real else "B" if noiseL is None else f"L{noiseL:g}"
    return f"model_{'gray' if channels == 1 else 'rgb'}_{level}"


def shipped_file(channels: int, noiseL: float | None, *, real: bool = False) -> Path:
    """Where the weights for this noise that come with the project would be (`run_name`); not all
    are there."""
    return PRETRAINED / f"{run_name(channels, noiseL, real=real).removeprefix('model_')}.pth"


def epochs_on_disk(weights_dir: str | Path, run: str) -> list[int]:
    """The epochs N of a run for which weights_dir/RUN_N.pth is there, rising."""
    matches = (
        re.fullmatch(rf"{re.escape(run)}_(\d+)\.pth", path.name)
        for path in Path(weights_dir).glob("*.pth")
    )
    return sorted(int(match[1]) for match in matches if match)


# The authors' parameter names -> ours, tried in order, each replacement on what the one before
# left. Their names mislead: `derain` is the noise stage, `sr` the image stage, `up_1..3` the
# encoder, `down_3, down_2, down_1` the decoder.
AUTHORS_NAMES: list[tuple[str, str | Callable[[re.Match], str]]] = [
    (r"^module\.", ""),
    (r"^derain\.down_([21])_fusion\.", lambda m: f"noise_memory.merges.{2 - int(m[1])}."),
    (r"^derain\.fusion\.0\.", "noise_memory.merges.2."),
    (r"^derain\.fusion\.1\.", "noise_memory.head.0."),
    (r"^derain\.final_conv\.0\.", "noise_memory.head.1."),
    (r"^derain\.up_([123])\.", lambda m: f"noise_memory.encoder.{int(m[1]) - 1}."),
    (r"^derain\.down_([123])\.", lambda m: f"noise_memory.decoder.{3 - int(m[1])}."),
    (r"^derain\.conv([12])\.", lambda m: f"noise_memory.stem.{int(m[1]) - 1}."),
    (r"^sr\.conv([12])\.", lambda m: f"image_memory.stem.{int(m[1]) - 1}."),
    (
        r"^sr\.dense_([1-9])\.",
        lambda m: "image_memory.contextual.{}.dense.{}.".format(*divmod(int(m[1]) - 1, 3)),
    ),
    (r"^sr\.dilate_([123])\.0\.", lambda m: f"image_memory.contextual.{int(m[1]) - 1}.dilated."),
    (r"^sr\.fusion\.0\.", "image_memory.fusion.pointwise."),
    (r"^sr\.fusion\.1\.", "image_memory.fusion.conv."),
    (r"^sr\.UPNet\.0\.", "image_memory.expand."),
    (r"^sr\.UPNet\.2\.", "image_memory.project."),
    (r"\.region_non_local\.non_local_block\.", ".non_local."),
    (r"\.non_local\.(phi|g)\.0\.", r".non_local.\1."),
    (r"\.non_local\.W\.", ".non_local.out."),
    (r"\.conv_list\.([0-3])\.0\.", r".convs.\1."),
    (r"\.fusion\.0\.(weight|bias)$", r".fusion.\1"),
]


def translate_name(name: str) -> str:
    """A parameter's name in the authors' checkpoints (with or without `module.`) -> its name here;
    ours stay as they are."""
    for pattern, replacement in AUTHORS_NAMES:
        name = re.sub(pattern, replacement, name)
    return name


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


def read_checkpoint(path: str | Path) -> dict:
    """The dict in a checkpoint file, on the CPU. Code in it is never run: only tensors and plain
    values are read.

    Raises:
        SMNetError: the file is missing, unreadable, truncated, no checkpoint, or would run code
            when read.
    """
    path = Path(path)
    if not path.is_file():
        there = sorted(p.name for p in path.parent.glob("*.pth")) if path.parent.is_dir() else []
        raise SMNetError(
            f"no checkpoint {path}; {describe(there, path.parent)}; train_*.py writes them"
        )
    damaged = DamagedFile(f"{path} is no PyTorch checkpoint or is damaged; copy or make it again")
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
            warnings.simplefilter(
                "ignore"
            )  # torch warns of pickle protocols before it refuses them
            file.seek(0)
            content = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if re.search("unsupported (global|class)", str(error), re.IGNORECASE):
            raise SMNetError(
                f"{path} holds more than tensors and plain values; it was not read, since that could run code. "
                "Give a file with a state dict alone"
            ) from None
        raise damaged from None
    except (
        RuntimeError,
        EOFError,
        ValueError,
        KeyError,
        OSError,
        TypeError,
        AttributeError,
        IndexError,
        zipfile.BadZipFile,
    ):
        raise damaged from None
    if not isinstance(content, dict):
        raise SMNetError(f"{path} holds a {type(content).__name__}, not an SMNet checkpoint")
    return content


def model_from_checkpoint(content: dict, path: str | Path) -> SMNet:
    """The network that a checkpoint's dict holds, on the CPU: our `{"model": state dict, ...}` or
    the authors' bare state dict.

    Of a training state it is the moving average, where the run has one. Width and channels are read
    from the weights. `path` is for the messages.

    Raises:
        SMNetError: the dict does not hold exactly an SMNet's weights.
    """
    weights = weights_in(content, path)
    if isinstance(weights, dict):
        weights = {translate_name(str(name)): value for name, value in weights.items()}
    stem = weights.get("noise_memory.stem.0.weight") if isinstance(weights, dict) else None
    if not isinstance(stem, Tensor) or stem.ndim != 4:
        raise SMNetError(
            f"{path} holds no SMNet weights (no first convolution 'derain.conv1' or 'noise_memory.stem.0')"
        )
    width, channels = stem.shape[:2]
    shuffle = content.get("shuffle", 1)
    try:
        with torch.device("meta"):  # without drawing initial weights from the global generator
            model = SMNet(channels=channels // shuffle**2, width=width, shuffle=shuffle)
    except ValueError as error:
        raise SMNetError(f"{path} holds no SMNet weights ({error})") from None
    expected = model.state_dict()
    for what, names in (
        ("lacks", expected.keys() - weights.keys()),
        ("has a foreign", weights.keys() - expected.keys()),
    ):
        if names:
            raise SMNetError(
                f"{path} is no SMNet: it {what} {sorted(names)[0]!r} ({len(names)} such)"
            )
    for name, value in expected.items():
        shape = getattr(weights[name], "shape", None)
        if shape != value.shape:
            raise SMNetError(
                f"{path} is no SMNet: {name!r} has shape {shape and tuple(shape)}, not {tuple(value.shape)}"
            )
    model.to_empty(device="cpu").load_state_dict(weights)
    return model


def weights_in(content: dict, path: str | Path) -> object:
    """The state dict in a checkpoint's dict; of a training state the moving average, which is
    said."""
    average = content.get("average")
    if isinstance(average, dict):
        print(f"{path} is a training state: its weights are the moving average (--ema)")
        return {name: value for name, value in average.items() if name != "n_averaged"}
    return content.get("model", content)


def load_model(path: str | Path, device: str | torch.device = "cpu") -> SMNet:
    """Load a network from one of our checkpoints or the authors', in eval mode, ready to denoise.

    Args:
        path: a `.pth` file; width and channels are read from it.
        device: where to put it, as `torch.device` takes.

    Raises:
        SMNetError: the file is missing, damaged, no SMNet, or would run code when read.
    """
    return (
        model_from_checkpoint(read_checkpoint(path), path)
        .to(device, memory_format=torch.channels_last)
        .eval()
    )


def find_model(
    channels: int,
    noiseL: float | None,
    *,
    weights: str | None,
    weights_dir: str,
    checkpoint: int | None = None,
    real: bool = False,
) -> tuple[SMNet, dict]:
    """The network for a sigma (None: the blind one) and what to report of it.

    Args:
        channels: of the pictures, 1 or 3.
        noiseL: sigma that it was trained at, grey levels.
        weights: a .pth file that is taken instead.
        weights_dir: folder that train_*.py wrote to; where that is `weights` and has none, those in
            pretrained/ are taken.
        checkpoint: epoch; None: the highest there.
        real: the network that was trained on pairs of real noise.

    Raises:
        SMNetError: no such weights, or they are for other pictures; the message names the command
            that makes them.
    """
    color = "gray" if channels == 1 else "rgb"
    if weights:
        path = Path(weights)
    else:
        run = run_name(channels, noiseL, real=real)
        epochs = epochs_on_disk(weights_dir, run)
        path = Path(weights_dir) / f"{run}_{checkpoint or (epochs[-1] if epochs else 'N')}.pth"
        shipped = shipped_file(channels, noiseL, real=real)
        if (
            not epochs
            and not checkpoint
            and Path(weights_dir) == Path("weights")
            and shipped.is_file()
        ):
            path = (
                shipped.relative_to(Path.cwd()) if shipped.is_relative_to(Path.cwd()) else shipped
            )
            print(f"using {path}, which comes with the project ({weights_dir} has no {run}_*.pth)")
        elif not path.is_file():
            there = sorted(
                p.name
                for p in Path(weights_dir).glob(f"model_{color}_*.pth")
                if "_state" not in p.stem
            )
            command = (
                f"train_{color}_blind.py"
                if noiseL is None
                else f"train_{color}.py --noiseL {noiseL:g}"
            )
            command += f" --train_h5 train_{'gray_' * (channels == 1)}pairs.h5" * real
            blind = (
                ""
                if noiseL is None
                else "; the blind network serves as well: no --noiseL, or --mode B in test_*.py"
            )
            others = [file.stem for file in sorted(PRETRAINED.glob(f"{color}_*.pth"))]
            also = (f" ({PRETRAINED} has {', '.join(others)})" if others else "") + blind
            raise SMNetError(
                f"no weights {path}; {describe(there, weights_dir)}. Make them: python {command}, or give --weights FILE{also}"
            )
    content = read_checkpoint(path)
    model = model_from_checkpoint(content, path).eval()
    if model.channels != channels:
        theirs = "RGB" if model.channels == 3 else "gray"
        raise SMNetError(
            f"{path} is for {theirs} pictures, not {'gray' if channels == 1 else 'RGB'} ones"
        )
    details = {"weights": str(path), "epoch": content.get("epoch"), "width": model.width}
    if "noise_range" in content:  # it says itself what it was trained for
        levels = content["noise_range"]
        details["noise_range"] = levels
        details["mode"] = "R" if levels is None else "S" if levels[0] == levels[1] else "B"
    return model, details


# ----------------------------------------------------------------------------------------- messages


def describe(names: list[str], folder: str | Path) -> str:
    """The end of an error: what there is instead, at most eight names."""
    if not Path(folder).is_dir():
        return f"there is no folder {folder}"
    if not names:
        return f"there is nothing of the kind in {folder}"
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return f"in {folder} there are {', '.join(names[:8])}{more}"
