"""Devices of models that no batcher runs: whether one was lost."""

from collections.abc import Callable
from typing import Any


class Watched:
    """A model, unchanged but for a look at what it raises.

    note  told of every exception; see `is_sticky`
    """

    def __init__(self, model: Any, note: Callable[[Exception], None]) -> None:
        self._model = model
        self._note = note

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._model, name)
        if not callable(found):
            return found

        def called(*arguments: Any, **options: Any) -> Any:
            try:
                return found(*arguments, **options)
            except Exception as error:
                self._note(error)
                raise

        return called


def is_sticky(error: BaseException) -> bool:
    """Tell whether a CUDA context is lost, after which every call fails until the process is started anew."""
    import torch

    kind = getattr(torch, "AcceleratorError", None)
    return (kind is not None and isinstance(error, kind)) or "CUDA error" in str(error)


def reason_of(error: BaseException) -> str:
    """Return the first line of what a device said when it was lost."""
    return (str(error).splitlines() or [type(error).__name__])[0]
