"""denoise.py: the command as a whole."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from photo_files import GRAY, HOSTILE, LOSSLESS, RGB, pillow
from PIL import Image

import denoise
import utils
from smnet.photos.reading import read_photo
from smnet.tiling import Denoiser


def test_a_folder_goes_on_past_bad_files_and_says_so_at_the_end(work, capsys):
    folder = work / "in" / "deeper"
    folder.mkdir(parents=True)
    for name, (content, _) in HOSTILE.items():
        (folder / name).write_bytes(content)
    (folder / "notes.txt").write_text("no picture, and not looked at")
    (work / "in" / "good.png").write_bytes(LOSSLESS["gray.png"])
    (folder / "good.bmp").write_bytes(LOSSLESS["rgb.bmp"])
    assert denoise.main(["in", "in/missing.png"]) == 1
    said = capsys.readouterr()
    assert said.err.count("skipped: ") == len(HOSTILE) + 1 == said.err.count("\n")
    assert f"denoised 2 pictures, skipped {len(HOSTILE) + 1}" in said.out
    written = sorted(
        str(p.relative_to(work / "in_denoised")) for p in (work / "in_denoised").rglob("*.*")
    )
    assert written == ["deeper/good.bmp", "good.png"]
    assert denoise.main(["in/good.png", "-o", "in_denoised"]) == 1
    assert "already exists; --overwrite replaces it" in capsys.readouterr().err
    assert denoise.main(["in/good.png", "-o", "in_denoised", "--overwrite"]) == 0


def test_one_picture_too_large_for_memory_does_not_end_the_batch(
    work, unchanged, capsys, monkeypatch
):
    for name in "ab":
        Image.fromarray(RGB).save(f"{name}.png")
    read = denoise.to_tensor
    tried = []

    def first_fails(photo):
        tried.append(photo)
        if len(tried) == 1:
            raise MemoryError
        return read(photo)

    monkeypatch.setattr(denoise, "to_tensor", first_fails)
    assert denoise.main(["a.png", "b.png"]) == 1
    printed = capsys.readouterr()
    assert (
        "skipped: a.png: does not fit into memory" in printed.err
        and Path("b_denoised.png").is_file()
    )


@pytest.mark.slow
def test_who_reads_the_output_may_stop(work):
    (work / "a.png").write_bytes(LOSSLESS["one pixel.png"])
    reader, writer = os.pipe()
    os.close(reader)
    ended = subprocess.run(
        [sys.executable, denoise.__file__, "a.png"],
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
    )
    os.close(writer)
    assert (
        ended.returncode == 1
        and "Traceback" not in ended.stderr
        and "BrokenPipe" not in ended.stderr
    )
    assert (work / "a_denoised.png").exists()


def test_what_cannot_be_written_is_said_before_the_work(work, capsys, monkeypatch):
    (work / "deep.png").write_bytes(LOSSLESS["deep gray.png"])
    monkeypatch.setattr(
        Denoiser, "__call__", lambda self, picture, on_tile=None: pytest.fail("denoised in vain")
    )
    assert denoise.main(["deep.png", "-o", "a.jpg"]) == 1
    assert "skipped: deep.png: a.jpg: JPEG cannot hold 16 bits" in capsys.readouterr().err
    for side, format in ((16384, "webp"), (65501, "jpg"), (65536, "gif")):
        (work / "long.png").write_bytes(pillow(np.zeros((1, side), np.uint8), "PNG"))
        assert denoise.main(["long.png", "-o", f"a.{format}"]) == 1
        assert (
            f"holds at most {side - 1} pixels a side, not {side}x1; give a .png"
            in capsys.readouterr().err
        )
    name = "x" * 245 + ".png"
    (work / name).write_bytes(LOSSLESS["gray.png"])
    assert denoise.main([name]) == denoise.main([name, "-o", "out"]) == 1
    assert (
        capsys.readouterr().err.count("File name too long; give the picture a shorter name\n") == 2
    )


def test_the_right_network_is_found(work, capsys):
    (work / "x.png").write_bytes(LOSSLESS["gray.png"])
    (work / "y.png").write_bytes(LOSSLESS["rgb.png"])
    assert denoise.main(["x.png", "y.png"]) == 0
    said = capsys.readouterr().out
    assert "weights/model_gray_B_1.pth" in said and "weights/model_rgb_B_1.pth" in said
    assert denoise.main(["x.png", "y.png", "--noiseL", "25", "--overwrite"]) == 1
    said = capsys.readouterr()
    assert (
        "weights/model_gray_L25_1.pth" in said.out and "python train_rgb.py --noiseL 25" in said.err
    )
    assert denoise.main(["y.png", "--weights", "weights/model_gray_B_1.pth", "--overwrite"]) == 1
    assert "is for gray pictures, not RGB ones" in capsys.readouterr().err
    model = utils.load_model(
        "weights/model_gray_L25_1.pth"
    )  # which overwrote the blind one's result
    noisy = torch.from_numpy(GRAY.copy())[None] / 255
    with torch.inference_mode():
        expected = (model(noisy[None])[0, 0].clamp(0, 1) * 255).round()
    np.testing.assert_allclose(read_photo("x_denoised.png").pixels[:, :, 0], expected, atol=1)


def test_sheets(work, capsys):
    (work / "x.png").write_bytes(LOSSLESS["rgb.png"])
    assert denoise.main(["x.png", "--compare", "--save_stages", "--point", "5", "900"]) == 0
    assert read_photo("x_denoised_compare.png").pixels.shape == (
        57,
        608,
        3,
    )  # upright; three panels of at least 200, gaps of 4
    (work / "x_denoised.png").unlink()
    assert denoise.main(["x.png", "--compare"]) == 1  # the sheet is there, and nothing is replaced
    assert (
        "x_denoised_compare.png already exists" in capsys.readouterr().err
        and not (work / "x_denoised.png").exists()
    )
    (work / "x_denoised_compare.png").unlink()
    (work / "x_denoised_compare.png").mkdir()
    assert denoise.main(["x.png", "--compare", "--overwrite"]) == 1
    assert (
        "x_denoised.png is written, but this sheet is not: " in capsys.readouterr().err
        and (work / "x_denoised.png").exists()
    )
    assert read_photo("x_denoised_stages.png").pixels.shape == (57, 1016, 3)  # five
