"""The h5 files: nothing lost, nothing half-written, every sample a function of (seed, epoch,
index)."""

import json
import pickle
import shutil
from pathlib import Path
from types import SimpleNamespace

import cv2
import h5py
import numpy as np
import pytest
import torch
from conftest import synthetic_picture, write_folder
from torch.utils.data import DataLoader

import dataset
import dataset_gray
from smnet import dataset_building
from smnet.patches import cut_patches, read_pictures
from smnet.training.samples import EpochBatches, PatchDataset, orient
from utils import SMNetError


def build(script, folder: Path, *more: str) -> int:
    return script.main(
        [
            "--train_dir",
            str(folder / "train"),
            "--train_h5",
            str(folder / "t.h5"),
            "--val_h5",
            str(folder / "v.h5"),
            *more,
        ]
    )


@pytest.mark.parametrize("height, width, stride", [(48, 48, 48), (50, 131, 48), (97, 96, 20)])
def test_patches_cover_the_whole_picture(height, width, stride):
    picture = np.arange(height * width).reshape(1, height, width)
    pieces = list(cut_patches(picture, patch_size=48, stride=stride))
    assert {piece.shape for piece in pieces} == {(1, 48, 48)}
    assert set(np.concatenate([piece.ravel() for piece in pieces])) == set(range(height * width))


def test_reads_every_kind_of_picture(tmp_path):
    folder = tmp_path / "train" / "deep" / "er"
    folder.mkdir(parents=True)
    gray, colour = synthetic_picture(0, 50, 60), synthetic_picture(1, 50, 60, 3)
    for name in ("a.png", "b.jpg", "c.bmp", "d.tif", "e.webp", "F.PNG"):
        cv2.imwrite(str(folder / name), colour)
    cv2.imwrite(str(folder / "gray.png"), gray)
    cv2.imwrite(str(folder / "alpha.png"), np.dstack([colour, np.full((50, 60), 7, np.uint8)]))
    cv2.imwrite(str(folder / "deep.png"), colour.astype(np.uint16) * 257)
    cv2.imwrite(str(folder / "deep.tif"), gray.astype(np.uint16) * 257)
    (folder / "notes.txt").write_text("no picture")
    write_folder(tmp_path / "val", 1)
    assert (
        build(
            dataset,
            tmp_path,
            "--val_dir",
            str(tmp_path / "val"),
            "--patch_size",
            "50",
            "--stride",
            "50",
        )
        == 0
    )
    with h5py.File(tmp_path / "t.h5") as file:
        names = json.loads(file.attrs["sources"])
        assert sorted(Path(name).name for name in names) == [
            "F.PNG",
            "a.png",
            "alpha.png",
            "b.jpg",
            "c.bmp",
            "d.tif",
            "deep.png",
            "deep.tif",
            "e.webp",
            "gray.png",
        ]
        assert file["patches"].dtype == np.uint8 and file["patches"].shape == (20, 3, 50, 50)
        assert (file.attrs["patch_size"], file.attrs["stride"], file.attrs["resize"]) == (50, 50, 0)
        first = {
            Path(names[source]).name: file["patches"][i]
            for i, source in reversed(list(enumerate(file["source"])))
        }
    rgb = colour[:, :50, ::-1].transpose(2, 0, 1)
    for name in ("a.png", "c.bmp", "d.tif", "alpha.png", "deep.png"):
        np.testing.assert_array_equal(first[name], rgb, err_msg=name)
    for name in ("gray.png", "deep.tif"):
        np.testing.assert_array_equal(
            first[name], np.repeat(gray[None, :, :50, 0], 3, axis=0), err_msg=name
        )


def test_links_are_followed_and_hidden_files_passed_over(tmp_path):
    write_folder(tmp_path / "elsewhere", 2)
    write_folder(tmp_path / "train" / ".thumbnails", 3)
    (tmp_path / "train" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "round").symlink_to(tmp_path / "train")
    build(dataset_gray, tmp_path, "--holdout", "1", "--patch_size", "48")
    with h5py.File(tmp_path / "t.h5") as file:
        assert json.loads(file.attrs["sources"]) == ["linked/01.png"]
        assert (
            json.loads(file.attrs["train_dir"]) == [str(tmp_path / "train")]
            and file.attrs["holdout"] == 1
        )


