"""A lock of the operating system for each worker: it is let go the moment its process ends, however it ends."""

import hashlib
import os
from pathlib import Path

try:
    import fcntl
except ImportError:  # not on Windows: there a dead worker is known by its lease alone
    fcntl = None


class WorkerLocks:
    """The locks that this process holds and looks at, as files beside the database."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._held: dict[str, int] = {}
        self._usable = fcntl is not None and path != ":memory:"

    def hold(self, worker: str) -> None:
        """Take the worker's lock until `let_go`, or until the process ends."""
        if self._usable and worker not in self._held:
            descriptor = self._try(worker)
            if descriptor is not None:
                self._held[worker] = descriptor

    def is_free(self, worker: str) -> bool:
        """Whether the process that held the worker's lock is gone. A lock of unknown state is not free."""
        if not self._usable or worker in self._held:
            return False
        descriptor = self._try(worker)
        if descriptor is None:
            return False
        self._remove(worker, descriptor)
        return True

    def let_go(self, worker: str) -> None:
        """Give the worker's lock up."""
        descriptor = self._held.pop(worker, None)
        if descriptor is not None:
            self._remove(worker, descriptor)

    def let_go_of_all(self) -> None:
        """Give all of them up."""
        for worker in list(self._held):
            self.let_go(worker)

    def _file(self, worker: str) -> Path:
        return Path(f"{self._path}-worker-{hashlib.sha256(worker.encode()).hexdigest()[:12]}")

    def _try(self, worker: str) -> int | None:
        assert fcntl is not None
        try:
            descriptor = os.open(self._file(worker), os.O_RDWR | os.O_CREAT, 0o644)
        except OSError:
            return None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            return None
        return descriptor

    def _remove(self, worker: str, descriptor: int) -> None:
        # Removed while it is still held: nobody else can take a name that is about to go.
        self._file(worker).unlink(missing_ok=True)
        os.close(descriptor)
