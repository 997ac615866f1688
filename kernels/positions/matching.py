"""How often a phrase occurs in each of some documents, from the positions of its words."""

import numpy as np
from numpy.typing import NDArray

from kernels.compiling import compiled
from kernels.positions.coding import read, skip
from kernels.positions.layout import STRIDE_BITS, Positions


@compiled
def sloppy_frequency(positions, starts, same, slop):
    """Return what `kernels.positions.reference.phrase_reference` does with slop.

    positions  of word w: int64, from starts[w] up to starts[w + 1], ascending; at least as many as there are words
               with its term
    same       (W,) the first word in the phrase with the same term
    """
    words = len(same)
    at = starts[:-1].copy()
    places = np.empty(words, np.int64)
    for word in range(words):
        for before in range(word):
            at[word] += same[before] == same[word]
        places[word] = positions[at[word]] - word
    end = places.max()
    frequency = 0.0
    while True:
        lead = 0
        for word in range(1, words):
            if places[word] < places[lead]:
                lead = word
        following = np.int64(1) << 62
        for word in range(words):
            if word != lead:
                following = min(following, places[word])
        distance = end - places[lead]
        while True:
            # Move the word on, and equal words out of its way.
            moving = lead
            while moving >= 0:
                at[moving] += 1
                if at[moving] == starts[moving + 1]:
                    return frequency + (1 / (1 + distance) if distance <= slop else 0.0)
                places[moving] = positions[at[moving]] - moving
                end = max(end, places[moving])
                beside = -1
                for word in range(words):
                    alike = word != moving and same[word] == same[moving]
                    if alike and at[word] - starts[word] == at[moving] - starts[moving]:
                        beside = word
                        break
                # Of two on one position the later word has the lesser place.
                moving = max(moving, beside) if beside >= 0 else -1
            if places[lead] > following:
                break
            distance = min(distance, end - places[lead])
        if distance <= slop:
            frequency += 1 / (1 + distance)


@compiled
def exact_frequency(positions, starts):
    """Return at how many places the words stand one after another; the arguments are those of `sloppy_frequency`."""
    words = len(starts) - 1
    at = starts[:-1].copy()
    frequency = 0.0
    while True:
        place = np.int64(-1)
        for word in range(words):
            if at[word] == starts[word + 1]:
                return frequency
            place = max(place, positions[at[word]] - word)
        together = True
        for word in range(words):
            while positions[at[word]] - word < place:
                at[word] += 1
                if at[word] == starts[word + 1]:
                    return frequency
            together &= positions[at[word]] - word == place
        if together:
            frequency += 1
            at[0] += 1


@compiled
def _frequencies(codes, data, marks, entries, same, slop, frequencies):
    words = len(same)
    # How many positions a word's term needs at least, for none is taken by two words.
    needed = np.zeros(words, np.int64)
    alike = np.zeros(words, np.int64)
    for word in range(words):
        alike[same[word]] += 1
        needed[word] = alike[same[word]]
    positions = np.empty(256, np.int64)
    starts = np.zeros(words + 1, np.int64)
    # Where each word's reading has come to: later documents are often within the same stride.
    reached = np.full(words, -1, np.int64)
    cursors = np.zeros(words, np.int64)
    for document in range(entries.shape[1]):
        enough = True
        for word in range(words):
            entry = entries[word, document]
            first = entry >> STRIDE_BITS << STRIDE_BITS
            at = cursors[word]
            if reached[word] < first or reached[word] > entry:
                reached[word] = first
                at = marks[entry >> STRIDE_BITS]
            for passed in range(reached[word], entry):
                if codes[passed]:
                    at = skip(data, at)
            reached[word] = entry
            cursors[word] = at
            positions, end = read(data, at, positions, starts[word])
            starts[word + 1] = end
            if end - starts[word] < needed[word]:
                enough = False
                break
        if not enough:
            frequencies[document] = 0
        elif slop == 0:
            frequencies[document] = exact_frequency(positions, starts)
        else:
            frequencies[document] = sloppy_frequency(positions, starts, same, slop)


def phrase_frequencies(
    codes: NDArray[np.uint8],
    positions: Positions,
    entries: NDArray[np.int64],
    same: NDArray[np.int64],
    slop: int,
) -> NDArray[np.float64]:
    """Return (C,) how often a phrase occurs in each document, as `kernels.positions.reference.phrase_reference` has it.

    codes    of `ImpactPostings`
    entries  (W, C) where the code of each word's posting in each document is, as from `kernels.impact.locate`; all
             words occur in all documents, which are best in ascending order
    same     (W,) the first word in the phrase with the same term
    slop     0 for words one after another

    Cost: about 30 postings passed over for each word and document, fewer where documents lie close together.
    """
    frequencies = np.zeros(entries.shape[1])
    _frequencies(codes, positions.data, positions.marks, entries, same, slop, frequencies)
    return frequencies
