"""The functions of demo.py's page: what runs when something is done on it. Needs Gradio 6."""

import contextlib
import html
from collections.abc import Iterator
from pathlib import Path

import gradio as gr

from smnet.demo import work
from smnet.demo.examples import Example
from smnet.demo.sessions import MAX_PAGES, Session, Sessions
from smnet.demo.work import Limits, Networks, Stopped
from utils import SMNetError

FORGOTTEN = (
    f"This picture was forgotten, since {MAX_PAGES} other pages have been opened: drop it again."
)


class Page:
    """The functions that run when something is done on the page.

    Args:
        networks: to choose from.
        sessions: of the open pages.
        examples: pictures at hand.
        limits: of the pictures that are taken.
    """

    def __init__(
        self, networks: Networks, sessions: Sessions, examples: list[Example], limits: Limits
    ):
        self.networks, self.sessions = networks, sessions
        self.examples, self.limits = examples, limits

    def session(self, request: gr.Request) -> Session:
        """That of the page that asks."""
        return self.sessions.get(request.session_hash)

    def take_upload(self, path: str | None, request: gr.Request):
        """A picture was dropped or pasted; the drop area is ready for the next."""
        if path:
            self.sessions.take_upload(request.session_hash, Path(path))
        return None, gr.update(visible=True)

    def take_example(self, selected: gr.SelectData, request: gr.Request):
        """A picture at hand was chosen."""
        self.session(request).take(self.examples[selected.index].path)
        return gr.update(visible=True)

    def take_again(self, request: gr.Request):
        """Another network was chosen, for the same picture."""
        session = self.session(request)
        session.wanted = session.source is not None
        return gr.update(visible=session.wanted)

    def stop(self, request: gr.Request):
        """The stop button, which is then hidden; the network ends with the tile that it is at."""
        self.session(request).wanted = False
        return gr.update(visible=False)

    def close(self, request: gr.Request) -> None:
        """The page was closed."""
        self.sessions.close(request.session_hash)

    def run(
        self,
        choice: str,
        strength: float,
        apart: bool,
        chroma: float,
        request: gr.Request,
        progress: gr.Progress = gr.Progress(),  # noqa: B008  # where Gradio looks for it
    ):
        """Denoise the picture -> (status, results, slider, removed, sheet)."""
        session = self.session(request)
        session.result = None

        def on_tile(done: int, tiles: int) -> None:
            progress((done, tiles), desc="Denoising", unit="tiles")

        hidden = gr.update(visible=False)
        nothing = hidden, None, None, hidden
        try:
            with work.one_line_errors(session):
                result = work.denoise_picture(session, self.networks, choice, self.limits, on_tile)
                session.before = work.show_before(session, result)
                after, removed = work.show_after(
                    session, result, strength, chroma if apart else None
                )
                session.result = result
        except Stopped:
            said = FORGOTTEN if session.forgotten else "Stopped." if session.source else ""
            return message(said, error=session.forgotten), *nothing
        except SMNetError as error:
            return message(str(error), error=True), *nothing
        slider = str(session.before), str(after)
        return (table(work.describe(result)), gr.update(visible=True), slider, str(removed), hidden)

    def look(self, strength: float, apart: bool, chroma: float, request: gr.Request):
        """Show the result for these percents -> (slider, removed, download); no network runs."""
        session = self.session(request)
        result = session.result
        if result is None:
            if session.forgotten:
                raise gr.Error(FORGOTTEN, print_exception=False)
            return gr.skip(), gr.skip(), gr.skip()
        with errors_in_a_corner(session):
            after, removed = work.show_after(session, result, strength, chroma if apart else None)
        return (str(session.before), str(after)), str(removed), gr.update(interactive=False)

    def save(self, strength: float, apart: bool, chroma: float, request: gr.Request):
        """Write the file to download -> (download, notes)."""
        session = self.session(request)
        result, notes = session.result, []
        download = gr.update(value=None, interactive=False)
        if result:
            try:
                with work.one_line_errors(session):
                    percents = strength, chroma if apart else None
                    path, notes = work.save(session, result, *percents)
                download = gr.update(value=str(path), interactive=True)
            except SMNetError as error:
                notes = [str(error)]
            except Stopped:
                pass
        return download, gr.update(value=message("; ".join(notes)), visible=bool(notes))

    def draw_stages(self, request: gr.Request):
        """Draw the sheet of the two stages."""
        session = self.session(request)
        if session.result is None:
            return gr.update(visible=False)
        with errors_in_a_corner(session):
            sheet = work.draw_stages(session, session.result)
        return gr.update(value=str(sheet), visible=True)


@contextlib.contextmanager
def errors_in_a_corner(session: Session) -> Iterator[None]:
    """Have Gradio show what goes wrong with a picture that is on the page, as one line."""
    try:
        with work.one_line_errors(session):
            yield
    except (SMNetError, Stopped) as error:
        raise gr.Error(html.escape(str(error)), print_exception=False) from None


def message(text: str, *, error: bool = False) -> str:
    """A line of text as HTML."""
    return f'<p class="{"error" if error else "note"}">{html.escape(text)}</p>' if text else ""


def table(rows: dict[str, str]) -> str:
    """Names and values as HTML."""
    return f"<dl>{''.join(f'<dt>{k}</dt><dd>{html.escape(v)}</dd>' for k, v in rows.items())}</dl>"
