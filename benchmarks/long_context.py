"""Do encoders read beyond their window without training? LongEmbed's tasks at 1, 2 and 4 windows.

    python -m benchmarks.long_context --texts FOLDER [--encoder NAME --window 512] [--collection FOLDER]

--texts is a collection whose documents stand around needles. Every method is compared with the encoder as it is, cut
at the window, on the same queries: paired randomisation tests over the queries of all seeds, corrected by Holm over
methods, tasks and lengths of one call. Documents of m windows are read by encoders extended to m. --encoder rotary
trains a small encoder with rotary positions (benchmarks.rotary_encoder), which is also measured uncut, since its
positions go on by themselves. --collection adds a real collection, nDCG@10, extended to the last multiple.

Records stay in --work, so that an interrupted run goes on; remove them where the code has changed. Adds rows to
benchmarks/results/long_context.csv.
"""

import argparse
from pathlib import Path

from benchmarks.rotary_encoder import train_rotary_encoder
from benchmarks.table import RESULTS, add_rows
from indexing.corpora import open_corpus
from retriever.encoder import DenseEncoder, TokenCounter, load_encoder
from retriever.evaluation.collections import open_collection, read_texts
from retriever.evaluation.planted import MEASURES, PlantedCollection, evaluate_planted, plant
from retriever.evaluation.records import EvaluationSettings, Record, evaluate_run
from retriever.evaluation.significance import compare, holm
from retriever.long_context import LongContext
from retriever.long_context.architecture import FITTING, kind_of
from retriever.long_context.extension import extend, save_extended

SEEDS = (1, 2, 3)
TRUNCATED, UNCUT = "truncated", "uncut"
ROTARY = "rotary"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=Path, required=True)
    parser.add_argument("--encoder", default="multilingual-e5-small")
    parser.add_argument("--window", type=int, default=512)
    parser.add_argument("--multiples", default="1,2,4", help="lengths in windows")
    parser.add_argument("--tasks", default="passkey,needle")
    parser.add_argument("--queries", type=int, default=40)
    parser.add_argument("--documents", type=int, default=40)
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="bfloat16")
    parser.add_argument("--collection", type=Path)
    parser.add_argument("--work", type=Path, default=Path(".cache/long_context"))
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    source = encoder_folder(arguments.encoder, arguments.window, arguments.work)
    plain = load_encoder(source, device="cpu", offline=True, precision=arguments.precision)
    methods = FITTING[kind_of(plain.model[0].model)]
    tokens = TokenCounter(plain.model.tokenizer)
    texts = read_texts(arguments.texts)
    found: dict[tuple[str, int, str], dict[str, float]] = {}
    means: dict[tuple[str, int, str], list[float]] = {}
    multiples = [int(multiple) for multiple in arguments.multiples.split(",")]
    for multiple in multiples:
        encoders: dict[str, DenseEncoder] = {}
        for system in systems(methods, multiple, arguments.encoder):
            encoders[system] = encoder_of(source, system, multiple, arguments)
        for task in arguments.tasks.split(","):
            for seed in SEEDS:
                planted = plant(
                    task, multiple * arguments.window, tokens, texts=texts if task == "needle" else (), seed=seed,
                    queries=arguments.queries, documents=arguments.documents,
                )  # fmt: skip
                for system, encoder in encoders.items():
                    record = recorded(planted, encoder, system, arguments)
                    key = (task, multiple, system)
                    values = record.per_query[MEASURES[0]]
                    found.setdefault(key, {}).update({f"{seed} {query}": value for query, value in values.items()})
                    means.setdefault(key, []).append(record.means[MEASURES[0]])
                    print(task, multiple, seed, system, record.means, flush=True)
    if arguments.collection:
        for system in systems(methods, multiples[-1], arguments.encoder):
            encoder = encoder_of(source, system, multiples[-1], arguments)
            record = real(arguments.collection, encoder, system, multiples[-1], arguments)
            key = (arguments.collection.name, multiples[-1], system)
            found[key], means[key] = record.per_query["nDCG@10"], [record.means["nDCG@10"]]
            print(key, record.means, flush=True)
    write(found, means, arguments)


def systems(methods: tuple[str, ...], multiple: int, name: str) -> list[str]:
    """Return what is measured at a length: beyond the window all methods, within it they are the encoder itself."""
    if multiple == 1:
        return [TRUNCATED]
    return [TRUNCATED, *([UNCUT] if name == ROTARY else []), *methods]


