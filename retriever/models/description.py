"""What a model is and where it came from, read from its files without loading the weights."""

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from retriever.errors import InvalidInput
from retriever.models.cache import PROVENANCE, models_folder, provenance
from retriever.models.catalogue import PinnedModel, pinned
from retriever.models.folder import modules, read_object, weights
from retriever.models.resolve import locate
from retriever.storage import sha256_of

UNLIMITED = 1_000_000
"""Tokenizers without a limit of their own record one of about 1e30."""

MAX_CARD_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class FileFacts:
    """One file of a model folder; `size` in bytes, `as_built` None where nothing says what it should be."""

    name: str
    size: int
    sha256: str
    as_built: bool | None


@dataclass(frozen=True, slots=True)
class Description:
    """All that is known of a model.

    path        None while the model is not on this machine
    source      "wheels", "hub cache", "folder", or "not pulled"
    revision    the hub's commit
    dimension   length of a vector, H; for a sparse encoder the vocabulary; None for a language model
    max_tokens  longest input, special tokens included; None when nothing limits it
    pooling     names of the ways that token vectors are joined
    verified    every file has the sha256 that it was built or published with; None where none is known
    """

    name: str
    path: str | None
    source: str
    role: str
    parameters: int | None
    licence: str
    origin: str
    revision: str | None
    wheels: list[dict[str, str]]
    dimension: int | None
    max_tokens: int | None
    pooling: list[str]
    normalised: bool
    similarity: str | None
    prompts: dict[str, str]
    verified: bool | None
    files: list[FileFacts]

    def as_json(self) -> dict[str, Any]:
        """Return it as plain dicts and lists."""
        return asdict(self)


def describe(name: str | Path) -> Description:
    """Describe a folder, a pinned model or a model of the hub's local cache; never touches the network.

    Reads every file once for its sha256, about a second for 500 MB.
    Raises InvalidInput for a name that is neither pinned nor on this machine.
    """
    folder = locate(name)
    model = pinned(str(name))
    if folder is not None:
        return _describe_folder(str(name), folder, model)
    if model is None:
        raise InvalidInput(
            f"There is no model {str(name)!r} on this machine. Fetch it with: retriever models pull {name}; "
            "retriever models list names the pinned ones."
        )
    return _describe_absent(model)


def _describe_absent(model: PinnedModel) -> Description:
    return Description(
        name=model.name,
        path=None,
        source="not pulled",
        role=model.role,
        parameters=model.parameters,
        licence=model.licence,
        origin=model.origin,
        revision=None,
        wheels=[wheel.record() for wheel in model.wheels],
        dimension=None,
        max_tokens=None,
        pooling=[],
        normalised=False,
        similarity=None,
        prompts={},
        verified=None,
        files=[],
    )


def _describe_folder(name: str, folder: Path, model: PinnedModel | None) -> Description:
    record = provenance(folder) or {}
    source = _source(folder, record)
    settings = read_object(folder / "config_sentence_transformers.json")
    files = _files(folder, record, model)
    return Description(
        name=model.name if model else name,
        path=str(folder),
        source=source,
        role=model.role if model else _role(folder, settings),
        parameters=count_parameters(folder),
        licence=model.licence if model else str(record.get("licence") or _licence_of_card(folder)),
        origin=str(record.get("origin") or (model.origin if model else "as the folder's owner left it")),
        revision=folder.name if source == "hub cache" else None,
        wheels=list(record.get("wheels", [])),
        dimension=dimension(folder),
        max_tokens=max_tokens(folder),
        pooling=pooling(folder),
        normalised=any(kind == "Normalize" for kind, _ in modules(folder)),
        similarity=settings.get("similarity_fn_name"),
        prompts=_prompts(settings),
        verified=_verified(files),
        files=files,
    )


def _prompts(settings: dict[str, Any]) -> dict[str, str]:
    prompts = settings.get("prompts")
    return {str(kind): str(text) for kind, text in prompts.items()} if isinstance(prompts, dict) else {}


def _source(folder: Path, record: dict[str, Any]) -> str:
    if record and folder.parent == models_folder().resolve():
        return "wheels"
    if folder.parent.name == "snapshots" and folder.parent.parent.name.startswith("models--"):
        return "hub cache"
    return "folder"


def _files(folder: Path, record: dict[str, Any], model: PinnedModel | None) -> list[FileFacts]:
    expected = {name: file.get("sha256") for name, file in record.get("files", {}).items()}
    if model and model.weights_sha256:
        expected["model.safetensors"] = model.weights_sha256
    facts = []
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = path.relative_to(folder).as_posix()
        if name != PROVENANCE:
            digest = sha256_of(path)
            as_built = digest == expected[name] if name in expected else None
            facts.append(FileFacts(name, path.stat().st_size, digest, as_built))
    return facts


