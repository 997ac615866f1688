"""Which fusion should be the default? Measured on training and development queries, never on test queries.

    python -m benchmarks.fusion --data FOLDER --work .cache/reproduce --output docs/results

Needs the indexes of `retriever eval reproduce` in --work; collections without one are left out. Writes hybrid.csv
and hybrid.md: nDCG@10 of each setting on each collection and on the mean, where every collection weighs the same.
"""

import argparse
import csv
from collections.abc import Iterator
from pathlib import Path

from retriever.evaluation.collections import open_collection
from retriever.evaluation.measures import measure
from retriever.evaluation.records import environment
from retriever.evaluation.significance import compare_across
from retriever.index.sealed import open_index
from retriever.pipeline import Fusion
from retriever.search import fuse

SPLITS = {
    "scifact": "train", "nfcorpus": "dev", "medquad": "dev", "cosqa": "dev", "nl2bash": "dev",
    "codetrans-java-cs": "dev", "qmsum": "dev", "arxiv-title": "dev",
}  # fmt: skip
DEPTHS = (100, 1000)


def settings() -> Iterator[tuple[str, Fusion]]:
    """Yield the settings that are tried, by name."""
    for constant in (5, 20, 60):
        for dense in (0.5, 1.0, 2.0):
            fusion = Fusion(method="rrf", constant=constant, weights={"bm25": 1.0, "dense": dense})
            yield f"rrf constant={constant} dense={dense:g}", fusion
    for dense in (0.3, 0.4, 0.5, 0.6, 0.7):
        fusion = Fusion(method="minmax", weights={"bm25": round(1 - dense, 1), "dense": dense})
        yield f"minmax dense={dense:g}", fusion


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path(".cache/reproduce"))
    parser.add_argument("--output", type=Path, default=Path("docs/results"))
    parser.add_argument("--device")
    arguments = parser.parse_args()
    per_query: dict[str, dict[str, dict[str, float]]] = {}
    names = [name for name in SPLITS if (arguments.work / name / "CURRENT").is_file()]
    for name in names:
        collection = open_collection(str(arguments.data / name), SPLITS[name])
        texts = list(collection.judged.values())
        rankings: dict[str, list[list[tuple[str, float]]]] = {}
        with open_index(arguments.work / name, device=arguments.device) as index:
            for stage in ("bm25", "dense"):
                rankings[stage] = []
                for start in range(0, len(texts), 64):
                    batch = index.batch_search(texts[start : start + 64], 1000, pipeline=stage, documents=False)
                    rankings[stage] += [list(answer.ranking()) for answer in batch]
        queries = list(collection.judged)

        def record(system, found, queries=queries, collection=collection, name=name):
            run = {
                query: [pair for pair in ranking if pair[0] != query]
                for query, ranking in zip(queries, found, strict=True)
            }
            measured = measure(run, collection.qrels, ["nDCG@10"])
            per_query.setdefault(system, {})[name] = measured.per_query["nDCG@10"]
            print(f"{name:20} {system:32} {measured.means['nDCG@10']:.4f}", flush=True)

        for stage, found in rankings.items():
            record(stage, found)
        for depth in DEPTHS:
            for label, fusion in settings():
                both = zip(rankings["bm25"], rankings["dense"], strict=True)
                fused = [fuse({"bm25": a[:depth], "dense": b[:depth]}, fusion) for a, b in both]
                record(f"{label} depth={depth}", fused)
    write(arguments.output, names, per_query)


def write(folder: Path, names: list[str], per_query: dict[str, dict[str, dict[str, float]]]) -> None:
    """Write the table as CSV and the best settings as Markdown."""
    means = {
        system: [sum(values[name].values()) / len(values[name]) for name in names]
        for system, values in per_query.items()
    }
    ordered = sorted(means, key=lambda system: -sum(means[system]))
    machine = environment()
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "hybrid.csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["system", "mean", *names, "cpu", "versions"])
        versions = " ".join(f"{package}={v}" for package, v in machine["packages"].items())
        for system in ordered:
            values = [f"{value:.4f}" for value in means[system]]
            writer.writerow([system, f"{sum(means[system]) / len(names):.4f}", *values, machine["cpu"], versions])
    best = ordered[0]
    lines = [
        "# Which fusion is the default",
        "",
        "Made by `python -m benchmarks.fusion --data FOLDER`: nDCG@10 on training and development queries "
        f"({', '.join(f'{name} {SPLITS[name]}' for name in names)}), MiniLM and BM25, all settings in hybrid.csv.",
        "",
        f"| system | mean | {' | '.join(names)} |",
        f"|---|---|{'---|' * len(names)}",
    ]
    for system in [*ordered[:8], "bm25", "dense"]:
        values = " | ".join(f"{value:.4f}" for value in means[system])
        lines.append(f"| {system} | {sum(means[system]) / len(names):.4f} | {values} |")
    lines += ["", "Stratified paired randomisation tests of the best setting, every collection weighing the same:", ""]
    rrf = next(system for system in ordered if system.startswith("rrf constant=60 dense=1 "))
    for other in ("bm25", "dense", rrf):
        before, after, p = compare_across({name: (per_query[other][name], per_query[best][name]) for name in names})
        lines.append(f"- {best} against {other}: {before:.4f} → {after:.4f} ({after - before:+.4f}), p = {p:.2g}")
    (folder / "hybrid.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