def encoder_folder(name: str, window: int, work: Path) -> str:
    """Return what load_encoder opens; the small one is trained where it is not there."""
    if name != ROTARY:
        return name
    folder = work / f"{ROTARY}-{window}"
    if not (folder / "modules.json").is_file():
        train_rotary_encoder(folder, window)
    return str(folder)


def encoder_of(source: str, system: str, multiple: int, arguments: argparse.Namespace) -> DenseEncoder:
    """Return the encoder as it is, cut at the window or not, or extended."""
    options = {"device": "cpu", "offline": True, "precision": arguments.precision}
    if system in (TRUNCATED, UNCUT):
        encoder = load_encoder(source, **options)
        encoder.model.max_seq_length = arguments.window * (1 if system == TRUNCATED else multiple)
        return encoder
    folder = arguments.work / f"{Path(source).name}-{arguments.window}-{multiple}-{system}"
    if not (folder / "modules.json").is_file():
        settings = LongContext(method=system, length=multiple * arguments.window, window=arguments.window)
        save_extended(extend(source, settings, offline=True), source, folder)
    return load_encoder(folder, **options)


def place(collection: str, system: str, arguments: argparse.Namespace) -> Path:
    encoder = f"{arguments.encoder}-{arguments.precision}-{arguments.window}"
    return arguments.work / "records" / f"{encoder}.{collection}.{system}.json"


def recorded(planted: PlantedCollection, encoder: DenseEncoder, system: str, arguments: argparse.Namespace) -> Record:
    path = place(f"{planted.collection.name}.{planted.collection.split}", system, arguments)
    if path.is_file() and (known := Record.read(path)).sha256 == planted.collection.sha256:
        return known
    record = evaluate_planted(encoder, planted, system)
    record.write(path)
    return record


def real(folder: Path, encoder: DenseEncoder, system: str, multiple: int, arguments: argparse.Namespace) -> Record:
    """Search a real collection exactly."""
    collection = open_collection(str(folder))
    path = place(f"{collection.name}.{multiple}", system, arguments)
    if path.is_file() and (known := Record.read(path)).sha256 == collection.sha256:
        return known
    documents = list(open_corpus(str(folder)))
    scores = encoder.encode_queries(list(collection.judged.values())) @ encoder.encode_documents(documents).T
    ids = [document.id for document in documents]
    run = {
        query: sorted(zip(ids, row, strict=True), key=lambda pair: (-pair[1], pair[0]))[:100]
        for query, row in zip(collection.judged, scores.tolist(), strict=True)
    }
    record = evaluate_run(run, collection, system, EvaluationSettings(k=100, measures=("nDCG@10",)))
    record.write(path)
    return record


def write(
    found: dict[tuple[str, int, str], dict[str, float]],
    means: dict[tuple[str, int, str], list[float]],
    arguments: argparse.Namespace,
) -> None:
    compared = {
        (task, multiple, system): compare(found[task, multiple, TRUNCATED], values)
        for (task, multiple, system), values in found.items()
        if system != TRUNCATED
    }
    corrected = dict(zip(compared, holm([one.p for one in compared.values()]), strict=True))
    rows = []
    for key, values in found.items():
        task, multiple, system = key
        one = compared.get(key)
        rows.append({
            "encoder": arguments.encoder, "precision": arguments.precision, "window": arguments.window,
            "length": multiple * arguments.window, "task": task,
            "measure": MEASURES[0] if task in arguments.tasks.split(",") else "nDCG@10",
            "documents": arguments.documents if task in arguments.tasks.split(",") else "",
            "queries": len(values), "seeds": len(means[key]), "system": system,
            "value": f"{sum(values.values()) / len(values):.4f}",
            "by_seed": " ".join(f"{mean:.4f}" for mean in means[key]),
            "difference": f"{one.difference:+.4f}" if one else "",
            "low": f"{one.interval[0]:+.4f}" if one else "", "high": f"{one.interval[1]:+.4f}" if one else "",
            "p": f"{one.p:.3g}" if one else "", "p_holm": f"{corrected[key]:.3g}" if one else "",
        })  # fmt: skip
        print(rows[-1])
    add_rows(RESULTS / "long_context.csv", rows, ("torch", "transformers", "sentence-transformers"))


if __name__ == "__main__":
    main()
