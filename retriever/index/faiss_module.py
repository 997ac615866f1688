"""Finding FAISS: one module that two distributions install."""

from importlib.metadata import PackageNotFoundError, distribution
from types import ModuleType

from retriever.errors import BackendUnavailable

DISTRIBUTIONS = ("faiss-cpu", "faiss-gpu", "faiss-gpu-cu12", "faiss-gpu-cuvs")


def load_faiss() -> ModuleType:
    """Import FAISS. Raises BackendUnavailable when there is none, or two that overwrote each other."""
    installed = [name for name in DISTRIBUTIONS if _is_installed(name)]
    if len(installed) > 1:
        raise BackendUnavailable(
            f"{' and '.join(installed)} are installed together and overwrite each other's files; "
            f"run `pip uninstall {' '.join(installed)}` and install one of them."
        )
    try:
        import faiss
    except ImportError as error:
        raise BackendUnavailable(
            "FAISS is missing; run `pip install retriever-engine[cpu]`, or `[gpu]` on a CUDA machine."
        ) from error
    module: ModuleType = faiss
    return module


def _is_installed(name: str) -> bool:
    try:
        distribution(name)
    except PackageNotFoundError:
        return False
    return True
