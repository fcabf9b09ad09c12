"""What the four train scripts share: `fit`, the loop.

A run NAME (model_gray_L25, model_rgb_B, ...) leaves in --weights_dir NAME_1.pth, NAME_2.pth, ...
(weights by epoch), NAME_best.pth, NAME_state.pth (all that continuing needs) and
NAME_state_previous.pth (the state before that), and in --log_dir NAME.jsonl (a line per epoch) and
the folder NAME of TensorBoard's files.
"""

import argparse
import dataclasses
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from tqdm import tqdm

from models import SMNet
from smnet import devices
from smnet.cli import say
from smnet.images import Picture
from smnet.metrics import to_db
from smnet.training import distributed, starting
from smnet.training.advice import announce, check_shared_memory
from smnet.training.content import describe_pictures
from smnet.training.event_writer import EventWriter
from smnet.training.learner import Learner
from smnet.training.loading import BatchReader, DataError
from smnet.training.meter import Meter
from smnet.training.run_files import RunFiles
from smnet.training.samples import PatchDataset
from smnet.training.settings import settings_of
from smnet.training.signals import StopRequest
from smnet.training.validation import validate, write_epoch
from utils import SMNetError

LOG_EVERY = 10  # steps from one look at the loss, the clock, and one TensorBoard point, to the next
SAY_EVERY = 30  # seconds from one line to the next where the output is no terminal


@dataclasses.dataclass
class TrainingRun:
    """A run at work."""

    learner: Learner
    files: RunFiles
    reader: BatchReader
    writer: EventWriter
    stop: StopRequest
    steps: int = 0  # that this process has done
    speed: float = 0.0  # pictures a second in the epoch at hand; 0: another process did its steps
    saved: float = dataclasses.field(default_factory=time.monotonic)
    said: float = dataclasses.field(default_factory=time.monotonic)

    def save(self) -> None:
        """Save the training state; TensorBoard's file then has all that the state has passed."""
        if distributed.rank() == 0:
            self.writer.flush()
            self.files.save_state(self.writer.points)
        self.saved = time.monotonic()


def fit(
    model: SMNet,
    train_set: PatchDataset,
    val_pictures: list[Picture],
    *,
    name: str,
    args: argparse.Namespace,
) -> int:
    """Train `model` as `args` says, from the beginning or from where the files of the run `name`
    say it was; return 0.

    Loss: mean squared error of the final output against the clean picture. After each epoch, and
    after the last step: validation by the code that tests, weights, state, a line of the log. The
    state is also saved every `--save_every` minutes, before validation, and on SIGTERM, SIGHUP or
    Ctrl-C, which then end the process with status 128 + signal.

    Raises:
        SMNetError: nothing to continue from, an earlier run's files in the way, another process
            that trains the same run, settings that differ from the state's, too few patches for a
            batch, a loss that is no number, a data worker that died, or a folder that cannot be
            written.
    """
    device = distributed.pick_device(args.device)
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)  # for streams, events and compiled kernels
    check_shared_memory(args.workers, distributed.local_size())
    with distributed.loss_explained(), distributed.processes(device):
        learner = Learner(model, train_set, args=args, device=device)
        settings = settings_of(
            args,
            samples=len(train_set),
            train_data=train_set.description,
            val_data=describe_pictures(val_pictures),
        )
        files = RunFiles(learner, name=name, args=args, settings=settings)
        try:
            starting.start(files, train_set)
            learner.connect()
            done = learner.done
            if done.step >= learner.total_steps and done.closed:
                print(
                    f"{name}: all {learner.total_steps:,} steps are done; raise --epochs or "
                    "--max_steps to go on"
                )
                return 0
            announce(learner, train_set, name=name)
            train(learner, files, train_set, val_pictures)
        finally:
            files.unlock()
    return 0


def train(
    learner: Learner, files: RunFiles, train_set: PatchDataset, val_pictures: list[Picture]
) -> None:
    """All epochs that are left of a run."""
    done, batches, args = learner.done, learner.batches, learner.args
    pin_memory = learner.device.type == "cuda"
    reader = BatchReader(train_set, batches, workers=args.workers, pin_memory=pin_memory)
    writer = EventWriter(
        files.log_folder,
        first_step=done.step + 1,
        to_disk=distributed.rank() == 0,
        points=files.points,
    )
    try:
        exact = devices.cuda_kernels(tf32=False, benchmark=False)  # for validation
        with exact, reader, StopRequest() as stop:
            run = TrainingRun(learner, files, reader, writer, stop)
            while done.step < learner.total_steps or not done.closed:
                batches.epoch, batches.skip = done.epoch, done.batch
                if learner.steps_left_in_epoch():  # none where a run was interrupted in validation
                    # cuDNN may time its kernels here, since shapes are fixed.
                    with devices.cuda_kernels(tf32=args.tf32, benchmark=True):
                        train_epoch(run)
                with stop.at_once(), saved_if_data_fail(run), reader.at_once():
                    score = validate(learner, val_pictures)
                if math.isnan(score.psnr["SMNet"]):
                    learner.raise_diverged("the validation PSNR is nan")
                if distributed.rank() == 0:
                    write_epoch(learner, files, score, val_pictures[0], writer, speed=run.speed)
                if done.batch == learner.steps_per_epoch:
                    done.epoch, done.batch, done.loss_sum = done.epoch + 1, 0, 0.0
                done.closed = True
                writer.forget_points()
                run.save()
                run.speed = 0.0
    finally:
        writer.close()


