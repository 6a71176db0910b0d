"""The networks of Diff-AE once more, written down plainly from the description of the official code: one module per layer,
NCHW, float32, nothing fused or precomputed. Slow and simple, so that the package's networks can be compared with it in any configuration.

`PlainDiffAE` of `litevae_diffae.bench.diffusion` is no substitute: as a rival in speed it shares the package's sinusoid, time MLP, resampling and
configuration. Here nothing is shared and the settings are the official ones; baselines, strided resampling and the latent net are covered too."""
import math

import torch
from torch import nn
from torch.nn import functional as F


def group_norm(channels): return nn.GroupNorm(min(32, channels), channels, eps=1e-5)


def sinusoid(t, dim):
    half = dim//2
    angles = t.float()[:, None]*torch.tensor([math.exp(-math.log(10000)*i/half) for i in range(half)])
    parts = [angles.cos(), angles.sin()] + [torch.zeros(len(t), 1)]*(dim%2)
    return torch.cat(parts, dim=1)


def time_mlp(dim_in, dim_out): return nn.Sequential(nn.Linear(dim_in, dim_out), nn.SiLU(), nn.Linear(dim_out, dim_out))


def resampled(x, how): return {"up": lambda: F.interpolate(x, scale_factor=2), "down": lambda: F.avg_pool2d(x, 2), None: lambda: x}[how]()


class Block(nn.Module):
    "Residual block; `half` is the encoder's, without second convolution and modulation."
    def __init__(self, c_in, c_out, embed=None, z_dim=None, how=None, half=False):
        super().__init__()
        self.how, self.half = how, half
        self.in_layers = nn.Sequential(group_norm(c_in), nn.SiLU(), nn.Conv2d(c_in, c_out, 3, padding=1))
        if not half:
            self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(embed, 2*c_out))
            if z_dim: self.cond_emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(z_dim, c_out))
            self.out_layers = nn.Sequential(group_norm(c_out), nn.SiLU(), nn.Dropout(0.1), nn.Conv2d(c_out, c_out, 3, padding=1))
        self.skip_connection = nn.Identity() if c_in == c_out else nn.Conv2d(c_in, c_out, 1)

    def forward(self, x, e=None, z=None):
        h = self.in_layers[2](resampled(self.in_layers[1](self.in_layers[0](x)), self.how))
        if not self.half:
            scale, shift = self.emb_layers(e)[..., None, None].chunk(2, dim=1)
            h = self.out_layers[0](h)*(1 + scale) + shift
            if z is not None: h = h*(1 + self.cond_emb_layers(z)[..., None, None])
            h = self.out_layers[3](self.out_layers[2](self.out_layers[1](h)))
        return self.skip_connection(resampled(x, self.how)) + h


class Attention(nn.Module):
    def __init__(self, channels, heads):
        super().__init__()
        self.heads, self.norm = heads, group_norm(channels)
        self.qkv, self.proj_out = nn.Conv1d(channels, 3*channels, 1), nn.Conv1d(channels, channels, 1)

    def forward(self, x):
        B, C, H, W = x.shape
        d = C//self.heads
        qkv = self.qkv(self.norm(x).reshape(B, C, H*W)).reshape(B*self.heads, 3*d, H*W)    # heads first, then thirds
        q, k, v = qkv[:, :d], qkv[:, d:2*d], qkv[:, 2*d:]
        weights = torch.softmax(torch.einsum("bct,bcs->bts", q*d**-0.25, k*d**-0.25), dim=-1)
        return x + self.proj_out(torch.einsum("bts,bcs->bct", weights, v).reshape(B, C, H*W)).reshape(B, C, H, W)


