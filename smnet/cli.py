"""What the command lines share: `run_script`, the parser, number types, problems, overwriting."""

import argparse
import errno
import io
import math
import os
import signal
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import torch

from smnet.devices import is_out_of_memory, reuse_memory
from utils import SMNetError, one_line, refuse_folder

HANGUP = getattr(signal, "SIGHUP", None)  # not on Windows


def run_script(main: Callable[[], int | None]) -> None:
    """Run a script's `main` and exit: 0 done, 1 with one line on an `SMNetError`, 2 wrong
    arguments, 130 on Ctrl-C, 143 on SIGTERM; unfinished files are removed on all of them."""
    signal.signal(signal.SIGTERM, stop)
    reuse_memory()
    torch.backends.cudnn.allow_tf32 = False  # PyTorch's default on CUDA, off by 1e-3
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # for names the terminal cannot show
    try:
        status = main()
    except SMNetError as error:
        # A data worker's error comes with its traceback before it.
        sys.exit(f"error: {str(error).rsplit('SMNetError: ', 1)[-1].strip()}")
    except (MemoryError, RuntimeError) as error:
        if type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
            reason = str(error).strip().splitlines()[0]
            sys.exit(f"error: torch.compile failed ({reason}); leave out --compile")
        if not is_out_of_memory(error):
            raise
        sys.exit(
            "error: out of memory; use smaller pictures, or in training a larger --accumulate, "
            "--amp, or a smaller --batchsize or --patch_size"
        )
    except BrokenPipeError:  # who reads the output has seen enough
        to_nowhere(sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:  # a folder that may not be looked into, a name too long
        name = error.filename or "a file"
        if error.errno == errno.ENOSPC and not error.filename:  # all files that we write have names
            name = "the output"
            to_nowhere(sys.stdout.fileno())
        sys.exit(f"error: {name}: {error.strerror or error}")
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        sys.exit(130)
    sys.exit(status)


def stop(number: int, frame: object) -> None:
    """What SIGTERM does where nothing else is said: end as on an error, so that what is half done
    is cleared away."""
    sys.exit(128 + number)


def stop_signals() -> list[int]:
    """Ctrl-C, SIGTERM as preempted machines send it, and SIGHUP of a terminal that is closed, which
    Windows does not have and nohup has ignored."""
    numbers: list[int] = [signal.SIGINT, signal.SIGTERM]
    if HANGUP is not None and signal.getsignal(HANGUP) != signal.SIG_IGN:
        numbers.append(HANGUP)
    return numbers


def to_nowhere(descriptor: int) -> None:
    """Let what is still written to this file descriptor go nowhere, where it would be an error."""
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), descriptor)


def say(text: str) -> None:
    """Print a line at once. Where nobody reads any more, as when Ctrl-C ends a `| tee log` as well,
    go on in silence."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        to_nowhere(sys.stdout.fileno())


def make_parser(description: str) -> argparse.ArgumentParser:
    """A parser that shows a script's docstring as it stands, and takes no shortened options:
    misspelt ones are errors."""
    formatter = argparse.RawDescriptionHelpFormatter
    return argparse.ArgumentParser(
        description=description, allow_abbrev=False, formatter_class=formatter
    )


def number(number_type: type, low: float, high: float = math.inf) -> Callable[[str], float]:
    """An argparse type: an `int` or `float` from `low` to `high`, both included; anything else is
    exit status 2."""

    def parse(text: str) -> float:
        try:
            value = number_type(text)
        except ValueError:
            raise argparse.ArgumentTypeError(
                f"{text!r} is not {'a whole' if number_type is int else 'a'} number"
            ) from None
        if not (low <= value <= high and math.isfinite(value)):
            bounds = f"at least {low}" if high == math.inf else f"from {low} to {high}"
            raise argparse.ArgumentTypeError(f"{text} is out of range: it must be {bounds}")
        return value

    return parse


def report_problems(problems: Iterable[str], *, prefix: str) -> int:
    """Print each problem on a line of its own to stderr, after `prefix` ("skipped", "error").

    Returns the exit status: 1 if there is any problem, else 0.
    """
    problems = list(problems)
    for problem in problems:
        print(f"{prefix}: {one_line(problem)}", file=sys.stderr)
    return 1 if problems else 0


def refuse_overwrite(path: str | Path, *, overwrite: bool, advice: str = "") -> None:
    """Raise if `path` exists, unless `overwrite`; `advice` is what else to type.

    Raises:
        SMNetError: the file exists, or a folder of its name, which nothing replaces.
    """
    refuse_folder(path)
    if os.path.lexists(path) and not overwrite:
        raise SMNetError(f"{path} already exists; --overwrite replaces it{advice}")
