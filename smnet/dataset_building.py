"""The command of the two dataset scripts: folders of pictures or pairs to the two h5 files."""

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import h5py

from smnet.cli import refuse_overwrite, report_problems
from smnet.dataset_options import Options, parse_options, settings_of
from smnet.images import (
    SAMPLE_TEST,
    SAMPLE_TRAIN,
    PictureFiles,
    download_advice,
    find_pictures,
    sample_pictures,
)
from smnet.pairs import by_scene, find_pairs, hold_out
from smnet.patches import (
    PATCH_PAIRS,
    PATCHES,
    PICTURE_PAIRS,
    PICTURES,
    Source,
    write_patches,
    write_pictures,
)
from utils import SMNetError, one_line, replacing

# The h5 attribute `train_dir` of the sample photographs; those of folders are lists.
SAMPLE = json.dumps("the sample photographs of scikit-image")


def build(argv: list[str] | None, *, description: str, defaults: dict, channels: int) -> int:
    """The command of dataset.py (channels 3) and dataset_gray.py (1): write both h5 files.

    Returns the exit status: 1 if pictures were skipped, else 0.

    Raises:
        SMNetError: no pictures, none usable, other h5 files in the way, or a file cannot be
            written; the old h5 files are then as they were.
    """
    if isinstance(defaults["train_dir"], str):
        defaults = {**defaults, "train_dir": [defaults["train_dir"]]}
    options = parse_options(argv, description=description, defaults=defaults)
    if options.pairs:
        chosen = choose_pairs(options)
    else:
        chosen = choose_pictures(options, defaults, channels)
    for note in chosen.notes:
        print(one_line(note))
    report_problems(chosen.problems, prefix="skipped")
    settings = settings_of(options, defaults)
    if chosen.sample:
        settings["train_dir"] = SAMPLE
    kinds = (PATCH_PAIRS, PICTURE_PAIRS) if options.pairs else (PATCHES, PICTURES)
    for path, kind in zip((options.train_h5, options.val_h5), kinds):
        if not made_with(path, {**settings, "kind": kind, "channels": channels}):
            advice = " (other settings made it), or give other --train_h5 and --val_h5"
            refuse_overwrite(path, overwrite=options.overwrite, advice=advice)
    with (
        replacing(options.train_h5) as train_path, h5py.File(train_path, "w") as train_file,
        replacing(options.val_h5) as val_path, h5py.File(val_path, "w") as val_file,
    ):  # fmt: skip
        train = write_patches(train_file, chosen.train, channels=channels, settings=settings)
        val = write_pictures(
            val_file,
            chosen.val,
            channels=channels,
            settings=settings,
            shrink=options.shrink if options.holdout else 1,
        )
    for path, written in ((options.train_h5, train), (options.val_h5, val)):
        print(one_line(f"{path}: {written.content}, {Path(path).stat().st_size / 1e6:.1f} MB"))
    alone = [problem.split(":")[0] for problem in chosen.problems]
    return report_skipped(alone + train.skipped + val.skipped)


def report_skipped(names: list[str]) -> int:
    """Say how many files were skipped, and return the exit status."""
    if not names:
        return 0
    files = "1 file" if len(names) == 1 else f"{len(names)} files"
    shown = ", ".join(names[:8]) + " ..." * (len(names) > 8)
    print(one_line(f"{files} skipped: {shown}"), file=sys.stderr)
    return 1


def made_with(path: str, attributes: dict) -> bool:
    """Whether an h5 file has these attributes, so that the same command made it, or did but for
    the sample photographs in place of the pictures."""
    try:
        with h5py.File(path, "r", locking=False) as file:
            earlier = {"shrink": 1, **file.attrs}  # earlier versions could not shrink
    except OSError:
        return False
    if earlier.get("train_dir") == SAMPLE:
        earlier["train_dir"] = attributes["train_dir"]
    return all(earlier.get(name) == value for name, value in attributes.items())


# ------------------------------------------------------------------------------------------ sources


class Chosen(NamedTuple):
    """What to train and to validate on."""

    train: Sequence[Source]
    val: Sequence[Source]
    notes: list[str]  # lines to print
    problems: list[str]  # a line for each picture that has no partner
    sample: bool = False  # scikit-image's photographs, since there were no others


