"""The layout of demo.py's page, and which function runs when. Needs Gradio 6."""

from typing import Any, NamedTuple

import gradio as gr

from smnet.demo.page import Page
from smnet.demo.privacy import take_files_only
from smnet.demo.work import NETWORKS, PHOTOGRAPH, Limits

WEEK = 7 * 86400  # seconds
QUEUE = 5  # what may wait; more is refused
NETWORK = "network"  # what runs a network, one at a time
FONTS = ["system-ui", "sans-serif"]  # of the visitor's machine: none is fetched
THEME = gr.themes.Default(font=FONTS, font_mono=["ui-monospace", "monospace"])
CSS = """
#status { min-height: 90px }
#status dl { display: grid; grid-template-columns: max-content auto; gap: 0 1em; margin: 0 }
#status dd { margin: 0; overflow-wrap: anywhere }
.error { color: #b91c1c; font-weight: 600; overflow-wrap: anywhere }
.dark .error { color: #fca5a5 }
"""
# A picture from the clipboard takes the way of one that is dropped.
PASTE = """<script>document.addEventListener("paste", (event) => {
  const file = event.clipboardData.files[0];
  const input = document.querySelector("#picture input[type=file]");
  if (!file || !input) return;
  const files = new DataTransfer();
  files.items.add(file);
  input.files = files.files;
  input.dispatchEvent(new Event("change", { bubbles: true }));
});</script>"""
# On a phone the results are below the fold.
SCROLL = """() => window.innerWidth < 700 &&
  document.querySelector("#status").scrollIntoView({ behavior: "smooth" })"""


class Inputs(NamedTuple):
    """Where a picture comes from, and the network for it."""

    picture: gr.File
    examples: gr.Gallery
    network: gr.Radio


class Views(NamedTuple):
    """What becomes of it."""

    status: gr.HTML
    stop: gr.Button
    results: gr.Column
    slider: gr.ImageSlider
    strength: gr.Slider
    apart: gr.Checkbox
    chroma: gr.Slider
    download: gr.DownloadButton
    notes: gr.HTML
    removed: gr.Image
    draw: gr.Button
    sheet: gr.Image

    @property
    def percents(self) -> list:
        """What `Page.look` takes."""
        return [self.strength, self.apart, self.chroma]


def introduction(limits: Limits, *, real: bool) -> str:
    """What the page says of itself, in Markdown; `real`: whether there is a network trained on the
    noise of cameras."""
    text = f"""# SMNet
Drop or paste a noisy picture: PNG, JPEG, TIFF, WebP, BMP or GIF of 8 or 16 bits, up to
{limits.megapixels:g} megapixels and {limits.megabytes:g} MB. It goes to the computer that runs this
page and nowhere else. Pictures are denoised one at a time, and all files are deleted when you close
the page."""
    if not real:
        text += f"""

There is no network trained on photographs here yet: *{PHOTOGRAPH}* uses the one for white noise of
any level."""
    return text


def build(page: Page, *, real: bool) -> gr.Blocks:
    """The page, ready to be launched; `real` as in `introduction`."""
    # Files are deleted when their page is closed, and what is left, by Gradio.
    with gr.Blocks(title="SMNet", analytics_enabled=False, delete_cache=(3600, WEEK)) as blocks:
        gr.Markdown(introduction(page.limits, real=real))
        with gr.Row():
            with gr.Column(scale=1, min_width=300):
                inputs = lay_out_inputs(page)
            with gr.Column(scale=2, min_width=300):
                views = lay_out_views()
        connect(page, inputs, views)
        blocks.unload(page.close)
        take_files_only(blocks)
    return blocks.queue(max_size=QUEUE, default_concurrency_limit=1)


def lay_out_inputs(page: Page) -> Inputs:
    """The column that a visitor begins with."""
    picture = gr.File(label="Picture", height=150, elem_id="picture")
    examples = gr.Gallery(
        [(str(example.path), example.caption) for example in page.examples],
        label="Or try one of these",
        columns=2,
        height="auto",
        allow_preview=False,
        interactive=False,
        buttons=[],
        elem_id="examples",
    )
    network = gr.Radio([*NETWORKS], value=PHOTOGRAPH, label="Noise", elem_id="network")
    return Inputs(picture, examples, network)


def lay_out_views() -> Views:
    """The column of results."""
    status = gr.HTML(elem_id="status")
    stop = gr.Button("Stop", variant="stop", visible=False, elem_id="stop")
    plain: dict[str, Any] = {"buttons": ["fullscreen"], "interactive": False}
    with gr.Column(visible=False, elem_id="results") as results:
        slider = gr.ImageSlider(label="Before and after", format="png", elem_id="slider", **plain)
        strength = gr.Slider(0, 100, 100, step=1, label="Strength, percent", elem_id="strength")
        apart = gr.Checkbox(label="Separate strength for colour noise", elem_id="apart")
        label = "Strength for colour noise, percent"
        chroma = gr.Slider(0, 100, 100, step=1, label=label, visible=False, elem_id="chroma")
        download = gr.DownloadButton(
            "Download", variant="primary", interactive=False, elem_id="download"
        )
        notes = gr.HTML(visible=False)
        label = "Removed noise, x 4 around mid-grey"
        removed = gr.Image(label=label, elem_id="removed", **plain)
        draw = gr.Button("Look inside the network", elem_id="draw")
        sheet = gr.Image(show_label=False, visible=False, elem_id="sheet", **plain)
    return Views(
        status,
        stop,
        results,
        slider,
        strength,
        apart,
        chroma,
        download,
        notes,
        removed,
        draw,
        sheet,
    )


def connect(page: Page, inputs: Inputs, views: Views) -> None:
    """Say which function runs when."""
    picture, examples, network = inputs
    private: dict[str, Any] = {"api_visibility": "private"}
    at_once: dict[str, Any] = {"queue": False, "show_progress": "hidden", **private}
    starts = [
        picture.upload(page.take_upload, picture, [picture, views.stop], **at_once),
        examples.select(page.take_example, None, views.stop, **at_once),
        network.input(page.take_again, None, views.stop, **at_once),
    ]
    for start in starts:
        start.then(None, js=SCROLL)
    shown = [views.status, views.results, views.slider, views.removed, views.sheet]
    runs = [
        start.then(
            page.run,
            [network, *views.percents],
            shown,
            show_progress_on=views.status,
            concurrency_id=NETWORK,
            **private,
        )
        for start in starts
    ]
    look = gr.on(
        [each.change for each in views.percents],
        page.look,
        views.percents,
        [views.slider, views.removed, views.download],
        show_progress="hidden",
        trigger_mode="always_last",
        **private,
    )
    for run in runs:
        run.then(lambda: gr.update(visible=False), None, views.stop, **at_once)
    saved = [views.download, views.notes]
    for event in (*runs, look):
        event.then(page.save, views.percents, saved, show_progress="hidden", **private)
    views.apart.change(lambda on: gr.update(visible=on), views.apart, views.chroma, **at_once)
    views.stop.click(page.stop, None, views.stop, **at_once)
    views.draw.click(page.draw_stages, None, views.sheet, concurrency_id=NETWORK, **private)
