"""Files are written whole or not at all: an interrupted run or a full disk leaves what was there before."""

import ctypes
import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .inputs import shown

AT_FDCWD, RENAME_EXCHANGE = -100, 2  # of Linux


@contextmanager
def replacing(path: Path, main: bool = True) -> Iterator[Path]:
    """
    A place to write to beside `path`. It takes the place of `path` when the block ends, and is removed if it fails.

    A folder keeps the files of the one before it that it does not bring itself. It is whole at any moment.

    Args:
        path (`Path`): The file or folder that is to be written.
        main (`bool`): Whether this process is the one of several that puts it in place.
    """
    fresh = path.with_name(f"{path.name}.new")
    try:
        if main:
            remove(fresh)  # of a process that was killed
        yield fresh
        if main and path.is_dir() and fresh.is_dir():
            for part in path.iterdir():
                if not (fresh / part.name).exists():
                    (shutil.copytree if part.is_dir() else shutil.copy2)(part, fresh / part.name)
            _exchange(fresh, path)
            remove(fresh)
        elif main:
            fresh.replace(path)
    except BaseException:
        with suppress(OSError):  # a name that is too long, or a folder that is gone
            remove(fresh)
        raise


def _exchange(one: Path, other: Path) -> None:
    """Two folders change places: on Linux in one step, elsewhere in three."""
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        done = not libc.renameat2(AT_FDCWD, os.fsencode(one), AT_FDCWD, os.fsencode(other), RENAME_EXCHANGE)
    except (AttributeError, OSError, TypeError):  # another system
        done = False
    if not done:
        aside = one.with_name(f"{other.name}.old")
        other.rename(aside)
        one.rename(other)
        aside.rename(one)


def remove(path: Path) -> None:
    """Removes a file or a folder, if it is there."""
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)


def is_full(error: OSError) -> bool:
    """Whether no other file can be written either."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


def in_words(error: OSError, path: Path) -> str:
    """One sentence for a file that cannot be read or written: which, why, and what to do."""
    remedies = {
        errno.ENAMETOOLONG: "rename the image",
        errno.ENOSPC: "free some space; the same command with --resume goes on from there",
        errno.EDQUOT: "free some space; the same command with --resume goes on from there",
        errno.EACCES: "change its permissions or choose another folder",
        errno.EISDIR: "move that folder or choose another --output",
        errno.ENOTDIR: "choose another --output",
        errno.EEXIST: "choose another --output",
    }
    remedy = remedies.get(error.errno, "check the path and the disk")
    where = shown(error.filename2 or error.filename or path)  # what a file was to be named is what is in the way
    return f"{where}: {(error.strerror or str(error)).lower()}; {remedy}."
