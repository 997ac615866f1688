# Two commands to begin with:  make demo   and   make test
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
INDEX ?= demo-index
PORT ?= 8080
# Processes that share the tests; each loads the models for itself.
WORKERS ?= 2

export HF_HUB_OFFLINE ?= 1
export TOKENIZERS_PARALLELISM = false

.PHONY: help demo test test-all lint bench serve install reproduce claims compression-claims reranker-claims clean

help:  ## Show the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | sort

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
# torch first, under its pin: on a CPU machine this keeps gigabytes of CUDA packages away.
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[cpu,dev]'
	touch $@

install: $(STAMP)  ## Make the virtual environment

demo: $(STAMP)  ## Index real text, search, evaluate, serve (ONESHOT=1 ends by itself)
	BIN=$(BIN) INDEX=$(INDEX) PORT=$(PORT) ONESHOT=$(ONESHOT) bash examples/demo.sh

test: $(STAMP)  ## The tests of every change
	$(BIN)/python -m pytest -q -n $(WORKERS) --dist loadfile

test-all: $(STAMP)  ## All tests, with the slow ones and the comparisons with other libraries
	$(BIN)/python -m pytest -q -m ''

lint: $(STAMP)  ## ruff, mypy, import-linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(STAMP)  ## Run the benchmarks and write benchmarks/results
	$(BIN)/python -m benchmarks.index

claims: reranker-claims compression-claims  ## Train and test every claim of docs/results/training.md (hours; DATA=folder of collections)
	$(BIN)/python -m benchmarks.training.star_adore --data $(DATA)/nl2bash
	$(BIN)/python -m benchmarks.training.hashing --data $(DATA)/nl2bash
	$(BIN)/python -m benchmarks.training.bidr --data $(DATA)/nl2bash
	$(BIN)/python -m benchmarks.training.ar2 --data $(DATA)/nl2bash
	$(BIN)/python -m benchmarks.training.tas_b --data $(DATA)/nl2bash
	$(BIN)/python -m benchmarks.training.ngame --data $(DATA)/nl2bash
	$(BIN)/python -m benchmarks.training.cornstack --data $(DATA)/nl2bash
	$(BIN)/python -m benchmarks.training.trans_encoder --data $(DATA)/nl2bash
	$(BIN)/python -m benchmarks.training.ance --data $(DATA)/nl2bash
	$(BIN)/python -m benchmarks.training.adapt --data $(DATA)/nl2bash
	$(BIN)/python -m benchmarks.training.adapter --data $(DATA)/nl2bash
	$(BIN)/python -m benchmarks.training.domains --data $(DATA)/nfcorpus --forms float,bpr
	$(BIN)/python -m benchmarks.training.without_labels --data $(DATA)/nl2bash
	$(BIN)/python -m benchmarks.training.soft_prompt --data $(DATA)/nl2bash
	$(BIN)/python -m benchmarks.training.llm_ql --data $(DATA)/nl2bash
	$(BIN)/python -m benchmarks.training.poolers --data $(DATA)/nl2bash
	$(BIN)/python -m benchmarks.training.mamba --data $(DATA)/nl2bash
	$(BIN)/python -m benchmarks.training.adapt --data pydocs --queries 500 --work .cache/claims/pydocs

COMPRESSED := cranfield nfcorpus scifact cosqa nl2bash

compression-claims: $(STAMP)  ## Train codes for five collections and measure docs/results/learned_codes again (hours)
	$(BIN)/retriever eval reproduce retriever/evaluation/reproduction.yaml --data $(DATA) \
		$(foreach name,$(COMPRESSED),--only $(name)) --work .cache/reproduce --output .cache/claims/compression
	$(BIN)/python -m benchmarks.compression --data $(DATA) --learned --only $(COMPRESSED) \
		--seeds 42 43 44 --output docs/results/learned_codes

RERANKER := .cache/claims/reranker
LEARNED_FROM := $(foreach name,nfcorpus nl2bash medquad codetrans-java-cs,--data $(DATA)/$(name)) --data $(RERANKER)/pydocs

reranker-claims: $(STAMP)  ## Train the reranker by three seeds and test docs/results/reranker.md (hours)
	test -d $(RERANKER)/pydocs || $(BIN)/retriever index corpus pydocs:stdlib --to $(RERANKER)/pydocs
	$(BIN)/retriever eval reproduce retriever/evaluation/reproduction.yaml --data $(DATA) \
		--only scifact --only cosqa --only cranfield --work .cache/reproduce --output $(RERANKER)
	for seed in 1 2 3; do $(BIN)/retriever train reranker $(RERANKER)/seed-$$seed $(LEARNED_FROM) --set seed=$$seed \
		--set max_queries=800 --set max_documents=1500 --set max_eval_queries=25 --set fit.batch_size=8 \
		--set fit.precision=bfloat16 --set fit.save_steps=50 || exit 1; done
	$(BIN)/python -m benchmarks.reranker $(RERANKER)/seed-1 $(RERANKER)/seed-2 $(RERANKER)/seed-3 --data $(DATA) \
		--precision bfloat16 --development-queries 60 --test-queries 150 --trec bm25

serve: $(STAMP)  ## Serve the demo index
	$(BIN)/retriever serve $(INDEX) --port $(PORT)

reproduce: $(STAMP)  ## Measure every row of the reproduction table again (hours on two cores)
	$(BIN)/retriever eval reproduce retriever/evaluation/reproduction.yaml --data $(DATA)

clean:  ## Remove the environment and caches
	rm -rf $(VENV) .cache build *.egg-info
