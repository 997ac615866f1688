"""The journal: what it took is there again, what it did not take is not, whatever happens in between."""

import errno
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from indexing import journal as module
from indexing.journal import Journal
from retriever.errors import BackendUnavailable, IndexCorrupt, IndexLocked, StorageFull
from retriever.types import Document

EVERYTHING = 10**9


def document(number: int) -> Document:
    return Document(f"d{number}", f"text {number}\nof two lines é", "title", {"year": number})


def content(journal: Journal) -> list[tuple[int, str, Document | None]]:
    return [(found.number, found.id, found.document) for found in journal.pending(EVERYTHING, EVERYTHING)]


def test_operations_are_there_after_a_restart(tmp_path: Path) -> None:
    journal = Journal(tmp_path, 0)
    assert journal.append([("d1", document(1)), ("d2", None)]) == 2
    assert journal.append([("d3", document(3))]) == 3
    before = content(journal)
    journal.close()
    again = Journal(tmp_path, 0)
    assert content(again) == before == [(1, "d1", document(1)), (2, "d2", None), (3, "d3", document(3))]
    assert again.append([("d4", None)]) == 4
    again.close()


def test_what_a_generation_holds_is_not_applied_again(tmp_path: Path) -> None:
    journal = Journal(tmp_path, 0)
    journal.append([(f"d{n}", document(n)) for n in range(5)])
    journal.close()
    again = Journal(tmp_path, 3)
    assert [number for number, _, _ in content(again)] == [4, 5]
    again.done(5)
    assert content(again) == []
    assert again.backlog == (0, 0)
    again.close()
    assert list(tmp_path.glob("journal/*.log")) == []
    # Numbers go on, since generations have seen them.
    last = Journal(tmp_path, 5)
    assert last.append([("d9", None)]) == 6
    last.close()


def test_the_latest_operation_on_an_id_is_known_until_it_is_applied(tmp_path: Path) -> None:
    journal = Journal(tmp_path, 0)
    journal.append([("a", document(1))])
    journal.append([("a", None)])
    found = journal.latest("a")
    assert found is not None
    assert found.document is None
    journal.done(1)
    assert journal.latest("a") is found
    journal.done(2)
    assert journal.latest("a") is None
    journal.close()


def test_one_process_at_a_time(tmp_path: Path) -> None:
    journal = Journal(tmp_path, 0)
    with pytest.raises(IndexLocked, match=str(os.getpid())):
        Journal(tmp_path, 0)
    journal.close()
    Journal(tmp_path, 0).close()


@pytest.mark.parametrize("cut", [1, 5, 30, 90])
def test_an_unfinished_line_was_never_promised(tmp_path: Path, cut: int) -> None:
    journal = Journal(tmp_path, 0)
    journal.append([("d1", document(1))])
    journal.append([("d2", document(2)), ("d3", document(3))])
    (path,) = tmp_path.glob("journal/*.log")
    whole = path.read_bytes()
    journal.close()
    path.write_bytes(whole[:-cut])
    again = Journal(tmp_path, 0)
    # The end of the line itself carries nothing.
    assert [id_ for _, id_, _ in content(again)] == (["d1", "d2", "d3"] if cut == 1 else ["d1"])
    again.append([("d4", document(4))])
    again.close()
    last = Journal(tmp_path, 0)
    assert content(last)[-1][1:] == ("d4", document(4))
    last.close()


def test_damage_before_the_end_is_not_passed_over(tmp_path: Path) -> None:
    journal = Journal(tmp_path, 0)
    journal.append([("d1", document(1))])
    journal.append([("d2", document(2))])
    (path,) = tmp_path.glob("journal/*.log")
    journal.close()
    damaged = bytearray(path.read_bytes())
    damaged[20] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(IndexCorrupt, match="line 1"):
        Journal(tmp_path, 0)


