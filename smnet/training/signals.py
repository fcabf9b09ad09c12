"""Ctrl-C, SIGTERM as preempted machines send it, and SIGHUP of a terminal that is closed, turned
into a wish that the training loop grants at a good moment."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from smnet.cli import HANGUP, say, stop_signals, to_nowhere


class StopRequest:
    """Within the `with` block: notes a signal in `.signal`, for the loop to save and stop after the
    step at hand.

    A second Ctrl-C stops at once, without saving; so does any signal within `at_once()`, where all
    has just been saved. Stopping is `SystemExit` with 128 + the signal's number, as a shell reports
    it.
    """

    def __init__(self):
        self.signal = 0  # the number of the signal that came, 0: none
        self.immediate = False

    def __enter__(self) -> "StopRequest":
        self.before = {}
        if threading.current_thread() is threading.main_thread():  # others cannot have handlers
            for number in stop_signals():
                self.before[number] = signal.signal(number, self.receive)
        self.terminals = [number for number in (1, 2) if os.isatty(number)]
        return self

    def __exit__(self, *exception) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def receive(self, number: int, frame: object) -> None:
        if number == HANGUP:
            for terminal in self.terminals:  # writing to a closed one would be an error
                to_nowhere(terminal)
        if self.immediate or self.signal == number == signal.SIGINT:
            self.stop(number, "what was saved before is kept")
        self.signal = number

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Within this block signals stop without waiting."""
        if self.signal:
            self.stop(self.signal, "the training state is saved")
        self.immediate = True
        try:
            yield
        finally:
            self.immediate = False

    def stop(self, number: int, what: str) -> None:
        """Say so and raise SystemExit."""
        say(f"\nstopped by {signal.Signals(number).name}: {what}; go on with --resume")
        raise SystemExit(128 + number)
