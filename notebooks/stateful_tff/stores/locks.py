"""A lock on a file, held by one open store at a time.

Knows nothing of databases: it locks any file.
"""

import contextlib
import fcntl
import gc
import os
import stat
import weakref

from ..interrupts import interrupts_held_back


class FileLock:
    """A lock on a file, held by one open store at a time, and let go of by a kill.

    It is held on a file of its own beside it. SQLite's own lock is one of the process: it is
    gone as soon as anything else in the process reads the file and closes it again.

    Args:
        path: the file to lock; `path + ".lock"` is made beside it and stays there.

    Raises:
        OSError: if somebody holds the lock, the file system has no locks, or the file cannot be
            made.
    """

    _held = weakref.WeakSet()
    _descriptor = None

    def __init__(self, path: str):
        """See the class."""
        self._path = f"{path}.lock"
        if os.path.exists(path) and not stat.S_ISREG(os.stat(path).st_mode):
            raise OSError("no regular file" if not os.path.isdir(path) else "Is a directory")
        self._is_new = not os.path.exists(self._path)
        self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
        self._held.add(self)
        try:
            # SQLite locks in this way, so where it does not work neither does SQLite.
            fcntl.lockf(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            fcntl.lockf(self._descriptor, fcntl.LOCK_UN)
            self._take()
        except BaseException as error:
            with interrupts_held_back(for_good=True):
                if not isinstance(error, BlockingIOError):  # then it is somebody's
                    self.remove_if_new()
                self.release()
            raise

    def _take(self) -> None:
        """Takes the lock, also from a store that is open still but which nobody can reach."""
        mode = fcntl.LOCK_EX | fcntl.LOCK_NB
        try:
            fcntl.flock(self._descriptor, mode)
        except BlockingIOError:
            gc.collect()
            fcntl.flock(self._descriptor, mode)

    def remove_if_new(self) -> None:
        """Removes the file of the lock if it was made by this one, where opening failed."""
        if self._descriptor is not None and self._is_new:
            with contextlib.suppress(OSError):
                os.remove(self._path)

    def release(self) -> None:
        """Lets go of the lock."""
        with interrupts_held_back(for_good=True):
            self._held.discard(self)
            descriptor, self._descriptor = self._descriptor, None
            if descriptor is not None:
                os.close(descriptor)

    def __del__(self):
        """Lets go of the lock of a store that was lost before it was closed."""
        self.release()

    @classmethod
    def release_all(cls) -> None:
        """Lets go in a forked process, which would hold the locks for longer than its parent."""
        for lock in list(cls._held):
            lock.release()


os.register_at_fork(after_in_child=FileLock.release_all)
