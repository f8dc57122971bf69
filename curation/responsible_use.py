"""What a dataset's Croissant record says of responsible use: limits, origin, and the conditions of use.

The eight properties that the NeurIPS 2026 track for datasets asks for are limitations, biases, personal or sensitive
information, use cases, social impact, whether synthetic data are in it, what it was derived from, and how it was made.
The library mlcroissant knows the first five (`properties`); the others, and the conditions of use of Croissant 1.1,
are written into its JSON (`additions`). Origin is told in the terms of W3C PROV, conditions in those of the Data Use
Ontology (DUO) and of W3C ODRL. Source: Croissant 1.1, section Responsible AI and Governance.
"""

from collections.abc import Mapping

VOCABULARIES = {"prov": "http://www.w3.org/ns/prov#", "odrl": "http://www.w3.org/ns/odrl/2/"}
DUO = "http://purl.obolibrary.org/obo/DUO_"  # written in full: JSON-LD 1.1 takes no prefix that ends in an underscore
USES = (
    "Research on few-shot recognition, synthetic images and phenotype description; not for clinical use, and not for "
    "identifying anybody."
)
PERSONAL = {
    "controlled": "Faces, age, sex, country and diagnosis of patients, mostly children.",
    "synthetic": "None is recorded. The generators saw gated photographs of children, so that a resemblance to "
    "somebody cannot be ruled out for every image.",
    "words": "None is recorded. The images were made from words alone, without a photograph of a patient.",
    "simulated": "None: a program drew every face, and nobody is shown.",
}
SOCIAL_IMPACT = {
    "controlled": "Methods that suggest a rare diagnosis from a face may shorten a search of years. The same methods "
    "could be used to single people out by their faces, and they may fail more often for groups that are rare in the "
    "data; so access is controlled, and clinical use and identification are excluded.",
    "synthetic": "Synthetic faces may spare patients from being shown. They may also pass on the biases of their "
    "generators, give away a patient whom a filter missed, or be taken for photographs; they must be called synthetic.",
    "simulated": "Anybody can run and check the benchmark without a photograph of a patient. Results on drawn faces "
    "may be taken for results on patients; they must be called simulated.",
}
REPORT_LIMITATIONS = ["The reports were written by models, and no clinician has corrected them."]
REPORT_BIASES = ["A report carries the biases of the model that wrote it."]
SYNTHETIC_LIMITATIONS = [
    "A synthetic face shows what a generator learnt from a handful of photographs of a condition: it may lack the "
    "condition's signs, exaggerate them, or carry those of another one.",
    "The label is what the generator was asked for, or the filter's assignment; no clinician has looked at each image.",
    "Accuracy measured on synthetic images says nothing about patients.",
]
SYNTHETIC_BIASES = [
    "Age, sex and ancestry follow the training photographs and the base model, with the biases of both."
]
HPO = {
    "@type": ["Dataset", "prov:Entity"],
    "name": "Human Phenotype Ontology, release 2025-01-16",
    "url": "https://hpo.jax.org/",
}
ORPHANET = {
    "@type": ["Dataset", "prov:Entity"],
    "name": "Orphanet: rare diseases with their annotated phenotypes",
    "url": "https://www.orphadata.com/",
}
DUO_TERMS = {  # number -> name in the ontology
    "0000004": "no restriction",
    "0000006": "health or medical or biomedical research",
    "0000021": "ethics approval required",
    "0000026": "user specific restriction",
    "0000027": "project specific restriction",
    "0000043": "clinical care use",
}
CONTROLLED_TERMS = ("0000006", "0000021", "0000026", "0000027")
IDENTIFY = "identify or contact anybody who is shown, or link the images with other data about persons"


def properties(facts: Mapping) -> dict:
    """The properties that mlcroissant.Metadata knows, by the names of its arguments. facts: as croissant.record's."""
    kind = "simulated" if facts["simulated"] else facts["kind"]
    if kind == "synthetic":
        limitations, biases = SYNTHETIC_LIMITATIONS, SYNTHETIC_BIASES
    else:  # a folder that holds reports alone has neither
        limitations, biases = facts.get("limitations", REPORT_LIMITATIONS), facts.get("biases", REPORT_BIASES)
    found = {
        "data_use_cases": [USES],
        "data_limitations": limitations,
        "data_biases": biases,
        "personal_sensitive_information": [PERSONAL["words" if facts.get("from_words_alone") else kind]],
        "data_social_impact": SOCIAL_IMPACT[kind],
    }
    if kind != "synthetic":
        found["data_collection_missing_data"] = "A value that is not known is null."
        found["data_imputation_protocol"] = "Nothing is imputed."
    if kind == "controlled":
        plan = "A photograph may be withdrawn at any time; the version then rises, and users delete older copies."
        found["data_release_maintenance_plan"] = plan
    return found


