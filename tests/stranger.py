"""A user of the Hub who has never installed this package."""

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import torch
from hub_server import Hub


def bare_environment(hub: Hub, home: Path, *libraries: str | Path, **variables: str) -> dict[str, str]:
    """Of a process that finds nothing but these libraries, whose cache is `home`, without a token."""
    return {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": os.pathsep.join(map(str, libraries)),
        "OMP_NUM_THREADS": str(torch.get_num_threads()),  # sums split over other threads round otherwise
        **hub.environment(str(home), token=False),
        **variables,
    }


def run_as_stranger(
    hub: Hub, folder: Path, code: str, path: Path | None = None, **variables: str
) -> subprocess.CompletedProcess:
    """
    Runs `code` in a fresh process, in `folder`, whose cache is `folder / "home"`, without a token.

    The installed libraries are on its path; an editable install of this package is not, since `-S` leaves the `.pth`
    files of site-packages unread.
    """
    code = 'import importlib.util\nassert importlib.util.find_spec("sfrecsam_hf") is None\n' + code
    libraries = [*([path] if path else []), *dict.fromkeys(map(sysconfig.get_path, ("purelib", "platlib")))]
    done = subprocess.run(
        [sys.executable, "-S", "-c", code],
        cwd=folder,
        env=bare_environment(hub, folder / "home", *libraries, **variables),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done
