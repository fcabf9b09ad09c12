"""What each open page holds: a folder of files to show, the picture, and what came of it."""

import contextlib
import dataclasses
import itertools
import os
import secrets
import shutil
import threading
from pathlib import Path

from torch import Tensor

from smnet.photos.photo import Photo, to_tensor
from smnet.tiling import Denoiser

MAX_PAGES = 8  # pages whose pictures are kept; beyond that, the oldest are forgotten
VERSIONS = 3  # of each file to show that are kept


@dataclasses.dataclass(frozen=True)
class Result:
    """A picture that has been through a network, as it lies in its file."""

    name: str  # of the file
    photo: Photo
    denoised: Tensor  # (C, H, W), not clamped
    denoiser: Denoiser
    weights: str  # the file of the network
    seconds: float

    @property
    def noisy(self) -> Tensor:
        """(C, H, W) in [0, 1]; made anew to save memory."""
        return to_tensor(self.photo)


class Session:
    """An open page.

    Args:
        folder: for all its files; made here, and removed by `close`.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.source: Path | None = None  # the picture to denoise
        self.upload: Path | None = None  # where it came from, if it was uploaded
        self.result: Result | None = None
        self.before: Path | None = None  # the picture of the result as it is shown
        self.wanted = False  # whether somebody still waits for the result
        self.forgotten = False  # whether it had a picture that gave way to those of other pages
        self.numbers = itertools.count()
        self.made: dict[str, list[Path]] = {}  # folders of files, by kind
        folder.mkdir(parents=True)

    def take(self, path: Path) -> None:
        """Make a copy of a file the picture to denoise."""
        shutil.rmtree(self.folder / "source", ignore_errors=True)
        target = self.folder / "source" / path.name
        target.parent.mkdir(parents=True)
        try:
            os.link(path, target)
        except OSError:  # a file system without links
            shutil.copyfile(path, target)
        self.source, self.wanted, self.forgotten = target, True, False

    def new_file(self, kind: str, name: str) -> Path:
        """The path for a file called `name`, in a folder of its own; of a kind, the last few are
        kept, since the browser may still be reading them."""
        folder = self.folder / f"{kind}_{next(self.numbers)}"
        folder.mkdir()
        made = self.made.setdefault(kind, [])
        made.append(folder)
        while len(made) > VERSIONS:
            shutil.rmtree(made.pop(0), ignore_errors=True)
        return folder / name

    def close(self) -> None:
        """Stop the work, forget the picture and delete all files."""
        self.wanted, self.result, self.source = False, None, None
        shutil.rmtree(self.folder, ignore_errors=True)


class Sessions:
    """The open pages, by Gradio's session hash.

    Args:
        folder: for the folders of the pages, whose names cannot be guessed.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.open: dict[str, Session] = {}
        self.forgotten: set[str] = set()  # pages whose pictures gave way to others'
        self.lock = threading.Lock()

    def get(self, key: str) -> Session:
        """The session of a page, new if need be."""
        with self.lock:
            if key not in self.open:
                self.open[key] = Session(self.folder / secrets.token_hex(16))
                self.open[key].forgotten = key in self.forgotten
            session = self.open[key] = self.open.pop(key)  # the last one used is the last
            displaced = {old: self.open.pop(old) for old in [*self.open][:-MAX_PAGES]}
            for old, page in displaced.items():
                if page.source is not None:
                    page.forgotten = True  # for a network that is at work on it
                    self.forgotten.add(old)
        for page in displaced.values():
            self.end(page)
        return session

    def take_upload(self, key: str, path: Path) -> None:
        """Make a file that Gradio received the picture of a page."""
        session = self.get(key)
        before, session.upload = session.upload, path
        session.take(path)
        self.delete_upload(before)

    def close(self, key: str) -> None:
        """Forget a page."""
        with self.lock:
            session = self.open.pop(key, None)
            self.forgotten.discard(key)
        if session:
            self.end(session)

    def end(self, session: Session) -> None:
        """Delete all files of a page that is no longer open."""
        session.close()
        self.delete_upload(session.upload)

    def delete_upload(self, path: Path | None) -> None:
        """Delete a file that Gradio received, unless another page has it, too: Gradio keeps equal
        files once."""
        with self.lock:
            if path is None or any(session.upload == path for session in self.open.values()):
                return
            if path.parent == self.folder:  # an example, which a visitor may send as an upload
                return
            path.unlink(missing_ok=True)
            with contextlib.suppress(OSError):
                path.parent.rmdir()
