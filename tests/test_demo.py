"""demo.py without a browser: what it does with pictures, what it keeps, what it serves."""

import asyncio
import errno
import os
import socket
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tifffile
import torch
from helpers import synthetic_picture
from photo_files import LOSSLESS, RGB, pillow
from PIL import Image

import demo
import denoise
from smnet.demo import sessions, work
from smnet.demo.examples import EXAMPLES, make_examples
from smnet.demo.sessions import Session, Sessions
from smnet.demo.work import NETWORKS, PHOTOGRAPH, Limits, Networks, Stopped
from smnet.photos.photo import upright
from smnet.photos.reading import read_photo
from smnet.tiling import Denoiser
from utils import SMNetError

LIMITS = Limits(megapixels=1, megabytes=1)
BLIND = "white noise, any level"


@pytest.fixture
def networks(work) -> Networks:
    return Networks(torch.device("cpu"), "weights")


@pytest.fixture
def session(tmp_path) -> Session:
    return Session(tmp_path / "session")


def denoised(session: Session, networks: Networks, content: bytes, name: str) -> sessions.Result:
    """What becomes of a picture that is dropped on the page."""
    Path(name).write_bytes(content)
    session.take(Path(name))
    return work.denoise_picture(session, networks, PHOTOGRAPH, LIMITS, lambda done, tiles: None)


@pytest.mark.parametrize("name", LOSSLESS)
def test_a_download_is_what_denoise_py_writes(session, networks, name):
    result = denoised(session, networks, LOSSLESS[name], name)
    for percents in ((100, None), (40, None), (0, 100)):
        path, _ = work.save(session, result, *percents)
        words = ["--strength", str(percents[0])] + ["--chroma", "100"] * (percents[1] is not None)
        assert denoise.main([name, *words, "--overwrite"]) == 0
        assert path.name == f"{Path(name).stem}_denoised{Path(name).suffix}"
        assert path.read_bytes() == Path(path.name).read_bytes()


def test_a_download_has_the_ending_of_its_format(session, networks):
    result = denoised(session, networks, pillow(RGB, "JPEG"), "image.png")
    assert work.name_of_result(result) == "image_denoised.jpg"
    result = denoised(session, networks, LOSSLESS["deep rgb.tif"], "PHOTO.TIF")
    assert work.name_of_result(result) == "PHOTO_denoised.TIF"


@pytest.mark.parametrize("name", ["rgb.png", "deep turned.tif", "deep gray.png", "rgb alpha.png"])
def test_before_is_shown_upright_and_without_loss(session, networks, name):
    result = denoised(session, networks, LOSSLESS[name], name)
    photo = read_photo(name)
    expected = upright(photo.pixels, photo.orientation)
    if expected.dtype == np.uint16:
        expected = np.rint(expected / 257).astype(np.uint8)
    shown = np.asarray(Image.open(work.show_before(session, result)))
    np.testing.assert_array_equal(shown.reshape(expected.shape), expected)


def test_removed_is_four_times_the_difference_about_grey(session, networks, monkeypatch):
    stripes = 4 / 255 * torch.tensor([1.0, -1.0]).repeat(RGB.shape[1])[: RGB.shape[1]]
    monkeypatch.setattr(Denoiser, "__call__", lambda self, noisy, on_tile=None: noisy - stripes)
    result = denoised(session, networks, pillow(RGB, "PNG"), "a.png")
    _, removed = work.show_after(session, result, 50, None)
    assert set(np.unique(np.asarray(Image.open(removed)))) <= {119, 120, 135, 136}  # 127.5 +- 4 * 2
    assert work.describe(result)["noise found"] == "4.0 grey levels"


def test_strength_needs_no_second_forward(session, networks, monkeypatch):
    result = denoised(session, networks, pillow(RGB, "PNG"), "a.png")
    monkeypatch.setattr(Denoiser, "__call__", lambda *_: pytest.fail("a second forward"))
    after, _ = work.show_after(session, result, 0, None)
    np.testing.assert_array_equal(np.asarray(Image.open(after)), RGB)


