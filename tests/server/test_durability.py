"""The short form of benchmarks/service/durability.py: two kills under load, nothing lost, nothing failed."""

from pathlib import Path

from benchmarks.service.durability import measure, prepare
from indexing.verification import verify_index


def test_nothing_promised_is_lost_when_the_process_is_killed(tmp_path: Path) -> None:
    root = tmp_path / "indexes"
    root.mkdir()
    prepare(root, 200, ("bm25",))
    *_, count = measure(root, rounds=2, writers=2, searchers=1, seconds=2.0, seed=1)
    assert count.rounds == 2
    assert (count.lost, count.not_searchable) == (0, 0), count.examples
    assert (count.failed_writes, count.failed_searches, count.failed_swaps) == (0, 0, 0), count.examples
    assert min(count.acknowledged, count.searches, count.swaps) > 0
    for name in ("docs", "other"):
        verdict = verify_index(root / name)
        assert verdict.sound, verdict.problems
