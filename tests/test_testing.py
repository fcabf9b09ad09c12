"""The command of test_*.py: tables, files, and what is said of mistakes."""

import csv
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from helpers import save_model, write_folder

import test_gray as gray_script
import test_rgb as rgb_script
from smnet import evaluation, testing
from utils import SMNetError


@pytest.fixture
def work(tmp_path, monkeypatch):
    """A folder with weights for gray sigma 15 and 25, gray blind, RGB blind, and the sets Set12 (2
    pictures) and CBSD68 (1)."""
    monkeypatch.chdir(tmp_path)
    for name in ("model_gray_L15_1", "model_gray_L25_2", "model_gray_L25_10", "model_gray_B_3"):
        save_model(tmp_path / "weights", name, epoch=int(name.split("_")[-1]))
    save_model(tmp_path / "weights", "model_rgb_B_1", channels=3)
    write_folder(tmp_path / "data" / "Set12", 2, height=40, width=48)
    write_folder(tmp_path / "data" / "CBSD68", 1, height=32, width=36, channels=3)
    return tmp_path


def test_table_json_csv_and_pictures(work, capsys):
    write_folder(work / "mine", 4, height=36, width=44)
    words = """--mode S --test_data Set12 mine --test_noiseL 15 25 --baseline --save_dir out
        --json r/x.json --csv x.csv""".split()
    assert gray_script.main(words) == 0
    said = capsys.readouterr().out
    assert "Set12, sigma 15, weights/model_gray_L15_1.pth" in said
    assert "model_gray_L25_10.pth (epoch 10, width 4)" in said  # the highest epoch, by number
    assert "paper's SMNet-S" in said and "BM3D" in said
    results = json.loads((work / "r" / "x.json").read_text())
    assert [(r["set"], r["sigma"]) for r in results] == [
        ("Set12", 15),
        ("mine", 15),
        ("Set12", 25),
        ("mine", 25),
    ]
    first = results[0]
    assert [p["name"] for p in first["pictures"]] == ["00", "01"]
    for method in ("noisy", "SMNet", "blur", "NL-means"):
        assert first["mean"]["psnr"][method] == pytest.approx(
            np.mean([p["psnr"][method] for p in first["pictures"]])
        )
    assert f"{first['mean']['psnr']['SMNet']:.2f}" in said
    assert results[2]["paper"]["DnCNN"] == 30.43 and results[1]["paper"] == {}
    with open("x.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows[0]["protocol"] == results[0]["protocol"]
    assert len(rows) == 2 * (3 + 5)
    assert float(rows[0]["psnr_noisy"]) == pytest.approx(
        first["pictures"][0]["psnr"]["noisy"], abs=1e-4
    )
    out = work / "out" / "Set12_sigma25_model_gray_L25_10"
    assert {p.name for p in out.iterdir()} == {
        f"0{i}_{what}.png" for i in (0, 1) for what in ("clean", "noisy", "denoised", "mask")
    }
    assert cv2.imread(str(out / "00_denoised.png"), cv2.IMREAD_UNCHANGED).shape == (40, 48)


@pytest.mark.slow
def test_the_sample_is_a_test_set(work, capsys):
    assert gray_script.main("--mode B --test_data sample --json x.json".split()) == 0
    (run,) = json.loads((work / "x.json").read_text())
    names = [picture["name"] for picture in run["pictures"]]
    assert names == ["astronaut", "camera", "chelsea", "coffee"] and run["paper"] == {}


def test_all_blind_folders_and_the_authors_options(work, capsys):
    assert (
        gray_script.main(
            ["-checkpoint", "2", "--mode", "S", "--test_noiseL", "25", "--test_data", "Set12"]
        )
        == 0
    )
    assert "model_gray_L25_2.pth" in capsys.readouterr().out
    save_model(work / "weights", "model_gray_L25_best", epoch=2)
    assert gray_script.main("-c best --test_data Set12".split()) == 0
    assert "weights/model_gray_L25_best.pth (epoch 2, width 4)" in capsys.readouterr().out
    assert gray_script.main(["--mode", "B", "--test_noiseL", "all", "--test_data", "all"]) == 0
    said = capsys.readouterr().out
    assert [
        f"Set12, sigma {sigma}, weights/model_gray_B_3.pth" in said for sigma in (15, 25, 50)
    ] == [True] * 3
    assert (
        rgb_script.main(["--mode", "B", "--test_data", str(work / "data" / "Set12"), "CBSD68"]) == 0
    )
    assert "CBSD68, sigma 25" in capsys.readouterr().out


def test_sheets_of_the_stages(work):
    words = "--mode B --test_data Set12 --test_noiseL 25 --save_dir out --save_stages".split()
    assert gray_script.main(words) == 0
    sheet = cv2.imread(str(work / "out" / "Set12_sigma25_model_gray_B_3" / "01_stages.png"))
    assert sheet.shape == (
        60,
        1016,
        3,
    )  # five panels of 40x48 pixels, each at least 200 wide, with labels above


def test_two_folders_of_one_name_are_two_sets(work):
    for part in ("a", "b"):
        write_folder(work / part / "noisy", 1, height=30, width=30)
    words = "--mode B --test_data a/noisy b/noisy --save_dir out --json x.json".split()
    assert gray_script.main(words) == 0
    assert [r["set"] for r in json.loads((work / "x.json").read_text())] == ["noisy", "b/noisy"]
    assert (work / "out" / "b" / "noisy_sigma25_model_gray_B_3" / "00_mask.png").is_file()


def test_the_rest_is_done_and_what_is_missing_said(work, capsys):
    (work / "data" / "Set12" / "broken.png").write_bytes(b"x")
    assert gray_script.main(["--test_data", "Nowhere", "Set12", "--test_noiseL", "25", "50"]) == 1
    said = capsys.readouterr()
    assert "Set12, sigma 25" in said.out
    errors = said.err.strip().splitlines()
    assert [line.split(":")[0] for line in errors] == ["error"] * 3
    assert (
        "no test set Nowhere" in errors[0]
        and "in data there are CBSD68, Set12; put its pictures there, or give" in errors[0]
    )
    assert "broken.png" in errors[1]
    assert "model_gray_L50_N.pth" in errors[2] and "python train_gray.py --noiseL 50" in errors[2]


def test_the_sample_has_no_pairs(work, capsys):
    assert gray_script.main("--mode R --test_data sample".split()) == 1
    assert "sample has no pairs of real noise; test it with --mode S" in capsys.readouterr().err


def test_foreign_and_damaged_weights_are_one_line(work, capsys):
    whole = (work / "weights" / "model_gray_B_3.pth").read_bytes()
    (work / "cut.pth").write_bytes(whole[: len(whole) // 2])
    torch.save({"a": torch.zeros(1)}, work / "foreign.pth")
    for weights, said in (
        ("weights/model_rgb_B_1.pth", "is for RGB pictures, not gray ones"),
        ("cut.pth", "damaged"),
        ("foreign.pth", "holds no SMNet weights"),
        ("none.pth", "no checkpoint none.pth"),
    ):
        assert gray_script.main(["--test_data", "sample", "--weights", weights]) == 1
        error = capsys.readouterr().err
        assert said in error and error.count("\n") == 1


def test_unwritable_folders_are_one_line(work):
    (work / "file").touch()
    for option in ("--save_dir", "--json", "--csv"):
        with pytest.raises(SMNetError, match="cannot make the folder"):
            gray_script.main(["--test_data", "Set12", option, "file/x/y"])
    for option in ("--json", "--csv"):
        with pytest.raises(SMNetError, match="is a folder"):
            gray_script.main(["--test_data", "Set12", option, "."])


def test_a_mean_ssim_of_some_pictures_is_said_and_a_sigma_is_done_once(work, capsys):
    cv2.imwrite(str(work / "data" / "Set12" / "tiny.png"), np.full((8, 8), 99, np.uint8))
    assert gray_script.main(["--test_data", "Set12", "--test_noiseL", "25", "25"]) == 0
    assert capsys.readouterr().out.count("the mean SSIM is of 2 of 3 pictures") == 1


def test_all_sigmas_stand_beside_others_each_once(work):
    words = "--mode B --test_data Set12 --test_noiseL 10 all 25 5 --json x.json"
    assert gray_script.main(words.split()) == 0
    sigmas = [run["sigma"] for run in json.loads((work / "x.json").read_text())]
    assert sigmas == [10, 15, 25, 50, 5]


def test_what_was_done_before_an_interruption_is_kept(work, capsys, monkeypatch):
    ends = iter([RuntimeError("CUDA out of memory"), None, KeyboardInterrupt()])
    measure = testing.measure

    def measured(*args):
        if end := next(ends):
            raise end
        return measure(*args)

    monkeypatch.setattr(testing, "measure", measured)
    words = ["--mode", "B", "--test_data", "Set12", "--test_noiseL", "all"]
    with pytest.raises(KeyboardInterrupt):
        gray_script.main([*words, "--json", "r.json", "--csv", "r.csv"])
    assert [run["sigma"] for run in json.loads((work / "r.json").read_text())] == [25]
    assert (work / "r.csv").exists()
    ends = iter([RuntimeError("CUDA out of memory"), None, None])
    assert gray_script.main(words) == 1
    assert "error: Set12: out of memory; give --tile 640, or use" in capsys.readouterr().err
    ends = iter([RuntimeError("CUDA out of memory"), None, None])
    assert gray_script.main([*words, "--tile", "200"]) == 1
    assert "error: Set12: out of memory; give a smaller --tile, or" in capsys.readouterr().err


WRONG = """--test_noiseL -1; --test_noiseL 300; --mode Q; -c 0; -c bset; --x; -c 3 --weights x.pth;
    --save_stages; --y_channel; --tile 100"""


@pytest.mark.parametrize("words", [words.split() for words in WRONG.split(";")])
def test_wrong_arguments_exit_with_2(words):
    with pytest.raises(SystemExit) as caught:
        gray_script.main(words)
    assert caught.value.code == 2


def test_protocol_options_are_said(work, capsys):
    words = """--mode B --test_data CBSD68 --clip --quantize --y_channel --self_ensemble
        --repeats 2""".split()
    assert rgb_script.main([*words, "--json", "x.json"]) == 0
    said = "2 draws, clip, quantize, y channel, self ensemble"
    assert (
        said in capsys.readouterr().out
        and json.loads((work / "x.json").read_text())[0]["protocol"] == said
    )


def test_tiles_are_said_and_measured_without_the_papers_figures(work, capsys):
    write_folder(work / "data" / "Set12", 1, height=150, width=170)
    words = "--mode B --test_data Set12 --save_dir out --json".split()
    assert gray_script.main([*words, "whole.json"]) == 0
    assert gray_script.main([*words, "tiles.json", "--tile", "135"]) == 0
    assert "epoch 3, width 4); tiles of 135\n" in capsys.readouterr().out
    (whole,), (tiles,) = (
        json.loads(Path(f"{name}.json").read_text()) for name in ("whole", "tiles")
    )
    assert tiles["protocol"] == "tiles of 135" and tiles["paper"] == {} != whole["paper"]
    for name, is_cut in (("00", True), ("01", False)):
        masks = [cv2.imread(f"{run['saved']}/{name}_mask.png", -1) for run in (whole, tiles)]
        assert masks[0].shape == masks[1].shape
        assert np.array_equal(*masks) != is_cut
    assert Path(tiles["saved"]) == Path("out/Set12_sigma25_model_gray_B_3_tiles_of_135")


def test_large_pictures_are_cut_unless_told_otherwise_which_is_said(work, capsys, monkeypatch):
    write_folder(work / "data" / "Set12", 1, height=150, width=1300)
    monkeypatch.setattr(evaluation, "WHOLE", 150 * 1000)
    counts, original = [], evaluation.tile_grid

    def counted(*args):
        tiles = original(*args)
        counts.append(len(tiles))
        return tiles

    monkeypatch.setattr(evaluation, "tile_grid", counted)
    words = "--mode B --test_data Set12".split()
    assert gray_script.main(words) == 0
    assert "; large pictures in tiles\n" in capsys.readouterr().out and max(counts) > 1
    counts.clear()
    assert gray_script.main([*words, "--tile", "0"]) == 0
    assert "tiles" not in capsys.readouterr().out and set(counts) == {1}


def test_a_set_and_one_above_it_of_the_same_name_are_saved_apart(work):
    write_folder(work / "x", 1, height=30, width=30)
    write_folder(work / "in" / "x", 1, height=32, width=32)
    words = "--mode B --test_data in/x x in/../x --save_dir out --json x.json"
    assert gray_script.main(words.split()) == 0
    runs = json.loads((work / "x.json").read_text())
    assert [run["set"] for run in runs[:2]] == ["x", str(work / "x")]
    folders = [run["saved"] for run in runs]
    assert len(set(folders)) == 3
    sides = [cv2.imread(str(work / folder / "00_clean.png")).shape[0] for folder in folders]
    assert sides == [32, 30, 30]


def test_pictures_of_sets_are_saved_below_the_folder_asked_for(work, tmp_path_factory):
    elsewhere = write_folder(tmp_path_factory.mktemp("a") / "x", 1, height=30, width=30)
    write_folder(work / "x", 1, height=32, width=32)
    words = ["--mode", "B", "--test_data", "x", str(elsewhere), "--save_dir", "out"]
    assert gray_script.main(words) == 0
    assert len(list((work / "out").rglob("00_clean.png"))) == 2
    assert not list(elsewhere.glob("*_clean.png"))


def test_names_that_are_not_utf_8_are_tested_and_written(work, capsys):
    folder = write_folder(work / "plain", 1, height=30, width=30).rename(work / "caf\udce9")
    (folder / "00.png").rename(folder / "a\udcff|\n$1$.png")
    words = ["--mode", "B", "--test_data", str(folder), "--csv", "x.csv", "--json", "x.json"]
    assert gray_script.main([*words, "--save_dir", "out"]) == 0
    with open("x.csv", newline="", encoding="utf-8") as file:
        assert next(csv.DictReader(file))["picture"] == r"a\udcff|\n$1$"
    assert r"caf\udce9, sigma 25" in capsys.readouterr().out


def test_equal_pictures_are_called_equal(work, capsys):
    assert gray_script.main("--mode B --test_data Set12 --test_noiseL 0".split()) == 0
    said = capsys.readouterr().out
    assert said.count("equal 1.0000") == 3 and "inf" not in said


def test_weights_that_are_nan_are_one_line(work, capsys):
    content = torch.load("weights/model_gray_B_3.pth", weights_only=True)
    content["model"]["image_memory.project.bias"][:] = torch.nan
    torch.save(content, "nan.pth")
    assert gray_script.main("--test_data Set12 --weights nan.pth --json x.json".split()) == 1
    said = capsys.readouterr()
    assert "nan.pth holds weights that are NaN or infinite" in said.err
    assert said.err.count("\n") == 1 and "gains" not in said.out
    assert not (work / "x.json").exists()


def test_a_network_whose_output_overflows_is_one_line(work, capsys):
    content = torch.load("weights/model_gray_B_3.pth", weights_only=True)
    for name, value in content["model"].items():
        if name.startswith("image_memory"):
            value *= 1e30
    torch.save(content, "huge.pth")
    assert gray_script.main("--test_data Set12 --weights huge.pth --save_dir out".split()) == 1
    said = capsys.readouterr()
    assert "Set12, 00: SMNet gives values that are NaN or infinite (huge.pth)" in said.err
    assert said.err.count("\n") == 1 and "gains" not in said.out
    assert not list((work / "out").iterdir())


def test_the_papers_figures_stand_beside_whole_sets_in_the_papers_colours_alone(work, capsys):
    words = "--mode B --test_data CBSD68 Set12 --test_noiseL 25 --json x.json".split()
    assert gray_script.main(words) == 0
    as_gray, whole = json.loads((work / "x.json").read_text())
    assert as_gray["protocol"] == "as gray" and as_gray["paper"] == {}
    (work / "data" / "Set12" / "01.png").write_bytes(b"no picture")
    assert gray_script.main(words) == 1
    part = json.loads((work / "x.json").read_text())[1]
    assert part["protocol"] == "1 of 2 pictures" and part["paper"] == {} != whole["paper"]
    assert "1 of 2 pictures" in capsys.readouterr().out


def test_no_papers_figures_beside_a_set_with_too_many_or_too_few_pictures(work, monkeypatch):
    monkeypatch.setattr(testing, "PAPER_PICTURES", {"Set12": 12, "CBSD68": 1})
    words = "--mode B --test_noiseL 25 --json x.json --test_data".split()
    assert gray_script.main([*words, "Set12"]) == 0
    (few,) = json.loads((work / "x.json").read_text())
    assert few["protocol"] == "2 pictures instead of 12" and few["paper"] == {}
    write_folder(work / "data" / "CBSD68" / "noisy25", 1, height=32, width=36, channels=3)
    assert rgb_script.main([*words, "CBSD68"]) == 0
    (many,) = json.loads((work / "x.json").read_text())
    assert many["protocol"] == "2 pictures instead of 1" and many["paper"] == {}
