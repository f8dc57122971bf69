# make setup | demo | test | lint | clean - each does its own set-up in .venv (Python 3.11 or newer and make are all it needs)
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DEMO := runs/demo
SIM := $(DEMO)/rdface-sim
LAUNCH := $(BIN)/accelerate launch --num_processes 1 --num_machines 1 --mixed_precision no --dynamo_backend no
# everything below runs offline; a model that is not here is reported at once instead of being looked for on the Hub
export HF_HUB_OFFLINE ?= 1
export TOKENIZERS_PARALLELISM := false

.PHONY: setup demo test lint clean
.DELETE_ON_ERROR:

setup: $(READY)

$(READY): requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, this is " + sys.version.split()[0] + "; run make PYTHON=/path/to/python3.11")'
	@echo "installing into $(VENV) (about 7 GB; two minutes on a fast line)"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --requirement requirements.txt
	@touch $@

demo: $(DEMO)/index.html $(DEMO)/gallery.html $(DEMO)/filtered/run.json $(DEMO)/agreement/run.json
	@echo && echo "open $(DEMO)/index.html, $(DEMO)/gallery.html, $(DEMO)/dreambooth/fold0/samples.png, $(DEMO)/filtered/scores.png and $(DEMO)/agreement/pairs.html (all data SIMULATED)"

# what each kind of command is made of: a change of any of these files makes its outputs anew
code = $(foreach package,$(1),$(wildcard $(package)/*.py $(package)/*.csv $(package)/*.txt $(package)/*.md $(package)/*.html))
SIMULATION := simulate_faces.py $(call code,harness phenotyping simulation)
CURATION := rdface_dataset.py dataset_card.md $(call code,harness phenotyping imaging curation)
CLASSIFICATION := train_classifier.py $(call code,harness phenotyping scoring imaging curation classification generation)
GENERATION := train_dreambooth.py $(call code,harness phenotyping imaging curation generation)
FILTER := filter_synthetic.py $(call code,harness phenotyping scoring imaging curation classification generation)
REPORTS := vlm_report_eval.py $(call code,harness phenotyping scoring imaging curation generation reporting pages)
PAGES := make_report.py $(call code,harness phenotyping scoring imaging curation pages)

$(DEMO)/raw/disease_images.csv: $(SIMULATION) | $(READY)
	@rm -rf $(DEMO)/raw
	$(BIN)/python simulate_faces.py --output_dir $(DEMO)/raw

$(SIM)/README.md: $(DEMO)/raw/disease_images.csv $(CURATION)
	$(BIN)/python rdface_dataset.py build $(DEMO)/raw --output_dir $(SIM)
	@touch $@

TRAIN := $(LAUNCH) train_classifier.py --dataset_name $(SIM) --backbone demo_models/backbone --cache_dir $(DEMO)/pixels --no-save_models
# a fifth of the paper's epochs, so that a laptop is done in minutes
FINE_TUNE := $(TRAIN) --recipe finetune --num_train_epochs 10
TRAIN_NEEDS := $(SIM)/README.md $(CLASSIFICATION) demo_models/backbone/model.safetensors

$(DEMO)/probe_strict/run.json: $(TRAIN_NEEDS)
	$(TRAIN) --recipe linear_probe --protocol strict --output_dir $(@D)

$(DEMO)/finetune_strict/run.json: $(TRAIN_NEEDS)
	$(FINE_TUNE) --protocol strict --output_dir $(@D)

$(DEMO)/probe_paper/run.json: $(TRAIN_NEEDS)
	$(TRAIN) --recipe linear_probe --protocol paper --output_dir $(@D)

$(DEMO)/finetune_paper/run.json: $(TRAIN_NEEDS)
	$(FINE_TUNE) --protocol paper --output_dir $(@D)

$(DEMO)/whole_images/run.json: $(TRAIN_NEEDS)
	$(TRAIN) --recipe linear_probe --align_faces none --output_dir $(@D)

$(DEMO)/shuffled_labels/run.json: $(TRAIN_NEEDS)
	$(TRAIN) --recipe linear_probe --shuffle_labels --output_dir $(@D)

# the same probe, told which terms are annotated for each condition
$(DEMO)/probe_terms/run.json: $(TRAIN_NEEDS)
	$(TRAIN) --recipe linear_probe --knowledge terms --output_dir $(@D)

RUNS := $(addprefix $(DEMO)/,probe_strict probe_terms finetune_strict probe_paper finetune_paper whole_images shuffled_labels)

$(DEMO)/index.html: $(RUNS:=/run.json) $(PAGES)
	$(BIN)/python make_report.py results $(RUNS) --dataset_name $(SIM) --output_file $@

$(DEMO)/gallery.html: $(SIM)/README.md $(PAGES)
	$(BIN)/python make_report.py gallery $(SIM) --output_file $@

# adapters of the first eight conditions, and faces sampled from them: a row of samples.png each
DREAMBOOTH_CONDITIONS := WIL WIR BRA CDL GAP 21M WOH CAR
DREAMBOOTH_NEEDS := $(SIM)/README.md $(GENERATION) demo_models/diffusion/training.json
$(DEMO)/dreambooth/run.json: $(DREAMBOOTH_NEEDS)
	$(LAUNCH) train_dreambooth.py --dataset_name $(SIM) --pretrained_model_name_or_path demo_models/diffusion --protocol strict --fold 0 --conditions $(DREAMBOOTH_CONDITIONS) --instance_prompt 'photo of a {rare_token} child{with_terms}' --max_train_steps 200 --learning_rate 3e-3 --rank 8 --adapters_per_batch 8 --num_images 8 --guidance_scale 1.5 --cache_dir $(DEMO)/pixels --output_dir $(@D)

# which of these faces are kept: the four of each condition that show it best, unless they give somebody away
$(DEMO)/filtered/run.json: $(DEMO)/dreambooth/run.json $(FILTER) demo_models/backbone/model.safetensors
	$(LAUNCH) filter_synthetic.py --dataset_name $(SIM) --synthetic_dataset $(DEMO)/dreambooth/fold0/synthetic --protocol strict --fold 0 --per_class 4 --cache_dir $(DEMO)/pixels --output_dir $(@D)

# what the miniature reporter writes of photographs and of the kept faces, and how far the two agree
REPORT := $(LAUNCH) vlm_report_eval.py generate --reporter demo_models/reporter --align_faces mtcnn --cache_dir $(DEMO)/pixels
REPORT_NEEDS := $(REPORTS) demo_models/reporter/model.safetensors
$(DEMO)/real_reports/run.json: $(SIM)/README.md $(REPORT_NEEDS)
	$(REPORT) --dataset_name $(SIM) --per_class 2 --output_dir $(@D)

$(DEMO)/synthetic_reports/run.json: $(DEMO)/filtered/run.json $(REPORT_NEEDS)
	$(REPORT) --dataset_name $(DEMO)/filtered --per_class 11 --output_dir $(@D)

$(DEMO)/agreement/run.json: $(DEMO)/real_reports/run.json $(DEMO)/synthetic_reports/run.json
	$(BIN)/python vlm_report_eval.py score --real_reports $(DEMO)/real_reports --synthetic_reports $(DEMO)/synthetic_reports --output_dir $(@D)

test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check --quiet .

clean:
	rm -rf $(VENV) runs .pytest_cache .ruff_cache .hypothesis
