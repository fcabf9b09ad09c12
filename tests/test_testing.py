"""Testing: the authors' noise to the bit, figures against plain formulas, tables, files, and what
is said of mistakes."""

import csv
import json
import math

import cv2
import numpy as np
import pytest
import torch
from conftest import synthetic_picture, write_folder
from scipy.ndimage import gaussian_filter

import test_gray as gray_script
import test_rgb as rgb_script
import utils
from models import SMNet
from smnet import evaluation, metrics, results
from smnet.images import Picture, to_float
from smnet.metrics import add_test_noise, psnr, ssim
from utils import SMNetError


def save_model(folder, name: str, channels: int = 1, seed: int = 0, **more) -> None:
    torch.manual_seed(seed)
    model = SMNet(channels, 4)
    utils.save_checkpoint(
        folder / f"{name}.pth",
        {"model": model.state_dict(), "channels": channels, "width": 4, **more},
    )


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


def test_the_noise_is_the_authors():
    gray = add_test_noise(torch.zeros(1, 5, 4), sigma=25, **evaluation.TEST_NOISE[1])
    torch.manual_seed(0)
    assert torch.equal(gray, 25 / 255 * torch.randn(1, 1, 5, 4))
    rgb = add_test_noise(torch.zeros(3, 5, 4), sigma=50, **evaluation.TEST_NOISE[3])
    torch.manual_seed(12)
    assert torch.equal(rgb, 50 / 255 * torch.randn(3, 3, 5, 4))
    # The bits themselves, should a library ever change its generator:
    np.testing.assert_allclose(
        gray.flatten()[:3] * 255 / 25, [-1.1258, -1.1524, -0.2506], atol=1e-4
    )


def test_psnr_and_ssim_against_the_formulas():
    torch.manual_seed(0)
    clean = to_float(synthetic_picture(0, 32, 40, 3).transpose(2, 0, 1).copy())
    other = (clean + 0.1 * torch.randn(clean.shape)).clamp(0, 1)
    assert psnr(clean, other) == pytest.approx(
        10 * math.log10(1 / np.mean((clean.numpy() - other.numpy()) ** 2)), abs=1e-4
    )
    assert psnr(clean, clean) == math.inf

    def blur(plane):
        return gaussian_filter(plane.astype(np.float64), 1.5, truncate=3.5)

    values = []
    for x, y in zip(clean.numpy(), other.numpy()):
        mx, my = blur(x), blur(y)
        vx, vy, cov = (
            blur(x * x.astype(float)) - mx**2,
            blur(y * y.astype(float)) - my**2,
            blur(x * y.astype(float)) - mx * my,
        )
        plane = ((2 * mx * my + 1e-4) * (2 * cov + 9e-4)) / (
            (mx**2 + my**2 + 1e-4) * (vx + vy + 9e-4)
        )
        values.append(plane[5:-5, 5:-5].mean())
    assert ssim(clean, other) == pytest.approx(np.mean(values), abs=1e-4)
    assert math.isnan(ssim(clean[:, :10], other[:, :10]))
    with pytest.raises(ValueError, match="shapes differ"):
        psnr(clean, clean[:1])


def test_evaluate_averages_the_draws_and_clamps():
    torch.manual_seed(0)
    model, picture = SMNet(3, 4), synthetic_picture(0, 30, 33, 3).transpose(2, 0, 1).copy()
    torch.manual_seed(7)
    stages = []
    (score,) = evaluation.evaluate(
        model, [Picture("a", picture)], sigma=50, on_stages=lambda *s: stages.append(s)
    )
    assert torch.initial_seed() == 7 and torch.equal(
        torch.rand(1), torch.rand(1, generator=torch.Generator().manual_seed(7))
    )
    assert model.training
    clean = to_float(picture)
    noisy = add_test_noise(clean, sigma=50, seed=12, draws=3)
    with torch.inference_mode():
        expected = [psnr(clean, model(x[None])[0].clamp(0, 1)) for x in noisy]
    assert score.psnr["SMNet"] == pytest.approx(np.mean(expected), abs=1e-4)
    assert score.psnr["noisy"] == pytest.approx(np.mean([psnr(clean, x) for x in noisy]))
    assert (
        len(stages) == 1
        and torch.equal(stages[0][1], clean)
        and torch.equal(stages[0][2], noisy[0])
    )


def test_baselines_denoise():
    clean = to_float(synthetic_picture(0, 64, 64).transpose(2, 0, 1).copy())
    for picture in (clean, clean.expand(3, -1, -1)):
        noisy = add_test_noise(picture, sigma=25, seed=0, draws=1)[0]
        results = metrics.baselines(picture, noisy, 25)
        assert list(results) == ["blur", "NL-means"]
        assert all(psnr(picture, result) > psnr(picture, noisy) + 3 for result in results.values())


