"""Labelled sheets of pictures side by side: before and after, and the two stages of the network."""

import cv2
import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn import functional as F

from models import SMNet
from smnet.fast import for_inference
from smnet.images import to_uint8

LABEL_HEIGHT = 20  # pixels above each panel
GAP = 4  # pixels between panels
SIDE = 512  # pixels; of a larger picture a part of this side is shown


def sheet(panels: list[tuple[str, Tensor]], *, columns: int) -> np.ndarray:
    """Panels (label, (C, H, W) in [0, 1]; clamped), all of one size, row by row -> uint8 RGB (H, W,
    3), labels above."""
    height, width = panels[0][1].shape[-2:]
    cell = max(width, 200)  # room for the label
    rows = -(-len(panels) // columns)
    canvas = Image.new(
        "RGB", (columns * (cell + GAP) - GAP, rows * (height + LABEL_HEIGHT + GAP) - GAP), "white"
    )
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(13)
    for i, (label, panel) in enumerate(panels):
        left, top = i % columns * (cell + GAP), i // columns * (height + LABEL_HEIGHT + GAP)
        draw.text((left + 2, top + 2), label, fill="black", font=font)
        levels = to_uint8(panel.expand(3, -1, -1))
        canvas.paste(
            Image.fromarray(np.ascontiguousarray(levels.transpose(1, 2, 0))),
            (left, top + LABEL_HEIGHT),
        )
    return np.array(canvas)


def crop_around(picture: Tensor, row: int, column: int) -> tuple[Tensor, int, int]:
    """At most SIDE x SIDE pixels of (C, H, W) around a pixel, and where the pixel lies in them."""
    top, left = (
        max(0, min(at - SIDE // 2, length - SIDE))
        for at, length in zip((row, column), picture.shape[-2:])
    )
    return picture[:, top : top + SIDE, left : left + SIDE], row - top, column - left


def comparison(before: Tensor, after: Tensor) -> np.ndarray:
    """Two (C, H, W) side by side, with what was removed beside them; of larger pictures the
    middle."""
    height, width = before.shape[-2:]
    before, after = (
        crop_around(picture, height // 2, width // 2)[0] for picture in (before, after)
    )
    part = (
        f", the middle of {width}x{height}" if (height, width) != tuple(before.shape[-2:]) else ""
    )
    removed = (before - after) * 4 + 0.5
    return sheet(
        [(f"before{part}", before), ("denoised", after), ("removed, x 4", removed)], columns=3
    )


@torch.inference_mode()
def stages(model: SMNet, noisy: Tensor, point: tuple[int, int] | None = None) -> np.ndarray:
    """The paper's look inside, for a noisy (C, H, W): its five panels as one sheet.

    Noisy picture; noise mask, what the noise memory takes for noise, its mean shown as grey;
    residual, the noisy picture without it, which the image memory gets, that mean put back; output;
    and what the pixel `point` (row, column, or the nearest there is; None: the middle) attends to
    in the deepest noise-aware block, brighter for more, itself marked. Of larger pictures 512 x 512
    pixels around the point.
    """
    height, width = noisy.shape[-2:]
    row, column = (
        min(at, length - 1)
        for at, length in zip(point or (height // 2, width // 2), (height, width))
    )
    noisy, row, column = crop_around(noisy, row, column)
    model = for_inference(model)
    x = noisy[None].to(next(model.parameters()).device)
    noise_mask, residual, output = (stage[0].cpu() for stage in model.stages(x))
    # Training leaves its mean free: only the output is compared with anything.
    level = noise_mask.mean().item()
    attended = heat(model.attention(x, row, column).cpu(), noisy, row, column)
    return sheet(
        [
            ("noisy", noisy), (f"noise mask, {level:+.2f} as grey", noise_mask - level + 0.5),
            (f"residual, {level:+.2f} put back", residual + level), ("output", output),
            (f"attention of ({row}, {column})", attended),
        ],
        columns=5,
    )  # fmt: skip


def heat(weights: Tensor, picture: Tensor, row: int, column: int) -> Tensor:
    """Attention weights (h, w) over a faint (C, H, W), with a ring around the pixel -> (3, H,
    W)."""
    height, width = picture.shape[-2:]
    share = F.interpolate((weights / weights.max())[None, None], (height, width), mode="bilinear")[
        0, 0
    ]
    levels = (share * 255).to(torch.uint8).numpy()
    colours = cv2.cvtColor(cv2.applyColorMap(levels, cv2.COLORMAP_INFERNO), cv2.COLOR_BGR2RGB)
    faint = picture.clamp(0, 1).mean(0, keepdim=True).permute(1, 2, 0).numpy() * 80
    blended = np.ascontiguousarray(np.maximum(colours, faint).astype(np.uint8))
    cv2.circle(blended, (column, row), 6, (0, 255, 0), 2)
    return torch.from_numpy(blended).permute(2, 0, 1).float() / 255
