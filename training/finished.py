"""The folder that a training ends in: never over what no training made, and whole or not at all."""

import shutil
from collections.abc import Callable
from pathlib import Path

from retriever.errors import InvalidInput
from retriever.storage import require_writable
from training.fitting import FINISHED
from training.stages import DONE

# What a fit and its stage leave beside the model.
STATE = ("checkpoints", DONE, FINISHED, "stopped")


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


def copy_model(source: Path, target: Path) -> None:
    """Copy a model out of its stage's folder, without what a fit keeps to go on; over an earlier copy where one is."""
    shutil.copytree(source, target, ignore=shutil.ignore_patterns(*STATE), dirs_exist_ok=True)


def publish(source: Path, output: Path, complete: Callable[[Path], None]) -> None:
    """Copy a model's folder to `output`, which it replaces once all is there.

    complete  adds to the copy what comes with it
    """
    part = output.with_name(f".{output.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    copy_model(source, part)
    complete(part)
    if output.exists():
        shutil.rmtree(output)
    part.replace(output)
