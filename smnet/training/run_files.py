"""The files of a training run: weights by epoch, the best, the training state, the log."""

import argparse
import contextlib
import json
from pathlib import Path

import torch

import utils
from smnet.results import read_log
from smnet.training import distributed
from smnet.training.learner import Learner
from smnet.training.run_lock import RunLock
from utils import SMNetError


class RunFiles:
    """The files of the run `name`. `starting.start` brings the learner to where they say it was.

    Args:
        learner: what trains.
        name: what the files begin with, as `utils.run_name` gives.
        args: as `options.parse_args` gives.
        settings: what a state says of the command (`settings.settings_of`).
    """

    def __init__(self, learner: Learner, *, name: str, args: argparse.Namespace, settings: dict):
        self.learner, self.name, self.args, self.settings = learner, name, args, settings
        self.log_folder = Path(args.log_dir) / name
        self.log_file = Path(args.log_dir) / f"{name}.jsonl"
        self.own_state = False  # whether the state on disk is of this run
        self.saved_step: int | None = None  # of the newest state of this run on disk
        self.points: list = []  # TensorBoard's, as the state had them
        folders = {Path(folder).resolve(): folder for folder in (args.log_dir, args.weights_dir)}
        self.locks = [
            RunLock(Path(folder, f".{name}.lock"), f"{name} in {folder}")
            for folder in folders.values()
        ]

    def lock(self) -> None:
        """Keep other processes out of the folders that are there already.

        Raises:
            SMNetError: another process trains this run.
        """
        for lock in self.locks:
            lock.acquire()

    def unlock(self) -> None:
        """Let others in, where this process has kept them out."""
        for lock in self.locks:
            lock.release()

    def file(self, what: int | str) -> Path:
        """weights/NAME_<what>.pth; `what` is an epoch, "best" or "state"."""
        return Path(self.args.weights_dir) / f"{self.name}_{what}.pth"

    def epochs_on_disk(self) -> list[int]:
        """The epochs whose weights are there, rising."""
        return utils.epochs_on_disk(self.args.weights_dir, self.name)

    def event_files(self) -> list[Path]:
        """TensorBoard's files of this run."""
        return sorted(self.log_folder.glob("events.out.tfevents.*"))

    def leftovers(self) -> list[Path]:
        """What a process left that was killed while writing."""
        return [
            *Path(self.args.weights_dir).glob(f".{self.name}_*.tmp"),
            *Path(self.args.log_dir).glob(f".{self.log_file.name}.*.tmp"),
        ]

    def remove_later_than(self, epoch: int) -> None:
        """Remove weights of later epochs: an earlier run's, or of an epoch that is done again
        (`starting` has seen to that)."""
        for later in self.epochs_on_disk():
            if later > epoch:
                utils.remove(self.file(later))

    def save_state(self, points: list | None = None) -> None:
        """Write all that continuing needs; the state before it is kept beside it.

        Args:
            points: TensorBoard's, to be written again from the state.

        Raises:
            SMNetError: the weights are not finite, or the file cannot be written.
        """
        if not torch.stack([p.isfinite().all() for p in self.learner.model.parameters()]).all():
            self.learner.raise_diverged("some weights are NaN or infinite")
        state = {
            **self.learner.state(),
            "launch": distributed.launch_id(),
            "settings": self.settings,
            "points": [list(point) for point in points or []],
        }
        # A state of an earlier run is not one before this.
        keep = self.file("state_previous") if self.own_state else None
        utils.save_checkpoint(self.file("state"), state, keep=keep)
        if not keep and self.file("state_previous").is_file():
            utils.remove(self.file("state_previous"))
        self.own_state, self.saved_step = True, self.learner.done.step

    def write_log_line(self, line: dict) -> None:
        """Put an epoch's line into the jsonl log, after those of the epochs before and in place of
        any later ones."""
        kept = []
        if self.log_file.is_file():
            for text in self.log_file.read_text().splitlines():
                try:
                    if json.loads(text)["epoch"] >= line["epoch"]:
                        continue
                except (ValueError, KeyError, TypeError):
                    pass  # a line that somebody else put there stays
                kept.append(text)
        with utils.replacing(self.log_file) as temporary:
            temporary.write_text("\n".join([*kept, json.dumps(line)]) + "\n")

    def seconds_until(self, epoch: int) -> float:
        """The training's seconds up to the end of an epoch, by the log; 0 where it does not say."""
        with contextlib.suppress(SMNetError):
            for line in read_log(self.log_file) if self.log_file.is_file() else []:
                if line.get("epoch") == epoch:
                    return float(line.get("seconds", 0))
        return 0.0

    def read_state(self) -> tuple[dict, Path, list[str]]:
        """(the newest training state, its file, lines to print): where the newest is missing or
        damaged the one before it, which is said.

        Raises:
            SMNetError: there is none, or none that can be read.
        """
        newest, previous = self.file("state"), self.file("state_previous")
        if not newest.is_file() and not previous.is_file():
            raise SMNetError(f"no training state {newest} to resume; {self.advice_without_state()}")
        try:
            if newest.is_file():
                return utils.read_checkpoint(newest), newest, []
            error = SMNetError(f"there is no {newest}")
        except utils.DamagedFile as damage:
            error = damage
        try:
            state = utils.read_checkpoint(previous)
        except SMNetError:
            raise SMNetError(f"{error}; {self.advice_without_state()}") from None
        note = f"{newest} is missing or damaged: going on from the state before it, {previous}"
        return state, previous, [note]

    def advice_without_state(self) -> str:
        """What to type where there is no training state."""
        epochs = self.epochs_on_disk()
        if epochs:
            return f"the last weights there: -c {epochs[-1]}"
        return "leave the option out to start afresh"
