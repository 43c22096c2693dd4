# make demo: the main job on simulated plates.   make test: the tests.   Each sets up .venv first if there is none.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo audit test lint clean-demo
.DELETE_ON_ERROR:

.venv/.ready: requirements.txt pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

demo: .venv/.ready
	$(BIN)/cellsignal simulate rxrx1 --out data/rxrx1_demo --seed 1 --classes 48 --set test_experiments=2
	$(BIN)/cellsignal run configs/rxrx1/demo.yaml --answers data/rxrx1_demo.answers.csv --splits 2

# by how much a random split of wells flatters: docs/results/split_audit.md
audit: .venv/.ready
	$(BIN)/cellsignal simulate rxrx1 --out data/rxrx1_audit --seed 1 --classes 24 --set controls=30 --set test_experiments=2
	$(BIN)/cellsignal prepare configs/rxrx1/demo.yaml --set data.root=data/rxrx1_audit --set data.store=stores/rxrx1_audit.zarr
	$(BIN)/cellsignal audit configs/rxrx1/demo.yaml --set data.store=stores/rxrx1_audit.zarr

# what the demo wrote, so that the next one starts anew
clean-demo:
	rm -rf data/rxrx1_demo data/rxrx1_demo.answers.csv stores/rxrx1_demo.zarr runs/rxrx1_demo submissions/rxrx1_demo.csv submissions/rxrx1_demo.json

test: .venv/.ready
	$(BIN)/python -m pytest -n 2 --dist worksteal

lint: .venv/.ready
	$(BIN)/ruff check .
