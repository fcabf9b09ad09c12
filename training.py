"""What the four train scripts share: their options, and `fit`, the loop.

A run NAME (model_gray_L25, model_rgb_B, ...) leaves in --weights_dir NAME_1.pth, NAME_2.pth, ... (weights by epoch),
NAME_best.pth and NAME_state.pth (all that continuing needs), and in --log_dir NAME.jsonl (a line per epoch) and the folder
NAME of TensorBoard's files.
"""

import argparse
import dataclasses
import json
import math
import sys
import time
from pathlib import Path

import numpy as np
import torch
from tensorboardX import SummaryWriter
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader
from torchvision.utils import make_grid
from tqdm import tqdm

import utils
from dataset import EpochBatches, PatchDataset
from evaluation import TEST_NOISE, averages, evaluate
from models import SMNet
from optimizers import make_optimizers, moving_average, rate_factor
from pictures import add_test_noise, to_float
from utils import SMNetError, number

LOG_EVERY = 20  # steps from one look at the loss, and one TensorBoard point, to the next
SAY_EVERY = 30  # seconds from one line to the next where the output is no terminal
# A state is continued only by a command that agrees with it on these; the other options may change.
FIXED = ("noise_range", "batchsize", "patch_size", "draws", "optimizer", "betas", "seed", "samples", "averaged")


# ------------------------------------------------------------------------------------------------------------ options


def parse_args(argv: list[str] | None, *, description: str, defaults: dict) -> argparse.Namespace:
    """Read a train script's command line; every option's default is the script's entry of the same name.

    A script for one noise level has the entry `noiseL`, a blind one `noiseL_range`. `args.noise_range` is [low, high] in
    both, and `args.val_noiseL` is set. Wrong arguments exit with status 2.
    """
    defaults = dict(defaults)
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)

    def option(name: str, text: str, **kwargs) -> None:
        default = defaults.pop(name)  # KeyError: the script lacks this entry
        shown = " ".join(map(str, default)) if isinstance(default, (list, tuple)) else default
        parser.add_argument(f"--{name}", default=default, help=f"{text} (default: {shown})", **kwargs)

    whole, real, sigma = number(int, 1), number(float, 0), number(float, 0, 255)
    option("train_h5", "training patches, made by dataset*.py", metavar="FILE")
    option("val_h5", "validation pictures, made by dataset*.py", metavar="FILE")
    if "noiseL" in defaults:
        option("noiseL", "sigma of the training noise, grey levels 0-255", type=sigma, metavar="SIGMA")
    else:
        text = "sigma of the training noise is uniform in this range, grey levels 0-255"
        option("noiseL_range", text, type=sigma, nargs=2, metavar=("LOW", "HIGH"))
    option("val_noiseL", "sigma of the validation noise, grey levels; None: as trained", type=sigma, metavar="SIGMA")
    option("width", "base channels of the network, even", type=number(int, 2), metavar="N")
    option("batchsize", "pictures a step", type=whole, metavar="N")
    option("patch_size", "side of the training crops, pixels", type=number(int, 8), metavar="N")
    option("draws", "times that an epoch draws every stored patch", type=whole, metavar="N")
    option("epochs", "epochs in all", type=whole, metavar="N")
    option("max_steps", "stop after this many steps in all, 0: by epochs alone", type=number(int, 0), metavar="N")
    text = "adam, or muon for the kernels with more than one input and output channel and adam for the rest"
    option("optimizer", text, choices=["adam", "muon"])
    option("lr", "Adam's learning rate", type=real, metavar="RATE")
    option("betas", "Adam's two decay rates", type=number(float, 0, 0.999999), nargs=2, metavar="BETA")
    option("muon_lr", "Muon's learning rate", type=real, metavar="RATE")
    text = "multistep: the rates x 0.1 at --milestones; cosine: to zero at the last step"
    option("schedule", text, choices=["multistep", "cosine"])
    option("milestones", "epochs after which the rates fall to a tenth", type=whole, nargs="*", metavar="N")
    option("warmup", "steps over which the rates rise from zero", type=number(int, 0), metavar="N")
    text = "decay per step of the moving average of the weights, which is then validated and saved, 0: none"
    option("ema", text, type=number(float, 0, 0.999999), metavar="DECAY")
    option("grad_clip", "greatest norm of the gradient, 0: no clipping", type=real, metavar="NORM")
    option("seed", "seed of initial weights, samples and noise, a whole number", type=number(int, 0), metavar="N")
    option("workers", "processes that read data, 0: this one does", type=number(int, 0), metavar="N")
    option("device", "auto, cpu, cuda, cuda:1 or mps", metavar="NAME")
    option("weights_dir", "folder for weights and training state", metavar="DIR")
    option("log_dir", "folder for the jsonl log and TensorBoard's files", metavar="DIR")
    if defaults:
        raise TypeError(f"no such hyperparameter: {', '.join(defaults)}")

    text = "epoch after which to continue, 0: start afresh (default: 0)"
    parser.add_argument("-c", "-checkpoint", "--checkpoint", type=number(int, 0), default=0, metavar="N", help=text)
    parser.add_argument("--resume", action="store_true", help="continue from the newest training state")
    parser.add_argument("--init", metavar="FILE", help="start afresh from these weights, of the same width (a .pth file)")
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier run's files")
    args = parser.parse_args(argv)

    if bool(args.init) + args.resume + bool(args.checkpoint) > 1:
        parser.error("--init starts from given weights, --resume and --checkpoint continue: give one of them")
    if args.width % 2:
        parser.error(f"--width {args.width} is odd: it must be even")
    low, high = args.noise_range = [args.noiseL] * 2 if "noiseL" in args else list(args.noiseL_range)
    if low > high:
        parser.error(f"--noiseL_range {low:g} {high:g} is upside down: LOW HIGH")
    if args.val_noiseL is None:
        args.val_noiseL = high
    return args


