"""What denoise.py is to do: a job for every picture, and where its results go."""

import argparse
import contextlib
import os
from pathlib import Path
from typing import NamedTuple

from smnet.images import canonical_path, find_pictures
from smnet.photos.reading import FORMATS, OTHERS
from utils import SMNetError


class Job(NamedTuple):
    """A picture to denoise: where it is, where the result goes, and where its sheets ("compare",
    "stages") do."""

    source: Path
    target: Path
    sheets: dict[str, Path]


def find_jobs(args: argparse.Namespace, problems: list[str], others: set[Path]) -> list[Job]:
    """Every picture asked for; what cannot be found, or would be written twice, goes to `problems`.

    Pictures in folders that are of formats that cannot be read, by their endings, go to `others`.

    Raises:
        SMNetError: there is a file where a folder for the results is asked for.
    """
    output = Path(args.output) if args.output else None
    as_file = output and output.suffix.lower() in FORMATS and not os.path.isdir(output)
    if output and os.path.isfile(output) and not as_file:
        raise SMNetError(f"{output} is a file; give a folder for the results")
    targets: dict[
        Path, tuple[Path, Path]
    ] = {}  # (source, target) by where it lies: one given twice is denoised once
    for given in map(Path, args.pictures):
        if not os.path.isdir(given):  # unlike Path's, false where it may not be looked at
            beside = given.with_name(f"{given.stem}_denoised{given.suffix}")
            targets[canonical_path(given)] = (
                given,
                output if as_file else output / given.name if output else beside,
            )
            continue
        folder = Path(os.path.realpath(given))
        if not (output or folder.name):
            problems.append(
                f"{given}: the results cannot lie beside it; name a folder for them by -o"
            )
            continue
        with contextlib.suppress(SMNetError):  # that there are none
            others.update(map(canonical_path, find_pictures(given, OTHERS, [])))
        root = output or folder.with_name(f"{folder.name}_denoised")
        results = Path(os.path.realpath(root))
        try:
            for path in find_pictures(given, FORMATS, problems):
                earlier = (
                    folder in results.parents and results in Path(os.path.realpath(path)).parents
                )
                if not earlier:  # a result in the folder itself
                    targets[canonical_path(path)] = path, root / path.relative_to(given)
        except SMNetError as error:
            problems.append(str(error))
    sources, taken, kept = {os.path.realpath(source) for source, _ in targets.values()}, set(), []

    def obstacle(path: Path) -> str | None:
        if os.path.realpath(path) in sources:
            return f"its result would replace the picture {path}; give another -o"
        if os.path.realpath(path) in taken:
            return f"{path} is already the result of another picture; give them -o folders of their own"
        return (
            f"{path} is there already; --overwrite replaces it"
            if os.path.lexists(path) and not args.overwrite
            else None
        )

    wanted = [
        what for what, asked in (("compare", args.compare), ("stages", args.save_stages)) if asked
    ]
    for source, target in targets.values():
        beside = {what: target.with_name(f"{target.stem}_{what}.png") for what in wanted}
        if any(os.path.realpath(path) in taken for path in beside.values()):  # a.png and a.jpg
            beside = {what: target.with_name(f"{target.name}_{what}.png") for what in wanted}
        results = [target, *beside.values()]
        obstacles = [found for path in results if (found := obstacle(path))]
        if obstacles:
            problems.append(f"{source}: {obstacles[0]}")
        else:
            kept.append(Job(source, target, beside))
        taken.update(os.path.realpath(path) for path in results)
    return kept
