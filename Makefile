# Every target installs what it needs into .venv first; `make` alone lists them.
PYTHON ?= python3
BIN := .venv/bin
CODE := ecmf_utils ecmf_workflow ecmf_demo ecmf_bench tests workflow
READY := .venv/.ready
IMPORTS := .venv/.imports
SANITISE := tests/nbval.cfg
# Stored outputs are compared with those of the same instructions (NumPy's too): others round otherwise, which 24 clips show.
SAME := OPENBLAS_CORETYPE=Haswell MKL_CBWR=AVX2 ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2 \
	NPY_DISABLE_CPU_FEATURES=X86_V4,AVX512_ICL,AVX512_SPR
NBVAL := TQDM_DISABLE=1 $(SAME) $(BIN)/python -m pytest -p no:cacheprovider --nbval --nbval-sanitize-with $(SANITISE)

.DEFAULT_GOAL := help
.PHONY: help reproduce study test test-all lab clean lint

help:
	@echo "make reproduce   generate the demo corpus and run every notebook: reports/demo/index.html"
	@echo "make study       five corpora, every model, intervals: reports/study/index.html"
	@echo "make test        lint, unit tests and every notebook at its defaults (nbval)"
	@echo "make test-all    the same plus long kill and browser tests"
	@echo "make lab         JupyterLab on the notebooks"
	@echo "make clean       delete generated data and reports (not .venv)"

$(READY): requirements.lock pyproject.toml workflow/bootstrap.py
	@$(PYTHON) workflow/bootstrap.py

reproduce: $(READY)
	@$(BIN)/ecmf reproduce demo

study: $(READY)
	@$(BIN)/ecmf reproduce study

lint: $(READY)
	@$(BIN)/ruff check $(CODE)
	@$(BIN)/ruff format --check --quiet $(CODE) || { echo "lint: run \`$(BIN)/ruff format $(CODE)\`"; exit 1; }
	@$(BIN)/lint-imports --no-logo --no-cache > $(IMPORTS) || { cat $(IMPORTS); exit 1; }

test: lint
	@$(BIN)/python -m pytest tests -n 2 --dist loadfile
	@$(NBVAL) notebooks

test-all: lint
	@$(BIN)/python -m pytest tests -m "slow or not slow"
	@$(NBVAL) notebooks

lab: $(READY)
	@$(BIN)/jupyter lab notebooks/00_start_here.ipynb

clean:
	@find data reports -mindepth 1 ! -name README.md -delete
	@rm -rf .pytest_cache .ruff_cache .snakemake