# ------------------------------------------------------------------------------------------------------------ the loop


def fit(
    model: SMNet, train_set: PatchDataset, val_pictures: list[tuple[str, np.ndarray]], *, name: str, args: argparse.Namespace
) -> int:
    """Train `model` as `args` says, from the beginning or from where the files of the run `name` say it was; return 0.

    Loss: mean squared error of the final output against the clean picture (paper section 4.1). After each epoch, and after
    the last step: validation by the code that tests, weights, state, a line of the log.

    Raises:
        SMNetError: nothing to continue from, an earlier run's files in the way, settings that differ from the state's, too few
            patches for a batch, a loss that is no number, or a folder that cannot be written.
    """
    run = Run(model, train_set, name=name, args=args)
    run.start()
    done, batches = run.done, run.batches
    if done.step >= run.total_steps:
        print(f"{name}: all {run.total_steps:,} steps are done; raise --epochs or --max_steps to go on")
        return 0
    print(
        f"{name}: {sum(p.numel() for p in model.parameters()):,} parameters on {run.device}, {run.steps_per_epoch:,} steps "
        f"an epoch, steps {done.step + 1:,} to {run.total_steps:,}"
    )
    loader = DataLoader(
        train_set,
        batch_sampler=batches,
        num_workers=args.workers,
        persistent_workers=args.workers > 0,
        pin_memory=run.device.type == "cuda",
        generator=torch.Generator(),  # its own, or the workers' seeds would be drawn from the global generator
    )
    utils.make_folder(args.weights_dir)
    writer = SummaryWriter(str(utils.make_folder(run.log_folder)), purge_step=done.step)
    try:
        while done.step < run.total_steps:
            batches.epoch, batches.skip = done.epoch, done.batch
            train_epoch(run, loader, writer)
            finish_epoch(run, val_pictures, writer)
    finally:
        writer.close()
    return 0


def train_epoch(run: "Run", loader: DataLoader, writer: SummaryWriter) -> None:
    """The steps from where the run stands to the end of the epoch, or to the run's last step."""
    done, device = run.done, run.device
    last_batch = min(run.steps_per_epoch, done.batch + run.total_steps - done.step)
    bar = tqdm(total=last_batch, initial=done.batch, desc=f"epoch {done.epoch + 1}", unit="step", disable=None)
    loss_sum = torch.tensor(done.loss_sum, dtype=torch.float64)
    started = said = time.monotonic()
    seconds_before, batch_before = done.seconds, done.batch
    run.model.train()
    for clean, noisy, _ in loader:
        loss = run.step(clean.to(device, non_blocking=True), noisy.to(device, non_blocking=True))
        loss_sum = loss_sum.to(device) + loss
        done.batch += 1
        done.step += 1
        bar.update()
        last = done.batch == last_batch
        if last or done.step % LOG_EVERY == 0:
            now = time.monotonic()
            done.seconds, done.loss_sum = seconds_before + now - started, loss_sum.item()
            if not math.isfinite(done.loss_sum):
                raise SMNetError(
                    f"the loss is {done.loss_sum} at step {done.step}: try a lower --lr, --grad_clip 1 or --warmup 100; "
                    "what was saved before is kept"
                )
            mse = loss.item()
            speed = (done.batch - batch_before) * run.args.batchsize / (now - started)  # pictures/s
            report = f"loss {mse:.5f}, PSNR {to_db(mse):.2f} dB, {speed:.1f} pictures/s"
            bar.set_postfix_str(report)
            writer.add_scalar("train/loss", mse, done.step)
            writer.add_scalar("train/psnr", to_db(mse), done.step)
            writer.add_scalar("train/learning_rate", run.rates[0] * run.factor(done.step - 1), done.step)
            if bar.disable and (last or now - said >= SAY_EVERY):
                said = now
                print(f"epoch {done.epoch + 1}, step {done.step:,} of {run.total_steps:,}: {report}", flush=True)
        if last:
            break
    bar.close()


