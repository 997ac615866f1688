"""Infinity in an environment of its own: it wants older libraries than the project."""

import os
import subprocess
import sys
from pathlib import Path

FOLDER = Path(".cache") / "benchmarks-service"
PACKAGES = ["torch==2.13.0", "infinity-emb[torch,server]==0.0.78"]
PIP = ["-m", "pip", "--quiet", "--disable-pip-version-check"]


def interpreter(folder: Path = FOLDER) -> Path:
    """Return the interpreter that has Infinity; see `install`."""
    return folder.absolute() / "venv" / "bin" / "python"


def install(folder: Path = FOLDER) -> None:
    """Make the environment once; a change of PACKAGES makes it anew."""
    wanted = "\n".join(PACKAGES)
    stamp = folder / "installed.txt"
    if stamp.is_file() and stamp.read_text() == wanted:
        return
    stamp.unlink(missing_ok=True)
    python = str(interpreter(folder))
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder / "venv")], check=True)
    # torch first: on a CPU machine this keeps gigabytes of CUDA packages away.
    for count in (1, len(PACKAGES)):
        subprocess.run([python, *PIP, "install", *PACKAGES[:count]], check=True)
    stamp.write_text(wanted)


def serve(model: Path, name: str, port: int, log: Path, folder: Path = FOLDER) -> "subprocess.Popen[bytes]":
    """Start Infinity with a model's folder on a port of the loopback address, its defaults otherwise."""
    command = [
        str(interpreter(folder).with_name("infinity_emb")), "v2", "--model-id", str(model), "--served-model-name", name,
        "--engine", "torch", "--device", "cpu", "--host", "127.0.0.1", "--port", str(port), "--log-level", "warning",
        # It cannot be had for this version of transformers.
        "--no-bettertransformer",
    ]  # fmt: skip
    variables = {"HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1", "INFINITY_ANONYMOUS_USAGE_STATS": "0"}
    with log.open("w") as output:
        return subprocess.Popen(command, stdout=output, stderr=output, env={**os.environ, **variables})
