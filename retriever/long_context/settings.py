"""What is done about the window, and how far."""

from collections.abc import Mapping
from math import ceil
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from retriever.errors import InvalidInput

Method = Literal["windows", "grouped", "recurrent", "interpolated", "ntk", "self_extend"]
METHODS: tuple[str, ...] = get_args(Method)

MOST_TOKENS = 131_072
LEAST_WINDOW = 16


class LongContext(BaseModel):
    """How an encoder reads inputs beyond its window; those within it are read as before.

    method       windows: each window is encoded alone, the vector is the mean (parallel context windows);
                 grouped, recurrent, interpolated: positions divided, repeated or scaled;
                 ntk: a larger base of rotary positions; self_extend: grouped beyond the neighbours
    length       longest input in tokens, special tokens included
    window       positions that are used of those that the model has; all of them if none is given
    group        self_extend: tokens that share a position beyond the neighbours; factor + 1 if none is given
    neighbours   self_extend: how far positions stay exact; window / factor if none is given
    base_factor  ntk: of the rotary base; a little above the factor if none is given
    temperature  multiply queries by log(tokens) / log(window) where that is above 1; of no use to windows
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    method: Method
    length: int = Field(ge=LEAST_WINDOW, le=MOST_TOKENS)
    window: int | None = Field(None, ge=LEAST_WINDOW, le=MOST_TOKENS)
    group: int | None = Field(None, ge=2, le=MOST_TOKENS)
    neighbours: int | None = Field(None, ge=1, le=MOST_TOKENS)
    base_factor: float | None = Field(None, gt=1, le=1e6)
    temperature: bool = True

    @property
    def factor(self) -> int:
        """How many windows the length takes, rounded up."""
        assert self.window is not None
        return ceil(self.length / self.window)

    def resolved(self, positions: int | None) -> "LongContext":
        """Return the settings with every number in its place.

        positions  how many the model has, None where it is not bound to any
        Raises InvalidInput for numbers that do not go together.
        """
        window = self.window or positions
        if window is None:
            raise InvalidInput("this model has no window of its own; give one, such as 512 tokens (--window).")
        if positions is not None and window > positions:
            raise InvalidInput(f"the window is {window} tokens, but the model reads {positions:,}; give fewer.")
        if self.length <= window:
            raise InvalidInput(
                f"the length is {self.length} tokens, not above the window of {window:,}, which the model reads as it "
                "is; give a larger length, or a smaller window."
            )
        found = self.model_copy(update={"window": window})
        updates: dict[str, Any] = {}
        if self.method == "windows":
            updates["temperature"] = False
        if self.method == "ntk":
            # 3, 5 and 10 for twice, four and eight times the window, as in LongEmbed.
            updates["base_factor"] = self.base_factor or float(found.factor + max(1, found.factor // 4))
        elif self.base_factor is not None:
            raise InvalidInput(f"base_factor belongs to the method ntk, not to {self.method}.")
        if self.method == "self_extend":
            # (3, 256), (5, 128) and (9, 64) for 512 positions at twice, four and eight times, as in LongEmbed.
            group, neighbours = self.group or found.factor + 1, self.neighbours or max(1, window // found.factor)
            farthest = (self.length - 1) // group + neighbours - neighbours // group
            # The paper's own numbers lead to the window itself, one farther than the model knows.
            if neighbours >= window or farthest > window:
                raise InvalidInput(
                    f"groups of {group} and {neighbours} neighbours lead to distances of {farthest}, the window is "
                    f"{window}; give larger groups or fewer neighbours."
                )
            updates |= {"group": group, "neighbours": neighbours}
        elif self.group is not None or self.neighbours is not None:
            raise InvalidInput(f"group and neighbours belong to the method self_extend, not to {self.method}.")
        return found.model_copy(update=updates)

    def describe(self) -> str:
        """Return the settings in one line, for fingerprints and cards."""
        given = self.model_dump(exclude={"method"}, exclude_none=True)
        return f"{self.method}: " + ", ".join(f"{name} {value}" for name, value in given.items())


def read_long_context(settings: Mapping[str, Any]) -> LongContext:
    """Return settings from plain values. Raises InvalidInput naming the faulty one and what is allowed."""
    try:
        return LongContext.model_validate(dict(settings))
    except ValidationError as error:
        (first, *_) = error.errors()
        name = ".".join(map(str, first["loc"]))
        raise InvalidInput(f"{name} is {first['input']!r}: {first['msg']}.") from error
