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
        with contextlib.suppress(OSError):  # a folder that may not be written, which is said later
            while True:
                descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
                if self.locked(descriptor):
                    break
                os.close(descriptor)  # who had the lock has just removed the file

    def locked(self, descriptor: int) -> bool:
        """Lock an open file; False: it is no longer the one at `path`."""
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            holder = os.read(descriptor, 1000).decode(errors="replace") or "another process"
            os.close(descriptor)
            raise SMNetError(
                f"{holder} is training {self.run}; end it first, or give another --weights_dir and "
                "--log_dir"
            ) from None
        except OSError:  # a network disk without locks
            self.path.unlink(missing_ok=True)
            os.close(descriptor)
            return True
        try:
            if not os.path.samestat(os.fstat(descriptor), self.path.stat()):
                return False
        except FileNotFoundError:
            return False
        self.descriptor = descriptor
        os.truncate(descriptor, 0)
        os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode())
        return True

    def release(self) -> None:
        """Give the lock back, if this process has it."""
        if self.descriptor is not None:
            with contextlib.suppress(OSError):
                self.path.unlink()
            os.close(self.descriptor)
            self.descriptor = None
