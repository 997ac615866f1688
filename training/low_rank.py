"""Low-rank changes of a body's weights (LoRA, arXiv:2106.09685), in place of training the weights themselves.

They are added into the weights when a fit ends, so that the saved model is one like any other and needs no package.
"""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from retriever.errors import BackendUnavailable, ModelFault


class LowRankSettings(BaseModel):
    """rank     of the change of each linear layer; 0 trains all weights instead
    alpha    the change counts alpha / rank times
    dropout  of what goes into it
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    rank: int = Field(0, ge=0, le=1024)
    alpha: float = Field(64, gt=0)
    dropout: float = Field(0.1, ge=0, lt=1)


def require_package(settings: LowRankSettings) -> None:
    """Raise BackendUnavailable where a change of low rank is asked for and cannot be had."""
    if settings.rank:
        _peft()


def add_low_rank(model: Any, settings: LowRankSettings, seed: int) -> None:
    """Freeze the body of a sentence-transformers model and add a change of each linear layer, which starts as none.

    Of each: RepLLaMA leaves out the projection of keys. Of a state-space layer the input projection
    alone gets one: the weights of the others are read past any change, by its kernels or everywhere.
    What stands behind the body, such as a trained pooling, is trained as before. Raises BackendUnavailable.
    """
    import torch
    from transformers.pytorch_utils import Conv1D

    body = model[0].model
    config = _peft().LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules="all-linear",
        exclude_modules=_read_past(body) or None,
        # GPT-2's layers hold their weights the other way round.
        fan_in_fan_out=any(isinstance(layer, Conv1D) for layer in body.modules()),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        body.add_adapter(config)


def _read_past(body: Any) -> list[str]:
    """Return the linear layers whose weights are read without calling them: those of state-space layers."""
    mixers = [(name, layer) for name, layer in body.named_modules() if hasattr(layer, "A_log")]
    parts = ("x_proj", "dt_proj", "out_proj")
    return [f"{name}.{part}" for name, layer in mixers for part in parts if hasattr(layer, part)]


def merge_low_rank(model: Any) -> None:
    """Add the changes to the weights of the body, which is an ordinary one again.

    Raises ModelFault for weights that are not finite.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    body = model[0].model
    for name, layer in list(body.named_modules()):
        if isinstance(layer, BaseTunerLayer):
            try:
                layer.merge(safe_merge=True)
            except ValueError as error:
                raise ModelFault(f"the weights of {name} are not finite; lower learning_rate.") from error
            place, _, leaf = name.rpartition(".")
            setattr(body.get_submodule(place), leaf, layer.get_base_layer())
    # What transformers looks at when it saves: without it the weights alone, with it the changes alone.
    body._hf_peft_config_loaded = False
    del body.peft_config
    body.requires_grad_(True)


def _peft() -> Any:
    try:
        import peft
    except ImportError as error:
        raise BackendUnavailable(
            'Training of low rank needs the package peft. Install it with: pip install "retriever-engine[lora]", '
            "or set lora.rank=0 to train all weights."
        ) from error
    return peft
