"""Building, adding, deleting and compacting: the same answers whatever the history of an index."""

import contextlib
import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import CancelledError
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from indexing.analysing import _digest_in_worker
from indexing.build import add_documents, build_index
from indexing.change import compact_index, delete_documents, discard_unfinished, store_pipelines
from indexing.corpora import open_corpus
from indexing.plan import BuildSettings
from indexing.verification import verify_index
from retriever.errors import IndexLocked, IndexMismatch, InvalidInput, ModelFault, UnknownIndex
from retriever.index.manifest import read_manifest
from retriever.index.sealed import open_index
from retriever.pipeline import Fusion, PipelineSpec
from retriever.storage import exclusive_lock
from retriever.types import Document
from tests.factories import WORDS, HashingEncoder, ListCorpus, random_documents

FIELDS = {"year": "number", "kind": "keyword", "tags": "keyword"}
SETTINGS = BuildSettings(encoder="hashing", fields=FIELDS, shard_documents=16)
UNTYPED = Document("bad", "x", metadata={"year": "soon"})
QUERIES = ["shock wave on a blunt body", "laminar boundary layer heat", "creep buckling", "jet jet wing"]


def build(path, documents, settings=SETTINGS, **options):
    return build_index(ListCorpus(documents), path, settings, encoder=HashingEncoder(), **options)


def open_hashing(path):
    return open_index(path, encoder=HashingEncoder())


def answers(path, k=20, **options):
    """Return what an index answers to each query by each pipeline."""
    with open_hashing(path) as index:
        return {
            (name, query): index.search(query, k, pipeline=name, **options).ranking()
            for name in index.pipelines
            for query in QUERIES
        }


def assert_same_answers(one, other):
    """BM25 must agree to the last bit; vectors are copied, so they do too."""
    assert one.keys() == other.keys()
    for key in one:
        assert [id_ for id_, _ in one[key]] == [id_ for id_, _ in other[key]], key
        np.testing.assert_allclose([s for _, s in one[key]], [s for _, s in other[key]], rtol=1e-6, atol=1e-6)


def files_of(path: Path) -> dict[str, bytes]:
    return {str(p.relative_to(path)): p.read_bytes() for p in (path / "segments").rglob("*") if p.is_file()}


def test_a_built_index_answers_and_is_sound(tmp_path):
    documents = random_documents(100, seed=0)
    report = build(tmp_path / "index", documents)
    assert report["documents"] == 100
    assert report["shards"] == 7
    assert report["empty"] == sum(not document.content.strip() for document in documents)
    verdict = verify_index(tmp_path / "index", encoder=HashingEncoder())
    assert verdict.sound, verdict.problems
    assert verdict.warnings == []
    with open_hashing(tmp_path / "index") as index:
        assert len(index) == 100
        answer = index.search("shock wave", 5)
        assert answer.status == "exact"
        assert answer.hits[0].document.id == answer.hits[0].id
        assert set(answer.hits[0].scores) >= {"fusion"}


@pytest.mark.parametrize("segment_documents", [10, 33, 1000])
def test_several_segments_answer_like_one(tmp_path, segment_documents):
    documents = random_documents(90, seed=1)
    build(tmp_path / "one", documents)
    build(tmp_path / "many", documents, SETTINGS.model_copy(update={"segment_documents": segment_documents}))
    assert_same_answers(answers(tmp_path / "one"), answers(tmp_path / "many"))


operations = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.integers(1, 25), st.integers(0, 10**6)),
        st.tuples(st.just("overwrite"), st.integers(1, 25), st.integers(0, 10**6)),
        st.tuples(st.just("delete"), st.integers(1, 15), st.integers(0, 10**6)),
        st.tuples(st.just("delete where"), st.integers(1990, 2026), st.just(0)),
        st.tuples(st.just("compact"), st.just(0), st.just(0)),
    ),
    min_size=1,
    max_size=6,
)


