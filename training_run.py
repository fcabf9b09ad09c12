"""One training run: the network with all that its training state holds, and its files."""

import argparse
import dataclasses
import io
import math
from contextlib import nullcontext
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel

import distributed
import utils
from models import SMNet
from optimizers import make_optimizers, moving_average, rate_factor
from patches import EpochBatches, PatchDataset
from utils import SMNetError

# A state is continued only by a command that agrees with it on these (what it trained on, and how the options are called
# that say so); the other options may change, and what did is said.
FIXED = {
    "noise_range": "--noiseL or --noiseL_range",
    "batchsize": "--batchsize",
    "patch_size": "--patch_size",
    "samples": "--train_h5 and --draws, of samples an epoch",
    "seed": "--seed",
    "optimizer": "--optimizer",
    "betas": "--betas",
    "averaged": "--ema above 0",
}
CHANGEABLE = (
    "epochs", "max_steps", "lr", "muon_lr", "schedule", "milestones", "warmup", "ema", "grad_clip", "val_noiseL", "val_h5",
    "amp", "tf32", "compile", "accumulate",
)  # fmt: skip


@dataclasses.dataclass
class Progress:
    """Where a run stands. Saved in the training state and restored from it."""

    epoch: int = 0  # epochs done
    batch: int = 0  # batches done of the epoch after those
    step: int = 0  # batches done in all
    loss_sum: float = 0.0  # over this epoch's batches
    seconds: float = 0.0  # trained in all, validation not counted
    waited: float = 0.0  # seconds of those that went by until data came
    best: float = -math.inf  # highest validation PSNR so far, dB
    closed: bool = True  # whether this point is validated and its weights are written; not so in the middle of an epoch


def has_bf16(device: torch.device) -> bool:
    """Whether a device computes in bf16 itself; older GPUs only emulate it, slowly."""
    if device.type == "cuda":
        with torch.cuda.device(device):
            return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu"


