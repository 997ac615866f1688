"""Settings that recipes share, and reading them from YAML."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from retriever.errors import InvalidInput

Settings = TypeVar("Settings", bound=BaseModel)


class FitSettings(BaseModel):
    """How a model is fitted; the optimiser is AdamW with linear warm-up and decay.

    precision  of the arithmetic, the weights stay float32; "auto" is bfloat16 on a GPU that has it, else float32
    steps      so many batches instead of whole epochs
    warmup     below 1 a share of all steps, from 1 on so many steps
    save_steps  a checkpoint every so many batches, to go on from after an interruption; 0 for none
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    batch_size: int = Field(32, ge=2)
    learning_rate: float = Field(2e-5, gt=0)
    weight_decay: float = Field(0.01, ge=0)
    epochs: float = Field(1, gt=0)
    steps: int | None = Field(None, ge=1)
    warmup: float = Field(0.1, ge=0)
    max_grad_norm: float = Field(1.0, gt=0)
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    save_steps: int = Field(500, ge=0)

    @field_validator("warmup")
    @classmethod
    def _share_or_steps(cls, warmup: float) -> float:
        if warmup >= 1 and warmup != int(warmup):
            raise ValueError(f"warmup is a share below 1 or a whole number of steps, got {warmup}")
        return warmup


class EncoderSettings(BaseModel):
    """What every recipe for a bi-encoder takes.

    base         model that training starts from, by name or folder
    head         "none" keeps the base's pooling; "linear_norm" adds DRhard's linear layer and layer normalisation
    similarity   of a base that does not state its own
    scale        factor on the scores inside the losses: 1 for inner products, the inverse temperature for cosines;
                 None for 20 with cosines and normalised vectors, 1 with other inner products
    max_queries  train on so many queries only, drawn by the seed
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    base: str = "all-MiniLM-L6-v2"
    head: Literal["none", "linear_norm"] = "none"
    similarity: Literal["cosine", "dot"] = "cosine"
    scale: float | None = Field(None, gt=0)
    query_tokens: int = Field(32, ge=4, le=8192)
    document_tokens: int = Field(128, ge=4, le=8192)
    max_queries: int | None = Field(None, ge=2)
    seed: int = 42
    fit: FitSettings = FitSettings()

    def other_models(self) -> dict[str, str]:
        """Return the models beside the base that a training by these settings opens, by the name of the setting."""
        return {}


def read_settings(
    kind: type[Settings], path: Path | None, changes: Sequence[str] = (), *, ignore: Sequence[str] = ()
) -> Settings:
    """Read a YAML of settings and apply `key=value` changes, `fit.batch_size=64` for nested ones.

    ignore  keys of the file that are no settings, such as the recipe's name
    Raises InvalidInput naming the faulty one and those that there are.
    """
    content = {key: value for key, value in read_yaml(path).items() if key not in ignore} if path else {}
    for change in changes:
        key, sign, value = change.partition("=")
        if not sign:
            raise InvalidInput(f"--set takes key=value, got {change!r}.")
        *parents, last = key.split(".")
        place = content
        for parent in parents:
            place = place.setdefault(parent, {})
            if not isinstance(place, dict):
                raise InvalidInput(f"--set {change}: {parent!r} has no settings below it.")
        try:
            place[last] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise InvalidInput(f"--set {change}: the value is no YAML ({error}).") from error
    try:
        return kind.model_validate(_with_defaults(kind, content))
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors())
        raise InvalidInput(f"{faults}. There are: {', '.join(names(kind))}.") from error


def _with_defaults(kind: type[BaseModel], content: dict[str, Any]) -> dict[str, Any]:
    """Give nested settings that are named in part what the recipe has for the others, not what their class has."""
    filled = dict(content)
    for name, field in kind.model_fields.items():
        default, given = field.default, content.get(name)
        if isinstance(default, BaseModel) and isinstance(given, dict):
            filled[name] = {**default.model_dump(), **_with_defaults(type(default), given)}
    return filled


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the mapping that a YAML file holds. Raises InvalidInput."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InvalidInput(f"cannot read {path}: {error}") from error
    if not isinstance(content, dict | None):
        raise InvalidInput(f"{path} must map settings to values, got {type(content).__name__}.")
    return content or {}


def files_of(settings: BaseModel, prefix: str = "") -> dict[str, Path]:
    """Return the files that settings name, nested ones too, by the name of the setting."""
    found: dict[str, Path] = {}
    for name in type(settings).model_fields:
        value = getattr(settings, name)
        several = isinstance(value, tuple)
        for place, one in enumerate(value if several else [value]):
            own = f"{prefix}{name}.{place}" if several else f"{prefix}{name}"
            if isinstance(one, Path):
                found[own] = one
            elif isinstance(one, BaseModel):
                found |= files_of(one, f"{own}.")
    return found


def names(kind: type[BaseModel], prefix: str = "") -> list[str]:
    """Return the names of all settings, those of nested ones with a point."""
    found: list[str] = []
    for name, field in kind.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            found += names(inner, f"{prefix}{name}.")
        else:
            found.append(f"{prefix}{name}")
    return found