def test_gray_is_opencvs_luma(tmp_path):
    (tmp_path / "train").mkdir()
    colour = synthetic_picture(3, 48, 48, 3)
    cv2.imwrite(str(tmp_path / "train" / "a.png"), colour)
    build(dataset_gray, tmp_path, "--val_dir", str(tmp_path / "train"), "--patch_size", "48")
    luma = cv2.cvtColor(colour, cv2.COLOR_BGR2GRAY)
    np.testing.assert_array_equal(read_pictures(tmp_path / "v.h5", 1)[0][1][0], luma)
    with h5py.File(tmp_path / "t.h5") as file:
        np.testing.assert_array_equal(file["patches"][0, 0], luma)


def test_broken_and_small_files_are_named_skipped_and_counted(tmp_path, capsys):
    write_folder(tmp_path / "train", 2)
    write_folder(tmp_path / "val", 1)
    cv2.imwrite(str(tmp_path / "train" / "small.png"), synthetic_picture(0, 30, 90))
    whole = (tmp_path / "train" / "00.png").read_bytes()
    (tmp_path / "train" / "cut.png").write_bytes(whole[: len(whole) // 2])
    photo = cv2.imencode(".jpg", synthetic_picture(1, 64, 80, 3))[1].tobytes()
    (tmp_path / "train" / "cut.jpg").write_bytes(photo[: len(photo) // 2])
    (tmp_path / "train" / "empty.png").write_bytes(b"")
    (tmp_path / "train" / "text.jpg").write_text("no picture")
    assert (
        build(dataset_gray, tmp_path, "--val_dir", str(tmp_path / "val"), "--patch_size", "48") == 1
    )
    said = capsys.readouterr()
    assert "8 patches of 48x48 from 2 pictures" in said.out
    for name in (
        "small.png: is 90x30, smaller than 48x48",
        "cut.png",
        "cut.jpg",
        "empty.png",
        "text.jpg",
    ):
        assert name in said.err
    assert "5 files skipped" in said.err


def test_a_failed_build_leaves_the_old_files(tmp_path, monkeypatch):
    write_folder(tmp_path / "train", 2)
    val = ["--val_dir", str(write_folder(tmp_path / "val", 1)), "--patch_size", "48"]
    build(dataset_gray, tmp_path, *val)
    before = (tmp_path / "t.h5").read_bytes(), (tmp_path / "v.h5").read_bytes()
    for error in (KeyboardInterrupt, OSError("disk full"), MemoryError):
        monkeypatch.setattr(
            dataset_building, "write_pictures", lambda *a, _error=error, **k: (_ for _ in ()).throw(_error)
        )
        with pytest.raises((KeyboardInterrupt, SMNetError, MemoryError)):
            build(dataset_gray, tmp_path, *val)
        assert ((tmp_path / "t.h5").read_bytes(), (tmp_path / "v.h5").read_bytes()) == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["t.h5", "train", "v.h5", "val"]


def test_a_full_disk_is_one_line(tmp_path, monkeypatch):
    write_folder(tmp_path / "train", 8)
    free = iter([10**9] * 5 + [10**6] * 9)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=next(free)))
    with pytest.raises(SMNetError, match="no space left on the disk of"):
        build(dataset_gray, tmp_path, "--holdout", "1", "--patch_size", "48")
    assert [path.name for path in tmp_path.iterdir()] == ["train"]


def test_builds_from_the_sample_where_the_default_folder_is_missing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for script, channels, files in (
        (dataset, 3, ("train_data.h5", "val_data.h5")),
        (dataset_gray, 1, ("train_gray_data.h5", "val_gray_data.h5")),
    ):
        assert script.main([]) == 0
        assert "sample photographs of scikit-image" in capsys.readouterr().out
        with h5py.File(files[0]) as file:
            train, patches = set(json.loads(file.attrs["sources"])), file["patches"]
            assert patches.shape[1:] == (channels, 256, 256)
            assert Path(files[0]).stat().st_size <= 1.1 * patches.size
        val = {picture.name for picture in read_pictures(files[1], channels)}
        assert {"astronaut", "camera", "chelsea", "coffee"} == val and not val & train


def test_holdout_takes_pictures_away_from_training(tmp_path):
    write_folder(tmp_path / "train", 7)
    build(dataset_gray, tmp_path, "--holdout", "3", "--patch_size", "48")
    with h5py.File(tmp_path / "t.h5") as file:
        train = set(json.loads(file.attrs["sources"]))
    val = {picture.name for picture in read_pictures(tmp_path / "v.h5", 1)}
    assert len(train) == 4 and len(val) == 3 and not train & val


def test_overlapping_folders_give_each_picture_once(tmp_path):
    write_folder(tmp_path / "train" / "a", 4)
    words = [
        "--train_dir",
        *(str(tmp_path / folder) for folder in ("train", "train/a", "train")),
        "--holdout",
        "2",
    ]
    assert build(dataset_gray, tmp_path, *words, "--patch_size", "48") == 0
    with h5py.File(tmp_path / "t.h5") as file:
        train = {Path(name).name for name in json.loads(file.attrs["sources"])}
    val = {Path(picture.name).name for picture in read_pictures(tmp_path / "v.h5", 1)}
    assert len(train) == len(val) == 2 and not train & val


def test_files_that_were_made_otherwise_are_not_replaced_unasked(tmp_path):
    write_folder(tmp_path / "train", 3)
    words = ["--holdout", "1", "--patch_size", "48"]
    for _ in range(2):  # the same command may
        assert build(dataset_gray, tmp_path, *words) == 0
    before = (tmp_path / "t.h5").read_bytes()
    for changed in (["--stride", "24"], ["--holdout", "2"]):
        with pytest.raises(SMNetError, match=r"already exists; --overwrite replaces it \(other settings made it\)"):
            build(dataset_gray, tmp_path, *words, *changed)
    with pytest.raises(SMNetError, match="already exists"):
        build(dataset, tmp_path, *words)
    with pytest.raises(SMNetError, match="already exists"):
        build(
            dataset_gray,
            tmp_path,
            *words,
            "--train_h5",
            str(tmp_path / "v.h5"),
            "--val_h5",
            str(tmp_path / "t.h5"),
        )
    (tmp_path / "v.h5").write_bytes(b"a file of the user's")
    with pytest.raises(SMNetError, match="v.h5 already exists"):
        build(dataset_gray, tmp_path, *words)
    assert (tmp_path / "t.h5").read_bytes() == before and (
        tmp_path / "v.h5"
    ).read_bytes() == b"a file of the user's"
    assert build(dataset_gray, tmp_path, *words, "--overwrite") == 0


def test_resize_squeezes_whole_pictures(tmp_path):
    write_folder(tmp_path / "train", 2, height=30, width=90)
    build(dataset_gray, tmp_path, "--holdout", "1", "--resize", "48", "--patch_size", "48")
    with h5py.File(tmp_path / "t.h5") as file:
        assert file["patches"].shape == (1, 1, 48, 48)


@pytest.mark.parametrize(
    "words, said",
    [
        ("--train_dir nowhere", "no folder nowhere"),
        ("--train_dir empty", "no picture in empty"),
        ("--train_dir train", "data/Set68 is missing"),
        ("--train_dir train --holdout 2", "leaves nothing"),
        ("--train_dir train --val_dir train", "(--patch_size)"),
        (
            "--train_dir train --val_dir train --patch_size 48 --train_h5 train/00.png/t.h5",
            "cannot make the folder",
        ),
    ],
)
def test_mistakes_are_one_line(tmp_path, monkeypatch, words, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    write_folder(tmp_path / "train", 2)
    with pytest.raises(SMNetError) as caught:
        dataset_gray.main(words.split())
    assert said in str(caught.value) and str(caught.value).count("\n") < 2


WRONG = "--patch_size 0; --stride 300; --holdout 1 --val_dir x; --resize 128; --val_h5 train_gray_data.h5; --train x"


@pytest.mark.parametrize("words", WRONG.split(";"))
def test_wrong_arguments_exit_with_2(words):
    with pytest.raises(SystemExit) as caught:
        dataset_gray.main(words.split())
    assert caught.value.code == 2


# ------------------------------------------------------------------------------------------ reading


def patches_of(gray_h5, **changed) -> PatchDataset:
    settings = dict(channels=1, patch_size=32, noise_range=(0, 55), draws=2, seed=5)
    return PatchDataset(gray_h5[0], **{**settings, **changed})


def test_a_sample_is_a_function_of_seed_epoch_and_index(gray_h5):
    samples = patches_of(gray_h5)
    assert len(samples) == 2 * 12
    clean, noisy, sigma = samples[3, 7]
    assert (
        clean.shape == noisy.shape == (1, 32, 32)
        and clean.dtype == noisy.dtype == sigma.dtype == torch.float32
    )
    torch.rand(10)
    np.random.rand(10)
    again = pickle.loads(pickle.dumps(samples))  # as it travels to a worker that is not forked
    for ours, theirs in zip(again[3, 7], (clean, noisy, sigma)):
        assert torch.equal(ours, theirs)
    for other in (samples[4, 7], samples[3, 8], samples[3, 19], patches_of(gray_h5, seed=6)[3, 7]):
        assert not torch.equal(other[1], noisy)


def test_noise_is_white_gaussian_of_the_level_and_not_clipped(gray_h5):
    samples = patches_of(gray_h5, noise_range=(50, 50), patch_size=48)
    items = [samples[0, i] for i in range(24)]
    assert all(sigma == 50 for _, _, sigma in items)
    noise = torch.stack([noisy - clean for clean, noisy, _ in items]) * 255 / 50
    assert abs(noise.mean()) < 0.02 and abs(noise.std() - 1) < 0.02
    assert abs((noise[..., 1:] * noise[..., :-1]).mean()) < 0.02
    assert (
        min(noisy.min() for _, noisy, _ in items) < 0
        and max(noisy.max() for _, noisy, _ in items) > 1
    )


def test_blind_levels_fill_their_range(gray_h5):
    samples = patches_of(gray_h5)
    sigmas = np.array([samples[epoch, i][2] for epoch in range(10) for i in range(24)])
    assert 0 <= sigmas.min() < 5 and 50 < sigmas.max() <= 55 and abs(sigmas.mean() - 27.5) < 4


def test_the_eight_orientations_are_distinct():
    patch = np.arange(9).reshape(1, 3, 3)
    assert len({orient(patch, i).tobytes() for i in range(8)}) == 8


def test_workers_and_global_generators_change_nothing(gray_h5):
    torch.manual_seed(0)
    np.random.seed(0)
    batches = EpochBatches(24, 4, seed=5)
    batches.epoch = 2
    seen = []
    for workers in (0, 2):
        loader = DataLoader(
            patches_of(gray_h5),
            batch_sampler=batches,
            num_workers=workers,
            generator=torch.Generator(),
        )
        seen.append(torch.cat([noisy for _, noisy, _ in loader]))
    assert torch.equal(*seen)
    after = torch.rand(1), np.random.rand()
    torch.manual_seed(0)
    np.random.seed(0)
    assert after == (torch.rand(1), np.random.rand())


def test_an_epoch_is_every_draw_once_in_an_order_of_its_own():
    batches = EpochBatches(26, 4, seed=0)
    epochs = []
    for epoch in (0, 1):
        batches.epoch = epoch
        keys = [key for batch in batches for key in batch]
        assert {e for e, _ in keys} == {epoch}
        epochs.append([index for _, index in keys])
        assert (
            len(batches) == 6 and len(set(epochs[-1])) == 24 and set(epochs[-1]) <= set(range(26))
        )
    assert epochs[0] != epochs[1]
    batches.skip = 2
    assert [index for batch in batches for _, index in batch] == epochs[1][8:] and len(batches) == 4


def test_wrong_h5_files_are_one_line(gray_h5, tmp_path):
    train, val = gray_h5
    cut, text = tmp_path / "cut.h5", tmp_path / "text.h5"
    cut.write_bytes(train.read_bytes()[:5000])
    text.write_text("hello")
    with h5py.File(tmp_path / "foreign.h5", "w") as file:
        file["x"] = 1
    for path, channels, said in (
        (tmp_path / "none.h5", 1, "there are cut.h5, foreign.h5, text.h5"),
        (cut, 1, "damaged"),
        (text, 1, "damaged"),
        (tmp_path / "foreign.h5", 1, "something else"),
        (val, 1, "smnet validation pictures, not smnet training patches"),
        (train, 3, "has 1 channels, this script needs 3; make it: python dataset.py"),
    ):
        with pytest.raises(SMNetError) as caught:
            PatchDataset(
                path, channels=channels, patch_size=32, noise_range=(25, 25), draws=1, seed=0
            )
        assert said in str(caught.value) and "python dataset" in str(caught.value)
    with pytest.raises(SMNetError, match="too small for --patch_size 64"):
        patches_of(gray_h5, patch_size=64)
