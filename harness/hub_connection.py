"""Whether the Hub can be reached from here, and why it does not give a dataset to this user."""

import urllib.error
import urllib.request

import datasets
import huggingface_hub
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, HFValidationError, RepositoryNotFoundError


def why_not_found(name: str) -> str:
    """Why the Hub does not give a dataset to this user, and what to do: log in, ask for access, wait, or spell it."""
    repo_id = name.removeprefix("hf://datasets/").partition("@")[0]
    token = huggingface_hub.get_token()
    try:
        huggingface_hub.auth_check(repo_id, repo_type="dataset", token=token or False)
    except GatedRepoError:
        if not token:
            return "it is gated and nobody is logged in here; run hf auth login (or set HF_TOKEN), and ask on its page"
        page = f"{huggingface_hub.constants.ENDPOINT}/datasets/{repo_id}"
        return f"it is gated and this account has no access; ask for it at {page}, or wait for the decision"
    except RepositoryNotFoundError:
        return "the Hub shows no such dataset to this account; check the name ORG/NAME and the token"
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        return f"the Hub does not say why it cannot be had ({type(error).__name__}); try again"
    return "it holds no data that can be read; tell its maintainers"


def work_offline_where_the_hub_is_unreachable() -> None:
    """One request of at most 5 s decides; otherwise every look-up of a cached file spends 25 s on retries."""
    question = urllib.request.Request(huggingface_hub.constants.ENDPOINT, method="HEAD")
    try:
        urllib.request.urlopen(question, timeout=5).close()
    except urllib.error.HTTPError:
        pass  # it answered
    except OSError:
        huggingface_hub.constants.HF_HUB_OFFLINE = datasets.config.HF_HUB_OFFLINE = True
