"""Making an encoder that reads beyond its window out of one that does not."""

import json
import tempfile
from pathlib import Path
from typing import Any

from retriever.errors import BackendUnavailable, InvalidInput
from retriever.heads import open_model
from retriever.heads.product import ProductHead
from retriever.heads.sign import SignHead
from retriever.long_context.architecture import positions_of
from retriever.long_context.settings import LongContext
from retriever.long_context.transformer import LongContextTransformer
from retriever.long_context.windows import WindowMean
from retriever.models import resolve
from retriever.models.folder import require_dense, require_new
from retriever.progress import quiet_transformers, without_transformers_bars


def extend(name: str | Path, settings: LongContext, *, offline: bool = False) -> Any:
    """Return the sentence-transformers model of that name, able to read `settings.length` tokens.

    Weights stay as they are, but for `interpolated` over a table of positions, which becomes larger. Texts within the
    window get the vectors they had, if the model read them whole: one that cuts them earlier (`max_seq_length` below
    its positions) does so no more. Save it with `save_extended`; `retriever.encoder.load_encoder` opens the folder.

    Raises InvalidInput for a method that does not fit the model, numbers that do not go together, and models that are
    no transformers encoder or read beyond their window already; BackendUnavailable for one that cannot be loaded.
    """
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Normalize, Transformer

    folder = resolve(str(name), offline=offline)
    require_dense(str(name), folder)
    try:
        with without_transformers_bars(), quiet_transformers():
            model = open_model(folder, device="cpu")
    except (OSError, ValueError, KeyError) as error:
        raise BackendUnavailable(f"{folder} is not a sentence-transformers model: {error}") from error
    first, *rest = list(model)
    if isinstance(first, LongContextTransformer):
        raise InvalidInput(
            f"{name} reads beyond its window already ({first.long_context.describe()}); give its origin."
        )
    if type(first) is not Transformer:
        raise InvalidInput(f"{name} begins with {type(first).__name__}; only a plain Transformer can be extended.")
    resolved = settings.resolved(_window(first.model, settings))
    with tempfile.TemporaryDirectory() as work, without_transformers_bars(), quiet_transformers():
        first.save(work)
        if resolved.method != "windows":
            _open_sliding_windows(Path(work) / "config.json")
        longer = LongContextTransformer.load(
            work, local_files_only=True, init_defaults={"long_context": resolved.model_dump(exclude_none=True)}
        )
    if resolved.method == "interpolated" and longer.kind == "absolute":
        longer.stretch_table()
    if resolved.method == "windows":
        ends = (Normalize, SignHead, ProductHead)
        place = next((i for i, module in enumerate(rest) if isinstance(module, ends)), len(rest))
        rest.insert(place, WindowMean())
    return SentenceTransformer(
        modules=[longer, *rest],
        device="cpu",
        prompts=model.prompts,
        default_prompt_name=model.default_prompt_name,
        similarity_fn_name=model.similarity_fn_name,
    ).eval()


def _window(model: Any, settings: LongContext) -> int | None:
    """Return how many tokens a model reads; a sliding window bounds those that keep their vectors once it is opened."""
    positions = positions_of(model)
    sliding = getattr(model.config, "sliding_window", None)
    if settings.method == "windows" or not sliding:
        return positions
    return int(sliding) if positions is None else min(positions, int(sliding))


def _open_sliding_windows(path: Path) -> None:
    """Let every layer see the whole text, as LongEmbed does with Mistral: one that sees a window reads no more."""
    config = json.loads(path.read_text(encoding="utf-8"))
    if config.get("sliding_window") is None:
        return
    config["sliding_window"] = None
    if "layer_types" in config:
        config["layer_types"] = ["full_attention"] * len(config["layer_types"])
    if "use_sliding_window" in config:
        config["use_sliding_window"] = False
    path.write_text(json.dumps(config), encoding="utf-8")


def save_extended(model: Any, source: str, folder: Path) -> None:
    """Write an extended model into a new folder, with a card that says what it is.

    source  what it was made of
    Raises InvalidInput where the folder has files.
    """
    require_new(folder)
    with without_transformers_bars(), quiet_transformers():
        model.save(str(folder), create_model_card=False)
    settings: LongContext = model[0].long_context
    if Path(source).is_dir():
        # The folder's place is nobody else's business.
        source = Path(source).resolve().name
    (folder / "README.md").write_text(
        f"# {source}, for texts of up to {settings.length:,} tokens\n\n"
        f"Made of {source} by `retriever models extend`, without training ({settings.describe()}). Its licence is that "
        "of the model that it was made of. It is opened by this project alone.\n",
        encoding="utf-8",
    )
