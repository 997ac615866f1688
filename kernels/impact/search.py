"""Exact candidates for the top k: term at a time over blocks, on 8-bit codes with 16-bit accumulators.

A query gives each term a table from codes to whole numbers that are never below the code's true contribution
(in units of a common scale), so a document's accumulator is an upper bound of its score; less the most that the
terms of its segment can be rounded up, it is a lower bound. Whatever has an upper bound under the k-th best lower
bound is left out. The caller scores the few that remain at full precision.

Within a block the terms are taken as in MaxScore (Turtle and Flood, 1995): the weakest, which together cannot
lift a document over the threshold, are only looked up for documents that the others have brought near it.
"""

import numpy as np
from numpy.typing import NDArray

from kernels.compiling import compiled
from kernels.impact.instructions import STRIP, at_least, lowest_bit, prefetch
from kernels.impact.postings import BLOCK, BLOCK_BITS, CHECKPOINT, GROUP, SPARSE_KIND, TINY
from kernels.impact.segments import (
    ALLOWED,
    ALLOWED_COUNT,
    ALLOWED_LIST,
    CHECKPOINTS,
    CODES,
    DENSE_BOUNDS,
    DENSE_COUNTS,
    DENSE_DISTANCES,
    DENSE_SIZES,
    DENSE_STARTS,
    DOCUMENTS,
    FIRST_DENSE_CODE,
    FIRST_SPARSE_CODE,
    GROUPS,
    KINDS,
    SPARSE_BOUNDS,
    SPARSE_COUNTS,
    SPARSE_DOCUMENTS,
    SPARSE_STARTS,
    TINY_DOCUMENTS,
    int64_array,
    uint8_array,
    uint16_array,
    uint32_array,
)

TOP = 65535
BUCKET_BITS = 5
# Maxima are taken over chunks; what holds something is looked at in strips.
CHUNK = 256
# A walk over that many postings costs as much as one over all accumulators of a block.
WALK = 2000
# One look-up costs as much as adding that many postings.
LOOKUP = 60
# A chunk that holds a document near the threshold costs, with what follows for it, as much as that many.
HIT = 240

ABSENT = -1
TINY_FORM = 0
SPARSE_FORM = 1
DENSE_FORM = 2


@compiled
def find_term(row, term):
    """Return a term's form (-1: absent), its row or start there, and a tiny term's size, by a row of a table."""
    if term < 0:
        return ABSENT, np.int64(0), np.int64(0)
    kinds = uint8_array(row[KINDS], 1 << 40)
    groups = int64_array(row[GROUPS], 1 << 40)
    group = term // GROUP
    kind = kinds[term]
    if kind <= TINY:
        start = groups[group * 3]
        for other in range(group * GROUP, term):
            if kinds[other] <= TINY:
                start += kinds[other]
        return TINY_FORM, start, np.int64(kind)
    place = groups[group * 3 + (1 if kind == SPARSE_KIND else 2)]
    for other in range(group * GROUP, term):
        place += kinds[other] == kind
    return SPARSE_FORM if kind == SPARSE_KIND else DENSE_FORM, place, np.int64(0)


@compiled
def posting_sizes(table, terms, counts):
    """Write how many postings each term has in each segment, deleted documents included, into `counts` (S, T)."""
    for s in range(len(table)):
        sparse_starts = int64_array(table[s, SPARSE_STARTS], 1 << 36)
        dense_sizes = int64_array(table[s, DENSE_SIZES], 1 << 36)
        for t in range(terms.shape[1]):
            form, row, size = find_term(table[s], terms[s, t])
            if form == SPARSE_FORM:
                size = sparse_starts[row + 1] - sparse_starts[row]
            elif form == DENSE_FORM:
                size = dense_sizes[row]
            counts[s, t] = size


@compiled
def _add_dense(accumulators, distances, codes, start, first_code, count, lut):
    place = np.uint16(0)
    for i in range(np.uint64(start), np.uint64(start + count)):
        place = np.uint16(place + distances[i])
        accumulators[place] += lut[codes[np.uint64(first_code) + i]]


