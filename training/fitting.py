"""Fitting a model with the sentence-transformers trainers: resumable, and stopped by what is not finite."""

import contextlib
import json
import re
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from retriever.errors import InvalidInput, ModelFault
from retriever.progress import without_transformers_bars
from retriever.storage import write_atomically
from training.batches import EpochCallback, ShuffledBatchSampler
from training.settings import FitSettings

FINISHED = "fit.json"


class Collator(Protocol):
    """Makes a batch of row numbers; what it draws follows the epoch."""

    def __call__(self, features: list[dict[str, int]]) -> dict[str, Any]: ...

    def set_epoch(self, epoch: int) -> None: ...


def fit_encoder(model: Any, loss: Any, collator: Collator, folder: Path, **options: Any) -> dict[str, Any]:
    """Fit a bi-encoder, see `fit`."""
    from sentence_transformers.sentence_transformer import (
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )

    return fit(
        SentenceTransformerTrainer, SentenceTransformerTrainingArguments, model, loss, collator, folder, **options
    )


def fit_ranker(model: Any, loss: Any, collator: Collator, folder: Path, **options: Any) -> dict[str, Any]:
    """Fit a cross-encoder, see `fit`."""
    from sentence_transformers.cross_encoder import CrossEncoderTrainer, CrossEncoderTrainingArguments

    return fit(CrossEncoderTrainer, CrossEncoderTrainingArguments, model, loss, collator, folder, **options)


def fit(
    trainers: Any,
    arguments: Any,
    model: Any,
    loss: Any,
    collator: Collator,
    folder: Path,
    *,
    settings: FitSettings,
    seed: int,
    examples: int,
    batch_sampler: Callable[..., Any] = ShuffledBatchSampler,
    callbacks: Sequence[Any] = (),
    rates: Mapping[str, float] | None = None,
    finish: Callable[[Any], None] | None = None,
) -> dict[str, Any]:
    """Fit a model on rows 0 ... examples - 1 and save it in `folder`; returns steps, seconds and losses.

    trainers, arguments  the trainer's class and that of its arguments
    rates  learning rates of parameters whose names match a pattern; these have no weight decay
    finish  changes the fitted model before it is saved, also one that is stopped; may raise ModelFault

    An interrupted fit goes on from the newest checkpoint in `folder`, with the same data in the same order.
    Raises ModelFault when a loss or the gradient of one is not finite; the model as it was before that batch lies in
    folder/stopped, unless it is broken too. Weights that are not finite are never saved.
    """
    if (folder / FINISHED).is_file():
        return dict(json.loads((folder / FINISHED).read_text()))
    if examples < settings.batch_size:
        raise InvalidInput(f"{examples} queries do not fill one batch; lower batch_size={settings.batch_size}.")
    rates = rates or {}
    trainer = trainers(
        model=model,
        args=arguments(**arguments_of(settings, folder, seed), learning_rate_mapping=dict(rates)),
        train_dataset=rows(examples),
        data_collator=collator,
        loss=loss,
    )
    # In the arguments it would be pickled into every checkpoint, with all that it holds.
    trainer.get_batch_sampler = batch_sampler
    decaying = trainer.get_decay_parameter_names
    trainer.get_decay_parameter_names = lambda fitted: [
        name for name in decaying(fitted) if not any(re.search(pattern, name) for pattern in rates)
    ]
    for callback in (EpochCallback(), _epoch_of(collator), *callbacks):
        trainer.add_callback(callback)
    stop_at_gradients(trainer, loss.require_finite_gradient)
    report = run(trainer, model, folder, finish)
    model.eval()
    if finish is not None:
        finish(model)
    require_finite_weights(model)
    with without_transformers_bars():
        model.save_pretrained(str(folder), create_model_card=False)
    write_atomically(folder / FINISHED, json.dumps(report, indent=1).encode())
    return report


def rows(count: int) -> Any:
    """Return the trainer's data set: nothing but row numbers, the collator knows the rest."""
    from datasets import Dataset

    return Dataset.from_dict({"row": list(range(count))})