def test_table_json_csv_and_pictures(work, capsys):
    words = [
        "--mode",
        "S",
        "--test_data",
        "Set12",
        "sample",
        "--test_noiseL",
        "15",
        "25",
        "--baseline",
        "--save_dir",
        "out",
        "--json",
        "r/x.json",
        "--csv",
        "x.csv",
    ]
    assert gray_script.main(words) == 0
    said = capsys.readouterr().out
    assert "Set12, sigma 15, weights/model_gray_L15_1.pth" in said
    assert "model_gray_L25_10.pth (epoch 10, width 4)" in said  # the highest epoch, by number
    assert "paper's SMNet-S" in said and "BM3D" in said
    results = json.loads((work / "r" / "x.json").read_text())
    assert [(r["set"], r["sigma"]) for r in results] == [
        ("Set12", 15),
        ("sample", 15),
        ("Set12", 25),
        ("sample", 25),
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


def test_all_blind_folders_and_the_authors_options(work, capsys):
    assert (
        gray_script.main(
            ["-checkpoint", "2", "--mode", "S", "--test_noiseL", "25", "--test_data", "Set12"]
        )
        == 0
    )
    assert "model_gray_L25_2.pth" in capsys.readouterr().out
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
    words = [
        "--mode",
        "B",
        "--test_data",
        "Set12",
        "--test_noiseL",
        "25",
        "--save_dir",
        "out",
        "--save_stages",
    ]
    assert gray_script.main(words) == 0
    sheet = cv2.imread(str(work / "out" / "Set12_sigma25_model_gray_B_3" / "01_stages.png"))
    assert sheet.shape == (
        60,
        1016,
        3,
    )  # five panels of 40x48 pixels, each at least 200 wide, with labels above
    with pytest.raises(SystemExit):
        gray_script.main(["--save_stages"])


def test_two_folders_of_one_name_are_two_sets(work):
    for part in ("a", "b"):
        write_folder(work / part / "noisy", 1, height=30, width=30)
    words = [
        "--mode",
        "B",
        "--test_data",
        "a/noisy",
        "b/noisy",
        "--save_dir",
        "out",
        "--json",
        "x.json",
    ]
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


WRONG = "--test_noiseL -1; --test_noiseL 300; --mode Q; -c 0; --x; -c 3 --weights weights/model_gray_B_3.pth"


@pytest.mark.parametrize("words", [words.split() for words in WRONG.split(";")])
def test_wrong_arguments_exit_with_2(words):
    with pytest.raises(SystemExit) as caught:
        gray_script.main(words)
    assert caught.value.code == 2


def test_the_papers_tables_are_there():
    assert results.paper_results("Set12", 25)["SMNet-S"] > 30
    assert results.paper_results("CBSD68", 25.0)["SMNet-B"] == 31.33
    assert results.paper_results("CBSD68", 26) == {}


# What other papers do.


def scores_of(**protocol) -> evaluation.Score:
    torch.manual_seed(0)
    model = SMNet(3, 4)
    picture = synthetic_picture(0, 30, 34, 3).transpose(2, 0, 1).copy()
    (score,) = evaluation.evaluate(
        model, [Picture("a", picture)], sigma=50, protocol=evaluation.Protocol(**protocol)
    )
    return score


def test_protocols_against_plain_formulas():
    torch.manual_seed(0)
    model = SMNet(3, 4).eval()
    clean = to_float(synthetic_picture(0, 30, 34, 3).transpose(2, 0, 1).copy())
    noisy = add_test_noise(clean, sigma=50, seed=12, draws=3)
    with torch.inference_mode():
        outputs = [model(x[None])[0].clamp(0, 1) for x in noisy]
        clipped = [model(x.clamp(0, 1)[None])[0].clamp(0, 1) for x in noisy]
    figures = {
        "plain": ({}, [psnr(clean, x) for x in outputs]),
        "clip": ({"clip": True}, [psnr(clean, x) for x in clipped]),
        "quantize": (
            {"quantize": True},
            [psnr(clean, torch.from_numpy(np.round(x.numpy() * 255) / 255)) for x in outputs],
        ),
    }
    y = [65.481, 128.553, 24.966]
    lumas = [sum(w * plane for w, plane in zip(y, x.double())) + 16 for x in (clean, *outputs)]
    mses = [(lumas[0] - other).square().mean().item() for other in lumas[1:]]
    figures["y"] = ({"y_channel": True}, [10 * math.log10(255**2 / mse) for mse in mses])
    for name, (options, expected) in figures.items():
        assert scores_of(**options).psnr["SMNet"] == pytest.approx(np.mean(expected), abs=1e-4), (
            name
        )
    assert (
        len({round(scores_of(**options).psnr["SMNet"], 7) for options, _ in figures.values()}) == 4
    )
    assert scores_of(clip=True).psnr["noisy"] > scores_of().psnr["noisy"] + 0.5
    more = add_test_noise(clean, sigma=50, seed=12, draws=5)
    assert scores_of(repeats=5).psnr["noisy"] == pytest.approx(
        np.mean([psnr(clean, x) for x in more]), abs=1e-5
    )


def test_self_ensemble_is_the_mean_of_eight_orientations():
    torch.manual_seed(0)
    model, x = SMNet(1, 4).eval(), torch.rand(1, 30, 34)
    protocol = evaluation.Protocol(self_ensemble=True)
    with torch.inference_mode():
        results = []
        for mirrored in (False, True):
            for turns in range(4):
                turned = np.rot90(x[0].numpy()[:, ::-1] if mirrored else x[0].numpy(), turns)
                result = model(torch.from_numpy(turned.copy())[None, None])[0, 0].numpy()
                back = np.rot90(result, -turns)
                results.append(back[:, ::-1] if mirrored else back)
        mask, output = protocol.denoise(model, x)
        np.testing.assert_allclose(output[0].numpy(), np.mean(results, axis=0), atol=1e-5)
        assert torch.equal(mask, evaluation.AUTHORS.denoise(model, x)[0])


def test_protocol_options_are_said(work, capsys):
    words = [
        "--mode",
        "B",
        "--test_data",
        "CBSD68",
        "--clip",
        "--quantize",
        "--y_channel",
        "--self_ensemble",
        "--repeats",
        "2",
    ]
    assert rgb_script.main([*words, "--json", "x.json"]) == 0
    said = "2 draws, clip, quantize, y channel, self ensemble"
    assert (
        said in capsys.readouterr().out
        and json.loads((work / "x.json").read_text())[0]["protocol"] == said
    )
    with pytest.raises(SystemExit):
        gray_script.main(["--y_channel"])
