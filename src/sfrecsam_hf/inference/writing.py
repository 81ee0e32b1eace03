"""Files are written whole or not at all: an interrupted run or a full disk leaves what was there before."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .inputs import shown


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """
    A place to write to beside `path`. It takes the place of `path` when the block ends, and is removed if it fails.

    Args:
        path (`Path`): What is to be written.
    """
    fresh = path.with_name(f"{path.name}.new")
    try:
        yield fresh
        fresh.replace(path)
    except BaseException:
        with suppress(OSError):  # a name that is too long, or a folder that is gone
            fresh.unlink(missing_ok=True)
        raise


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
    where = shown(error.filename or path)
    return f"{where}: {(error.strerror or str(error)).lower()}; {remedy}."