@given(operations)
@settings(max_examples=15, deadline=None)
def test_any_history_gives_the_answers_of_a_new_index(tmp_path_factory, history):
    folder = tmp_path_factory.mktemp("history")
    model = {document.id: document for document in random_documents(40, seed=2)}
    build(folder / "index", model.values())
    for step, (operation, size, seed) in enumerate(history):
        chooser = np.random.default_rng(seed)
        if operation == "add":
            new = random_documents(size, seed, prefix=f"s{step}-")
            add_documents(ListCorpus(new), folder / "index", encoder=HashingEncoder())
            model |= {document.id: document for document in new}
        elif operation == "overwrite":
            new = random_documents(size, seed)
            add_documents(ListCorpus(new), folder / "index", duplicates="overwrite", encoder=HashingEncoder())
            model |= {document.id: document for document in new}
        elif operation == "delete" and model:
            ids = chooser.choice(sorted(model), min(size, len(model)), replace=False).tolist()
            delete_documents(folder / "index", ids)
            model = {id_: document for id_, document in model.items() if id_ not in ids}
        elif operation == "delete where":
            delete_documents(folder / "index", filter={"year": {"lt": size}})
            model = {i: d for i, d in model.items() if d.metadata["year"] >= size}
        elif operation == "compact":
            compact_index(folder / "index")
    verdict = verify_index(folder / "index", encoder=HashingEncoder())
    assert verdict.sound, verdict.problems
    with open_hashing(folder / "index") as index:
        assert len(index) == len(model)
    if not model:
        assert all(found == [] for found in answers(folder / "index").values())
        return
    build(folder / "fresh", model.values())
    condition = {"kind": "paper", "year": {"gte": 2000}}
    assert_same_answers(answers(folder / "index"), answers(folder / "fresh"))
    assert_same_answers(answers(folder / "index", filter=condition), answers(folder / "fresh", filter=condition))


KILLED = """
import os, signal, sys
from pathlib import Path
from indexing.build import build_index
from indexing.shards import ShardWriter
from tests.factories import HashingEncoder, ListCorpus, random_documents
from tests.indexing.test_build import SETTINGS
import indexing.build, retriever.index.manifest, retriever.storage

path, place, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
seen = 0
def die_at(function):
    def wrapped(*args, **kwargs):
        global seen
        seen += 1
        if seen == count:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **kwargs)
    return wrapped

module, _, name = place.rpartition(".")
target = {"HashingEncoder": HashingEncoder, "ShardWriter": ShardWriter, "build": indexing.build,
          "manifest": retriever.index.manifest}[module]
setattr(target, name, die_at(getattr(target, name)))
build_index(ListCorpus(random_documents(100, seed=0)), path, SETTINGS, encoder=HashingEncoder())
"""


@pytest.mark.parametrize(
    ("place", "count"),
    [
        ("HashingEncoder.encode_documents", 1),
        ("HashingEncoder.encode_documents", 4),
        ("ShardWriter._process", 7),
        ("build.seal_segment", 1),
        ("build.publish", 1),
        ("manifest.write_atomically", 1),
        ("manifest.write_atomically", 2),
        ("build.remove_unneeded", 1),
    ],
)
def test_a_killed_build_resumes_with_the_same_bytes(tmp_path, place, count):
    documents = random_documents(100, seed=0)
    build(tmp_path / "whole", documents)
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path / "index"), place, str(count)],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    published = (tmp_path / "index" / "CURRENT").exists()
    if published:
        # Killed after the switch: the index is complete, only the tidying is left.
        assert place == "build.remove_unneeded"
        discard_unfinished(tmp_path / "index")
    else:
        with pytest.raises(UnknownIndex, match="unfinished build"):
            open_index(tmp_path / "index")
        report = build(tmp_path / "index", documents)
        done = {"HashingEncoder.encode_documents": count - 1, "ShardWriter._process": count - 1}
        assert report["resumed_shards"] == done.get(place, 7)
    assert files_of(tmp_path / "index") == files_of(tmp_path / "whole")
    assert_same_answers(answers(tmp_path / "index"), answers(tmp_path / "whole"))