class Down(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.op = nn.Conv2d(c, c, 3, stride=2, padding=1)
    def forward(self, x): return self.op(x)


class Up(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.conv = nn.Conv2d(c, c, 3, padding=1)
    def forward(self, x): return self.conv(F.interpolate(x, scale_factor=2))


class Entry(nn.Sequential):
    "Layers of one list entry; only residual blocks are told time and code."
    def forward(self, x, *context):
        for layer in self: x = layer(x, *context) if isinstance(layer, Block) else layer(x)
        return x


def way_down(c_image, c, mults, n_blocks, side, attention, heads, updown, block):
    "Entries of the way down; also the widths of their outputs and the last side."
    entries, widths, width = [Entry(nn.Conv2d(c_image, c*mults[0], 3, padding=1))], [c*mults[0]], c*mults[0]
    for level, mult in enumerate(mults):
        for _ in range(n_blocks):
            layers = [block(width, c*mult)]
            width = c*mult
            if side in attention: layers.append(Attention(width, heads))
            entries.append(Entry(*layers)); widths.append(width)
        if level < len(mults) - 1:
            entries.append(Entry(block(width, width, how="down") if updown else Down(width))); widths.append(width)
            side //= 2
    return nn.ModuleList(entries), widths, side


class Encoder(nn.Module):
    def __init__(self, side, c_image, c, mults, n_blocks, attention, heads, updown, z_dim):
        super().__init__()
        block = lambda *args, how=None: Block(*args, how=how, half=True)
        self.input_blocks, widths, _ = way_down(c_image, c, mults, n_blocks, side, attention, heads, updown, block)
        w = widths[-1]
        self.middle_block = Entry(block(w, w), Attention(w, heads), block(w, w))
        self.out = nn.Sequential(group_norm(w), nn.SiLU(), nn.AdaptiveAvgPool2d(1), nn.Conv2d(w, z_dim, 1), nn.Flatten())

    def forward(self, x):
        for entry in self.input_blocks: x = entry(x)
        return self.out(self.middle_block(x))


class PlainUNet(nn.Module):
    "Of a dict of official settings; with `enc_out_channels` among them it has an encoder and a modulation by its code."
    def __init__(self, s):
        super().__init__()
        c, mults, n_blocks, heads, embed = s["model_channels"], s["channel_mult"], s["num_res_blocks"], s["num_heads"], s["embed_channels"]
        c_image, side, attention, updown = s.get("in_channels", 3), s["image_size"], s["attention_resolutions"], s["resblock_updown"]
        z_dim = (s.get("resnet_cond_channels") or embed) if "enc_out_channels" in s else None
        self.c, self.z_dim = c, z_dim
        mlp = time_mlp(c, embed)
        if z_dim: self.time_embed = nn.ModuleDict(dict(time_embed=mlp))
        else: self.time_embed = mlp
        block = lambda *args, how=None: Block(*args, embed, z_dim, how)
        self.input_blocks, widths, side = way_down(c_image, c, mults, n_blocks, side, attention, heads, updown, block)
        w = widths[-1]
        self.middle_block = Entry(block(w, w), Attention(w, heads), block(w, w))
        self.output_blocks = nn.ModuleList()
        for level in reversed(range(len(mults))):
            for i in range(n_blocks + 1):
                layers = [block(w + widths.pop(), c*mults[level])]
                w = c*mults[level]
                if side in attention: layers.append(Attention(w, heads))
                if level > 0 and i == n_blocks:
                    layers.append(block(w, w, how="up") if updown else Up(w))
                    side *= 2
                self.output_blocks.append(Entry(*layers))
        self.out = nn.Sequential(group_norm(w), nn.SiLU(), nn.Conv2d(w, c_image, 3, padding=1))
        if z_dim: self.encoder = Encoder(s["image_size"], c_image, c, s.get("enc_channel_mult") or mults, s["enc_num_res_blocks"],
                                         s.get("enc_attn_resolutions") or attention, heads, updown, s["enc_out_channels"])

    def forward(self, x, t, z=None):
        e = (self.time_embed["time_embed"] if self.z_dim else self.time_embed)(sinusoid(t, self.c))
        kept = []
        for entry in self.input_blocks:
            x = entry(x, e, z); kept.append(x)
        x = self.middle_block(x, e, z)
        for entry in self.output_blocks: x = entry(torch.cat([x, kept.pop()], dim=1), e, z)
        return self.out(x)


class PlainLatentNet(nn.Module):
    "The latent net of a dict of official settings."
    def __init__(self, s):
        super().__init__()
        D, H, L, self.c = s["num_channels"], s["num_hid_channels"], s["num_layers"], s["num_time_emb_channels"]
        self.skips, self.time_embed, self.layers = s["skip_layers"], time_mlp(self.c, D), nn.ModuleList()
        for i in range(L):
            c_in, c_out, layer = (D if i == 0 else H) + (D if i in self.skips else 0), D if i == L - 1 else H, nn.Module()
            layer.linear = nn.Linear(c_in, c_out)
            if i < L - 1:
                layer.linear_emb, layer.norm = nn.Linear(D, c_out), nn.LayerNorm(c_out)
                layer.cond_layers = nn.Sequential(nn.SiLU(), layer.linear_emb)               # the official twin
            self.layers.append(layer)

    def forward(self, x, t):
        c, h = self.time_embed(sinusoid(t, self.c)), x
        for i, layer in enumerate(self.layers):
            h = layer.linear(torch.cat([h, x], dim=1) if i in self.skips else h)
            if hasattr(layer, "norm"): h = F.silu(layer.norm(h*(1 + layer.linear_emb(F.silu(c)))))
        return h


def redrawn(model, seed=0):
    "The same model in eval mode with all parameters drawn anew, so that nothing is zero and activations stay near 1."
    g = torch.Generator().manual_seed(seed)
    for name, p in model.named_parameters():
        draw = torch.randn(p.shape, generator=g)
        with torch.no_grad(): p.copy_(draw/p[0].numel()**0.5 if p.ndim > 1 else 0.1*draw + (name.endswith("weight")))
    return model.eval()
