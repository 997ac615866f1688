"""What a build is asked to do; kept beside its shards, so that a resumed build does exactly the same."""

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from retriever.errors import InvalidInput
from retriever.fields import require_names
from retriever.index.form import Stored
from retriever.storage import write_atomically

Duplicates = Literal["fail", "skip", "overwrite"]


class BuildSettings(BaseModel):
    """The choices of a build; the defaults are those of `retriever index build`.

    shard_documents  None for what suits the parts: see `indexing.build`
    store          without it vectors are float32, or not stored at all where the model itself makes codes of documents
    local_encoder  a second model, whose vectors put in order what was found: see `retriever.index.local`
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    parts: tuple[Literal["bm25", "sparse", "dense"], ...] = Field(("bm25", "dense"), min_length=1)
    encoder: str = "all-MiniLM-L6-v2"
    precision: Literal["float32", "bfloat16"] = "float32"
    dense: str = "flat"
    store: Stored | None = None
    oversample: int = Field(4, ge=1, le=1000)
    local_encoder: str | None = None
    local_store: Literal["float32", "float16"] = "float16"
    sparse_encoder: str = "splade-tiny"
    sparse_precision: Literal["uint8", "float32"] = "uint8"
    sparse_step: float = Field(1 / 64, gt=0, le=1)
    analyser: str = "lucene-english"
    k1: float = Field(0.9, ge=0, le=100)
    b: float = Field(0.4, ge=0, le=1)
    fields: dict[str, Literal["keyword", "number"]] = Field(default_factory=dict)
    search_fields: tuple[str, ...] = ()
    positions: bool = False
    window: int | None = Field(None, ge=8)
    overlap: int = Field(32, ge=0)
    duplicates: Duplicates = "fail"
    max_bad_vectors: int = Field(0, ge=0)
    shard_documents: int | None = Field(None, ge=1)
    segment_documents: int = Field(1_000_000, ge=1)

    @field_validator("search_fields")
    @classmethod
    def _names(cls, search_fields: tuple[str, ...]) -> tuple[str, ...]:
        require_names(search_fields)
        return search_fields


class Plan(BaseModel):
    """One write to an index: which generation it makes, from what, and how."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    generation: int
    first_segment: int
    replaces: bool
    settings: BuildSettings
    corpus: dict[str, Any]
    encoder: dict[str, str] | None
    sparse: dict[str, str] | None = None
    local: dict[str, str] | None = None
    analyser: str | None

    def write(self, path: Path) -> None:
        write_atomically(path, self.model_dump_json(indent=1).encode())

    def require_same(self, path: Path) -> None:
        """Raise InvalidInput naming what differs unless the file holds this very plan."""
        try:
            other = Plan.model_validate_json(path.read_bytes())
        except (ValidationError, FileNotFoundError) as error:
            raise InvalidInput(
                f"{path.parent} holds an unfinished build that cannot be resumed; "
                "add --restart to throw it away and begin again."
            ) from error
        mine, theirs = self._choices(), other._choices()
        changed = [f"{name}: {theirs[name]!r} then, {mine[name]!r} now" for name in mine if mine[name] != theirs[name]]
        if changed:
            raise InvalidInput(
                f"{path.parent} holds an unfinished build with other settings ({'; '.join(changed)}). "
                "Run the same command as before to resume it, or add --restart to throw it away."
            )

    def _choices(self) -> dict[str, Any]:
        """Return all that a resumed build must have in common, flat: what the settings name, and what it is."""
        choices = self.model_dump(mode="json")
        for name in ("encoder", "sparse", "local", "analyser"):
            # The settings hold the names of some of these under the same keys.
            choices[f"fingerprint of the {name}"] = choices.pop(name)
        settings: dict[str, Any] = choices.pop("settings")
        return choices | settings
