"""What denoise.py is to do: a job for every picture, and where its results go."""

import contextlib
import glob
import os
from collections.abc import Hashable, Iterable, Sequence
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from smnet.cli import refuse_overwrite
from smnet.images import canonical_path, no_picture, search_folder
from smnet.photos.photo import FORMATS, OTHERS
from utils import SMNetError

ENDING = "_denoised"  # of the names of results that lie beside their pictures
SHEETS = ("compare", "stages")  # that a picture may get


class Job(NamedTuple):
    """A picture to denoise: where it is, where the result goes, and where its sheets ("compare",
    "stages") do."""

    source: Path
    target: Path
    sheets: dict[str, Path]

    @property
    def results(self) -> list[Path]:
        """All files that it writes."""
        return [self.target, *self.sheets.values()]


class Plan(NamedTuple):
    """All that denoise.py is asked for, and what it will not do."""

    jobs: list[Job]
    problems: list[str]  # a line for each picture or folder that is left out
    others: set[Path]  # pictures in folders that cannot be read, by their endings
    already: int  # pictures in folders whose results already exist
    results: int  # pictures left out because an earlier run wrote them


class Found(NamedTuple):
    """A picture that was found, and where its result goes."""

    source: Path
    target: Path
    in_folder: bool  # not given by its own name


def expand_patterns(pictures: Iterable[str]) -> list[str]:
    """File names, with patterns as `*.jpg` replaced by what they match: not every shell does that.

    What matches nothing stays as it is.
    """
    names = []
    for name in pictures:
        matches = [] if os.path.lexists(name) else sorted(glob.glob(name))  # noqa: PTH207
        names += matches or [name]
    return names


def find_jobs(
    pictures: Sequence[str],
    *,
    output: str | None = None,
    sheets: Sequence[str] = (),
    overwrite: bool = False,
) -> Plan:
    """A job for every picture asked for.

    Args:
        pictures: files, and folders with all below them.
        output: a folder for the results, or a file for the only one; None: beside the pictures.
        sheets: those wanted with each, of "compare" and "stages".
        overwrite: whether results that exist are replaced.

    Raises:
        SMNetError: there is a file where a folder for the results is asked for.
    """
    root = Path(output) if output else None
    if root and os.path.isfile(root) and root.suffix.lower() not in FORMATS:
        raise SMNetError(f"{root} is a file; give a folder for the results")
    found: dict[Path, Found] = {}  # by where it lies: one given twice is denoised once
    problems: list[str] = []
    others: set[Path] = set()
    results: set[Path] = set()  # of earlier runs
    for given in map(Path, pictures if root else without_result_folders(pictures)):
        if not os.path.isdir(given):  # unlike Path's, false where it may not be looked at
            found[canonical_path(given)] = Found(given, target_of_file(given, root), False)
            continue
        try:
            files, in_folder, from_before, unreadable = find_in_folder(given, root)
        except SMNetError as error:
            problems.append(str(error))
            continue
        found |= {canonical_path(file.source): file for file in files}
        others |= in_folder
        problems += unreadable
        results |= from_before
    if not root:
        results |= results_beside(found.values()) & found.keys()
    own = [file for path, file in found.items() if path not in results]
    jobs, refused, already = keep_apart(own, sheets=sheets, overwrite=overwrite)
    return Plan(jobs, problems + refused, others, already, len(results))


def without_result_folders(pictures: Iterable[str]) -> list[str]:
    """Without the folders that an earlier run wrote for others that are given: `*` matches both."""
    folders = (Path(os.path.realpath(given)) for given in pictures if os.path.isdir(given))
    results = {os.path.realpath(beside(folder)) for folder in folders if folder.name}
    return [given for given in pictures if os.path.realpath(given) not in results]


def beside(folder: Path) -> Path:
    """The folder for the results of a folder, where no other is asked for."""
    return folder.with_name(f"{folder.name}{ENDING}")


def is_result_folder(folder: Path) -> bool:
    """Whether it lies beside the folder that an earlier run wrote it for."""
    name = folder.name.removesuffix(ENDING)
    return name not in ("", folder.name) and os.path.isdir(folder.with_name(name))


def results_beside(found: Iterable[Found]) -> set[Path]:
    """What an earlier run may have written beside the pictures, given by name: `*.png` matches
    photo_denoised.png and its sheets, too, and a folder holds them."""
    results: set[Path] = set()
    for target in (target_of_file(file.source, None) for file in found):
        named = (sheet_paths(target, name, SHEETS) for name in (target.stem, target.name))
        written = [target, *chain.from_iterable(sheets.values() for sheets in named)]
        results |= set(map(canonical_path, written))
    return results


