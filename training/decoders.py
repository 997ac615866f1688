"""Encoders from causal language models: what their tokens attend to, and how states become a vector.

RepLLaMA, arXiv:2310.08319; NV-Embed, arXiv:2405.17428; arXiv:2409.02727.
"""

from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from retriever.errors import BackendUnavailable, InvalidInput
from retriever.heads import open_model
from retriever.models import resolve
from retriever.progress import quiet_transformers, without_transformers_bars
from training.settings import EncoderSettings

# Without it, texts become turns of a chat where the tokenizer has a form for them, which ends in no end token.
PLAIN_TEXT: Any = {"text": {"method": "forward", "method_output_name": "last_hidden_state"}}


class DecoderSettings(EncoderSettings):
    """query_prompt, document_prompt  what stands before every query and every document
    head       none: it would stand behind a pooling that these settings choose already
    attention  "bidirectional" lets tokens see those behind them, as the base was not trained to
    pooling    the end token's state, the mean over tokens, or trained: `LatentAttentionPooling` of the last layer's
               states, or `MultiLayerPooling` of one state of each layer
    latents    of a trained pooling
    """

    base: str = "SmolLM2-135M-Instruct"
    head: Literal["none"] = "none"
    attention: Literal["causal", "bidirectional"] = "causal"
    pooling: Literal["last", "mean", "latent_attention", "multi_layer"] = "last"
    latents: int = Field(512, ge=1, le=65_536)
    query_prompt: str = "query: "
    document_prompt: str = "passage: "


def open_decoder(settings: DecoderSettings, *, folder: Path | None = None, offline: bool = False) -> Any:
    """Return a sentence-transformers model over a causal model's body.

    Its tokenizer adds the end token itself, also where texts are cut, and is saved so. Weights become float32.
    Raises BackendUnavailable, and InvalidInput for a tokenizer without an end token, for a base that is an encoder
    already, and for one whose tokens see none behind them although attention is bidirectional.

    folder  instead of the settings' base; one that an earlier stage left, an encoder already, is opened as it is
    """
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Transformer

    folder = folder or base_of(settings, offline=offline)
    try:
        with without_transformers_bars(), quiet_transformers():
            if (folder / "modules.json").is_file():
                return open_model(folder).float()
            transformer = Transformer(str(folder), modality_config=PLAIN_TEXT, module_output_name="token_embeddings")
    except (OSError, ValueError, KeyError) as error:
        raise BackendUnavailable(f"{folder} is no model to start from: {error}") from error
    add_end_token(transformer.tokenizer, settings.base)
    if settings.attention == "bidirectional":
        # Saved with the configuration; transformers then makes masks of padding alone.
        transformer.model.config.is_causal = False
    pooling = _pooling(settings, transformer)
    model = SentenceTransformer(
        modules=[transformer, pooling],
        similarity_fn_name=settings.similarity,
        prompts={"query": settings.query_prompt, "document": settings.document_prompt},
    ).float()
    if settings.attention == "bidirectional" and not sees_behind(transformer.model):
        raise InvalidInput(
            f"attention=bidirectional changes nothing in {settings.base}, whose architecture "
            f"({transformer.model.config.model_type}) reads from the front alone; set attention=causal, or take "
            "another base."
        )
    return model


def sees_behind(body: Any) -> bool:
    """Tell whether the state of a first token hangs on later ones."""
    import torch

    size = body.config.vocab_size
    ids = torch.tensor([[1, *range(2, 9)], [1, *range(9, 16)]], device=body.device) % size
    with torch.inference_mode():
        first, other = body(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state[:, 0]
    return not torch.equal(first, other)


def base_of(settings: DecoderSettings, *, offline: bool = False) -> Path:
    """Return the folder of the settings' base. Raises InvalidInput where it is an encoder already."""
    folder = resolve(settings.base, offline=offline)
    if (folder / "modules.json").is_file():
        raise InvalidInput(
            f"the base {settings.base} is an encoder already, with attention, pooling and prompts of its own; give "
            "a causal language model such as SmolLM2-135M-Instruct, or train it by the recipe contrastive."
        )
    return folder


def _pooling(settings: DecoderSettings, transformer: Any) -> Any:
    import torch
    from sentence_transformers.sentence_transformer.modules import Pooling

    from retriever.heads.latent_attention import LatentAttentionPooling
    from retriever.heads.multi_layer import MultiLayerPooling

    width = transformer.get_embedding_dimension()
    if settings.pooling in ("last", "mean"):
        return Pooling(width, pooling_mode="lasttoken" if settings.pooling == "last" else "mean")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        if settings.pooling == "latent_attention":
            return LatentAttentionPooling(width, settings.latents)
        config = transformer.model.config
        config.output_hidden_states = True
        summary: Any = "last" if settings.attention == "causal" else "mean"
        return MultiLayerPooling(width, config.num_hidden_layers, summary, settings.latents)


def untrained(base: Any, corpus: Any, settings: DecoderSettings) -> Any:
    """Return what a trained decoder is compared with: the same encoder over the base's weights."""
    return open_decoder(settings, offline=True)


def add_end_token(tokenizer: Any, name: str) -> None:
    """Let a tokenizer put its end token behind every text, and pad with it where it has no token for that.

    Raises InvalidInput for one without an end token, or that is not a fast one.
    """
    from tokenizers.processors import TemplateProcessing

    end = tokenizer.eos_token
    if end is None:
        raise InvalidInput(
            f"the tokenizer of {name} has no end token, whose state is the text's vector; set eos_token in its "
            "tokenizer_config.json, or take another base."
        )
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise InvalidInput(f"the tokenizer of {name} is not a fast one; convert it, or take another base.")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = end
    before = tokenizer("", verbose=False)["input_ids"]
    if before[-1:] == [tokenizer.eos_token_id]:
        return
    # What the tokenizer puts before a text by itself stays.
    first = [(token, tokenizer.convert_tokens_to_ids(token)) for token in tokenizer.convert_ids_to_tokens(before)]
    template = " ".join([*(f"{token}:0" for token, _ in first), "$A:0", f"{end}:0"])
    backend.post_processor = TemplateProcessing(single=template, special_tokens=[*first, (end, tokenizer.eos_token_id)])
