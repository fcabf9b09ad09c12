"""docs/recipes and docs/figures: what they lay out and draw, from small pictures."""

import json
import shutil

import cv2
import h5py
import numpy as np
import pytest
from helpers import save_model, synthetic_picture, write_folder
from PIL import Image

import dataset
from docs.figures import draw_quality_time, draw_real_noise
from docs.recipes import real_noise
from smnet.images import find_pictures


@pytest.fixture
def downloaded(tmp_path, monkeypatch):
    """A folder to work in whose data/ has the four sets, a few small pictures of each."""
    monkeypatch.chdir(tmp_path)
    folders = {name: tmp_path / "data" / name for name in ("PolyU", "PolyU_full", "Unsplash")}
    for folder in folders.values():
        folder.mkdir(parents=True)
    for i in range(25):
        for side in ("real", "mean"):
            name = f"scene{chr(97 + i)}_{i}_{side}.JPG"
            cv2.imwrite(str(folders["PolyU"] / name), synthetic_picture(i, 64, 64, 3))
    for name in ("Canon5D2_bag", "Nikon800_stair", "SonyA7II_book"):
        for side in ("Real", "mean"):
            path = folders["PolyU_full"] / f"{name}_{side}.JPG"
            cv2.imwrite(str(path), synthetic_picture(1, 96, 192, 3))
    for name in ("bruna-branco", "sea"):
        path = folders["Unsplash"] / f"{name}.jpg"
        cv2.imwrite(str(path), synthetic_picture(2, 192, 1800, 3))
    for part in ("train", "test"):
        write_folder(tmp_path / "data" / "BSDS500" / part, 12, height=64, width=80, channels=3)
    return tmp_path


def test_pictures_of_real_noise_are_laid_out(downloaded, capsys):
    assert real_noise.main([]) == 0
    output = downloaded / "data" / "real_noise"
    names = {folder.name: [p.name for p in find_pictures(folder)] for folder in output.iterdir()}
    assert len(names["val_pairs"]) == 2 * 20 and len(names["pairs"]) == 2 * (5 + 2)
    assert [n for n in names["pairs"] if "scene" not in n] == [
        f"{kind}_Canon5D2_bag_{side}.jpg" for kind in ("again", "full") for side in ("mean", "real")
    ]
    assert names["val_frames"] == [
        f"Nikon800_stair_{part}_{side}.png" for part in (1, 2) for side in ("mean", "real")
    ]
    assert len(names["val_photos"]) == 20 and len(names["photos"]) == 4 + 1 + 1
    assert names["val_saturated"] == ["unsplash_bruna-branco.png"]
    sizes = {name: Image.open(output / "photos" / name).size for name in names["photos"]}
    assert sizes["unsplash_sea.png"] == (600, 64) and sizes["polyu_Canon5D2_bag.png"] == (64, 32)
    assert Image.open(output / "val_saturated" / "unsplash_bruna-branco.png").size == (512, 64)
    # dataset.py makes of them what the networks were trained on.
    shutil.rmtree(output / "photos")
    words = f"--train_dir {output}/pairs --val_dir {output}/val_pairs --pairs *_real* *_mean*"
    assert dataset.main([*words.split(), "--patch_size", "64"]) == 0
    with h5py.File("train_pairs.h5") as file:
        assert len(file["patches"]) == 5 + 2 * 2 * 3


def test_missing_sets_and_folders_that_are_there_are_one_line(downloaded):
    assert real_noise.main([]) == 0
    with pytest.raises(real_noise.SMNetError, match="real_noise is there already; remove"):
        real_noise.main([])
    shutil.rmtree(downloaded / "data" / "BSDS500")
    with pytest.raises(real_noise.SMNetError, match="get it: python download.py BSDS500"):
        real_noise.main(["-o", "elsewhere"])


def test_real_noise_is_drawn(downloaded):
    assert real_noise.main([]) == 0
    words = "--train_dir data/real_noise/pairs --val_dir data/real_noise/val_pairs --patch_size 64"
    assert dataset.main([*words.split(), "--pairs", "*_real*", "*_mean*"]) == 0
    save_model(downloaded, "a", channels=3)
    name = find_pictures("data/real_noise/val_pairs")[0].name.split("_")[0]
    words = f"val_pairs.h5 --names {name} --weights a.pth --output figures"
    assert draw_real_noise.main(words.split()) == 0
    width, _ = Image.open("figures/real_noise.jpg").size
    assert width == 5 * (200 + 4) - 4  # noisy, blur, NL-means, a, mean of many shots
    drawn = np.asarray(Image.open("figures/real_noise.jpg"))
    assert drawn.std() > 20
    with pytest.raises(draw_real_noise.SMNetError, match="no pair named nobody; there are scene"):
        draw_real_noise.main(["val_pairs.h5", "--names", "nobody", "--weights", "a.pth"])


def test_quality_is_drawn_over_time(packed_run, tmp_path, capsys):
    rows = [{"network": name, "seconds": t} for name, t in (("FFDNet", 1), ("DnCNN", 4))]
    for name in ("SMNet, width 4", "SMNet, width 6"):
        ours = {"network": name, "seconds": 2}
        (tmp_path / f"{name[-1]}.json").write_text(json.dumps({"rows": [*rows, ours]}))
    words = [f"{tmp_path}/4.json", "--pretrained", f"{packed_run}/r.json", "--output", "."]
    assert draw_quality_time.main([*words[:-1], str(tmp_path)]) == 0
    assert Image.open(tmp_path / "quality_time.png").size[0] > 300
    with pytest.raises(draw_quality_time.SMNetError, match="no PSNR of SMNet, width 6; give"):
        draw_quality_time.main([f"{tmp_path}/6.json", *words[1:]])
