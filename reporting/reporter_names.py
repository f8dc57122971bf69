"""Names that the reporters' commands and files share, for --help and refusals that need no heavy import."""

DEFAULT_REPORTER = "Qwen/Qwen2.5-VL-7B-Instruct"  # the paper's
LANDMARKS = "landmarks"  # the reporter that follows rules
# Reporters with a name of their own, with MODULE:NAME of what opens each from a reporter_choice.ReporterChoice, the
# report_inputs.ReportInputs and a torch.device.
REPORTERS = {LANDMARKS: "reporting.reporter_choice:open_landmarks"}
NORMS = "norms.json"  # what faces measure, beside the reports of landmarks
