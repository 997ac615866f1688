"""Adapting an encoder to one's own collection: mine, train, test on held-out queries, keep what is better.

The base model stays in place unless the gain is significant, so that adapting can do no harm.
"""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

from indexing.corpora import write_beir
from retriever.errors import InvalidInput
from retriever.models import resolve
from retriever.storage import write_atomically
from training.finished import publish, require_free
from training.recipe import REPORT as TRAINING
from training.recipe import open_parts, plan_of, run_recipe, split_of
from training.recipes.contrastive import RECIPE, ContrastiveSettings
from training.stages import differing

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
    trained = work / "trained"
    if (trained / TRAINING).is_file():
        _require_same(trained, settings, data, offline)
    else:
        run_recipe(RECIPE, settings, [data], trained, splits=(split,), offline=offline)
    report = json.loads((trained / TRAINING).read_text())
    found = report["evaluation"][split][MEASURE]
    better = found["difference"] > 0 and found["p"] < alpha
    decision = {"kept": "trained" if better else "base", "split": split, "measure": MEASURE, "alpha": alpha, **found}

    def complete(folder: Path) -> None:
        shutil.copy(trained / TRAINING, folder / TRAINING)
        write_atomically(folder / REPORT, json.dumps({"decision": decision, "training": report}, indent=1).encode())

    publish(trained if better else resolve(settings.base, offline=offline), output, complete)
    shutil.rmtree(work)
    return decision


def _require_same(trained: Path, settings: ContrastiveSettings, data: Path, offline: bool) -> None:
    """Refuse a training that an interrupted run finished with other settings or data."""
    report = json.loads((trained / TRAINING).read_text())
    plan = plan_of(RECIPE, settings, open_parts(RECIPE, settings, [data], ()), offline=offline)
    plan = json.loads(json.dumps(plan, default=str))
    if other := differing({key: report.get(key) for key in plan}, plan):
        raise InvalidInput(
            f"{trained} holds a training with other settings or data ({other}); give the same ones to go on, another "
            "--output, or --restart to begin anew."
        )


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
