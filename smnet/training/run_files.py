"""The files of a training run: its states and weights, and bringing a learner to where they say it
was."""

import argparse
import contextlib
import io
import json
import math
from pathlib import Path

import torch

import utils
from smnet.training import distributed
from smnet.training.learner import Learner, Progress
from utils import SMNetError

# A state is continued only by a command that agrees with it on these (what it trained on, and how
# the options are called that say so); the other options may change, and what did is said.
FIXED = {
    "noise_range": "--noiseL or --noiseL_range",
    "batchsize": "--batchsize",
    "patch_size": "--patch_size",
    "samples": "--train_h5 and --draws, of samples an epoch",
    "seed": "--seed",
    "color_jitter": "--color_jitter",
    "optimizer": "--optimizer",
    "betas": "--betas",
    "averaged": "--ema above 0",
}
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
    "val_noiseL",
    "val_h5",
    "amp",
    "tf32",
    "compile",
    "accumulate",
)


class RunFiles:
    """The files of the run `name`: `start` brings the learner to where they say it was,
    `save_state` writes where it is.

    Args:
        learner: what trains.
        name: what the files begin with, as `utils.run_name` gives.
        args: as `training.parse_args` gives.
    """

    def __init__(self, learner: Learner, *, name: str, args: argparse.Namespace):
        self.learner, self.name, self.args = learner, name, args
        asked = {
            "samples": learner.batches.length,
            "averaged": args.ema > 0,
            "milestones": list(args.milestones),
        }
        self.settings = {**vars(args), **asked}
        self.log_folder, self.log_file = (
            Path(args.log_dir) / name,
            Path(args.log_dir) / f"{name}.jsonl",
        )
        self.damaged = (
            False  # whether the newest state on disk is, and the one before it is to be kept
        )
        self.own_state = False  # whether the state on disk is of this run

    def file(self, what: int | str) -> Path:
        """weights/NAME_<what>.pth; `what` is an epoch, "best" or "state"."""
        return Path(self.args.weights_dir) / f"{self.name}_{what}.pth"

    def epochs_on_disk(self) -> list[int]:
        """The epochs whose weights are there, rising."""
        return utils.epochs_on_disk(self.args.weights_dir, self.name)

    def remove_later_than(self, epoch: int) -> None:
        """Remove weights of later epochs: an earlier run's, or of an epoch that is done again
        (`start` has seen to that)."""
        for later in self.epochs_on_disk():
            if later > epoch:
                utils.remove(self.file(later))

    def save_state(self) -> None:
        """Write all that continuing needs; the state before it is kept beside it.

        Raises:
            SMNetError: the weights are not finite, or the file cannot be written.
        """
        if not torch.stack([p.isfinite().all() for p in self.learner.model.parameters()]).all():
            self.learner.raise_diverged("there are weights that are no finite numbers")
        settings = {key: self.settings[key] for key in (*FIXED, *CHANGEABLE)}
        state = {**self.learner.state(), "launch": distributed.launch_id(), "settings": settings}
        keep = (
            self.file("state_previous") if self.own_state else None
        )  # a state of an earlier run is not one before this
        utils.save_checkpoint(self.file("state"), state, keep=keep)
        if not keep and self.file("state_previous").is_file():
            utils.remove(self.file("state_previous"))
        self.own_state = True

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

    def read_state(self) -> dict:
        """The newest training state; where that is missing or damaged the one before it, which is
        said.

        Raises:
            SMNetError: there is none, or none that can be read.
        """
        newest, previous = self.file("state"), self.file("state_previous")
        if not newest.is_file() and not previous.is_file():
            raise SMNetError(f"no training state {newest} to resume; {self.advice_without_state()}")
        try:
            if newest.is_file():
                return utils.read_checkpoint(newest)
            error = SMNetError(f"there is no {newest}")
        except utils.DamagedFile as damage:
            error = damage
        try:
            state = utils.read_checkpoint(previous)
        except SMNetError:
            raise SMNetError(f"{error}; {self.advice_without_state()}") from None
        print(f"{newest} is missing or damaged: going on from the state before it, {previous}")
        self.damaged = True
        return state

    def start(self) -> None:
        """Bring the learner to where the command says, in every process alike; the first one reads
        and writes the files.

        Raises:
            SMNetError: see `start_from_files`.
        """
        if distributed.rank() == 0:
            self.start_from_files()
        if distributed.LAUNCHED:
            buffer = io.BytesIO()
            torch.save(self.learner.state(), buffer)
            state = torch.load(
                io.BytesIO(distributed.broadcast(buffer.getvalue())),
                map_location="cpu",
                weights_only=True,
            )
            self.learner.load(state)

    def start_from_files(self) -> None:
        """Bring the run to where `--checkpoint`, `--resume` or `--init` says, or leave it at the
        beginning.

        Raises:
            SMNetError: nothing to continue from, a state of other settings, an earlier run's files
                in the way, or a folder that cannot be written.
        """
        args, state_file = self.args, self.file("state")
        if self.is_restart():
            args.resume, args.checkpoint, args.init = True, 0, None
        in_the_way: list[Path] = []
        if args.resume:
            self.restore(self.read_state())
            if self.damaged:
                self.file("state_previous").replace(
                    state_file
                )  # or the next save would keep the damaged one in its place
            self.own_state = True
            print(
                f"resumed after {self.learner.done.epoch} epochs, at step {self.learner.done.step}"
            )
        elif args.checkpoint:
            in_the_way = self.continue_after(args.checkpoint)
        elif args.init:
            self.take_weights(Path(args.init))
            print(f"starting from the weights in {args.init}")
        # The epoch at hand may have its weights already: a run ended in it, or between its weights
        # and its state.
        at_hand = self.learner.done.epoch + (1 if args.resume or self.learner.done.batch else 0)
        in_the_way = [
            self.file(epoch) for epoch in self.epochs_on_disk() if epoch > at_hand
        ] + in_the_way
        if not args.resume and not args.checkpoint:
            others = (
                state_file,
                self.file("state_previous"),
                self.file("best"),
                self.log_file,
                *self.event_files(),
            )
            in_the_way += [path for path in others if path.is_file()]
        if in_the_way and not args.overwrite:
            raise SMNetError(
                f"an earlier run's {in_the_way[0]} would be replaced; give --resume to continue it, --overwrite to replace "
                "it, or another --weights_dir and --log_dir"
            )
        for folder in (args.weights_dir, self.log_folder):
            utils.make_folder(folder)
        # What a process left that was killed while writing.
        for leftover in (
            *Path(args.weights_dir).glob(f".{self.name}_*.tmp"),
            *Path(args.log_dir).glob(f".{self.log_file.name}.*.tmp"),
        ):
            utils.remove(leftover)
        if not args.resume and not args.checkpoint:
            for file in self.event_files():
                utils.remove(file)
        if not args.resume:
            self.save_state()  # whatever happens next, --resume finds this run and no other

    def is_restart(self) -> bool:
        """Whether torchrun started this process anew (`--max-restarts`): there is a state that this
        launch of it wrote."""
        if not distributed.LAUNCHED:
            return False
        for file in (self.file("state"), self.file("state_previous")):
            with contextlib.suppress(SMNetError):
                return utils.read_checkpoint(file).get("launch") == distributed.launch_id()
        return False

    def continue_after(self, epoch: int) -> list[Path]:
        """`--checkpoint`: from the training state, where it is of the same step as that epoch's
        weights, else from them.

        Returns the state file where it is of a later step, or of other settings: it would be
        replaced by a lesser one.
        """
        weights_file, state_file = self.file(epoch), self.file("state")
        if not weights_file.is_file():
            raise SMNetError(
                f"no weights {weights_file} to continue from; {self.advice_without_state()}"
            )
        content = utils.read_checkpoint(weights_file)
        why, in_the_way = "there is no training state of that epoch", []
        if state_file.is_file():
            try:
                state = utils.read_checkpoint(state_file)
                step = state.get("progress", {}).get("step", 0)
                if step == content.get("step"):
                    self.restore(state)
                    self.own_state = True
                    print(
                        f"continuing exactly after epoch {epoch}, from the training state {state_file}"
                    )
                    return []
                in_the_way = [state_file] if step > epoch * self.learner.steps_per_epoch else []
            except utils.DamagedFile as error:
                why = f"the training state cannot be used ({error})"
            except SMNetError as error:
                why, in_the_way = f"the training state cannot be used ({error})", [state_file]
        self.take_weights(weights_file)
        step = epoch * self.learner.steps_per_epoch
        self.learner.done = Progress(epoch=epoch, step=step, best=self.best_until(epoch))
        print(
            f"continuing after epoch {epoch} from its weights alone, {weights_file}: {why}, so the optimizer starts anew"
        )
        missing = step - content.get("step", step)
        if 0 < missing < self.learner.steps_per_epoch:
            print(f"that epoch ended early, by --max_steps: its last {missing} steps are left out")
        return in_the_way

    def advice_without_state(self) -> str:
        """What to type where there is nothing of the kind asked for."""
        epochs = self.epochs_on_disk()
        return (
            f"the last weights there: -c {epochs[-1]}"
            if epochs
            else "leave the option out to start afresh"
        )

    def best_until(self, epoch: int) -> float:
        """The validation PSNR of the best weights on disk, where they are of this epoch or an
        earlier one and of this sigma."""
        best = -math.inf
        for file in (self.file("best"), self.file(epoch)):
            if file.is_file():
                content = utils.read_checkpoint(file)
                if (
                    content.get("epoch", math.inf) <= epoch
                    and content.get("val_sigma") == self.args.val_noiseL
                ):
                    best = max(best, content["val_psnr"])
        return best

    def event_files(self) -> list[Path]:
        """TensorBoard's files of this run."""
        return sorted(self.log_folder.glob("events.out.tfevents.*"))

    def take_weights(self, path: Path) -> dict:
        """Load the network (and its average) from a checkpoint of weights, ours or the authors';
        return its dict."""
        content = utils.read_checkpoint(path)
        model = utils.model_from_checkpoint(content, path)
        self.check_shape(path, model.channels, model.width, model.shuffle)
        for target in (self.learner.model, self.learner.validated):
            target.load_state_dict(model.state_dict())
        return content

    def restore(self, state: dict) -> None:
        """Take over a training state, after checking that the command agrees with it."""
        path = self.file("state_previous" if self.damaged else "state")
        try:
            progress, settings = Progress(**state["progress"]), state["settings"]
            self.check_shape(path, state["channels"], state["width"], state.get("shuffle", 1))
            for key, option in FIXED.items():
                if settings.get(key, False) != self.settings[key]:
                    raise SMNetError(
                        f"{path} was trained with {settings.get(key, False)} ({option}), this command has "
                        f"{self.settings[key]}; "
                        "give the same, or start a run from its weights with --init and another --weights_dir and --log_dir"
                    )
            for key in CHANGEABLE:
                if settings[key] != self.settings[key]:
                    print(f"--{key} was {settings[key]}, is now {self.settings[key]}")
            if any(settings[key] != self.settings[key] for key in ("val_noiseL", "val_h5")):
                progress.best = -math.inf  # PSNRs that cannot be compared
            self.learner.load(state)
        except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
            raise SMNetError(
                f"{path} is no training state of this version ({error}); continue from weights with -c N"
            ) from None
        self.learner.done.best = progress.best

    def check_shape(self, path: Path, channels: int, width: int, shuffle: int) -> None:
        """Raise where a checkpoint is of another network than this command's."""
        if channels != self.learner.model.channels:
            raise SMNetError(
                f"{path} is for {channels} channels, this script trains {self.learner.model.channels}; use the other script"
            )
        if width != self.learner.model.width:
            raise SMNetError(
                f"{path} has width {width}, this command --width {self.learner.model.width}; give --width {width}"
            )
        if shuffle != self.learner.model.shuffle:
            found = self.learner.model.shuffle
            raise SMNetError(
                f"{path} has shuffle {shuffle}, this command --shuffle {found}; give --shuffle {shuffle}"
            )
