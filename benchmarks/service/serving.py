"""Services as processes of their own on the loopback address."""

import contextlib
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

HOST = "127.0.0.1"


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind((HOST, 0))
        return int(listener.getsockname()[1])


def serve(index: Path, port: int, log: Path, *flags: str, **settings: str) -> "subprocess.Popen[bytes]":
    """Start `retriever serve`; `settings` are environment variables without their prefix."""
    command = [sys.executable, "-m", "retriever.cli", "serve", str(index), "--port", str(port), "--offline"]
    environment = os.environ | {f"RETRIEVER__{name}": value for name, value in settings.items()}
    with log.open("w") as output:
        return subprocess.Popen([*command, "--device", "cpu", *flags], stdout=output, stderr=output, env=environment)


@contextlib.contextmanager
def serving(process: "subprocess.Popen[bytes]", url: str, log: Path) -> Iterator[None]:
    """Wait until a service answers; end it in the end.

    Raises RuntimeError with the end of its log if it ends, or does not answer in five minutes.
    """
    try:
        for _ in range(600):
            with contextlib.suppress(urllib.error.URLError, ConnectionError):
                if urllib.request.urlopen(url, timeout=5).status == 200:
                    break
            if process.poll() is not None:
                raise RuntimeError(log.read_text()[-3000:])
            time.sleep(0.5)
        else:
            raise RuntimeError(f"no answer from {url}: {log.read_text()[-3000:]}")
        yield
    finally:
        process.terminate()
        process.wait(60)
