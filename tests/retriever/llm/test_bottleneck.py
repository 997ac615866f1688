"""What an index keeps of a document's end token gives the scores of the whole sequence, through every change of it."""

import json
import math
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from indexing.build import add_documents, build_index
from indexing.change import compact_index, delete_documents
from indexing.plan import BuildSettings
from indexing.verification import verify_index
from retriever.errors import BackendUnavailable, IndexMismatch, InvalidInput, ModelFault
from retriever.index.local import LOCAL_ABSENT, LOCAL_VECTORS, LocalReader
from retriever.index.sealed import open_index
from retriever.llm import bottleneck
from retriever.llm.bottleneck import FILE, Bottleneck, QueryWriter, load_local_encoder, save_query_writer
from retriever.llm.usage import Deadline, OutOfTime
from retriever.pipeline import Local
from retriever.types import Document
from tests.retriever.llm.models import save_model
from training.decoders import DecoderSettings, open_decoder
from training.query_writing import Writer

TAUGHT = QueryWriter(document_prompt="passage: ", document_tokens=24, query_tokens=8)
TEXTS = [
    "Open the file and iterate over it line by line.",
    "Sparse matrices.",
    "for line in open(path): print(line) " * 6,
    "Ein Satz auf Deutsch, mit Umlauten: äöü.",
    "x",
]
QUERIES = ["read a file", "sparse", "how do I read a file line by line and count the words of each line"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    home = tmp_path_factory.mktemp("models")
    for kind in ("llama", "gpt2"):
        save_query_writer(save_model(home / kind, kind=kind, scale=0.2), TAUGHT)
    return home


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def folder(request, folders):
    return folders / request.param


@pytest.fixture(scope="module")
def model(folder):
    return Bottleneck(folder, device="cpu")


def scoring(folder):
    """Return the function that scores texts by a pass over document and query, with a mask between them."""
    encoder = open_decoder(DecoderSettings(document_prompt=TAUGHT.document_prompt), folder=folder)
    writer = Writer(encoder, folder).eval()

    def score(query, texts):
        ids = writer._tokenizer(query, add_special_tokens=False)["input_ids"]
        asked = [*ids[: TAUGHT.query_tokens - 1], writer._tokenizer.eos_token_id]
        inputs = encoder.preprocess(texts, prompt=TAUGHT.document_prompt, max_length=TAUGHT.document_tokens)
        rows = [
            ids[mask.bool()].tolist() for ids, mask in zip(inputs["input_ids"], inputs["attention_mask"], strict=True)
        ]
        return np.array(writer.likelihoods([(row, asked) for row in rows], stop=True))

    return score


@pytest.fixture(scope="module")
def whole(folder):
    return scoring(folder)


@pytest.mark.parametrize("batch_tokens", [1, 60, 10_000])
def test_kept_places_give_the_scores_of_whole_sequences(model, whole, monkeypatch, batch_tokens):
    monkeypatch.setattr(model, "_batch_tokens", batch_tokens)
    monkeypatch.setattr(bottleneck, "LOGIT_ROWS", batch_tokens)
    documents = model.encode_documents([Document(str(i), text) for i, text in enumerate(TEXTS)])
    assert documents.shape == (5, model.width)
    for query, vector in zip(QUERIES, model.encode_queries(QUERIES), strict=True):
        expected = whole(query, TEXTS)
        assert np.abs(model.likelihoods(vector, documents, Deadline()) - expected).max() < 1e-3
        halves = documents.astype(np.float16).astype(np.float32)
        assert np.abs(model.likelihoods(vector, halves, Deadline()) - expected).max() < 0.05


def test_an_empty_query_is_its_end_token(model, whole):
    documents = model.encode_documents([Document("0", TEXTS[0])])
    (vector,) = model.encode_queries([""])
    assert model.likelihoods(vector, documents, Deadline())[0] == pytest.approx(whole("", TEXTS[:1])[0], abs=1e-3)


def test_what_goes_wrong_is_said(model, tmp_path):
    documents = model.encode_documents([Document("0", TEXTS[0])])
    (vector,) = model.encode_queries(["read"])
    with pytest.raises(OutOfTime):
        model.likelihoods(vector, documents, Deadline(0.0))
    with pytest.raises(ModelFault, match="not finite"):
        model.likelihoods(vector, np.append(documents[:, :2], documents[:, 2:] * np.nan, axis=1), Deadline())
    with pytest.raises(ModelFault, match="retriever index verify"):
        model.likelihoods(vector, documents + 1000, Deadline())
    with pytest.raises(BackendUnavailable, match="writes queries"):
        Bottleneck(save_model(tmp_path / "plain"), device="cpu")
    save_query_writer(tmp_path / "plain", QueryWriter(document_tokens=24, query_tokens=400))
    with pytest.raises(InvalidInput, match="400 tokens of a query"):
        Bottleneck(tmp_path / "plain", device="cpu")
    (tmp_path / "plain" / FILE).write_text(json.dumps({"document_tokens": 2, "query_tokens": 8}))
    with pytest.raises(BackendUnavailable, match="damaged"):
        Bottleneck(tmp_path / "plain", device="cpu")


def test_document_and_query_fill_the_window_and_no_more(tmp_path):
    save_model(tmp_path, kind="gpt2", window=32)
    save_query_writer(tmp_path, QueryWriter(document_tokens=24, query_tokens=10))
    with pytest.raises(InvalidInput, match=f"reads 32 tokens.* 24 of a document.* 10 of a query.*{FILE}"):
        Bottleneck(tmp_path, device="cpu")
    save_query_writer(tmp_path, QueryWriter(document_tokens=24, query_tokens=9))
    model = Bottleneck(tmp_path, device="cpu")
    documents = model.encode_documents([Document("0", "line " * 40)])
    (vector,) = model.encode_queries(["line " * 40])
    assert (documents[0, :2].tolist(), vector[0]) == ([0, 23], 9)
    assert np.isfinite(model.likelihoods(vector, documents, Deadline())).all()


def test_a_deadline_ends_waiting_for_the_model(model, monkeypatch):
    documents = model.encode_documents([Document("0", "a"), Document("1", "b")])

    def soon():
        return Deadline(time.perf_counter() + 0.3)

    with ThreadPoolExecutor(1) as pool, model._lock:
        (vector,) = pool.submit(model.encode_queries, ["read"]).result(timeout=20)
        assert pool.submit(model.count_tokens, ["read"]).result(timeout=20) == [2]
        with pytest.raises(OutOfTime):
            pool.submit(model.likelihoods, vector, documents, soon()).result(timeout=20)
    assert np.isfinite(model.likelihoods(vector, documents, Deadline(math.inf))).all()

    class Taken:
        """A lock that somebody else takes the moment it is given back."""

        def __init__(self):
            self.acquire = threading.Lock().acquire

        def release(self):
            pass

    monkeypatch.setattr(model, "_lock", Taken())
    monkeypatch.setattr(bottleneck, "LOGIT_ROWS", 1)
    with pytest.raises(OutOfTime):
        model.likelihoods(vector, documents, soon())


def test_counts_and_fingerprints(folders, tmp_path):
    folder = folders / "llama"
    model = load_local_encoder(folder, device="cpu")
    assert model.count_tokens(["x", ""]) == [2, 1]
    other = QueryWriter(document_prompt="passage: ", document_tokens=25, query_tokens=8)
    save_query_writer(folder, other)
    changed = Bottleneck(folder, device="cpu").fingerprint()
    assert [part for part, value in model.fingerprint().items() if changed[part] != value] == ["max_tokens"]
    save_query_writer(folder, TAUGHT)
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    path = tmp_path / "tokenizer_config.json"
    settings = json.loads(path.read_text())
    assert settings["eos_token"] == "<|im_end|>"
    path.write_text(json.dumps(settings | {"eos_token": "<|endoftext|>"}))
    changed = Bottleneck(tmp_path, device="cpu").fingerprint()
    assert [part for part, value in model.fingerprint().items() if changed[part] != value] == ["end"]


def test_a_document_is_cut_where_its_tokens_are_more_than_are_read(tmp_path):
    save_model(tmp_path)
    # The prompt's tokens are pass, age and the colon; its blank is part of the first word.
    save_query_writer(tmp_path, QueryWriter(document_prompt="passage: ", document_tokens=8, query_tokens=8))
    model = Bottleneck(tmp_path, device="cpu")
    texts = ["line" + " line" * count for count in (2, 3, 4, 5)]
    assert (model.count_tokens(texts), model.max_tokens) == ([4, 5, 6, 7], 5)
    short, full, *cut = model.encode_documents([Document(str(i), text) for i, text in enumerate(texts)])
    assert not np.allclose(short, full, atol=1e-3)
    np.testing.assert_allclose(cut, [full, full], atol=1e-5)
    (vector,) = model.encode_queries(["line"])
    assert np.isfinite(model.likelihoods(vector, full[None], Deadline())).all()
    save_query_writer(tmp_path, QueryWriter(document_prompt="passage: ", document_tokens=4, query_tokens=8))
    with pytest.raises(InvalidInput, match="no room for text within its 4 tokens"):
        Bottleneck(tmp_path, device="cpu")


def test_only_documents_with_a_vector_are_compared(tmp_path):
    np.save(tmp_path / LOCAL_VECTORS, np.array([[1, 0], [0, 0], [2, 1], [3, 1]], np.float32))
    np.save(tmp_path / LOCAL_ABSENT, np.array([1], np.int32))
    reader, query, compared = LocalReader(tmp_path), np.array([1, 2], np.float32), []

    def compare(query, vectors):
        compared.append(vectors.tolist())
        return vectors @ query

    for given in (None, compare):
        np.testing.assert_array_equal(reader.scores(query, np.array([3, 1, 0, 2]), given), [5, np.nan, 1, 4])
        np.testing.assert_array_equal(reader.scores(query, np.array([1]), given), [np.nan])
    assert compared == [[[1, 0], [2, 1], [3, 1]]]


class Listed:
    """A corpus in memory."""

    def __init__(self, documents):
        self.documents = documents

    def __iter__(self):
        return iter(self.documents)

    def describe(self):
        return {"documents": [document.id for document in self.documents]}

    def size_hint(self):
        return len(self.documents)


def test_an_index_keeps_it_through_adding_deleting_and_compacting(folders, tmp_path):
    whole, model = scoring(folders / "llama"), Bottleneck(folders / "llama", device="cpu")
    place = tmp_path / "index"
    texts = {f"d{i}": f"a file {text}" for i, text in enumerate(TEXTS)} | {"empty": ""}
    first = [Document(id_, text) for id_, text in list(texts.items())[:3]]
    rest = [Document(id_, text) for id_, text in list(texts.items())[3:]]
    settings = BuildSettings(parts=("bm25",), local_encoder=model.name, local_store="float32")
    build_index(Listed(first), place, settings, local_encoder=model)
    add_documents(Listed(rest), place, local_encoder=model)
    del texts["empty"]

    def check():
        with open_index(place, local_encoder=model) as index:
            assert index.pipelines["local"].local == Local(depth=100)
            spec = index.pipelines["local"].model_copy(update={"local": Local(depth=100, weight=0)})
            answer = index.search("read a file", pipeline=spec)
        assert not answer.degraded
        expected = whole("read a file", list(texts.values()))
        truth = dict(zip(texts, expected.tolist(), strict=True))
        assert {hit.id: hit.score for hit in answer.hits} == pytest.approx(truth, abs=1e-3)
        assert [hit.id for hit in answer.hits] == sorted(truth, key=lambda id_: -truth[id_])
        return answer

    check()
    delete_documents(place, ["d1"])
    del texts["d1"]
    check()
    compact_index(place)
    answer = check()
    assert answer.timings["local"] > 0
    assert verify_index(place, local_encoder=model).sound


def test_an_index_refuses_another_model_and_degrades_when_time_is_up(folders, tmp_path):
    place = tmp_path / "index"
    settings = BuildSettings(parts=("bm25",), local_encoder=str(folders / "llama"))
    build_index(
        Listed([Document("d", "a file"), Document("e", "one file")]), place, settings, device="cpu", offline=True
    )
    other = save_model(tmp_path / "other", scale=0.3)
    save_query_writer(other, TAUGHT)
    with (
        open_index(place, local_encoder=str(other), device="cpu", offline=True) as index,
        pytest.raises(IndexMismatch, match="weights"),
    ):
        index.search("file")
    with open_index(place, device="cpu", offline=True) as index:
        index.search("file")
        answer = index.search("file", deadline_ms=1e-3)
        assert "local_timeout" in answer.degraded
        assert [hit.id for hit in answer.hits] == ["d", "e"]
