"""What the description of our own exports says, so that an import knows how the terms were made."""

from importlib.metadata import version

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from retriever.index.manifest import InvertedPart


class Description(BaseModel):
    """JSON in the description of the header."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    exporter: str
    analyser: str
    analyser_fingerprint: str
    k1: float = Field(ge=0, le=100)
    b: float = Field(ge=0, le=1)


def describe(part: InvertedPart) -> str:
    """Return the description of an index with this BM25 part."""
    exporter = f"retriever-engine {version('retriever-engine')}"
    return Description(exporter=exporter, **part.model_dump()).model_dump_json()


def understand(description: str) -> Description | None:
    """Return what a description says, or None when another engine wrote it."""
    try:
        return Description.model_validate_json(description)
    except ValidationError:
        return None
