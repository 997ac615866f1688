"""The errors a caller can meet, grouped by what the caller can do about them."""


class RetrievalError(Exception):
    """Something the engine refuses or failed to do; the message names the value and the next step."""

    exit_code = 1


class InvalidInput(RetrievalError, ValueError):
    """The caller gave a value that is not allowed; change it and call again."""

    exit_code = 2


class PromptTooLong(InvalidInput):
    """A language model's window is shorter than the query with what is asked about it."""


class UnknownIndex(RetrievalError):
    """There is no index at that path or under that name."""

    exit_code = 3


class IndexMismatch(RetrievalError):
    """The index was made by another encoder, analyser or newer format; use the one it names."""

    exit_code = 4


class IndexCorrupt(RetrievalError):
    """A file of the index is missing, truncated or altered; restore it or rebuild."""

    exit_code = 5


class IndexLocked(RetrievalError):
    """Another process is writing to this index; wait for it or stop it."""

    exit_code = 6


class BackendUnavailable(RetrievalError):
    """A model, device or optional package is missing; the message says what to install or fetch."""

    exit_code = 7


class StorageFull(RetrievalError):
    """The disk is full; free the bytes that the message names, nothing was lost."""

    exit_code = 8


class ModelFault(RetrievalError):
    """A model gave NaN, infinite or constant scores; its result was not used."""

    exit_code = 9


class ModelUnavailable(RetrievalError):
    """A model takes no work now; ask again after `retry_after` seconds, or without the stages that need it."""

    exit_code = 7

    def __init__(self, message: str, retry_after: int = 5) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class ModelOverloaded(ModelUnavailable):
    """More requests wait for a model than it has room for."""


class DeadlineExceeded(RetrievalError):
    """Time ran out before there was anything to answer with; allow more of it, or ask for a stage without a model."""

    exit_code = 11


class OutOfMemory(RetrievalError, RuntimeError):
    """A device has too little memory for what was asked at once; send less, or give the model a smaller batch."""

    exit_code = 10
