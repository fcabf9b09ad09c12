"""The command of the two test scripts: the runs that are asked for, their tables and files."""

import argparse
import dataclasses
import math
import os.path
from collections.abc import Collection
from itertools import count
from pathlib import Path

import torch
from torch import Tensor

import utils
from smnet import devices, sheets
from smnet.cli import report_problems
from smnet.evaluation import OnStages, Protocol, evaluate
from smnet.images import to_float, write_picture
from smnet.results import PAPER_PICTURES, Run, paper_channels, write_csv, write_runs
from smnet.tables import table
from smnet.test_sets import PictureSet, load_sets
from smnet.testing_options import parse_args, wanted_pairs, wanted_sets, wanted_sigmas
from smnet.tiling import LARGEST
from smnet.weights import TrainedModel, find_model
from utils import SMNetError


def test(argv: list[str] | None, *, description: str, defaults: dict, channels: int) -> int:
    """The command of test_gray.py (channels 1) and test_rgb.py (3): a table for every set and
    sigma.

    What can be done is done; the problems are reported at the end. Returns the exit status, 1 if
    there were any, else 0.
    """
    args = parse_args(argv, description=description, defaults=defaults, channels=channels)
    device = devices.pick_device(args.device)
    if args.save_dir:
        utils.make_folder(args.save_dir)
    for file in filter(None, (args.json, args.csv)):
        utils.check_target(file)
    sets, problems = load_sets(
        wanted_sets(args, defaults), args.data_dir, channels, pairs=wanted_pairs(args, defaults)
    )
    runs = []
    for sigma in wanted_sigmas(args, defaults) if sets else []:
        try:
            trained = load_network(args, sigma, channels)
            trained.model.to(device, memory_format=torch.channels_last)
        except SMNetError as error:
            problems.append(str(error))
            continue
        for name, test_set in sets.items():
            taken = [run.saved for run in runs]
            try:
                run = measure(trained, name, test_set, sigma, args, taken)
            except SMNetError as error:
                problems.append(str(error))
                continue
            except (MemoryError, RuntimeError) as error:
                if not devices.is_out_of_memory(error):
                    raise
                tiles = LARGEST * trained.model.shuffle
                if cuts_any(protocol_of(args), test_set):
                    tiles //= 2
                advice = "a smaller --tile" if args.tile else f"--tile {tiles}"
                problems.append(f"{name}: out of memory; give {advice}, or use smaller pictures")
                continue
            runs.append(run)
            print(table(run), end="\n\n", flush=True)
            if args.json:  # after each run: an interruption loses none
                write_runs(args.json, runs)
            if args.csv:
                write_csv(args.csv, runs)
    return report_problems(dict.fromkeys(problems), prefix="error")


def load_network(args: argparse.Namespace, sigma: float | None, channels: int) -> TrainedModel:
    """The network to test at this sigma.

    Raises:
        SMNetError: there is none.
    """
    return find_model(
        channels,
        sigma if args.mode == "S" else None,
        real=args.mode == "R",
        weights=args.weights,
        weights_dir=args.weights_dir,
        checkpoint=args.checkpoint,
    )


def measure(
    trained: TrainedModel,
    set_name: str,
    test_set: PictureSet,
    sigma: float | None,
    args: argparse.Namespace,
    taken: Collection[str],
) -> Run:
    """Test a network on one set at one sigma, and save its pictures if they are asked for, in a
    folder that is not in `taken`.

    Raises:
        SMNetError: what the network gives is not finite, or a picture cannot be written.
    """
    protocol = protocol_of(args)
    run = Run(
        set=set_name,
        sigma=sigma,
        mode=trained.mode or args.mode,
        weights=str(trained.path),
        epoch=trained.epoch,
        width=trained.model.width,
        shuffle=trained.model.shuffle,
        noise_range=trained.noise_range,
        protocol=differences(protocol, set_name, test_set, trained.model.channels),
        scores=[],
    )
    save = None
    if args.save_dir:
        run = dataclasses.replace(run, saved=free_folder(run, args.save_dir, taken))
        save = saver(run.saved, trained if args.save_stages else None)
    scores = evaluate(
        trained.model,
        test_set.pictures,
        sigma=sigma,
        protocol=protocol,
        baseline=args.baseline,
        warm_up=True,
        on_stages=save,
    )
    for score in scores:
        for method, value in score.psnr.items():
            if math.isnan(value):
                raise SMNetError(
                    f"{set_name}, {score.name}: {method} gives values that are NaN or infinite "
                    f"({trained.path}{', --amp' * args.amp}); this set is left out"
                )
    return dataclasses.replace(run, scores=scores)


def protocol_of(args: argparse.Namespace) -> Protocol:
    """The protocol that a command line asks for."""
    fields = dataclasses.fields(Protocol)
    return Protocol(**{field.name: getattr(args, field.name) for field in fields})


def differences(protocol: Protocol, set_name: str, test_set: PictureSet, channels: int) -> str:
    """What is done differently from the authors, in words; empty: nothing."""
    words = [str(protocol)]
    if cuts_any(protocol, test_set):
        words.append("large pictures in tiles")
    if paper_channels(set_name) not in (None, channels):
        words.append("as gray" if channels == 1 else "as RGB")
    read = len(test_set.pictures)
    if test_set.unread:
        words.append(f"{read} of {read + test_set.unread} pictures")
    elif read != PAPER_PICTURES.get(set_name, read):
        words.append(f"{read} pictures instead of {PAPER_PICTURES[set_name]}")
    return ", ".join(filter(None, words))


def cuts_any(protocol: Protocol, test_set: PictureSet) -> bool:
    """Whether a picture of the set is cut into tiles although none were asked for."""
    return any(protocol.cuts(*picture.clean.shape[-2:]) for picture in test_set.pictures)


def free_folder(run: Run, save_dir: str, taken: Collection[str]) -> str:
    """A folder for a run's pictures, named after set, noise, weights and protocol; the set is
    numbered where the name is in `taken`: "x" and "../x" are two."""
    path = Path(os.path.normpath(run.set))
    set_name = "/".join(part for part in path.parts if part not in ("..", ".", path.anchor))
    noise = "real" if run.sigma is None else f"sigma{run.sigma:g}"
    protocol = run.protocol.replace(", ", "_").replace(" ", "_")
    end = "_".join(filter(None, [noise, Path(run.weights).stem, protocol]))
    names = (
        f"{set_name}_{number}_{end}" if number > 1 else f"{set_name}_{end}" for number in count(1)
    )
    return next(folder for name in names if (folder := str(Path(save_dir, name))) not in taken)


def saver(folder: str, trained: TrainedModel | None) -> OnStages:
    """An `on_stages` for `evaluate` that writes four PNG files a picture, and with a network a
    sheet of its stages."""

    def save(name: str, clean: Tensor, noisy: Tensor, noise_mask: Tensor, output: Tensor) -> None:
        for what, picture in (
            ("clean", clean),
            ("noisy", noisy),
            ("denoised", output),
            ("mask", noise_mask + 0.5),
        ):
            write_picture(Path(folder, f"{name}_{what}.png"), picture)
        if trained:
            sheet = sheets.stages(trained.model, noisy).transpose(2, 0, 1)
            write_picture(Path(folder, f"{name}_stages.png"), to_float(sheet))

    return save