def test_what_is_too_large_is_refused_before_it_is_decoded(session, networks, monkeypatch):
    monkeypatch.setattr(work, "read_photo", lambda path: pytest.fail("decoded"))
    for name, content in {
        "a.png": pillow(np.zeros((1001, 1000), np.uint8), "PNG"),
        "a.tif": LOSSLESS["deep rgb.tif"],
    }.items():
        Path(name).write_bytes(content)
        with pytest.raises(SMNetError, match=f"^{name}: has .* pixels, above the 0.001 megapixels"):
            work.open_picture(Path(name), Limits(0.001, 10))
    with pytest.raises(SMNetError, match="a.tif: has 0.0 MB, above the 0.001 MB that this page"):
        work.open_picture(Path("a.tif"), Limits(1, 0.001))


def test_a_preview_does_not_hide_the_size_of_a_tiff(tmp_path):
    with tifffile.TiffWriter(tmp_path / "a.tif") as tiff:
        tiff.write(np.zeros((10, 10), np.uint8), photometric="minisblack", subfiletype=1)
        tiff.write(np.zeros((50, 60), np.uint8), photometric="minisblack")
    with pytest.raises(SMNetError, match="60x50 pixels, above the 0.001 megapixels"):
        work.open_picture(tmp_path / "a.tif", Limits(0.001, 10))


def test_errors_are_the_lines_of_denoise_py(session, networks, capsys):
    for name, content in {"broken.png": LOSSLESS["rgb.png"][:90], "a.jpg": b"no picture"}.items():
        with pytest.raises(SMNetError) as caught:
            denoised(session, networks, content, name)
        assert denoise.main([name]) == 1
        assert f"skipped: {caught.value}\n" == capsys.readouterr().err
    with pytest.raises(SMNetError, match="no weights weights/model_rgb_L15_N.pth"):
        networks.get("white noise, sigma 15", 3)
    with pytest.raises(SMNetError, match="no weights weights/model_rgb_L15_N.pth"):  # said again
        networks.get("white noise, sigma 15", 3)


def test_every_choice_is_a_network_of_denoise_py(networks):
    assert list(NETWORKS)[0] == PHOTOGRAPH
    assert networks.get(PHOTOGRAPH, 3)[1] == networks.get(BLIND, 3)[1]  # there is no R here
    assert networks.get("white noise, sigma 25", 1)[1] == "weights/model_gray_L25_1.pth"


def test_stopping_ends_with_the_tile_at_hand(session, networks):
    networks.get(PHOTOGRAPH, 1)[0].tile = 128
    picture = pillow(synthetic_picture(0, 300, 300)[:, :, 0], "PNG")
    Path("a.png").write_bytes(picture)
    session.take(Path("a.png"))
    seen = []

    def stop_at_two(done, tiles):
        seen.append((done, tiles))
        session.wanted = done < 2

    with pytest.raises(Stopped):
        work.denoise_picture(session, networks, PHOTOGRAPH, LIMITS, stop_at_two)
    assert seen == [(0, 9), (1, 9), (2, 9)]


def test_another_picture_ends_the_work_on_the_one_before(session, networks):
    networks.get(PHOTOGRAPH, 1)[0].tile = 128
    picture = pillow(synthetic_picture(0, 300, 300)[:, :, 0], "PNG")
    for name in ("a.png", "b.png"):
        Path(name).write_bytes(picture)
    session.take(Path("a.png"))
    with pytest.raises(Stopped):
        work.denoise_picture(
            session, networks, PHOTOGRAPH, LIMITS, lambda done, _: session.take(Path("b.png"))
        )
    assert session.wanted and session.source.name == "b.png"


def test_a_closed_page_leaves_nothing_behind(tmp_path, networks):
    pages = Sessions(tmp_path / "pages")
    page = pages.get("a")
    result = denoised(page, networks, pillow(RGB, "PNG"), "a.png")
    work.save(page, result, 100, None)
    assert pages.get("a") is page and len(list((tmp_path / "pages").iterdir())) == 1
    pages.close("a")
    assert not list((tmp_path / "pages").iterdir()) and page.source is None
    with pytest.raises(Stopped), work.one_line_errors(page):
        work.save(page, result, 100, None)


