"""Class attention: a learned token that pools patches, all of an image or the chosen neighbours of each patch.

CaiT, arXiv 2103.17239, section 3, without LayerScale; the pooling of neighbours is that of SelfPatch, arXiv 2206.07990.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pretrain.losses.shared.prototypes import initialise

Border = Literal["clip", "wrap"]
OFFSETS = ((-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 1), (1, -1), (1, 0), (1, 1))
"""Rows and columns from a patch to its 8 neighbours."""


def shifted(patches: Tensor, grid: tuple[int, int], offset: tuple[int, int]) -> Tensor:
    """The neighbour at `offset` of each patch, on a torus: [R, N, …] -> [R, N, …]."""
    on_grid = patches.unflatten(1, grid)
    return on_grid.roll((-offset[0], -offset[1]), (1, 2)).flatten(1, 2)


def neighbours_exist(grid: tuple[int, int], border: Border, device: torch.device) -> Tensor:
    """Neighbours that each patch has, bool [N, 8]: all on a torus (`wrap`), those within the image (`clip`)."""
    rows, columns = (torch.arange(length, device=device) for length in grid)
    exist = []
    for down, right in OFFSETS:
        row = ((rows + down >= 0) & (rows + down < grid[0]))[:, None]
        column = ((columns + right >= 0) & (columns + right < grid[1]))[None, :]
        exist.append((row & column).flatten())
    found = torch.stack(exist, 1)
    return found if border == "clip" else torch.ones_like(found)


def most_similar(patches: Tensor, grid: tuple[int, int], count: int, border: Border) -> Tensor:
    """The `count` neighbours of each patch with the largest cosine similarity: [R, N, D] -> bool [R, N, 8].

    Patches with fewer neighbours have all of them.
    """
    unit = F.normalize(patches, dim=-1)
    similarity = torch.stack([(unit * shifted(unit, grid, offset)).sum(-1) for offset in OFFSETS], -1)
    exist = neighbours_exist(grid, border, patches.device)
    similarity = similarity.masked_fill(~exist, -torch.inf)
    chosen = torch.zeros_like(similarity, dtype=torch.bool)
    chosen.scatter_(-1, similarity.topk(count, dim=-1).indices, True)
    return chosen & exist


class ClassAttentionBlock(nn.Module):
    """Pre-norm attention of one query, the token, to itself and to patches; then an MLP on the token."""

    def __init__(self, width: int, heads: int, mlp_ratio: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.projection = nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, width * mlp_ratio), nn.GELU(), nn.Linear(width * mlp_ratio, width))

    def forward(self, token: Tensor, patches: Tensor) -> Tensor:
        """Pools all patches: token [R, 1, D], patches [R, N, D] -> token [R, 1, D]."""
        normed = self.norm1(torch.cat([token, patches], 1))
        query, key, value = self._split(self.query(normed[:, :1])), *self._keys_and_values(normed)
        pooled = F.scaled_dot_product_attention(query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2))
        return self._finish(token, pooled.transpose(1, 2).flatten(2))

    def pool_neighbours(self, tokens: Tensor, patches: Tensor, grid: tuple[int, int], chosen: Tensor) -> Tensor:
        """Pools chosen neighbours: tokens (one for each patch) and patches [R, N, D], chosen bool [R, N, 8] -> tokens.

        Keys and values are computed once for each patch and shifted, so nothing of size [R, N, 8, D] exists.
        """
        normed = self.norm1(tokens)
        own_key, own_value = self._keys_and_values(normed)
        key, value = self._keys_and_values(self.norm1(patches))
        query = self._split(self.query(normed)) * (own_key.shape[-1] ** -0.5)
        logits = [(query * own_key).sum(-1)]
        logits += [(query * shifted(key, grid, offset)).sum(-1) for offset in OFFSETS]
        allowed = torch.cat([torch.ones_like(chosen[..., :1]), chosen], -1)[:, :, None, :]
        weights = torch.stack(logits, -1).masked_fill(~allowed, -torch.inf).softmax(-1)  # [R, N, heads, 9]
        pooled = weights[..., 0, None] * own_value
        for number, offset in enumerate(OFFSETS, start=1):
            pooled = pooled + weights[..., number, None] * shifted(value, grid, offset)
        return self._finish(tokens, pooled.flatten(2))

    def _keys_and_values(self, normed: Tensor) -> tuple[Tensor, Tensor]:
        return self._split(self.key(normed)), self._split(self.value(normed))

    def _split(self, values: Tensor) -> Tensor:
        return values.unflatten(-1, (self.heads, -1))

    def _finish(self, token: Tensor, pooled: Tensor) -> Tensor:
        token = token + self.projection(pooled)
        return token + self.mlp(self.norm2(token))


class Aggregation(nn.Module):
    """A learned token and class-attention blocks; all results are before the final norm."""

    def __init__(self, width: int, heads: int, blocks: int) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.zeros(1, 1, width))
        self.blocks = nn.ModuleList(ClassAttentionBlock(width, heads) for _ in range(blocks))
        initialise(self)
        nn.init.trunc_normal_(self.token, std=0.02)

    def forward(self, patches: Tensor) -> Tensor:
        """Vector of each image: patches [R, N, D] -> [R, D]."""
        token = self.token.expand(len(patches), -1, -1)
        for block in self.blocks:
            token = block(token, patches)
        return token[:, 0]

    def pool_neighbours(self, patches: Tensor, grid: tuple[int, int], chosen: Tensor) -> Tensor:
        """Vector of the chosen neighbours of each patch: [R, N, D], bool [R, N, 8] -> [R, N, D]."""
        tokens = self.token.expand(len(patches), patches.shape[1], -1)
        for block in self.blocks:
            assert isinstance(block, ClassAttentionBlock)
            tokens = block.pool_neighbours(tokens, patches, grid, chosen)
        return tokens
