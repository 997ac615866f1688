"""Batch samplers under the real trainer: an interrupted training goes on with the batches that were to come."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from sentence_transformers.sentence_transformer.modules import StaticEmbedding
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor, nn
from transformers import TrainerCallback

from tests.training.test_batches import SAMPLERS, batches
from training.batches import EpochCallback

COUNT, SIZE, EPOCHS = 40, 8, 3


class Recorder(nn.Module):
    """A loss that notes which examples it was given."""

    def __init__(self, model: SentenceTransformer) -> None:
        super().__init__()
        self.model = model
        self.seen: list[list[int]] = []

    def forward(self, features: list[dict[str, Tensor]], labels: Tensor) -> Tensor:
        self.seen.append(labels.tolist())
        queries, documents = (self.model(side)["sentence_embedding"] for side in features)
        return nn.functional.cross_entropy(queries @ documents.T, torch.arange(len(queries)))


class StopAt(TrainerCallback):
    """Saves and stops after a step, as a signal would make it."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            control.should_save = control.should_training_stop = True


def trainer(folder: Path, make: Any, callbacks: list[TrainerCallback]) -> tuple[SentenceTransformerTrainer, Recorder]:
    words = [f"w{row}" for row in range(COUNT)]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate([*words, "?"])}, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    torch.manual_seed(0)
    model = SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_dim=8)], device="cpu")
    loss = Recorder(model)
    arguments = SentenceTransformerTrainingArguments(
        str(folder),
        num_train_epochs=EPOCHS,
        per_device_train_batch_size=SIZE,
        batch_sampler=make,
        save_strategy="no",
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        dataloader_pin_memory=False,
        seed=11,
    )
    rows = Dataset.from_dict({"query": words, "document": words, "label": list(range(COUNT))})
    return (
        SentenceTransformerTrainer(model, arguments, train_dataset=rows, loss=loss, callbacks=callbacks),
        loss,
    )


def vectors(epoch: int) -> np.ndarray:
    return np.random.default_rng(epoch).standard_normal((COUNT, 6)).astype(np.float32)


def makers() -> Iterator[Any]:
    yield SAMPLERS["topic"](COUNT)
    # The arguments are pickled with each checkpoint, which a function of this module survives and a lambda does not.
    yield partial(SAMPLERS["cluster"](COUNT), vectors=vectors, size=growing)
    yield SAMPLERS["walk"](COUNT)


def growing(epoch: int) -> int:
    return 2 * epoch + 1


@pytest.mark.parametrize("make", list(makers()), ids=["topic", "cluster", "walk"])
def test_an_interrupted_training_goes_on_with_the_same_batches(make: Any, tmp_path: Path) -> None:
    expected = [batch for epoch in range(EPOCHS) for batch in batches(make, COUNT, SIZE, epoch=epoch, seed=11)]
    first, seen = trainer(tmp_path, make, [EpochCallback(), StopAt(7)])
    first.train()
    assert seen.seen == expected[:7]
    second, rest = trainer(tmp_path, make, [EpochCallback()])
    second.train(resume_from_checkpoint=str(tmp_path / "checkpoint-7"))
    assert rest.seen == expected[7:]
