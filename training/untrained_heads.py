"""A base with the head that a training puts on it, before the training: the same bytes, nothing learned."""

from typing import Any

from retriever.codebook import train_codebook
from retriever.heads.product import ProductHead
from retriever.heads.sign import SignHead
from training.collection import Corpus
from training.encoders import as_encoder, head_of, with_head
from training.quantisation import default_parts

SIGNED = "the base with signs of its documents, unlearned"
QUANTISED = "the base with OPQ codes of its documents, as many bytes, unlearned"


def signed(base: Any, corpus: Corpus, settings: Any) -> Any:
    """Return the base with signs of its documents; as it is where it has a head."""
    return base if head_of(base) is not None else with_head(base, SignHead(int(base.get_embedding_dimension())))


def quantised(base: Any, corpus: Corpus, settings: Any) -> Any:
    """Return the base with OPQ of the corpus, the codebook that JPQ starts from; as it is where it has a head."""
    if head_of(base) is not None:
        return base
    encoder = as_encoder(base)
    parts = settings.parts or default_parts(encoder.width)
    codebook = train_codebook(encoder.encode_documents(corpus.documents), parts, seed=settings.seed)
    return with_head(base, ProductHead.of(codebook))
