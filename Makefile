# Two commands do all the set-up: `make demo` and `make test`. PYTHON chooses the interpreter (3.11 to 3.13).
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
EXTRAS := cpu,openvino,serve,batch,ray,export,prune,report,test,site
ifeq ($(shell uname -sm),Linux x86_64)
EXTRAS := $(EXTRAS),rtx
endif
STAMP := $(VENV)/.installed-$(shell cat pyproject.toml constraints.txt | cksum | cut -d' ' -f1)
CHECKPOINT ?=

.PHONY: help setup demo demo-serve test check docs site peers load-test batch-test seed-check gpu-check clean

help:            ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*##/\t/' | expand -t 18

setup: $(STAMP)  ## make .venv and install everything into it

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(0 if (3, 11) <= sys.version_info[:2] <= (3, 13) else "densepack needs Python 3.11 to 3.13, this is " + sys.version.split()[0] + ": make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade pip
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[$(EXTRAS)]'
	touch $(STAMP)

demo: setup      ## build a bundle from the embedded checkpoint, answer questions, show the figures
	$(BIN)/python -m densepack_export.checks.demo models/checkpoints/default demo

demo-serve: setup $(if $(or $(BUNDLE),$(wildcard demo/bundle)),,demo)  ## start the server on the demo's bundle, ask it one question, stop it [BUNDLE=]
	$(BIN)/python -m densepack_export.checks.demo_serve $(or $(BUNDLE),demo/bundle)

test: setup      ## the whole test suite
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

check: setup     ## formatting, lint, types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

docs: setup      ## write the tables of README and docs again, from the result files
	$(BIN)/python docs/regenerate.py

# --quiet would keep mkdocs from counting warnings.
site: setup      ## the documents as a site in build/site, every link checked
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

peers: setup     ## densepack beside transformers 4.57, nn_pruning, optimum-onnx, PyTorch [SQUAD= QUESTIONS= ROUNDS= SHAPE= OUT=]
	$(MAKE) -C tests/peers speed PYTHON=$(PYTHON) OURS=$(abspath $(BIN))/python

load-test: setup $(if $(BUNDLE),,demo)  ## `densepack serve` under load beside batches of one; answers compared with the library [BUNDLE= SQUAD= REQUESTS= TIMES=]
	$(BIN)/python -m tests.runtime.serving.loads $(or $(BUNDLE),demo/bundle) $(addprefix --squad ,$(or $(SQUAD),$(wildcard ../shared/data/squad/dev-v1.1.json))) --requests $(or $(REQUESTS),2000) $(addprefix --times ,$(TIMES))

batch-test: setup $(if $(BUNDLE),,demo)  ## real rows through `densepack batch`: alone, a worker killed, resumed [BUNDLE= SQUAD="FILE …" ROWS=]
	$(BIN)/python -m tests.runtime.serving.corpora.trial $(or $(BUNDLE),demo/bundle) --squad $(or $(SQUAD),../shared/data/squad/dev-v1.1.json ../shared/data/squad/train-v1.1.json.gz) --rows $(or $(ROWS),20000)

seed-check: setup  ## prove the published model end to end: make seed-check [CHECKPOINT=folder] [SQUAD=dev-v1.1.json]
	$(BIN)/python -m densepack_export.checks.seed_check $(CHECKPOINT) $(if $(SQUAD),--squad $(SQUAD))

gpu-check:       ## on a host with an NVIDIA GPU: test, build, prove, measure; one JSON verdict [SQUAD=dev-v1.1.json]
	@$(PYTHON) runtime/densepack_runtime/host/gpus.py
	$(PYTHON) -m venv .venv-gpu
	.venv-gpu/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[gpu,export,prune,report,test]'
	.venv-gpu/bin/python -m densepack_export.checks.gpu_check models/checkpoints/default $(if $(SQUAD),--squad $(SQUAD)) --out gpu-check.json

clean:           ## remove the environment, the demo and caches
	rm -rf $(VENV) .venv-gpu .venv-peers .peers demo build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
