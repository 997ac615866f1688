"""Generating as a job: portions of documents, resumable, shared by several machines where wanted."""

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from retriever.encoder import Precision
from retriever.errors import InvalidInput
from retriever.types import Document
from training.generation.cleaning import clean
from training.generation.generators import Endpoint, Generator, LanguageModel
from training.generation.prompts import EXAMPLES, Example, Prompt
from training.generation.soft_prompt import SoftPromptedModel, is_soft_prompt
from training.portions import WHOLE, Outcome, Plan, Shard, run

if TYPE_CHECKING:
    import pyarrow as pa

# Documents shorter than this say too little to be asked for.
MIN_CHARACTERS = 40


class GenerationSettings(BaseModel):
    """How queries are made.

    model            folder or name of a language model, or folder of a soft prompt, whose style, examples and
                     document_tokens are its own; with `endpoint`, the name that it knows the model by
    endpoint         OpenAI-compatible address, such as http://127.0.0.1:8000/v1; None runs the model here
    style            question, keywords, statement, or an instruction in words
    examples         (document, query) pairs that the model is shown; None for three that belong to a named style, and
                     for none with an instruction in words
    queries          of each document
    documents        how many documents queries are made for, drawn by `seed`; None for all
    document_tokens  what is read of a document; an endpoint is sent six characters for each
    precision        of the weights; None means bfloat16 on a GPU, float32 elsewhere; an endpoint chooses its own
    portion          documents between two saves
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str = "SmolLM2-135M-Instruct"
    endpoint: str | None = None
    style: str = "question"
    examples: tuple[Example, ...] | None = None
    queries: int = Field(3, ge=1, le=32)
    documents: int | None = Field(None, ge=1)
    document_tokens: int = Field(256, ge=16, le=8192)
    new_tokens: int = Field(48, ge=4, le=512)
    temperature: float = Field(1.0, ge=0, le=2)
    top_p: float = Field(0.95, gt=0, le=1)
    top_k: int = Field(25, ge=0)
    precision: Precision | None = None
    seed: int = 0
    portion: int = Field(64, ge=1, le=65_536)


def generate_queries(
    documents: Sequence[Document],
    output: Path,
    settings: GenerationSettings,
    *,
    shard: Shard = WHOLE,
    restart: bool = False,
    device: str | None = None,
    offline: bool = False,
    quiet: bool = True,
    generator: Generator | None = None,
) -> Outcome:
    """Write queries for documents into a Parquet file with the columns query, document_id.

    generator  instead of the one that the settings name

    Documents with less than 40 characters are left out, as are answers that are no query or that of an example; both
    are counted. A query stands once for a document. The other arguments are those of `training.portions.run`, which
    also says how the job resumes. Cost: on a CPU seconds a document, even with a small model.
    Raises InvalidInput when there is no document to ask for.
    """
    settings = _with_examples(settings)
    chosen = _chosen(documents, settings)
    if not chosen:
        raise InvalidInput(
            f"none of the {len(documents):,} documents has {MIN_CHARACTERS} characters to make a query from."
        )
    opened: list[Generator] = [generator or open_generator(settings, device=device, offline=offline)]
    size = settings.portion
    plan = Plan(
        job="generating",
        depends_on={
            **settings.model_dump(mode="json"),
            "documents": _digest(chosen),
            "generator": opened[0].digest,
        },
        facts={"documents_asked": len(chosen), "documents_too_short": _too_short(documents)},
        sizes=[len(chosen[start : start + size]) for start in range(0, len(chosen), size)],
    )
    examples = opened[0].examples if isinstance(opened[0], SoftPromptedModel) else settings.examples or ()
    shown = {query.casefold() for _, example in examples if (query := clean(example))}
    maker = _maker(chosen, settings, opened[0], shown)
    return run(plan, output, maker, shard=shard, restart=restart, quiet=quiet)


def open_generator(settings: GenerationSettings, *, device: str | None = None, offline: bool = False) -> Generator:
    """Return the generator that settings name. Raises BackendUnavailable and InvalidInput."""
    settings = _with_examples(settings)
    if _has_own_examples(settings):
        if settings.examples:
            raise InvalidInput(f"{settings.model} is a soft prompt, which has its own examples; leave out examples.")
        return SoftPromptedModel(
            settings.model, new_tokens=settings.new_tokens, temperature=settings.temperature, top_p=settings.top_p,
            top_k=settings.top_k, precision=settings.precision, device=device, offline=offline,
        )  # fmt: skip
    prompt = Prompt.of(settings.style, settings.examples or ())
    if settings.endpoint:
        if settings.precision is not None:
            raise InvalidInput(f"an endpoint chooses its own precision; leave out {settings.precision}.")
        return Endpoint(
            settings.endpoint, settings.model, prompt, document_characters=6 * settings.document_tokens,
            new_tokens=settings.new_tokens, temperature=settings.temperature, top_p=settings.top_p,
        )  # fmt: skip
    return LanguageModel(
        settings.model, prompt, document_tokens=settings.document_tokens, new_tokens=settings.new_tokens,
        temperature=settings.temperature, top_p=settings.top_p, top_k=settings.top_k, precision=settings.precision,
        device=device, offline=offline,
    )  # fmt: skip


def _has_own_examples(settings: GenerationSettings) -> bool:
    return is_soft_prompt(settings.model) and not settings.endpoint


def _with_examples(settings: GenerationSettings) -> GenerationSettings:
    """Return settings that name the examples of their style where none are given."""
    if settings.examples is not None or _has_own_examples(settings):
        return settings
    return settings.model_copy(update={"examples": EXAMPLES.get(settings.style, ())})


def _chosen(documents: Sequence[Document], settings: GenerationSettings) -> list[Document]:
    long = [document for document in documents if len(document.content.strip()) >= MIN_CHARACTERS]
    if settings.documents is None or settings.documents >= len(long):
        return long
    rows = np.random.default_rng(settings.seed).permutation(len(long))[: settings.documents]
    return [long[row] for row in np.sort(rows)]


def _too_short(documents: Sequence[Document]) -> int:
    return sum(len(document.content.strip()) < MIN_CHARACTERS for document in documents)


def _digest(documents: Sequence[Document]) -> str:
    digest = hashlib.sha256()
    for document in documents:
        digest.update(f"{len(document.id)}:{document.id}{document.content}\n".encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def _maker(
    documents: list[Document], settings: GenerationSettings, generator: Generator, shown: set[str]
) -> Callable[[int], tuple["pa.Table", Counter[str]]]:
    def usable(answer: str) -> str | None:
        query = clean(answer)
        return query if query and query.casefold() not in shown else None

    def make(number: int) -> tuple["pa.Table", Counter[str]]:
        import pyarrow as pa

        part = documents[number * settings.portion : (number + 1) * settings.portion]
        # Of its own for every portion, so that the outcome does not depend on where the job was stopped.
        answers = generator.answers(
            [document.content for document in part], settings.queries, settings.seed * 1_000_003 + number
        )
        counts: Counter[str] = Counter()
        columns: dict[str, list[Any]] = {"query": [], "document_id": []}
        for document, own in zip(part, answers, strict=True):
            queries = [usable(answer) for answer in own]
            found = list(dict.fromkeys(query for query in queries if query))
            columns["query"] += found
            columns["document_id"] += [document.id] * len(found)
            counts["answers"] += len(own)
            counts["unusable"] += queries.count(None)
            counts["queries"] += len(found)
        schema = pa.schema([(name, pa.string()) for name in columns])
        return pa.table(columns, schema=schema), counts

    return make
