"""The recipes by which a classifier is made, with their learning rates, and the uses of synthetic images."""

RECIPES = ("finetune", "linear_probe", "lora")
LEARNING_RATES = {"finetune": 1e-4, "lora": 1e-3}  # the paper's; low-rank updates need a higher one
LAST_LEARNING_RATE = 1e-6  # the paper's, after the last epoch
USES = ("terms", "prior", "data")  # of synthetic images: see classification/synthetic_teachers.py
