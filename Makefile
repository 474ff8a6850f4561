# Each target sets up what it needs: a virtual environment in .venv, with this checkout in it.
PYTHON ?= python3
BIN := .venv/bin

# DataComp's scripts: a checkout and a Python of one's own, else both are made here.
DATACOMP_REPO ?= .datacomp/checkout
DATACOMP_PYTHON ?= .datacomp/venv/bin/python
FILTERS := no_filter random clip_score densprune

.PHONY: demo test lint loop clean

demo: .venv/demo.ok
	$(BIN)/python filters/densprune.py --pool demo

test: .venv/test.ok
	$(BIN)/python -m pytest -n auto --dist loadfile

lint: .venv/test.ok
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

loop: .venv/demo.ok $(DATACOMP_REPO)/resharder.py $(DATACOMP_PYTHON)
	mkdir -p loop
	$(BIN)/python filters/densprune.py --pool demo --save_path loop/densprune.npy
	$(BIN)/python baselines/run.py --name no_filter --pool demo --save_path loop/no_filter.npy
	$(BIN)/python baselines/run.py --name random --pool demo --fraction 0.2 --save_path loop/random.npy
	$(BIN)/python filters/topscore.py --pool demo --score l14 --fraction 0.2 --save_path loop/clip_score.npy
	test -d loop/sets || $(BIN)/python tools/datacomp.py evalset --demo --output_dir loop/sets
	$(BIN)/python tools/datacomp.py loop --subset $(FILTERS:%=loop/%.npy) --shards_dir demo_pool/shards --eval_dir loop/sets \
		--work_dir loop/work --seeds 0 1 2 --tiny --datacomp_dir $(DATACOMP_REPO) --python $(DATACOMP_PYTHON)

.datacomp/checkout/resharder.py:
	git clone https://github.com/mlfoundations/datacomp .datacomp/checkout

.datacomp/venv/bin/python:
	$(PYTHON) -m venv .datacomp/venv.part
	.datacomp/venv.part/bin/python -m pip install --quiet -r tools/loop/requirements.txt
	.datacomp/venv.part/bin/python -m pip install --quiet --no-deps -r tools/loop/no-deps.txt
	mv .datacomp/venv.part .datacomp/venv

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; name one: make PYTHON=python3.12")'
	$(PYTHON) -m venv .venv

.venv/demo.ok: pyproject.toml constraints.txt | .venv/bin/python
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable .
	touch $@

.venv/test.ok: pyproject.toml constraints.txt | .venv/bin/python
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[test]'
	touch $@

clean:
	rm -rf .venv .datacomp demo_pool densprune_demo.npy densprune_demo.work loop
