"""What the Hub finds wrong with the metadata of a card."""

import re

import yaml

TEXT_FIELDS = re.compile(r"license_(name|link)|pretty_name|extra_gated_(prompt|heading|description|button_content)")
FORM_TYPES = {"text", "checkbox", "date_picker", "country", "select"}


def front_matter(card: str) -> object:
    found = re.match(r"---\r?\n(.*?)\r?\n---(\r?\n|$)", card, re.DOTALL)
    return yaml.safe_load(found[1]) if found else None


def card_problems(card: str) -> tuple[list[str], list[str]]:
    """Errors and warnings about the metadata of README.md."""
    try:
        metadata = front_matter(card)
    except yaml.YAMLError as error:
        return [f"YAML: {' '.join(str(error).split())}"], []
    if metadata is None:
        return [], ["empty or missing yaml metadata in repo card"]
    if not isinstance(metadata, dict):
        return ["the metadata must be an object"], []
    errors = []
    for key, value in metadata.items():
        if TEXT_FIELDS.fullmatch(str(key)) and not isinstance(value, str):
            errors.append(f'"{key}" must be a string')
    for key in ("license", "task_categories", "task_ids", "size_categories", "tags", "language"):
        values = metadata.get(key, [])
        if not all(isinstance(value, str) for value in (values if isinstance(values, list) else [values])):
            errors.append(f'"{key}" must be a string or an array of strings')
    return errors + config_problems(metadata.get("configs", [])) + form_problems(metadata), []


def config_problems(configs: object) -> list[str]:
    if not isinstance(configs, list) or not all(isinstance(config, dict) for config in configs):
        return ['"configs" must be an array of objects']
    errors = []
    for n, config in enumerate(configs):
        if not isinstance(config.get("config_name"), str):
            errors.append(f'"configs[{n}].config_name" must be a string')
        files = config.get("data_files", [])
        for file in files if isinstance(files, list) else [files]:
            if isinstance(file, dict) and not re.fullmatch(r"\w+(\.\w+)*", str(file.get("split", "train"))):
                errors.append(f'"configs[{n}].data_files": split {file["split"]} is no name of a split')
            paths = file.get("path") if isinstance(file, dict) else file
            if not all(isinstance(path, str) for path in (paths if isinstance(paths, list) else [paths])):
                errors.append(f'"configs[{n}].data_files" must name paths')
    names = [str(config.get("config_name")) for config in configs]
    errors += ['"configs" names one configuration twice'] if len(set(names)) < len(names) else []
    return errors + (['"configs" has two defaults'] if sum(bool(c.get("default")) for c in configs) > 1 else [])


def form_problems(metadata: dict) -> list[str]:
    fields = metadata.get("extra_gated_fields", {})
    if not isinstance(fields, dict):
        return ['"extra_gated_fields" must be an object']
    errors = []
    for name, wanted in fields.items():
        kind = wanted.get("type") if isinstance(wanted, dict) else wanted
        if not isinstance(kind, str) or kind not in FORM_TYPES:
            errors.append(f'"extra_gated_fields.{name}" must be one of {", ".join(sorted(FORM_TYPES))}')
        elif kind == "select" and not (isinstance(wanted, dict) and wanted.get("options")):
            errors.append(f'"extra_gated_fields.{name}" needs options')
    return errors
