"""The official sMLPNet in PyTorch, with its keys and its layout: the peer that we compare with.

Written from the key table and the description of microsoft/SPACH's `models/smlp.py`; channels
first, permutations and all.
"""

import torch
from torch import nn


class DepthwiseMerge(nn.Module):
    """The first half of token mixing: batch normalization, GELU, depthwise convolution."""

    def __init__(self, channels):
        super().__init__()
        self.conv_merge = nn.ModuleDict(
            {
                "BN": nn.BatchNorm2d(channels),
                "Conv": nn.Conv2d(channels, channels, 3, 1, 1, groups=channels, bias=False),
            }
        )

    def forward(self, x):
        return self.conv_merge["Conv"](nn.functional.gelu(self.conv_merge["BN"](x)))


class SparseMLP(nn.Module):
    """The second half of token mixing: identity, rows and columns, fused."""

    def __init__(self, side, channels):
        super().__init__()
        self.BN = nn.BatchNorm2d(channels)
        self.proj_h = nn.Conv2d(side, side, 1)
        self.proh_w = nn.Conv2d(side, side, 1)
        self.fuse = nn.Conv2d(3 * channels, channels, 1, bias=False)

    def forward(self, x):
        x = nn.functional.gelu(self.BN(x))
        x_h = self.proj_h(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        x_w = self.proh_w(x.permute(0, 2, 1, 3)).permute(0, 2, 1, 3)
        return self.fuse(torch.cat([x, x_h, x_w], dim=1))


class FeedForward(nn.Module):
    """The MLP of channel mixing."""

    def __init__(self, channels, expansion):
        super().__init__()
        wide = expansion * channels
        self.net = nn.Sequential(
            nn.Linear(channels, wide), nn.GELU(), nn.Dropout(0.0), nn.Linear(wide, channels)
        )

    def forward(self, x):
        return self.net(x)


class ToLast(nn.Module):
    """To channels last, for the layers over channels."""

    def forward(self, x):
        return x.permute(0, 2, 3, 1)


class ToFirst(nn.Module):
    """Back to channels first."""

    def forward(self, x):
        return x.permute(0, 3, 1, 2)


class OfficialSMLPNet(nn.Module):
    """The whole network: images (n, 3, size, size), normalized, to logits (n, classes)."""

    def __init__(
        self, dim, depths, size=224, classes=1000, expansion=3, patch_size=4, drop_path_rate=0.0
    ):
        super().__init__()
        last = max(sum(depths) - 1, 1)
        self.drop_path_rates = [drop_path_rate * k / last for k in range(sum(depths))]
        self.to_patch_embedding = nn.ModuleList()
        self.token_mix = nn.ModuleList()
        self.channel_mix = nn.ModuleList()
        self.depths = depths
        before, patch, side = 3, patch_size, size
        for i, depth in enumerate(depths):
            channels, side = dim * 2**i, side // patch
            embed = nn.Conv2d(before, channels, patch, patch, bias=False)
            self.to_patch_embedding.append(nn.Sequential(embed))
            for _ in range(depth):
                self.token_mix.append(
                    nn.Sequential(DepthwiseMerge(channels), SparseMLP(side, channels))
                )
                self.channel_mix.append(
                    nn.Sequential(
                        ToLast(),
                        nn.LayerNorm(channels),
                        FeedForward(channels, expansion),
                        ToFirst(),
                    )
                )
            before, patch = channels, 2
        self.batch_norm = nn.BatchNorm2d(channels)
        self.mlp_head = nn.Sequential(nn.Linear(channels, classes))

    def forward(self, x):
        k = 0
        for embed, depth in zip(self.to_patch_embedding, self.depths, strict=True):
            x = embed(x)
            for _ in range(depth):
                x = x + self.drop_path(self.token_mix[k](x), k)
                x = x + self.drop_path(self.channel_mix[k](x), k)
                k += 1
        return self.mlp_head(self.batch_norm(x).mean((2, 3)))

    def drop_path(self, x, k):
        rate = self.drop_path_rates[k]
        if not self.training or not rate:
            return x
        kept = torch.rand(len(x), 1, 1, 1, device=x.device) >= rate
        return x * kept / (1 - rate)