def test_an_upload_stays_while_a_page_has_it(tmp_path):
    pages = Sessions(tmp_path / "pages")
    upload = tmp_path / "hash" / "a.png"
    upload.parent.mkdir()
    upload.write_bytes(b"the same for both")
    for key in "ab":
        pages.take_upload(key, upload)
    pages.close("a")
    assert upload.exists() and pages.get("b").source.read_bytes() == b"the same for both"
    other = tmp_path / "other.png"
    other.touch()
    pages.take_upload("b", other)
    assert not upload.parent.exists() and other.exists()
    pages.close("b")
    assert not other.exists()


def test_only_the_last_pages_and_versions_are_kept(tmp_path):
    pages = Sessions(tmp_path / "pages")
    for i in range(sessions.MAX_PAGES + 3):
        pages.get(str(i))
        pages.get("0")  # the one in use
    assert len(list((tmp_path / "pages").iterdir())) == sessions.MAX_PAGES == len(pages.open)
    assert "0" in pages.open and "1" not in pages.open
    page = pages.get("0")
    files = [page.new_file("after", "after.png") for _ in range(6)]
    assert [file.parent.exists() for file in files] == 3 * [False] + 3 * [True]
    assert len(set(files)) == 6  # no browser shows an old one for a new one


def test_no_visitor_can_delete_an_example(tmp_path):
    pages = Sessions(tmp_path)
    (example, *_) = make_examples(tmp_path)
    for _ in range(2):
        pages.take_upload("a", example.path)  # what it is served as, sent as an upload
    pages.close("a")
    assert example.path.is_file()


