"""The lock that keeps a second process out of a run that one is training."""

import contextlib
import os
import socket
from pathlib import Path

from utils import SMNetError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None


class RunLock:
    """Held from `acquire` to `release`, or until the process is gone.

    A lock of POSIX, which forked processes do not share: data workers may outlive their run by
    seconds. On Windows, and on disks that know no locks, nothing is locked.

    Args:
        path: of the file that is locked; it is there as long as the lock is held.
        run: what is locked, for the message.
    """

    def __init__(self, path: Path, run: str):
        self.path, self.run = path, run
        self.descriptor: int | None = None  # of the open file

    def acquire(self) -> None:
        """Take the lock, if the folder is there and this process does not have it already.

        Raises:
            SMNetError: another process has it; the line says which.
        """
        if fcntl is None or self.descriptor is not None or not self.path.parent.is_dir():
            return
        while self.descriptor is None:
            try:
                descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
            except OSError:  # a folder that may not be written, which is said later
                return
            try:
                fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if self.is_at_path(descriptor):
                    self.descriptor = descriptor
            except (BlockingIOError, PermissionError):
                holder = os.read(descriptor, 1000).decode(errors="replace") or "another process"
                raise SMNetError(
                    f"{holder} is training {self.run}; end it first, or give another --weights_dir "
                    "and --log_dir"
                ) from None
            except OSError:  # a network disk without locks
                self.path.unlink(missing_ok=True)
                return
            finally:
                if self.descriptor is None:
                    os.close(descriptor)
        with contextlib.suppress(OSError):  # a full disk: the name is for the message alone
            os.truncate(self.descriptor, 0)
            os.write(self.descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode())

    def is_at_path(self, descriptor: int) -> bool:
        """Whether an open file is still the one at `path`: who had the lock removes it."""
        try:
            return os.path.samestat(os.fstat(descriptor), self.path.stat())
        except FileNotFoundError:
            return False

    def release(self) -> None:
        """Give the lock back, if this process has it."""
        if self.descriptor is not None:
            with contextlib.suppress(OSError):
                self.path.unlink()
            os.close(self.descriptor)
            self.descriptor = None
