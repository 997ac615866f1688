"""Which pipelines the service offers and which one a request gets."""

from collections.abc import Sequence

from retriever.errors import InvalidInput
from retriever.index.sealed import Index
from retriever.pipeline import MOST_LANGUAGE_DEPTH, PipelineSpec, Rerank
from retriever.search import MAX_K
from server.settings import Settings

CUSTOM = "custom"


def offered_pipelines(index: Index, settings: Settings) -> tuple[dict[str, PipelineSpec], str]:
    """Return the pipelines by name, and the name of the default.

    They are those of the index and, when a reranker is configured, the index's default with that reranker
    behind it, which is then the default: `hybrid+rerank`.
    """
    pipelines, default = index.pipelines, index.default_pipeline
    if settings.reranker is not None and pipelines[default].rerank is None:
        name = f"{default}+rerank"
        rerank = configured_rerank(settings.reranker, settings.rerank_depth)
        pipelines[name] = pipelines[default].model_copy(update={"rerank": rerank})
        default = name
    return pipelines, default


def configured_rerank(reranker: str, depth: int) -> Rerank:
    """Return the stage of `--reranker`; a language model reads no more documents than one may. Raises InvalidInput."""
    rerank = Rerank.read(reranker)
    return rerank.model_copy(
        update={"depth": depth if rerank.kind == "cross_encoder" else min(depth, MOST_LANGUAGE_DEPTH)}
    )


def choose_pipeline(
    index: Index, settings: Settings, asked: str | PipelineSpec | None, without: Sequence[str]
) -> tuple[str, PipelineSpec]:
    """Return the name and stages of the pipeline for one request. Raises InvalidInput."""
    pipelines, default = offered_pipelines(index, settings)
    if isinstance(asked, PipelineSpec):
        name, spec = CUSTOM, asked
        _require_allowed(spec, index, pipelines, settings)
    else:
        name = asked or default
        if name not in pipelines:
            raise InvalidInput(f"unknown pipeline {name[:80]!r}; this service offers {', '.join(pipelines)}.")
        spec = pipelines[name]
    return name, spec.without(*without)


def _require_allowed(spec: PipelineSpec, index: Index, pipelines: dict[str, PipelineSpec], settings: Settings) -> None:
    """Bound what a pipeline written by a client can make the service do."""
    if spec.depth > MAX_K:
        raise InvalidInput(f"pipeline.depth must be at most {MAX_K}, got {spec.depth}.")
    # A language model reads the query once for each document, as one that reranks does.
    if spec.local is not None and hasattr(index.local_encoder, "likelihoods"):
        stored = [pipeline.local.depth for pipeline in pipelines.values() if pipeline.local]
        most = max([settings.limits.rerank_depth, *stored])
        if spec.local.depth > most:
            raise InvalidInput(f"pipeline.local.depth must be at most {most}, got {spec.local.depth}.")
    if spec.rerank is None:
        return
    # Only models the operator chose: a name from outside could be any folder or any download.
    offered = {stored.rerank.loaded for stored in pipelines.values() if stored.rerank}
    if spec.rerank.loaded not in offered:
        known = sorted(_said(loaded) for loaded in offered)
        raise InvalidInput(
            f"pipeline.rerank.model must be {' or '.join(known)}, got {_said(spec.rerank.loaded)[:80]!r}."
            if known
            else "pipeline.rerank is not available; start the service with --reranker MODEL."
        )
    if spec.rerank.depth > settings.limits.rerank_depth:
        raise InvalidInput(
            f"pipeline.rerank.depth must be at most {settings.limits.rerank_depth}, got {spec.rerank.depth}."
        )


def _said(loaded: tuple[str, str, str]) -> str:
    kind, added, model = loaded
    if kind == "cross_encoder":
        return model
    return f"{kind}{f'+{added}' if added else ''}:{model}"