def test_an_interrupted_add_leaves_the_index_as_it_was_and_resumes(tmp_path):
    path = tmp_path / "index"
    build(path, random_documents(40, seed=0))
    before = answers(path)
    new = random_documents(60, seed=1, prefix="new")

    class Interrupted(HashingEncoder):
        def encode_documents(self, documents):
            if self.encoded:
                raise KeyboardInterrupt
            return super().encode_documents(documents)

    with pytest.raises(KeyboardInterrupt):
        add_documents(ListCorpus(new), path, encoder=Interrupted(), shard_documents=16)
    assert_same_answers(before, answers(path))
    with pytest.raises(InvalidInput, match="unfinished build or add"):
        delete_documents(path, ["d1"])
    report = add_documents(ListCorpus(new), path, encoder=HashingEncoder(), shard_documents=16)
    assert report["resumed_shards"] == 1
    with open_hashing(path) as index:
        assert len(index) == 100


def test_other_settings_do_not_resume_a_build(tmp_path):
    documents = random_documents(40, seed=0)
    with pytest.raises(InvalidInput, match="declared as a number, got 'soon'"):
        build(tmp_path / "index", [*documents[:20], UNTYPED])
    with pytest.raises(InvalidInput, match=r"unfinished build with other settings \(k1: 0.9 then, 1.2 now\)"):
        build(tmp_path / "index", documents, SETTINGS.model_copy(update={"k1": 1.2}))
    with pytest.raises(InvalidInput, match="the corpus has changed since the unfinished build"):
        build(tmp_path / "index", documents[1:])
    build(tmp_path / "index", documents[1:], restart=True)
    with open_hashing(tmp_path / "index") as index:
        assert len(index) == 39


def test_another_encoder_or_analyser_of_the_same_name_does_not_resume_a_build(tmp_path):
    documents = random_documents(40, seed=0)
    spec = tmp_path / "analyser.yaml"
    spec.write_text("tokenizer: whitespace\n")
    settings = SETTINGS.model_copy(update={"analyser": str(spec)})
    with pytest.raises(InvalidInput, match="soon"):
        build(tmp_path / "index", [*documents[:20], UNTYPED], settings)
    with pytest.raises(InvalidInput, match=r"\(fingerprint of the encoder: .* then, .* now\)"):
        build_index(ListCorpus(documents), tmp_path / "index", settings, encoder=HashingEncoder(seed="retrained"))
    spec.write_text("tokenizer: code\n")
    with pytest.raises(InvalidInput, match="fingerprint of the analyser: .* then, .* now"):
        build(tmp_path / "index", documents, settings)


def test_a_corpus_that_became_shorter(tmp_path):
    documents = random_documents(40, seed=0)
    with pytest.raises(InvalidInput, match="soon"):
        build(tmp_path / "index", [*documents, UNTYPED])
    with pytest.raises(InvalidInput, match="shorter since the unfinished build"):
        build(tmp_path / "index", documents[:16])


def test_an_index_that_is_there_is_not_overwritten_unasked(tmp_path):
    build(tmp_path / "index", random_documents(30, seed=0))
    with pytest.raises(InvalidInput, match=r"there is an index at .* already"):
        build(tmp_path / "index", random_documents(30, seed=1))


def test_overwriting_serves_the_old_index_until_the_new_one_is_complete(tmp_path):
    path = tmp_path / "index"
    build(path, random_documents(30, seed=0))
    before = answers(path)
    with pytest.raises(InvalidInput, match="soon"):
        build(
            path,
            [*random_documents(30, seed=1), Document("x", "", metadata={"year": "soon"})],
            overwrite=True,
        )
    assert_same_answers(before, answers(path))
    with open_hashing(path) as old:
        build(path, random_documents(35, seed=1), overwrite=True, restart=True)
        # The reader of the old generation goes on, texts included.
        assert [h.document.text for h in old.search("wing flow", 3).hits]
        assert len(old) == 30
        new = old.latest()
        assert (len(new), new.generation) == (35, 2)
        assert new.latest() is new
        new.close()
    build(tmp_path / "fresh", random_documents(35, seed=1))
    assert_same_answers(answers(path), answers(tmp_path / "fresh"))
    assert verify_index(path, encoder=HashingEncoder()).sound


