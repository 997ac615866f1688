"""What a missing framework is answered with."""

from retriever.errors import BackendUnavailable


def missing(framework: str, extra: str) -> BackendUnavailable:
    """Return the error for a framework that is not installed."""
    return BackendUnavailable(f"{framework} is not installed: pip install 'retriever-engine[{extra}]'.")
