"""The report: tables, curves and crops from what the other scripts write."""

import json

import cv2
import pytest
import torch
from helpers import save_model, write_folder

import report
import test_gray as gray_script
from models import SMNet
from utils import SMNetError


@pytest.fixture
def work(tmp_path, monkeypatch):
    """A folder with results/gray.json of Set12 and a set of one's own at two sigmas, its pictures,
    and a training log."""
    monkeypatch.chdir(tmp_path)
    save_model(tmp_path / "weights", "model_gray_B_1", epoch=1)
    write_folder(tmp_path / "data" / "Set12", 3, height=60, width=70)
    write_folder(tmp_path / "mine_&_yours", 1, height=60, width=50)
    words = """--mode B --test_data Set12 mine_&_yours --test_noiseL 15 25 --save_dir
        results/pictures""".split()
    assert gray_script.main([*words, "--json", "results/gray.json"]) == 0
    lines = [
        {"step": 100 * i, "val_psnr": 20.0 + i, "train_psnr": 19.0 + i, "seconds": 60.0 * i}
        for i in (1, 2, 3)
    ]
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "model_gray_B.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    return tmp_path


@pytest.mark.slow
def test_one_call_makes_everything(work, capsys):
    assert report.main(["--crops", "2"]) == 0
    said = capsys.readouterr()
    made = {path.name for path in (work / "results").iterdir()} - {"gray.json", "pictures"}
    sets = ("Set12", "mine_&_yours")
    crops = {
        f"crop_{sets[0]}_sigma{sigma}_model_gray_B_1_{i:02d}.png"
        for sigma in (15, 25)
        for i in (0, 1)
    }
    crops |= {f"crop_{sets[1]}_sigma{sigma}_model_gray_B_1_00.png" for sigma in (15, 25)}
    assert (
        made
        == {"table.md", "table.tex", "curves.png", *(f"psnr_{name}.png" for name in sets)} | crops
    )
    for path in (work / "results").glob("*.png"):
        picture = cv2.imread(str(path))
        assert min(picture.shape[:2]) > 200 and picture.std() > 5
    assert "| Set12 | sigma 25 |" in said.out and not said.err

    rows = [
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in (work / "results" / "table.md").read_text().splitlines()
    ]
    header, row = rows[0], next(row for row in rows if row[:2] == ["Set12", "sigma 25"])
    figures = dict(zip(header, row))
    mean = json.loads((work / "results" / "gray.json").read_text())[2]["mean"]["psnr"]
    assert (
        figures["ours-B, width 4"] == f"{mean['SMNet']:.2f}"
        and figures["noisy"] == f"{mean['noisy']:.2f}"
    )
    assert figures["DnCNN"] == "30.43" and figures["SMNet-S"] == "**30.70**"  # the best of the row
    assert [row for row in rows if row[0] == "mine_&_yours"][0][header.index("DnCNN")] == ""
    text = (work / "results" / "table.tex").read_text()
    assert "mine\\_\\&\\_yours" in text and "\\textbf{30.70}" in text and text.count("\\\\") == 5


def test_what_cannot_be_used_is_named_and_the_rest_drawn(work, capsys):
    (work / "results" / "foreign.json").write_text('[{"a": 1}]')
    (work / "logs" / "broken.jsonl").write_text("x\n")
    pictures = work / "results" / "pictures" / "Set12_sigma15_model_gray_B_1"
    (pictures / "00_clean.png").unlink()
    (pictures / "01_denoised.png").write_bytes((pictures / "01_clean.png").read_bytes())
    assert report.main(["--crops", "2"]) == 1
    err = capsys.readouterr().err
    assert (
        "foreign.json: was not written by" in err
        and "broken.jsonl: is not a training log" in err
        and "00_clean.png" in err
    )
    assert (
        "01_denoised.png: " in err
        and err.count("\n") == 4
        and (work / "results" / "table.md").is_file()
    )


def test_saved_pictures_of_hardly_any_error_are_of_their_run(tmp_path, monkeypatch, capsys):
    """Rounding to 8 bits shifts PSNR there, by half a dB at 52 dB. Two pictures may have one name
    for their crops."""
    monkeypatch.chdir(tmp_path)
    save_model(tmp_path / "weights", "model_gray_B_1")
    write_folder(tmp_path / "set" / "a", 1, height=60, width=70)
    (tmp_path / "set" / "a" / "00.png").replace(tmp_path / "set" / "a" / "b.png")
    write_folder(tmp_path / "set", 1, height=60, width=70)
    (tmp_path / "set" / "00.png").replace(tmp_path / "set" / "a_b.png")
    near = torch.Generator().manual_seed(0)

    def nearly_clean(self, noisy):
        output = noisy + torch.randn(noisy.shape, generator=near) * 10 ** (-52 / 20)
        return torch.zeros_like(noisy), noisy, output

    monkeypatch.setattr(SMNet, "stages", nearly_clean)
    words = "--mode B --test_data set --test_noiseL 0 --save_dir saved --json results/x.json"
    assert gray_script.main(words.split()) == 0
    assert report.main([]) == 0
    crops = sorted(path.name for path in (tmp_path / "results").glob("crop_*.png"))
    stem = "crop_set_sigma0_model_gray_B_1_a_b"
    assert crops == [f"{stem}.png", f"{stem}_2.png"]


def test_sets_of_one_name_have_a_plot_each(tmp_path, monkeypatch):
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    save_model(tmp_path / "work" / "weights", "model_gray_B_1")
    for folder in (tmp_path / "work" / "set", tmp_path / "set"):
        write_folder(folder, 1, height=1, width=40)
    words = "--mode B --test_data set ../set --save_dir saved --json results/x.json"
    assert gray_script.main(words.split()) == 0
    assert report.main([]) == 0
    made = {path.name for path in (tmp_path / "work" / "results").glob("*.png")}
    assert {"psnr_set.png", "psnr_set_2.png"} < made and len(made) == 4


def test_nothing_to_draw_is_one_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SMNetError, match="no results to draw: no .json in results"):
        report.main([])
    with pytest.raises(SMNetError, match="none.json: No such file"):
        report.main(["none.json"])


@pytest.mark.parametrize("name", ["$x^{$", "a|b\nc", "caf\udce9", "_hidden"])
def test_odd_names_of_sets_pictures_and_logs_are_drawn(tmp_path, monkeypatch, capsys, name):
    monkeypatch.chdir(tmp_path)
    save_model(tmp_path / "weights", "model_gray_B_1")
    folder = write_folder(tmp_path / "plain", 1, height=30, width=30).rename(tmp_path / name)
    (folder / "00.png").rename(folder / f"{name}.png")
    words = ["--mode", "B", "--test_data", name, "--save_dir", "saved", "--json", "results/x.json"]
    assert gray_script.main(words) == 0
    line = {"step": 1, "val_psnr": 20.0, "train_psnr": 19.0, "seconds": 60.0}
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / f"{name}.jsonl").write_text(json.dumps(line) + "\n")
    capsys.readouterr()
    assert report.main([]) == 0
    assert not capsys.readouterr().err
    made = sorted(path.name for path in (tmp_path / "results").iterdir())
    assert len(made) == 6 and f"psnr_{name}.png" in made
    assert len((tmp_path / "results" / "table.md").read_text().splitlines()) == 3
