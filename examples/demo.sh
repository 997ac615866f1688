#!/usr/bin/env bash
# The whole loop on real text, from nothing to a served index: what `make demo` runs.
#
#   BIN      folder of the `retriever` command      INDEX    folder of the index
#   PORT     where to serve                         ONESHOT  1: stop the server after one answer
set -euo pipefail
BIN=${BIN:-.venv/bin}
INDEX=${INDEX:-demo-index}
PORT=${PORT:-8080}
ONESHOT=${ONESHOT:-}
WORK=.cache/demo
QUERY="parse a date written in ISO format"

say() { printf '\n\033[1m== %s\033[0m\n' "$*"; }
run() { printf '\033[2m$ retriever %s\033[0m\n' "$*"; "$BIN/retriever" "$@"; }

mkdir -p "$WORK"

say "A real bi-encoder, pinned by its sha256"
run models pull all-MiniLM-L6-v2

say "A real collection: the docstrings of the Python standard library and the code they describe"
[ -f "$WORK/pydocs/qrels/test.tsv" ] || run index corpus pydocs:stdlib --to "$WORK/pydocs"

say "One sealed index with BM25 and vectors; stop it and run it again, and it resumes"
[ -f "$INDEX/CURRENT" ] || run index build "$WORK/pydocs" "$INDEX" --field module --field kind --field lines:number
run index verify "$INDEX"

say "Search: by words, by meaning, by both, and with a filter"
for pipeline in bm25 dense hybrid; do
    run search "$INDEX" "$QUERY" -k 3 -p $pipeline
done
run search "$INDEX" "$QUERY" -k 3 -f kind=function -f 'lines<60'

say "Evaluation on held-out docstrings: does fusing the two help, and is that significant?"
run eval run "$INDEX" "$WORK/pydocs" --split test --output "$WORK/runs"
run eval compare "$WORK"/runs/pydocs.test.dense.json "$WORK"/runs/pydocs.test.hybrid.json
run eval compare "$WORK"/runs/pydocs.test.bm25.json "$WORK"/runs/pydocs.test.hybrid.json

if [ -z "$ONESHOT" ]; then
    say "Serving: open http://127.0.0.1:$PORT in a browser, Ctrl-C ends it"
    exec "$BIN/retriever" serve "$INDEX" --port "$PORT"
fi

say "Serving once"
"$BIN/retriever" serve "$INDEX" --port "$PORT" 2>"$WORK/serve.log" &
server=$!
trap 'kill $server 2>/dev/null || true' EXIT
"$BIN/python" examples/ask.py "http://127.0.0.1:$PORT" "$QUERY" || { cat "$WORK/serve.log"; exit 1; }
kill $server
wait $server || true
trap - EXIT
say "All of it works. Run \`make demo\` without ONESHOT to keep the page open."