def _verified(files: list[FileFacts]) -> bool | None:
    known = [file.as_built for file in files if file.as_built is not None]
    return all(known) if known else None


def _role(folder: Path, settings: dict[str, Any]) -> str:
    kinds = {
        "SentenceTransformer": "dense encoder",
        "SparseEncoder": "sparse encoder",
        "MultiVectorEncoder": "multi-vector encoder",
        "CrossEncoder": "cross-encoder",
    }
    if (kind := settings.get("model_type")) in kinds:
        return kinds[kind]
    config = read_object(folder / "config.json")
    architectures = config.get("architectures")
    architecture = str(architectures[0]) if isinstance(architectures, list) and architectures else "unknown"
    if architecture.endswith("ForCausalLM"):
        return "causal language model"
    if architecture.endswith("ForSequenceClassification"):
        return "cross-encoder"
    return "dense encoder" if pooling(folder) else architecture


def _licence_of_card(folder: Path) -> str:
    """Return the licence in the front matter of the model card, or "not stated"."""
    card = folder / "README.md"
    if not card.is_file() or card.stat().st_size > MAX_CARD_BYTES:
        return "not stated"
    lines = card.read_text(encoding="utf-8", errors="replace").splitlines()
    if lines[:1] == ["---"]:
        for line in lines[1:]:
            if line == "---":
                break
            key, _, value = line.partition(":")
            if key == "license" and value.strip():
                return value.strip()
    return "not stated"


def count_parameters(folder: Path) -> int:
    """Return the number of values in all safetensors files, from their headers alone."""
    return sum(math.prod(shape) for path in weights(folder) for shape in _shapes(path))


def _shapes(path: Path) -> list[list[int]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            return [file.get_slice(name).get_shape() for name in file.keys()]  # noqa: SIM118 (not a dict)
    except SafetensorError as error:
        raise InvalidInput(f"{path} is not a whole safetensors file: {error}. Fetch it again.") from error


def dimension(folder: Path) -> int | None:
    """Return the length of the vectors that the model gives, None where it gives none."""
    config = read_object(folder / "config.json")
    width: int | None = None
    for kind, place in modules(folder):
        settings = read_object(place / "config.json")
        if kind == "Pooling":
            one = _positive(settings.get("embedding_dimension")) or _positive(settings.get("word_embedding_dimension"))
            width = one * max(1, len(_pooling_modes(settings))) if one else None
        elif kind == "Dense":
            width = _positive(settings.get("out_features"))
        elif kind == "SpladePooling":
            width = _positive(config.get("vocab_size"))
        elif kind == "StaticEmbedding":
            shapes = [shape for path in weights(place) for shape in _shapes(path)]
            width = shapes[0][-1] if shapes else None
    return width


def _positive(value: object) -> int | None:
    return value if isinstance(value, int) and value > 0 else None


def pooling(folder: Path) -> list[str]:
    """Return how token vectors are joined, such as ["mean"] or ["splade-max"]; empty when they are not."""
    modes: list[str] = []
    for kind, place in modules(folder):
        settings = read_object(place / "config.json")
        if kind == "Pooling":
            modes += _pooling_modes(settings)
        elif kind == "SpladePooling":
            modes.append(f"splade-{settings.get('pooling_strategy', 'max')}")
    return modes


def _pooling_modes(settings: dict[str, Any]) -> list[str]:
    given = settings.get("pooling_mode")
    if given:
        return [str(mode) for mode in given] if isinstance(given, list) else [str(given)]
    # sentence-transformers before 6 wrote one flag a mode
    names = {"cls_token": "cls", "mean_tokens": "mean", "max_tokens": "max", "lasttoken": "last"}
    names |= {"mean_sqrt_len_tokens": "mean_sqrt_len_tokens", "weightedmean_tokens": "weightedmean"}
    return [short for long, short in names.items() if settings.get(f"pooling_mode_{long}")]


def max_tokens(folder: Path) -> int | None:
    """Return the longest input in tokens: the module's own limit, else the tokenizer's or the positions."""
    own = _positive(read_object(folder / "sentence_bert_config.json").get("max_seq_length"))
    if own:
        return own
    tokenizer = _positive(read_object(folder / "tokenizer_config.json").get("model_max_length"))
    positions = _positive(read_object(folder / "config.json").get("max_position_embeddings"))
    known = [limit for limit in (tokenizer, positions) if limit and limit < UNLIMITED]
    return min(known) if known else None
