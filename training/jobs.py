"""What `retriever train mine`, `score` and `merge` do: open the inputs, run the job, say what came of it."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from indexing.corpora import open_corpus
from retriever.errors import InvalidInput
from retriever.evaluation.collections import open_collection
from retriever.index.sealed import open_index
from training.generation import Consistency, GenerationSettings, generate_queries, write_collection
from training.mining import MiningSettings, mine_index, report_of
from training.portions import Outcome, Shard, merge, read_metadata, work_folder
from training.scoring import score_pairs


def run_mining(
    index: Path,
    queries: str,
    output: Path,
    *,
    settings: Mapping[str, Any],
    split: str = "train",
    shard: str = "1/1",
    restart: bool = False,
    device: str | None = None,
    offline: bool = False,
    quiet: bool = True,
) -> dict[str, Any]:
    """Mine and return the report, with a summary in words. Raises what `mine_index` raises."""
    try:
        checked = MiningSettings.model_validate(settings)
    except ValidationError as error:
        raise InvalidInput(f"the settings of mining are not valid: {error}") from error
    part = Shard.parse(shard)
    collection = open_collection(queries, split)
    # So that `score` finds it from any folder.
    origin = str(Path(queries).resolve()) if Path(queries).exists() else queries
    with open_index(index.resolve(), device=device, offline=offline) as opened:
        outcome = mine_index(
            opened, collection, output, checked, origin=origin, shard=part, restart=restart,
            device=device, offline=offline, quiet=quiet,
        )  # fmt: skip
    return _report(outcome, output)


def run_scoring(
    pairs: Path,
    output: Path,
    model: str,
    *,
    index: Path | None = None,
    queries: str | None = None,
    split: str | None = None,
    shard: str = "1/1",
    restart: bool = False,
    device: str | None = None,
    offline: bool = False,
    quiet: bool = True,
) -> dict[str, Any]:
    """Score pairs and return the report, with a summary in words. Raises what `score_pairs` raises.

    index, queries, split  None for what the file of pairs says it was mined from
    """
    named = _named_by(pairs)
    index = index or named.get("index_path")
    queries = queries or named.get("collection_path")
    if not index or not queries:
        raise InvalidInput(f"{pairs} does not say where its texts are; add --index and --queries.")
    part = Shard.parse(shard)
    collection = open_collection(queries, split or named.get("split") or "train")
    with open_index(index, device=device, offline=offline) as opened:
        outcome = score_pairs(
            pairs, output, model, opened, collection, shard=part, restart=restart,
            device=device, offline=offline, quiet=quiet,
        )  # fmt: skip
    return _report(outcome, output)


def run_generation(
    corpus: str,
    output: Path,
    settings: GenerationSettings,
    *,
    top_k: int | None = 30,
    held_out: float = 0.1,
    consistency: Callable[[], Consistency] | None = None,
    shard: str = "1/1",
    restart: bool = False,
    device: str | None = None,
    offline: bool = False,
    quiet: bool = True,
) -> dict[str, Any]:
    """Generate queries and write them as a BEIR folder; return the report, with a summary in words.

    consistency  opens a second filter, see `write_collection`; not called before all queries are there

    Raises what `generate_queries` and `write_collection` raise, and InvalidInput for a folder of another corpus.
    """
    generated = output / "generated.parquet"
    # A folder that holds judged queries is somebody's collection.
    if (output / "qrels").exists() and not generated.exists():
        raise InvalidInput(f"{output} holds judgments that were not generated here; give another --output.")
    documents = list(open_corpus(corpus))
    outcome = generate_queries(
        documents, generated, settings, shard=Shard.parse(shard), restart=restart, device=device, offline=offline,
        quiet=quiet,
    )  # fmt: skip
    if outcome.metadata is None:
        return _report(outcome, generated)
    (output / "corpus.jsonl").unlink(missing_ok=True)
    counts = {
        **outcome.metadata["counts"],
        **write_collection(
            generated,
            documents,
            output,
            top_k=top_k,
            held_out=held_out,
            consistency=consistency() if consistency is not None else None,
        ),
    }
    summary = (
        f"{output}: {counts['kept']:,} of {counts['generated']:,} queries kept; "
        f"{counts['train']:,} to train on, {counts['dev']:,} held out"
    )
    return {"output": str(output), "counts": counts, "summary": summary}


def run_merging(folders: Sequence[Path], output: Path) -> dict[str, Any]:
    """Merge work folders and return the report of the job. Raises what `portions.merge` raises."""
    if output.exists():
        raise InvalidInput(f"{output} exists already; choose another output.")
    return _report(Outcome(merge(folders, output), []), output)


def _named_by(pairs: Path) -> dict[str, Any]:
    try:
        metadata = read_metadata(pairs)
    except InvalidInput:
        # No file of `mine`, or none at all; what reads its columns says more.
        return {}
    return {**metadata, "split": metadata.get("depends_on", {}).get("split")}


def _report(outcome: Outcome, output: Path) -> dict[str, Any]:
    if outcome.metadata is None:
        missing = len(outcome.missing)
        state = f"{missing} portions of other shards are missing" if missing else "another process merges"
        return {
            "output": None,
            "work": str(work_folder(output)),
            "missing": outcome.missing,
            "summary": f"this shard is done, its portions are in {work_folder(output)}; {state}",
        }
    if outcome.metadata["job"] == "mining":
        report = report_of(outcome.metadata)
        return {"output": str(output), **report, "summary": f"{output}: {_mining_in_words(report)}"}
    counts = outcome.metadata["counts"]
    cut = counts["cut_to_model_length"]
    return {
        "output": str(output),
        "model": outcome.metadata["model"],
        "counts": counts,
        "summary": f"{output}: {counts['pairs']:,} pairs scored by {outcome.metadata['model']}, "
        f"{cut:,} cut to its length",
    }


def _mining_in_words(report: Mapping[str, Any]) -> str:
    queries, counts, judged = report["queries"], report["counts"], report["false_negatives"]
    lines = [f"{counts.get('candidates', 0):,} candidates of {queries['mined']:,} queries"]
    removed = [
        f"{counts[name]:,} {label}"
        for name, label in (
            ("removed_by_id", "relevant"),
            ("removed_by_text", "with a relevant document's text"),
            ("removed_as_the_query_itself", "being the query itself"),
            ("denoised", "too good to be negatives"),
        )
        if counts.get(name)
    ]
    if removed:
        lines.append(f"left out: {', '.join(removed)}")
    for name, label in (
        ("without_text", "judged queries without a text"),
        ("without_positives", "queries without a relevant document"),
        ("positives_all_missing", "queries whose relevant documents are all missing from the corpus"),
    ):
        if queries[name]["count"]:
            lines.append(f"not mined: {queries[name]['count']:,} {label}, such as {', '.join(queries[name]['first'])}")
    missing = report["positives"]["missing_from_corpus"]
    if missing["count"]:
        lines.append(f"{missing['count']:,} judged documents are not in the corpus, such as {missing['first'][0]}")
    if counts.get("queries_without_candidates"):
        lines.append(f"{counts['queries_without_candidates']:,} queries have no candidate at all")
    rate = judged["rate"]
    if rate is None:
        lines.append("false negatives: not estimated")
    else:
        lines.append(f"false negatives: {judged['judge']} puts {rate:.2%} of candidates above the relevant document")
    return "\n  ".join(lines)
