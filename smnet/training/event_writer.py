"""TensorBoard's files, written so that a full disk is one line and not a hanging process."""

import contextlib
import threading
from pathlib import Path

from tensorboardX import SummaryWriter
from torch import Tensor

from utils import SMNetError


class EventWriter:
    """tensorboardX's writer, whose thread may fail: that is then raised by the next call here.

    Args:
        folder: where the event files go.
        first_step: the next step; what an interrupted run wrote from it on is hidden.
        to_disk: False in all processes but the first.

    Raises (as all methods do):
        SMNetError: the folder cannot be written to.
    """

    def __init__(self, folder: Path, *, first_step: int, to_disk: bool):
        self.folder, self.failures = folder, []
        self.hook_before, threading.excepthook = threading.excepthook, self.thread_failed
        try:
            self.writer = SummaryWriter(
                str(folder),
                purge_step=first_step if first_step > 1 else None,
                write_to_disk=to_disk,
                max_queue=1000,
            )
        except OSError as error:
            self.failures.append(error)
            self.check()

    def thread_failed(self, failure: threading.ExceptHookArgs) -> None:
        """Called by Python where a thread ends with an exception."""
        if isinstance(failure.exc_value, OSError):
            self.failures.append(failure.exc_value)
        else:
            self.hook_before(failure)

    def check(self) -> None:
        """Raise if the writing thread has failed: nothing takes from its queue any more, which
        would fill and block."""
        if self.failures:
            with contextlib.suppress(
                AttributeError
            ):  # or the process would wait at its end for somebody to take the rest
                self.writer.file_writer.event_writer._event_queue.cancel_join_thread()
            raise SMNetError(f"cannot write into {self.folder}: {self.failures[0].strerror}")

    def scalars(self, values: dict[str, float], step: int) -> None:
        """Write numbers by tag."""
        self.check()
        for tag, value in values.items():
            self.writer.add_scalar(tag, value, step)

    def image(self, tag: str, picture: Tensor, step: int) -> None:
        """Write a picture (3, H, W) in [0, 1]."""
        self.check()
        self.writer.add_image(tag, picture, step)

    def close(self) -> None:
        """Write what is left."""
        self.check()
        try:
            self.writer.close()
        except OSError as error:  # the thread lives on, and will fail as well: the hook stays
            self.failures.append(error)
            self.check()
        threading.excepthook = self.hook_before
