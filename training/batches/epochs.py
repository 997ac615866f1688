"""Tells a batch sampler its epoch where the trainer fails to."""

from typing import Any

from transformers import TrainerCallback


class EpochCallback(TrainerCallback):
    """Sets the epoch of a batch sampler through all its wrappers.

    On several processes, in the first epoch after a resumption, two wrappers hide the sampler (one skips what was
    done, one picks the process's share) and transformers 5 looks through one only: the sampler would repeat the
    batches of epoch 0.
    """

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        sampler = getattr(kwargs.get("train_dataloader"), "batch_sampler", None)
        while sampler is not None and not hasattr(sampler, "set_epoch"):
            sampler = getattr(sampler, "batch_sampler", None)
        if sampler is not None:
            # A resumed epoch begins at a fraction, a whole one may be off by rounding.
            sampler.set_epoch(int(state.epoch + 1e-6))
