"""What language models are asked. Changing a text changes scores, so each is part of the cache's keys."""

from typing import NamedTuple


class Prompt(NamedTuple):
    """One turn of a user, and how the answer is led in where a model has no chat form."""

    user: str
    lead: str

    @property
    def plain(self) -> str:
        """The prompt for a model without a chat form; an answer follows behind one space."""
        return f"{self.user}\n{self.lead}"

    @property
    def messages(self) -> list[dict[str, str]]:
        return [{"role": "user", "content": self.user}]


YES_NO = ("Yes", "No")
PASSAGES = ("Passage A", "Passage B")


def likelihood(document: str) -> Prompt:
    """Ask for the query that a document answers: arXiv:2204.07496, arXiv:2310.13243."""
    return Prompt(f"Passage: {document}\nWrite a search query that this passage answers.", "Query:")


def yes_no(query: str, document: str) -> Prompt:
    """Ask whether a document answers a query: arXiv:2211.09110, section on ranking."""
    return Prompt(
        f"Query: {query}\nPassage: {document}\nDoes the passage answer the query? Answer Yes or No.", "Answer:"
    )


def pair(query: str, first: str, second: str) -> Prompt:
    """Ask which of two documents is the more relevant: arXiv:2306.17563."""
    return Prompt(
        f"Which of the two passages is more relevant to the query?\nQuery: {query}\n\nPassage A: {first}\n\n"
        f"Passage B: {second}\n\nAnswer Passage A or Passage B, nothing else.",
        "Answer:",
    )
