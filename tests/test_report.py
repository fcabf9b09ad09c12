"""Results as pictures: tables, curves and crops from what the other scripts write."""

import json

import cv2
import numpy as np
import pytest
import torch
from conftest import write_folder

import report
import test_gray as gray_script
import utils
from models import SMNet
from smnet import tables
from utils import SMNetError


@pytest.fixture
def work(tmp_path, monkeypatch):
    """A folder with results/gray.json of Set12 and a set of one's own at two sigmas, its pictures,
    and a training log."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    content = {"model": SMNet(1, 4).state_dict(), "epoch": 1}
    utils.save_checkpoint(tmp_path / "weights" / "model_gray_B_1.pth", content)
    write_folder(tmp_path / "data" / "Set12", 3, height=60, width=70)
    write_folder(tmp_path / "mine_&_yours", 1, height=60, width=50)
    words = [
        "--mode",
        "B",
        "--test_data",
        "Set12",
        "mine_&_yours",
        "--test_noiseL",
        "15",
        "25",
        "--save_dir",
        "results/pictures",
    ]
    assert gray_script.main([*words, "--json", "results/gray.json"]) == 0
    lines = [
        {"step": 100 * i, "val_psnr": 20.0 + i, "train_psnr": 19.0 + i, "seconds": 60.0 * i}
        for i in (1, 2, 3)
    ]
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "model_gray_B.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    return tmp_path


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


def test_equal_figures_are_both_best_and_noisy_never_is():
    row = {"noisy": 40.0, "A": 30.004, "B": 30.001, "C": 29.0}
    assert tables.cells(row, ["noisy", "A", "B", "C", "D"], "*{}*") == [
        "40.00",
        "*30.00*",
        "*30.00*",
        "29.00",
        "",
    ]


def run_of(weights, mode="B", sigma=25, protocol="", noisy=20.0, ours=30.0):
    mean = {"psnr": {"noisy": noisy, "SMNet": ours}}
    return {
        "set": "Set12",
        "sigma": sigma,
        "mode": mode,
        "width": 16,
        "weights": weights,
        "mean": mean,
        "protocol": protocol,
    }


def ours_in(runs) -> set[str]:
    return {
        method
        for row in tables.table_rows(runs).values()
        for method in row
        if method.startswith("ours")
    }


def test_two_networks_are_told_apart():
    runs = [
        run_of("a/one.pth"),
        run_of("a/two.pth"),
        run_of("c.pth", sigma=50),
        run_of("l25.pth", mode="S"),
    ]
    assert ours_in(runs) == {
        "ours-B, width 16 (one)",
        "ours-B, width 16 (two)",
        "ours-B, width 16 (c)",
        "ours-S, width 16",
    }
    assert ours_in([run_of("a/x.pth"), run_of("a/x.pth")]) == {"ours-B, width 16"}  # measured twice
    known = [
        run_of(f"{folder}/{level}.pth", mode="S", sigma=level)
        for folder, level in (("a", 25), ("b", 25), ("b", 50))
    ]
    assert ours_in(known) == {"ours-S, width 16 (a)", "ours-S, width 16 (b)"}
    assert ours_in(known[1:]) == {"ours-S, width 16"}  # a file for each sigma
    epochs = [run_of(f"a/{name}.pth", mode="S") for name in ("L25_5", "L25_50")]
    assert ours_in(epochs) == {"ours-S, width 16 (L25_5)", "ours-S, width 16 (L25_50)"}
    assert ours_in([run_of("a/x.pth"), run_of("b/x.pth")]) == {
        "ours-B, width 16 (a/x.pth)",
        "ours-B, width 16 (b/x.pth)",
    }
    assert list(tables.short_names(["a/x.jsonl", "b/x.jsonl", "b/y.jsonl"]).values()) == [
        "a/x.jsonl",
        "b/x.jsonl",
        "y",
    ]
    assert "| real noise |" in tables.markdown(
        tables.table_rows([run_of("r.pth", mode="R", sigma=None)])
    )


def test_protocols_have_rows_of_their_own():
    rows = tables.table_rows(
        [run_of("x.pth"), run_of("x.pth", protocol="clip, y channel", noisy=21.0, ours=32.0)]
    )
    theirs, ours = rows[("Set12", 25, "")], rows[("Set12", 25, "clip, y channel")]
    assert theirs["noisy"] == 20.0 and theirs["DnCNN"] == 30.43
    assert ours == {
        "noisy": 21.0,
        "ours-B, width 16": 32.0,
    }  # the paper's figures cannot be compared with it
    assert "| sigma 25, clip, y channel |" in tables.markdown(rows)


def test_equal_pictures_have_no_figure():
    rows = tables.table_rows(
        [run_of("x.pth", sigma=0, noisy=None), run_of("x.pth", sigma=1, noisy=None, ours=None)]
    )
    lines = tables.markdown(rows).splitlines()
    assert lines[2:] == ["| Set12 | sigma 0 | **30.00** |", "| Set12 | sigma 1 |  |"]


def test_the_box_is_where_the_detail_is():
    picture = np.full((100, 120, 3), 128, np.uint8)
    picture[40:60, 70:90] = np.random.default_rng(0).integers(0, 255, (20, 20, 3))
    row, column, side = report.busiest_box(picture)
    assert side == 20 and abs(row - 40) <= 1 and abs(column - 70) <= 1
    assert report.fit_box([95, 500, 30], picture.shape) == (70, 90, 30)
    assert report.fit_box([0, 0, 999], picture.shape) == (0, 0, 100)


def test_what_cannot_be_used_is_named_and_the_rest_drawn(work, capsys):
    (work / "results" / "foreign.json").write_text('[{"a": 1}]')
    (work / "logs" / "broken.jsonl").write_text("x\n")
    pictures = work / "results" / "pictures" / "Set12_sigma15_model_gray_B_1"
    (pictures / "00_clean.png").unlink()
    (pictures / "01_denoised.png").write_bytes((pictures / "01_clean.png").read_bytes())
    assert report.main([]) == 1
    err = capsys.readouterr().err
    assert (
        "foreign.json: was not written by" in err
        and "broken.jsonl: is no training log" in err
        and "00_clean.png" in err
    )
    assert (
        "01_denoised.png: " in err
        and err.count("\n") == 4
        and (work / "results" / "table.md").is_file()
    )


def test_nothing_to_draw_is_one_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SMNetError, match="no results to draw: no .json in results"):
        report.main([])
    with pytest.raises(SMNetError, match="none.json: No such file"):
        report.main(["none.json"])
