"""What a language model is asked for a document."""

from collections.abc import Sequence
from dataclasses import dataclass

from retriever.errors import InvalidInput

STYLES = {
    "question": "Write one short question that a person would ask and that this text answers. Write only the question.",
    "keywords": "Write the few words that a person would type into a search box to find this text. Write only them.",
    "statement": "Write one short claim that this text supports or refutes. Write only the claim.",
}

Example = tuple[str, str]

_HEART = (
    "The heart is a muscle that pumps blood through the body. In an adult at rest it beats 60 to 100 times a minute; "
    "athletes may have fewer beats, since their hearts move more blood with each of them."
)
_BREAD = (
    "Sourdough bread rises by wild yeast and bacteria that live in a starter of flour and water. The starter is fed "
    "every day; the acids of the bacteria give the bread its taste and keep it fresh longer than bread of bought yeast."
)
_TREATY = (
    "The Treaty of Westphalia of 1648 ended the Thirty Years' War. It let the princes of the empire choose the "
    "religion of their own lands, and is often named as the beginning of the system of sovereign states."
)
EXAMPLES: dict[str, tuple[Example, ...]] = {
    "question": (
        (_HEART, "what is a normal resting heart rate for adults"),
        (_BREAD, "why does sourdough bread stay fresh longer"),
        (_TREATY, "which treaty ended the thirty years war"),
    ),
    "keywords": (
        (_HEART, "resting heart rate adults"),
        (_BREAD, "sourdough starter wild yeast"),
        (_TREATY, "treaty of westphalia religion princes"),
    ),
    "statement": (
        (_HEART, "Athletes have lower resting heart rates than other adults."),
        (_BREAD, "Bread of bought yeast stays fresh longer than sourdough."),
        (_TREATY, "The Treaty of Westphalia ended the Thirty Years' War."),
    ),
}
"""Shown where a style is named and no examples are given: a small model that is only told what to write comments on the
text or asks back instead."""


@dataclass(frozen=True)
class Prompt:
    """An instruction, and examples of documents with their queries.

    instruction  one of STYLES, or any text
    examples     (document, query); a model without a chat form learns the task from them alone
    """

    instruction: str = STYLES["question"]
    examples: tuple[Example, ...] = ()

    @classmethod
    def of(cls, style: str, examples: Sequence[Example] = ()) -> "Prompt":
        """Return the prompt of a style by name, or with an instruction of one's own: any text with a space in it."""
        if style not in STYLES and " " not in style.strip():
            raise InvalidInput(f"style must be {', '.join(STYLES)} or an instruction in words, got {style!r}.")
        return cls(STYLES.get(style, style.strip()), tuple(examples))

    def messages(self, document: str) -> list[dict[str, str]]:
        """Return the turns of a chat that end in the request."""
        turns = []
        for text, query in self.examples:
            turns += [self._request(text), {"role": "assistant", "content": query}]
        return [*turns, self._request(document)]

    def _request(self, document: str) -> dict[str, str]:
        return {"role": "user", "content": f"{self.instruction}\n\nText: {document}"}

    def plain(self, document: str) -> str:
        """Return one text to be continued, for models without a chat form."""
        shown = [f"Text: {text}\nQuery: {query}\n\n" for text, query in self.examples]
        return f"{self.instruction}\n\n{''.join(shown)}Text: {document}\nQuery:"
