"""One training run: the network with all that its training state holds, and its files."""

import argparse
import dataclasses
import math
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel

import utils
from dataset import EpochBatches, PatchDataset
from models import SMNet
from optimizers import make_optimizers, moving_average, rate_factor
from utils import SMNetError

# A state is continued only by a command that agrees with it on these; the other options may change.
FIXED = ("noise_range", "batchsize", "patch_size", "draws", "optimizer", "betas", "seed", "samples", "averaged")


@dataclasses.dataclass
class Progress:
    """Where a run stands. Saved in the training state and restored from it."""

    epoch: int = 0  # epochs done
    batch: int = 0  # batches done of the epoch after those
    step: int = 0  # batches done in all
    loss_sum: float = 0.0  # over this epoch's batches
    seconds: float = 0.0  # trained in all, validation not counted
    best: float = -math.inf  # highest validation PSNR so far, dB


class Run:
    """A network in training: `step` trains it, `start` and `save_state` bring it from and to the disk.

    Args:
        model: the network; put on the device.
        train_set: what it is trained on.
        name: what its files begin with, as `utils.run_name` gives.
        args: as `training.parse_args` gives.

    Raises:
        SMNetError: no such device, or too few samples for a batch.
    """

    def __init__(self, model: SMNet, train_set: PatchDataset, *, name: str, args: argparse.Namespace):
        self.model, self.name, self.args = model, name, args
        self.device = utils.pick_device(args.device)
        self.batches = EpochBatches(len(train_set), args.batchsize, seed=args.seed)
        self.steps_per_epoch = len(self.batches)
        if not self.steps_per_epoch:
            raise SMNetError(
                f"{args.train_h5} gives {len(train_set)} samples an epoch, less than --batchsize {args.batchsize}; "
                "give a smaller one, or more pictures to dataset*.py"
            )
        self.total_steps = min(self.steps_per_epoch * args.epochs, args.max_steps or math.inf)
        self.settings = {**vars(args), "samples": len(train_set), "averaged": args.ema > 0}
        self.log_folder, self.log_file = Path(args.log_dir) / name, Path(args.log_dir) / f"{name}.jsonl"
        self.done = Progress()

        model.to(self.device, memory_format=torch.channels_last)
        self.average = AveragedModel(model, multi_avg_fn=moving_average(args.ema)) if args.ema else None
        self.optimizers, self.rates = zip(*make_optimizers(model, args))

    @property
    def validated(self) -> SMNet:
        """The network that is validated and saved: the moving average where there is one."""
        return self.average.module if self.average else self.model

    def factor(self, step: int) -> float:
        """What the learning rates are multiplied by at `step`, 0 being the first."""
        return rate_factor(step, steps_per_epoch=self.steps_per_epoch, total_steps=self.total_steps, args=self.args)

    def step(self, clean: Tensor, noisy: Tensor) -> Tensor:
        """One optimizer step on a batch, 2 x (N, C, H, W) -> its loss before the step, detached."""
        for optimizer, rate in zip(self.optimizers, self.rates):
            optimizer.zero_grad()
            for group in optimizer.param_groups:
                group["lr"] = rate * self.factor(self.done.step)
        loss = F.mse_loss(self.model(noisy), clean)
        loss.backward()
        if self.args.grad_clip:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.args.grad_clip)
        for optimizer in self.optimizers:
            optimizer.step()
        if self.average:
            self.average.update_parameters(self.model)
        return loss.detach()

    # -------------------------------------------------------------------------------------------------------- files

    def file(self, what: int | str) -> Path:
        """weights/NAME_<what>.pth; `what` is an epoch, "best" or "state"."""
        return Path(self.args.weights_dir) / f"{self.name}_{what}.pth"

    def epochs_on_disk(self) -> list[int]:
        """The epochs whose weights are there, rising."""
        return utils.epochs_on_disk(self.args.weights_dir, self.name)

    def remove_later_than(self, epoch: int) -> None:
        """Remove weights of later epochs, which an earlier run left (`start` has made sure that they may go)."""
        for later in self.epochs_on_disk():
            if later > epoch:
                self.file(later).unlink()

    def save_state(self) -> None:
        """Write all that continuing needs."""
        state = {
            "channels": self.model.channels,
            "width": self.model.width,
            "model": self.model.state_dict(),
            "average": self.average and self.average.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "progress": dataclasses.asdict(self.done),
            "settings": {key: self.settings[key] for key in FIXED},
        }
        utils.save_checkpoint(self.file("state"), state)

    def start(self) -> None:
        """Bring the run to where `--checkpoint`, `--resume` or `--init` says, or leave it at the beginning.

        Raises:
            SMNetError: nothing to continue from, a state of other settings, or an earlier run's files in the way.
        """
        args, state_file, epochs = self.args, self.file("state"), self.epochs_on_disk()
        last = epochs[-1] if epochs else 0
        if args.resume:
            if not state_file.is_file():
                hint = f"continue from weights with -c {last}" if last else "leave out --resume to start afresh"
                raise SMNetError(f"no training state {state_file} to resume; {hint}")
            self.restore(utils.read_checkpoint(state_file))
            print(f"resumed from {state_file}: epoch {self.done.epoch}, step {self.done.step}")
            return
        if last > args.checkpoint and not args.overwrite:
            going_on = "--resume to continue it, " if state_file.is_file() else f"-c {last} to continue it, "
            raise SMNetError(
                f"an earlier run's {self.file(last)} would be replaced; give {going_on}--overwrite to replace it, "
                "or another --weights_dir"
            )
        if args.checkpoint:
            state = utils.read_checkpoint(state_file) if state_file.is_file() else None
            if (
                state
                and "progress" in state
                and (state["progress"]["epoch"], state["progress"]["batch"]) == (args.checkpoint, 0)
            ):
                self.restore(state)
                print(f"continuing exactly after epoch {args.checkpoint}, from the training state {state_file}")
            else:
                content = self.take_weights(self.file(args.checkpoint))
                self.done.epoch, self.done.step = args.checkpoint, args.checkpoint * self.steps_per_epoch
                self.done.best = content.get("val_psnr", -math.inf)
                print(
                    f"continuing after epoch {args.checkpoint} from its weights alone, {self.file(args.checkpoint)}: there is "
                    "no training state of that epoch, so the optimizer starts anew"
                )
            return
        if args.init:
            self.take_weights(Path(args.init))
            print(f"starting from the weights in {args.init}")
        for old in self.log_folder.glob("events.out.tfevents.*"):  # of an earlier run that may be replaced
            old.unlink()

    def take_weights(self, path: Path) -> dict:
        """Load the network (and its average) from a checkpoint of weights, ours or the authors'; return its dict."""
        content = utils.read_checkpoint(path)
        model = utils.model_from_checkpoint(content, path)
        self.check_shape(path, model.channels, model.width)
        for target in filter(None, (self.model, self.average and self.average.module)):
            target.load_state_dict(model.state_dict())
        return content

    def restore(self, state: dict) -> None:
        """Take over a training state, after checking that the command agrees with it."""
        path = self.file("state")
        try:
            progress, settings = Progress(**state["progress"]), state["settings"]
            self.check_shape(path, state["channels"], state["width"])
            for key in FIXED:
                if settings[key] != self.settings[key]:
                    raise SMNetError(
                        f"{path} was trained with {key} {settings[key]}, this command has {self.settings[key]}; give the "
                        "same, or start a run from its weights with --init and another --weights_dir"
                    )
            self.model.load_state_dict(state["model"])
            if self.average:
                self.average.load_state_dict(state["average"])
            for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
                optimizer.load_state_dict(saved)
        except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
            raise SMNetError(
                f"{path} is no training state of this version ({error}); continue from weights with -c N"
            ) from None
        self.done = progress

    def check_shape(self, path: Path, channels: int, width: int) -> None:
        """Raise where a checkpoint is of another network than this command's."""
        if channels != self.model.channels:
            raise SMNetError(
                f"{path} is for {channels} channels, this script trains {self.model.channels}; use the other script"
            )
        if width != self.model.width:
            raise SMNetError(f"{path} has width {width}, this command --width {self.model.width}; give --width {width}")
