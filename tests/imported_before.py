"""What each forked user of the Hub would otherwise import and read by itself, at a second each."""

import io

import matplotlib.pyplot
import mlcroissant  # noqa: F401
import phonenumbers
import sklearn.model_selection  # noqa: F401

import publishing.published_copy
import publishing.withdrawal  # noqa: F401
import reporting.report_dataset  # noqa: F401
from publishing import personal_names, private_text

private_text.private_cell("Jane Doe, a text long enough to be compared with all patterns, 123 456 78 90")
personal_names.has_name("Jane Doe")  # reads the census and the ontology
for region in private_text.PHONE_REGIONS:
    phonenumbers.PhoneMetadata.metadata_for_region(region)
figure, axes = matplotlib.pyplot.subplots()
axes.set_title("a text, whose letters are read from a file")
figure.savefig(io.BytesIO(), format="png")
matplotlib.pyplot.close(figure)
