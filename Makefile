# make            builds .venv from environment.yml
# make book       builds the book's HTML            -> _build/html/index.html
# make test       every test, and every chapter replayed against its committed outputs  [PROCESSES=2]
# make unit       the tests without the replay  [PROCESSES=2]
# make chapters   runs the chapters that are out of date [CHAPTER=01] [SCALE=smoke|book|full] [DEVICE=cpu|cuda] [FORCE=1]
# make train      trains teachers and calibrates equations into _build/train  [SCALE=...] [DEVICE=...] [SEEDS=5] [ONLY=names] [MISSING=1] [MINUTES=...]
# make trials     runs the estimators of information on tasks with known answers, into _build/train  [SCALE=...] [MINUTES=...]
#                 both: [WORKERS=n] [EXECUTOR=processes|slurm] [SLURM="partition=gpu timeout_min=120"]
# make adopt      moves complete weights and trials into data/
# make cluster    tries EXECUTOR=slurm on a Slurm of its own on this machine (root; not part of make test)
# make bench      benchmarks, as ratios in one run
# make mutants    changes the packages in one place at a time: do the unit tests notice? [SEED=0] [COUNT=150] [MINUTES=...] [AGAIN=1]
# make lint       formatting, lint, types
# Other settings: PYTHON=python3.12 (which Python), TORCH_INDEX=URL (which build of torch)

PYTHON ?= python3
PROCESSES ?= 2
SCALE ?= book
DEVICE ?= auto
SEEDS ?= 5
ONLY ?= *
MISSING ?=
MINUTES ?=
WORKERS ?=
EXECUTOR ?= processes
SLURM ?=
CHAPTER ?=
SEED ?= 0
COUNT ?= 150
AGAIN ?=
TORCH_INDEX ?=

ROOT := $(CURDIR)
BIN := $(ROOT)/.venv/bin
PY := $(BIN)/python
export PYTHONDONTWRITEBYTECODE = 1
export JUPYTER_PLATFORM_DIRS = 1
export HF_HUB_DISABLE_TELEMETRY = 1
# Threads that wait must not spin: on a busy machine with few cores that made a chapter five times slower.
export OMP_WAIT_POLICY ?= PASSIVE
# Another environment's variables must not leak into the book's.
unexport PYTHONPATH PYTHONHOME VIRTUAL_ENV

.PHONY: environment book test unit chapters train trials adopt cluster bench mutants lint fetch clean
# The two cores are one resource: `make -j` must not race chapters against the book.
.NOTPARALLEL:

environment:
	@TORCH_INDEX="$(TORCH_INDEX)" $(PYTHON) book/tools/environment.py

book: environment
	@echo "Building the book (warnings are errors)"
	@$(PY) -m companion chapters --check
	@$(BIN)/jupyter-book build book --config "$(ROOT)/_config.yml" --toc "$(ROOT)/_toc.yml" \
	    --path-output "$(ROOT)" -W -n --keep-going -q \
	    || { rm -rf _build/.doctrees; echo "The book has warnings: see above."; exit 1; }
	@echo "The book is in _build/html/index.html"

fetch: environment
	@$(PY) -m companion fetch || { test -z "$$CI" || exit 1; echo "Going on without: what needs it is skipped."; }

# Two processes of one thread each: what tests compute is too small for threads, and a file's tests share what they made.
PYTEST = OMP_NUM_THREADS=1 $(PY) -m pytest -n $(PROCESSES) --dist loadfile

test: fetch
	@echo "Testing, and replaying every chapter against its committed outputs (a quarter of an hour on two cores)"
	@PDELENS_REPLAY=1 $(PYTEST) tests lib book/companion book/notebooks --nbval --nbval-sanitize-with tests/nbval.cfg $(ARGS)

unit: environment
	@$(PYTEST) tests lib book/companion -m "not replay" $(ARGS)

chapters: environment
	@$(PY) -m companion chapters --chapter "$(CHAPTER)" --scale $(SCALE) --device $(DEVICE) $(if $(FORCE),--force)

JOBS = --scale $(SCALE) --executor $(EXECUTOR) --slurm "$(SLURM)" $(if $(MINUTES),--minutes $(MINUTES)) $(if $(WORKERS),--workers $(WORKERS))

train: environment
	@$(PY) -m companion train $(JOBS) --device $(DEVICE) --seeds $(SEEDS) --only "$(ONLY)" $(if $(MISSING),--missing)
	@echo "Weights are in _build/train/$(SCALE); \`make adopt SCALE=$(SCALE)\` moves them into data/weights."

trials: environment
	@$(PY) -m companion trials $(JOBS)

adopt: environment
	@$(PY) -m companion adopt --scale $(SCALE)

cluster: environment
	@$(PY) tests/support/cluster.py

bench: environment
	@$(PY) -m pytest tests/benchmarks -o python_files="bench_*.py" -p no:cacheprovider -q -s $(ARGS)

mutants: environment
	@$(PY) tests/support/mutants.py --seed $(SEED) --count $(COUNT) $(if $(AGAIN),--again) $(if $(MINUTES),--minutes $(MINUTES)) \
	    $(if $(WORKERS),--workers $(WORKERS))

lint: environment
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@for chapter in book/chapters/*.md; do \
	    $(BIN)/jupytext --quiet --from md:myst --to py:percent --output - $$chapter | $(BIN)/ruff check --quiet \
	    --output-format concise --ignore D1,E402,F704,E501,B023 --stdin-filename $$chapter.py - || exit 1; done
	@$(BIN)/basedpyright --level error
	@echo "Lint: clean"

clean:
	rm -rf _build
