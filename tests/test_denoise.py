"""denoise.py: the command as a whole."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import save_model
from odd_files import FOREIGN, HOSTILE, REFUSED
from photo_files import DEEP_RGB, GRAY, LOSSLESS, RGB, packed_tiff, pillow, tiff
from PIL import Image

import denoise
import utils
from smnet.denoisers import DenoiserCache
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
    assert "skipped: a.png: not enough memory" in printed.err and Path("b_denoised.png").is_file()


@pytest.mark.slow
def test_who_reads_the_output_may_stop(work):
    (work / "a.png").write_bytes(LOSSLESS["one pixel.png"])
    reader, writer = os.pipe()
    os.close(reader)
    ended = subprocess.run(
        [sys.executable, denoise.__file__, "a.png", "--blind"],
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


def no_memory(*args):
    raise MemoryError


@pytest.mark.slow
def test_sheets(work, capsys, monkeypatch):
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
        "x_denoised_compare.png is a folder" in capsys.readouterr().err
        and not (work / "x_denoised.png").exists()
    )
    (work / "x_denoised_compare.png").rmdir()
    monkeypatch.setattr(denoise.sheets, "comparison", no_memory)
    assert denoise.main(["x.png", "--compare"]) == 1
    assert (
        "x_denoised.png is written, but not its sheets: not enough memory"
        in capsys.readouterr().err
        and (work / "x_denoised.png").exists()
    )
    assert read_photo("x_denoised_stages.png").pixels.shape == (57, 1016, 3)  # five


def test_odd_files_all_at_once(work, unchanged, capfd):
    """One true line for each that cannot be denoised, and every other written, whatever its
    layout."""
    bad = {f"{i} {name}": content for i, (name, (content, _)) in enumerate(HOSTILE.items())}
    bad |= {f"foreign {i}.jpg": content for i, content in enumerate(FOREIGN.values())}
    bad |= {f"odd {i}.tif": content for i, content in enumerate(REFUSED.values())}
    good = LOSSLESS | {
        "zstd.tif": tiff(DEEP_RGB, compression="zstd", tile=(16, 16)),
        "planes.lzw.tif": tiff(
            DEEP_RGB.transpose(2, 0, 1), planarconfig="separate", compression="lzw"
        ),
        "4 bits.tif": packed_tiff(GRAY >> 4, 4),
    }
    (work / "in").mkdir()
    for name, content in (bad | good).items():
        (work / "in" / name).write_bytes(content)
    assert denoise.main(["in", "-o", "out"]) == 1
    said = capfd.readouterr()
    reasons = said.err.splitlines()
    assert [line.split(": ")[:2] for line in reasons] == [
        ["skipped", f"in/{name}"] for name in sorted(bad, key=lambda name: Path("in", name))
    ]
    assert f"denoised {len(good)} pictures, skipped {len(bad)}\n" in said.out
    assert len(said.out.splitlines()) == len(good) + 1
    for name in good:
        before, after = read_photo(work / "in" / name), read_photo(work / "out" / name)
        np.testing.assert_array_equal(after.pixels, before.pixels)


def test_the_same_folder_again_is_no_failure(work, unchanged, capsys):
    (work / "in").mkdir()
    for name in ("a.png", "b.png"):
        (work / "in" / name).write_bytes(LOSSLESS["one pixel.png"])
    assert denoise.main(["in"]) == 0
    written = (work / "in_denoised" / "a.png").stat().st_mtime_ns
    capsys.readouterr()
    assert denoise.main(["in"]) == 0
    said = capsys.readouterr()
    assert said.err == "" and said.out == (
        "denoised 0 pictures, skipped 0, 2 already there (--overwrite replaces results)\n"
    )
    assert (work / "in_denoised" / "a.png").stat().st_mtime_ns == written
    (work / "in" / "bad.png").write_bytes(b"")  # and a real skip does not drown
    (work / "in" / "c.png").write_bytes(LOSSLESS["one pixel.png"])
    assert denoise.main(["in"]) == 1
    said = capsys.readouterr()
    assert said.err == "skipped: in/bad.png: is empty\n"
    assert "denoised 1 picture, skipped 1, 2 already there" in said.out


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_is_never_written(work, capsys, monkeypatch, value):
    (work / "a.png").write_bytes(LOSSLESS["gray.png"])

    def broken(self, picture, on_tile=None):
        output = picture.clone()
        output[0, 3, 4] = value
        return output

    monkeypatch.setattr(Denoiser, "__call__", broken)
    assert denoise.main(["a.png", "--compare", "--save_stages"]) == 1
    said = capsys.readouterr()
    assert said.err == (
        "skipped: a.png: weights/model_gray_B_1.pth gives values that are not finite; "
        "use other weights\n"
    )
    assert not [*work.glob("a_*")]


def test_a_picture_behind_weights_is_no_weights(work, capsys):
    with pytest.raises(SystemExit):
        denoise.main(["--weights", "net.pth", "a.jpg"])
    assert "a.jpg stands behind --weights; put the pictures before it" in capsys.readouterr().err


def test_a_name_that_begins_with_a_dash(work, unchanged, capsys):
    (work / "-dash.png").write_bytes(LOSSLESS["gray.png"])
    with pytest.raises(SystemExit) as caught:
        denoise.main(["-dash.png"])
    assert caught.value.code == 2
    assert "write ./-dash.png for the picture" in capsys.readouterr().err
    assert denoise.main(["./-dash.png"]) == denoise.main(["--overwrite", "--", "-dash.png"]) == 0
    assert (work / "-dash_denoised.png").is_file()


def test_gray_palettes_go_through_the_gray_network(work, capsys):
    gray = Image.fromarray(GRAY)
    gray.putpalette([level for level in range(256) for _ in range(3)])
    gray.save("a.png")
    assert denoise.main(["a.png"]) == 0
    assert "gray of 8 bits" in (said := capsys.readouterr().out) and "model_gray_B_1" in said


def test_strength_zero_gives_the_samples_back(work, capsys):
    (work / "a.png").write_bytes(LOSSLESS["rgb.png"])
    (work / "deep.tif").write_bytes(tiff(DEEP_RGB))
    for name in ("a.png", "deep.tif"):
        assert denoise.main([name, "-o", "out", "--strength", "0"]) == 0
        assert np.array_equal(read_photo(f"out/{name}").pixels, read_photo(name).pixels)
    assert capsys.readouterr().out.count(" grey levels, ") == 2  # it still says what it found


def test_colour_noise_alone_changes_the_colours_alone(work):
    (work / "a.png").write_bytes(LOSSLESS["rgb.png"])
    assert denoise.main(["a.png", "-o", "out", "--strength", "0", "--chroma", "100"]) == 0
    change = read_photo("out/a.png").pixels.astype(float) - read_photo("a.png").pixels
    assert np.abs(change).max() > 2
    inside = (read_photo("out/a.png").pixels % 255 > 0).all(-1)  # not clamped
    assert np.abs(change @ [0.299, 0.587, 0.114])[inside].max() <= 1


def test_the_network_of_real_noise_is_the_default_where_there_is_one(work, capsys):
    (work / "a.png").write_bytes(LOSSLESS["rgb.png"])
    save_model(work / "weights", "model_rgb_R_1", channels=3, seed=7)
    for words, network in (([], "R"), (["--blind"], "B"), (["--real"], "R")):
        assert denoise.main(["a.png", "--overwrite", *words]) == 0
        assert f"weights/model_rgb_{network}_1.pth" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        denoise.main(["a.png", "--blind", "--noiseL", "25"])


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, ">u2", np.float32, np.float64])
@pytest.mark.parametrize("shape", [(40, 50), (40, 50, 1), (40, 50, 3)])
def test_arrays_are_denoised_as_files_are(work, dtype, shape):
    rng = np.random.default_rng(0)
    white = np.iinfo(dtype).max if np.issubdtype(dtype, np.integer) else 1
    picture = (rng.random(shape) * white).astype(dtype)
    before = picture.copy()
    result = denoise.denoise(picture, device="cpu")
    assert result.shape == shape and result.dtype == dtype and np.array_equal(picture, before)
    same = denoise.denoise(picture, device="cpu", strength=0)
    assert np.array_equal(same, picture if white > 1 else picture.astype(np.float32))
    if dtype == np.uint8:
        Image.fromarray(picture.squeeze()).save("a.png")
        assert denoise.main(["a.png", "--overwrite", "--device", "cpu"]) == 0
        assert np.array_equal(np.asarray(Image.open("a_denoised.png")), result.squeeze())


def test_amp_reaches_the_network(work, monkeypatch):
    Image.fromarray(RGB).save("a.png")
    used = []
    monkeypatch.setattr(
        Denoiser, "__call__", lambda self, x, on_tile=None: used.append(self.amp) or x
    )
    for option in ("--no-amp", "--amp"):
        assert denoise.main(["a.png", "--overwrite", option]) == 0
    assert used == [False, True]


def test_threads_may_denoise_at_the_same_time(work):
    with ThreadPoolExecutor(4) as threads:
        results = [*threads.map(lambda _: denoise.denoise(GRAY, device="cpu"), range(4))]
    assert all(np.array_equal(result, results[0]) for result in results)


def test_weights_for_which_there_was_no_memory_are_read_again(work, monkeypatch):
    denoisers = DenoiserCache(torch.device("cpu"))
    with monkeypatch.context() as patched:
        patched.setattr(denoisers, "read", no_memory)
        with pytest.raises(MemoryError):
            denoisers.get(1)
    assert denoisers.get(1)[1] == "weights/model_gray_B_1.pth"


def test_arrays_that_are_no_pictures_are_one_line(work):
    for picture in (
        np.zeros((4, 4, 2)),
        np.zeros(9),
        np.zeros((4, 4), int),
        np.full((4, 4), np.nan),
    ):
        with pytest.raises(utils.SMNetError):
            denoise.denoise(picture, device="cpu")


def test_arrays_go_through_the_network_asked_for_or_none(work):
    picture = np.full((32, 32), 0.5, np.float32)
    for wrong in (dict(mode="s"), dict(mode="S"), dict(mode="B", noiseL=25)):
        with pytest.raises(utils.SMNetError, match="give mode R or B, or S with noiseL"):
            denoise.denoise(picture, device="cpu", **wrong)
    with pytest.raises(utils.SMNetError, match="no weights"):
        denoise.denoise(picture, device="cpu", noiseL=33)
    save_model(work / "weights", "model_gray_L33_1")  # no failure is remembered
    assert np.isfinite(denoise.denoise(picture, device="cpu", noiseL=33)).all()


def test_the_network_is_exact_on_cuda(work, monkeypatch):
    seen = []
    one = Denoiser.one

    class Watched(torch.nn.Module):
        def forward(self, x):
            seen.append((torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32))
            return x

    def watch(self, piece):
        self.model = Watched()
        return one(self, piece)

    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)  # PyTorch's default
    monkeypatch.setattr(Denoiser, "one", watch)
    denoise.denoise(np.zeros((32, 32), np.uint8), device="cpu")
    assert seen == [(False, False)]


def test_arrays_are_denoised_in_a_program_that_uses_pytorchs_newer_flags_of_precision():
    code = """
import numpy as np, torch, denoise
torch.backends.fp32_precision = "tf32"
denoise.denoise(np.zeros((32, 32), np.uint8), device="cpu", mode="B")
assert torch.backends.cuda.matmul.fp32_precision == "tf32"
"""
    command, root = [sys.executable, "-c", code], Path(denoise.__file__).parent
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
