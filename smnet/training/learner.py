"""What trains: the network, its average, its optimizers and how far it is; `step` is one optimizer
step.

Nothing here reads or writes files: `run_files.py` does that.
"""

import argparse
import dataclasses
import math
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from typing import cast

import torch
from torch import Tensor, nn

from models import SMNet
from smnet import devices
from smnet.training import distributed
from smnet.training.dead_relus import DeadReluPenalty
from smnet.training.optimizers import MovingAverage, lr_factor, make_optimizers
from smnet.training.samples import EpochBatches, PatchDataset
from utils import SMNetError

PSNR_FLOOR = 1e-5  # mean squared error, 50 dB


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
    closed: bool = True  # validated, and its weights written: not so in the middle of an epoch


class Learner:
    """A network in training.

    Args:
        model: the network; put on the device.
        train_set: what it is trained on.
        args: as `training.parse_args` gives.
        device: this process's.

    Raises:
        SMNetError: too few samples for a batch, or too few pictures in a batch for the processes.
    """

    def __init__(
        self,
        model: SMNet,
        train_set: PatchDataset,
        *,
        args: argparse.Namespace,
        device: torch.device,
    ):
        self.model, self.args, self.device = model, args, device
        self.batches = EpochBatches(
            len(train_set),
            args.batchsize,
            seed=args.seed,
            rank=distributed.rank(),
            size=distributed.size(),
        )
        self.steps_per_epoch = len(self.batches)
        if not self.steps_per_epoch:
            raise SMNetError(
                f"{', '.join(args.train_h5)} gives {len(train_set)} samples an epoch, less than "
                f"--batchsize {args.batchsize}; give a smaller one, or more pictures to dataset*.py"
            )
        if args.batchsize < distributed.size():
            raise SMNetError(
                f"--batchsize {args.batchsize} is the whole batch, too small for "
                f"{distributed.size()} processes"
            )
        self.total_steps = min(self.steps_per_epoch * args.epochs, args.max_steps or math.inf)
        self.done = Progress()

        model.to(self.device, memory_format=torch.channels_last)
        # What is called in training: `connect` wraps it for several processes and --compile.
        self.parallel: nn.Module = model
        self.no_sync: Callable = (
            nullcontext  # within it the processes do not add up their gradients
        )
        self.average = MovingAverage(model, decay=args.ema) if args.ema else None
        self.penalty = DeadReluPenalty(model) if args.dead_relu_penalty else None
        self.optimizers, self.rates = zip(*make_optimizers(model, args))
        self.autocast = devices.autocast(device, enabled=args.amp)
        fp16 = not devices.has_bf16(device)
        self.scaler = torch.amp.GradScaler(device.type, enabled=args.amp and fp16)
        if self.scaler.is_enabled() and args.optimizer == "muon":
            raise SMNetError(
                "this device has no bf16, and fp16 goes with --optimizer adam alone; leave out "
                "--amp or muon"
            )

    def connect(self) -> None:
        """After `load`: let the processes of torchrun add up their gradients, and compile the
        network where that is wanted."""
        if distributed.LAUNCHED:
            ids = [self.device.index] if self.device.type == "cuda" else None
            # 1x1 kernels are stored alike in both memory formats, which DDP reports as if their
            # gradients had to be rearranged.
            warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
            self.parallel = nn.parallel.DistributedDataParallel(self.model, device_ids=ids)
            self.no_sync = self.parallel.no_sync
        if self.args.compile:
            self.parallel = cast(nn.Module, torch.compile(self.parallel))

    @property
    def validated(self) -> SMNet:
        """The network that is validated and saved: the moving average where there is one."""
        return cast(SMNet, self.average.module) if self.average else self.model

    @property
    def rate(self) -> float:
        """Adam's learning rate at the last step."""
        return self.rates[0] * self.factor(self.done.step - 1)

    def factor(self, step: int) -> float:
        """What the learning rates are multiplied by at `step`, 0 being the first."""
        return lr_factor(
            step, steps_per_epoch=self.steps_per_epoch, total_steps=self.total_steps, args=self.args
        )

    def steps_left_in_epoch(self) -> int:
        """Steps to the end of the epoch at hand, or to the run's last step."""
        return max(
            0, min(self.steps_per_epoch - self.done.batch, self.total_steps - self.done.step)
        )

    def step(self, clean: Tensor, noisy: Tensor) -> Tensor:
        """One optimizer step on this process's share of a batch, 2 x (n, C, H, W).

        Returns its part of the batch's mean squared error before the step, detached: the parts of
        all processes add up to it.
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
                errors = (output.float() - clean_piece).square().mean((1, 2, 3))  # (n,)
                # The gradients are averaged over the processes, where their sum is wanted.
                share = distributed.size() / self.args.batchsize
                loss = self.loss(errors) * share
                if self.penalty:
                    weight = self.args.dead_relu_penalty * len(clean_piece) / len(clean)
                    loss = loss + weight * self.penalty.take()
                self.scaler.scale(loss).backward()
            total += errors.detach().sum() / self.args.batchsize
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

    def loss(self, errors: Tensor) -> Tensor:
        """The loss from the mean squared error of each picture (n,), summed over the pictures.

        `--loss psnr` is the logarithm of the error: a picture counts by how many decibels it
        gains, however strong its noise is. `PSNR_FLOOR` bounds what nearly clean pictures count.
        """
        return torch.log(errors + PSNR_FLOOR).sum() if self.args.loss == "psnr" else errors.sum()

    def raise_diverged(self, what: str) -> None:
        """Stop a run whose loss or weights are no numbers any more, before they replace good
        ones."""
        raise SMNetError(
            f"{what} at step {self.done.step}: training has diverged. Try a lower --lr, "
            "--grad_clip 1 or --warmup 100; what was saved before is kept"
        )

    def state(self) -> dict:
        """All that going on needs, but for the data, as a checkpoint holds it; `load` takes it
        over."""
        return {
            "channels": self.model.channels,
            "width": self.model.width,
            "shuffle": self.model.shuffle,
            "model": self.model.state_dict(),
            "average": self.average and self.average.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "scaler": self.scaler.state_dict(),
            "progress": dataclasses.asdict(self.done),
        }

    def load(self, state: dict) -> None:
        """Take a state's content over."""
        self.model.load_state_dict(state["model"])
        if self.average:
            self.average.load_state_dict(state["average"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            fused = optimizer.param_groups[0].get("fused")
            optimizer.load_state_dict(saved)
            if fused is not None:  # as this device has it, not that of the state
                optimizer.param_groups[0]["fused"] = fused
        if state["scaler"]:
            self.scaler.load_state_dict(state["scaler"])
        self.done = Progress(**state["progress"])
