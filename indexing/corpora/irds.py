"""Collections by their ir_datasets name; the library downloads and caches them."""

from collections.abc import Iterator
from typing import Any

from indexing.corpora.corpus import Raw
from retriever.errors import BackendUnavailable, InvalidInput


def load_dataset(name: str) -> Any:
    """Return an ir_datasets dataset with documents. Raises InvalidInput for an unknown name."""
    import ir_datasets

    try:
        dataset = ir_datasets.load(name)
    except KeyError:
        raise InvalidInput(
            f"ir_datasets knows no collection {name!r}; its names are like beir/scifact or msmarco-passage."
        ) from None
    if not dataset.has_docs():
        raise InvalidInput(f"the ir_datasets collection {name!r} has no documents.")
    return dataset


def read_irds(name: str) -> Iterator[Raw]:
    """Yield the documents of a collection; all fields but id, title and text become metadata.

    Raises BackendUnavailable when the library cannot fetch or read it.
    """
    for number, document in enumerate(_documents(name), 1):
        fields = document._asdict()
        if "text" not in fields and hasattr(document, "default_text"):
            fields["text"] = document.default_text()
        yield Raw(f"irds:{name}", number, fields)


def _documents(name: str) -> Iterator[Any]:
    dataset = load_dataset(name)
    try:
        yield from dataset.docs_iter()
    except Exception as error:
        # The library raises what its downloads raise; the caller needs to know which collection failed.
        raise BackendUnavailable(f"ir_datasets could not provide {name!r}: {error}") from error
