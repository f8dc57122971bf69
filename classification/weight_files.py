"""Files of weights: read without unpickling, searched for the network they hold, loaded only if they fit.

Weights that this project trained also say which photographs they have learnt from.
"""

import argparse
import itertools
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

from harness.errors import InputError, one_line

RECORD_KEY = "rdface"  # in the metadata of a safetensors file that this project wrote: a record, as JSON
SEEN_PHOTOGRAPHS = "seen_photographs"  # a key of that record, and the name of the tensor (m, 32) beside the weights

WRAPPERS = re.compile(r"\b(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")  # torch's, anywhere in a name
# A running average of another network in the same file, or MoCo's query encoder, which is the one its authors test.
PREFERRED = re.compile(r"(\w+_)?ema(_\w+)?|teacher|encoder_q")
# Parts of a checkpoint that no feature passes through. PROJECTIONS serve training only and may also lie within the
# network; the others lie beside it.
PROJECTIONS = re.compile(r"projector|(\w+_)?projection_head|predictor|prototypes")
HEADS = re.compile(rf"{PROJECTIONS.pattern}|(\w+_)?heads?|fc|classifier|logits|queue|criterion|(\w+_)?loss(_\w+)?")


def seen_tensor(digests: Iterable[str]) -> torch.Tensor:
    """SHA-256 digests of m photographs as a uint8 tensor (m, 32), which is kept wherever weights are kept."""
    return torch.tensor([list(bytes.fromhex(digest)) for digest in sorted(digests)], dtype=torch.uint8).view(-1, 32)


def read_seen_photographs(file: Path) -> frozenset[str]:
    """Digests of the photographs that a file of weights was trained on, as far as it says so; else empty.

    A classifier of this project says so twice: in the metadata of its safetensors file, and in a tensor beside its
    weights, which survives a change of format or of the names' prefixes. Raises InputError for an unreadable file."""
    record, tensors = None, {}
    if file.suffix == ".safetensors":
        try:
            with safe_open(file, "pt") as content:  # no other tensor is read
                record = (content.metadata() or {}).get(RECORD_KEY)
                tensors = {key: content.get_tensor(key) for key in content.keys() if is_seen_photographs(key)}  # noqa: SIM118
        except (OSError, SafetensorError) as error:
            raise InputError(f"weights {file}: {one_line(error)}; give another file") from error
    else:
        tensors = {key: tensor for key, tensor in read_weights(file).items() if is_seen_photographs(key)}
    seen = {bytes(row).hex() for tensor in tensors.values() for row in tensor.to(torch.uint8).view(-1, 32).tolist()}
    try:
        return frozenset(seen.union(json.loads(record)[SEEN_PHOTOGRAPHS] if record else ()))
    except (ValueError, LookupError, TypeError) as error:
        raise InputError(f"weights {file}: its record {RECORD_KEY} cannot be read; train again") from error


def of_simulated_faces(file: Path) -> bool:
    """Whether a safetensors file says, as the demo's backbone does, that it was trained on simulated faces alone."""
    if file.suffix != ".safetensors":
        return False
    with safe_open(file, "pt") as content:
        return (content.metadata() or {}).get("simulated") == "true"


