"""What the four train scripts share: their options, and `fit`, the loop.

A run NAME (model_gray_L25, model_rgb_B, ...) leaves in --weights_dir NAME_1.pth, NAME_2.pth, ...
(weights by epoch), NAME_best.pth, NAME_state.pth (all that continuing needs) and
NAME_state_previous.pth (the state before that), and in --log_dir NAME.jsonl (a line per epoch) and
the folder NAME of TensorBoard's files.
"""

import argparse
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision.utils import make_grid
from tqdm import tqdm

import utils
from models import SMNet
from smnet import devices
from smnet.devices import free_memory
from smnet.evaluation import TEST_NOISE, Score, averages, evaluate
from smnet.images import Picture, to_float
from smnet.metrics import add_test_noise, to_db
from smnet.training import distributed
from smnet.training.event_writer import EventWriter
from smnet.training.learner import Learner
from smnet.training.run_files import RunFiles
from smnet.training.samples import PatchDataset
from smnet.training.signals import StopRequest, ignore_signals

LOG_EVERY = 10  # steps from one look at the loss, the clock, and one TensorBoard point, to the next
SAY_EVERY = 30  # seconds from one line to the next where the output is no terminal


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
    after the last step:
    validation by the code that tests, weights, state, a line of the log. The state is also saved
    every `--save_every` minutes, before validation, and on SIGTERM or Ctrl-C, which then end the
    process with status 128 + signal.

    Raises:
        SMNetError: nothing to continue from, an earlier run's files in the way, settings that
            differ from the state's, too few patches for a batch, a loss that is no number, or a
            folder that cannot be written.
    """
    device = distributed.pick_device(args.device)
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)  # for streams, events and compiled kernels
    with distributed.processes(device):
        learner = Learner(model, train_set, args=args, device=device)
        files = RunFiles(learner, name=name, args=args)
        files.start()
        learner.connect()
        train(learner, files, train_set, val_pictures)
    return 0


def train(
    learner: Learner, files: RunFiles, train_set: PatchDataset, val_pictures: list[Picture]
) -> None:
    """All epochs that are left of a run."""
    name, args = files.name, files.args
    done, batches = learner.done, learner.batches
    if done.step >= learner.total_steps and done.closed:
        print(
            f"{name}: all {learner.total_steps:,} steps are done; raise --epochs or --max_steps to go on"
        )
        return
    if train_set.pairs and distributed.rank() == 0:
        print(
            f"{args.train_h5} holds pairs of real noise: no noise is added; the validation is on those in {args.val_h5}"
        )
    processes = f" in {distributed.size()} processes" if distributed.size() > 1 else ""
    print(
        f"{name}: {sum(p.numel() for p in learner.model.parameters()):,} parameters on {learner.device}{processes}, "
        f"{learner.steps_per_epoch:,} steps an epoch, steps {done.step + 1:,} to {learner.total_steps:,}",
        flush=True,
    )
    needed, free = learner.memory_needed(), free_memory(learner.device)
    if needed > free:  # said before, since a process that takes too much is ended without a word
        print(
            f"a step takes about {needed:.1f} GB and {free:.1f} GB are free: a larger --accumulate computes a batch in more "
            "parts; a smaller --patch_size, --batchsize or --width takes less, too",
            flush=True,
        )
    loader = DataLoader(
        train_set,
        batch_sampler=batches,
        num_workers=args.workers,
        persistent_workers=args.workers > 0,
        pin_memory=learner.device.type == "cuda",
        generator=torch.Generator(),  # its own, or the workers' seeds would be drawn from the global generator
        worker_init_fn=ignore_signals,
    )
    writer = EventWriter(
        files.log_folder, first_step=done.step + 1, to_disk=distributed.rank() == 0
    )
    try:
        with StopRequest() as stop:
            while done.step < learner.total_steps or not done.closed:
                batches.epoch, batches.skip = done.epoch, done.batch
                if learner.steps_left_in_epoch():  # none where a run was interrupted in validation
                    with tf32(args.tf32):
                        train_epoch(learner, files, loader, writer, stop)
                with stop.at_once():
                    scores = evaluate(
                        learner.validated, distributed.shard(val_pictures), sigma=args.val_noiseL
                    )
                    score = averages(distributed.gather_shards(scores))
                if distributed.rank() == 0:
                    write_epoch(learner, files, score, val_pictures[0], writer)
                if done.batch == learner.steps_per_epoch:
                    done.epoch, done.batch, done.loss_sum = done.epoch + 1, 0, 0.0
                done.closed = True
                if distributed.rank() == 0:
                    files.save_state()
    finally:
        writer.close()


@contextmanager
def tf32(wanted: bool) -> Iterator[None]:
    """Within the block float32 products on CUDA may have 10-bit mantissas; outside, in validation,
    they never do."""
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = wanted
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False


def train_epoch(
    learner: Learner, files: RunFiles, loader: DataLoader, writer: EventWriter, stop: StopRequest
) -> None:
    """The steps from where the run stands to the end of the epoch, or to the run's last step; the
    state is then saved."""
    done, device, on_cuda = learner.done, learner.device, learner.device.type == "cuda"
    last_batch = done.batch + learner.steps_left_in_epoch()
    bar = tqdm(total=last_batch, initial=done.batch, desc=f"epoch {done.epoch + 1}", unit="step",
               disable=True if distributed.rank() else None)  # fmt: skip
    unread = []  # losses still on the device
    started = said = saved = ready = time.monotonic()
    seconds_before, waited_before, batch_before, waited = done.seconds, done.waited, done.batch, 0.0
    devices.peak_memory(device)
    learner.model.train()
    for clean, noisy, _ in loader:
        waited += time.monotonic() - ready
        loss = learner.step(
            clean.to(device, non_blocking=on_cuda), noisy.to(device, non_blocking=on_cuda)
        )
        unread.append(loss)
        done.batch += 1
        done.step += 1
        done.closed = False
        bar.update()
        last = done.batch == last_batch
        # Together, or one process would wait for another that has stopped; read once, since a
        # signal may come at any moment.
        look = last or done.step % LOG_EVERY == 0
        # On CUDA not at every step: asking would make the CPU wait for the GPU.
        stopping = (
            distributed.reduce_max(stop.signal, device)
            if look or not (on_cuda and distributed.LAUNCHED)
            else 0
        )
        if look or stopping:
            losses = distributed.reduce_sum(torch.stack(unread)).tolist()
            unread.clear()
            now = time.monotonic()  # after the losses, for which a GPU is waited
            done.seconds, done.waited = seconds_before + now - started, waited_before + waited
            for mse in (
                losses
            ):  # one by one, so that the sum does not depend on where a run was interrupted
                done.loss_sum += mse
            if not math.isfinite(done.loss_sum):
                learner.raise_diverged(f"the loss is {mse}")
            learner.speed = (done.batch - batch_before) * learner.args.batchsize / (now - started)
            report = f"loss {mse:.5f}, PSNR {to_db(mse):.2f} dB, {learner.speed:.1f} pictures/s"
            bar.set_postfix_str(report)
            rate = learner.rates[0] * learner.factor(done.step - 1)
            writer.scalars(
                {"train/loss": mse, "train/psnr": to_db(mse), "train/learning_rate": rate},
                done.step,
            )
            if bar.disable and (last or now - said >= SAY_EVERY):
                said = now
                print(
                    f"epoch {done.epoch + 1}, step {done.step:,} of {learner.total_steps:,}: {report}",
                    flush=True,
                )
            if (
                last or stopping or now - saved >= 60 * learner.args.save_every
            ) and distributed.rank() == 0:
                saved = now
                files.save_state()
        if stopping:
            stop.stop(
                stopping, f"the training state is saved, {files.file('state')} at step {done.step}"
            )
        if last:
            break
        ready = time.monotonic()
    bar.close()


def write_epoch(
    learner: Learner, files: RunFiles, score: Score, picture: Picture, writer: EventWriter
) -> None:
    """Write what an epoch and its validation gave: TensorBoard's (with the stages of `picture`),
    weights, log line."""
    done, args, model = learner.done, learner.args, learner.validated
    val_psnr, val_ssim = score.psnr["SMNet"], score.ssim["SMNet"]
    if math.isnan(val_psnr):
        learner.raise_diverged("the validation PSNR is nan")
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
        "learning_rate": learner.rates[0] * learner.factor(done.step - 1),
        "seconds": round(done.seconds, 1),
        "pictures_per_second": round(learner.speed, 1)
        if learner.speed
        else None,  # the steps were another process's
        "data_wait": round(done.waited / done.seconds, 4),
        "peak_memory_gb": round(devices.peak_memory(learner.device, reset=False), 3),
    }
    is_best = val_psnr > done.best
    noise = "of real noise" if args.val_noiseL is None else f"at sigma {args.val_noiseL:g}"
    print(
        f"epoch {epoch}, step {done.step:,}: loss {loss:.5f}, training {to_db(loss):.2f} dB, validation {noise} "
        f"{val_psnr:.3f} dB, SSIM {val_ssim:.4f}{', the best so far' * is_best}; "
        f"{done.seconds:.0f} s trained",
        flush=True,
    )
    writer.scalars({"validation/psnr": val_psnr, "validation/ssim": val_ssim}, done.step)
    writer.image(
        "validation/clean_noisy_mask_residual_output",
        stages_grid(model, picture, args.val_noiseL),
        done.step,
    )

    weights = {
        "model": model.state_dict(),
        "channels": model.channels,
        "width": model.width,
        "shuffle": model.shuffle,
        "noise_range": args.noise_range,
        **{key: line[key] for key in ("epoch", "step", "val_psnr", "val_sigma")},
    }
    files.remove_later_than(epoch)
    utils.save_checkpoint(files.file(epoch), weights)
    if is_best:
        done.best = val_psnr
        utils.save_checkpoint(files.file("best"), weights)
    files.write_log_line(line)


@torch.inference_mode()
def stages_grid(model: SMNet, picture: Picture, sigma: float | None) -> Tensor:
    """One row (3, H, W) for TensorBoard: clean, noisy, noise mask (+ 0.5), residual, output, of at
    most 256x256 pixels."""
    clean = to_float(picture.clean[:, :256, :256])
    if picture.noisy is None:
        noisy = add_test_noise(clean, sigma=sigma, **TEST_NOISE[model.channels])[0]
    else:
        noisy = to_float(picture.noisy[:, :256, :256])
    noise_mask, residual, output = (
        s[0].cpu() for s in model.stages(noisy[None].to(next(model.parameters()).device))
    )
    return make_grid(
        [t.clamp(0, 1) for t in (clean, noisy, noise_mask + 0.5, residual, output)], nrow=5
    )
