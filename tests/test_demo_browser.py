"""demo.py in a real browser: Chromium, driven by Playwright."""

import base64
import contextlib
import os
import re
import shutil
import socket
import time
from pathlib import Path

import numpy as np
import pytest
from helpers import save_model, synthetic_picture
from photo_files import EXIF, LOSSLESS, RGB, pillow

import demo
import denoise
import utils
from smnet.demo.examples import EXAMPLES
from smnet.photos.photo import upright
from smnet.photos.reading import read_photo

pytestmark = pytest.mark.slow
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = """--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking
    --disable-component-update --disable-sync""".split()


@pytest.fixture(scope="module")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    pytest.importorskip("gradio", reason="Gradio is not installed: requirements-demo.txt")
    if CHROMIUM is None:
        pytest.skip("there is no Chromium on this machine")
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """(address, folder of its files) of a running page, with networks of random weights."""
    folder = tmp_path_factory.mktemp("demo")
    for color, channels in (("gray", 1), ("rgb", 3)):
        save_model(folder / "weights", f"model_{color}_B_1", channels=channels)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = f"--no_browser --port {port} --max_megapixels 2 --weights_dir {folder}/weights"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", "")  # to be put back
        patch.setenv("GRADIO_ANALYTICS_ENABLED", "")
        patch.setattr(utils, "PRETRAINED", folder / "pretrained")
        (folder / "files").mkdir()
        blocks = demo.launch(demo.parse_args(words.split()), folder / "files")
        yield f"http://127.0.0.1:{port}", folder
        blocks.close(verbose=False)


@pytest.fixture
def open_page(browser, server):
    """A function that opens a new page; at the end of the test, no page may have complained, nor
    asked another host for anything."""
    complaints, contexts = [], []

    def watch(page):
        def check_host(request):
            if not request.url.startswith((server[0], "data:", "blob:")):
                complaints.append(f"asked {request.url}")

        page.on("request", check_host)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", lambda m: m.type == "error" and complaints.append(m.text))

    def open_page(**options):
        contexts.append(browser.new_context(accept_downloads=True, **options))
        page = contexts[-1].new_page()
        watch(page)
        page.goto(server[0])
        page.locator("#picture input[type=file]").wait_for(state="attached")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not complaints


def drop(page, path: Path) -> None:
    """Give the page a picture and wait for what it says of it."""
    page.locator("#picture input[type=file]").set_input_files(path)
    page.locator("#status", has_text=path.name).wait_for(timeout=60_000)


def samples(page, selector: str) -> np.ndarray:
    """The samples of a picture on the page, as the browser decodes them: uint8 (H, W, 4)."""
    found = page.locator(selector)
    found.wait_for()
    data, width, height = found.evaluate(
        """async (image) => {
            await image.decode();
            const canvas = document.createElement("canvas");
            [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
            const context = canvas.getContext("2d");
            context.drawImage(image, 0, 0);
            const data = context.getImageData(0, 0, canvas.width, canvas.height).data;
            return [Array.from(data), canvas.width, canvas.height];
        }"""
    )
    return np.array(data, np.uint8).reshape(height, width, 4)


def download(page, folder: Path) -> Path:
    """The file that the button gives, once it is ready."""
    page.wait_for_function("() => !document.querySelector('#download').disabled")
    with page.expect_download() as caught:
        page.click("#download")
    path = folder / caught.value.suggested_filename
    caught.value.save_as(path)
    return path


def by_denoise_py(path: Path, server, *words: str) -> Path:
    """The result of denoise.py for a picture."""
    weights = [f"{server[1]}/weights/model_{color}_B_1.pth" for color in ("gray", "rgb")]
    target = path.parent / "expected" / path.name
    words = ("-o", str(target), "--weights", *weights, "--overwrite", *words)
    assert denoise.main([str(path), *words]) == 0
    return target


def write(folder: Path, name: str, content: bytes) -> Path:
    """A file for the page."""
    (folder / name).write_bytes(content)
    return folder / name


BEFORE, AFTER = "#slider img >> nth=0", "#slider img >> nth=1"


def test_a_picture_from_dropping_to_download(open_page, server, tmp_path):
    page = open_page()
    picture = write(tmp_path, "a.png", pillow(RGB, "PNG"))
    drop(page, picture)
    assert re.search(r"noise found\s+\d+\.\d grey levels", page.inner_text("#status"))
    expected = read_photo(by_denoise_py(picture, server)).pixels
    np.testing.assert_array_equal(samples(page, BEFORE)[..., :3], RGB)
    np.testing.assert_array_equal(samples(page, AFTER)[..., :3], expected)
    result = download(page, tmp_path)
    assert result.name == "a_denoised.png"
    np.testing.assert_array_equal(read_photo(result).pixels, expected)
    page.click("#draw")
    assert samples(page, "#sheet img").shape[1] > 5 * 200


def test_the_slider_moves(open_page, tmp_path):
    page = open_page()
    drop(page, write(tmp_path, "a.png", pillow(RGB, "PNG")))
    samples(page, AFTER)  # the handle finds its place when both are there
    page.wait_for_timeout(1000)
    handle = page.locator("#slider [role=slider], #slider .inner").first
    before = handle.bounding_box()
    page.mouse.move(before["x"] + before["width"] / 2, before["y"] + before["height"] / 2)
    page.mouse.down()
    page.mouse.move(before["x"] - 60, before["y"] + 10, steps=5)
    page.mouse.up()
    assert handle.bounding_box()["x"] < before["x"] - 30


