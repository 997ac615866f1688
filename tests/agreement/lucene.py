"""Lucene's own answers, asked for by the tests in a process that has Java 21 or newer and pyserini.

    python -m tests.agreement.lucene analyse              JSON strings on standard input -> JSON lists of terms
    python -m tests.agreement.lucene search INDEX K       JSON strings -> JSON lists of [id, score], scores as float32
    python -m tests.agreement.lucene search-fields INDEX K title=2,contents=1   likewise, two such lists a query:
                                                          Anserini's fielded query, and one flat BooleanQuery
    python -m tests.agreement.lucene index FOLDER INDEX [FIELD ...]   a folder of JSONL with "id" and "contents"

Runs without the project's dependencies. pyserini's Python is needed for its jar alone.
"""

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

from benchmarks.sparse import peers

ROOT = Path(__file__).resolve().parents[2]


class Lucene:
    """The interpreter and variables with which this module runs as a process."""

    def __init__(self, python: str, variables: dict[str, str]) -> None:
        self._command = [python, "-m", "tests.agreement.lucene"]
        self._variables = variables

    def ask(self, *arguments: str, texts: list[str] | None = None) -> list[list]:
        """Return one answer a text; code points are escaped on the way."""
        result = subprocess.run(
            [*self._command, *arguments],
            input="".join(json.dumps(text) + "\n" for text in texts or []),
            env=self._variables, cwd=ROOT, capture_output=True, text=True,
        )  # fmt: skip
        assert result.returncode == 0, result.stderr[-2000:]
        return [json.loads(line) for line in result.stdout.splitlines() if line.startswith("[")]


def find() -> Lucene | str:
    """Return a Lucene that works here, or the reason why there is none."""
    here = peers.FOLDER if peers.FOLDER.is_absolute() else ROOT / peers.FOLDER
    if peers.interpreter(here).is_file() and (peers.java_home(here) / "bin" / "java").is_file():
        return Lucene(str(peers.interpreter(here)), peers.variables(here))
    try:
        import pyserini  # noqa: F401
    except ImportError:
        return "pyserini is not installed; `python -m benchmarks.sparse` or the extra [lucene] installs it"
    home = os.environ.get("JAVA_HOME")
    java = str(Path(home) / "bin" / "java") if home else shutil.which("java")
    if java is None or not Path(java).is_file():
        return "there is no Java"
    banner = subprocess.run([java, "-version"], capture_output=True, text=True).stderr
    number = banner.partition('"')[2].partition(".")[0].partition('"')[0]
    if not number.isdigit() or int(number) < 21:
        return f"Lucene 10 needs Java 21 or newer, found {number or 'an unknown one'}"
    return Lucene(sys.executable, dict(os.environ))


def _analyse() -> None:
    from pyserini.pyclass import autoclass

    analyser = autoclass("io.anserini.analysis.DefaultEnglishAnalyzer").newDefaultInstance()
    utilities = autoclass("io.anserini.analysis.AnalyzerUtils")
    for line in sys.stdin:
        print(json.dumps(list(utilities.analyze(analyser, json.loads(line)))))


def _search(index: str, k: str) -> None:
    from benchmarks.sparse.lucene import ExactSearcher

    searcher = ExactSearcher(Path(index))
    for line in sys.stdin:
        print(json.dumps(searcher.search(json.loads(line), int(k))))


def _search_fields(index: str, k: str, fields: str) -> None:
    from pyserini.pyclass import autoclass

    from benchmarks.sparse.lucene import ExactSearcher

    boosts = {name: float(weight) for name, _, weight in (field.partition("=") for field in fields.split(","))}
    searcher = ExactSearcher(Path(index))
    analyser = autoclass("io.anserini.analysis.DefaultEnglishAnalyzer").newDefaultInstance()
    utilities = autoclass("io.anserini.analysis.AnalyzerUtils")
    generator = autoclass("io.anserini.search.query.BagOfWordsQueryGenerator")()
    names = autoclass("java.util.HashMap")()
    for name, boost in boosts.items():
        names.put(name, autoclass("java.lang.Float")(str(boost)))
    term, term_query = autoclass("org.apache.lucene.index.Term"), autoclass("org.apache.lucene.search.TermQuery")
    boosted = autoclass("org.apache.lucene.search.BoostQuery")
    should = autoclass("org.apache.lucene.search.BooleanClause$Occur").SHOULD
    for line in sys.stdin:
        text = json.loads(line)
        flat = autoclass("org.apache.lucene.search.BooleanQuery$Builder")()
        for name, boost in boosts.items():
            for word, count in Counter(utilities.analyze(analyser, text)).items():
                flat.add(boosted(boosted(term_query(term(name, word)), count), boost), should)
        queries = [generator.buildQuery(names, analyser, text), flat.build()]
        print(json.dumps([searcher.hits(query, int(k)) for query in queries]))


def _index(folder: str, index: str, *fields: str) -> None:
    from pyserini.pyclass import autoclass

    kind = [
        "-collection",
        "JsonCollection",
        "-generator",
        "DefaultLuceneDocumentGenerator",
        "-threads",
        "1",
        "-optimize",
    ]
    autoclass("io.anserini.index.IndexCollection").main(
        [*kind, "-input", folder, "-index", index, *(["-fields", *fields] if fields else [])]
    )


if __name__ == "__main__":
    {"analyse": _analyse, "search": _search, "search-fields": _search_fields, "index": _index}[sys.argv[1]](
        *sys.argv[2:]
    )
