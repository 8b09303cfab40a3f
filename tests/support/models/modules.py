"""Networks of users, good and bad."""

import torch
from torch import nn
from torch.nn import functional


class Mlp(nn.Module):
    """The built-in network of two hidden layers, as a user writes it."""

    def __init__(self, observation_shape: tuple[int, ...], outputs: int, hidden: int = 32) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(observation_shape[0], hidden), nn.Tanh(), nn.Linear(hidden, hidden), nn.Tanh()
        )
        self.head = nn.Linear(hidden, outputs)
        nn.init.uniform_(self.head.weight, -0.01, 0.01)

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        """[B, O] -> [B, outputs]."""
        result: torch.Tensor = self.head(self.layers(observations))
        return result


class Film(nn.Module):
    """Two layers with normalization, scaled and shifted by a context (FiLM; Perez et al. 2018)."""

    def __init__(self, observation_shape: tuple[int, ...], outputs: int, context_size: int) -> None:
        super().__init__()
        self.first = nn.Linear(observation_shape[0], 16)
        self.norm = nn.LayerNorm(16)
        self.film = nn.Linear(context_size, 32)
        self.head = nn.Linear(16, outputs)

    def forward(self, observations: torch.Tensor, contexts: torch.Tensor) -> torch.Tensor:
        """[B, O], [B, C] -> [B, outputs]."""
        scale, shift = self.film(contexts).chunk(2, -1)
        hidden = functional.gelu(self.norm(self.first(observations)) * (1.0 + scale) + shift)
        result: torch.Tensor = self.head(hidden)
        return result


class Picture(nn.Module):
    """Convolutions over a picture [H, W, 3]."""

    def __init__(self, observation_shape: tuple[int, ...], outputs: int) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(
            nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.GroupNorm(2, 4), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()
        )
        height, width, _ = observation_shape
        self.head = nn.Linear(4 * (height // 4) * (width // 4), outputs)

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        """[B, H, W, 3] -> [B, outputs]."""
        result: torch.Tensor = self.head(self.convolutions(observations.permute(0, 3, 1, 2)))
        return result


class Objects(nn.Module):
    """Attention over a set of objects [K, F]; their order does not matter."""

    def __init__(self, observation_shape: tuple[int, ...], outputs: int) -> None:
        super().__init__()
        self.embedding = nn.Linear(observation_shape[1], 16)
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True)
        self.norm = nn.LayerNorm(16)
        self.head = nn.Linear(16, outputs)

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        """[B, K, F] -> [B, outputs]."""
        objects = self.embedding(observations)
        seen, _ = self.attention(objects, objects, objects, need_weights=False)
        result: torch.Tensor = self.head(self.norm(objects + seen).mean(1))
        return result


class Token(nn.Module):
    """Appends a learned object to a set of objects [K, F]; its two layers share their weight."""

    def __init__(self, observation_shape: tuple[int, ...], outputs: int) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.randn(1, observation_shape[1]))
        self.first = nn.Linear(observation_shape[1], observation_shape[1])
        self.second = nn.Linear(observation_shape[1], observation_shape[1])
        self.second.weight = self.first.weight
        self.head = nn.Linear(observation_shape[1], outputs)

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        """[B, K, F] -> [B, outputs]."""
        token = self.token.expand(observations.shape[0], 2, -1)
        objects = torch.tanh(self.first(torch.cat([token, observations], 1)))
        result: torch.Tensor = self.head(torch.tanh(self.second(objects)).mean(1))
        return result


class Linear(nn.Module):
    """The base of the bad ones: one layer."""

    def __init__(self, observation_shape: tuple[int, ...] = (3,), outputs: int = 2) -> None:
        super().__init__()
        self.linear = nn.Linear(observation_shape[0], outputs)

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        """[B, O] -> [B, outputs]."""
        result: torch.Tensor = self.linear(observations)
        return result


class WithLayer(Linear):
    """One layer more, behind the first."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.more = nn.Sequential(layer)

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        """[B, O] -> [B, outputs]."""
        result: torch.Tensor = self.more(self.linear(observations))
        return result


class Branching(Linear):
    """Its operations depend on its numbers."""

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        """[B, O] -> [B, outputs]."""
        result: torch.Tensor = self.linear(observations)
        if result.sum() > 0:
            result = result + 1.0
        return result


class Remembering(Linear):
    """Keeps a tensor from call to call."""

    def __init__(self) -> None:
        super().__init__()
        self.last = torch.zeros(2)

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        """[B, O] -> [B, outputs]."""
        result: torch.Tensor = self.linear(observations) + self.last
        self.last = result[0]
        return result


class Counting(Linear):
    """Counts its calls in a number of Python, from the third on."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        """[B, O] -> [B, outputs]."""
        self.calls += 1
        result: torch.Tensor = self.linear(observations) * max(self.calls, 3)
        return result


class Counter(Linear):
    """Counts its calls in a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: torch.Tensor
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        """[B, O] -> [B, outputs]."""
        self.calls += 1.0
        result: torch.Tensor = self.linear(observations)
        return result


class Decaying(Linear):
    """Changes its parameters when it is called."""

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        """[B, O] -> [B, outputs]."""
        with torch.no_grad():
            self.linear.weight.mul_(0.9)
        result: torch.Tensor = self.linear(observations)
        return result


class Frozen(Linear):
    """Lets no gradient through a part."""

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        """[B, O] -> [B, outputs]."""
        with torch.no_grad():
            part = self.linear(observations)
        result: torch.Tensor = self.linear(observations) + part
        return result


class Detached(Linear):
    """Lets no gradient through a part, in another way."""

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        """[B, O] -> [B, outputs]."""
        result: torch.Tensor = self.linear(observations)
        return result + result.detach()


class Centered(Linear):
    """Subtracts the mean over the observations of a batch."""

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        """[B, O] -> [B, outputs]."""
        result: torch.Tensor = self.linear(observations - observations.mean(0))
        return result


class Sorting(Linear):
    """Calls an operation that no program has."""

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        """[B, O] -> [B, outputs]."""
        return self.linear(observations).sort(-1).values  # type: ignore[no-any-return]


class Dividing(Linear):
    """Returns infinities."""

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        """[B, O] -> [B, outputs]."""
        result: torch.Tensor = self.linear(observations) / 0.0
        return result


class Idle(Linear):
    """Has a parameter that nothing uses."""

    def __init__(self) -> None:
        super().__init__()
        self.spare = nn.Parameter(torch.zeros(2))


class OneBatch(Linear):
    """Takes five observations and no other number."""

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        """[B, O] -> [B, outputs]."""
        result: torch.Tensor = self.linear(observations.reshape(5, 3))
        return result
