"""Sums of learned impacts at full precision, over several segments."""

import numpy as np
from numpy.typing import NDArray

from kernels.compiling import compiled
from kernels.impact.postings import BLOCK
from kernels.impact.search import candidates, locate
from kernels.impact.segments import CODES, float32_array, uint8_array


@compiled
def _score(table, values, step, weights, segments, documents, positions, scores):
    for i in range(len(documents)):
        s = segments[i]
        score = 0.0
        for t in range(len(weights)):
            position = positions[t, i]
            if position >= 0:
                if values[s] != 0:
                    score += weights[t] * float32_array(values[s], 1 << 38)[position]
                else:
                    score += weights[t] * (step * uint8_array(table[s, 0, CODES], 1 << 40)[position])
        scores[i] = np.float32(score)


def impact_search(
    table: NDArray[np.int64],
    values: NDArray[np.int64],
    step: float,
    terms: NDArray[np.int64],
    weights: NDArray[np.float64],
    uppers: NDArray[np.float64],
    lowers: NDArray[np.float64],
    k: int,
) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.float32]]:
    """Return (segments, documents, scores) that hold all of the top k by sums of weight times impact.

    table           (S, 1, COLUMNS), see `Segments.restricted`
    values          (S,) address of each segment's float32 impacts, one for each code, or 0 where an impact is
                    its code times `step`
    terms           (S, T) each query term's number in each segment, -1 where it is absent
    weights         (T,) above 0
    uppers, lowers  (S, 1, 256) the most and the least that a code stands for
    """
    fields = np.zeros(len(weights), np.int64)
    segments, documents = candidates(table, fields, terms, weights, uppers, lowers, k)
    positions = np.empty((len(weights), len(documents)), np.int64)
    locate(table, fields, terms, segments, documents, positions, np.zeros(BLOCK, np.uint16))
    scores = np.empty(len(documents), np.float32)
    _score(table, values, step, weights, segments, documents, positions, scores)
    return segments, documents, scores
