# Two commands do all the set-up on a bare machine: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo space test browser lint checkpoint retrain clean

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

# How the bundled checkpoint was made: make checkpoint BUSI=DIR BUSBRA=DIR SPLITS=CSV
RECIPE := $(BIN)/sfrecsam train examples/configs/
AVERAGE := $(BIN)/python examples/average_checkpoints.py
define MEASURE
$(BIN)/sfrecsam evaluate --data "$(BUSI)" --splits "$(SPLITS)" --split val --model $(1)/best --output $(1)/evaluation
$(BIN)/sfrecsam evaluate --data "$(BUSBRA)" --split val --model $(1)/best --output $(1)/evaluation/bus-bra
endef
checkpoint retrain: ALONE := --splits "$(SPLITS)" --validation "$(BUSI)" --train "$(BUSI)"
checkpoint retrain: BASE := $(ALONE) "$(BUSBRA)"
checkpoint retrain: BOTH := $(BASE) --validation "$(BUSI)" "$(BUSBRA)"
checkpoint: $(VENV)/installed
	$(RECIPE)tiny_1_from_scratch.yaml $(BASE) --output runs/tiny-1
	$(RECIPE)tiny_2_annealed.yaml $(BASE) --model runs/tiny-1/best --output runs/tiny-2
	$(RECIPE)tiny_3_longer.yaml $(BASE) --model runs/tiny-2/best --output runs/tiny-3
	$(AVERAGE) runs/tiny-2/best runs/tiny-3/best --share 0.4 --whole prompt_fusion --output runs/tiny-3-averaged
	$(RECIPE)tiny_4_prompts.yaml $(BASE) --model runs/tiny-3-averaged --output runs/tiny-4
	$(RECIPE)tiny_5_echo.yaml $(BOTH) --model runs/tiny-3/best --output runs/tiny-5
	$(AVERAGE) runs/tiny-4/best runs/tiny-5/best --output runs/tiny-5-averaged
	$(RECIPE)tiny_6_settled.yaml $(BOTH) --model runs/tiny-5-averaged --output runs/tiny-6
	$(AVERAGE) runs/tiny-5-averaged runs/tiny-6/best --output runs/tiny-6-averaged
	$(RECIPE)tiny_7_larger.yaml $(BOTH) --model runs/tiny-6-averaged --output runs/tiny-7
	$(RECIPE)tiny_8_full_size.yaml $(BOTH) --model runs/tiny-7/best --output runs/tiny-8
	$(RECIPE)tiny_8_full_size.yaml $(BOTH) --model runs/tiny-8/best --seed 1 --output runs/tiny-9
	$(RECIPE)tiny_9_correctors.yaml $(BOTH) --model runs/tiny-9/best --output runs/tiny-10
	$(RECIPE)tiny_10_presence.yaml $(ALONE) --model runs/tiny-10/best --output runs/tiny-11
	$(RECIPE)tiny_11_gated.yaml $(BOTH) --model runs/tiny-11/best --output runs/tiny-12
	$(AVERAGE) runs/tiny-11/best runs/tiny-12/best --whole coarse_mask_head.gates --keep prompt_fusion --output runs/tiny-12-averaged
	$(RECIPE)tiny_9_correctors.yaml $(BOTH) --model runs/tiny-12-averaged --output runs/tiny-13
	$(RECIPE)tiny_10_presence.yaml $(ALONE) --model runs/tiny-13/best --output runs/tiny-14
	$(RECIPE)tiny_12_correctors.yaml $(BOTH) --model runs/tiny-14/best --output runs/tiny
	$(call MEASURE,runs/tiny)

# Another from nothing, which begins with scans that nobody took: make retrain BUSI=DIR BUSBRA=DIR SPLITS=CSV
retrain: $(VENV)/installed
	$(BIN)/python examples/synthetic_scans.py --count 4000 --output runs/synthetic
	$(RECIPE)retrain_1_synthetic.yaml $(BOTH) --train runs/synthetic --output runs/retrain-1
	$(RECIPE)retrain_2_real.yaml $(BOTH) --model runs/retrain-1/best --output runs/retrain-2
	$(RECIPE)retrain_3_full_size.yaml $(BOTH) --model runs/retrain-2/best --output runs/retrain-3
	$(RECIPE)tiny_10_presence.yaml $(ALONE) --model runs/retrain-3/best --output runs/retrain-4
	$(RECIPE)tiny_12_correctors.yaml $(BOTH) --model runs/retrain-4/best --output runs/retrain
	$(call MEASURE,runs/retrain)

lint: $(VENV)/installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) demo-output
