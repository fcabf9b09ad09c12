"""The options that the four train scripts share: a table with a row for each."""

import argparse
from collections.abc import Callable
from typing import NamedTuple

from smnet.cli import make_parser, number
from smnet.patches import holds_pairs
from utils import SMNetError


class Option(NamedTuple):
    """A row of the table: an option whose default is the script's entry of the same name."""

    name: str
    type: Callable | None  # None: a flag, --name or --no-name
    metavar: str | tuple[str, ...] | None
    help: str
    choices: tuple[str, ...] | None = None
    nargs: int | str | None = None


WHOLE, NATURAL, REAL = number(int, 0), number(int, 1), number(float, 0)
SIGMA, RATE, DECAY = number(float, 0, 255), number(float, 0, 1000), number(float, 0, 0.999999)
SIDE, SEED = number(int, 8), number(int, 0, 2**63 - 1)

OPTIONS = [
    Option("train_h5", str, "FILE",
           "training patches, made by dataset*.py; several files are sampled as one", nargs="+"),
    Option("val_h5", str, "FILE", "validation pictures, made by dataset*.py"),
    Option("noiseL", SIGMA, "SIGMA", "sigma of the training noise, grey levels 0-255"),
    Option("noiseL_range", SIGMA, ("LOW", "HIGH"),
           "sigma of the training noise is uniform in this range, grey levels 0-255", nargs=2),
    Option("camera", number(float, 0, 1), "SHARE",
           "fraction of the crops (not pairs) that get simulated camera noise, 0-1; those with "
           "neither this nor --clean get white noise"),
    Option("clean", number(float, 0, 1), "SHARE",
           "share of the crops, pairs left out, that get no noise, 0-1, so that clean pictures "
           "are left alone"),
    Option("val_noiseL", SIGMA, "SIGMA",
           "sigma of the validation noise, grey levels; None: as trained"),
    Option("width", number(int, 2), "N", "base channels of the network, even"),
    Option("shuffle", NATURAL, "N",
           "2: fold 2x2 pixels into four times the channels before the network, and unfold its "
           "results; 1: the authors' network"),
    Option("identity_start", None, None,
           "start from weights that pass the picture on unchanged, which learn faster than "
           "PyTorch's"),
    Option("batchsize", NATURAL, "N", "pictures a step"),
    Option("patch_size", SIDE, "N", "side of the training crops, pixels"),
    Option("draws", NATURAL, "N", "times that an epoch draws every stored patch"),
    Option("color_jitter", None, None,
           "vary colours: channels permuted, saturation and contrast changed (gray: contrast "
           "alone), before white noise is added; not of pairs or crops with a camera's noise"),
    Option("epochs", NATURAL, "N", "epochs in all"),
    Option("max_steps", WHOLE, "N", "stop after this many steps in total, 0: only by --epochs"),
    Option("optimizer", str, None,
           "adam, or muon for the kernels with more than one input and output channel and adam "
           "for the rest", choices=("adam", "muon")),
    Option("loss", str, None,
           "mse: mean squared error; psnr: its logarithm for each picture, so that weak and strong "
           "noise count alike", choices=("mse", "psnr")),
    Option("lr", RATE, "RATE", "Adam's learning rate"),
    Option("betas", DECAY, "BETA", "Adam's two decay rates", nargs=2),
    Option("muon_lr", RATE, "RATE", "Muon's learning rate"),
    Option("schedule", str, None,
           "learning rates / 10 at --milestones, or cosine decay to zero at the last step",
           choices=("multistep", "cosine")),
    Option("milestones", NATURAL, "N", "epochs after which to divide the rates by 10", nargs="*"),
    Option("warmup", WHOLE, "N", "steps of linear warm-up of the learning rates"),
    Option("ema", DECAY, "DECAY",
           "EMA decay per step; the EMA weights are then the ones that are validated and "
           "saved; 0: no EMA"),
    Option("grad_clip", REAL, "NORM", "maximum gradient norm, 0: no clipping"),
    Option("dead_relu_penalty", REAL, "WEIGHT",
           "weight of a penalty that keeps the ReLUs after dilated convolutions from giving zero "
           "everywhere, say 0.001; 0: none"),
    Option("seed", SEED, "N", "seed of initial weights, samples and noise, a whole number"),
    Option("workers", WHOLE, "N", "data-loading processes, 0: load in the main process"),
    Option("save_every", REAL, "MINUTES",
           "minutes between saves of the training state, besides those at each epoch"),
    Option("device", str, "NAME", "auto, cpu, cuda, cuda:1 or mps"),
    Option("amp", None, None,
           "automatic mixed precision: bf16 where supported, else fp16 with scaled gradients"),
    Option("tf32", None, None,
           "on CUDA: products with 10-bit mantissas, off by about 1e-3"),
    Option("compile", None, None,
           "torch.compile: takes minutes at the start, no faster on CPUs"),
    Option("accumulate", NATURAL, "N",
           "gradient accumulation: parts that each process splits its share of a batch into, to "
           "save memory"),
    Option("weights_dir", str, "DIR", "folder for weights and training state"),
    Option("log_dir", str, "DIR", "folder for the jsonl log and TensorBoard's files"),
]  # fmt: skip