class Run:
    """A network in training: `step` trains it, `start` and `save_state` bring it from and to the disk.

    Args:
        model: the network; put on the device.
        train_set: what it is trained on.
        name: what its files begin with, as `utils.run_name` gives.
        args: as `training.parse_args` gives.
        device: this process's.

    Raises:
        SMNetError: too few samples for a batch, or too few pictures in a batch for the processes.
    """

    def __init__(self, model: SMNet, train_set: PatchDataset, *, name: str, args: argparse.Namespace, device: torch.device):
        self.model, self.name, self.args = model, name, args
        self.device = device
        self.batches = EpochBatches(len(train_set), args.batchsize, seed=args.seed)
        self.steps_per_epoch = len(self.batches)
        if not self.steps_per_epoch:
            raise SMNetError(
                f"{args.train_h5} gives {len(train_set)} samples an epoch, less than --batchsize {args.batchsize}; "
                "give a smaller one, or more pictures to dataset*.py"
            )
        if args.batchsize < distributed.size():
            raise SMNetError(f"--batchsize {args.batchsize} is the whole batch, too small for {distributed.size()} processes")
        self.total_steps = min(self.steps_per_epoch * args.epochs, args.max_steps or math.inf)
        self.settings = {**vars(args), "samples": len(train_set), "averaged": args.ema > 0, "milestones": list(args.milestones)}
        self.log_folder, self.log_file = Path(args.log_dir) / name, Path(args.log_dir) / f"{name}.jsonl"
        self.done = Progress()
        self.damaged = False  # whether the newest state on disk is, and the one before it is to be kept
        self.launched = False  # whether the state on disk is of this run
        self.speed = 0.0  # pictures a second in the epoch at hand

        model.to(self.device, memory_format=torch.channels_last)
        self.parallel: nn.Module = model  # what is called in training: `start` wraps it for several processes and --compile
        self.no_sync = nullcontext  # within it the processes do not add up their gradients
        self.average = AveragedModel(model, multi_avg_fn=moving_average(args.ema)) if args.ema else None
        self.optimizers, self.rates = zip(*make_optimizers(model, args))
        bf16 = has_bf16(device)
        self.autocast = torch.autocast(device.type, torch.bfloat16 if bf16 else torch.float16, enabled=args.amp)
        self.scaler = torch.amp.GradScaler(device.type, enabled=args.amp and not bf16)
        if self.scaler.is_enabled() and args.optimizer == "muon":
            raise SMNetError("this device has no bf16, and fp16 goes with --optimizer adam alone; leave out --amp or muon")

    @property
    def validated(self) -> SMNet:
        """The network that is validated and saved: the moving average where there is one."""
        return self.average.module if self.average else self.model

    def factor(self, step: int) -> float:
        """What the learning rates are multiplied by at `step`, 0 being the first."""
        return rate_factor(step, steps_per_epoch=self.steps_per_epoch, total_steps=self.total_steps, args=self.args)

    def steps_left_in_epoch(self) -> int:
        """Steps to the end of the epoch at hand, or to the run's last step."""
        return max(0, min(self.steps_per_epoch - self.done.batch, self.total_steps - self.done.step))

    def step(self, clean: Tensor, noisy: Tensor) -> Tensor:
        """One optimizer step on this process's share of a batch, 2 x (n, C, H, W).

        Returns its part of the batch's loss before the step, detached: the parts of all processes add up to the loss.
        """
        for optimizer, rate in zip(self.optimizers, self.rates):
            optimizer.zero_grad()
            for group in optimizer.param_groups:
                group["lr"] = rate * self.factor(self.done.step)
        total = torch.zeros((), device=self.device)
        pieces = list(zip(clean.chunk(self.args.accumulate), noisy.chunk(self.args.accumulate)))
        for i, (clean_piece, noisy_piece) in enumerate(pieces):
            with self.no_sync() if i + 1 < len(pieces) else nullcontext():
                with self.autocast:
                    output = self.parallel(noisy_piece)
                part = F.mse_loss(output.float(), clean_piece) * (len(clean_piece) / self.args.batchsize)
                # The gradients are averaged over the processes, where their sum is wanted.
                self.scaler.scale(part * distributed.size()).backward()
            total += part.detach()
        for optimizer in self.optimizers:
            self.scaler.unscale_(optimizer)
        if self.args.grad_clip:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.args.grad_clip)
        for optimizer in self.optimizers:
            self.scaler.step(optimizer)
        self.scaler.update()
        if self.average:
            self.average.update_parameters(self.model)
        return total

    # -------------------------------------------------------------------------------------------------------- files

    def file(self, what: int | str) -> Path:
        """weights/NAME_<what>.pth; `what` is an epoch, "best" or "state"."""
        return Path(self.args.weights_dir) / f"{self.name}_{what}.pth"

    def epochs_on_disk(self) -> list[int]:
        """The epochs whose weights are there, rising."""
        return utils.epochs_on_disk(self.args.weights_dir, self.name)

    def remove_later_than(self, epoch: int) -> None:
        """Remove weights of later epochs: an earlier run's, or of an epoch that is done again (`start` has seen to that)."""
        for later in self.epochs_on_disk():
            if later > epoch:
                utils.remove(self.file(later))

    def raise_diverged(self, what: str) -> None:
        """Stop a run whose loss or weights are no numbers any more, before they replace good ones."""
        raise SMNetError(
            f"{what} at step {self.done.step}: training has diverged. Try a lower --lr, --grad_clip 1 or --warmup 100; "
            "what was saved before is kept"
        )

    def save_state(self) -> None:
        """Write all that continuing needs; the state before it is kept beside it.

        Raises:
            SMNetError: the weights are not finite, or the file cannot be written.
        """
        if not torch.stack([p.isfinite().all() for p in self.model.parameters()]).all():
            self.raise_diverged("there are weights that are no finite numbers")
        keep = self.file("state_previous") if self.launched else None  # a state of an earlier run is not one before this
        utils.save_checkpoint(self.file("state"), self.state(), keep=keep)
        if not keep and self.file("state_previous").is_file():
            utils.remove(self.file("state_previous"))
        self.launched = True

    def state(self) -> dict:
        """All that continuing needs, as a checkpoint holds it."""
        return {
            "channels": self.model.channels,
            "width": self.model.width,
            "model": self.model.state_dict(),
            "average": self.average and self.average.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "scaler": self.scaler.state_dict(),
            "launch": distributed.launch(),
            "progress": dataclasses.asdict(self.done),
            "settings": {key: self.settings[key] for key in (*FIXED, *CHANGEABLE)},
        }

    def read_state(self) -> dict:
        """The newest training state; where that is missing or damaged the one before it, which is said.

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
        """Bring the run to where the command says, in every process alike; the first one reads and writes the files.

        Raises:
            SMNetError: see `start_from_files`.
        """
        if distributed.rank() == 0:
            self.start_from_files()
        if distributed.LAUNCHED:
            buffer = io.BytesIO()
            torch.save(self.state(), buffer)
            state = torch.load(io.BytesIO(distributed.from_first(buffer.getvalue())), map_location="cpu", weights_only=True)
            self.load(state)
            self.parallel = nn.parallel.DistributedDataParallel(
                self.model, device_ids=[self.device.index] if self.device.type == "cuda" else None
            )
            self.no_sync = self.parallel.no_sync
        if self.args.compile:
            self.parallel = torch.compile(self.parallel)

    def start_from_files(self) -> None:
        """Bring the run to where `--checkpoint`, `--resume` or `--init` says, or leave it at the beginning.

        Raises:
            SMNetError: nothing to continue from, a state of other settings, an earlier run's files in the way, or a folder that
                cannot be written.
        """
        args, state_file = self.args, self.file("state")
        if self.is_restart():
            args.resume, args.checkpoint, args.init = True, 0, None
        for folder in (args.weights_dir, self.log_folder):
            utils.make_folder(folder)
        in_the_way: list[Path] = []
        if args.resume:
            self.restore(self.read_state())
            if self.damaged:
                self.file("state_previous").replace(state_file)  # or the next save would keep the damaged one in its place
            self.launched = True
            print(f"resumed after {self.done.epoch} epochs, at step {self.done.step}")
        elif args.checkpoint:
            in_the_way = self.continue_after(args.checkpoint)
        elif args.init:
            self.take_weights(Path(args.init))
            print(f"starting from the weights in {args.init}")
        # The epoch at hand may have its weights already: a run ended in it, or between its weights and its state.
        at_hand = self.done.epoch + (1 if args.resume or self.done.batch else 0)
        in_the_way = [self.file(epoch) for epoch in self.epochs_on_disk() if epoch > at_hand] + in_the_way
        if not args.resume and not args.checkpoint:
            others = (state_file, self.file("state_previous"), self.file("best"), self.log_file, *self.event_files())
            in_the_way += [path for path in others if path.is_file()]
        if in_the_way and not args.overwrite:
            raise SMNetError(
                f"an earlier run's {in_the_way[0]} would be replaced; give --resume to continue it, --overwrite to replace "
                "it, or another --weights_dir and --log_dir"
            )
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
        """Whether torchrun started this process anew (`--max-restarts`): there is a state that this launch of it wrote."""
        if not distributed.LAUNCHED:
            return False
        try:
            return self.read_state().get("launch") == distributed.launch()
        except SMNetError:
            return False

    def continue_after(self, epoch: int) -> list[Path]:
        """`--checkpoint`: from the training state, where it is of the same step as that epoch's weights, else from them.

        Returns the state file where it is of a later step, and so would be replaced by an earlier one.
        """
        weights_file, state_file = self.file(epoch), self.file("state")
        if not weights_file.is_file():
            raise SMNetError(f"no weights {weights_file} to continue from; {self.advice_without_state()}")
        content = utils.read_checkpoint(weights_file)
        why, newer = "there is no training state of that epoch", []
        if state_file.is_file():
            try:
                state = utils.read_checkpoint(state_file)
                step = state.get("progress", {}).get("step", 0)
                if step == content.get("step"):
                    self.restore(state)
                    self.launched = True
                    print(f"continuing exactly after epoch {epoch}, from the training state {state_file}")
                    return []
                newer = [state_file] if step > epoch * self.steps_per_epoch else []
            except SMNetError as error:
                why = f"the training state cannot be used ({error})"
        self.take_weights(weights_file)
        self.done = Progress(epoch=epoch, step=epoch * self.steps_per_epoch, best=self.best_until(epoch))
        print(f"continuing after epoch {epoch} from its weights alone, {weights_file}: {why}, so the optimizer starts anew")
        return newer

    def advice_without_state(self) -> str:
        """What to type where there is nothing of the kind asked for."""
        epochs = self.epochs_on_disk()
        return f"the last weights there: -c {epochs[-1]}" if epochs else "leave the option out to start afresh"

    def best_until(self, epoch: int) -> float:
        """The validation PSNR of the best weights on disk, where they are of this epoch or an earlier one and of this sigma."""
        best = -math.inf
        for file in (self.file("best"), self.file(epoch)):
            if file.is_file():
                content = utils.read_checkpoint(file)
                if content.get("epoch", math.inf) <= epoch and content.get("val_sigma") == self.args.val_noiseL:
                    best = max(best, content["val_psnr"])
        return best

    def event_files(self) -> list[Path]:
        """TensorBoard's files of this run."""
        return sorted(self.log_folder.glob("events.out.tfevents.*"))

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
            for key, option in FIXED.items():
                if settings[key] != self.settings[key]:
                    raise SMNetError(
                        f"{path} was trained with {settings[key]} ({option}), this command has {self.settings[key]}; give the "
                        "same, or start a run from its weights with --init and another --weights_dir and --log_dir"
                    )
            for key in CHANGEABLE:
                if settings[key] != self.settings[key]:
                    print(f"--{key} was {settings[key]}, is now {self.settings[key]}")
            if any(settings[key] != self.settings[key] for key in ("val_noiseL", "val_h5")):
                progress.best = -math.inf  # PSNRs that cannot be compared
            self.load(state)
        except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
            raise SMNetError(
                f"{path} is no training state of this version ({error}); continue from weights with -c N"
            ) from None
        self.done.best = progress.best

    def load(self, state: dict) -> None:
        """Take a state's content over."""
        self.model.load_state_dict(state["model"])
        if self.average:
            self.average.load_state_dict(state["average"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        if state["scaler"]:
            self.scaler.load_state_dict(state["scaler"])
        self.done = Progress(**state["progress"])

    def check_shape(self, path: Path, channels: int, width: int) -> None:
        """Raise where a checkpoint is of another network than this command's."""
        if channels != self.model.channels:
            raise SMNetError(
                f"{path} is for {channels} channels, this script trains {self.model.channels}; use the other script"
            )
        if width != self.model.width:
            raise SMNetError(f"{path} has width {width}, this command --width {self.model.width}; give --width {width}")