def choose_pairs(options: Options) -> Chosen:
    """The pairs in the folders asked for; where no --val_dir is given, whole scenes of them are set
    aside.

    Raises:
        SMNetError: no pairs, or too few scenes to set some aside.
    """
    pairs, problems = find_pairs(options.train_dir, *options.pairs)
    if options.val_dir:
        val, more = find_pairs([options.val_dir], *options.pairs)
        if {followed(pair.noisy) for pair in val} & {followed(pair.noisy) for pair in pairs}:
            raise SMNetError(f"--val_dir {options.val_dir} has pairs in common with --train_dir")
        note = f"{len(pairs)} pairs to train on, {len(val)} to validate on"
        return Chosen(pairs, val, [note], problems + more)
    train, val = hold_out(pairs, options.holdout or max(1, len(pairs) // 5))
    held = [name for name, members in by_scene(pairs).items() if members[0] in val]
    note = (
        f"{len(train)} pairs to train on, {len(val)} of {len(held)} other scenes set aside to "
        f"validate on: {', '.join(held[:8])}{' ...' * (len(held) > 8)}"
    )
    return Chosen(train, val, [note], problems)


def choose_pictures(options: Options, defaults: dict, channels: int) -> Chosen:
    """The pictures in the folders asked for, or else in the script's, or else the sample.

    Raises:
        SMNetError: a folder that was asked for is missing or holds no picture.
    """
    folders = options.train_dir or defaults["train_dir"]
    notes = []
    use_sample = options.train_dir is None and not any(Path(folder).is_dir() for folder in folders)
    if use_sample:
        train: Sequence[Source] = sample_pictures(SAMPLE_TRAIN, channels)
        notes.append(
            f"{folders[0]} is missing: training on the {len(train)} sample photographs of "
            "scikit-image instead (--train_dir DIR for your own)"
        )
    else:
        train = training_files(folders)
    if options.holdout:
        return Chosen(*hold_out_pictures(train, options.holdout), notes, [], use_sample)
    folder = Path(options.val_dir or defaults["val_dir"])
    if options.val_dir or folder.is_dir():
        files = find_pictures(folder)
        val: Sequence[Source] = [
            PictureFiles(str(path.relative_to(folder)), path) for path in files
        ]
        validated = set(map(followed, files))
        rest = [source for source in train if path_of(source) not in validated]
        if not rest:
            notes.append(f"{folder} holds all training pictures: validation will be too good")
        elif both := len(train) - len(rest):
            notes.append(
                f"not trained on {both} picture{'s' * (both > 1)} of the validation folder {folder}"
            )
        return Chosen(rest or train, val, notes, [], use_sample)
    if not use_sample:
        raise SMNetError(
            f"no validation pictures: {folder} is missing{download_advice(folder)}; or give "
            "--val_dir DIR, or --holdout N to set some aside"
        )
    val = sample_pictures(SAMPLE_TEST, channels)
    notes.append(
        f"{folder} is missing: validating on the {len(val)} sample test photographs instead"
        f"{download_advice(folder)}"
    )
    return Chosen(train, val, notes, [], use_sample)


def path_of(source: Source) -> Path | None:
    """Where a picture's file lies, links followed; None for one of scikit-image's."""
    return followed(source.clean) if isinstance(source, PictureFiles) else None


def followed(path: Path) -> Path:
    """Where a file lies at the end of all links; unlike Path's, no error where they go round."""
    return Path(os.path.realpath(path))


def training_files(folders: list[str]) -> Sequence[PictureFiles]:
    """The pictures below the folders, each once; where there are several folders, their numbers
    keep pictures of one name apart."""
    found: dict[Path, PictureFiles] = {}  # by file: one in two folders could be held out once
    for i, folder in enumerate(folders):
        for path in find_pictures(folder):
            name = str(path.relative_to(folder))
            name = f"{i}/{name}" if len(folders) > 1 else name
            found.setdefault(followed(path), PictureFiles(name, path))
    return list(found.values())


def hold_out_pictures(train: Sequence[Source], count: int) -> tuple[list[Source], list[Source]]:
    """(pictures to train on, `count` pictures set aside, evenly spread).

    Raises:
        SMNetError: nothing would be left to train on.
    """
    if count >= len(train):
        raise SMNetError(
            f"--holdout {count} leaves nothing of {len(train)} training pictures to train on"
        )
    chosen = {i * len(train) // count for i in range(count)}
    rest = [source for i, source in enumerate(train) if i not in chosen]
    return rest, [train[i] for i in sorted(chosen)]
