"""Building data sets: nothing lost, nothing half-written, nothing replaced unasked."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import cv2
import h5py
import numpy as np
import pytest
from helpers import synthetic_picture, synthetic_planes, write_folder

import dataset
import dataset_gray
from smnet import dataset_building, patches
from smnet.patches import read_pictures, shrink_by
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
        assert (
            sorted(Path(name).name for name in names)
            == "F.PNG a.png alpha.png b.jpg c.bmp d.tif deep.png deep.tif e.webp gray.png".split()
        )
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

        def fail(*_, _error=error, **__):
            raise _error

        monkeypatch.setattr(dataset_building, "write_pictures", fail)
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


def test_the_sample_never_replaces_real_pictures_unasked(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_folder(tmp_path / "data" / "pristine_images_gray", 3)
    write_folder(tmp_path / "data" / "Set68", 1)
    words = ["--patch_size", "48"]
    assert dataset_gray.main(words) == 0
    before = Path("train_gray_data.h5").read_bytes()
    shutil.move("data", "elsewhere")  # a disk that is not there today
    with pytest.raises(SMNetError, match="train_gray_data.h5 already exists"):
        dataset_gray.main(words)
    assert Path("train_gray_data.h5").read_bytes() == before
    assert dataset_gray.main([*words, "--overwrite"]) == 0  # the sample
    assert dataset_gray.main(words) == 0
    shutil.move("elsewhere", "data")
    assert dataset_gray.main(words) == 0  # it may be replaced, by what it stood for
    with h5py.File("train_gray_data.h5") as file:
        assert len(json.loads(file.attrs["sources"])) == 3


def test_one_edited_folder_needs_no_list(tmp_path, monkeypatch):
    write_folder(tmp_path / "train", 3)
    monkeypatch.setitem(dataset_gray.DEFAULTS, "train_dir", str(tmp_path / "train"))
    monkeypatch.chdir(tmp_path)
    assert dataset_gray.main(["--holdout", "1", "--patch_size", "48"]) == 0
    with h5py.File("train_gray_data.h5") as file:
        assert len(json.loads(file.attrs["sources"])) == 2


@pytest.mark.parametrize("how", ["validation folder", "hold-out"])
def test_links_to_pictures_do_not_leak_into_validation(tmp_path, how):
    write_folder(tmp_path / "train", 4)
    (tmp_path / "links").mkdir()
    for path in sorted((tmp_path / "train").iterdir())[:2]:
        (tmp_path / "links" / path.name).symlink_to(path)
    (tmp_path / "links" / "loop.png").symlink_to("loop.png")
    words = ["--val_dir", str(tmp_path / "links")]
    if how == "hold-out":
        words = ["--train_dir", str(tmp_path / "train"), str(tmp_path / "links"), "--holdout", "2"]
    build(dataset_gray, tmp_path, "--patch_size", "48", *words)
    with h5py.File(tmp_path / "t.h5") as file:
        train = {Path(name).name for name in json.loads(file.attrs["sources"])}
    val = {Path(picture.name).name for picture in read_pictures(tmp_path / "v.h5", 1)}
    assert len(train) == len(val) == 2 and not train & val


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
        with pytest.raises(SMNetError, match=r"--overwrite replaces it \(other settings made it\)"):
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


def test_patches_of_a_large_picture_are_written_in_parts(tmp_path, monkeypatch):
    write_folder(tmp_path / "train", 2, height=64, width=90)
    words = ["--holdout", "1", "--patch_size", "48", "--stride", "8"]
    build(dataset_gray, tmp_path, *words)
    with h5py.File(tmp_path / "t.h5") as file:
        whole = file["patches"][:]
    assert len(whole) == 3 * 7
    monkeypatch.setattr(patches, "TOGETHER", 4)
    build(dataset_gray, tmp_path, *words, "--overwrite")
    with h5py.File(tmp_path / "t.h5") as file:
        np.testing.assert_array_equal(file["patches"], whole)


def test_editing_the_patch_size_alone_moves_the_stride(tmp_path, monkeypatch):
    write_folder(tmp_path / "train", 2, height=64, width=96)
    monkeypatch.setitem(dataset_gray.DEFAULTS, "patch_size", 32)
    assert build(dataset_gray, tmp_path, "--holdout", "1") == 0
    with h5py.File(tmp_path / "t.h5") as file:
        assert file["patches"].shape == (6, 1, 32, 32) and file.attrs["stride"] == 32


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


WRONG = """--patch_size 0; --stride 300; --holdout 1 --val_dir x; --resize 128; --shrink 0;
    --train x; --val_h5 train_gray_data.h5; --pairs a b --shrink 2"""


@pytest.mark.parametrize("words", WRONG.split(";"))
def test_wrong_arguments_exit_with_2(words):
    with pytest.raises(SystemExit) as caught:
        dataset_gray.main(words.split())
    assert caught.value.code == 2


def test_shrinking_is_before_cutting_and_of_held_out_pictures_too(tmp_path):
    write_folder(tmp_path / "train", 3, height=150, width=100)
    words = ["--holdout", "1", "--patch_size", "48", "--shrink", "2"]
    assert build(dataset_gray, tmp_path, *words) == 0
    (held_out,) = read_pictures(tmp_path / "v.h5", 1)
    assert held_out.clean.shape == (1, 75, 50)
    with h5py.File(tmp_path / "t.h5") as file:
        assert file["patches"].shape == (8, 1, 48, 48) and file.attrs["shrink"] == 2
        picture = shrink_by(synthetic_planes(1, 150, 100), 2)
        assert json.loads(file.attrs["sources"])[0] == "01.png"
        np.testing.assert_array_equal(file["patches"][0], picture[:, :48, :48])


def test_pictures_of_a_validation_folder_are_not_shrunk(tmp_path):
    write_folder(tmp_path / "train", 1, height=100, width=100)
    write_folder(tmp_path / "val", 1, height=40, width=30)
    words = ["--val_dir", str(tmp_path / "val"), "--patch_size", "48", "--shrink", "2"]
    assert build(dataset_gray, tmp_path, *words) == 0
    assert read_pictures(tmp_path / "v.h5", 1)[0].clean.shape == (1, 40, 30)


def test_pictures_that_are_too_small_once_shrunk_are_skipped(tmp_path, capsys):
    write_folder(tmp_path / "train", 2, height=200, width=200)
    cv2.imwrite(str(tmp_path / "train" / "small.png"), synthetic_picture(0, 80, 200))
    words = ["--holdout", "1", "--patch_size", "48", "--shrink", "2"]
    assert build(dataset_gray, tmp_path, *words) == 1
    assert "small.png: is 200x80, shrunk 100x40, smaller than 48x48" in capsys.readouterr().err


def test_files_of_earlier_versions_are_made_anew_without_overwrite(tmp_path):
    write_folder(tmp_path / "train", 3)
    words = ["--holdout", "1", "--patch_size", "48"]
    build(dataset_gray, tmp_path, *words)
    for name in ("t.h5", "v.h5"):
        with h5py.File(tmp_path / name, "r+") as file:
            del file.attrs["shrink"]  # which they did not know
    assert build(dataset_gray, tmp_path, *words) == 0
    with pytest.raises(SMNetError, match="already exists"):
        build(dataset_gray, tmp_path, *words, "--shrink", "1", "--stride", "24")


def test_names_that_are_not_utf_8_are_stored(tmp_path):
    folder = write_folder(tmp_path / "train", 3)
    for path in sorted(folder.iterdir()):
        path.rename(path.with_name(f"\udcff\n{path.name}"))
    words = ["--train_dir", str(folder), "--holdout", "1", "--patch_size", "48"]
    words += ["--train_h5", str(tmp_path / "t\udcff.h5"), "--val_h5", str(tmp_path / "v.h5")]
    assert dataset_gray.main(words) == 0
    assert read_pictures(tmp_path / "v.h5", 1)[0].name == r"\udcff\n00.png"


def test_what_is_validated_on_is_not_trained_on(tmp_path, capsys):
    write_folder(tmp_path / "train", 3, height=48, width=48)
    write_folder(tmp_path / "train" / "val", 1, height=48, width=48)
    words = ["--val_dir", str(tmp_path / "train" / "val"), "--patch_size", "48"]
    build(dataset_gray, tmp_path, *words)
    assert "not trained on 1 picture of " in capsys.readouterr().out
    with h5py.File(tmp_path / "t.h5") as file:
        assert len(file["patches"]) == 3
    build(dataset_gray, tmp_path, "--val_dir", str(tmp_path / "train"), *words[2:], "--overwrite")
    assert "validation will be too good" in capsys.readouterr().out
