"""The folder that a training ends in: never over what no training made, and whole or not at all."""

import shutil
from collections.abc import Callable
from pathlib import Path

from retriever.errors import InvalidInput
from retriever.storage import require_writable


def require_free(output: Path, mark: str, *, restart: bool) -> None:
    """Refuse a folder that must not be replaced, before any work is done.

    mark     file that a finished training leaves in its folder
    restart  whether a finished one may be replaced; a folder of anything else never is

    Raises InvalidInput, StorageFull and OSError's like in `require_writable`.
    """
    if not output.name:
        raise InvalidInput(f"{output} cannot become a model's folder; name a new one.")
    require_writable(output)
    if (output / mark).is_file():
        if not restart:
            raise InvalidInput(
                f"{output} holds a finished training; give another --output, or --restart to replace it."
            )
    elif output.is_dir() and any(output.iterdir()):
        raise InvalidInput(f"{output} holds files that are of no finished training; give another --output.")


def publish(source: Path, output: Path, complete: Callable[[Path], None], *, without: tuple[str, ...] = ()) -> None:
    """Copy a model's folder to `output`, which it replaces once all is there.

    complete  adds to the copy what comes with it
    without   names that are not copied
    """
    part = output.with_name(f".{output.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    shutil.copytree(source, part, ignore=shutil.ignore_patterns(*without))
    complete(part)
    if output.exists():
        shutil.rmtree(output)
    part.replace(output)
