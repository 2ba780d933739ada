# Two commands set everything up on a fresh machine: `make score` and `make test`.
# PYTHON chooses the interpreter of the environment; PIP_ARGS passes options to pip.

PYTHON ?= python3
VENV ?= .venv
PIP_ARGS ?=
AUDIT_ARGS ?=
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet $(PIP_ARGS) --constraint constraints.txt
PACKAGING := setup.py pyproject.toml constraints.txt

.PHONY: score test coverage bench lint docs sbom audit train-tiny clean

score: $(VENV)/.score
	$(BIN)/vsm-fast score --refs examples/refs --gens examples/gens \
		--out out/scores.parquet --heatmaps out/heatmaps

# Most tests use one core; two processes that share the cores must not spin while they wait.
PYTEST := OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m pytest --numprocesses 2 --dist loadfile

test: $(VENV)/.test
	$(PYTEST)

coverage: $(VENV)/.test
	$(INSTALL) --editable '.[dev]'
	$(PYTEST) --cov --cov-report term:skip-covered

bench: $(VENV)/.test
	$(BIN)/python -m pytest benchmarks/ --benchmark-only

lint: $(VENV)/.test
	$(INSTALL) --editable '.[dev]'
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(VENV)/.test
	$(BIN)/python -m sphinx -q -W --keep-going docs build/docs

# A CycloneDX list of every pinned version, by the tool of that standard (Apache-2.0).
sbom: | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet $(PIP_ARGS) 'cyclonedx-bom>=7'
	@mkdir -p build
	$(BIN)/python -m cyclonedx_py requirements constraints.txt \
		--output-reproducible --of JSON -o build/sbom.json

# Known vulnerabilities of every pinned version, by PyPA's tool (Apache-2.0); AUDIT_ARGS="-s osv"
# asks another database. Without --strict, versions that it cannot look up would count as harmless.
audit: | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet $(PIP_ARGS) 'pip-audit>=2.9'
	$(BIN)/python -m pip_audit --strict --no-deps --disable-pip $(AUDIT_ARGS) \
		--requirement constraints.txt

# PHOTOS: DreamBooth photographs, one sub-folder per subject (see vsm_fast/models/tiny/README.md).
train-tiny: $(VENV)/.test
	$(BIN)/python -m recipes.tiny.train --photos $(PHOTOS) --out runs/tiny

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.score: $(PACKAGING) | $(VENV)/bin/python
	@echo "Installing vsm_fast and what it needs into $(VENV) (a few minutes, once)."
	$(INSTALL) --editable .
	@touch $@

$(VENV)/.test: $(PACKAGING) | $(VENV)/bin/python
	@echo "Installing vsm_fast and its test tools into $(VENV) (a few minutes, once)."
	$(INSTALL) --editable '.[test]'
	@touch $@

clean:
	rm -rf $(VENV) out build *.egg-info
