"""The end of an epoch: validation by the code that tests, weights, a line of the log,
TensorBoard's row of pictures."""

import math

import torch
from torch import Tensor
from torchvision.utils import make_grid

import utils
from models import SMNet
from smnet import devices
from smnet.cli import say
from smnet.evaluation import TEST_NOISE, Protocol, Score, averages, evaluate
from smnet.images import Picture, to_float
from smnet.metrics import add_test_noise, to_db
from smnet.training import distributed
from smnet.training.dead_relus import counting_dead_relus, share
from smnet.training.event_writer import EventWriter
from smnet.training.learner import Learner
from smnet.training.run_files import RunFiles

TILE = 256  # side of the tiles of pictures that do not fit into memory whole, pixels


def validate(learner: Learner, pictures: list[Picture]) -> Score:
    """The mean over the pictures, of which each process takes its share."""
    shard, sigma = distributed.shard(pictures), learner.args.val_noiseL
    scores = None
    try:
        scores = evaluate(learner.validated, shard, sigma=sigma)
    except (MemoryError, RuntimeError) as error:
        if not devices.is_out_of_memory(error):
            raise
    if scores is None:  # only now, since the error held what had been computed
        devices.empty_cache(learner.device)
        side = TILE * learner.model.shuffle
        say(f"validation pictures do not fit into memory whole: in tiles of {side} pixels")
        scores = evaluate(learner.validated, shard, sigma=sigma, protocol=Protocol(tile=side))
    return averages(distributed.gather_shards(scores))


def write_epoch(
    learner: Learner,
    files: RunFiles,
    score: Score,
    picture: Picture,
    writer: EventWriter,
    *,
    speed: float,
) -> None:
    """Write what an epoch and its validation gave: TensorBoard's (with the stages of `picture`),
    weights, log line.

    `speed` is in pictures a second, 0 where the steps were another process's.
    """
    done, model = learner.done, learner.validated
    with counting_dead_relus(model) as dead:
        stages = stages_grid(model, picture, learner.args.val_noiseL)
    line = log_line(learner, score, speed, dead_relus=share(dead))
    is_best = line["val_psnr"] > done.best
    say(in_words(line, done.seconds, is_best=is_best))
    scalars = {"validation/psnr": line["val_psnr"], "validation/ssim": score.ssim["SMNet"]}
    writer.scalars({**scalars, "validation/dead_relus": line["dead_relus"]}, done.step)
    writer.image("validation/clean_noisy_mask_residual_output", stages, done.step)
    weights = {
        # On the CPU, so that a plain torch.load reads them on a machine without a GPU.
        "model": {name: tensor.cpu() for name, tensor in model.state_dict().items()},
        "channels": model.channels,
        "width": model.width,
        "shuffle": model.shuffle,
        "noise_range": learner.args.noise_range,
        **{key: line[key] for key in ("epoch", "step", "val_psnr", "val_sigma")},
        "val_data": files.settings["val_data"],
    }
    files.remove_later_than(line["epoch"])
    utils.save_checkpoint(files.file(line["epoch"]), weights)
    if is_best:
        done.best = line["val_psnr"]
        utils.save_checkpoint(files.file("best"), weights)
    files.write_log_line(line)


def log_line(learner: Learner, score: Score, speed: float, *, dead_relus: float) -> dict:
    """An epoch's line of the jsonl log."""
    done = learner.done
    loss, ssim = done.loss_sum / done.batch, score.ssim["SMNet"]
    return {
        "epoch": done.epoch + 1,  # the one that this closes, whole or not
        "step": done.step,
        "loss": loss,
        "train_psnr": to_db(loss),
        "val_psnr": score.psnr["SMNet"],
        "val_ssim": None if math.isnan(ssim) else ssim,
        "val_sigma": learner.args.val_noiseL,
        "learning_rate": learner.rate,
        "seconds": round(done.seconds, 1),
        "pictures_per_second": round(speed, 1) if speed else None,
        "data_wait": round(done.waited / done.seconds, 4),
        "peak_memory_gb": round(devices.peak_memory(learner.device, reset=False), 3),
        "dead_relus": round(dead_relus, 4),
    }


def in_words(line: dict, seconds: float, *, is_best: bool) -> str:
    """What is printed of an epoch."""
    sigma = line["val_sigma"]
    noise = "of real noise" if sigma is None else f"at sigma {sigma:g}"
    ssim = math.nan if line["val_ssim"] is None else line["val_ssim"]
    return (
        f"epoch {line['epoch']}, step {line['step']:,}: loss {line['loss']:.5f}, "
        f"training {line['train_psnr']:.2f} dB, validation {noise} {line['val_psnr']:.3f} dB, "
        f"SSIM {ssim:.4f}{', the best so far' * is_best}; {seconds:.0f} s trained"
    )


@torch.inference_mode()
def stages_grid(model: SMNet, picture: Picture, sigma: float | None) -> Tensor:
    """One row (3, H, W) for TensorBoard: clean, noisy, noise mask (+ 0.5), residual, output, of at
    most 256x256 pixels."""
    clean = to_float(picture.clean[:, :256, :256])
    if picture.noisy is None:
        noisy = add_test_noise(clean, sigma=sigma, **TEST_NOISE[model.channels])[0]
    else:
        noisy = to_float(picture.noisy[:, :256, :256])
    x = noisy[None].to(next(model.parameters()).device)
    noise_mask, residual, output = (stage[0].cpu() for stage in model.stages(x))
    panels = (clean, noisy, noise_mask + 0.5, residual, output)
    return make_grid([panel.clamp(0, 1) for panel in panels], nrow=5)