@contextmanager
def saved_if_data_fail(run: TrainingRun, meter: Meter | None = None) -> Iterator[None]:
    """Where the next batch cannot be read, save what was done before it, and say so.

    Of several processes none can where losses are unread: the others are in the next step already.
    """
    try:
        yield
    except DataError as error:
        if meter and meter.losses and not distributed.LAUNCHED:
            take_reading(run, meter)
        if meter and not meter.losses and run.files.saved_step != run.learner.done.step:
            run.save()
        if run.files.saved_step is None:  # in all processes but the first
            raise
        state = run.files.file("state")
        raise SMNetError(
            f"{error}; {state} is at step {run.files.saved_step}: go on with --resume"
        ) from None


def train_epoch(run: TrainingRun) -> None:
    """The steps from where the run stands to the end of the epoch, or to the run's last step; the
    state is then saved."""
    learner, device = run.learner, run.learner.device
    done, on_cuda = learner.done, device.type == "cuda"
    last_batch = done.batch + learner.steps_left_in_epoch()
    meter = Meter(device, steps_before=run.steps)
    devices.peak_memory(device)
    learner.model.train()
    with progress_bar(learner, last_batch) as bar, saved_if_data_fail(run, meter):
        for clean, noisy in meter.timed(run.reader):
            loss = learner.step(
                clean.to(device, non_blocking=on_cuda), noisy.to(device, non_blocking=on_cuda)
            )
            meter.add(loss)
            done.batch, done.step, done.closed = done.batch + 1, done.step + 1, False
            run.steps += 1
            bar.update()
            last = done.batch == last_batch
            look = last or done.step % LOG_EVERY == 0
            stopping = wanted_signal(run, look=look)
            if look or stopping:
                report(run, bar, take_reading(run, meter), last=last)
                if last or stopping or time.monotonic() - run.saved >= 60 * learner.args.save_every:
                    run.save()
            if stopping:
                state = run.files.file("state")
                run.stop.stop(stopping, f"the training state is saved, {state} at step {done.step}")
            if last:
                break


def progress_bar(learner: Learner, last_batch: int) -> tqdm:
    """An epoch's, for a terminal alone."""
    done = learner.done
    return tqdm(
        total=last_batch,
        initial=done.batch,
        desc=f"epoch {done.epoch + 1}",
        unit="step",
        disable=True if distributed.rank() else None,
    )


def wanted_signal(run: TrainingRun, *, look: bool) -> int:
    """The signal that any of the processes has got, 0: none.

    Together, or one process would wait for another that has stopped. Of several processes on CUDA
    only at a look: asking makes the CPU wait for the GPU.
    """
    signal = run.stop.signal  # read once, since a signal may come at any moment
    device = run.learner.device
    if look or not (device.type == "cuda" and distributed.LAUNCHED):
        return distributed.reduce_max(signal, device)
    return 0


def take_reading(run: TrainingRun, meter: Meter) -> float:
    """Add what the meter has to the progress; the last step's loss.

    Raises:
        SMNetError: the loss is no number.
    """
    done, reading = run.learner.done, meter.read()
    done.seconds += reading.seconds
    done.waited += reading.waited
    for mse in reading.losses:  # one by one: the sum must not depend on where a run was interrupted
        done.loss_sum += mse
        if not math.isfinite(done.loss_sum):
            run.learner.raise_diverged(f"the loss is {mse}")
    run.speed = meter.steps_per_second() * run.learner.args.batchsize
    return mse


def report(run: TrainingRun, bar: tqdm, mse: float, *, last: bool) -> None:
    """Show a step's loss in the bar, in TensorBoard, and as a line where there is no bar."""
    learner, done = run.learner, run.learner.done
    text = f"loss {mse:.5f}, PSNR {to_db(mse):.2f} dB, {run.speed:.1f} pictures/s"
    bar.set_postfix_str(text)
    run.writer.scalars(
        {"train/loss": mse, "train/psnr": to_db(mse), "train/learning_rate": learner.rate},
        done.step,
    )
    now = time.monotonic()
    if bar.disable and (last or now - run.said >= SAY_EVERY):
        run.said = now
        say(f"epoch {done.epoch + 1}, step {done.step:,} of {learner.total_steps:,}: {text}")