# Their defaults are for synthetic noise: for pairs it counts whether they were given.
NOT_FOR_PAIRS = ("noiseL_range", "val_noiseL", "val_h5")


def parse_args(argv: list[str] | None, *, description: str, defaults: dict) -> argparse.Namespace:
    """Read a train script's command line; every option's default is the script's entry of the same
    name.

    A script for one noise level has the entry `noiseL`, a blind one `noiseL_range`.
    `args.noise_range` is [low, high] in both, and `args.val_noiseL` is set; `args.given` has those
    of `NOT_FOR_PAIRS` that the command line has. Wrong arguments exit with status 2.
    """
    parser = make_parser(description)
    add_hyperparameters(parser, defaults)
    add_ways_to_start(parser)
    read = vars(parser.parse_args(argv))

    given = [name for name in NOT_FOR_PAIRS if read.get(name) is not None]
    unset = {name: defaults[name] for name in NOT_FOR_PAIRS if name in read and name not in given}
    files = [read["train_h5"]] if isinstance(read["train_h5"], str) else read["train_h5"]
    read |= {**unset, "given": given, "betas": list(read["betas"]), "train_h5": files}
    check_start(parser, read)
    if read.get("camera", 0) + read.get("clean", 0) > 1:
        parser.error(
            f"--camera {read['camera']:g} and --clean {read['clean']:g} are shares of the same "
            "crops: together they may be at most 1"
        )
    if read["width"] % 2:
        parser.error(f"--width {read['width']} is odd: it must be even")
    low, high = read["noise_range"] = noise_range(parser, read)
    if read["val_noiseL"] is None:
        read["val_noiseL"] = high
    return argparse.Namespace(**read)


def add_hyperparameters(parser: argparse.ArgumentParser, defaults: dict) -> None:
    """Add the rows of `OPTIONS` that a script has an entry for."""
    optional = {"noiseL", "noiseL_range", "camera", "clean"}  # of the first two a script has one
    names = {option.name for option in OPTIONS}
    if unknown := defaults.keys() - names:
        raise TypeError(f"no such hyperparameter: {', '.join(sorted(unknown))}")
    if missing := names - optional - defaults.keys():
        raise TypeError(f"the script lacks the hyperparameter {', '.join(sorted(missing))}")
    for option in OPTIONS:
        if option.name not in defaults:
            continue
        default = defaults[option.name]
        if wrong := what_is_wrong(option, default):
            parser.error(f"the script's entry {option.name}={default!r}: {wrong}")
        shown = " ".join(map(str, default)) if isinstance(default, list | tuple) else default
        kinds: dict = {"action": argparse.BooleanOptionalAction}
        if option.type:
            kinds = {"type": option.type, "metavar": option.metavar, "nargs": option.nargs}
        parser.add_argument(
            f"--{option.name}",
            default=None if option.name in NOT_FOR_PAIRS else default,
            help=f"{option.help} (default: {shown})",
            **({**kinds, "choices": option.choices} if option.choices else kinds),
        )


