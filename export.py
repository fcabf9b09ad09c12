"""Write a trained network as ONNX, and check it in ONNX Runtime.

    pip install onnx onnxscript onnxruntime
    python export.py weights/model_gray_B_100.pth      # writes weights/model_gray_B_100.onnx
    python export.py net.pth -o smnet.onnx             # the authors' weights, too

The file takes `noisy` (1, channels, H, W), float32 in [0, 1], and gives `denoised`, not clamped. H
and W are free multiples of 32 (of 64 for networks with --shuffle 2): pad other pictures by
mirroring, as denoise.py cuts larger ones into tiles. It holds standard operators only.
"""

import argparse
import importlib.util
import logging
import warnings
from pathlib import Path

import numpy as np
import torch

import utils
from models import SMNet
from smnet.cli import make_parser, refuse_overwrite, run_script
from utils import SMNetError

NEEDED = ("onnx", "onnxscript", "onnxruntime")
MULTIPLE = 32  # of the sides: three poolings, and then regions of the same size
CHECKED = ((64, 64), (96, 160), (224, 128))  # sizes, pixels, times shuffle
TOLERANCE = 2e-4  # between PyTorch and ONNX Runtime


def main(argv: list[str] | None = None) -> int:
    """The command."""
    args = parse_args(argv)
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise SMNetError(f"export.py needs {' and '.join(missing)}: pip install {' '.join(NEEDED)}")
    model = utils.load_model(args.weights)
    target = Path(args.output) if args.output else Path(args.weights).with_suffix(".onnx")
    if target.exists() and target.samefile(args.weights):
        raise SMNetError(f"{target} holds the weights; give another -o")
    refuse_overwrite(target, overwrite=args.overwrite)
    with utils.replacing(target) as temporary:
        write_onnx(model, temporary)
        worst = greatest_difference(model, temporary)
        if not worst <= TOLERANCE:
            raise SMNetError(
                f"{target}: ONNX Runtime differs from PyTorch by {worst:.1e}, more than "
                f"{TOLERANCE:.0e}; not written"
            )
    sizes = ", ".join(f"{h * model.shuffle}x{w * model.shuffle}" for h, w in CHECKED)
    print(
        f"{target}: {target.stat().st_size / 1e6:.1f} MB; differs from PyTorch by at most "
        f"{worst:.1e} (tried: {sizes})"
    )
    return 0


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = make_parser(__doc__)
    parser.add_argument(
        "weights", metavar="WEIGHTS", help="a .pth file of weights, ours or the authors'"
    )
    parser.add_argument(
        "-o",
        "--output",
        metavar="FILE",
        help="the ONNX file (default: WEIGHTS with the ending .onnx)",
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace a file that already exists"
    )
    return parser.parse_args(argv)


def write_onnx(model: SMNet, path: Path) -> None:
    """Write the network, on the CPU, with free height and width (multiples of 32 x shuffle)."""
    multiple = MULTIPLE * model.shuffle
    sides = [multiple * torch.export.Dim(name, min=1, max=2048 // multiple) for name in ("h", "w")]
    example = torch.rand(1, model.channels, 2 * multiple, 3 * multiple)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exported = torch.export.export(
            model, (example,), dynamic_shapes={"x": {2: sides[0], 3: sides[1]}}
        )
        program = torch.onnx.export(
            exported,
            input_names=["noisy"],
            output_names=["denoised"],
            dynamo=True,
            verbose=False,
            optimize=True,
        )
    program.save(path)


@torch.inference_mode()
def greatest_difference(model: SMNet, path: Path) -> float:
    """The greatest difference between PyTorch's and ONNX Runtime's output over the sizes in
    CHECKED."""
    import onnxruntime  # optional

    session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    worst = 0.0
    for i, (height, width) in enumerate(CHECKED):
        generator = torch.Generator().manual_seed(i)
        size = height * model.shuffle, width * model.shuffle
        x = torch.rand(1, model.channels, *size, generator=generator)
        (theirs,) = session.run(["denoised"], {"noisy": x.numpy()})
        worst = float(np.maximum(worst, np.abs(theirs - model(x).numpy()).max()))  # NaN stays NaN
    return worst


if __name__ == "__main__":
    run_script(main)
