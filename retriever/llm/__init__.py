"""Language models as rankers: query likelihood, yes or no, and pairs; see docs/llm.md."""
