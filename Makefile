# make demo | test | check | bench | docs. Each does the set-up that it needs.
.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c

ORT_VERSION := 1.32.0
ORT := .deps/onnxruntime/.version-$(ORT_VERSION)
TARGET := $(if $(CARGO_TARGET_DIR),$(CARGO_TARGET_DIR),target)
DEMO := demo-out

help: ## what there is
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

$(ORT):
	@echo "== ONNX Runtime $(ORT_VERSION): the official Python wheel, into .deps (28 MB, once)" >&2
	@rm -rf .deps/onnxruntime
	@python3 -m pip install --quiet --disable-pip-version-check --no-deps --target .deps/onnxruntime onnxruntime==$(ORT_VERSION)
	@touch $@

setup: $(ORT) ## ONNX Runtime into .deps

build: setup ## the capfilt command, with the profile of demo and tests
	@echo "== compiling capfilt and DataFusion (some minutes on 2 cores the first time, seconds later)" >&2
	@cargo build --locked --package capfilt

demo: build ## caption and filter a noisy table of 1,512 pictures with the project's small models
	@echo "== CapFilt over examples/web.parquet" >&2
	@$(TARGET)/debug/capfilt run examples/web.parquet $(DEMO)/pairs --overwrite \
	    --captioner examples/models/captioner --filter examples/models/matcher
	@echo "== what it wrote, as SQL sees it" >&2
	@$(TARGET)/debug/capfilt sql --table pairs=$(DEMO)/pairs -f examples/demo.sql

test: setup ## all tests
	@if cargo nextest --version >/dev/null 2>&1; then cargo nextest run --locked --workspace --no-fail-fast; \
	 else cargo test --locked --workspace --no-fail-fast; fi

check: setup ## formatting, lints, generated documentation
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets -- -D warnings
	cargo build --locked --package capfilt
	@$(TARGET)/debug/capfilt docs | diff - docs/functions.md \
	    || { echo "docs/functions.md is stale: run make docs" >&2; exit 1; }

docs: build ## docs/functions.md, from the code
	@$(TARGET)/debug/capfilt docs > docs/functions.md

bench: setup ## speed and memory at BLIP-base's size; PEERS=1 also times transformers
	@PEERS=$(PEERS) bash tests/bench/run.sh

clean: ## everything that was built or installed
	rm -rf target .deps $(DEMO)

.PHONY: help setup build demo test check docs bench clean
