"""The digest of a network's weights."""

import hashlib

from torch import nn


def weights_sha256(network: nn.Module) -> str:
    """Digest of the tensors of a backbone in their order, LoRA left out: whether a saved head belongs to it."""
    digest = hashlib.sha256()
    for key, tensor in network.state_dict().items():
        if "lora_" not in key:
            tensor = tensor.float() if tensor.is_floating_point() else tensor
            digest.update(str(tuple(tensor.shape)).encode() + tensor.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
