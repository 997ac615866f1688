"""Positions and phrases one step after another: the definition."""

from collections import Counter
from collections.abc import Mapping, Sequence


def decode_reference(data: bytes) -> list[list[int]]:
    """Return the positions of every posting in `data`."""
    postings: list[list[int]] = []
    more = value = shift = 0
    for byte in data:
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            if not more:
                postings.append([])
            before = postings[-1][-1] if more else -1
            postings[-1].append(before + 1 + (value >> 1))
            more, value, shift = value & 1, 0, 0
    return postings


def phrase_reference(words: Sequence[str], positions: Mapping[str, Sequence[int]], slop: int) -> float:
    """Return how often a phrase occurs in a document, given the ascending positions of each term there.

    Without slop, the number of places where the words stand one after the other. With slop as Lucene's
    SloppyPhraseMatcher: let each word have a place, its position less its number in the phrase. The word with the
    least place is moved on as long as it stays the least; the distance is then the largest place less the least.
    Every distance up to `slop` adds 1 / (1 + distance); then the word is moved past the next one, and so on until
    a word has no more positions. No two words take the same position.
    """
    counts = Counter(words)
    if any(len(positions.get(word, ())) < count for word, count in counts.items()):
        return 0.0
    if slop == 0:
        places = set(positions[words[0]])
        for number, word in enumerate(words[1:], 1):
            places &= {position - number for position in positions[word]}
        return float(len(places))
    return _sloppy(words, positions, slop)


def _sloppy(words: Sequence[str], positions: Mapping[str, Sequence[int]], slop: int) -> float:
    numbers = range(len(words))
    at = [words[:number].count(words[number]) for number in numbers]

    def place(number: int) -> int:
        return positions[words[number]][at[number]] - number

    frequency = 0.0
    end = max(map(place, numbers))
    while True:
        lead = min(numbers, key=place)
        following = min(place(number) for number in numbers if number != lead)
        distance = end - place(lead)
        while True:
            moving: int | None = lead
            while moving is not None:
                at[moving] += 1
                if at[moving] == len(positions[words[moving]]):
                    return frequency + (1 / (1 + distance) if distance <= slop else 0)
                end = max(end, place(moving))
                beside = [n for n in numbers if n != moving and words[n] == words[moving] and at[n] == at[moving]]
                # Of two on one position the later word has the lesser place, and moves out of the way.
                moving = max(moving, beside[0]) if beside else None
            if place(lead) > following:
                break
            distance = min(distance, end - place(lead))
        if distance <= slop:
            frequency += 1 / (1 + distance)
