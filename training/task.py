"""What a recipe works with: a collection, settings, stages, and the steps that recipes have in common."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from training.batch import BatchLoss, Objective, RowCollator
from training.candidates import Candidates
from training.collection import TrainingCollection
from training.encoders import as_encoder, open_base
from training.fitting import fit_encoder
from training.mined import load, mine
from training.negatives import Draw
from training.settings import EncoderSettings, FitSettings
from training.shuffling import ShuffledBatchSampler
from training.stages import Stages

Settings = TypeVar("Settings", bound=EncoderSettings)


@dataclass
class Task(Generic[Settings]):
    """A training: what to learn from, how, and where its stages lie."""

    collection: TrainingCollection
    settings: Settings
    stages: Stages
    offline: bool

    def open_base(self, folder: Path | None = None) -> Any:
        """Return the model of a folder, or the settings' base."""
        return open_base(self.settings, base=folder, offline=self.offline)

    def collator(self, model: Any, draw: Draw | None) -> RowCollator:
        """Return what turns query rows into batches."""
        settings = self.settings
        return RowCollator(
            model,
            self.collection,
            draw,
            query_tokens=settings.query_tokens,
            document_tokens=settings.document_tokens,
            seed=settings.seed,
        )

    def fit(
        self,
        name: str,
        model: Any,
        objective: Objective,
        draw: Draw,
        *,
        settings: FitSettings | None = None,
        batch_sampler: Callable[..., Any] = ShuffledBatchSampler,
    ) -> Path:
        """Fit a model as the stage `name`; returns its folder."""
        return self.fit_loss(
            name,
            model,
            BatchLoss(model, self.collection, objective),
            draw,
            settings=settings,
            batch_sampler=batch_sampler,
        )

    def fit_loss(
        self,
        name: str,
        model: Any,
        loss: Any,
        draw: Draw | None,
        *,
        settings: FitSettings | None = None,
        batch_sampler: Callable[..., Any] = ShuffledBatchSampler,
    ) -> Path:
        """Fit a model by a loss module of its own as the stage `name`; returns its folder."""
        collator = self.collator(model, draw)

        def work(folder: Path) -> dict[str, Any]:
            return fit_encoder(
                model,
                loss,
                collator,
                folder,
                settings or self.settings.fit,
                seed=self.settings.seed,
                examples=len(self.collection.queries),
                batch_sampler=batch_sampler,
            )

        return self.stages.run(name, work)

    def mine(self, name: str, model: Any, depth: int) -> Candidates:
        """Mine negatives with a model as the stage `name`."""

        def work(folder: Path) -> dict[str, Any]:
            found = mine(as_encoder(model), self.collection, depth, folder)
            return {"queries": len(found.offsets) - 1, "candidates": len(found.documents)}

        return load(self.stages.run(name, work))
