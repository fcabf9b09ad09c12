"""Runs as JSON and CSV, training logs, and the paper's tables."""

import csv
import dataclasses
import json
import math

import pytest

from smnet import results
from smnet.evaluation import Score
from smnet.results import Run
from utils import SMNetError

RUN = Run(
    set="Set12",
    sigma=25.0,
    mode="S",
    weights="weights/model_gray_L25_10.pth",
    epoch=10,
    width=32,
    shuffle=2,
    noise_range=(25.0, 25.0),
    protocol="",
    scores=[
        Score("a", {"noisy": 20.0, "SMNet": 30.0}, {"noisy": 0.5, "SMNet": 0.9}, 0.25),
        Score("b", {"noisy": 22.0, "SMNet": 31.0}, {"noisy": 0.7, "SMNet": 0.8}, 0.75),
    ],
    saved="out/Set12_sigma25",
)


def test_a_run_comes_back_from_json():
    assert Run.from_json(json.loads(json.dumps(RUN.to_json()))) == RUN


def test_the_json_has_the_mean_and_the_papers_figures():
    content = RUN.to_json()
    assert content["mean"]["psnr"] == {"noisy": 21.0, "SMNet": 30.5}
    assert content["paper"]["SMNet-S"] == 30.70
    assert dataclasses.replace(RUN, protocol="clip").to_json()["paper"] == {}


def test_equal_and_tiny_pictures_are_null_in_json_and_come_back(tmp_path):
    score = Score("a", {"noisy": math.inf, "SMNet": 30.0}, {"noisy": 0.5, "SMNet": math.nan}, 0.1)
    results.write_runs(tmp_path / "x.json", [dataclasses.replace(RUN, scores=[score])])
    (content,) = json.loads((tmp_path / "x.json").read_text())
    assert content["mean"]["psnr"]["noisy"] is None and content["mean"]["ssim"]["SMNet"] is None
    (run,) = results.read_runs(tmp_path / "x.json")
    assert run.scores[0].psnr["noisy"] == math.inf and math.isnan(run.scores[0].ssim["SMNet"])


def test_json_of_earlier_versions_is_read():
    content = RUN.to_json()
    for key in ("shuffle", "noise_range", "saved"):
        del content[key]
    run = Run.from_json(content)
    assert (run.shuffle, run.noise_range, run.saved) == (1, None, None)


@pytest.mark.parametrize("text", ["", "{}", '[{"a": 1}]', "[1]", "3", '{"set": 1}'])
def test_other_json_is_refused_in_one_line(tmp_path, text):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(SMNetError, match="x.json: was not written by test_"):
        results.read_runs(tmp_path / "x.json")


def test_equal_and_tiny_pictures_are_empty_in_csv(tmp_path):
    score = Score("a", {"noisy": math.inf, "SMNet": 30.0}, {"noisy": 0.5, "SMNet": math.nan}, 0.1)
    results.write_csv(tmp_path / "x.csv", [dataclasses.replace(RUN, scores=[score])])
    assert (tmp_path / "x.csv").read_text().splitlines()[1].endswith(",a,,0.5000,30.0000,")


def test_names_that_are_not_utf_8_are_escaped_in_csv(tmp_path):
    score = dataclasses.replace(RUN.scores[0], name="a\udcff,\nb")
    results.write_csv(tmp_path / "x.csv", [dataclasses.replace(RUN, scores=[score])])
    with open(tmp_path / "x.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["picture"] for row in rows] == [r"a\udcff,\nb", "mean"]
    assert rows[0]["psnr_SMNet"] == "30.0000"


def test_names_that_are_not_utf_8_come_back_from_json(tmp_path):
    results.write_runs(tmp_path / "x.json", [dataclasses.replace(RUN, set="a\udcff")])
    assert results.read_runs(tmp_path / "x.json")[0].set == "a\udcff"


def test_a_log_of_something_else_is_refused(tmp_path):
    (tmp_path / "x.jsonl").write_text('{"step": 1}\n')
    with pytest.raises(SMNetError, match="x.jsonl: is not a training log"):
        results.read_log(tmp_path / "x.jsonl")
    with pytest.raises(SMNetError, match="none.jsonl: No such file"):
        results.read_log(tmp_path / "none.jsonl")


def test_the_papers_tables_are_there():
    assert results.paper_results("Set12", 25)["SMNet-S"] > 30
    assert results.paper_results("CBSD68", 25.0)["SMNet-B"] == 31.33
    assert results.paper_results("CBSD68", 26) == {}
