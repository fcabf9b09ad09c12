"""Train the blind SMNet on RGB pictures: one network for every noise level from 0 to 55 (SMNet-B in
the paper).

    python dataset.py                   # pictures -> train_data.h5, val_data.h5
    python train_rgb_blind.py           # the paper's protocol; weights/model_rgb_B_*.pth
    python train_rgb_blind.py --resume  # go on after an interruption
    python train_rgb_blind.py --batchsize 8 -checkpoint 0
    python train_rgb_blind.py --train_h5 train_pairs.h5  # pairs of real noise

The defaults are the authors' protocol: Adam, 100 epochs, the rate x 0.1 after epochs 10 and 40,
batches of 8 pictures of 256x256. `python train_rgb_blind.py --help` explains every option; the loop
is in smnet/training/loop.py.
"""

import torch

from models import SMNet
from smnet.cli import run_script
from smnet.patches import read_pictures
from smnet.training import loop, options
from smnet.training.samples import PatchDataset
from utils import run_name

# --------------------------------------------------------------------------------------------------
# Hyperparameters. Edit here, or give the option of the same name.
DEFAULTS = dict(
    train_h5="train_data.h5",  # training patches, from dataset.py
    val_h5="val_data.h5",  # validation pictures, from dataset.py
    noiseL_range=(0, 55),  # grey levels 0-255, sigma of the training noise, drawn per picture
    camera=0.0,  # share of the crops that get a camera's noise
    clean=0.0,  # share of the crops that get no noise; the others get white noise
    val_noiseL=25,  # grey levels, sigma of the validation noise
    width=64,  # base channels of the network; 16 is the compact one, with 1/16 of the arithmetic
    shuffle=1,  # 2: folds 2x2 pixels into 4 times the channels, faster on CPUs; 1: the authors'
    identity_start=False,  # True: start from weights that pass the picture on; learns faster
    batchsize=8,  # pictures a step
    patch_size=256,  # pixels, side of the training crops
    draws=8,  # times that an epoch draws every stored patch; the authors stored 8 orientations
    color_jitter=False,  # vary colours: channels permuted, saturation and contrast changed
    epochs=100,
    max_steps=0,  # steps in all, 0: as many as the epochs have
    optimizer="adam",  # or "muon" for the kernels, which learns faster; Adam for the rest
    loss="mse",  # or "psnr": its logarithm, so that weak and strong noise count alike
    lr=5e-4,  # Adam's rate; with width 16 2e-3 is better, beside Muon 1e-3 to 2e-3
    betas=(0.9, 0.999),  # Adam's decay rates
    muon_lr=0.01,  # Muon's rate
    schedule="multistep",  # learning rates / 10 at the milestones; or "cosine", to zero at the end
    milestones=(10, 40),  # epochs
    warmup=0,  # steps over which the learning rates rise from zero
    ema=0.0,  # decay a step of the moving average of the weights, say 0.999; 0: none
    grad_clip=0.0,  # maximum gradient norm; 0: no clipping
    dead_relu_penalty=0.0,  # say 1e-3: keeps ReLUs of dilated convolutions from dying; 0: none
    seed=0,  # of initial weights, samples and noise
    workers=2,  # processes that read data
    save_every=10,  # minutes from one save of the training state to the next
    device="auto",  # CUDA, else MPS, else CPU
    amp=False,  # automatic mixed precision: bf16 where supported, else fp16 with scaled gradients
    tf32=False,  # on CUDA: float32 products of 10-bit mantissas, off by about 1e-3
    compile=False,  # torch.compile: takes minutes at the start, no faster on CPUs
    accumulate=1,  # parts that a batch is computed in, one after the other, to save memory
    weights_dir="weights",
    log_dir="logs",  # jsonl, and TensorBoard's (pip install tensorboard; tensorboard --logdir logs)
)
# --------------------------------------------------------------------------------------------------


def main(argv: list[str] | None = None) -> int:
    args = options.parse_args(argv, description=__doc__, defaults=DEFAULTS)
    torch.manual_seed(args.seed)  # the initial weights; the samples have generators of their own
    model = SMNet(channels=3, width=args.width, shuffle=args.shuffle)
    train_set = PatchDataset(
        args.train_h5,
        channels=3,
        patch_size=args.patch_size,
        noise_range=args.noise_range,
        draws=args.draws,
        seed=args.seed,
        allow_pairs=True,
        camera=args.camera,
        clean=args.clean,
        color_jitter=args.color_jitter,
    )
    if train_set.real:
        args = options.args_for_real_noise(
            args, val_h5=train_set.val_h5, only_pairs=train_set.only_pairs
        )
    val_pictures = read_pictures(args.val_h5, channels=3, pairs=train_set.real)
    name = run_name(3, noiseL=None, real=train_set.real)
    return loop.fit(model, train_set, val_pictures, name=name, args=args)


if __name__ == "__main__":
    run_script(main)
