"""What a recipe works with: a collection, settings, stages, and the steps that recipes have in common."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

from retriever.evaluation.collections import Collection
from training.batch import BatchLoss, Objective, RowCollator
from training.batches import ShuffledBatchSampler
from training.collection import TrainingCollection
from training.encoders import as_encoder, open_base
from training.fitting import fit_encoder, fit_ranker
from training.mined import Mined, load, mine, save
from training.negatives import Draw
from training.rankers import ListCollator, ListLoss, ListObjective
from training.settings import EncoderSettings, FitSettings
from training.stages import Stages

Settings = TypeVar("Settings", bound=EncoderSettings)


@dataclass(frozen=True)
class Part:
    """One of the collections of a training, and the splits that it does not learn from."""

    name: str
    collection: TrainingCollection
    held_out: list[Collection]
    sha256: dict[str, dict[str, str]]


@dataclass
class Task(Generic[Settings]):
    """A training: what to learn from, how, and where its stages lie.

    parts  the collections that `collection` consists of, in its order
    """

    collection: TrainingCollection
    settings: Settings
    stages: Stages
    offline: bool
    parts: Sequence[Part] = ()

    def open_base(self, folder: Path | None = None) -> Any:
        """Return the model of a folder, or the settings' base."""
        return open_base(self.settings, base=folder, offline=self.offline)

    def on(self, collection: TrainingCollection) -> "Task[Settings]":
        """Return the same task on another collection, such as a part of this one."""
        return replace(self, collection=collection)

    def cycle(self, number: int) -> "Task[Settings]":
        """Return the task with the seed of a later cycle: other batches and draws than in the cycles before it."""
        # Far from the seeds that a user would try one after the other.
        seed = self.settings.seed + 1_000_003 * number
        return replace(self, settings=self.settings.model_copy(update={"seed": seed}))

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
        **options: Any,
    ) -> Path:
        """Fit a model as the stage `name`; returns its folder.

        options  collator of `fit_loss`, and callbacks, rates and finish of `training.fitting.fit`
        """
        return self.fit_loss(
            name,
            model,
            BatchLoss(model, self.collection, objective),
            draw,
            settings=settings,
            batch_sampler=batch_sampler,
            **options,
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
        collator: RowCollator | None = None,
        **options: Any,
    ) -> Path:
        """Fit a model by a loss module of its own as the stage `name`; returns its folder.

        collator  makes the batches, None for rows and draws as the settings say
        options  callbacks, rates and finish of `training.fitting.fit`
        """
        made = self.collator(model, draw) if collator is None else collator

        def work(folder: Path) -> dict[str, Any]:
            return fit_encoder(
                model,
                loss,
                made,
                folder,
                settings=settings or self.settings.fit,
                seed=self.settings.seed,
                examples=len(self.collection.queries),
                batch_sampler=batch_sampler,
                **options,
            )

        return self.stages.run(name, work)

    def fit_ranker(
        self,
        name: str,
        model: Any,
        objective: ListObjective,
        draw: Draw,
        settings: FitSettings,
        *,
        both_orders: bool = False,
    ) -> Path:
        """Fit a cross-encoder on drawn lists as the stage `name`; returns its folder.

        both_orders  see `training.rankers.ListLoss`
        """
        loss = ListLoss(model, self.collection, objective, both_orders=both_orders)
        collator = ListCollator(draw, seed=self.settings.seed)

        def work(folder: Path) -> dict[str, Any]:
            count = len(self.collection.queries)
            seed = self.settings.seed
            return fit_ranker(model, loss, collator, folder, settings=settings, seed=seed, examples=count)

        return self.stages.run(name, work)

    def mine(self, name: str, model: Any, depth: int, *, unlabelled: bool = False) -> Mined:
        """Mine with a model as the stage `name`, see `training.mined.mine`."""

        def work(folder: Path) -> dict[str, Any]:
            found = mine(as_encoder(model), self.collection, depth, unlabelled=unlabelled)
            save(found, folder)
            return {"queries": len(found.candidates), "candidates": len(found.candidates.documents)}

        return load(self.stages.run(name, work))
