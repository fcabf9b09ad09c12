"""The options that the four train scripts share."""

import argparse

from smnet.cli import make_parser, number
from smnet.training.samples import PatchDataset
from utils import SMNetError

NOT_FOR_PAIRS = (
    "noiseL_range",
    "val_noiseL",
    "val_h5",
)  # options whose defaults are for synthetic noise


def parse_args(argv: list[str] | None, *, description: str, defaults: dict) -> argparse.Namespace:
    """Read a train script's command line; every option's default is the script's entry of the same
    name.

    A script for one noise level has the entry `noiseL`, a blind one `noiseL_range`.
    `args.noise_range` is [low, high] in both, and `args.val_noiseL` is set; `args.given` has those
    of `NOT_FOR_PAIRS` that the command line has. Wrong arguments exit with status 2.
    """
    unused = dict(defaults)
    parser = make_parser(description)

    def option(name: str, text: str, **kwargs) -> None:
        default = unused.pop(name)  # KeyError: the script lacks this entry
        shown = " ".join(map(str, default)) if isinstance(default, (list, tuple)) else default
        if name in NOT_FOR_PAIRS:
            default = None  # so that it can be told whether it was given
        parser.add_argument(
            f"--{name}", default=default, help=f"{text} (default: {shown})", **kwargs
        )

    whole, real, sigma, rate = (
        number(int, 1),
        number(float, 0),
        number(float, 0, 255),
        number(float, 0, 1000),
    )
    option("train_h5", "training patches, made by dataset*.py", metavar="FILE")
    option("val_h5", "validation pictures, made by dataset*.py", metavar="FILE")
    if "noiseL" in defaults:
        option(
            "noiseL", "sigma of the training noise, grey levels 0-255", type=sigma, metavar="SIGMA"
        )
    else:
        text = "sigma of the training noise is uniform in this range, grey levels 0-255"
        option("noiseL_range", text, type=sigma, nargs=2, metavar=("LOW", "HIGH"))
    option(
        "val_noiseL",
        "sigma of the validation noise, grey levels; None: as trained",
        type=sigma,
        metavar="SIGMA",
    )
    option("width", "base channels of the network, even", type=number(int, 2), metavar="N")
    text = "2: fold 2x2 pixels into four times the channels before the network, and unfold its results; 1: the authors'"
    option("shuffle", text, type=whole, metavar="N")
    option("batchsize", "pictures a step", type=whole, metavar="N")
    option("patch_size", "side of the training crops, pixels", type=number(int, 8), metavar="N")
    option("draws", "times that an epoch draws every stored patch", type=whole, metavar="N")
    text = "vary colours: channels permuted, saturation and contrast changed, before noise is added; RGB, not for pairs"
    option("color_jitter", text, action=argparse.BooleanOptionalAction)
    option("epochs", "epochs in all", type=whole, metavar="N")
    option(
        "max_steps",
        "stop after this many steps in all, 0: by epochs alone",
        type=number(int, 0),
        metavar="N",
    )
    text = "adam, or muon for the kernels with more than one input and output channel and adam for the rest"
    option("optimizer", text, choices=["adam", "muon"])
    option("lr", "Adam's learning rate", type=rate, metavar="RATE")
    option(
        "betas", "Adam's two decay rates", type=number(float, 0, 0.999999), nargs=2, metavar="BETA"
    )
    option("muon_lr", "Muon's learning rate", type=rate, metavar="RATE")
    text = "multistep: the rates x 0.1 at --milestones; cosine: to zero at the last step"
    option("schedule", text, choices=["multistep", "cosine"])
    option(
        "milestones",
        "epochs after which the rates fall to a tenth",
        type=whole,
        nargs="*",
        metavar="N",
    )
    option("warmup", "steps over which the rates rise from zero", type=number(int, 0), metavar="N")
    text = "decay per step of the moving average of the weights, which is then validated and saved, 0: none"
    option("ema", text, type=number(float, 0, 0.999999), metavar="DECAY")
    option("grad_clip", "greatest norm of the gradient, 0: no clipping", type=real, metavar="NORM")
    option(
        "seed",
        "seed of initial weights, samples and noise, a whole number",
        type=number(int, 0, 2**63 - 1),
        metavar="N",
    )
    option(
        "workers", "processes that read data, 0: this one does", type=number(int, 0), metavar="N"
    )
    text = "minutes from one save of the training state to the next, beside those at each epoch"
    option("save_every", text, type=real, metavar="MINUTES")
    option("device", "auto, cpu, cuda, cuda:1 or mps", metavar="NAME")
    flag = argparse.BooleanOptionalAction
    option(
        "amp",
        "automatic mixed precision: bf16 where supported, else fp16 with scaled gradients",
        action=flag,
    )
    option(
        "tf32", "on CUDA: products with 10-bit mantissas, faster and off by about 1e-3", action=flag
    )
    option(
        "compile", "torch.compile: takes minutes at the start, faster steps on CUDA", action=flag
    )
    text = (
        "parts that a process computes its share of a batch in, one after the other, to save memory"
    )
    option("accumulate", text, type=whole, metavar="N")
    option("weights_dir", "folder for weights and training state", metavar="DIR")
    option("log_dir", "folder for the jsonl log and TensorBoard's files", metavar="DIR")
    if unused:
        raise TypeError(f"no such hyperparameter: {', '.join(unused)}")

    text = "epoch after which to continue, 0: start afresh (default: 0)"
    parser.add_argument(
        "-c", "-checkpoint", "--checkpoint", type=number(int, 0), default=0, metavar="N", help=text
    )
    parser.add_argument(
        "--resume", action="store_true", help="continue from the newest training state"
    )
    parser.add_argument(
        "--init",
        metavar="FILE",
        help="start from these weights, of the same width (a .pth file); not read again by --resume",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier run's files")
    args = parser.parse_args(argv)

    args.given = [name for name in NOT_FOR_PAIRS if getattr(args, name, None) is not None]
    for name in NOT_FOR_PAIRS:
        if name in defaults and name not in args.given:
            setattr(args, name, defaults[name])
    if args.checkpoint and (args.init or args.resume):
        parser.error(
            "--checkpoint continues after an epoch, --resume from the newest state, --init starts: give one of them"
        )
    if args.resume:
        args.init = None  # so that the same command with --resume goes on
    if args.width % 2:
        parser.error(f"--width {args.width} is odd: it must be even")
    low, high = args.noise_range = (
        [args.noiseL] * 2 if "noiseL" in args else list(args.noiseL_range)
    )
    if low > high:
        parser.error(f"--noiseL_range {low:g} {high:g} is upside down: LOW HIGH")
    if args.val_noiseL is None:
        args.val_noiseL = high
    args.betas = list(args.betas)
    return args


def turn_to_pairs(args: argparse.Namespace, train_set: PatchDataset) -> None:
    """Real noise has no sigma, and is validated on the pairs that were set aside where no --val_h5
    is given.

    Raises:
        SMNetError: the command line gives a sigma.
    """
    for name in args.given:
        if name != "val_h5":
            raise SMNetError(
                f"{args.train_h5} holds pairs of real noise, to which --{name} does not apply; leave it out"
            )
    args.noise_range = args.val_noiseL = None
    if "val_h5" not in args.given:
        args.val_h5 = train_set.val_h5
