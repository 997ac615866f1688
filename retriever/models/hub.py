"""Models of the Hugging Face hub: its local cache and its servers, safetensors only."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from retriever.errors import BackendUnavailable, InvalidInput, RetrievalError
from retriever.models.folder import is_model_folder
from retriever.storage import disk_errors

KEPT = [
    "*.safetensors",
    "*.safetensors.index.json",
    "*.json",
    "*.jinja",
    "*.txt",
    "*.model",
    "*.md",
    "LICENSE*",
]
"""What is fetched: no pickles, no Python, no weights of other frameworks."""

LEFT_OUT = ["onnx/*", "openvino/*", "original/*", "consolidated*"]

ANSWER_SECONDS = 5.0
"""How long one step of the first request may take."""

PATIENCE_SECONDS = 10.0
"""How long the first request may take in all, name look-up and redirects included."""


def cached(repository: str) -> Path | None:
    """Return the snapshot folder of the hub's local cache, or None; never touches the network."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        folder = Path(
            snapshot_download(repository, allow_patterns=KEPT, ignore_patterns=LEFT_OUT, local_files_only=True)
        )
    except (LocalEntryNotFoundError, HFValidationError):
        return None
    return folder if is_model_folder(folder) else None


def download(repository: str) -> Path:
    """Fetch a model from the hub into its local cache and return the snapshot folder.

    The first request decides within PATIENCE_SECONDS whether there is a hub at all. HF_HUB_OFFLINE,
    HF_ENDPOINT, HF_TOKEN and HF_HOME work as everywhere.
    Raises InvalidInput when the hub has no such model or no safetensors of it, BackendUnavailable when the
    hub cannot be reached, is switched off, or asks for a login.
    """
    from huggingface_hub import HfApi, constants, snapshot_download

    if constants.HF_HUB_OFFLINE:
        raise BackendUnavailable("the hub is switched off by HF_HUB_OFFLINE")
    info = _ask(repository, lambda: HfApi().model_info(repository, timeout=ANSWER_SECONDS))
    names = [sibling.rfilename for sibling in info.siblings or []]
    if not any(name.endswith(".safetensors") for name in names):
        raise InvalidInput(
            f"The hub's model {repository!r} has no safetensors weights, and other formats can run code "
            "when they are loaded. Choose another model, or convert it elsewhere and give the folder."
        )
    try:
        with disk_errors(Path(constants.HF_HUB_CACHE)):
            # By branch, not by commit: only then does the local cache know which snapshot is meant later.
            folder = Path(snapshot_download(repository, allow_patterns=KEPT, ignore_patterns=LEFT_OUT))
    except RetrievalError:
        raise
    except Exception as error:  # the hub client's transport has errors of its own, other ones in each version
        raise BackendUnavailable(f"downloading {repository} from the hub broke off: {_short(error)}") from error
    if not is_model_folder(folder):
        raise InvalidInput(f"The hub's model {repository!r} is incomplete: no config.json or modules.json.")
    return folder


def _ask(repository: str, question: Callable[[], Any]) -> Any:
    from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError

    try:
        return _within(PATIENCE_SECONDS, question)
    except HFValidationError as error:
        raise InvalidInput(f"{repository!r} is not a model name: {_short(error)}") from error
    except GatedRepoError as error:
        raise BackendUnavailable(
            f"The hub's model {repository!r} is given only after a login: accept its terms on its page, then "
            "run `hf auth login` or set HF_TOKEN."
        ) from error
    except RepositoryNotFoundError as error:
        raise InvalidInput(f"The hub has no public model {repository!r}.") from error
    except Exception as error:  # see above
        raise BackendUnavailable(f"the hub cannot be reached ({_short(error)})") from error


def _within(seconds: float, question: Callable[[], Any]) -> Any:
    # A name look-up knows no timeout, so it must be possible to walk away from it.
    answers: list[Any] = []
    errors: list[Exception] = []

    def ask() -> None:
        try:
            answers.append(question())
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(seconds)
    if errors:
        raise errors[0]
    if not answers:
        raise TimeoutError(f"no answer within {seconds:g} s")
    return answers[0]


def _short(error: Exception) -> str:
    first = str(error).strip().splitlines()
    return f"{type(error).__name__}: {first[0][:200]}" if first else type(error).__name__