def additions(facts: Mapping) -> dict:
    """The properties that mlcroissant lacks, as JSON-LD; they need VOCABULARIES in the record's @context."""
    has_reports_or_restored = bool({"restored", "reports"} & set(facts["configs"]))
    return {
        "rai:hasSyntheticData": facts["kind"] != "controlled" or has_reports_or_restored,
        "prov:wasDerivedFrom": sources(facts),
        "prov:wasGeneratedBy": activities(facts),
        "usageInfo": conditions(facts),
    }


def sources(facts: Mapping) -> list[dict]:
    """What the images were derived from, as PROV's entities."""
    if facts["simulated"]:
        return [HPO, ORPHANET]
    if facts["kind"] == "controlled":
        return [entity("Photographs of patients, as curators collected them; `source_url` names where each is from.")]
    counted = dict(facts["tables"]).get("Base model", [])
    models = [entity(f"Base model {name}") for name, _ in counted if name != "null"]
    if facts["from_words_alone"]:
        return [HPO, ORPHANET, *models]
    photographs = "RDFace: the photographs that `source_image_ids` names for each image, under controlled access"
    return [{"@type": ["Dataset", "prov:Entity"], "name": photographs}, *models]


def activities(facts: Mapping) -> list[dict]:
    """How the data were made, step by step, as PROV's activities."""
    if facts["kind"] == "synthetic":
        counted = dict(facts["tables"])["Generator"]
        made = "Every image was sampled from a generator; `prompt` and `seed` say how."
        steps = [activity(f"Generation by {name}", made, name) for name, _ in counted]
        if facts["kept"] is not None:
            text = "Every image was compared with the photographs; near copies and images without one clear face have "
            steps.append(activity("Filter", text + "`kept` false.", "filter_synthetic.py"))
        return steps
    steps = []
    if facts["simulated"]:
        text = "A program drew people with conditions from annotated phenotypes, and took simulated photographs."
        steps.append(activity("Simulation", text, "simulate_faces.py"))
    else:
        steps.append(activity("Collection", "Curators collected the photographs and recorded what is known of each."))
    text = "Values were checked, metadata removed from the files, near duplicates grouped, and folds drawn by patient."
    steps.append(activity("Build", text, "rdface_dataset.py"))
    if "restored" in facts["configs"]:
        text = "Networks enlarged photographs, repaired faces and coloured grey prints; they invent detail."
        steps.append(activity("Restoration", text, *(name for name, _ in facts["restored"])))
    if "reports" in facts["configs"]:
        text = "Models wrote reports on the faces; nobody has corrected them."
        steps.append(activity("Reports", text, *(name for name, _ in facts["reporters"])))
    return steps


def conditions(facts: Mapping) -> list[dict]:
    """The conditions of use that the file LICENSE states, in terms that programs understand."""
    if facts["kind"] == "cc0-1.0":
        return [duo("0000004")]
    if facts["simulated"]:
        return [{"@type": "CreativeWork", "name": "The terms that column `license` names for each image"}]
    clinical_care = {"@id": DUO + "0000043", "name": DUO_TERMS["0000043"]}
    prohibited = [prohibition({"name": IDENTIFY}), prohibition(clinical_care)]
    if facts["kind"] == "controlled":
        obligations = [obligation("odrl:attribute"), obligation("odrl:delete")]
        offered = {
            "odrl:prohibition": [prohibition({"@id": "odrl:distribute"}), *prohibited],
            "odrl:obligation": obligations,
        }
        return [*map(duo, CONTROLLED_TERMS), offer(f"{facts['title']} controlled-access licence", offered)]
    permitted = [
        {"@type": "odrl:Permission", "odrl:action": {"@id": name}, "odrl:duty": [obligation("odrl:attribute")]}
        for name in ("odrl:use", "odrl:distribute")
    ]
    offered = {"odrl:permission": permitted, "odrl:prohibition": prohibited}
    return [offer("RDFace open licence for synthetic images", offered)]


def entity(label: str) -> dict:
    return {"@type": "prov:Entity", "prov:label": label}


def activity(label: str, description: str, *agents: str) -> dict:
    """A step in PROV's terms; agents: names of the programs or models that carried it out."""
    made = {"@type": "prov:Activity", "prov:label": label, "description": description}
    by = [{"@type": "prov:SoftwareAgent", "prov:label": name} for name in agents]
    return made | ({"prov:wasAssociatedWith": by} if by else {})


def duo(number: str) -> dict:
    """A term of the Data Use Ontology."""
    return {"@type": "DefinedTerm", "name": DUO_TERMS[number], "termCode": f"DUO_{number}", "url": DUO + number}


def offer(name: str, rules: Mapping) -> dict:
    return {"@type": ["CreativeWork", "odrl:Offer"], "name": name, "url": "LICENSE", **rules}


def prohibition(what: dict) -> dict:
    return {"@type": "odrl:Prohibition", "odrl:action": what}


def obligation(name: str) -> dict:
    return {"@type": "odrl:Duty", "odrl:action": {"@id": name}}
