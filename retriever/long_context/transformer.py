"""The first module of an encoder that reads beyond its window."""

from collections.abc import Mapping
from typing import Any

import torch
from sentence_transformers.base.modules import Transformer
from torch import Tensor

from retriever.errors import InvalidInput
from retriever.long_context.architecture import check_fit, first_position, kind_of, position_table
from retriever.long_context.attention import NAME
from retriever.long_context.positions import grouped, interpolated, interpolated_table, recurrent
from retriever.long_context.settings import LongContext, read_long_context
from retriever.long_context.stretch import Stretch, merge_of, temperature, turn_angles
from retriever.long_context.windows import ROWS, split_features


class LongContextTransformer(Transformer):
    """A sentence-transformers Transformer whose texts beyond the window are read as `long_context` says.

    A batch without such texts goes the library's own way, to the bit. In a batch with them the others keep their
    positions and temperature, so that no text's vector depends on those beside it but by rounding.

    long_context  settings with every number in its place, see `LongContext.resolved`
    """

    def __init__(self, model_name_or_path: str, *, long_context: Mapping[str, Any], **options: Any) -> None:
        super().__init__(model_name_or_path, **{**options, "unpad_inputs": False})
        self.long_context: LongContext = read_long_context(long_context)
        if self.long_context.window is None:
            raise InvalidInput(f"{model_name_or_path} names no window; make it again by `retriever models extend`.")
        check_fit(self.model, self.long_context)
        self.kind = kind_of(self.model)
        self.max_seq_length = self.long_context.length
        if self.long_context.method != "windows" and type(self.model).is_backend_compatible():
            self.model.set_attn_implementation(NAME)

    def get_config_dict(self) -> dict[str, Any]:
        settings = self.long_context
        # The length stands there as that of older models does, for whoever asks how much a folder's model reads.
        own = {"max_seq_length": settings.length, "long_context": settings.model_dump(exclude_none=True)}
        return {**super().get_config_dict(), **own}

    def stretch_table(self) -> None:
        """Put the interpolated table in the place of the model's own. Once only: it is saved with the model."""
        settings = self.long_context
        assert settings.window is not None
        table = position_table(self.model)
        begin = first_position(self.model)
        weight = table.weight.detach()
        rows = interpolated_table(weight[begin:], settings.window, settings.factor)
        larger = torch.cat([weight[:begin], rows])
        table.weight = torch.nn.Parameter(larger)
        table.num_embeddings = self.model.config.max_position_embeddings = len(larger)

    def forward(self, features: dict[str, Any], **options: Any) -> dict[str, Any]:
        """As the library's; with `windows` rows become windows, which `WindowMean` joins again."""
        lengths = features["attention_mask"].sum(1)
        long = lengths > self.long_context.window
        beyond = bool(long.any())
        if self.long_context.method == "windows" and beyond:
            return self._in_windows(features, options)
        # The interpolated table has the places of short texts elsewhere, too.
        if beyond or (self.kind == "absolute" and self.long_context.method == "interpolated"):
            options = {**options, **self._placed(features, lengths, long)}
        found: dict[str, Any] = super().forward(features, **options)
        return found

    def _placed(self, features: dict[str, Any], lengths: Tensor, long: Tensor) -> dict[str, Any]:
        """Return what the model is called with beside its inputs."""
        settings = self.long_context
        assert settings.window is not None
        places = (features["attention_mask"].long().cumsum(1) - 1).clamp(min=0)
        scale = temperature(lengths, settings.window) if settings.temperature and bool(long.any()) else None
        if self.kind == "rotary":
            return {"position_ids": places, "stretch": self._stretch(places, long, scale)}
        options: dict[str, Any] = {"position_ids": self._rows(places, long)}
        if "token_type_ids" in self._declared_forward_params and "token_type_ids" not in features:
            # The model's own zeros are no more than its window.
            options["token_type_ids"] = torch.zeros_like(features["input_ids"])
        if scale is not None:
            options["stretch"] = Stretch(scale=scale)
        return options

    def _rows(self, places: Tensor, long: Tensor) -> Tensor:
        settings = self.long_context
        assert settings.window is not None
        if settings.method == "grouped":
            found = grouped(places, long, settings.factor)
        elif settings.method == "recurrent":
            found = recurrent(places, long, settings.window)
        else:
            found = interpolated(places, long, settings.factor)
        return found + first_position(self.model)

    def _stretch(self, places: Tensor, long: Tensor, scale: Tensor | None) -> Stretch:
        own = self.model.rotary_emb.inv_freq
        if self.long_context.method == "self_extend":
            return Stretch(scale=scale, merge=merge_of(self.long_context, places, long, own))
        base = self.model.config.rope_parameters["rope_theta"]
        return Stretch(scale=scale, angles=turn_angles(self.long_context, places, long, own, base))

    def _in_windows(self, features: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
        assert self.long_context.window is not None
        tokenizer = self.tokenizer
        special = tokenizer("a", return_special_tokens_mask=True)["special_tokens_mask"]
        prompt = features.get("prompt_length", 0)
        if isinstance(prompt, Tensor):
            # A trainer gives it once for each text.
            prompt = int(prompt.flatten()[0])
        split = split_features(
            {**features, "prompt_length": prompt},
            self.long_context.window,
            # The prompt stands before every window, as in LongEmbed.
            head=max(special.index(0), prompt),
            tail=special[::-1].index(0),
            padding=tokenizer.pad_token_id or 0,
        )
        rows = split.pop(ROWS)
        found: dict[str, Any] = super().forward(split, **options)
        return {**found, ROWS: rows}
