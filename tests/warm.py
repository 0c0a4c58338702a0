"""Python programs in processes that fork from one with torch in it: each saves 2 s of a core.

All else is as in a fresh process: pid and start time, environment, folder, the project's modules.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from multiprocessing.process import BaseProcess
from multiprocessing.reduction import DupFd
from pathlib import Path

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["numpy", "torch"])  # nothing that reads the environment


def start(
    arguments: Sequence[str | Path],
    folder: Path,
    environment: Mapping[str, str],
    files: Sequence[int] = (),
    outputs: tuple[Path, Path] = (Path(os.devnull), Path(os.devnull)),
) -> BaseProcess:
    """Start `python ARGUMENTS... FILES...` in `folder`; open `files` are handed on by number.

    `python -c CODE` and `python SCRIPT` are all it knows.
    """
    handed = tuple(DupFd(file) for file in files)
    given = (tuple(map(str, arguments)), folder, dict(environment), handed, outputs)
    process = _CONTEXT.Process(target=_run, args=given)
    process.start()
    return process


def run_python(
    *arguments: str | Path, folder: Path, environment: Mapping[str, str]
) -> subprocess.CompletedProcess[str]:
    """Run it to its end."""
    with tempfile.TemporaryDirectory() as place:
        outputs = Path(place, "stdout"), Path(place, "stderr")
        process = start(arguments, folder, environment, outputs=outputs)
        process.join(120)
        if process.exitcode is None:
            process.kill()
            process.join()
            raise subprocess.TimeoutExpired(list(map(str, arguments)), 120)
        said, errors = (path.read_text() for path in outputs)
    return subprocess.CompletedProcess(arguments, process.exitcode, said, errors)


def _run(
    arguments: tuple[str, ...],
    folder: Path,
    environment: dict[str, str],
    files: tuple[DupFd, ...],
    outputs: tuple[Path, Path],
) -> None:
    import torch

    torch.set_num_threads(1)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    for number, path in enumerate(outputs, start=1):
        opened = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
        os.dup2(opened, number)
        os.close(opened)
    way, *rest = arguments
    code = rest.pop(0) if way == "-c" else ""
    sys.argv = [way, *rest, *(str(file.detach()) for file in files)]
    own = folder if code else Path(way).parent.absolute()
    sys.path[:0] = [str(own), *filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))]
    if code:
        exec(compile(code, "<string>", "exec"), {"__name__": "__main__"})
    else:
        runpy.run_path(way, run_name="__main__")