def test_files_are_removed_once_all_they_hold_is_applied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FILE_BYTES", 200)
    journal = Journal(tmp_path, 0)
    for number in range(10):
        journal.append([(f"d{number}", document(number))])
    assert len(list(tmp_path.glob("journal/*.log"))) > 3
    journal.done(9)
    assert len(list(tmp_path.glob("journal/*.log"))) == 1
    journal.close()
    again = Journal(tmp_path, 9)
    assert [number for number, _, _ in content(again)] == [10]
    again.close()


def test_a_full_disk_takes_nothing_and_space_takes_all_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = Journal(tmp_path, 0)
    journal.append([("d1", document(1))])
    real = os.write

    def half(descriptor: int, data: Any) -> int:
        if len(data) < 20:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(descriptor, bytes(data)[: len(data) // 2])

    monkeypatch.setattr(os, "write", half)
    with pytest.raises(StorageFull):
        journal.append([("d2", document(2))])
    monkeypatch.setattr(os, "write", real)
    assert [id_ for _, id_, _ in content(journal)] == ["d1"]
    journal.append([("d3", document(3))])
    journal.close()
    again = Journal(tmp_path, 0)
    assert [id_ for _, id_, _ in content(again)] == ["d1", "d3"]
    again.close()


def test_a_failed_sync_ends_all_promises(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = Journal(tmp_path, 0)
    journal.append([("d1", document(1))])

    def fail(descriptor: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="Input/output"):
        journal.append([("d2", document(2))])
    monkeypatch.undo()
    with pytest.raises(StorageFull, match="restart"):
        journal.append([("d3", document(3))])
    journal.close()


def test_many_threads_share_syncs_and_keep_their_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    syncs = []
    real = os.fsync
    monkeypatch.setattr(os, "fsync", lambda descriptor: (syncs.append(descriptor), real(descriptor)))
    journal = Journal(tmp_path, 0)
    numbers: list[list[int]] = [[] for _ in range(8)]

    def work(place: int) -> None:
        for number in range(25):
            numbers[place].append(journal.append([(f"t{place}", document(number))]))

    threads = [threading.Thread(target=work, args=(place,)) for place in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = content(journal)
    assert [number for number, _, _ in found] == list(range(1, 201))
    for place, own in enumerate(numbers):
        assert own == sorted(own) == [number for number, id_, _ in found if id_ == f"t{place}"]
    assert len(syncs) < 210
    journal.close()


def test_waiting_ends_when_the_number_is_applied(tmp_path: Path) -> None:
    journal = Journal(tmp_path, 0)
    number = journal.append([("a", None)])
    assert not journal.wait_applied(number, 0.01)
    timer = threading.Timer(0.05, journal.done, (number,))
    timer.start()
    assert journal.wait_applied(number, 30)
    assert not journal.wait_for_work(0.01)
    timer.join()
    journal.close()


def test_what_fails_in_any_way_is_never_promised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = Journal(tmp_path, 0)
    journal.append([("a", document(1))])

    def fail(*_: Any) -> int:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(module.os, "write", fail)
        with pytest.raises(MemoryError):
            journal.append([("b", document(2))])
    assert [id_ for _, id_, _ in content(journal)] == ["a"]
    assert journal.append([("c", document(3))]) == 3
    journal.close()
    again = Journal(tmp_path, 0)
    assert [id_ for _, id_, _ in content(again)] == ["a", "c"]
    again.close()


def test_a_closed_journal_is_not_a_full_disk(tmp_path: Path) -> None:
    journal = Journal(tmp_path, 0)
    journal.close()
    with pytest.raises(BackendUnavailable, match="stopping"):
        journal.append([("a", None)])


def test_a_file_whose_name_cannot_be_made_durable_is_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = Journal(tmp_path, 0)

    def fail(_: Path) -> None:
        raise OSError(errno.ENOSPC, "no space left")

    before = len(list(Path("/proc/self/fd").iterdir()))
    with monkeypatch.context() as patch:
        patch.setattr(module, "sync", fail)
        for _ in range(3):
            with pytest.raises(StorageFull):
                journal.append([("a", None)])
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    journal.append([("a", None)])
    journal.close()
