"""A local web page for denoising pictures, in your browser.

    pip install -r requirements-demo.txt      # Gradio, once
    python demo.py                            # opens http://127.0.0.1:7860
    python demo.py --port 8000 --no_browser
    python demo.py --host 0.0.0.0 --max_megapixels 10    # for all machines that reach this one

The same networks, reader and writer as denoise.py. The page shows before and after, what was
removed and how much noise was found; strength and colour noise can be set afterwards, without
waiting. It asks no other host for anything, and its files are deleted when the page is closed
(docs/denoising.md). Exit status: 0, 1 if it cannot start, 2 for wrong arguments.
"""

import argparse
import importlib.util
import os
import signal
import tempfile
import threading
from pathlib import Path

from smnet import devices
from smnet.cli import make_parser, number, run_script, stop_signals
from smnet.weights import is_there
from utils import SMNetError

# --------------------------------------------------------------------------------------------------
# Defaults; each is also an option of the command line
DEFAULTS = dict(
    host="127.0.0.1",  # address to listen on: this machine only; 0.0.0.0: all network interfaces
    port=7860,
    max_megapixels=25,  # of a picture; larger ones are for denoise.py
    max_mb=200,  # of a picture's file
    weights_dir="weights",  # folder that train_*.py wrote weights to
    device="auto",  # auto, cpu, cuda, cuda:1 or mps
    no_browser=False,  # whether to leave it to you to open the page
)
# --------------------------------------------------------------------------------------------------


def main(argv: list[str] | None = None) -> int:
    """The command; runs until Ctrl-C, and returns 0."""
    args = parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="smnet_demo_") as folder:
        ended = threading.Event()
        for number_of_signal in stop_signals():
            signal.signal(number_of_signal, lambda *_: ended.set())
        blocks = launch(args, Path(folder))
        while not ended.wait(1):  # on Windows, Ctrl-C does not interrupt a wait without a limit
            pass
        blocks.close(verbose=False)
    return 0


def launch(args: argparse.Namespace, folder: Path):
    """Start the server in the background, with all its files in a folder -> Gradio's `Blocks`.

    Raises:
        SMNetError: Gradio is missing, the port is taken, or there is no such device.
    """
    if importlib.util.find_spec("gradio") is None:
        raise SMNetError("the page needs Gradio: pip install -r requirements-demo.txt")
    os.environ |= {"GRADIO_ANALYTICS_ENABLED": "False", "GRADIO_TEMP_DIR": str(folder)}
    from starlette.middleware import Middleware

    from smnet.demo import examples, layout, privacy
    from smnet.demo.page import Page
    from smnet.demo.sessions import Sessions
    from smnet.demo.work import Limits, Networks

    networks = Networks(devices.pick_device(args.device), args.weights_dir)
    limits = Limits(args.max_megapixels, args.max_mb)
    page = Page(networks, Sessions(folder), examples.make_examples(folder), limits)
    blocks = layout.build(page, real=is_there(3, None, args.weights_dir, real=True))
    try:
        blocks.launch(
            server_name=args.host,
            server_port=args.port,
            inbrowser=not args.no_browser,
            max_file_size=int(args.max_mb * 1e6),
            app_kwargs={"middleware": [Middleware(privacy.LocalOnly)]},
            theme=layout.THEME,
            css=layout.CSS,
            head=layout.PASTE,
            share=False,
            ssr_mode=False,
            footer_links=[],
            run_history=False,
            prevent_thread_lock=True,
            quiet=True,
        )
    except OSError:
        raise SMNetError(
            f"cannot listen on {args.host}, port {args.port}: in use, or no such address; "
            "give another --port or --host"
        ) from None
    print(f"SMNet is at {blocks.local_url} until you press Ctrl-C", flush=True)
    return blocks


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = make_parser(__doc__)
    option = parser.add_argument
    text = "address to listen on (default: %(default)s, this machine alone; 0.0.0.0: all that "
    text += "reach it)"
    option("--host", metavar="ADDRESS", help=text)
    option("--port", type=number(int, 1, 65535), metavar="N", help="default: %(default)s")
    text = "largest picture, million pixels, 0.01-250 (default: %(default)s)"
    option("--max_megapixels", type=number(float, 0.01, 250), metavar="N", help=text)
    text = "largest file, MB, at least 0.01 (default: %(default)s)"
    option("--max_mb", type=number(float, 0.01), metavar="N", help=text)
    text = "folder that train_*.py wrote weights to (default: %(default)s, else pretrained/)"
    option("--weights_dir", metavar="DIR", help=text)
    option("--device", metavar="NAME", help="auto, cpu, cuda, cuda:1 or mps (default: %(default)s)")
    option("--no_browser", action="store_true", help="do not open the page in a browser")
    parser.set_defaults(**DEFAULTS)
    return parser.parse_args(argv)


if __name__ == "__main__":
    run_script(main)
