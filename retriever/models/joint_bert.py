"""A cross-encoder that begins as a bi-encoder: its score is the cosine and what joint layers learn to add.

A BERT bi-encoder reads query and document apart, as always, and its upper layers have a trained copy that reads
both together, from what the lower ones give. Late layers that read both are those of DeFormer (arXiv:2005.00697)
and PreTTR (arXiv:2004.14255), where they save time. Here they save training data: the copy's head starts at zero, so
that the first order of the documents is the bi-encoder's, where a model with a new head starts with chance.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForSequenceClassification, BertConfig, BertModel, BertPreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput
from transformers.models.bert.modeling_bert import BertLayer

MASKED = -1e9


class JointBertConfig(BertConfig):
    """joint_layers  so many of the upper layers have a copy that reads query and document together
    bridge        added to the attention between the two sides there; below zero each side begins by reading itself
    score_scale   factor on the cosine: what a softmax over documents wants
    """

    model_type = "joint_bert"

    def __init__(self, joint_layers: int = 3, bridge: float = -2.0, score_scale: float = 20.0, **settings: Any) -> None:
        super().__init__(**settings)
        self.joint_layers = joint_layers
        self.bridge = bridge
        self.score_scale = score_scale


class JointBertForSequenceClassification(BertPreTrainedModel):
    """Scores pairs that a BERT tokenizer made: (B, 1) logits, score_scale * cosine + what the head adds.

    As `from_bi_encoder` makes it the logits are the bi-encoder's cosines times score_scale.
    """

    config_class = JointBertConfig

    def __init__(self, config: JointBertConfig) -> None:
        super().__init__(config)
        self.bert = BertModel(config, add_pooling_layer=False)
        layers = range(config.num_hidden_layers - config.joint_layers, config.num_hidden_layers)
        self.joint = nn.ModuleList(BertLayer(config, layer_idx=number) for number in layers)
        self.head = nn.Linear(2 * config.hidden_size, config.hidden_size)
        self.classifier = nn.Linear(config.hidden_size, 1)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        **_: Any,
    ) -> SequenceClassifierOutput:
        if token_type_ids is None:
            raise ValueError("joint_bert needs token_type_ids: they say where the document begins.")
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        ids, positions, document, alive = _apart(input_ids, attention_mask, token_type_ids)
        ids = ids.masked_fill(~alive, self.config.pad_token_id)
        hidden = self.bert.embeddings(input_ids=ids, position_ids=positions)
        same = document.unsqueeze(2) == document.unsqueeze(1)
        apart = _bias(same, MASKED, alive, hidden.dtype)
        lower = hidden
        for number, layer in enumerate(self.bert.encoder.layer):
            hidden = layer(hidden, attention_mask=apart)
            if number < self.config.num_hidden_layers - self.config.joint_layers:
                lower = hidden
        query, text = _sides(hidden, document, alive)
        cosine = (query * text).sum(dim=1, keepdim=True)
        joint = _bias(same, self.config.bridge, alive, lower.dtype)
        for layer in self.joint:
            lower = layer(lower, attention_mask=joint)
        query, text = _sides(lower, document, alive)
        scale = math.sqrt(query.shape[1])
        # Of the order of 1 each. What depends on one side alone is left out: it would be learned by heart.
        features = torch.cat([query * text * scale, (query - text).abs()], dim=1) * scale
        added = self.classifier(torch.tanh(self.head(features.to(self.head.weight.dtype))))
        return SequenceClassifierOutput(logits=self.config.score_scale * cosine + added)

    def freeze_bi_encoder(self) -> None:
        """Let only what is joint learn."""
        self.bert.requires_grad_(False)


def _apart(input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Give the document of each pair a [CLS] and positions of its own, as a bi-encoder would see it.

    From (B, S) returns (B, S + 1) ids, positions, which places are the document's, and which are no padding.
    Padding is at the end.
    """
    count, length = input_ids.shape
    used = attention_mask.sum(dim=1, keepdim=True)
    start = used - (token_type_ids * attention_mask).sum(dim=1, keepdim=True)
    place = torch.arange(length + 1, device=input_ids.device).expand(count, -1)
    document = place >= start
    ids = input_ids.gather(1, place - document.long())
    ids = torch.where(place == start, input_ids[:, :1], ids)
    alive = place <= used
    positions = torch.where(document, place - start, place).masked_fill(~alive, 0)
    return ids, positions, document, alive


def _bias(same: Tensor, across: float, alive: Tensor, dtype: torch.dtype) -> Tensor:
    """Return (B, 1, S, S) to add to the attention: 0 within a side, `across` between the sides."""
    bias = torch.zeros(same.shape, dtype=dtype, device=same.device)
    bias.masked_fill_(~same, across).masked_fill_(~alive.unsqueeze(1), MASKED)
    return bias.unsqueeze(1)


def _sides(hidden: Tensor, document: Tensor, alive: Tensor) -> tuple[Tensor, Tensor]:
    """Return (B, H) of the queries and of the documents."""
    hidden = hidden.float()
    return _mean(hidden, alive & ~document), _mean(hidden, alive & document)


def _mean(hidden: Tensor, places: Tensor) -> Tensor:
    """Return (B, H): the mean over the places, of unit length."""
    weights = places.unsqueeze(2).to(hidden.dtype)
    return nn.functional.normalize((hidden * weights).sum(dim=1), dim=1)


def from_bi_encoder(folder: str, joint_layers: int = 3, bridge: float = -2.0) -> JointBertForSequenceClassification:
    """Return a model that starts with a BERT bi-encoder's weights; its head adds nothing yet."""
    body = BertModel.from_pretrained(folder, add_pooling_layer=False, local_files_only=True)
    settings = {key: value for key, value in body.config.to_dict().items() if key != "model_type"}
    config = JointBertConfig(**settings | {"joint_layers": joint_layers, "bridge": bridge, "num_labels": 1})
    model = JointBertForSequenceClassification(config)
    model.bert.load_state_dict(body.state_dict())
    upper = list(model.bert.encoder.layer)[config.num_hidden_layers - joint_layers :]
    for layer, copied in zip(upper, model.joint, strict=True):
        copied.load_state_dict(layer.state_dict())
    nn.init.zeros_(model.classifier.weight)
    nn.init.zeros_(model.classifier.bias)
    return model


AutoConfig.register(JointBertConfig.model_type, JointBertConfig, exist_ok=True)
AutoModelForSequenceClassification.register(JointBertConfig, JointBertForSequenceClassification, exist_ok=True)
