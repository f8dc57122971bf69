"""The SHA-256 digest of a network's weights."""

import hashlib

from torch import nn


def weights_sha256(network: nn.Module) -> str:
    """Digest a network's tensors in their order, without LoRA; it tells whether a saved head belongs to a backbone."""
    digest = hashlib.sha256()
    for key, tensor in network.state_dict().items():
        if "lora_" not in key:
            tensor = tensor.float() if tensor.is_floating_point() else tensor
            digest.update(str(tuple(tensor.shape)).encode() + tensor.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
