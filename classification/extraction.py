"""Features of pictures by a frozen backbone, each picture once, shared among processes."""

import numpy as np
import torch
from accelerate import Accelerator
from tqdm import tqdm

from classification.backbones import Backbone, normalise
from classification.classifiers import probe_features
from imaging.pixel_cache import JoinedArrays


def features_of(
    accelerator: Accelerator, backbone: Backbone, uint8: np.ndarray | JoinedArrays, rows: np.ndarray, batch_size: int
) -> np.ndarray:
    """Features (n, d) float32 of pictures uint8 (n, side, side, 3), alike on all processes.

    rows (r,): the pictures whose features are needed; all others stay nan."""
    network = backbone.network.to(accelerator.device, memory_format=torch.channels_last)
    network = accelerator.prepare_model(network, evaluation_mode=True)
    numbers = torch.utils.data.TensorDataset(torch.from_numpy(rows))
    loader = accelerator.prepare(torch.utils.data.DataLoader(numbers, batch_size=batch_size))
    features = None
    with torch.inference_mode():
        for (batch,) in tqdm(loader, desc="features", unit="batch", disable=not accelerator.is_main_process):
            pixels = normalise(uint8[batch.cpu().numpy()], backbone, accelerator.device)
            batch, part = accelerator.gather_for_metrics((batch, probe_features(network(pixels))))
            if features is None:
                features = np.full((len(uint8), part.shape[1]), np.nan, np.float32)
            features[batch.cpu().numpy()] = part.cpu().numpy()  # by row, so rows that pad the last batch do no harm
    accelerator.free_memory()
    return features
