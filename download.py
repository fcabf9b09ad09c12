"""Fetch data sets into data/<name>/, where the other scripts look for them.

    python download.py --list                      # names, sizes, licences
    python download.py Set12 CBSD68                # two test sets
    python download.py BSDS500                     # dataset.py --train_dir data/BSDS500
    python download.py Unsplash                    # dataset.py --train_dir data/Unsplash --shrink 3
    python download.py all --mirror https://mirror.example.org/raw

The files come from public repositories, each pinned to a commit, and every file is checked against
the SHA-256 in smnet/datasets.csv. A second call fetches only what is missing or wrong. Please heed
the licences: most sets are for research only.
"""

import argparse
import hashlib
import re
import sys
import threading
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import requests
from tqdm import tqdm
from urllib3.exceptions import LocationParseError

from smnet.cli import make_parser, number, report_problems, run_script
from smnet.datasets import SETS, File, files_of, read_catalogue
from utils import SMNetError, replacing

# --------------------------------------------------------------------------------------------------
# Edit here, or give the option of the same name.
DEFAULTS = dict(
    data_dir="data",  # folder that gets a folder a set
    mirror="https://raw.githubusercontent.com",  # files are at MIRROR/OWNER/REPOSITORY/COMMIT/PATH
    jobs=8,  # files at a time
)
# --------------------------------------------------------------------------------------------------

ATTEMPTS = 4  # a file, with pauses of 1, 2 and 4 times PAUSE between them
PAUSE = 1.0  # seconds
TIMEOUT = 20.0  # seconds without a byte after which a server counts as stalled


class TryAgainError(Exception):
    """What a server sent is not the file, and may be so at the next attempt."""


def main(argv: list[str] | None = None) -> int:
    """The command; returns 0, or 1 if a file could not be fetched."""
    args = parse_args(argv)
    if args.list:
        print(list_sets())
        return 0
    by_set = {name: files_of(name, args.data_dir) for name in wanted_sets(args.names)}
    missing = missing_files([file for files in by_set.values() for file in files], args.jobs)
    problems = fetch_all(missing, mirror=args.mirror.rstrip("/"), jobs=args.jobs)
    failed = {file for files in problems.values() for file in files}
    for name, files in by_set.items():
        fetched = [file for file in files if file in missing and file not in failed]
        size = sum(file.size for file in fetched) / 1e6
        print(
            f"{name}: {len(files) - sum(file in failed for file in files)} of {len(files)} files "
            f"in {Path(args.data_dir) / name}, {len(fetched)} of them fetched ({size:.1f} MB); "
            f"licence: {SETS[name].licence}"
        )
    status = report_problems(map(describe_failure, problems.items()), prefix="error")
    if status:
        print(
            "run the same command again to fetch what is missing; use --mirror URL if GitHub is "
            "unreachable",
            file=sys.stderr,
        )
    return status


def describe_failure(failure: tuple[str, list[File]]) -> str:
    """Files that could not be fetched, at most three of them named, and why."""
    problem, files = failure
    more = f" and {len(files) - 3} more" if len(files) > 3 else ""
    return f"{', '.join(str(file.target) for file in files[:3])}{more}: {problem}"


def missing_files(files: list[File], jobs: int) -> set[File]:
    """Those that are not there, or differ."""
    with ThreadPoolExecutor(jobs) as pool:
        return {file for file, there in zip(files, pool.map(File.is_there, files)) if not there}


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = make_parser(__doc__)
    option, shown = parser.add_argument, "(default: %(default)s)"
    option("names", nargs="*", metavar="NAME", help=f"data sets, or all: {' '.join(SETS)}")
    text = "show names, sizes, purposes and licences, and fetch nothing"
    option("--list", action="store_true", help=text)
    option("--data_dir", metavar="DIR", help=f"folder that gets a folder for each set {shown}")
    text = f"files are looked for at URL/OWNER/REPOSITORY/COMMIT/PATH {shown}"
    option("--mirror", metavar="URL", help=text)
    option("--jobs", type=number(int, 1, 64), metavar="N", help=f"files at a time {shown}")
    parser.set_defaults(**DEFAULTS)
    args = parser.parse_args(argv)
    known = {name.lower() for name in SETS} | {"all"}
    unknown = [name for name in args.names if name.lower() not in known]
    if unknown:
        parser.error(f"unknown data set {unknown[0]}; choose from {', '.join(SETS)}, or all")
    if not args.names and not args.list:
        parser.error(f"which data sets? {', '.join(SETS)}, or all; --list says more")
    if not re.match(r"https?://[^/]", args.mirror):
        parser.error(
            f"--mirror {args.mirror} is not an address: it must begin with http:// or https:// and "
            "name a host"
        )
    return args


