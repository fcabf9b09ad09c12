"""Checkpoints that are damaged, foreign or hostile; files that are never half-written; names with
odd letters."""

import io
import os
from pathlib import Path

import pytest
import torch

import utils
from models import SMNet
from utils import SMNetError, load_model, one_line, replacing


class Hostile:
    """Pickles into a command."""

    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


@pytest.fixture
def checkpoint(tmp_path) -> Path:
    utils.save_checkpoint(
        tmp_path / "a.pth", {"model": SMNet(3, 6).state_dict(), "channels": 3, "width": 6}
    )
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
    for name, content in (
        ("zip.pth", {"model": Hostile(tmp_path / "ran")}),
        ("bare.pth", Hostile(tmp_path / "ran")),
    ):
        torch.save(content, tmp_path / name)
        with pytest.raises(SMNetError, match="more than tensors"):
            load_model(tmp_path / name)
    torch.save(
        {"model": Hostile(tmp_path / "ran")},
        tmp_path / "old.pth",
        _use_new_zipfile_serialization=False,
    )
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
    torch.save(weights, legacy := io.BytesIO(), _use_new_zipfile_serialization=False)
    for name, content, said in (
        ("empty", b"", "damaged"),
        ("text", b"hello there", "damaged"),
        ("half", whole[: len(whole) // 2], "damaged"),
        ("short", whole[:-30], "damaged"),
        ("legacy", legacy.getvalue()[:581], "damaged"),
        ("list", [1, 2], "holds a list"),
        ("other", {"conv.weight": torch.zeros(2, 2)}, "no SMNet weights"),
        (
            "lacking",
            {k: v for k, v in weights.items() if "expand" not in k},
            "lacks 'image_memory.expand.bias'",
        ),
        ("more", {**weights, "extra": torch.zeros(1)}, "foreign 'extra'"),
        (
            "shape",
            {**weights, "image_memory.expand.bias": torch.zeros(3)},
            "has shape (3,), not (16,)",
        ),
        ("odd", {first: torch.zeros(5, 1, 3, 3)}, "width even"),
    ):
        path = tmp_path / f"{name}.pth"
        path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
        with pytest.raises(SMNetError) as caught:
            load_model(path)
        assert (
            said in str(caught.value)
            and str(path) in str(caught.value)
            and "\n" not in str(caught.value)
        )
    with pytest.raises(
        SMNetError, match="no checkpoint .*none.pth; in .* there are a.pth, empty.pth"
    ):
        load_model(tmp_path / "none.pth")


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    path = tmp_path / "deep" / "file"
    with replacing(path) as temporary:
        temporary.write_text("old")
    for error in (ValueError, KeyboardInterrupt, OSError(28, "No space left on device")):
        with (
            pytest.raises((ValueError, KeyboardInterrupt, SMNetError)),
            replacing(path) as temporary,
        ):
            temporary.write_text("ne")
            raise error
        assert path.read_text() == "old" and list(path.parent.iterdir()) == [path]


def test_loading_leaves_the_global_generator_alone(checkpoint):
    torch.manual_seed(0)
    load_model(checkpoint)
    after = torch.rand(1)
    torch.manual_seed(0)
    assert after == torch.rand(1)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod."])
@pytest.mark.parametrize("wrapper", [None, "model", "params", "params_ema", "state_dict"])
def test_prefixes_and_wrappers_of_other_programs_are_read(checkpoint, tmp_path, prefix, wrapper):
    weights = torch.load(checkpoint, weights_only=True)["model"]
    named = {prefix + name: value for name, value in weights.items()}
    torch.save({wrapper: named, "epoch": 3} if wrapper else named, tmp_path / "b.pth")
    loaded = load_model(tmp_path / "b.pth").state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in weights.items())


def test_the_average_is_preferred_where_there_are_two(checkpoint, tmp_path):
    weights = torch.load(checkpoint, weights_only=True)["model"]
    average = {name: value + 1 for name, value in weights.items()}
    torch.save({"params": weights, "params_ema": average}, tmp_path / "b.pth")
    loaded = load_model(tmp_path / "b.pth").state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in average.items())


def test_the_keys_are_named_where_nothing_fits(tmp_path):
    torch.save({"generator": {"conv.weight": torch.zeros(1)}, "epoch": 3}, tmp_path / "a.pth")
    with pytest.raises(SMNetError, match="its top-level keys are 'generator', 'epoch'$"):
        load_model(tmp_path / "a.pth")
    weights = {f"block.{i}": torch.zeros(1) for i in range(9)}
    torch.save({"params": weights}, tmp_path / "b.pth")
    with pytest.raises(SMNetError, match="its params keys are 'block.0', .* and 5 more$"):
        load_model(tmp_path / "b.pth")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(checkpoint, value):
    content = torch.load(checkpoint, weights_only=True)
    content["model"]["noise_memory.stem.1.bias"][0] = value
    torch.save(content, checkpoint)
    with pytest.raises(SMNetError, match=r"NaN or infinite \('noise_memory.stem.1.bias'\)"):
        load_model(checkpoint)


def test_a_folded_network_comes_back(tmp_path):
    model = SMNet(1, 4, shuffle=2).eval()
    content = {"model": model.state_dict(), "channels": 1, "width": 4, "shuffle": 2}
    utils.save_checkpoint(tmp_path / "a.pth", content)
    loaded = load_model(tmp_path / "a.pth")
    assert (loaded.channels, loaded.width, loaded.shuffle) == (1, 4, 2)
    x = torch.rand(1, 1, 60, 60)
    with torch.inference_mode():
        torch.testing.assert_close(loaded(x), model(x))


def test_a_folder_is_no_checkpoint(checkpoint):
    with pytest.raises(SMNetError, match="is a folder; give a .pth file; in .* there are a.pth$"):
        load_model(checkpoint.parent)


def test_bytes_that_are_not_utf_8_are_escaped():
    assert one_line("a\udcffb") == "a\\udcffb"