def test_adding_with_another_encoder_is_refused(tmp_path):
    build(tmp_path / "index", random_documents(30, seed=0))
    new = ListCorpus(random_documents(3, seed=1, prefix="n"))
    with pytest.raises(IndexMismatch, match="weights: the index has"):
        add_documents(new, tmp_path / "index", encoder=HashingEncoder(seed="x"))


@pytest.mark.parametrize(
    ("policy", "documents", "text"),
    [("skip", 31, "old"), ("overwrite", 31, "new")],
)
def test_duplicate_ids_when_adding(tmp_path, policy, documents, text):
    build(tmp_path / "index", [*random_documents(29, seed=0), Document("same", "old")])
    new = [Document("same", "new"), Document("other", "new")]
    with pytest.raises(InvalidInput, match="1 document ids are in the index already, such as 'same'"):
        add_documents(ListCorpus(new), tmp_path / "index", encoder=HashingEncoder())
    add_documents(ListCorpus(new), tmp_path / "index", duplicates=policy, encoder=HashingEncoder(), restart=True)
    with open_hashing(tmp_path / "index") as index:
        assert (len(index), index.get("same").text) == (documents, text)


def test_unusable_vectors_are_named_and_may_be_allowed(tmp_path):
    documents = [*random_documents(20, seed=0), Document("nan", "poison word")]
    broken = HashingEncoder(broken=["poison"])
    with pytest.raises(ModelFault, match="unusable vectors for 1 documents: nan"):
        build_index(ListCorpus(documents), tmp_path / "index", SETTINGS, encoder=broken)
    allowed = SETTINGS.model_copy(update={"max_bad_vectors": 1})
    report = build_index(ListCorpus(documents), tmp_path / "index", allowed, encoder=broken, restart=True)
    assert report["bad_vectors"] == ["nan"]
    with open_index(tmp_path / "index", encoder=broken) as index:
        assert index.search("poison", 1, pipeline="bm25").hits[0].id == "nan"
        found = index.search("wing", 100, pipeline="dense")
        assert "nan" not in [hit.id for hit in found.hits]
        # A query whose own vector is NaN falls back to BM25 and says so.
        answer = index.search("poison", 1, pipeline="hybrid")
        assert (answer.status, answer.degraded, answer.hits[0].id) == ("degraded", ["dense_failed"], "nan")
        with pytest.raises(ModelFault):
            index.search("poison", 1, pipeline="dense")


def test_two_writers(tmp_path):
    build(tmp_path / "index", random_documents(20, seed=0))
    with exclusive_lock(tmp_path / "index"), pytest.raises(IndexLocked, match=f"process {os.getpid()}"):
        delete_documents(tmp_path / "index", ["d1"])


def test_deleting_what_is_not_there(tmp_path):
    build(tmp_path / "index", random_documents(20, seed=0))
    with pytest.raises(InvalidInput, match=r"1 of 2 ids are not in the index: 'nope'. Nothing was deleted"):
        delete_documents(tmp_path / "index", ["d1", "nope"])
    report = delete_documents(tmp_path / "index", ["d1", "nope"], ignore_missing=True)
    assert report == {"deleted": 1, "missing": ["nope"]}
    with pytest.raises(InvalidInput, match="name documents"):
        delete_documents(tmp_path / "index")


def test_an_empty_corpus(tmp_path):
    with pytest.raises(InvalidInput, match="holds no documents"):
        build(tmp_path / "index", [])


@pytest.mark.parametrize("kind", ["hnsw", "ivf,pq", "binary"])
@pytest.mark.parametrize("count", [1, 3])
def test_few_documents_with_any_kind_of_index(tmp_path, kind, count):
    documents = [Document(str(n), " ".join(WORDS[n : n + 5])) for n in range(count)]
    build(tmp_path / "index", documents, SETTINGS.model_copy(update={"dense": kind}))
    with open_hashing(tmp_path / "index") as index:
        assert len(index.search(WORDS[0], 10, pipeline="dense").hits) == count


