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
