"""An encoder as ONNX graphs, which other engines run without this project, PyTorch or sentence-transformers."""

import copy
import importlib.util
import json
import logging
import shutil
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from retriever.encoder import DenseEncoder, load_encoder
from retriever.errors import BackendUnavailable, InvalidInput
from retriever.heads.mask import pooled_tokens
from retriever.models.folder import require_dense, require_new
from retriever.models.resolve import resolve
from retriever.progress import spinner
from retriever.storage import disk_errors, require_writable, sha256_of
from retriever.types import Document

Side = Literal["query", "document"]
SIDES: tuple[Side, Side] = ("query", "document")
PACKAGES = ("onnx", "onnxscript", "onnxruntime")
RECIPE = "export.json"
# float32 in another order of summing; a graph that is wrong is off by far more.
LARGEST_DIFFERENCE = 1e-3

# What a graph is compared on: nothing, a word, spaces and letters that tokenizers treat in their own ways, and a text
# that long models read whole and others cut.
SAMPLES = ("", "wing", "  what do Flügel and 翼 have in common?\n", "the flow of air over a wing in a tunnel, " * 100)


def export(name: str | Path, output: Path, *, offline: bool = False) -> dict[str, Any]:
    """Write graphs and tokenizer of an encoder into a new folder, and return its recipe, the content of `export.json`.

    A graph takes int64 (B, T) `input_ids`, `attention_mask` and what else the tokenizer gives, for any B and T, and
    returns float32 (B, H) `sentence_embedding`: pooled, through the heads, of unit length where the encoder's are.
    There is one graph, `model.onnx`, or one of each side where their weights, heads or pooling differ. ONNX Runtime
    then encodes samples by what was written alone, and has to give the encoder's own vectors.

    recipe  for each side its `file` and the `prompt` that stands before each text; `max_tokens`, `similarity`,
            `normalised`, `width`; how far the samples were off; the encoder's fingerprint; sha256 of all files

    Weights become float32. Takes about 10 s for a model of 6 layers, a minute or two for one of 30.
    Raises InvalidInput where the folder has files, or the model cannot be written as a graph of any length;
    BackendUnavailable without the extra "onnx", or for a model that cannot be loaded.
    """
    if missing := [package for package in PACKAGES if importlib.util.find_spec(package) is None]:
        raise BackendUnavailable(
            f"Writing ONNX needs {', '.join(PACKAGES)}; not installed: {', '.join(missing)}. "
            'Install them with: pip install "retriever-engine[onnx]"'
        )
    # The folder that is here has no name that a part could be called after.
    output = output.resolve()
    require_new(output)
    require_writable(output)
    require_dense(str(name), resolve(str(name), offline=offline))
    encoder = load_encoder(name, device="cpu", offline=offline)
    encoder.model.float()
    for module in encoder.model.modules():
        if hasattr(module, "long_context"):
            raise InvalidInput(
                f"{name} reads long texts in its own way ({module.long_context.describe()}), by each of them, "
                "which is no part of a graph; export the model that it was made of."
            )
    part = output.with_name(f".{output.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    try:
        with disk_errors(output.parent):
            part.mkdir(parents=True)
            recipe = _write(encoder, part)
            (part / RECIPE).write_text(json.dumps(recipe, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
            part.replace(output)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return recipe


def _write(encoder: DenseEncoder, folder: Path) -> dict[str, Any]:
    tokenizer = copy.deepcopy(encoder.model.tokenizer)
    tokenizer.model_max_length = encoder.max_tokens
    tokenizer.save_pretrained(folder)
    prompts = json.loads(encoder.fingerprint()["prompts"])
    if _sides_differ(encoder.model):
        files: dict[Side, str] = {side: f"{side}.onnx" for side in SIDES}
    else:
        files = dict.fromkeys(SIDES, "model.onnx")
    for file, side in {file: side for side, file in files.items()}.items():
        _trace(encoder, side, prompts[side], folder / file)
    return {
        "sides": {
            side: {
                "file": files[side],
                "prompt": prompts[side],
                "largest_difference": _difference(encoder, side, prompts[side], folder, files[side]),
            }
            for side in SIDES
        },
        "max_tokens": encoder.max_tokens,
        "width": encoder.width,
        "normalised": encoder.normalises,
        "similarity": encoder.model.similarity_fn_name,
        "encoder": encoder.fingerprint(),
        "versions": {package: version(package) for package in ("torch", "transformers", "onnx", "onnxruntime")},
        "sha256": {path.name: sha256_of(path) for path in sorted(folder.iterdir())},
    }


def _sides_differ(model: Any) -> bool:
    """Tell whether queries and documents need graphs of their own."""
    by_side = any("task" in getattr(module, "forward_kwargs", ()) for module in model.modules())
    # How many of the first tokens are left out is part of the graph.
    return by_side or any(getattr(module, "include_prompt", True) is False for module in model.modules())


def _trace(encoder: DenseEncoder, side: Side, prompt: str, path: Path) -> None:
    import torch
    from torch.onnx.errors import OnnxExporterError

    features = encoder.model.preprocess(list(SAMPLES[1:3]), prompt=prompt, task=side)
    inputs = {name: value for name, value in features.items() if isinstance(value, torch.Tensor)}
    fixed = {name: value for name, value in features.items() if name not in inputs}

    class Graph(torch.nn.Module):
        """The whole model of one side, from token ids to its vector."""

        def __init__(self) -> None:
            super().__init__()
            self.model = encoder.model

        def forward(self, given: dict[str, Any]) -> Any:
            vectors = self.model({**given, **fixed}, task=side)["sentence_embedding"]
            return torch.nn.functional.normalize(vectors) if encoder.normalises else vectors

    try:
        with spinner(f"writing {path.name}"), _quiet(), _masks_alone(encoder.model):
            program = torch.onnx.export(
                Graph().eval(),
                kwargs={"given": inputs},
                dynamo=True,
                dynamic_shapes={"given": {name: {0: "batch", 1: "tokens"} for name in inputs}},
                input_names=list(inputs),
                output_names=["sentence_embedding"],
                verbose=False,
            )
            assert program is not None
            program.save(path)
    except OnnxExporterError as error:
        # The first line is advice on reporting; what went wrong is at the root.
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        reason = str(cause).strip().splitlines()[0]
        raise InvalidInput(f"{encoder.name} cannot be written as an ONNX graph of any length: {reason}") from error


def _difference(encoder: DenseEncoder, side: Side, prompt: str, folder: Path, file: str) -> float:
    """Return the largest difference of a sample's vectors, as a share of its length.

    Raises InvalidInput above LARGEST_DIFFERENCE.
    """
    expected = (
        encoder.encode_queries(SAMPLES)
        if side == "query"
        else encoder.encode_documents([Document("", text) for text in SAMPLES])
    )
    # Alone, so that nothing is padding, and together.
    batches = [*([text] for text in SAMPLES), list(SAMPLES)]
    got = np.concatenate(list(_encoded(folder, file, prompt, batches)))
    expected = np.concatenate([expected, expected])
    lengths = np.linalg.norm(expected, axis=1)
    off = float((np.linalg.norm(got - expected, axis=1) / np.where(lengths > 0, lengths, 1)).max())
    if not off <= LARGEST_DIFFERENCE:
        raise InvalidInput(
            f"the graph of {encoder.name} gives other vectors than the encoder, {off:.2g} of their length away for "
            f"a {side}; nothing was written."
        )
    return off


def _encoded(folder: Path, file: str, prompt: str, batches: Sequence[list[str]]) -> Iterator[NDArray[np.float32]]:
    """Yield the vectors of batches of texts, as an engine makes them that has nothing but the folder."""
    import onnxruntime
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    session = onnxruntime.InferenceSession(str(folder / file), providers=["CPUExecutionProvider"])
    names = [given.name for given in session.get_inputs()]
    for batch in batches:
        tokens = tokenizer([prompt + text for text in batch], padding=True, truncation=True, return_tensors="np")
        (vectors,) = session.run(["sentence_embedding"], {name: tokens[name].astype(np.int64) for name in names})
        yield vectors


@contextmanager
def _masks_alone(model: Any) -> Iterator[None]:
    """Let the library's pooling leave prompts out by the mask, since what it does itself hangs on the batch."""
    from sentence_transformers.sentence_transformer.modules import Pooling

    def masked(pooling: Any, given: tuple[dict[str, Any]]) -> tuple[dict[str, Any]]:
        features = {**given[0], "attention_mask": pooled_tokens(given[0], pooling.include_prompt)}
        features.pop("prompt_length", None)
        return (features,)

    hooks = [module.register_forward_pre_hook(masked) for module in model.modules() if isinstance(module, Pooling)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter from warning of its own deprecations and of packages that nothing here needs."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.fx")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
