# Each target does what it needs first: on a fresh machine `make demo` alone installs, trains, evaluates and draws.

PYTHON ?= python3
PYTHON_OLDEST ?= python3.10
PYTHON_NEWEST ?= python3.13
# Extra with the OpenMMLab packages: lite, or onedl for the maintained forks; each in an environment of its own.
HOSTS ?= lite
VENV ?= .venv$(if $(filter onedl,$(HOSTS)),-onedl)
CONSTRAINTS := requirements/constraints.txt
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
RUNTIME := $(VENV)/.runtime
INSTALLED := $(VENV)/.installed
# Compiled modules are kept: test modules with rewritten assertions take 10 s to compile, and processes need ours.
PYTEST := PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -q --durations=10

.DEFAULT_GOAL := help
.PHONY: help setup detectron2 test test-slow test-oldest test-newest test-onedl smoke-onedl smoke lint docs dist demo demo-video \
	demo-detectron2 clean
MAKEFLAGS += --no-print-directory

help: ## this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-15s %s\n", $$1, $$2 }' Makefile

setup: $(INSTALLED) ## install into .venv (HOSTS=onedl: .venv-onedl), with pinned versions and test tools (PYTHON=python3.x chooses the interpreter)

$(INSTALLED): EXTRAS := $(HOSTS),test
$(RUNTIME): EXTRAS := $(HOSTS)
$(RUNTIME) $(INSTALLED): setup.py pyproject.toml $(wildcard requirements/*.txt)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' \
		|| { echo 'eomt_mm needs Python >= 3.10, and "$(PYTHON)" is not that; give one: PYTHON=python3.11 (PYTHON_OLDEST, PYTHON_NEWEST)' >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' \
		|| { echo '"$(PYTHON)" lacks the venv module; on Debian and Ubuntu: apt-get install python3-venv' >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install -c $(CONSTRAINTS) -e '.[$(EXTRAS)]'
	@touch $(RUNTIME) $@

detectron2: build/detectron2 ## what tests of eomt_mm.detectron2 need; without it they are left out

# detectron2 itself is in no package index. This is a third party's copy of its Python files, which are all that EoMT
# needs; the compiled file is for one Python. panopticapi is apart: mmdet behaves differently where it is importable.
build/detectron2: | $(INSTALLED)
	@mkdir -p build && rm -rf $@.part build/panopticapi
	@{ $(PIP) install -q --target $@.part --no-deps --only-binary=:all: --python-version 3.10 --implementation cp \
			--abi none --platform any sal-detectron2==0.7.2 \
		&& $(PIP) install -q --target build/panopticapi --no-deps panopticapi-lite==0.2.0 \
		&& rm -rf $@.part/tools $@.part/detectron2/_C.* && mv $@.part $@; } \
		|| echo 'detectron2 could not be downloaded: its tests are left out' >&2

# Files in the order of their names: by default those of the fewest tests come last, and these are the longest.
test: setup detectron2 ## fast tests: two processes of one thread each
	OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(PYTEST) -m 'not slow' -n 2 --dist loadfile --no-loadscope-reorder $(ARGS)

test-slow: setup detectron2 ## slow tests
	$(PYTEST) -m slow $(ARGS)

# Three tests are left out: torch 2.7 needs a GPU's driver to index its imitation of a tensor on a GPU, before matplotlib
# 3.11 the hosts' canvas moves pixels by a half, and before 4.12 OpenCV ignores the orientation of WebP files.
OLDEST_WITHOUT := --deselect tests/core/test_criterion.py::test_one_transfer_to_the_host_for_all_images_and_layers \
	--deselect tests/apis/test_host_apis.py::test_map_without_segments \
	--deselect 'tests/fileio/test_pixels.py::test_pixels_of_a_file_do_not_depend_on_the_way_in[WEBP_turned]'

test-oldest: ## fast tests with the lowest versions that we allow, in .venv-oldest (PYTHON_OLDEST=python3.10)
	@$(MAKE) test VENV=$(VENV)-oldest PYTHON=$(PYTHON_OLDEST) CONSTRAINTS=requirements/oldest.txt ARGS="$(OLDEST_WITHOUT) $(ARGS)"

test-newest: ## fast tests with the newest versions, in .venv-newest (PYTHON_NEWEST=python3.13)
	@$(MAKE) test VENV=$(VENV)-newest PYTHON=$(PYTHON_NEWEST) CONSTRAINTS=/dev/null

test-onedl: ## fast tests with the maintained forks of the OpenMMLab packages, in .venv-onedl
	@$(MAKE) test HOSTS=onedl VENV=$(VENV:-onedl=)-onedl

smoke-onedl: ## a few steps with them: import, demo, resume, a hostile checkpoint
	@$(MAKE) smoke HOSTS=onedl VENV=$(VENV:-onedl=)-onedl

smoke: $(RUNTIME)
	@$(BIN)/python tests/support/smoke.py

lint: setup ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: setup ## the documentation as a site in build/site; a warning is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

dist: ## sdist and wheel in dist/, checked for a package index; tools in build/dist-tools
	@test -x build/dist-tools/bin/twine || { $(PYTHON) -m venv build/dist-tools \
		&& build/dist-tools/bin/python -m pip --disable-pip-version-check install -q build twine; }
	rm -rf dist
	build/dist-tools/bin/python -m build
	build/dist-tools/bin/twine check --strict dist/*

demo: $(RUNTIME) ## train a small model on generated images, evaluate it and draw pictures (DEMO_ARGS)
	@$(BIN)/python tools/make_demo.py $(DEMO_ARGS)

demo-video: $(RUNTIME) ## the same with videos: train a small VidEoMT on moving shapes, draw its tracks (DEMO_ARGS)
	@$(BIN)/python tools/make_demo.py --video $(DEMO_ARGS)

demo-detectron2: setup detectron2 ## the demo on images with detectron2 in place of OpenMMLab (DEMO_ARGS)
	@$(BIN)/python tools/make_demo.py --detectron2 $(DEMO_ARGS)

clean: ## remove build products and caches; .venv, .venv-onedl and results in work_dirs stay
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
	find . -path './.venv*' -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +
