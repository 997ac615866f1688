"""Adapting an encoder to one's own collection: mine, train, test on held-out queries, keep what is better.

Without judgments, a language model makes the queries up first.

The base model stays in place unless the gain is significant, so that adapting can do no harm.
"""

import hashlib
import json
import math
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from indexing.corpora import open_corpus, write_beir
from retriever.errors import InvalidInput
from retriever.models import resolve
from retriever.storage import write_atomically
from training.collection import read_corpus
from training.decoders import DecoderSettings, base_of, open_decoder
from training.encoders import as_encoder, open_base
from training.evaluation import comparison
from training.finished import publish, require_free
from training.generation import Consistency, GenerationSettings, generate_queries, write_collection
from training.generation.generators import Generator
from training.recipe import REPORT as TRAINING
from training.recipe import (
    Recipe,
    measure_splits,
    measure_starts,
    require_named,
    require_same_training,
    run_recipe,
    split_of,
)
from training.recipes.contrastive import RECIPE, ContrastiveSettings
from training.settings import EncoderSettings

MEASURE = "nDCG@10"
# One query in so many is held out of the user's pairs.
HELD_OUT = 5
REPORT = "adaptation.json"


def adapt(
    corpus: str,
    output: Path,
    settings: ContrastiveSettings,
    *,
    pairs: Path | None = None,
    alpha: float = 0.05,
    restart: bool = False,
    offline: bool = False,
) -> dict[str, Any]:
    """Train `settings.base` on a collection and write to `output` the better model: the trained one or the base.

    corpus  a BEIR folder with train judgments and held-out ones (test, or dev where there is no test), "pydocs", or
            any corpus with `pairs`
    pairs   lines of a query's text, a tab and the id of a relevant document; one query in 5 is held out
    alpha   the trained model is kept only if its nDCG@10 on held-out queries is higher with p below this

    Returns the report that is also written to output/adaptation.json. An interrupted run goes on when repeated.
    """
    require_free(output, REPORT, restart=restart)
    work = output.parent / f".{output.name}.adapt"
    if restart:
        shutil.rmtree(work, ignore_errors=True)
    data = _collection(corpus, pairs, work)
    split = next((name for name in ("test", "dev") if split_of(data, name)), None)
    if split is None:
        raise InvalidInput(f"{corpus} has no test or dev judgments to hold the result against; give --pairs.")
    run = _Run(RECIPE, settings, data, work, offline)
    decision = run.decide(split, run.report(split)["evaluation"][split], alpha)
    run.publish(output, decision)
    return decision


def adapt_without_labels(
    corpus: str,
    output: Path,
    recipe: Recipe,
    settings: EncoderSettings,
    generation: GenerationSettings,
    *,
    top_k: int | None = 30,
    consistent_top_k: int | None = None,
    consistent_threshold: float = -math.inf,
    alpha: float = 0.05,
    restart: bool = False,
    offline: bool = False,
    generator: Generator | None = None,
) -> dict[str, Any]:
    """Train `settings.base` on queries that a language model makes up, and write the better model as `adapt` does.

    corpus      any corpus; judgments of a BEIR folder's test or dev split are never trained on, they decide
    recipe      genq, gpl, or another one that learns from pairs
    top_k       of the filter by BM25, see `training.generation.pairs.found_again`; None for none
    consistent_top_k  and consistent_threshold: of the filter by the base, see `training.generation.Consistency`;
                None for none
    generator   instead of the one that `generation` names

    Without judgments the generated queries of a tenth of the documents decide, which neither training nor the other
    queries see; they tell how well the model does on queries like these. Each step is resumable. Returns the report
    that is also written to output/adaptation.json. Raises InvalidInput for a recipe that makes no bi-encoder, and what
    `training.recipe.require_named` raises, both before any query is made up.
    """
    if recipe.compare is not None:
        raise InvalidInput(
            f"{recipe.name} makes no bi-encoder, and adapting compares those; take gpl or genq, or train it by "
            f"`retriever train generate` and `retriever train run {recipe.name}`."
        )
    require_named(settings, offline=offline)
    if isinstance(settings, DecoderSettings):
        base_of(settings, offline=offline)
        if consistent_top_k is not None:
            raise InvalidInput(
                f"{settings.base} is a language model, which cannot judge queries before it is trained; leave out "
                "--consistent-top-k, or filter by an encoder with `retriever train generate` and use `train run`."
            )
    require_free(output, REPORT, restart=restart)
    work = output.parent / f".{output.name}.adapt"
    if restart:
        shutil.rmtree(work, ignore_errors=True)
    documents = list(open_corpus(corpus))
    queries, data = work / "queries.parquet", work / "data"
    generate_queries(documents, queries, generation, offline=offline, quiet=False, generator=generator)
    shutil.rmtree(data, ignore_errors=True)
    consistency = None
    if consistent_top_k is not None:
        encoder = as_encoder(open_base(settings, offline=offline))
        consistency = Consistency(encoder, consistent_top_k, consistent_threshold)
    counts = write_collection(queries, documents, data, top_k=top_k, consistency=consistency)
    run = _Run(recipe, settings, data, work, offline)
    split, found = "generated", run.report("dev")["evaluation"]["dev"]
    judged = next((name for name in ("test", "dev") if split_of(Path(corpus), name)), None)
    also = {"generated": found}
    if judged is not None:
        measured = run.measured(Path(corpus), judged)
        split, found = judged, measured["start"]
        also[judged] = found
        if "float_base" in measured:
            also[f"{judged}, from the float base"] = measured["float_base"]
    decision = run.decide(split, found, alpha) | {"queries_generated": counts}
    run.publish(output, decision, also)
    return decision