def test_examples_are_the_same_every_time(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
        made = make_examples(tmp_path / name)
    assert len(made) == len(EXAMPLES) == 4
    for example in made:
        twin = tmp_path / "a" / example.path.name
        assert twin.read_bytes() == example.path.read_bytes()
    assert [example.caption for example in made] == 2 * ["camera noise"] + [
        "sigma 25",
        "sigma 50",
    ]


def test_without_gradio_one_line_says_what_to_type(tmp_path, monkeypatch):
    monkeypatch.setattr(demo.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SMNetError, match="pip install -r requirements-demo.txt$"):
        demo.launch(demo.parse_args([]), tmp_path)


# ------------------------------------------------------------------------------------- with Gradio


@pytest.fixture
def page(tmp_path, networks):
    pytest.importorskip("gradio", reason="Gradio is not installed: requirements-demo.txt")
    from smnet.demo.page import Page

    return Page(networks, Sessions(tmp_path / "pages"), make_examples(tmp_path), LIMITS)


REQUEST = SimpleNamespace(session_hash="a")


@pytest.mark.slow  # Gradio takes seconds to import
def test_what_the_page_says(page):
    Path("<b>.png").write_bytes(b"no picture")
    page.take_upload("<b>.png", REQUEST)
    said, results, *_ = page.run(PHOTOGRAPH, 100, False, 100, REQUEST)
    assert said.startswith('<p class="error">&lt;b&gt;.png: is damaged or not a picture')
    assert not results["visible"]
    assert page.save(100, False, 100, REQUEST)[0]["interactive"] is False
    page.take_example(SimpleNamespace(index=3), REQUEST)
    said, results, (before, _), *_ = page.run(PHOTOGRAPH, 100, False, 100, REQUEST)
    assert results["visible"] and "512x512 gray, 8 bits" in said
    assert "weights/model_gray_B_1.pth" in said and Path(before).is_file()
    page.take_again(REQUEST)
    page.stop(REQUEST)
    assert "Stopped." in page.run(PHOTOGRAPH, 100, False, 100, REQUEST)[0]


@pytest.mark.slow  # Gradio takes seconds to import
def test_a_page_that_others_displaced_says_so(page):
    import gradio

    assert page.run(PHOTOGRAPH, 100, False, 100, REQUEST)[0] == ""  # no picture yet
    page.take_example(SimpleNamespace(index=3), REQUEST)
    page.run(PHOTOGRAPH, 100, False, 100, REQUEST)
    for i in range(sessions.MAX_PAGES):
        page.take_example(SimpleNamespace(index=3), SimpleNamespace(session_hash=f"other {i}"))
    with pytest.raises(gradio.Error, match="forgotten, since 8 other pages have been opened"):
        page.look(50, False, 100, REQUEST)
    empty = SimpleNamespace(session_hash="empty")
    assert page.run(PHOTOGRAPH, 100, False, 100, empty)[0] == ""
    for i in range(sessions.MAX_PAGES):
        page.session(SimpleNamespace(session_hash=f"newer {i}"))
    assert page.run(PHOTOGRAPH, 100, False, 100, empty)[0] == ""  # it had no picture
    assert "drop it again" in page.run(PHOTOGRAPH, 100, False, 100, REQUEST)[0]
    page.take_example(SimpleNamespace(index=3), REQUEST)
    assert "512x512 gray" in page.run(PHOTOGRAPH, 100, False, 100, REQUEST)[0]


@pytest.mark.slow  # Gradio takes seconds to import
def test_a_full_disk_is_one_line(page, monkeypatch):
    import gradio

    page.take_example(SimpleNamespace(index=3), REQUEST)
    page.run(PHOTOGRAPH, 100, False, 100, REQUEST)

    def full(*_args, **_options):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(gradio.Error, match="cannot write the result: No space left on device"):
        page.look(50, False, 100, REQUEST)
    said = page.run(PHOTOGRAPH, 100, False, 100, REQUEST)[0]
    assert said == '<p class="error">cannot write the result: No space left on device</p>'


@pytest.mark.slow  # Gradio takes seconds to import
def test_the_page_says_which_network_is_for_photographs(page):
    from smnet.demo.layout import introduction

    without, there = (introduction(LIMITS, real=real) for real in (False, True))
    assert "1 megapixels and 1 MB" in without and "1 megapixels and 1 MB" in there
    assert "no network trained on photographs" in without and "no network" not in there


@pytest.mark.slow  # Gradio takes seconds to import
def test_an_address_of_the_web_is_no_upload(page, tmp_path, monkeypatch):
    import gradio

    from smnet.demo.privacy import take_files_only

    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    with gradio.Blocks() as blocks:
        components = gradio.File(), gradio.Slider(), gradio.Radio()
    take_files_only(blocks)
    example = str(page.examples[0].path)
    for component in components:
        take = component.async_move_resource_to_block_cache
        assert asyncio.run(take(example)) == example
        with pytest.raises(gradio.Error, match="drop the picture again"):
            asyncio.run(take("http://example.com/a.png"))


@pytest.mark.slow
def test_no_file_but_its_own_is_served(work, tmp_path, monkeypatch):
    pytest.importorskip("gradio", reason="Gradio is not installed: requirements-demo.txt")
    import httpx

    monkeypatch.setenv("GRADIO_TEMP_DIR", "")  # to be put back
    monkeypatch.setenv("GRADIO_ANALYTICS_ENABLED", "")
    folder = tmp_path / "served"
    folder.mkdir()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    args = demo.parse_args(["--no_browser", "--port", str(port), "--max_mb", "0.1"])
    blocks = demo.launch(args, folder)
    try:
        with pytest.raises(SMNetError, match=f"port {port}: in use"):
            demo.launch(args, folder)
        address = f"http://127.0.0.1:{port}/gradio_api"
        example = next(folder.glob("*.png"))
        assert httpx.get(f"{address}/file={example}").content == example.read_bytes()
        for path in (demo.__file__, "demo.py", "/etc/passwd", f"{folder}/../weights"):
            assert httpx.get(f"{address}/file={path}").status_code in (403, 404)
        for path in ("file=http://127.0.0.1:1/x", "file=https://example.com", "proxy=https://a.b"):
            assert httpx.get(f"{address}/{path}").text == "This server is no proxy."
        files = {"files": ("a.png", b"x" * 200_000)}
        assert httpx.post(f"{address}/upload", files=files).status_code == 413
    finally:
        blocks.close(verbose=False)
