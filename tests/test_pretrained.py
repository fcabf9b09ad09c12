"""The weights that come with the project are what their names and cards say."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

import denoise
import pack
import utils
from smnet.images import SAMPLE_TEST, sample_pictures
from smnet.pairs import scene

PRETRAINED = Path(utils.__file__).parent / "pretrained"
SHIPPED = sorted(PRETRAINED.glob("*.pth"))
REAL = [path for path in SHIPPED if path.stem.endswith("_R")]

# What `dataset.py --train_dir data/PolyU --pairs "*_real*" "*_mean*" --holdout 20` sets aside, and
# the subjects of PolyU_full that show the same, by any camera.
HELD_OUT = {
    "Canon5D2_5_160_6400_bicycle": ["bicyc"],
    "Canon5D2_5_160_6400_desk": ["desk", "desch"],
    "Canon80D_8_8_12800_printer": ["print"],
    "NikonD800_11_160_3200_classroom": ["class"],
    "NikonD800_5_125_6400_stair": ["stair"],
    "Sony_4-5_125_6400_waterhouse": ["waterhouse"],
}
DOUBTFUL = {  # pairs of PolyU_full that do not fit each other
    "SonyA7II_compu", "Canon5D2_plug", "Canon5D2_robot", "Nikon800_desk", "SonyA7II_book",
}  # fmt: skip


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_what_is_shipped_is_what_its_name_and_card_say(path):
    content = utils.read_checkpoint(path)
    model = utils.model_from_checkpoint(content, path)
    if content["noise_range"] is None:
        level = "R"
    else:
        low, high = content["noise_range"]
        level = "B" if low < high else f"L{low:g}"
    assert path.stem == f"{'gray' if model.channels == 1 else 'rgb'}_{level}"
    assert path.stat().st_size <= pack.GREATEST_SIZE
    card = path.with_suffix(".md").read_text()
    assert (
        hashlib.sha256(path.read_bytes()).hexdigest() in card
        and f"{content['step']:,} steps" in card
    )
    last = json.loads(path.with_suffix(".jsonl").read_text().splitlines()[-1])
    assert (last["step"], last["val_psnr"]) == (content["step"], content["val_psnr"])


def test_what_is_held_out_was_not_trained_on():
    names = (PRETRAINED / "R_pairs.txt").read_text().split()
    crops = {scene(name.removeprefix("crop_")) for name in names if name.startswith("crop_")}
    frames = {name.split("_", 1)[1] for name in names if not name.startswith("crop_")}
    assert len(crops) == 29 - len(HELD_OUT) and crops.isdisjoint(HELD_OUT)
    assert len(frames) == 22 and frames.isdisjoint(DOUBTFUL)
    subjects = {subject for subjects in HELD_OUT.values() for subject in subjects}
    assert not {frame for frame in frames for subject in subjects if subject in frame}


@pytest.mark.slow
@pytest.mark.parametrize("path", REAL, ids=lambda path: path.stem)
def test_photographs_become_neither_brighter_nor_tinted(path):
    channels = 1 if path.stem.startswith("gray") else 3
    rng = np.random.default_rng(0)
    for picture in sample_pictures(SAMPLE_TEST, channels):
        clean = picture.clean.transpose(1, 2, 0)
        noise = rng.normal(0, 8, clean.shape).astype(np.float32)
        for before in (clean, np.rint(clean + noise).clip(0, 255).astype(np.uint8)):
            after = denoise.denoise(before, weights=str(path), device="cpu")
            shift = after.mean((0, 1), dtype=float) - before.mean((0, 1), dtype=float)
            assert np.abs(shift).max() <= 0.2, picture.name