def arguments_of(settings: FitSettings, folder: Path, seed: int) -> dict[str, Any]:
    """Return the keyword arguments for any of the trainers' TrainingArguments."""
    import torch

    cuda = torch.cuda.is_available()
    bfloat16 = settings.precision == "bfloat16" or (
        settings.precision == "auto" and cuda and torch.cuda.is_bf16_supported()
    )
    return {
        "output_dir": str(folder / "checkpoints"),
        "num_train_epochs": settings.epochs,
        "max_steps": settings.steps or -1,
        "per_device_train_batch_size": settings.batch_size,
        "dataloader_drop_last": True,
        "learning_rate": settings.learning_rate,
        "weight_decay": settings.weight_decay,
        "warmup_steps": settings.warmup,
        "max_grad_norm": settings.max_grad_norm,
        "bf16": bfloat16,
        "use_cpu": not cuda,
        "seed": seed,
        "save_strategy": "steps" if settings.save_steps else "no",
        "save_steps": settings.save_steps or 500,
        "save_total_limit": 1,
        "logging_strategy": "steps",
        "logging_steps": 50,
        "logging_nan_inf_filter": False,
        "report_to": "none",
        "disable_tqdm": not sys.stderr.isatty(),
        "dataloader_pin_memory": cuda,
    }


def run(trainer: Any, model: Any, folder: Path, finish: Callable[[Any], None] | None = None) -> dict[str, Any]:
    """Train, from the newest checkpoint where there is one; returns steps, seconds and the losses on the way.

    finish  changes the model of a training that is stopped before it is saved
    """
    from transformers import PrinterCallback
    from transformers.trainer_utils import get_last_checkpoint

    trainer.remove_callback(PrinterCallback)
    checkpoints = folder / "checkpoints"
    checkpoint = get_last_checkpoint(str(checkpoints)) if checkpoints.is_dir() else None
    started = time.monotonic()
    try:
        # What the trainer says must not go to standard output, which belongs to the report.
        with contextlib.redirect_stdout(sys.stderr):
            trainer.train(resume_from_checkpoint=checkpoint)
    except ModelFault as error:
        stopped, step = folder / "stopped", trainer.state.global_step
        try:
            if finish is not None:
                finish(model)
            require_finite_weights(model)
        except ModelFault as fault:
            raise ModelFault(f"step {step}: {error} The model before that step is broken too: {fault}") from error
        model.save_pretrained(str(stopped), create_model_card=False)
        raise ModelFault(f"step {step}: {error} The model as it was before that step is in {stopped}.") from error
    history = [(entry["step"], entry["loss"]) for entry in trainer.state.log_history if "loss" in entry]
    return {
        "steps": trainer.state.global_step,
        "resumed_from": 0 if checkpoint is None else int(Path(checkpoint).name.split("-")[1]),
        "seconds": round(time.monotonic() - started, 1),
        "losses": history,
    }


def stop_at_gradients(trainer: Any, require: Callable[[Any], None]) -> None:
    """Show `require` the norm of each step's gradient before the optimiser takes it; what it raises ends the training.

    It is the norm that clipping computes, so that the gradient is not read again.
    """
    clip = trainer.accelerator.clip_grad_norm_

    def clipped(*arguments: Any, **options: Any) -> Any:
        norm = clip(*arguments, **options)
        require(norm)
        return norm

    trainer.accelerator.clip_grad_norm_ = clipped


def require_finite_weights(model: Any) -> None:
    """Raise ModelFault naming the first weights that are NaN or infinite."""
    import torch

    for name, weights in model.named_parameters():
        if not torch.isfinite(weights.detach()).all():
            raise ModelFault(f"the weights of {name} are not finite; lower learning_rate and begin anew by --restart.")


def _epoch_of(collator: Collator) -> Any:
    """Return a callback that tells the collator the epoch."""
    from transformers import TrainerCallback

    class Epoch(TrainerCallback):
        def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            # Steps are whole, so that a fraction just below a whole number means that number.
            collator.set_epoch(int((state.epoch or 0) + 1e-6))

    return Epoch()
