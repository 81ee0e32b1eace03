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
# Interrupted, the same command goes on: a part that has ended is not begun again, and one that has not is resumed.
define TRAIN
test -e runs/$(2)/ended || \
	$(BIN)/sfrecsam train examples/configs/$(1).yaml $(3) --output runs/$(2) $$(test ! -e runs/$(2)/latest || echo --resume)
touch runs/$(2)/ended
endef
AVERAGE := $(BIN)/python examples/average_checkpoints.py
define MEASURE
$(BIN)/sfrecsam evaluate --data "$(BUSI)" --splits "$(SPLITS)" --split val --model $(1)/best --output $(1)/evaluation
$(BIN)/sfrecsam evaluate --data "$(BUSBRA)" --split val --model $(1)/best --output $(1)/evaluation/bus-bra
endef
checkpoint retrain: ALONE := --splits "$(SPLITS)" --validation "$(BUSI)" --train "$(BUSI)"
checkpoint retrain: BASE := $(ALONE) "$(BUSBRA)"
checkpoint retrain: BOTH := $(BASE) --validation "$(BUSI)" "$(BUSBRA)"
checkpoint: $(VENV)/installed
	$(call TRAIN,tiny_1_from_scratch,tiny-1,$(BASE))
	$(call TRAIN,tiny_2_annealed,tiny-2,$(BASE) --model runs/tiny-1/best)
	$(call TRAIN,tiny_3_longer,tiny-3,$(BASE) --model runs/tiny-2/best)
	$(AVERAGE) runs/tiny-2/best runs/tiny-3/best --share 0.4 --whole prompt_fusion --output runs/tiny-3-averaged
	$(call TRAIN,tiny_4_prompts,tiny-4,$(BASE) --model runs/tiny-3-averaged)
	$(call TRAIN,tiny_5_echo,tiny-5,$(BOTH) --model runs/tiny-3/best)
	$(AVERAGE) runs/tiny-4/best runs/tiny-5/best --output runs/tiny-5-averaged
	$(call TRAIN,tiny_6_settled,tiny-6,$(BOTH) --model runs/tiny-5-averaged)
	$(AVERAGE) runs/tiny-5-averaged runs/tiny-6/best --output runs/tiny-6-averaged
	$(call TRAIN,tiny_7_larger,tiny-7,$(BOTH) --model runs/tiny-6-averaged)
	$(call TRAIN,tiny_8_full_size,tiny-8,$(BOTH) --model runs/tiny-7/best)
	$(call TRAIN,tiny_8_full_size,tiny-9,$(BOTH) --model runs/tiny-8/best --seed 1)
	$(call TRAIN,tiny_9_correctors,tiny-10,$(BOTH) --model runs/tiny-9/best)
	$(call TRAIN,tiny_10_presence,tiny-11,$(ALONE) --model runs/tiny-10/best)
	$(call TRAIN,tiny_11_gated,tiny-12,$(BOTH) --model runs/tiny-11/best)
	$(AVERAGE) runs/tiny-11/best runs/tiny-12/best --whole coarse_mask_head.gates --keep prompt_fusion --output runs/tiny-12-averaged
	$(call TRAIN,tiny_9_correctors,tiny-13,$(BOTH) --model runs/tiny-12-averaged)
	$(call TRAIN,tiny_10_presence,tiny-14,$(ALONE) --model runs/tiny-13/best)
	$(call TRAIN,tiny_12_correctors,tiny,$(BOTH) --model runs/tiny-14/best)
	$(call MEASURE,runs/tiny)

# Another from nothing, which begins with scans that nobody took: make retrain BUSI=DIR BUSBRA=DIR SPLITS=CSV
retrain: $(VENV)/installed
	$(BIN)/python examples/synthetic_scans.py --count 4000 --output runs/synthetic
	$(call TRAIN,retrain_1_synthetic,retrain-1,$(BOTH) --train runs/synthetic)
	$(call TRAIN,retrain_2_real,retrain-2,$(BOTH) --model runs/retrain-1/best)
	$(call TRAIN,retrain_3_full_size,retrain-3,$(BOTH) --model runs/retrain-2/best)
	$(call TRAIN,tiny_10_presence,retrain-4,$(ALONE) --model runs/retrain-3/best)
	$(call TRAIN,tiny_12_correctors,retrain,$(BOTH) --model runs/retrain-4/best)
	$(call MEASURE,runs/retrain)

lint: $(VENV)/installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) demo-output
