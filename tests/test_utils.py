"""Checkpoints that are damaged, foreign or hostile; files that are never half-written; command-line numbers."""

import argparse
import os
from pathlib import Path

import pytest
import torch

import utils
from models import SMNet
from utils import SMNetError, load_model, number, replacing


class Hostile:
    """Pickles into a command."""

    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


@pytest.fixture
def checkpoint(tmp_path) -> Path:
    utils.save_checkpoint(tmp_path / "a.pth", {"model": SMNet(3, 6).state_dict(), "channels": 3, "width": 6})
    return tmp_path / "a.pth"


def test_width_and_channels_come_from_the_file(checkpoint):
    model = load_model(checkpoint)
    assert (model.channels, model.width, model.training) == (3, 6, False)


def test_a_checkpoint_with_shuffle_loads_as_such(tmp_path):
    model = SMNet(3, 6, shuffle=2)
    content = {"model": model.state_dict(), "channels": 3, "width": 6, "shuffle": 2}
    utils.save_checkpoint(tmp_path / "a.pth", content)
    loaded = load_model(tmp_path / "a.pth")
    assert (loaded.channels, loaded.width, loaded.shuffle) == (3, 6, 2)
    x = torch.rand(1, 3, 60, 64)
    with torch.inference_mode():
        torch.testing.assert_close(loaded(x), model(x))


def test_a_checkpoint_that_holds_code_is_refused_and_not_run(tmp_path):
    for name, content in (("zip.pth", {"model": Hostile(tmp_path / "ran")}), ("bare.pth", Hostile(tmp_path / "ran"))):
        torch.save(content, tmp_path / name)
        with pytest.raises(SMNetError, match="more than tensors"):
            load_model(tmp_path / name)
    torch.save({"model": Hostile(tmp_path / "ran")}, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    with pytest.raises(SMNetError, match="more than tensors"):
        load_model(tmp_path / "old.pth")
    torch.save(SMNet(1, 4), tmp_path / "whole.pth")  # a whole module needs code as well
    with pytest.raises(SMNetError, match="more than tensors"):
        load_model(tmp_path / "whole.pth")
    assert not (tmp_path / "ran").exists()


def test_damaged_and_foreign_checkpoints_are_one_line(checkpoint, tmp_path):
    whole = checkpoint.read_bytes()
    weights = SMNet(1, 4).state_dict()
    first = next(iter(weights))
    for name, content, said in (
        ("empty", b"", "damaged"),
        ("text", b"hello there", "damaged"),
        ("half", whole[: len(whole) // 2], "damaged"),
        ("short", whole[:-30], "damaged"),
        ("list", [1, 2], "holds a list"),
        ("other", {"conv.weight": torch.zeros(2, 2)}, "no SMNet weights"),
        ("lacking", {k: v for k, v in weights.items() if "expand" not in k}, "lacks 'image_memory.expand.bias'"),
        ("more", {**weights, "extra": torch.zeros(1)}, "foreign 'extra'"),
        ("shape", {**weights, "image_memory.expand.bias": torch.zeros(3)}, "has shape (3,), not (16,)"),
        ("odd", {first: torch.zeros(5, 1, 3, 3)}, "width even"),
    ):
        path = tmp_path / f"{name}.pth"
        path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
        with pytest.raises(SMNetError) as caught:
            load_model(path)
        assert said in str(caught.value) and str(path) in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(SMNetError, match="no checkpoint .*none.pth; in .* there are a.pth, empty.pth"):
        load_model(tmp_path / "none.pth")


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    path = tmp_path / "deep" / "file"
    with replacing(path) as temporary:
        temporary.write_text("old")
    for error in (ValueError, KeyboardInterrupt, OSError(28, "No space left on device")):
        with pytest.raises((ValueError, KeyboardInterrupt, SMNetError)), replacing(path) as temporary:
            temporary.write_text("ne")
            raise error
        assert path.read_text() == "old" and list(path.parent.iterdir()) == [path]


def test_numbers_on_the_command_line():
    assert number(int, 1)("3") == 3 and number(float, 0, 255)("12.5") == 12.5
    for parse, text in (
        (number(int, 1), "0"),
        (number(int, 1), "1.5"),
        (number(float, 0, 255), "nan"),
        (number(float, 0), "inf"),
    ):
        with pytest.raises(argparse.ArgumentTypeError):
            parse(text)


def test_loading_leaves_the_global_generator_alone(checkpoint):
    torch.manual_seed(0)
    load_model(checkpoint)
    after = torch.rand(1)
    torch.manual_seed(0)
    assert after == torch.rand(1)


def test_out_of_memory_is_one_line():
    def greedy():
        torch.empty(1 << 60)

    with pytest.raises(SystemExit) as caught:
        utils.run_script(greedy)
    assert "out of memory; give smaller pictures, in training a smaller --batchsize" in str(caught.value.code)
    for words in ("CUDA out of memory", "not enough memory: you tried to allocate 9 bytes", "CUBLAS_STATUS_ALLOC_FAILED"):
        assert utils.is_out_of_memory(RuntimeError(words))
    assert not utils.is_out_of_memory(RuntimeError("sizes of tensors must match"))


@pytest.mark.parametrize("name, index", [("auto", None), ("cuda", None), ("cuda:1", 1)])
def test_a_gpu_is_picked_and_made_the_current_one_where_it_is_numbered(name, index, monkeypatch):
    made = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "_lazy_init", lambda: None)
    monkeypatch.setattr(torch._C, "_cuda_setDevice", made.append, raising=False)
    monkeypatch.setattr(torch, "empty", lambda *_, device: None)
    assert utils.pick_device(name) == torch.device("cuda", index)
    assert made == ([] if index is None else [index])


def test_a_device_that_is_not_there_is_one_line():
    assert utils.pick_device("cpu").type == "cpu"
    if not torch.cuda.is_available():
        with pytest.raises(SMNetError, match="use --device auto or cpu"):
            utils.pick_device("cuda")
