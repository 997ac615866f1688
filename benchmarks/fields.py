"""Does weighing titles help BM25? One weight, chosen on training queries, asked once on test queries.

    python -m benchmarks.fields --data FOLDER [--work .cache/fields]

Builds the indexes that --work lacks, with title and text as search fields, and prints the rows of the table in
docs/results/sparse.md. The other field's weight is 1, since only the ratio orders hits.
"""

import argparse
from collections.abc import Mapping
from pathlib import Path

from indexing.build import build_index
from indexing.corpora import open_corpus
from indexing.plan import BuildSettings
from retriever.evaluation.collections import Collection, open_collection
from retriever.evaluation.measures import measure
from retriever.evaluation.significance import compare, holm
from retriever.index.sealed import Index, open_index

COLLECTIONS = ("scifact", "nfcorpus")
WEIGHTS = (0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.5, 2.0, 3.0)
MEASURES = ("nDCG@10", "R@100")


def per_query(
    index: Index, collection: Collection, fields: Mapping[str, float] | None, measures: tuple[str, ...], depth: int
) -> dict[str, dict[str, float]]:
    """Return each measure of each query for BM25 over weighted fields, or over the contents."""
    texts = list(collection.judged.values())
    answers = index.batch_search(texts, depth, pipeline="bm25", field_weights=fields, documents=False)
    run = {id_: list(answer.ranking()) for id_, answer in zip(collection.judged, answers, strict=True)}
    return measure(run, collection.qrels, measures).per_query


def chosen(index: Index, training: Collection, other: str) -> tuple[float, list[float]]:
    """Return the title's weight with the best nDCG@10 on training queries, and that of all weights."""
    means = []
    for weight in WEIGHTS:
        values = per_query(index, training, {"title": weight, other: 1.0}, MEASURES[:1], 10)["nDCG@10"]
        means.append(sum(values.values()) / len(values))
    return WEIGHTS[means.index(max(means))], means


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path(".cache/fields"))
    arguments = parser.parse_args()
    for name in COLLECTIONS:
        source, path = str(arguments.data / name), arguments.work / name
        if not (path / "CURRENT").is_file():
            settings = BuildSettings(parts=("bm25",), search_fields=("title", "text"))
            build_index(open_corpus(source), path, settings)
        training, test = open_collection(source, "train"), open_collection(source)
        with open_index(path) as index:
            alone = per_query(index, training, None, MEASURES[:1], 10)["nDCG@10"]
            print(f"{name}: train, contents {sum(alone.values()) / len(alone):.4f}", flush=True)
            systems: dict[str, dict[str, float] | None] = {"contents": None}
            for other in ("text", "contents"):
                weight, means = chosen(index, training, other)
                listed = ", ".join(f"{w:g}: {mean:.4f}" for w, mean in zip(WEIGHTS, means, strict=True))
                print(f"{name}: train, title=w,{other}=1: {listed}", flush=True)
                systems[f"title={weight:g},{other}=1"] = {"title": weight, other: 1.0}
            found = {system: per_query(index, test, fields, MEASURES, 100) for system, fields in systems.items()}
        compared = {
            (system, label): compare(found["contents"][label], found[system][label])
            for system in list(systems)[1:]
            for label in MEASURES
        }
        adjusted = dict(zip(compared, holm([one.p for one in compared.values()]), strict=True))
        for (system, label), one in compared.items():
            print(
                f"{name} ({len(test.judged)} queries) {system} {label}: {one.baseline:.4f} -> {one.system:.4f} "
                f"({one.difference:+.4f}, p = {adjusted[system, label]:.3g} adjusted)",
                flush=True,
            )


if __name__ == "__main__":
    main()
