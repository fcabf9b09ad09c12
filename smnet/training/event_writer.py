"""TensorBoard's files, of which a kill loses nothing that the training state has passed."""

import time
from pathlib import Path

from tensorboardX import summary
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from torch import Tensor

from utils import SMNetError

Point = tuple[str, float, int]  # (tag, value, step)


class EventWriter:
    """Writes numbers and pictures for TensorBoard, in this thread, so that a full disk is one line.

    Args:
        folder: where the event files go.
        first_step: the next step; what an interrupted run wrote from it on is hidden.
        to_disk: False in all processes but the first.
        points: those that a training state had kept: they are written again.

    Attributes:
        points: the numbers since `forget_points`, for the training state.

    Raises (as all methods do):
        SMNetError: the folder cannot be written to.
    """

    def __init__(
        self, folder: Path, *, first_step: int, to_disk: bool, points: list[Point] | None = None
    ):
        self.folder, self.points = folder, []
        self.writer = None
        if not to_disk:
            return
        try:
            # tensorboardX names a file by the second: a quick restart would replace the one before
            self.writer = EventsWriter(str(folder / "events"), filename_suffix=f".{time.time_ns()}")
        except OSError as error:
            raise self.failure(error) from None
        again: list[Point] = [(tag, value, step) for tag, value, step in points or []]
        first_step = min([first_step, *(step for _, _, step in again)])
        if first_step > 1:
            start = SessionLog(status=SessionLog.START)
            self.write(Event(wall_time=time.time(), step=first_step, session_log=start))
        for tag, value, step in again:
            self.scalars({tag: value}, step)

    def failure(self, error: OSError) -> SMNetError:
        return SMNetError(f"cannot write into {self.folder}: {error.strerror}")

    def write(self, event: Event) -> None:
        try:
            self.writer.write_event(event)
        except OSError as error:
            raise self.failure(error) from None

    def scalars(self, values: dict[str, float], step: int) -> None:
        """Write numbers by tag."""
        if not self.writer:
            return
        for tag, value in values.items():
            content = summary.scalar(tag, value)
            self.write(Event(wall_time=time.time(), step=step, summary=content))
            self.points.append((tag, value, step))

    def image(self, tag: str, picture: Tensor, step: int) -> None:
        """Write a picture (3, H, W) in [0, 1]."""
        if self.writer:
            content = summary.image(tag, picture.numpy())
            self.write(Event(wall_time=time.time(), step=step, summary=content))

    def flush(self) -> None:
        """Have the file hold all that was written so far."""
        if self.writer:
            try:
                self.writer.flush()
            except OSError as error:
                raise self.failure(error) from None

    def forget_points(self) -> None:
        """The file has them: begin anew with `points`."""
        self.flush()
        self.points = []

    def close(self) -> None:
        """Write what is left."""
        if self.writer:
            try:
                self.writer.close()
            except OSError as error:
                raise self.failure(error) from None
            finally:
                self.writer = None