@pytest.mark.parametrize("name", ["deep turned.tif", "deep rgb alpha.png", "gray.bmp", "rgb.webp"])
def test_a_download_is_of_the_kind_that_came(open_page, server, tmp_path, name):
    page = open_page()
    picture = write(tmp_path, name, LOSSLESS[name])
    drop(page, picture)
    photo = read_photo(picture)
    expected = upright(photo.pixels, photo.orientation).shape[:2]
    assert samples(page, BEFORE).shape[:2] == expected
    result = download(page, tmp_path)
    assert result.read_bytes() == by_denoise_py(picture, server).read_bytes()


def test_strength_and_colour_noise_act_at_once(open_page, server, tmp_path):
    page = open_page()
    picture = write(tmp_path, "a.jpg", pillow(RGB, "JPEG", quality=95, exif=EXIF))
    drop(page, picture)
    download(page, tmp_path)
    said = page.inner_text("#status")
    for strength, chroma in (("0", None), ("40", None), ("40", "90")):
        address = page.get_attribute(AFTER, "src")
        if chroma:
            page.locator("#apart input").check()
            set_number(page, "#chroma", chroma)
        set_number(page, "#strength", strength)
        page.wait_for_function(
            "old => document.querySelectorAll('#slider img')[1].src !== old",
            arg=address,
        )
        page.wait_for_timeout(1000)
        result = download(page, tmp_path)
        words = ["--strength", strength, *(["--chroma", chroma] if chroma else [])]
        expected = by_denoise_py(picture, server, *words)
        assert result.read_bytes() == expected.read_bytes()
    assert page.inner_text("#status") == said  # the time too: no second forward


def set_number(page, slider: str, value: str) -> None:
    """Type the value of a slider."""
    field = page.locator(f"{slider} input[type=number]")
    field.fill(value)
    field.press("Enter")
    field.blur()


def test_a_broken_file_and_a_good_one_after_it(open_page, tmp_path):
    page = open_page()
    drop(page, write(tmp_path, "broken.png", LOSSLESS["rgb.png"][:90]))
    said = page.inner_text("#status")
    assert said.startswith("broken.png: is damaged") and "\n" not in said
    page.locator("#stop").wait_for(state="hidden")
    assert not page.locator("#results").is_visible()
    drop(page, write(tmp_path, "phone.heic", b"\0\0\0\x18ftypheic"))
    assert "is a HEIC file; PNG, JPEG" in page.inner_text("#status")
    drop(page, write(tmp_path, "wide.png", pillow(np.zeros((1, 2_000_001), np.uint8), "PNG")))
    assert "2000001x1 pixels, above the 2 megapixels" in page.inner_text("#status")
    drop(page, write(tmp_path, "good.png", pillow(RGB, "PNG")))
    assert page.locator("#results").is_visible()
    page.get_by_label("white noise, sigma 15").check()
    page.locator("#status", has_text="no weights").wait_for()
    page.get_by_label("white noise, any level").check()
    page.locator("#status", has_text="noise found").wait_for()


def test_two_tabs_keep_their_pictures_apart_until_they_are_closed(open_page, server, tmp_path):
    first, second = open_page(), open_page()
    drop(first, write(tmp_path, "a.png", pillow(RGB, "PNG")))
    drop(second, tmp_path / "a.png")  # which Gradio keeps once
    drop(second, write(tmp_path, "b.png", LOSSLESS["gray.png"]))
    assert download(first, tmp_path).name == "a_denoised.png"
    assert download(second, tmp_path).name == "b_denoised.png"
    assert {"a.png", "a_denoised.png", "b.png", "b_denoised.png"} <= files_of(server)
    first.close()
    second.close()
    for _ in range(100):
        if not files_of(server):
            break
        time.sleep(0.1)
    assert not files_of(server)


def files_of(server) -> set[str]:
    """The names of all files that the server holds but the examples; Gradio's empty ones aside."""
    examples, found = [name for name, *_ in EXAMPLES], set()
    for folder, _, names in os.walk(server[1] / "files"):  # unlike rglob's, no error if one goes
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                if Path(folder, name).stat().st_size and not name.startswith((*examples,)):
                    found.add(name)
    return found


def test_tiles_are_counted_and_stop_stops(open_page, tmp_path):
    page = open_page()
    large = pillow(synthetic_picture(0, 1200, 1600, 3), "PNG", compress_level=1)
    page.locator("#picture input[type=file]").set_input_files(write(tmp_path, "large.png", large))
    page.get_by_text(re.compile(r"[1-9]/6 tiles|[1-9] / 6")).first.wait_for()
    page.click("#stop")
    page.locator("#status", has_text="Stopped.").wait_for(timeout=60_000)
    page.locator("#stop").wait_for(state="hidden")


def test_a_picture_is_pasted(open_page):
    page = open_page()
    page.evaluate(
        """async (data) => {
            const bytes = await (await fetch("data:image/png;base64," + data)).arrayBuffer();
            const clipboard = new DataTransfer();
            clipboard.items.add(new File([bytes], "pasted.png", { type: "image/png" }));
            const event = new ClipboardEvent("paste", { clipboardData: clipboard, bubbles: true });
            document.body.dispatchEvent(event);
        }""",
        base64.b64encode(pillow(RGB, "PNG")).decode(),
    )
    page.locator("#status", has_text="pasted.png").wait_for(timeout=60_000)


def test_an_example_on_a_phone(open_page):
    page = open_page(viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    page.locator("#examples button").nth(3).tap()
    page.locator("#status", has_text="camera_sigma_50.png").wait_for(timeout=60_000)
    page.locator(AFTER).wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    address = page.get_attribute(BEFORE, "src")
    page.locator("#examples button").nth(3).tap()  # once more
    page.wait_for_function(
        "old => document.querySelector('#slider img')?.src.includes('file=') &&"
        " document.querySelector('#slider img').src !== old",
        arg=address,
    )
    assert page.locator("#slider").bounding_box()["width"] > 300
