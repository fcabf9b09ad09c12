"""The weights that come with the project are what their names and cards say."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

import denoise
import pack
import utils
from docs.recipes import real_noise
from smnet.datasets import files_of
from smnet.images import SAMPLE_TEST, PictureFiles, sample_pictures
from smnet.pairs import scene

PRETRAINED = Path(utils.__file__).parent / "pretrained"
SHIPPED = sorted(PRETRAINED.glob("*.pth"))
REAL = [path for path in SHIPPED if path.stem.removesuffix("_free").endswith("_R")]


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_what_is_shipped_is_what_its_name_and_card_say(path):
    content = utils.read_checkpoint(path)
    model = utils.model_from_checkpoint(content, path)
    if content["noise_range"] is None:
        level = "R"
    else:
        low, high = content["noise_range"]
        level = "B" if low < high else f"L{low:g}"
    name = f"{'gray' if model.channels == 1 else 'rgb'}_{level}"
    assert path.stem.removesuffix("_free") == name
    assert path.stat().st_size <= pack.GREATEST_SIZE
    card = path.with_suffix(".md").read_text()
    assert (
        hashlib.sha256(path.read_bytes()).hexdigest() in card
        and f"{content['step']:,} steps" in card
    )
    last = json.loads(path.with_suffix(".jsonl").read_text().splitlines()[-1])
    assert (last["step"], last["val_psnr"]) == (content["step"], content["val_psnr"])


def names_of(name: str, ending: str) -> list[str]:
    """A set's files of this ending, as the catalogue has them, without it."""
    return [
        file.target.name.removesuffix(ending)
        for file in files_of(name, "data")
        if file.target.name.endswith(ending)
    ]


def test_scenes_held_out_were_not_trained_on():
    trained = (PRETRAINED / "R_pairs.txt").read_text().split()
    crops = {name.removeprefix("crop_") for name in trained if name.startswith("crop_")}
    frames = {name.split("_", 1)[1] for name in trained if not name.startswith("crop_")}
    nowhere = Path("nowhere")
    pairs = [PictureFiles(name, nowhere, nowhere) for name in names_of("PolyU", "_real.JPG")]
    train, val = real_noise.hold_out(pairs, 20)
    assert crops == {pair.name for pair in train} and len(crops) == 80
    every = set(names_of("PolyU_full", "_Real.JPG")) - set(real_noise.DOUBTFUL)
    held_out = {name for name in every if real_noise.is_held_out(name)}
    assert frames == every - held_out and len(frames) == 22 and len(held_out) == 8
    assert {scene(name) for name in crops}.isdisjoint(scene(pair.name) for pair in val)
    # The scenes of val show these; frames are named after what they show.
    subjects = {scene(pair.name).split("_")[-1] for pair in val}
    assert subjects == {"bicycle", "desk", "printer", "classroom", "stair", "waterhouse"}
    for frame in frames:
        shown = frame.split("_")[-1]
        assert not any(subject.startswith(shown) for subject in subjects), frame


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