def wanted_sets(names: list[str]) -> list[str]:
    """The sets that are asked for, in any case of letters, each once; `all` stands for all."""
    known = {name.lower(): [name] for name in SETS} | {"all": list(SETS)}
    return list(dict.fromkeys(name for wanted in names for name in known[wanted.lower()]))


def list_sets() -> str:
    """The sets as aligned text."""
    catalogue = read_catalogue()
    rows = [("name", "files", "MB", "purpose", "licence")]
    for name, source in SETS.items():
        size = sum(int(row["bytes"]) for row in catalogue[name]) / 1e6
        rows.append(
            (name, str(len(catalogue[name])), f"{size:.1f}", source.purpose, source.licence)
        )
    widths = [max(map(len, column)) for column in zip(*rows)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows
    )


# ----------------------------------------------------------------------------------------- fetching


def fetch_all(files: set[File], *, mirror: str, jobs: int) -> dict[str, list[File]]:
    """Fetch the files, several at a time; returns those that failed, by what is wrong."""
    problems: dict[str, list[File]] = defaultdict(list)
    stopped = threading.Event()
    sessions = threading.local()  # a session is not safe to share between threads

    def fetch_one(file: File) -> None:
        if not hasattr(sessions, "own"):
            sessions.own = requests.Session()
        fetch(file, sessions.own, mirror=mirror, stopped=stopped)

    total = sum(file.size for file in files)
    with (
        tqdm(total=total, unit="B", unit_scale=True, disable=None if files else True) as bar,
        ThreadPoolExecutor(jobs) as pool,
    ):
        waiting = {
            pool.submit(fetch_one, file): file
            for file in sorted(files, key=lambda file: file.target)
        }
        try:
            for done in as_completed(waiting):
                try:
                    done.result()
                    bar.update(waiting[done].size)
                except SMNetError as error:
                    problems[str(error)].append(waiting[done])
        except BaseException:  # Ctrl-C: what is under way is left
            stopped.set()
            pool.shutdown(cancel_futures=True)
            raise
    return {
        problem: sorted(found, key=lambda file: file.target) for problem, found in problems.items()
    }


def fetch(file: File, session: requests.Session, *, mirror: str, stopped: threading.Event) -> None:
    """Fetch one file, in several attempts; it is at its place whole and checked, or not at all.

    Raises:
        SMNetError: it could not be fetched or written.
    """
    host = mirror.split("/")[2]
    for attempt in range(ATTEMPTS):
        if attempt:
            stopped.wait(PAUSE * 2 ** (attempt - 1))
        if stopped.is_set():
            raise SMNetError("stopped")
        try:
            content = receive(f"{mirror}/{file.address}", file, session, stopped)
            break
        except TryAgainError as error:
            problem = f"{host} {error}"
        except (requests.RequestException, LocationParseError) as error:
            stalled = isinstance(error, requests.Timeout) or "timed out" in str(error).lower()
            problem = f"{host} stalled" if stalled else f"no connection to {host}, or it broke off"
    else:
        raise SMNetError(f"{problem} ({ATTEMPTS} attempts)")
    with replacing(file.target) as temporary:
        temporary.write_bytes(content)


def receive(url: str, file: File, session: requests.Session, stopped: threading.Event) -> bytes:
    """What a server sends for a file, checked.

    Raises:
        SMNetError: it says that it does not have it, or does not give it.
        TryAgainError: it has trouble, or sends something else.
        requests.RequestException: no connection, a stall, or a body that breaks off.
    """
    with session.get(url, stream=True, timeout=TIMEOUT) as answer:
        if answer.status_code == 429 or answer.status_code >= 500:
            raise TryAgainError(f"answers {answer.status_code} {answer.reason}")
        if answer.status_code != 200:
            raise SMNetError(
                f"{url.split('/')[2]} answers {answer.status_code} {answer.reason}, to "
                f"{url.rpartition('/')[0]}/..."
            )
        content = bytearray()
        for piece in answer.iter_content(1 << 16):
            content += piece
            if len(content) > file.size or stopped.is_set():
                break
    if len(content) != file.size or hashlib.sha256(content).hexdigest() != file.sha256:
        raise TryAgainError(
            "sends something else than the file (its size or SHA-256 is not that in datasets.csv)"
        )
    return bytes(content)


if __name__ == "__main__":
    run_script(main)
