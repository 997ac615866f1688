"""Batch samplers as sets: purity, coverage, no repeats, connectivity, and the same after an interruption."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from accelerate.data_loader import BatchSamplerShard, SkipBatchSampler
from hypothesis import given
from hypothesis import strategies as st

from indexing.corpora import open_corpus
from retriever.errors import InvalidInput
from training.batches import ClusterBatchSampler, EpochCallback, GraphWalkBatchSampler, TopicBatchSampler
from training.candidates import Candidates


def directions(groups: int, each: int) -> np.ndarray:
    """Vectors around `groups` orthogonal directions, in turn."""
    generator = np.random.default_rng(0)
    vectors = np.tile(np.eye(groups, dtype=np.float32), (each, 1))
    return vectors + 0.01 * generator.standard_normal(vectors.shape).astype(np.float32)


def ring(queries: int, depth: int = 8) -> Candidates:
    """Query q finds documents q, q + 1, ... around a ring: neighbours share documents, others do not."""
    documents = (np.arange(queries)[:, None] + np.arange(depth)) % queries
    return Candidates.of_matrix(documents, np.tile(np.arange(depth, 0, -1.0), (queries, 1)))


SAMPLERS: dict[str, Callable[..., Any]] = {
    "topic": lambda count, **more: partial(TopicBatchSampler, labels=np.arange(count) % 5, **more),
    "cluster": lambda count, **more: partial(
        ClusterBatchSampler,
        vectors=lambda epoch: directions(4, -(-count // 4))[:count],
        size=lambda e: 1 + 3 * e,
        **more,
    ),
    "walk": lambda count, **more: partial(
        GraphWalkBatchSampler, candidates=ring(count), near=(0, 3), far=(3, 8), **more
    ),
}
ONCE = ["cluster", "walk"]


def batches(
    make: Any, count: int, size: int, *, epoch: int = 0, seed: int = 0, drop_last: bool = False
) -> list[list[int]]:
    """One epoch, made as the trainer makes it."""
    sampler = make(
        range(count), batch_size=size, drop_last=drop_last, valid_label_columns=[], generator=None, seed=seed
    )
    sampler.set_epoch(epoch)
    drawn = list(sampler)
    assert len(drawn) == len(sampler)
    return drawn


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_pure_function_of_seed_and_epoch(name: str) -> None:
    make = SAMPLERS[name](40)
    epochs = [batches(make, 40, 8, epoch=epoch) for epoch in range(3)]
    assert batches(make, 40, 8, epoch=2) == epochs[2]
    assert epochs[0] != epochs[1] != epochs[2]
    assert batches(make, 40, 8, epoch=2, seed=1) != epochs[2]
    # Going through epochs in order or straight to one is the same, and so is a second look at it.
    sampler = make(range(40), batch_size=8, drop_last=False, seed=0)
    for epoch, expected in enumerate(epochs):
        sampler.set_epoch(epoch)
        assert list(sampler) == list(sampler) == expected


@pytest.mark.parametrize("name", ONCE)
@given(count=st.integers(9, 60), size=st.integers(1, 20), epoch=st.integers(0, 3))
def test_every_query_exactly_once_an_epoch(name: str, count: int, size: int, epoch: int) -> None:
    drawn = batches(SAMPLERS[name](count), count, size, epoch=epoch)
    assert sorted(row for batch in drawn for row in batch) == list(range(count))
    assert [len(batch) for batch in drawn[:-1]] == [size] * (len(drawn) - 1)


@pytest.mark.parametrize("name", SAMPLERS)
def test_incomplete_batches_can_be_left_out(name: str) -> None:
    drawn = batches(SAMPLERS[name](43), 43, 10, drop_last=True)
    assert [len(batch) for batch in drawn] == [10] * 4


@pytest.mark.parametrize("name", SAMPLERS)
def test_fewer_queries_than_a_batch(name: str) -> None:
    make = SAMPLERS[name](9)
    assert [sorted(batch) for batch in batches(make, 9, 16)] == [list(range(9))]
    with pytest.raises(InvalidInput, match="9 queries do not fill one batch of 16; lower the batch size"):
        batches(make, 9, 16, drop_last=True)


@pytest.mark.parametrize("name", SAMPLERS)
def test_no_examples(name: str) -> None:
    with pytest.raises(InvalidInput, match="0 queries do not fill one batch"):
        SAMPLERS[name](12, queries=np.zeros(0, np.int64))(range(0), batch_size=4, drop_last=False)


@pytest.mark.parametrize("name", SAMPLERS)
def test_one_example_of_each_query(name: str) -> None:
    # Query 3 has no example, query 0 has three; the others two, not side by side.
    queries = np.array([0, 0, 0] + [row for row in range(12) if row not in (0, 3)] * 2)
    make = SAMPLERS[name](12, queries=queries)
    seen: dict[int, set[int]] = {}
    for epoch in range(12):
        for batch in batches(make, len(queries), 4, epoch=epoch):
            asked = queries[batch].tolist()
            assert len(set(asked)) == len(asked)
            for query, example in zip(asked, batch, strict=True):
                seen.setdefault(query, set()).add(example)
    assert {query: len(examples) for query, examples in seen.items()} == {0: 3} | dict.fromkeys(
        [1, 2, *range(4, 12)], 2
    )


@pytest.mark.parametrize(("name", "given"), [("topic", 12), ("walk", 12)])
def test_examples_that_do_not_fit_are_refused(name: str, given: int) -> None:
    with pytest.raises(InvalidInput, match="13 examples, but there are 12 queries"):
        SAMPLERS[name](given)(range(13), batch_size=4, drop_last=False)
    with pytest.raises(InvalidInput, match="0 to 11, got 0 to 12"):
        SAMPLERS[name](given, queries=np.arange(13))(range(13), batch_size=4, drop_last=False)
    with pytest.raises(InvalidInput, match="query row of 13 examples"):
        SAMPLERS[name](given, queries=np.arange(12))(range(13), batch_size=4, drop_last=False)


def test_topic_batches_are_pure() -> None:
    labels = np.repeat(np.arange(6), [10, 20, 10, 50, 10, 12])
    drawn = batches(partial(TopicBatchSampler, labels=labels, batches=300), len(labels), 10)
    assert len(drawn) == 300
    assert all(len(set(labels[batch])) == 1 and len(set(batch)) == 10 for batch in drawn)
    # Drawn uniformly, not by size: each of six clusters 50 times, give or take three standard deviations.
    counts = np.bincount([labels[batch[0]] for batch in drawn], minlength=6)
    assert np.abs(counts - 50).max() < 20


def test_small_topics_are_topped_up() -> None:
    labels = np.repeat(np.arange(10), 4)
    drawn = batches(partial(TopicBatchSampler, labels=labels, batches=20), 40, 10)
    for batch in drawn:
        assert len(set(batch)) == 10
        # Two whole clusters and two queries of a third.
        assert sorted(np.unique(labels[batch], return_counts=True)[1].tolist()) == [2, 4, 4]


def test_empty_topics_are_never_drawn() -> None:
    labels = np.array([9, 9, 9, 4, 4, 4])
    drawn = batches(partial(TopicBatchSampler, labels=labels, batches=20), 6, 3)
    assert {tuple(sorted(batch)) for batch in drawn} == {(0, 1, 2), (3, 4, 5)}


def test_several_topics_share_a_batch() -> None:
    labels = np.repeat(np.arange(8), 20)
    for batch in batches(partial(TopicBatchSampler, labels=labels, clusters_per_batch=4), 160, 12):
        assert np.unique(labels[batch], return_counts=True)[1].tolist() == [3, 3, 3, 3]
    # Two clusters where four should share: they give more.
    few = np.repeat([0, 1], 20)
    for batch in batches(partial(TopicBatchSampler, labels=few, clusters_per_batch=4), 40, 12):
        assert len(set(batch)) == 12
    with pytest.raises(InvalidInput, match="clusters_per_batch must be 1 to 12, got 13"):
        batches(partial(TopicBatchSampler, labels=labels, clusters_per_batch=13), 160, 12)
    with pytest.raises(InvalidInput, match="batches an epoch"):
        batches(partial(TopicBatchSampler, labels=labels, batches=0), 160, 12)


def test_members_of_a_cluster_stand_together() -> None:
    vectors = directions(8, 16)
    make = partial(ClusterBatchSampler, vectors=lambda epoch: vectors, size=lambda epoch: 16)
    for batch in batches(make, 128, 16):
        assert len({row % 8 for row in batch}) == 1
    mixed = [len({row % 8 for row in batch}) for batch in batches(partial(make, size=lambda epoch: 1), 128, 16)]
    assert np.mean(mixed) > 5


def test_clusters_are_made_when_they_double_and_every_few_epochs() -> None:
    asked: list[int] = []

    def vectors(epoch: int) -> np.ndarray:
        asked.append(epoch)
        return directions(4, 8)

    sampler = ClusterBatchSampler(range(32), 8, False, vectors=vectors, refresh=5)
    for epoch in range(28):
        sampler.set_epoch(epoch)
        list(sampler)
    assert asked == [10, 15, 20, 25]
    assert sampler.seconds > 0
    odd = ClusterBatchSampler(range(32), 8, False, vectors=vectors, refresh=3, size=lambda epoch: 4 if epoch < 4 else 8)
    assert [odd.clustered_in(epoch) for epoch in range(9)] == [0, 0, 0, 3, 4, 4, 4, 7, 7]


def test_clusterings_are_found_again(tmp_path: Path) -> None:
    make = partial(ClusterBatchSampler, size=lambda epoch: 4, refresh=2, folder=tmp_path / "clusters")
    whole = batches(partial(make, vectors=lambda epoch: directions(4, 8)), 32, 8, epoch=3)
    assert [file.name for file in (tmp_path / "clusters").iterdir()] == ["clusters-000002.npy"]

    def moved(epoch: int) -> np.ndarray:
        raise AssertionError("the embeddings of that epoch are gone")

    assert batches(partial(make, vectors=moved), 32, 8, epoch=3) == whole
    with pytest.raises(InvalidInput, match=r"clusters-000002.npy holds int32 \(32,\), not the clusters of 31"):
        batches(partial(make, vectors=moved), 31, 8, epoch=3)


def test_embeddings_that_do_not_fit_are_refused() -> None:
    make = partial(ClusterBatchSampler, size=lambda epoch: 4)
    with pytest.raises(InvalidInput, match="vectors of 31 queries, 32 are needed"):
        batches(partial(make, vectors=lambda epoch: directions(1, 31)), 32, 8)
    broken = directions(4, 8)
    broken[17] = np.nan
    with pytest.raises(InvalidInput, match="query row 17"):
        batches(partial(make, vectors=lambda epoch: broken), 32, 8)
    with pytest.raises(InvalidInput, match="refresh"):
        batches(partial(make, vectors=lambda epoch: broken, refresh=0), 32, 8)


@pytest.mark.parametrize("snowball", [False, True])
def test_a_batch_is_connected(snowball: bool) -> None:
    candidates = ring(200)
    make = partial(GraphWalkBatchSampler, candidates=candidates, near=(0, 3), far=(3, 8), snowball=snowball)
    sampler = make(range(200), batch_size=10, drop_last=False)
    walk = sampler.walk(0)
    assert next(iter(sampler)) == walk.queries[:10].tolist()
    linked = 0
    for start in range(0, 200, 10):
        queries, negatives = walk.queries[start : start + 10], walk.negatives[start : start + 10, 0]
        for place in range(1, 10):
            far = candidates.of(queries[place])[0][3:8]
            linked += bool(np.isin(negatives[:place], far).any())
    # A batch that is caught between used queries starts anew; random order links one in eight.
    assert linked > 0.8 * 180


def test_walks_go_deep_and_snowballs_wide() -> None:
    # The last found leads away from the start, the first found stays near it.
    def spans(snowball: bool) -> float:
        make = partial(GraphWalkBatchSampler, candidates=ring(3000), near=(0, 3), far=(3, 8), snowball=snowball)
        widths = []
        for batch in batches(make, 3000, 20)[:30]:
            away = (np.array(batch) - batch[0]) % 3000
            widths.append(np.minimum(away, 3000 - away).max())
        return float(np.median(widths))

    assert spans(False) > spans(True)


def test_negatives_of_a_walk() -> None:
    candidates = ring(60)
    make = partial(GraphWalkBatchSampler, candidates=candidates, near=(0, 3), far=(3, 8), count=2)
    walk = make(range(60), batch_size=12, drop_last=False).walk(4)
    assert walk.negatives.shape == (60, 2)
    for start in range(0, 60, 12):
        drawn = walk.negatives[start : start + 12]
        real = drawn[drawn >= 0]
        assert len(set(real.tolist())) == len(real)
        for query, negatives in zip(walk.queries[start : start + 12], drawn, strict=True):
            assert set(negatives.tolist()) <= {*candidates.of(query)[0][:3].tolist(), -1}
    assert (walk.negatives[::12] >= 0).all()


def test_patches_start_anew() -> None:
    # Two rings that share nothing: without patches a batch never leaves its ring.
    documents = np.concatenate([ring(100).documents.reshape(100, 8), 100 + ring(100).documents.reshape(100, 8)])
    candidates = Candidates.of_matrix(documents, np.tile(np.arange(8, 0, -1.0), (200, 1)))
    make = partial(GraphWalkBatchSampler, candidates=candidates, near=(0, 3), far=(3, 8), snowball=True)
    one = [len({row // 100 for row in batch}) for batch in batches(make, 200, 10)[:5]]
    four = [len({row // 100 for row in batch}) for batch in batches(partial(make, patches=5), 200, 10)[:5]]
    assert np.mean(one) < np.mean(four)
    with pytest.raises(InvalidInput, match="patches must be 1 to 10"):
        batches(partial(make, patches=11), 200, 10)


def test_queries_without_candidates_are_visited() -> None:
    full = ring(20)
    candidates = full.restrict(full.queries != 7)
    make = partial(GraphWalkBatchSampler, candidates=candidates, near=(0, 3), far=(3, 8))
    assert sorted(row for batch in batches(make, 20, 6) for row in batch) == list(range(20))
    walk = make(range(20), batch_size=6, drop_last=False).walk(0)
    assert walk.negatives[walk.queries == 7].tolist() == [[-1]]


def test_lists_too_short_to_link_are_refused() -> None:
    with pytest.raises(InvalidInput, match="ranks 200 to 400, the deepest list holds 8: mine deeper"):
        batches(partial(GraphWalkBatchSampler, candidates=ring(20)), 20, 4)


def test_the_epoch_reaches_a_sampler_behind_two_wrappers() -> None:
    sampler = SAMPLERS["topic"](40)(range(40), batch_size=4, drop_last=False)

    class Loader:
        batch_sampler = SkipBatchSampler(BatchSamplerShard(sampler, num_processes=2, process_index=1), 1)

    class State:
        epoch = 3 - 1e-12 + 0.25

    EpochCallback().on_epoch_begin(None, State, None, train_dataloader=Loader)
    assert sampler.epoch == 3
    EpochCallback().on_epoch_begin(None, State, None, train_dataloader=None)
    expected = batches(SAMPLERS["topic"](40), 40, 4, epoch=3)
    assert list(Loader.batch_sampler) == expected[1::2][1:]


@pytest.mark.slow
def test_larger_clusters_make_batches_harder(pydocs: Path, encoder: Any) -> None:
    # NGAME's premise, on real docstrings and MiniLM: other members of a batch become more similar.
    vectors = encoder.encode_documents(list(open_corpus(str(pydocs))))

    def similarity(size: int) -> float:
        make = partial(ClusterBatchSampler, vectors=lambda epoch: vectors, size=lambda epoch: size)
        drawn = batches(make, len(vectors), 16)
        means = [
            float((vectors[batch] @ vectors[batch].T)[~np.eye(len(batch), dtype=bool)].mean())
            for batch in drawn
            if len(batch) > 1
        ]
        return float(np.mean(means))

    assert similarity(1) + 0.02 < similarity(4) < similarity(16)