def test_compaction_drops_the_text_of_deleted_documents_at_the_next_change(tmp_path):
    path = tmp_path / "index"
    build(path, [*random_documents(20, seed=0), Document("secret", "xyzzy plugh")])
    delete_documents(path, ["secret"])
    report = compact_index(path)
    assert (report["deleted"], report["segments_after"]) == (1, 1)
    store_pipelines(path, {"lexical": PipelineSpec(first=("bm25",))})
    delete_documents(path, ["d1"])
    content = b"".join(p.read_bytes() for p in path.rglob("*") if p.is_file() and "inverted" in p.name)
    assert b"xyzzy" not in content
    with open_hashing(path) as index:
        assert index.get("secret") is None
    assert compact_index(path)["deleted"] == 1


def test_compacting_everything_away(tmp_path):
    path = tmp_path / "index"
    build(path, random_documents(5, seed=0))
    delete_documents(path, [f"d{n}" for n in range(5)])
    compact_index(path)
    with open_hashing(path) as index:
        assert len(index) == 0
        assert index.search("wing", 3).hits == []
    assert verify_index(path, encoder=HashingEncoder()).sound
    add_documents(ListCorpus(random_documents(4, seed=1)), path, encoder=HashingEncoder())
    with open_hashing(path) as index:
        assert len(index) == 4


def test_stored_pipelines(tmp_path):
    path = tmp_path / "index"
    build(path, random_documents(30, seed=0))
    spec = PipelineSpec(first=("bm25", "dense"), fusion=Fusion(method="rrf", constant=5))
    store_pipelines(path, {"mine": spec}, default="mine")
    with open_hashing(path) as index:
        assert index.default_pipeline == "mine"
        assert index.search("wing flow", 3).pipeline == "mine"
    with pytest.raises(InvalidInput, match="unknown default pipeline 'other'"):
        store_pipelines(path, {}, default="other")


def test_chunks_are_grouped_by_their_document(tmp_path):
    sentences = [f"Sentence number {n} is about {word} and {word} again." for n, word in enumerate(WORDS)]
    long = Document("long", " ".join(sentences), "title", {"year": 2020})
    settings = SETTINGS.model_copy(update={"window": 24, "overlap": 8})
    build(tmp_path / "index", [long, Document("short", "One sentence about wing.")], settings)
    with open_hashing(tmp_path / "index") as index:
        assert len(index) > 5
        hits = index.search("wing", 10, group_by_parent=True).hits
        assert sorted(hit.id for hit in hits) == ["long", "short"]
        assert index.get("long").text == long.text
        chunk = next(hit.document for hit in hits if hit.id == "long")
        assert chunk.parent == "long"
        assert long.text[slice(*chunk.span)] == chunk.text
        assert chunk.metadata == {"year": 2020}
    delete_documents(tmp_path / "index", ["long"])
    with open_hashing(tmp_path / "index") as index:
        assert len(index) == 1


