"""Impact postings and their vocabulary on disk, one file for each array, memory-mapped."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kernels.impact import ImpactPostings, require_sound
from kernels.impact.postings import DTYPES
from retriever.index.vocabulary import Vocabulary


def save_array(folder: Path, part: str, name: str, content: NDArray[Any]) -> str:
    """Write one array of a part and return the name of the file."""
    np.save(folder / f"{part}.{name}.npy", content)
    return f"{part}.{name}.npy"


def load_array(folder: Path, part: str, name: str) -> NDArray[Any]:
    """Return one array of a part, memory-mapped."""
    loaded: NDArray[Any] = np.load(folder / f"{part}.{name}.npy", mmap_mode="r", allow_pickle=False)
    # A plain array over the same memory: each slice of a memmap costs more than what is done with it.
    return loaded.view(np.ndarray)


def save_postings(folder: Path, part: str, terms: list[bytes], postings: ImpactPostings) -> list[str]:
    """Write postings and vocabulary and return the names of the files."""
    names = Vocabulary.write(folder, f"{part}.terms", terms)
    return names + [save_array(folder, part, name, content) for name, content in postings._asdict().items()]


def load_postings(folder: Path, part: str) -> tuple[Vocabulary, ImpactPostings]:
    """Return vocabulary and postings. Raises ValueError when they do not fit together."""
    postings = ImpactPostings(*(load_array(folder, part, name) for name in ImpactPostings._fields))
    wrong = [name for name, array in postings._asdict().items() if array.dtype != DTYPES[name]]
    if wrong:
        raise ValueError(f"the postings {part} of {folder} have other types than they should: {', '.join(wrong)}")
    try:
        require_sound(postings)
    except ValueError as error:
        raise ValueError(f"the postings {part} of {folder} do not fit together: {error}") from error
    return Vocabulary(folder, f"{part}.terms", len(postings.kinds)), postings
