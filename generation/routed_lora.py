"""LoRA for many adapters at once: every sample of a batch passes through the low-rank weights of its own adapter.

    routed = RoutedLoRA(unet, UNET_LAYERS, n_adapters=8, rank=4, alpha=4)
    routed.start([seed_0, ..., seed_7])
    routed.route(torch.tensor([0, 0, 1, 1, ...]))     # the adapter of each sample
    unet(...)                                         # forward and backward over the shared frozen weights, once
    state = routed.peft_state_dict(3)                 # adapter 3 alone, as peft would have it

peft trains one adapter at a time: it refuses mixed adapters in training. The frozen network is most of the cost of a
step and is the same for every condition, so here K conditions share one pass over it. Adapters do not mix: the gradient
of a sample's loss reaches its own adapter only, AdamW works element by element, and gradients are clipped for each
adapter by itself, so each is what training it alone would have given (Hu et al., LoRA, ICLR 2022, arXiv 2106.09685).
"""

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import nn

UNET_LAYERS = ("to_q", "to_k", "to_v", "to_out.0")  # of attention: what the diffusers examples adapt
TEXT_LAYERS = ("q_proj", "k_proj", "v_proj", "out_proj")
MATRICES = ("lora_A", "lora_B")


class Route:
    """Which adapter each sample of a batch takes; all layers of a network share one such object."""

    index: torch.Tensor

    def of(self, n_samples: int) -> torch.Tensor:
        """Adapter numbers (n_samples,). A batch may repeat all samples, as classifier-free guidance does; each
        repetition then has the same adapters. Raises ValueError if the batch does not fit."""
        times, rest = divmod(n_samples, len(self.index))
        if rest:
            raise ValueError(f"a batch of {n_samples} samples does not fit a route of {len(self.index)}")
        return self.index.repeat(times) if times > 1 else self.index


class RoutedLinear(nn.Module):
    """A frozen linear layer and the low-rank updates of K adapters: x W' + b + alpha / r (x A_k') B_k'.

    Input (b, ..., in), output (b, ..., out), where sample i goes through adapter k = route[i]."""

    def __init__(self, base: nn.Linear, route: Route, n_adapters: int, rank: int, alpha: float, dtype: torch.dtype):
        super().__init__()
        self.base, self.route, self.scale = base, route, alpha / rank
        new = {"device": base.weight.device, "dtype": dtype}
        self.lora_A = nn.Parameter(torch.zeros(n_adapters, rank, base.in_features, **new))
        self.lora_B = nn.Parameter(torch.zeros(n_adapters, base.out_features, rank, **new))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        route = self.route.of(len(x))
        samples = x.reshape(len(x), -1, x.shape[-1]).to(self.lora_A.dtype)
        update = torch.bmm(torch.bmm(samples, self.lora_A[route].mT), self.lora_B[route].mT)
        frozen = self.base(x)
        return frozen + (self.scale * update).reshape(frozen.shape).to(frozen.dtype)


class RoutedLoRA:
    """K adapters in the linear layers of a network whose names end in one of `layers`. The network is changed in place,
    and its own weights are frozen.

    Adapter weights have `dtype`, whatever the network has: float32 by default, since half precision loses small
    updates. Raises ValueError if the network has no such layer."""

    def __init__(
        self,
        network: nn.Module,
        layers: Sequence[str],
        n_adapters: int,
        rank: int,
        alpha: float,
        dtype: torch.dtype = torch.float32,
    ):
        network.requires_grad_(False)
        ends = tuple(f".{layer}" for layer in layers)
        linear = {name: m for name, m in network.named_modules() if isinstance(m, nn.Linear) and name.endswith(ends)}
        if not linear:
            raise ValueError(f"{type(network).__name__} has no linear layers called {', '.join(layers)}")
        self.network, self.rank, self.n_adapters, self._route = network, rank, n_adapters, Route()
        self.layers: dict[str, RoutedLinear] = {}
        for name, base in linear.items():
            self.layers[name] = RoutedLinear(base, self._route, n_adapters, rank, alpha, dtype)
            self._put(name, self.layers[name])

    def _put(self, name: str, layer: nn.Module) -> None:
        parent, _, child = name.rpartition(".")
        setattr(self.network.get_submodule(parent), child, layer)

    def remove(self) -> None:
        """Give the network its own layers back."""
        for name, layer in self.layers.items():
            self._put(name, layer.base)

    def route(self, adapters: torch.Tensor) -> None:
        """Send sample i of the following batches through adapter adapters[i]; (b,) int64, on the network's device."""
        self._route.index = adapters

    def start(self, seeds: Sequence[int]) -> None:
        """Initialise the adapters, one from each seed: A is normal with standard deviation 1 / rank, B is zero, so that
        an adapter changes nothing at first (init_lora_weights="gaussian" in the diffusers examples)."""
        for k, seed in enumerate(seeds):
            generator = torch.Generator().manual_seed(seed)
            for layer in self.layers.values():
                drawn = torch.randn(layer.lora_A.shape[1:], generator=generator) / self.rank
                layer.lora_A.data[k] = drawn.to(layer.lora_A)
                layer.lora_B.data[k].zero_()

    def parameters(self) -> Iterator[nn.Parameter]:
        for layer in self.layers.values():
            yield from (layer.lora_A, layer.lora_B)

    def sizes(self) -> dict[str, tuple[int, int]]:
        """Name of an adapted layer -> its numbers of inputs and outputs."""
        return {name: (layer.base.in_features, layer.base.out_features) for name, layer in self.layers.items()}

    def peft_state_dict(self, k: int) -> dict[str, torch.Tensor]:
        """Adapter k by the names of peft's get_peft_model_state_dict: (rank, in), (out, rank) per layer, on the CPU."""
        state = {}
        for name, layer in self.layers.items():
            for matrix in MATRICES:
                state[f"{name}.{matrix}.weight"] = getattr(layer, matrix)[k].detach().cpu().clone()
        return state

    def load_peft_state_dict(self, k: int, state: Mapping[str, torch.Tensor]) -> None:
        """The inverse of peft_state_dict. Raises KeyError unless the names are exactly those of the layers, and
        ValueError for another shape, which torch would otherwise broadcast."""
        own = {f"{name}.{matrix}.weight": (layer, matrix) for name, layer in self.layers.items() for matrix in MATRICES}
        if own.keys() != state.keys():
            raise KeyError(min(own.keys() ^ state.keys()))
        for name, (layer, matrix) in own.items():
            place = getattr(layer, matrix).data[k]
            if state[name].shape != place.shape:
                raise ValueError(f"{name} is of shape {tuple(state[name].shape)}, not {tuple(place.shape)}")
            place.copy_(state[name])


def clip_each_adapter(parameters: Sequence[nn.Parameter], max_norm: float) -> torch.Tensor:
    """Scale each adapter's gradients, in place, to a norm of at most max_norm, as clip_grad_norm_ does for one.

    parameters: stacked ones (K, ...); returns the norms before, (K,)."""
    gradients = [parameter.grad for parameter in parameters]
    norms = torch.stack([gradient.flatten(1).norm(dim=1) for gradient in gradients]).norm(dim=0)
    factor = (max_norm / (norms + 1e-6)).clamp(max=1.0)
    for gradient in gradients:
        gradient.mul_(factor.view(-1, *[1] * (gradient.ndim - 1)))
    return norms