@compiled
def _add_sparse(accumulators, places, codes, start, first_code, count, lut):
    for i in range(np.uint64(start), np.uint64(start + count)):
        accumulators[places[i]] += lut[codes[np.uint64(first_code) + i]]


@compiled
def _add_tiny(accumulators, documents, codes, start, count, base, lut):
    for i in range(start, start + count):
        accumulators[np.uint16(documents[i] - base)] += lut[codes[i]]


@compiled
def _add(lists, form, accumulators, start, count, base, lut):
    """Add what a run contributes to the documents of its block; `lists` is the term's row of the table."""
    codes = uint8_array(lists[CODES], 1 << 40)
    if form == DENSE_FORM:
        distances = uint8_array(lists[DENSE_DISTANCES], 1 << 40)
        _add_dense(accumulators, distances, codes, start, lists[FIRST_DENSE_CODE], count, lut)
    elif form == SPARSE_FORM:
        places = uint16_array(lists[SPARSE_DOCUMENTS], 1 << 38)
        _add_sparse(accumulators, places, codes, start, lists[FIRST_SPARSE_CODE], count, lut)
    else:
        _add_tiny(accumulators, uint32_array(lists[TINY_DOCUMENTS], 1 << 38), codes, start, count, base, lut)


@compiled
def _largest(accumulators, start):
    largest = np.uint16(0)
    for i in range(CHUNK):
        largest = max(largest, accumulators[np.uint64(start) + np.uint64(i)])
    return largest


@compiled
def _maxima(accumulators, chunks, wanted, maxima):
    """Write the largest accumulator of each chunk and return how many chunks have what is wanted."""
    hits = 0
    for chunk in range(chunks):
        largest = _largest(accumulators, chunk * CHUNK)
        maxima[chunk] = largest
        hits += largest >= wanted
    return hits


@compiled
def _largest_of_strip(accumulators, start):
    largest = np.uint16(0)
    for i in range(STRIP):
        largest = max(largest, accumulators[np.uint64(start) + np.uint64(i)])
    return largest


@compiled
def _pick(accumulators, start, wanted, near, near_bounds, length):
    """Append the places of a chunk that have what is wanted."""
    address = accumulators.ctypes.data + 2 * start
    for strip in range(0, CHUNK, STRIP):
        bits = at_least(address + 2 * strip, np.uint16(wanted))
        while bits:
            place = start + strip + lowest_bit(bits)
            near[length] = place
            near_bounds[length] = accumulators[np.uint64(place)]
            length += 1
            bits = np.uint32(bits & (bits - np.uint32(1)))
    return length


@compiled
def _take_dense(accumulators, distances, start, count, wanted, near, near_bounds, length):
    """Append the places of a run that have what is wanted, and clear all; a place is found once."""
    place = np.uint16(0)
    for i in range(np.uint64(start), np.uint64(start + count)):
        place = np.uint16(place + distances[i])
        value = np.int32(accumulators[place])
        accumulators[place] = np.uint16(0)
        near[length] = place
        near_bounds[length] = value
        length += value >= wanted
    return length


@compiled
def _take_sparse(accumulators, places, start, count, wanted, near, near_bounds, length):
    for i in range(np.uint64(start), np.uint64(start + count)):
        value = np.int32(accumulators[places[i]])
        accumulators[places[i]] = np.uint16(0)
        near[length] = places[i]
        near_bounds[length] = value
        length += value >= wanted
    return length


@compiled
def _take_tiny(accumulators, documents, start, count, base, wanted, near, near_bounds, length):
    for i in range(start, start + count):
        place = np.uint16(documents[i] - base)
        value = np.int32(accumulators[place])
        accumulators[place] = np.uint16(0)
        near[length] = place
        near_bounds[length] = value
        length += value >= wanted
    return length


@compiled
def _take(lists, form, accumulators, start, count, base, wanted, near, near_bounds, length):
    if form == DENSE_FORM:
        distances = uint8_array(lists[DENSE_DISTANCES], 1 << 40)
        return _take_dense(accumulators, distances, start, count, wanted, near, near_bounds, length)
    if form == SPARSE_FORM:
        places = uint16_array(lists[SPARSE_DOCUMENTS], 1 << 38)
        return _take_sparse(accumulators, places, start, count, wanted, near, near_bounds, length)
    documents = uint32_array(lists[TINY_DOCUMENTS], 1 << 38)
    return _take_tiny(accumulators, documents, start, count, base, wanted, near, near_bounds, length)


