"""Names that the reporters' commands and files share, for --help and refusals that need no heavy import."""

DEFAULT_REPORTER = "Qwen/Qwen2.5-VL-7B-Instruct"  # the paper's
LANDMARKS = "landmarks"  # the reporter that follows rules
NORMS = "norms.json"  # what faces measure, beside the reports of landmarks