@dataclass(frozen=True)
class _Run:
    """A training in the work folder of an adaptation, and what is made of it."""

    recipe: Recipe
    settings: EncoderSettings
    data: Path
    work: Path
    offline: bool

    @property
    def trained(self) -> Path:
        return self.work / "trained"

    def report(self, split: str) -> dict[str, Any]:
        """Train unless an interrupted run did, and return the report."""
        if (self.trained / TRAINING).is_file():
            require_same_training(self.recipe, self.settings, self.data, self.trained, offline=self.offline)
        else:
            run_recipe(
                self.recipe, self.settings, [self.data], self.trained, splits=(split,),
                offline=self.offline,
            )  # fmt: skip
        return dict(json.loads((self.trained / TRAINING).read_text()))

    def measured(self, corpus: Path, split: str) -> dict[str, Any]:
        """Return the measures of start and end on judged queries, with paired tests; and those from the float base."""
        held_out, documents = split_of(corpus, split), read_corpus(corpus)
        assert held_out is not None
        base, trained = (open_base(self.settings, base=base, offline=self.offline) for base in (None, self.trained))
        end = measure_splits(trained, documents, [held_out])[split]
        start, uncompressed = measure_starts(base, self.recipe, documents, self.settings, [held_out])
        found = {"start": comparison(start[split], end)}
        if uncompressed:
            found["float_base"] = comparison(uncompressed[split], end)
        return found

    def decide(self, split: str, found: dict[str, Any], alpha: float) -> dict[str, Any]:
        """Keep what was trained only if it is better with p below alpha."""
        measure = found[MEASURE]
        better = measure["difference"] > 0 and measure["p"] < alpha
        kept = "trained" if better else "base"
        return {
            "kept": kept,
            "split": split,
            "measure": MEASURE,
            "alpha": alpha,
            "compared_with": self.recipe.start_is,
            **measure,
        }

    def publish(self, output: Path, decision: dict[str, Any], evaluation: dict[str, Any] | None = None) -> None:
        """Write the model that is kept with the reports, and remove the work folder."""
        training = json.loads((self.trained / TRAINING).read_text())
        content = {"decision": decision, "training": training} | ({"evaluation": evaluation} if evaluation else {})

        def complete(folder: Path) -> None:
            shutil.copy(self.trained / TRAINING, folder / TRAINING)
            write_atomically(folder / REPORT, json.dumps(content, indent=1).encode())

        publish(self.trained if decision["kept"] == "trained" else self._base(), output, complete)
        shutil.rmtree(self.work)

    def _base(self) -> Path:
        """Return the folder of the base; of a language model as the encoder that the trained one was compared with."""
        if not isinstance(self.settings, DecoderSettings):
            return resolve(self.settings.base, offline=self.offline)
        folder = self.work / "base"
        open_decoder(self.settings, offline=self.offline).save_pretrained(str(folder), create_model_card=False)
        return folder


def _collection(corpus: str, pairs: Path | None, work: Path) -> Path:
    """Return the BEIR folder to learn from, made in `work` where the corpus is none."""
    if pairs is None and (Path(corpus) / "qrels").is_dir():
        return Path(corpus)
    folder = work / "data"
    # Written anew by every run: corpus and pairs may have changed, and what an interruption left is not whole.
    shutil.rmtree(folder, ignore_errors=True)
    write_beir(corpus, folder)
    if pairs is not None:
        _write_pairs(pairs, folder)
    if not (folder / "qrels").is_dir():
        raise InvalidInput(f"{corpus} comes without judgments; give --pairs, lines of query, tab and document id.")
    return folder


def _write_pairs(pairs: Path, folder: Path) -> None:
    """Write queries and judgments of a file of pairs, one query in 5 to the test split; by its text alone."""
    relevant: dict[str, list[str]] = {}
    for number, line in enumerate(_lines(pairs), 1):
        if not line.strip():
            continue
        query, tab, document = line.rpartition("\t")
        if not tab or not query.strip() or not document.strip():
            raise InvalidInput(f"{pairs}:{number}: a pair is a query, a tab and a document id; got {line[:80]!r}.")
        relevant.setdefault(query.strip(), []).append(document.strip())
    records, lines = [], {"train": ["query-id\tcorpus-id\tscore"], "test": ["query-id\tcorpus-id\tscore"]}
    for query, documents in relevant.items():
        digest = hashlib.sha256(query.encode()).hexdigest()
        id_ = f"q:{digest[:16]}"
        records.append(json.dumps({"_id": id_, "text": query}, ensure_ascii=False))
        split = "test" if int(digest, 16) % HELD_OUT == 0 else "train"
        lines[split] += [f"{id_}\t{document}\t1" for document in dict.fromkeys(documents)]
    for split, rows in lines.items():
        if len(rows) == 1:
            raise InvalidInput(f"{pairs} has {len(relevant)} queries, none of them for {split}; give more pairs.")
    write_atomically(folder / "queries.jsonl", ("\n".join(records) + "\n").encode())
    (folder / "qrels").mkdir(exist_ok=True)
    for split, rows in lines.items():
        write_atomically(folder / "qrels" / f"{split}.tsv", ("\n".join(rows) + "\n").encode())


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"cannot read {path}: {error}") from error
