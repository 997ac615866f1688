"""BM25 with Lucene's arithmetic, one posting after another: the definition.

Lucene's BM25Similarity computes each term's part in float32 as w - w / (1 + tf * n), where n is the inverse
of k1 * (1 - b + b * length / mean length) and the length is rounded to one byte; scorers add the parts in
float64 and return float32.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Postings = Sequence[tuple[NDArray[np.int32], NDArray[np.unsignedinteger]]]


Field = tuple[Postings, NDArray[np.float32], NDArray[np.uint8], NDArray[np.float32]]
"""What the definition needs of one field of N documents:

postings  for each query term its documents, ascending, and its frequency in each
weights   (terms,) inverse document frequency times the term's weight in the query
norms     (N,) document length as a byte
inverse   (256,) inverse length normalisation of each such byte
"""


def bm25_reference(fields: Sequence[Field]) -> NDArray[np.float32]:
    """Return (N,) scores of all documents, summed over fields; 0 where no query term occurs.

    The parts of all fields are added in float64 before they become float32, as by one BooleanQuery over them all.
    """
    scores = np.zeros(len(fields[0][2]), np.float64)
    for postings, weights, norms, inverse in fields:
        for (documents, frequencies), weight in zip(postings, weights, strict=True):
            for document, frequency in zip(documents, frequencies, strict=True):
                saturation = np.float32(1) + np.float32(frequency) * inverse[norms[document]]
                scores[document] += np.float32(weight - weight / saturation)
    return scores.astype(np.float32)
