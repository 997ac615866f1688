"""mteb on a part of a local collection, against a live service and against sentence-transformers in this process.

    python -m tests.server.mteb_task URL MODEL FOLDER

Prints one line of JSON: the scores of both.
"""

import itertools
import json
import sys
from pathlib import Path
from typing import Any

import datasets
import mteb
from mteb.abstasks.retrieval import AbsTaskRetrieval
from mteb.models import OpenAIAPIEncodeWrapper, OpenAIAPIRerankWrapper
from mteb.tasks import SciFact
from sentence_transformers import SentenceTransformer

from indexing.corpora import open_corpus
from retriever.evaluation.collections import open_collection
from retriever.models import resolve

QUERIES = 20
DOCUMENTS = 200


class LocalPart(AbsTaskRetrieval):
    """The first claims of SciFact with their abstracts and others, read from a folder."""

    metadata = SciFact.metadata.model_copy(update={"name": "LocalSciFactPart"})
    folder = Path()

    def load_data(self, *arguments: Any, **options: Any) -> None:
        collection = open_collection(str(self.folder))
        queries = dict(itertools.islice(collection.judged.items(), QUERIES))
        qrels = {query: dict(collection.qrels[query]) for query in queries}
        relevant = {id_ for judgments in qrels.values() for id_ in judgments}
        everything = list(open_corpus(str(self.folder)))
        kept = [document for document in everything if document.id in relevant]
        kept += [document for document in everything if document.id not in relevant][: DOCUMENTS - len(kept)]
        corpus = [{"id": document.id, "title": document.title, "text": document.text} for document in kept]
        split = {
            "corpus": datasets.Dataset.from_list(corpus),
            "queries": datasets.Dataset.from_list([{"id": id_, "text": text} for id_, text in queries.items()]),
            "relevant_docs": qrels,
            "top_ranked": None,
        }
        self.dataset = {"default": {"test": split}}
        self.data_loaded = True


def scores(model: Any) -> dict[str, float]:
    """Return the measures of a model on the task."""
    result = mteb.evaluate(model, LocalPart(), cache=None, show_progress_bar=False, overwrite_strategy="always")
    (row,) = result.task_results[0].scores["test"]
    return {name: row[name] for name in ("ndcg_at_10", "recall_at_100")}


def main() -> None:
    url, name, folder = sys.argv[1:]
    LocalPart.folder = Path(folder)
    service = OpenAIAPIEncodeWrapper(endpoint_url=url, model_name=name, modalities=["text"], use_chat_template=False)
    library = SentenceTransformer(str(resolve(name, offline=True)), device="cpu")
    reranker = OpenAIAPIRerankWrapper(endpoint_url=url, model_name="tiny-reranker", modalities=["text"])
    texts = ["one", "two", "three"]
    pairs: Any = ([{"text": texts}], [{"text": texts[::-1]}])
    reranked = reranker.predict(*pairs, task_metadata=LocalPart.metadata, hf_split="test", hf_subset="default")
    found = {"service": scores(service), "library": scores(library), "reranked": [float(score) for score in reranked]}
    print(json.dumps(found | {"documents": DOCUMENTS}))


if __name__ == "__main__":
    main()
