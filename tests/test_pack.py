"""Packing: the weights, the log and the card, and what does not fit together."""

import hashlib
from pathlib import Path

import pytest
import torch

import pack
import utils
from models import SMNet
from utils import SMNetError


def test_a_pack_has_weights_log_and_card(packed):
    assert sorted(path.name for path in packed.iterdir()) == [
        "gray_B.jsonl",
        "gray_B.md",
        "gray_B.pth",
    ]
    content = torch.load(packed / "gray_B.pth", weights_only=True)
    assert {value.dtype for value in content["model"].values()} == {torch.float16}
    assert content["epoch"] == 2 and content["width"] == 4
    assert (
        len((packed / "gray_B.jsonl").read_text().splitlines()) == 2
    )  # up to the epoch that was packed, of three
    text = (packed / "gray_B.md").read_text()
    for part in (
        "# gray_B: gray, blind, sigma 0 to 55",
        "half precision",
        "python train_gray_blind.py --x",
        "stripes",
        "6 steps",
        hashlib.sha256((packed / "gray_B.pth").read_bytes()).hexdigest(),
        "| Set12 | sigma 25 |",
        "commit: `1a2b`",
    ):
        assert part in text
    trained, shipped = (
        utils.load_model(path) for path in ("trained/model_gray_B_2.pth", packed / "gray_B.pth")
    )
    x = torch.rand(1, 1, 40, 40)
    with torch.inference_mode():
        assert (trained(x) - shipped(x)).abs().max() < 5e-3


WEIGHTS, LOG = "trained/model_gray_B_2.pth", "logs/model_gray_B.jsonl"


def pack_again(gray_h5, *words: str, weights=WEIGHTS, log=LOG) -> int:
    """Pack once more into shipped/."""
    card = "--made_by x --data y --commit z -o shipped".split()
    return pack.main([weights, "--log", log, "--val_h5", str(gray_h5[1]), *card, *words])


@pytest.fixture
def unchanged(packed):
    """Asserts that the test leaves the files in shipped/ as they were."""
    before = {path.name: path.read_bytes() for path in packed.iterdir()}
    yield
    assert {path.name: path.read_bytes() for path in packed.iterdir()} == before


def test_the_log_of_another_run_is_refused(unchanged, gray_h5):
    line = '{"step": 1, "val_psnr": 20.0, "train_psnr": 20.0, "seconds": 1.0}\n'
    Path("other.jsonl").write_text(line)
    with pytest.raises(SMNetError, match="is not the log of the run"):
        pack_again(gray_h5, "--overwrite", log="other.jsonl")


def test_weights_that_do_not_say_how_they_were_trained_are_refused(unchanged, gray_h5):
    utils.save_checkpoint("bare.pth", {"model": utils.load_model(WEIGHTS).state_dict()})
    with pytest.raises(SMNetError, match="does not say how it was trained"):
        pack_again(gray_h5, "--overwrite", weights="bare.pth")


def test_results_of_other_weights_are_refused(unchanged, gray_h5):
    with pytest.raises(SMNetError, match="has results of .*trained/model_gray_B_2.pth"):
        pack_again(
            gray_h5, "--overwrite", "--results", "r.json", weights="trained/model_gray_B_3.pth"
        )


def test_existing_files_are_replaced_only_with_overwrite(unchanged, gray_h5):
    with pytest.raises(SMNetError, match="gray_B.pth already exists; --overwrite"):
        pack_again(gray_h5)


def test_a_card_of_that_name_is_in_the_way_too(packed, gray_h5):
    (packed / "mine.md").write_text("my notes")
    with pytest.raises(SMNetError, match="mine.md already exists"):
        pack_again(gray_h5, "--name", "mine")
    assert not (packed / "mine.pth").exists()


def test_large_files_are_refused(unchanged, gray_h5, monkeypatch):
    monkeypatch.setattr(pack, "GREATEST_SIZE", 10)
    with pytest.raises(SMNetError, match="more than"):
        pack_again(gray_h5, "--overwrite")


def test_single_precision_is_kept_where_half_costs_too_much(packed, gray_h5, monkeypatch):
    monkeypatch.setattr(pack, "GREATEST_LOSS", -1)
    assert pack_again(gray_h5, "--overwrite") == 0
    assert "single precision" in (packed / "gray_B.md").read_text()
    content = torch.load(packed / "gray_B.pth", weights_only=True)["model"]
    trained = torch.load(WEIGHTS, weights_only=True)["model"]
    assert all(torch.equal(content[name], value) for name, value in trained.items())


def test_a_folded_network_says_so_and_comes_back(packed):
    args = pack.parse_args(
        "weights.pth --log x --val_h5 v.h5 --made_by y --data z --commit 1a2b".split()
    )
    model = SMNet(1, 4, shuffle=2).eval()
    training = {"epoch": 2, "step": 6, "noise_range": [25, 25], "val_psnr": 30.0, "val_sigma": 25}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pack, "validate", lambda *_: 30.0)
        package = pack.pack(model, training, args)
    Path("folded.pth").write_bytes(package.content)
    assert utils.load_model("folded.pth").shuffle == 2
    text = pack.card("gray_L25", model, training, [{"seconds": 60.0}], [], package, args)
    assert "SMNet of width 4 folded (" in text and "# gray_L25: gray, sigma 25" in text