@compiled
def _allowed_only(allowed, base, near, near_bounds, length):
    kept = 0
    for i in range(length):
        near[kept] = near[i]
        near_bounds[kept] = near_bounds[i]
        kept += allowed[base + near[i]]
    return kept


@compiled
def _prime(accumulators, chunks, k, error, maxima, histogram):
    """Return a bucket that at least k lower bounds reach, or 0: maxima of chunks or strips are as many documents."""
    strips = chunks * (CHUNK // STRIP)
    if k > strips:
        return 0
    highest = 0
    for chunk in range(chunks):
        reached_bucket = max(np.int64(0), np.int64(maxima[chunk]) - error) >> BUCKET_BITS
        highest = max(highest, reached_bucket)
        if k <= chunks:
            histogram[reached_bucket] += 1
    if k > chunks:
        for strip in range(strips):
            bound = np.int64(_largest_of_strip(accumulators, strip * STRIP)) - error
            histogram[max(np.int64(0), bound) >> BUCKET_BITS] += 1
    bucket = highest
    reached = np.int64(histogram[bucket])
    while reached < k:
        bucket -= 1
        reached += histogram[bucket]
    histogram[: highest + 1] = 0
    return bucket


@compiled
def _clear(accumulators, chunks):
    for i in range(np.uint64(chunks * CHUNK)):
        accumulators[i] = np.uint16(0)


@compiled
def _checkpoint_near(first, last, place):
    """Return which of a run's checkpoints a place has if the run is spread evenly."""
    return first + (((last - first) * place) >> BLOCK_BITS)


@compiled
def _approach(lists, start, count, near, length):
    """Ask for what looking up places in a dense run will read: such a run is seldom in cache, for it was not added."""
    first = start // CHECKPOINT
    last = (start + count) // CHECKPOINT - 1
    for i in range(length):
        low = _checkpoint_near(first, last, np.int64(near[i]))
        prefetch(lists[CHECKPOINTS] + 2 * low)
        prefetch(lists[DENSE_DISTANCES] + low * CHECKPOINT)
        prefetch(lists[CODES] + lists[FIRST_DENSE_CODE] + low * CHECKPOINT)


@compiled
def _find_dense(distances, checkpoints, start, count, place):
    """Return the entry of a place in a run, or -1."""
    first = start // CHECKPOINT
    last = (start + count) // CHECKPOINT - 1
    # The last checkpoint below the place; the first of a run is 0. Most are near where an even spread puts them.
    low = _checkpoint_near(first, last, place)
    while low > first and checkpoints[low] >= place:
        low -= 1
    while low < last and checkpoints[low + 1] < place:
        low += 1
    reached = np.int64(checkpoints[low])
    entry = low * CHECKPOINT
    end = entry + CHECKPOINT
    while entry < end:
        reached += distances[entry]
        if reached >= place:
            return entry if reached == place else -1
        entry += 1
    return -1


@compiled
def _find_sparse(places, start, count, place):
    low = start
    high = start + count
    while low < high:
        middle = (low + high) >> 1
        if places[middle] < place:
            low = middle + 1
        else:
            high = middle
    return low if low < start + count and places[low] == place else -1


@compiled
def _find_tiny(documents, start, count, document):
    for posting in range(start, start + count):
        if documents[posting] == document:
            return posting
    return -1


@compiled
def _find(lists, form, start, count, document):
    """Return where the code of a document's posting in a run is among all codes, or -1."""
    if form == TINY_FORM:
        return _find_tiny(uint32_array(lists[TINY_DOCUMENTS], 1 << 38), start, count, document)
    if count == 0:
        return -1
    if form == SPARSE_FORM:
        entry = _find_sparse(uint16_array(lists[SPARSE_DOCUMENTS], 1 << 38), start, count, document & (BLOCK - 1))
        return -1 if entry < 0 else lists[FIRST_SPARSE_CODE] + entry
    distances = uint8_array(lists[DENSE_DISTANCES], 1 << 40)
    checkpoints = uint16_array(lists[CHECKPOINTS], 1 << 38)
    entry = _find_dense(distances, checkpoints, start, count, document & (BLOCK - 1))
    return -1 if entry < 0 else lists[FIRST_DENSE_CODE] + entry


@compiled
def _contribution_tables(fields, weights, uppers, lowers, largest, luts, errors):
    """Fill `luts` (S, T, 256) and `errors` (S,): the most that an accumulator can lie above the score, in units.

    largest  (T,) largest code of each term; the sum of the largest contributions fits an accumulator
    """
    segments, terms = luts.shape[:2]
    most = 0.0
    for t in range(terms):
        highest = 0.0
        for s in range(segments):
            highest = max(highest, uppers[s, fields[t], largest[t]])
        most += weights[t] * highest
    scale = (TOP - 2 * terms) / most if most > 0 else 0.0
    for s in range(segments):
        if s > 0 and (uppers[s] == uppers[s - 1]).all() and (lowers[s] == lowers[s - 1]).all():
            luts[s] = luts[s - 1]
            errors[s] = errors[s - 1]
            continue
        errors[s] = 1
        for t in range(terms):
            widest = 0
            upper, lower = uppers[s, fields[t]], lowers[s, fields[t]]
            for code in range(1, largest[t] + 1):
                value = np.int64(np.ceil(weights[t] * upper[code] * scale))
                widest = max(widest, value - np.int64(np.floor(weights[t] * lower[code] * scale)))
                luts[s, t, code] = value
            errors[s] += widest


@compiled
def search_impacts(table, fields, terms, weights, uppers, lowers, k, accumulators):
    """Do what `candidates` says; `accumulators` (BLOCK,) are 0 before and after."""
    segments = len(table)
    n = len(weights)
    documents = np.int64(0)
    forms = np.full((segments, n), ABSENT, np.int64)
    rows = np.zeros((segments, n), np.int64)
    sizes = np.zeros((segments, n), np.int64)
    largest = np.zeros(n, np.int64)
    for s in range(segments):
        documents += table[s, 0, ALLOWED_COUNT] if table[s, 0, ALLOWED_LIST] != 0 else table[s, 0, DOCUMENTS]
        blocks = max(1, (table[s, 0, DOCUMENTS] + BLOCK - 1) // BLOCK)
        for t in range(n):
            lists = table[s, fields[t]]
            form, row, size = find_term(lists, terms[s, t])
            forms[s, t], rows[s, t], sizes[s, t] = form, row, size
            if form == TINY_FORM:
                codes = uint8_array(lists[CODES], 1 << 40)
                for posting in range(row, row + size):
                    largest[t] = max(largest[t], codes[posting])
            elif form != ABSENT:
                bounds = uint8_array(lists[SPARSE_BOUNDS if form == SPARSE_FORM else DENSE_BOUNDS], 1 << 40)
                for b in range(blocks):
                    largest[t] = max(largest[t], bounds[row * blocks + b])

    luts = np.zeros((segments, n, 256), np.uint16)
    errors = np.zeros(segments, np.int64)
    _contribution_tables(fields, weights, uppers, lowers, largest, luts, errors)
    bucket, highest, found_segment, found_document = _pass(
        table, fields, forms, rows, sizes, luts, errors, k, documents, np.int64(0), True, accumulators
    )
    if highest > _threshold(bucket):
        # The expectation was too high and may have hidden documents; what was found is a safe start.
        bucket, highest, found_segment, found_document = _pass(
            table, fields, forms, rows, sizes, luts, errors, k, documents, bucket, False, accumulators
        )
    return found_segment, found_document


@compiled
def _threshold(bucket):
    """Return the least accumulator that can still belong to the top k when k documents reach a bucket."""
    return max(np.int64(1), bucket << BUCKET_BITS)


@compiled
def _expected(k, seen, documents):
    """Return how many of the top k to look for among the documents seen, generously, if they lie evenly."""
    share = k * seen / documents
    return min(np.int64(k), np.int64(1.25 * share + 3.0 * np.sqrt(share)) + 3)


@compiled
def _pass(table, fields, forms, rows, sizes, luts, errors, k, documents, bucket, hopeful, accumulators):
    """Go over all blocks once and return (bucket that k documents reach, highest threshold used, candidates).

    hopeful  use the threshold to expect from the documents seen so far, if the best lie evenly; the candidates
             are complete only if the final bucket's threshold is no lower than the highest one used
    """
    segments, n = forms.shape
    histogram = np.zeros((TOP >> BUCKET_BITS) + 1, np.uint32)
    # Documents whose lower bound is in `bucket` or above it, and the same for the bucket to hope for.
    above = np.int64(0)
    hope = bucket
    above_hope = np.int64(0)
    seen = np.int64(0)
    highest = np.int64(1)
    most_weak = n

    capacity = np.int64(4096)
    found_segment = np.empty(capacity, np.int32)
    found_document = np.empty(capacity, np.int32)
    found_bound = np.empty(capacity, np.uint16)
    found = np.int64(0)

    active = np.empty(n, np.int64)
    bounds = np.empty(n, np.int64)
    counts = np.empty(n, np.int64)
    starts = np.empty(n, np.int64)
    cursors = np.empty(n, np.int64)
    # One more than can be found: a place that is not wanted is written, too, and overwritten.
    near = np.empty(BLOCK + 1, np.int32)
    maxima = np.empty(BLOCK // CHUNK, np.uint16)
    near_bounds = np.empty(BLOCK + 1, np.int32)

    for s in range(segments):
        # What is true of the documents stands in the row of the first field.
        first = table[s, 0]
        size = first[DOCUMENTS]
        blocks = max(1, (size + BLOCK - 1) // BLOCK)
        error = errors[s]
        restricted = first[ALLOWED] != 0
        allowed = uint8_array(first[ALLOWED], 1 << 40)
        listed = first[ALLOWED_LIST] != 0
        allowed_list = uint32_array(first[ALLOWED_LIST], 1 << 38)
        next_allowed = np.int64(0)
        for t in range(n):
            cursors[t] = _first_entry(table[s, fields[t]], forms[s, t], rows[s, t])

        for b in range(blocks):
            base = b << BLOCK_BITS
            chunks = (min(BLOCK, size - base) + CHUNK - 1) // CHUNK
            m = 0
            total = np.int64(0)
            for t in range(n):
                form = forms[s, t]
                if form == ABSENT:
                    continue
                count = np.int64(0)
                bound = np.int64(0)
                lists = table[s, fields[t]]
                if form == TINY_FORM:
                    codes = uint8_array(lists[CODES], 1 << 40)
                    tiny_documents = uint32_array(lists[TINY_DOCUMENTS], 1 << 38)
                    end = rows[s, t] + sizes[s, t]
                    while cursors[t] + count < end and tiny_documents[cursors[t] + count] < base + BLOCK:
                        bound = max(bound, np.int64(luts[s, t, codes[cursors[t] + count]]))
                        count += 1
                else:
                    run = rows[s, t] * blocks + b
                    count = _run_size(lists, form, run)
                    bounds_of_runs = uint8_array(lists[SPARSE_BOUNDS if form == SPARSE_FORM else DENSE_BOUNDS], 1 << 40)
                    bound = np.int64(luts[s, t, bounds_of_runs[run]])
                if count == 0:
                    continue
                # Insertion keeps the terms in ascending order of their bounds.
                slot = m
                while slot > 0 and bounds[slot - 1] > bound:
                    active[slot] = active[slot - 1]
                    bounds[slot] = bounds[slot - 1]
                    counts[slot] = counts[slot - 1]
                    starts[slot] = starts[slot - 1]
                    slot -= 1
                active[slot] = t
                bounds[slot] = bound
                counts[slot] = count
                starts[slot] = cursors[t]
                m += 1
                total += bound
                cursors[t] += count

            first_allowed = next_allowed
            if listed:
                while next_allowed < first[ALLOWED_COUNT] and allowed_list[next_allowed] < base + BLOCK:
                    next_allowed += 1
                seen += next_allowed - first_allowed
                if next_allowed == first_allowed:
                    continue
            else:
                seen += min(BLOCK, size - base)
            threshold = _threshold(hope)
            highest = max(highest, threshold)
            if total < threshold:
                continue
            weak = 0
            weak_bound = np.int64(0)
            while weak < min(m, most_weak) and weak_bound + bounds[weak] < threshold:
                weak_bound += bounds[weak]
                weak += 1
            walked = np.int64(0)
            for slot in range(weak, m):
                walked += counts[slot]
            # Short lists are cheaper added than looked up.
            while weak > 0 and counts[weak - 1] <= 1024:
                weak -= 1
                weak_bound -= bounds[weak]
                walked += counts[weak]
            only_look_up = listed and (next_allowed - first_allowed) * (m - weak) * LOOKUP < walked
            if only_look_up:
                # So few documents are allowed that every list is looked up for them.
                weak = m
                weak_bound = total

            for slot in range(weak, m):
                t = active[slot]
                _add(table[s, fields[t]], forms[s, t], accumulators, starts[slot], counts[slot], base, luts[s, t])

            length = 0
            if listed:
                wanted = max(np.int64(1), threshold - weak_bound)
                for i in range(first_allowed, next_allowed):
                    place = np.int64(allowed_list[i]) - base
                    value = accumulators[np.uint64(place)]
                    near[length] = place
                    near_bounds[length] = value
                    length += only_look_up or value >= wanted
                if not only_look_up:
                    _clear(accumulators, chunks)
            elif walked <= WALK:
                wanted = max(np.int64(1), threshold - weak_bound)
                for slot in range(weak, m):
                    t = active[slot]
                    length = _take(
                        table[s, fields[t]], forms[s, t], accumulators, starts[slot], counts[slot], base, wanted,
                        near, near_bounds, length,
                    )  # fmt: skip
                if restricted:
                    length = _allowed_only(allowed, base, near, near_bounds, length)
            else:
                wanted = max(np.int64(1), threshold - weak_bound)
                weak_before = weak
                hits = _maxima(accumulators, chunks, wanted, maxima)
                if hope == 0 and above == 0 and not restricted:
                    sought = _expected(k, seen, documents) if hopeful else k
                    hope = _prime(accumulators, chunks, sought, error, maxima, histogram)
                    if not hopeful:
                        bucket = hope
                    threshold = _threshold(hope)
                    highest = max(highest, threshold)
                    wanted = max(np.int64(1), threshold - weak_bound)
                while weak > 0 and hits * HIT > counts[weak - 1] + WALK:
                    # Too many documents are near the threshold: adding the next list leaves fewer.
                    weak -= 1
                    weak_bound -= bounds[weak]
                    wanted = max(np.int64(1), threshold - weak_bound)
                    t = active[weak]
                    _add(table[s, fields[t]], forms[s, t], accumulators, starts[weak], counts[weak], base, luts[s, t])
                    hits = _maxima(accumulators, chunks, wanted, maxima)
                # What was too much to look up here will be so in the next block, most likely.
                most_weak = weak if weak < weak_before else most_weak + 1
                for chunk in range(chunks):
                    if maxima[chunk] >= wanted:
                        length = _pick(accumulators, chunk * CHUNK, wanted, near, near_bounds, length)
                if restricted:
                    length = _allowed_only(allowed, base, near, near_bounds, length)
                _clear(accumulators, chunks)

            # Looked-up terms, the strongest first; documents that fall behind are dropped on the way.
            rest = weak_bound
            for slot in range(weak - 1, -1, -1):
                t = active[slot]
                form = forms[s, t]
                lut = luts[s, t]
                lists = table[s, fields[t]]
                codes = uint8_array(lists[CODES], 1 << 40)
                rest -= bounds[slot]
                kept = 0
                flooded = length * LOOKUP > counts[slot] + WALK
                if flooded:
                    _add(lists, form, accumulators, starts[slot], counts[slot], base, lut)
                elif form == DENSE_FORM and counts[slot] > 0:
                    _approach(lists, starts[slot], counts[slot], near, length)
                for i in range(length):
                    place = near[i]
                    value = near_bounds[i]
                    if flooded:
                        value += accumulators[np.uint64(place)]
                    else:
                        position = _find(lists, form, starts[slot], counts[slot], base + place)
                        if position >= 0:
                            value += lut[codes[position]]
                    if value + rest >= threshold:
                        near[kept] = place
                        near_bounds[kept] = value
                        kept += 1
                if flooded:
                    _clear(accumulators, chunks)
                length = kept

            if found + length > capacity:
                # Forget what has fallen under the threshold, and grow if that is not enough.
                kept_found = np.int64(0)
                for i in range(found):
                    if found_bound[i] >= threshold:
                        found_segment[kept_found] = found_segment[i]
                        found_document[kept_found] = found_document[i]
                        found_bound[kept_found] = found_bound[i]
                        kept_found += 1
                found = kept_found
                if found + length > capacity // 2:
                    capacity = 2 * (found + length)
                    grown_segment = np.empty(capacity, np.int32)
                    grown_document = np.empty(capacity, np.int32)
                    grown_bound = np.empty(capacity, np.uint16)
                    grown_segment[:found] = found_segment[:found]
                    grown_document[:found] = found_document[:found]
                    grown_bound[:found] = found_bound[:found]
                    found_segment = grown_segment
                    found_document = grown_document
                    found_bound = grown_bound
            for i in range(length):
                # Above it only where damaged lists hold a document twice.
                value = min(np.int64(near_bounds[i]), TOP)
                if value < threshold:
                    continue
                found_segment[found] = s
                found_document[found] = base + near[i]
                found_bound[found] = value
                found += 1
                reached = max(np.int64(0), value - error) >> BUCKET_BITS
                histogram[reached] += 1
                above_hope += reached >= hope
                if reached >= bucket:
                    above += 1
                    while above - histogram[bucket] >= k:
                        above -= histogram[bucket]
                        bucket += 1
            if hopeful:
                expected = _expected(k, seen, documents)
                while above_hope - np.int64(histogram[hope]) >= expected:
                    above_hope -= np.int64(histogram[hope])
                    hope += 1
                while above_hope < expected and hope > bucket:
                    hope -= 1
                    above_hope += np.int64(histogram[hope])
            hope = max(hope, bucket)
            if hope == bucket:
                above_hope = above

    threshold = _threshold(bucket)
    kept_found = np.int64(0)
    for i in range(found):
        if found_bound[i] >= threshold:
            found_segment[kept_found] = found_segment[i]
            found_document[kept_found] = found_document[i]
            kept_found += 1
    return bucket, highest, found_segment[:kept_found].copy(), found_document[:kept_found].copy()


@compiled
def _first_entry(lists, form, row):
    """Return where a term's list begins among those of its form."""
    if form == SPARSE_FORM:
        return int64_array(lists[SPARSE_STARTS], 1 << 36)[row]
    if form == DENSE_FORM:
        return int64_array(lists[DENSE_STARTS], 1 << 36)[row]
    return row


@compiled
def _run_size(lists, form, run):
    if form == SPARSE_FORM:
        return np.int64(uint16_array(lists[SPARSE_COUNTS], 1 << 38)[run])
    return np.int64(uint32_array(lists[DENSE_COUNTS], 1 << 38)[run])


@compiled
def _walk_dense(slots, distances, codes, start, first_code, count, found):
    place = np.uint16(0)
    for i in range(np.uint64(start), np.uint64(start + count)):
        place = np.uint16(place + distances[i])
        position = np.uint64(first_code) + i
        # Bridges have no posting, and the last ones of a run may pass the end of the block.
        found[np.uint64(slots[place]) * np.uint64(codes[position] != 0)] = position


@compiled
def _walk_sparse(slots, places, start, first_code, count, found):
    for i in range(np.uint64(start), np.uint64(start + count)):
        found[slots[places[i]]] = np.uint64(first_code) + i


@compiled
def _walk(lists, form, slots, start, count, found):
    """Write where the code of each posting in a run is into `found`, at its document's slot; slot 0 is for the rest."""
    if form == DENSE_FORM:
        distances, codes = uint8_array(lists[DENSE_DISTANCES], 1 << 40), uint8_array(lists[CODES], 1 << 40)
        _walk_dense(slots, distances, codes, start, lists[FIRST_DENSE_CODE], count, found)
    else:
        places = uint16_array(lists[SPARSE_DOCUMENTS], 1 << 38)
        _walk_sparse(slots, places, start, lists[FIRST_SPARSE_CODE], count, found)


@compiled
def locate(table, fields, terms, segments, documents, positions, slots):
    """Write for each term and document where the posting's code is, or -1, into `positions` (T, C).

    table, fields  see `candidates`
    slots          (BLOCK,) uint16, 0 before and after
    The documents must be in order of their segments, and of their blocks within one.
    """
    n = len(fields)
    forms = np.empty(n, np.int64)
    rows = np.empty(n, np.int64)
    counts = np.empty(n, np.int64)
    starts = np.empty(n, np.int64)
    found = np.empty(len(documents) + 1, np.int64)
    first = 0
    while first < len(segments):
        s = segments[first]
        blocks = max(1, (table[s, 0, DOCUMENTS] + BLOCK - 1) // BLOCK)
        for t in range(n):
            lists = table[s, fields[t]]
            forms[t], rows[t], counts[t] = find_term(lists, terms[s, t])
            starts[t] = _first_entry(lists, forms[t], rows[t])
            if forms[t] in (SPARSE_FORM, DENSE_FORM):
                counts[t] = _run_size(lists, forms[t], rows[t] * blocks)
        reached = 0
        while first < len(segments) and segments[first] == s:
            block = documents[first] >> BLOCK_BITS
            last = first
            while last < len(segments) and segments[last] == s and documents[last] >> BLOCK_BITS == block:
                last += 1
            marked = False
            for t in range(n):
                lists = table[s, fields[t]]
                form = forms[t]
                if form in (SPARSE_FORM, DENSE_FORM):
                    for passed in range(reached, block):
                        starts[t] += counts[t]
                        counts[t] = _run_size(lists, form, rows[t] * blocks + passed + 1)
                    # Where many documents are asked for, going through the whole run is cheaper than to look for each.
                    if counts[t] < (last - first) * LOOKUP and last - first < BLOCK - 1:
                        if not marked:
                            for i in range(first, last):
                                slots[documents[i] & (BLOCK - 1)] = i - first + 1
                            marked = True
                        found[: last - first + 1] = -1
                        _walk(lists, form, slots, starts[t], counts[t], found)
                        for i in range(first, last):
                            positions[t, i] = found[slots[documents[i] & (BLOCK - 1)]]
                        continue
                for i in range(first, last):
                    if form == ABSENT:
                        positions[t, i] = -1
                    else:
                        positions[t, i] = _find(lists, form, starts[t], counts[t], np.int64(documents[i]))
            if marked:
                for i in range(first, last):
                    slots[documents[i] & (BLOCK - 1)] = 0
            reached = block
            first = last


def candidates(
    table: NDArray[np.int64],
    fields: NDArray[np.int64],
    terms: NDArray[np.int64],
    weights: NDArray[np.float64],
    uppers: NDArray[np.float64],
    lowers: NDArray[np.float64],
    k: int,
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Return (segments, documents) that hold all of the top k, in order of segment and block.

    table    (S, F, COLUMNS) for each segment the rows of its fields, which number the same documents; see
             `Segments.restricted`. The masks are those of the first field's row and must be alive
    fields   (T,) the field of each query term
    terms    (S, T) each query term's number in each segment, in its field; -1 where it does not occur
    weights  (T,) of the terms in the query, above 0
    uppers   (S, F, 256) what a code can stand for at most, times the weight; entry 0 is not read
    lowers   (S, F, 256) and at least

    Only documents that hold a term are returned, so there may be fewer than k; there are more when scores
    lie close together. The scores are not returned: score the candidates at full precision.
    """
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    if len(table) == 0 or len(weights) == 0:
        return np.zeros(0, np.int32), np.zeros(0, np.int32)
    found: tuple[NDArray[np.int32], NDArray[np.int32]] = search_impacts(
        table, fields, terms, weights, uppers, lowers, k, np.zeros(BLOCK, np.uint16)
    )
    return found