def read_weights(file: Path) -> dict[str, torch.Tensor]:
    """The tensors of a .safetensors or .pth file by name, including those inside a training checkpoint.

    A checkpoint nests its networks in dicts (`state_dict`, `model`, `net`, `teacher`, ..). A dict counts as a network
    if it holds a tensor called `weight`. If there is one network, its names are returned as they are; if there are
    several, each name begins with its place ("teacher/backbone.conv1.weight"), and load_weights chooses. The prefixes
    that DataParallel, FSDP and torch.compile add are removed. seen_photographs is kept, wherever it stood. Nothing is
    unpickled: torch's weights_only allows tensors, numbers, text, lists, dicts and argparse.Namespace. Raises
    InputError for a file that cannot be read, holds no named tensors, or two of one name."""
    try:
        if file.suffix == ".safetensors":
            content = load_file(file)
        else:
            with torch.serialization.safe_globals([argparse.Namespace]):  # many checkpoints keep their arguments
                content = torch.load(file, map_location="cpu", weights_only=True)
        nests = _nests(content)
    except Exception as error:  # each format raises another: UnpicklingError, SafetensorError, RuntimeError, EOFError
        reason = f"{type(error).__name__}, {one_line(error).split('. ')[0]}"
        raise InputError(f"weights {file}: {reason}; give a .safetensors file or a plain state dict") from error
    networks = {place for place, tensors in nests.items() if any(key.split(".")[-1] == "weight" for key in tensors)}
    chosen = networks if len(networks) == 1 else set(nests)
    state: dict[str, torch.Tensor] = {}
    for place, tensors in nests.items():
        unwrapped = all(key.startswith("module.") for key in tensors)  # of DataParallel
        for key, tensor in tensors.items():
            if place in chosen or is_seen_photographs(key):
                key = WRAPPERS.sub("", key.removeprefix("module.") if unwrapped else key)
                key = key if not place or chosen == {place} else f"{place}/{key}"
                if key in state:
                    raise InputError(f"weights {file}: two tensors are called {key}; give a file with one of them")
                state[key] = tensor
    if not any(not is_seen_photographs(key) for key in state):
        raise InputError(f"weights {file}: it holds no tensors by name; give a .safetensors file or a plain state dict")
    return state


def _nests(content: object, place: str = "") -> dict[str, dict[str, torch.Tensor]]:
    """place -> tensors of each dict within nested dicts, such as "checkpoint/teacher"; dicts without tensors are left
    out."""
    if not isinstance(content, Mapping):
        return {}
    tensors = {str(key): part for key, part in content.items() if isinstance(part, torch.Tensor)}
    tensors = {key: part for key, part in tensors.items() if part.layout == torch.strided and not part.is_quantized}
    nests = {place: tensors} if tensors else {}
    for key, part in content.items():
        nests |= _nests(part, f"{place}/{key}" if place else str(key))
    return nests


def is_seen_photographs(key: str) -> bool:
    """Whether the tensor of this name is not a weight, but lists the photographs that a model of this project saw."""
    return re.split(r"[./]", key)[-1] == SEEN_PHOTOGRAPHS


def load_weights(
    network: torch.nn.Module,
    state: dict,
    classifier: Sequence[str],
    name: str,
    source: Path | str,
    flag: str = "--backbone",
) -> None:
    """Load `state` into the network; its tensors must be the network's, except those of the removed classifier.

    All names may begin with one prefix ("model.", "teacher/backbone."). The prefix is found by comparison: every tensor
    of the network must be there with its shape. Outside the prefix only heads, losses and other networks are accepted,
    within it only the classifier and projections for training. If several networks with different weights fit, the one
    that is named as an average of the others is loaded (PREFERRED), and its prefix is printed; without such a name the
    file is refused. classifier: names of the removed layers. name, source, flag: of network, weights and the command's
    flag, for messages. Raises InputError, naming the first tensor that is missing, unknown, of another shape or kind,
    or not finite."""
    # torchvision's DenseNet files say norm.1 where the layers say norm1.
    state = {re.sub(r"(denselayer\d+\.(norm|conv))\.(?=\d)", r"\1", key): tensor for key, tensor in state.items()}
    state = {key: tensor for key, tensor in state.items() if not is_seen_photographs(key)}
    own = network.state_dict()
    # Files older than PyTorch 0.4.1 lack this counter, which is not used here.
    needed = [key for key in own if not key.endswith("num_batches_tracked")]
    removed = tuple(f"{part}." for part in classifier)
    prefixes = _prefixes(state, needed)
    complete = [prefix for prefix in prefixes if all(prefix + key in state for key in needed)]
    problems = {prefix: _problems(state, own, needed, prefix, removed, complete) for prefix in prefixes}
    fitting = [prefix for prefix in prefixes if not problems[prefix]]
    refused = f"weights {source} do not fit {name}"
    if not fitting:
        nearest = max(prefixes, key=lambda prefix: sum(prefix + key in state for key in needed))
        raise InputError(f"{refused}: {', '.join(problems[nearest])}; check {flag} and the file")
    prefix = _chosen(state, needed, fitting, source)
    if prefix:
        others = " and ".join(repr(other) for other in fitting if other != prefix)
        _say_once(f"weights {source}: {name} is read behind {prefix!r}" + (f", not {others}" if others else ""))
    loaded = {key: state[prefix + key] for key in own if prefix + key in state}
    for key, tensor in loaded.items():
        if own[key].is_floating_point() and not tensor.is_floating_point():
            raise InputError(f"{refused}: {prefix}{key} has type {tensor.dtype}; give weights that are not quantised")
        if not tensor.to(own[key].dtype).isfinite().all() and own[key].isfinite().all():
            raise InputError(f"{refused}: {prefix}{key} holds values that are not finite; give a file that is whole")
    network.load_state_dict(own | loaded)