def what_is_wrong(option: Option, entry: object) -> str:
    """What a script's entry should be and is not, since argparse checks only what is typed; empty
    where it is right."""
    if option.type is None:
        return "" if isinstance(entry, bool) else "it must be True or False"
    if entry is None and option.name == "val_noiseL":
        return ""
    values = entry if isinstance(entry, list | tuple) else [entry]
    single = option.nargs is None or option.name == "train_h5" and isinstance(entry, str)
    if single == isinstance(entry, list | tuple):
        return "it must be one value" if single else "it must be a list, such as (10,)"
    if isinstance(option.nargs, int) and len(values) != option.nargs:
        return f"it must be {option.nargs} values"
    for value in values:
        if option.type is str and not isinstance(value, str):
            return "it must be a text in quotes"
        try:
            option.type(str(value))
        except argparse.ArgumentTypeError as error:
            return str(error)
        if option.choices and value not in option.choices:
            return f"choose from {', '.join(option.choices)}"
    return ""


def add_ways_to_start(parser: argparse.ArgumentParser) -> None:
    """Add the options that say from where a run starts."""
    parser.add_argument(
        "-c", "-checkpoint", "--checkpoint", type=WHOLE, default=0, metavar="N",
        help="epoch after which to continue, 0: start afresh (default: 0)",
    )  # fmt: skip
    parser.add_argument(
        "--resume", action="store_true", help="continue from the newest training state"
    )
    parser.add_argument(
        "--init", metavar="FILE",
        help="start from these weights, of the same --width and --shuffle (a .pth file); not read "
        "again by --resume",
    )  # fmt: skip
    parser.add_argument(
        "--revive", action="store_true",
        help="with --init: give ReLUs that are zero almost everywhere new weights, which change "
        "next to nothing at first",
    )  # fmt: skip
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier run's files")


def check_start(parser: argparse.ArgumentParser, read: dict) -> None:
    """Exit where the command says two ways to start."""
    if read["checkpoint"] and (read["init"] or read["resume"]):
        parser.error(
            "--checkpoint continues after an epoch, --resume from the newest state, --init starts: "
            "give one of them"
        )
    if read["revive"] and not read["init"]:
        parser.error("--revive is for the weights of --init")


def noise_range(parser: argparse.ArgumentParser, read: dict) -> list[float]:
    """[low, high] of sigma, grey levels."""
    low, high = [read["noiseL"]] * 2 if "noiseL" in read else read["noiseL_range"]
    if low > high:
        parser.error(f"--noiseL_range {low:g} {high:g} is upside down: LOW HIGH")
    return [low, high]


def args_for_real_noise(
    args: argparse.Namespace, *, val_h5: str | None, only_pairs: bool
) -> argparse.Namespace:
    """The arguments of a training on real or camera noise, which have no sigma.

    It is validated on pairs: those in --val_h5 or, if that is not given, in the script's entry
    where it names pairs, else in `val_h5`.

    Raises:
        SMNetError: the command line gives a sigma that does not apply, or no pairs to validate on.
    """
    useless = {"noiseL_range", "val_noiseL"} if only_pairs else {"val_noiseL"}
    for name in args.given:
        if name in useless:
            raise SMNetError(
                f"{', '.join(args.train_h5)} gives real noise, to which --{name} does not apply; "
                "leave it out"
            )
    if "val_h5" in args.given or holds_pairs(args.val_h5):
        val_h5 = args.val_h5
    if not val_h5:
        raise SMNetError("give --val_h5, pairs of real noise (dataset*.py --pairs makes them)")
    changes = {"noise_range": None, "val_noiseL": None, "val_h5": val_h5}
    changes["white_noise"] = None if only_pairs else args.noise_range
    return argparse.Namespace(**{**vars(args), **changes})
