"""What a training state says of the command that wrote it, compared with the command that goes on
from it."""

import argparse
import dataclasses

from smnet.training.content import in_words


class SettingsDiffer(Exception):
    """A command that a state may not be continued by; the text says in what they differ."""


# A state is continued only by a command that agrees with it on these, and on the training data.
FIXED = (
    "noise_range",
    "batchsize",
    "patch_size",
    "samples",  # of an epoch, by --train_h5 and --draws
    "seed",
    "color_jitter",
    "camera",
    "clean",
    "loss",
    "optimizer",
    "betas",
    "averaged",  # --ema above 0
)
# What younger settings were before they were there; else False.
OFF = {"loss": "mse", "camera": 0.0, "clean": 0.0, "dead_relu_penalty": 0.0}
# On these it may differ; what changed is said.
CHANGEABLE = (
    "epochs",
    "max_steps",
    "lr",
    "muon_lr",
    "schedule",
    "milestones",
    "warmup",
    "ema",
    "grad_clip",
    "dead_relu_penalty",
    "val_noiseL",
    "val_h5",
    "amp",
    "tf32",
    "compile",
    "accumulate",
)
# Not in states that were written before these were compared. "white_noise" is the range of sigma
# where white noise is a share of a training on real noise, whose "noise_range" is None.
ADDED = ("train_h5", "train_data", "val_data", "init", "white_noise")


def settings_of(
    args: argparse.Namespace, *, samples: int, train_data: dict, val_data: dict
) -> dict:
    """What a state says of its command.

    Args:
        args: as `options.parse_args` gives.
        samples: of an epoch.
        train_data: `content.describe_patches` of --train_h5.
        val_data: `content.describe_pictures` of --val_h5.
    """
    more = {
        "samples": samples,
        "averaged": args.ema > 0,
        "milestones": list(args.milestones),
        "train_data": train_data,
        "val_data": val_data,
    }
    blind = {"camera": 0.0, "clean": 0.0, "white_noise": None}  # of the blind scripts alone
    everything = {**blind, **vars(args), "train_h5": ", ".join(args.train_h5), **more}
    return {key: everything[key] for key in (*FIXED, *CHANGEABLE, *ADDED)}


@dataclasses.dataclass
class Comparison:
    """What going on with other settings means."""

    say: list[str]  # what changed, a line each
    same_validation: bool  # whether the best PSNR so far can be compared with those to come


def compare(before: dict, now: dict) -> Comparison:
    """Compare a state's settings with a command's.

    Raises:
        SettingsDiffer: in what may not change, or in the training data.
        KeyError: `before` lacks a setting.
    """
    check_data(before, now)
    before = {**OFF, **before}
    for key in FIXED:
        if before.get(key, False) != now[key]:
            raise SettingsDiffer(change(key, before, now))
    if before.get("white_noise", now["white_noise"]) != now["white_noise"]:
        raise SettingsDiffer(change("white_noise", before, now))
    say = [change(key, before, now) for key in CHANGEABLE if before[key] != now[key]]
    if "train_h5" in before and before["train_h5"] != now["train_h5"]:
        say.append(f"{change('train_h5', before, now)}: of the same content")
    if "init" in before and now["init"] not in (None, before["init"]):
        say.append(f"{change('init', before, now)}: --resume does not read it")
    same_pictures = before["val_h5"] == now["val_h5"]
    if "val_data" in before:
        same_pictures = before["val_data"] == now["val_data"]
        if not same_pictures:
            say.append(f"--val_h5 {change_of_content('val_h5', 'val_data', before, now)}")
    return Comparison(say, same_pictures and before["val_noiseL"] == now["val_noiseL"])


def check_data(before: dict, now: dict) -> None:
    """Raise where the training data are others."""
    if "train_data" in before and before["train_data"] != now["train_data"]:
        changed = change_of_content("train_h5", "train_data", before, now)
        raise SettingsDiffer(f"--train_h5 {changed}")


def change_of_content(path: str, data: str, before: dict, now: dict) -> str:
    """ "was FILE (what it held), is now FILE (what it holds)"."""
    old, new = (f"{s[path]} ({in_words(s[data])})" for s in (before, now))
    return f"was {old}, is now {new}"


def change(key: str, before: dict, now: dict) -> str:
    """ "--seed was 0, is now 1"."""
    if key in ("noise_range", "white_noise"):
        old, new = (noise_in_words(settings[key]) for settings in (before, now))
        return f"the training noise was {old}, is now {new} (--noiseL, --noiseL_range)"
    if key == "samples":
        return f"an epoch had {before[key]} samples, has now {now[key]} (--train_h5, --draws)"
    if key == "averaged":
        return f"--ema was {before['ema']:g}, is now {now['ema']:g}"
    return f"--{key} was {before.get(key, False)}, is now {now[key]}"


def noise_in_words(noise_range: list[float] | None) -> str:
    """ "sigma 25", "sigma 0 to 55", "real"."""
    if noise_range is None:
        return "real"
    low, high = noise_range
    return f"sigma {low:g}" if low == high else f"sigma {low:g} to {high:g}"