def target_of_file(source: Path, output: Path | None) -> Path:
    """Where the result of a picture given by name goes."""
    if not output:
        return source.with_name(f"{source.stem}{ENDING}{source.suffix}")
    as_file = output.suffix.lower() in FORMATS and not os.path.isdir(output)
    return output if as_file else output / source.name


def find_in_folder(
    given: Path, output: Path | None
) -> tuple[list[Found], set[Path], set[Path], list[str]]:
    """(the pictures below a folder, those that cannot be read, those in folders of results from
    before, a line for each problem).

    Raises:
        SMNetError: the folder cannot be read, or nothing can lie beside it.
    """
    folder = Path(os.path.realpath(given))
    if not (output or folder.name):
        raise SMNetError(f"{given}: the results cannot lie beside it; name a folder for them by -o")
    root = output or beside(folder)
    paths, problems = search_folder(given, (*FORMATS, *OTHERS))
    others = {canonical_path(path) for path in paths if path.suffix.lower() in OTHERS}
    pictures = [path for path in paths if path.suffix.lower() in FORMATS]
    if not pictures:
        problems.append(str(no_picture(given, FORMATS)))
    results = Path(os.path.realpath(root))
    own = [
        path
        for path in pictures
        if not (folder in results.parents and results in Path(os.path.realpath(path)).parents)
        and not any(is_result_folder(each) for each in path.parents if given in each.parents)
    ]
    found = [Found(path, root / path.relative_to(given), True) for path in own]
    return found, others, set(map(canonical_path, set(pictures) - set(own))), problems


def keep_apart(
    found: Iterable[Found], *, sheets: Sequence[str], overwrite: bool
) -> tuple[list[Job], list[str], int]:
    """(jobs that replace no picture and no result of another, a line for each that would, the
    number of those in folders whose results already exist)."""
    found = [*found]
    sources = set().union(*(names_of_file(each.source) for each in found))
    taken: set[str] = set()  # results
    jobs, problems, already = [], [], 0
    for source, target, in_folder in found:
        job = Job(source, target, name_sheets(target, sheets, taken))
        if problem := collision(job, sources, taken):
            problems.append(f"{source}: {problem}")
        elif in_folder and not overwrite and all(map(os.path.isfile, job.results)):
            if is_older_than_picture(job):
                problems.append(
                    f"{source}: {target} is older, so it was made of another picture of this name, "
                    "or of this one before it changed; --overwrite replaces it"
                )
            else:
                already += 1
        else:
            try:
                refuse_results(job, overwrite=overwrite)
                jobs.append(job)
            except SMNetError as error:
                problems.append(f"{source}: {error}")
        taken.update(map(os.path.realpath, job.results))
    return jobs, problems, already


def is_older_than_picture(job: Job) -> bool:
    """Whether one of a job's results is."""
    try:
        changed = job.source.stat().st_mtime
    except OSError:  # a link to nothing
        return False
    return any(path.stat().st_mtime < changed for path in job.results)


def refuse_results(job: Job, *, overwrite: bool) -> None:
    """Raise where one of a job's results exists, unless `overwrite`.

    Raises:
        SMNetError: it does; named with those that are missing.
    """
    missing = [str(path) for path in job.results if not os.path.lexists(path)]
    advice = f" and makes {', '.join(missing)}" if missing else ""
    for path in job.results:
        refuse_overwrite(path, overwrite=overwrite, advice=advice)


def name_sheets(target: Path, sheets: Sequence[str], taken: set[str]) -> dict[str, Path]:
    """Where the sheets of a result go; with its ending, where another result's have the name:
    a.png's and a.jpg's."""
    named = sheet_paths(target, target.stem, sheets)
    taken_too = any(os.path.realpath(path) in taken for path in named.values())
    return sheet_paths(target, target.name, sheets) if taken_too else named


def sheet_paths(target: Path, name: str, sheets: Sequence[str]) -> dict[str, Path]:
    """The sheets beside a result, called after `name`, its own with or without the ending."""
    return {sheet: target.with_name(f"{name}_{sheet}.png") for sheet in sheets}


def names_of_file(path: Path) -> set[Hashable]:
    """What tells whether two paths are of one file, as IMG.JPG and img.jpg are on many disks."""
    names: set[Hashable] = {os.path.realpath(path)}
    with contextlib.suppress(OSError):
        stat = path.stat()
        names.add((stat.st_dev, stat.st_ino))
    return names


def collision(job: Job, sources: set[Hashable], taken: set[str]) -> str | None:
    """What a job would replace, and what to type instead; None where that is nothing."""
    for path in job.results:
        if names_of_file(path) & sources:
            return f"its result would replace the picture {path}; give another -o"
        if os.path.realpath(path) in taken:
            return (
                f"{path} is already the result of another picture; "
                "give them -o folders of their own"
            )
    return None