def descendants(pid):
    """Return the process ids of all processes below one."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parents[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[1])
    found, new = set(), {pid}
    while new:
        new = {child for child, parent in parents.items() if parent in new}
        found |= new
    return found


def is_running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def stop_at(command, index, shards, sent):
    """Run a command until so many shards are finished, send a signal, and return the exit code and standard error."""
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        deadline = time.monotonic() + 120
        while len(list(index.glob("building/shards/*/shard.json"))) < shards:
            assert time.monotonic() < deadline
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.005)
        workers = descendants(process.pid)
        assert len(workers) >= 2
        if sent == signal.SIGINT:
            # As a terminal does on Ctrl-C, to all of its processes.
            os.killpg(process.pid, sent)
        else:
            process.send_signal(sent)
        _, error = process.communicate(timeout=60)
    while any(map(is_running, workers)):
        assert time.monotonic() < deadline, "workers outlived the build"
        time.sleep(0.01)
    return process.returncode, error


def test_shards_are_larger_where_no_model_reads(tmp_path, monkeypatch):
    monkeypatch.setattr("indexing.build.SHARD_DOCUMENTS", 4)
    monkeypatch.setattr("indexing.build.READ_SHARD_DOCUMENTS", 2)
    corpus = ListCorpus(random_documents(8, seed=0))
    words = BuildSettings(parts=("bm25",))
    assert build_index(corpus, tmp_path / "words", words)["shards"] == 2
    settings = BuildSettings(encoder="hashing")
    assert build_index(corpus, tmp_path / "both", settings, encoder=HashingEncoder())["shards"] == 4
    chosen = words.model_copy(update={"shard_documents": 8})
    assert build_index(corpus, tmp_path / "chosen", chosen)["shards"] == 1


def test_a_segment_of_fewer_documents_than_a_shard_is_a_shard(tmp_path):
    corpus = ListCorpus(random_documents(12, seed=0))
    build_index(corpus, tmp_path / "index", BuildSettings(parts=("bm25",), segment_documents=5))
    manifest, _ = read_manifest(tmp_path / "index")
    assert [segment.documents for segment in manifest.segments] == [5, 5, 2]


def test_digesting_gives_up_with_the_build(tmp_path, monkeypatch):
    build_index(ListCorpus(random_documents(3, seed=0)), tmp_path / "index", BuildSettings(parts=("bm25",)))
    given_up = threading.Event()
    monkeypatch.setattr("indexing.analysing._stopping", given_up)
    manifest, _ = read_manifest(tmp_path / "index")
    assert _digest_in_worker(tmp_path / "index", 1, 1) == manifest.segments[0].records_sha256
    given_up.set()
    with pytest.raises(CancelledError):
        _digest_in_worker(tmp_path / "index", 1, 1)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="processes are found in /proc")
def test_a_build_with_two_processes_is_killed_interrupted_and_resumed(tmp_path):
    corpus, index = tmp_path / "corpus.jsonl", tmp_path / "index"
    with corpus.open("w") as file:
        for document in random_documents(8000, seed=0):
            file.write(json.dumps({"_id": document.id, "text": document.text}) + "\n")
    whole = BuildSettings(parts=("bm25",), shard_documents=300)
    build_index(open_corpus(str(corpus)), tmp_path / "whole", whole)
    command = [
        sys.executable, "-m", "retriever.cli", "index", "build", str(corpus), str(index),
        "--parts", "bm25", "--shard-documents", "300", "--processes", "2", "--json",
    ]  # fmt: skip
    assert stop_at(command, index, 3, signal.SIGKILL)[0] == -signal.SIGKILL
    code, error = stop_at(command, index, 8, signal.SIGINT)
    assert code == 130
    assert error == "interrupted; nothing that was finished is lost, run the same command again to go on\n"
    finished = subprocess.run(command, capture_output=True, text=True, check=True)
    report = json.loads(finished.stdout)
    assert report["documents"] == 8000
    assert 8 <= report["resumed_shards"] < 27
    assert files_of(index) == files_of(tmp_path / "whole")


def test_a_full_disk_says_so_leaves_the_index_and_can_be_resumed(tmp_path, monkeypatch):
    from retriever.errors import StorageFull
    from retriever.index.plain import PlainPostings

    path = tmp_path / "index"
    build(path, random_documents(20, seed=0))
    before = answers(path)
    written = []
    original = PlainPostings.write

    def write(self, folder, part):
        written.append(folder)
        if len(written) == 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        return original(self, folder, part)

    monkeypatch.setattr(PlainPostings, "write", write)
    new = random_documents(100, seed=1, prefix="n")
    with pytest.raises(StorageFull, match=r"disk full while writing to .*What was finished before is intact"):
        add_documents(ListCorpus(new), path, encoder=HashingEncoder(), shard_documents=16)
    assert_same_answers(before, answers(path))
    monkeypatch.setattr(PlainPostings, "write", original)
    report = add_documents(ListCorpus(new), path, encoder=HashingEncoder(), shard_documents=16)
    assert report["resumed_shards"] == 2
    with open_hashing(path) as index:
        assert len(index) == 120


def test_a_document_of_ten_megabytes_is_cut_and_counted(tmp_path):
    long = Document("long", "wing flow " * 1_000_000)
    report = build(tmp_path / "index", [long, Document("short", "wing")])
    assert report["truncated"] == 1
    with open_hashing(tmp_path / "index") as index:
        assert index.search("flow", 1, pipeline="bm25").hits[0].id == "long"
        assert len(index.get("long").text) == 10_000_000
