"""The weights that come with the project are what their names and cards say."""

import hashlib
import json
from pathlib import Path

import pytest

import pack
import utils

SHIPPED = sorted((Path(utils.__file__).parent / "pretrained").glob("*.pth"))


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