def finish_epoch(run: "Run", val_pictures: list[tuple[str, np.ndarray]], writer: SummaryWriter) -> None:
    """Validate; write the log line, the pictures for TensorBoard, the weights and, last, the state."""
    done, args, model = run.done, run.args, run.validated
    score = averages(evaluate(model, val_pictures, sigma=args.val_noiseL))
    val_psnr, val_ssim = score.psnr["SMNet"], score.ssim["SMNet"]
    epoch = done.epoch + 1  # the one that this closes, whole or not
    loss = done.loss_sum / done.batch
    line = {
        "epoch": epoch,
        "step": done.step,
        "loss": loss,
        "train_psnr": to_db(loss),
        "val_psnr": val_psnr,
        "val_ssim": None if math.isnan(val_ssim) else val_ssim,
        "val_sigma": args.val_noiseL,
        "learning_rate": run.rates[0] * run.factor(done.step - 1),
        "seconds": round(done.seconds, 1),
    }
    is_best = val_psnr > done.best
    print(
        f"epoch {epoch}, step {done.step:,}: loss {loss:.5f}, training {to_db(loss):.2f} dB, validation at sigma "
        f"{args.val_noiseL:g} {val_psnr:.3f} dB, SSIM {val_ssim:.4f}{', the best so far' * is_best}; {done.seconds:.0f} s trained",
        flush=True,
    )
    writer.add_scalar("validation/psnr", val_psnr, done.step)
    writer.add_scalar("validation/ssim", val_ssim, done.step)
    writer.add_image("validation/clean_noisy_mask_residual_output", stages_grid(model, val_pictures[0][1], args.val_noiseL), done.step)

    weights = {
        "model": model.state_dict(),
        "channels": model.channels,
        "width": model.width,
        "noise_range": args.noise_range,
        **{key: line[key] for key in ("epoch", "step", "val_psnr", "val_sigma")},
    }
    run.remove_later_than(epoch)
    utils.save_checkpoint(run.file(epoch), weights)
    if is_best:
        done.best = val_psnr
        utils.save_checkpoint(run.file("best"), weights)
    write_log_line(run.log_file, line)
    if done.batch == run.steps_per_epoch:
        done.epoch, done.batch, done.loss_sum = epoch, 0, 0.0
    run.save_state()


def to_db(mse: float) -> float:
    """Mean squared error of pictures in [0, 1] -> PSNR in dB."""
    return -10 * math.log10(mse) if mse else math.inf


@torch.inference_mode()
def stages_grid(model: SMNet, picture: np.ndarray, sigma: float) -> Tensor:
    """One row (3, H, W) for TensorBoard: clean, noisy, noise mask (+ 0.5), residual, output, of at most 256x256 pixels."""
    clean = to_float(picture[:, :256, :256])
    noisy = add_test_noise(clean, sigma=sigma, **TEST_NOISE[model.channels])[0]
    noise_mask, residual, output = (s[0].cpu() for s in model.stages(noisy[None].to(next(model.parameters()).device)))
    return make_grid([t.clamp(0, 1) for t in (clean, noisy, noise_mask + 0.5, residual, output)], nrow=5)


def write_log_line(path: Path, line: dict) -> None:
    """Put an epoch's line into the jsonl log, after those of the epochs before and in place of any later ones."""
    kept = []
    if path.is_file():
        for text in path.read_text().splitlines():
            if json.loads(text)["epoch"] < line["epoch"]:
                kept.append(text)
    with utils.replacing(path) as temporary:
        temporary.write_text("\n".join([*kept, json.dumps(line)]) + "\n")


# ------------------------------------------------------------------------------------------------------------ the run


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
    """A network in training, with all that a training state holds, and the run's files."""

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
            if state and "progress" in state and (state["progress"]["epoch"], state["progress"]["batch"]) == (args.checkpoint, 0):
                self.restore(state)
                print(f"continuing exactly after epoch {args.checkpoint}, from the training state {state_file}")
            else:
                content = self.take_weights(self.file(args.checkpoint))
                self.done.epoch, self.done.step = args.checkpoint, args.checkpoint * self.steps_per_epoch
                self.done.best = content.get("val_psnr", -math.inf)
                print(
                    f"continuing after epoch {args.checkpoint} from its weights alone, {self.file(args.checkpoint)}: there is no "
                    "training state of that epoch, so the optimizer starts anew"
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
                        f"{path} was trained with {key} {settings[key]}, this command has {self.settings[key]}; give the same, or "
                        f"start a run from its weights with --init and another --weights_dir"
                    )
            self.model.load_state_dict(state["model"])
            if self.average:
                self.average.load_state_dict(state["average"])
            for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
                optimizer.load_state_dict(saved)
        except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
            raise SMNetError(f"{path} is no training state of this version ({error}); continue from weights with -c N") from None
        self.done = progress

    def check_shape(self, path: Path, channels: int, width: int) -> None:
        """Raise where a checkpoint is of another network than this command's."""
        if channels != self.model.channels:
            raise SMNetError(f"{path} is for {channels} channels, this script trains {self.model.channels}; use the other script")
        if width != self.model.width:
            raise SMNetError(f"{path} has width {width}, this command --width {self.model.width}; give --width {width}")
