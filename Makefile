# `make demo` and `make test` do the whole set-up on a bare machine with Python 3.11 or newer.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Files of tests run side by side; one thread each, since more of them on one core would wait for each other.
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --maxprocesses 8 --dist loadfile

.PHONY: demo space check test test-all test-oldest browser lint checkpoint clean

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[dev]"
	touch $@

demo: $(VENV)/installed
	$(BIN)/sfrecsam predict space/samples --output demo-output

space: $(VENV)/installed
	$(BIN)/sfrecsam demo

check: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: check
	$(PYTEST) -m "not slow"

test-all: check browser
	$(PYTEST)

# The oldest versions that pyproject.toml admits, in an environment of their own.
test-oldest: BIN := .venv-oldest/bin
test-oldest:
	$(PYTHON) -m venv .venv-oldest
	sed '/^dev = /q' pyproject.toml | grep -oE '[a-z0-9-]+>=[0-9][0-9.]*' | sed 's/>=/==/' > .venv-oldest/floors.txt
	$(BIN)/pip install --quiet --constraint .venv-oldest/floors.txt --editable ".[dev]"
	$(PYTEST) -m "not slow"

# The Space is tested in a real browser: Debian's where there is apt, Playwright's own elsewhere.
browser: $(VENV)/installed
	command -v chromium > /dev/null || if command -v apt-get > /dev/null; then \
		SUDO=$$(command -v sudo || true); $$SUDO apt-get update -qq && \
		$$SUDO apt-get install -qq -y --no-install-recommends chromium fonts-liberation; \
	else $(BIN)/playwright install chromium; fi || echo "No Chromium can be installed: the browser tests are skipped."

# How the bundled checkpoint was made. Interrupted, the same command goes on where it was.
# make checkpoint BUSI=DIR BUSBRA=DIR UCLM=DIR SPLITS=CSV OBJECTIONS=CSV
checkpoint: export MALLOC_MMAP_MAX_ := 0
checkpoint: export MALLOC_TRIM_THRESHOLD_ := 100000000000
checkpoint: $(VENV)/installed
	$(BIN)/sfrecsam train examples/configs/checkpoint.yaml --folds 4 --train "$(BUSI)" "$(BUSBRA)" "$(UCLM)" \
		--splits "$(SPLITS)" --exclude "$(OBJECTIONS)" --output runs/checkpoint \
		$$(test ! -e runs/checkpoint/fold-1 || echo --resume)

lint: $(VENV)/installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) .venv-oldest demo-output
