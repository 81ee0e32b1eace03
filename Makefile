# Two commands do all the set-up on a bare machine: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo space test browser lint clean

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[dev]"
	touch $@

demo: $(VENV)/installed
	$(BIN)/sfrecsam predict space/samples --output demo-output

space: $(VENV)/installed
	$(BIN)/sfrecsam demo

# Files of tests run side by side; one thread each, since more of them on one core would wait for each other.
test: $(VENV)/installed browser
	$(BIN)/ruff check .
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --maxprocesses 8 --dist loadfile

# The Space is tested in a real browser: Debian's where there is apt, Playwright's own elsewhere.
browser: $(VENV)/installed
	command -v chromium > /dev/null || if command -v apt-get > /dev/null; then \
		SUDO=$$(command -v sudo || true); $$SUDO apt-get update -qq && \
		$$SUDO apt-get install -qq -y --no-install-recommends chromium fonts-liberation; \
	else $(BIN)/playwright install chromium; fi

lint: $(VENV)/installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) demo-output
