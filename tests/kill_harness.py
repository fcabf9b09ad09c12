"""Kill real training processes, again and again, and show that nothing is lost: the long form of
what test_killing.py runs.

    python tests/kill_harness.py --kills 20

A run is trained once in peace. Then the same command is started, killed by SIGKILL at a random
moment, and started again with --resume, until it has been killed so often and is left to finish.
Moments are of four kinds in turn: a random time after training began, while a file is being
written, during validation, and while starting. At the end all weights and the training state must
be the same bits and the jsonl log the same lines, but for the clock's. Exit status 0 if so.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402

import dataset_gray  # noqa: E402

RUN = "model_gray_L25"
OPTIONS = (
    "--width 4 --patch_size 32 --draws 24 --batchsize 4 --workers 1 --device cpu --save_every 0 "
    "--optimizer muon --ema 0.99 --schedule cosine --warmup 10 --grad_clip 1"
).split()


def start(folder: Path, data: Path, epochs: int, *more: str) -> subprocess.Popen:
    """A training process that writes into `folder`; its output can be read line by line."""
    files = f"--train_h5 {data}/train.h5 --val_h5 {data}/val.h5".split()
    files += f"--weights_dir {folder}/weights --log_dir {folder}/logs".split()
    words = [
        sys.executable,
        str(ROOT / "train_gray.py"),
        *OPTIONS,
        *files,
        "--epochs",
        str(epochs),
        *more,
    ]
    return subprocess.Popen(
        words,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1"},
    )


def kill_in_mid_save(process: subprocess.Popen, folder: Path, patience: float) -> str:
    """Wait until a temporary file is being written, then kill."""
    end = time.monotonic() + patience
    while time.monotonic() < end and process.poll() is None:
        if any((folder / "weights").glob(".*.tmp")):
            process.kill()
            return "during a save"
    process.kill()
    return "while waiting for a save"


def one_life(
    folder: Path, data: Path, epochs: int, kind: str, rng: random.Random
) -> tuple[str, bool]:
    """Start, kill at a moment of this kind; returns what happened and whether the run had finished
    before."""
    has_state = any((folder / "weights").glob(f"{RUN}_state*.pth"))
    process = start(folder, data, epochs, *(["--resume"] if has_state else ["--overwrite"]))
    lines: list[str] = []
    reader = threading.Thread(
        target=lambda: lines.extend(iter(process.stdout.readline, "")), daemon=True
    )
    reader.start()
    if kind == "start":
        pause = rng.uniform(0, 6)
        began = time.monotonic()
    while process.poll() is None and not any("parameters on" in line for line in lines):
        if kind == "start" and time.monotonic() - began >= pause:
            break
        time.sleep(0.01)
    if kind == "save":
        time.sleep(rng.uniform(0, 0.5))
        what = kill_in_mid_save(process, folder, 5)
    elif kind == "validation":
        seen = len(lines)
        while process.poll() is None and not any(
            ": loss" in line and " of " in line for line in lines[seen:]
        ):
            time.sleep(0.001)  # the line of an epoch's last step: validation is next
        time.sleep(rng.uniform(0, 0.1))
        process.kill()
        what = "in or near validation"
    elif kind == "start":
        process.kill()
        what = "while starting"
    else:
        pause = rng.uniform(0, 2)
        time.sleep(pause)
        process.kill()
        what = f"{pause:.2f} s after it began"
    status = process.wait()
    reader.join()
    if status not in (0, -9):
        raise SystemExit("the run failed:\n" + "".join(lines))
    return what, status == 0


def without_clock(folder: Path) -> list[dict]:
    """The log's lines without what clocks and meters said."""
    clocks = ("seconds", "pictures_per_second", "data_wait", "peak_memory_gb")
    lines = (folder / "logs" / f"{RUN}.jsonl").read_text().splitlines()
    return [
        {key: value for key, value in json.loads(line).items() if key not in clocks}
        for line in lines
    ]


def tensors(content: object) -> list[torch.Tensor]:
    """All tensors of a checkpoint, in its order."""
    if isinstance(content, torch.Tensor):
        return [content]
    parts = (
        content.values()
        if isinstance(content, dict)
        else content
        if isinstance(content, (list, tuple))
        else ()
    )
    return [tensor for part in parts for tensor in tensors(part)]


def survive(folder: Path, *, kills: int, epochs: int, seed: int) -> int:
    """Do all that the module's docstring says in `folder`; AssertionError where something was lost
    or changed.

    Returns how often the run was killed before it was done.
    """
    from helpers import write_folder

    rng = random.Random(seed)
    words = [
        "--train_dir",
        write_folder(folder / "train", 3),
        "--val_dir",
        write_folder(folder / "val", 4),
        "--train_h5",
        folder / "train.h5",
        "--val_h5",
        folder / "val.h5",
        "--patch_size",
        "48",
    ]
    dataset_gray.main([str(word) for word in words])
    peace, war = folder / "peace", folder / "war"
    process = start(peace, folder, epochs)
    said, _ = process.communicate()
    assert process.returncode == 0, said
    done = 0
    while done < kills:
        what, finished = one_life(
            war, folder, epochs, ("time", "save", "validation", "start")[done % 4], rng
        )
        if finished:
            break
        done += 1
        print(f"kill {done}: {what}", flush=True)
    process = start(war, folder, epochs, "--resume")
    said, _ = process.communicate()
    assert process.returncode == 0, said
    for file in (f"{RUN}_{epochs}.pth", f"{RUN}_best.pth", f"{RUN}_state.pth"):
        ours, theirs = (
            tensors(torch.load(f / "weights" / file, weights_only=True)) for f in (war, peace)
        )
        assert len(ours) == len(theirs) and all(map(torch.equal, ours, theirs)), f"{file} differs"
    assert without_clock(war) == without_clock(peace), "the logs differ"
    assert {p.name for p in (war / "weights").iterdir()} == {
        p.name for p in (peace / "weights").iterdir()
    }, "the files differ"
    return done


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--kills", type=int, default=20, help="how often to kill (default: %(default)s)"
    )
    parser.add_argument(
        "--epochs",
        type=int,
        default=30,
        help="length of the run, 72 steps each (default: %(default)s)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default: %(default)s)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        done = survive(Path(folder), kills=args.kills, epochs=args.epochs, seed=args.seed)
    if done < args.kills:
        raise SystemExit(f"the run was done after {done} kills; give more --epochs")
    print(f"{args.kills} kills, the same weights to the bit and the same log")


if __name__ == "__main__":
    main()
