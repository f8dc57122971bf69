"""The names of the files that filter_synthetic.py leaves beside its dataset."""

PRIVACY_REPORT = "privacy_report.json"  # {"verdict": "green" or "red", "files": {path: sha256}}, see privacy.verdict
SCORES, CLASS_RANKS, LANDMARKS = "scores.png", "class_ranks.png", "landmarks.png"
PATIENTS_PHOTOGRAPHS = "nearest_real_patients_photographs.png"  # with --show_real only; never to be published
FIGURES = (SCORES, CLASS_RANKS, LANDMARKS, PATIENTS_PHOTOGRAPHS)