def _prefixes(state: dict, needed: Sequence[str]) -> list[str]:
    """Whatever precedes the network's own names in `state`, shortest first; the empty prefix is always among them."""
    prefixes = {""}
    for own in sorted(needed, key=len)[-3:]:  # the longest names are the most distinctive; three, if one is missing
        candidates = (key.removesuffix(own) for key in state if key.endswith(own))
        prefixes |= {prefix for prefix in candidates if prefix and prefix[-1] in "./"}
    return sorted(prefixes, key=lambda prefix: (len(prefix), prefix))


def _problems(
    state: dict, own: dict, needed: Sequence[str], prefix: str, removed: tuple[str, ...], complete: Sequence[str]
) -> list[str]:
    """Reasons why the network cannot be read behind this prefix, each naming its first tensor; empty if it can.

    complete: the prefixes behind which every tensor is there."""
    missing = [key for key in needed if prefix + key not in state]
    resized = [key for key in own if prefix + key in state and state[prefix + key].shape != own[key].shape]
    nest = prefix[: prefix.rfind("/") + 1]  # other dicts of the file do not matter
    others = tuple(other for other in complete if not prefix.startswith(other))
    unknown = []
    for key, tensor in state.items():
        if not key.startswith(nest) or key.startswith(others):
            continue
        if key.startswith(prefix):
            key = key.removeprefix(prefix)
            accepted = key in own or key.startswith(removed) or PROJECTIONS.fullmatch(key.split(".")[0])
        else:  # outside the prefix: what counts is the first part of the name that differs from the prefix
            key = key.removeprefix(nest)
            parts = itertools.zip_longest(key.split("."), prefix.removeprefix(nest).split("."))
            part = next(part for part, of_prefix in parts if part != of_prefix)
            accepted = tensor.numel() == 1 or HEADS.fullmatch(part or "")  # a single number is a counter, not a weight
        if not accepted:
            unknown.append(key)
    return [
        f"{len(keys)} tensors {what} (first {min(keys)})"
        for keys, what in ((missing, "missing"), (unknown, "unknown"), (resized, "of another shape"))
        if keys
    ]


def _chosen(state: dict, needed: Sequence[str], fitting: Sequence[str], source: Path | str) -> str:
    """The prefix to read, of those behind which the network fits. Raises InputError if weights differ and none is
    preferred."""

    def same(prefix: str) -> bool:
        return all(torch.equal(state[prefix + key], state[fitting[0] + key]) for key in needed)

    if all(same(prefix) for prefix in fitting[1:]):
        return fitting[0]
    preferred = [prefix for prefix in fitting if any(PREFERRED.fullmatch(part) for part in re.split("[./]", prefix))]
    if len(preferred) != 1:
        named = " and ".join(map(repr, preferred or fitting))
        raise InputError(f"weights {source}: different weights fit behind {named}; give a file with one of them")
    return preferred[0]


def _say_once(line: str) -> None:
    """Print in the first of several processes only."""
    if int(os.environ.get("RANK", 0)) == 0:
        print(line)
