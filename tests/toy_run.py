"A toy task with two optimizers; tests/test_train.py imports it and puts it in front of the scripts that it starts."
import random
import numpy as np
import torch
from torch import nn
import torch.nn.functional as F
from litevae_diffae.train import Task

class Net(nn.Module):
    def __init__(self, dropout=0.):
        super().__init__()
        self.conv1, self.norm, self.conv2, self.dropout = nn.Conv2d(3, 8, 3, padding=1), nn.GroupNorm(2, 8), nn.Conv2d(8, 3, 3, padding=1), nn.Dropout(dropout)
    def forward(self, x): return self.conv2(self.dropout(F.silu(self.norm(self.conv1(x)))))

class Toy(Task):
    "Two optimizers, as a GAN has, and noise from all three random generators."
    averaged = ("model", "head")
    def __init__(self, seed=0, noise=1., dropout=.3):
        torch.manual_seed(seed); self.nets, self.noise = dict(model=Net(dropout), head=nn.Conv2d(3, 1, 1)), noise
    def train_step(self, batch, step):
        noise = self.noise*(.1*torch.randn_like(batch) + .01*random.random() + .01*np.random.rand())
        rec = self.run.nets["model"](batch + noise)
        parts = dict(rec=F.mse_loss(rec, batch))
        self.run.backward(parts["rec"], parts); self.run.update("model")
        head = dict(head=F.mse_loss(self.run.nets["head"](rec.detach()), batch[:, :1]))
        self.run.backward(head["head"], head); self.run.update("head")
        return {**parts, **head}

def data(batch_size, seed=0, start=0, n_workers=0):
    k = start
    while True: yield torch.randn(batch_size, 3, 8, 8, generator=torch.Generator().manual_seed(1000*seed + k)); k += 1

def weights(nets): return torch.cat([p.detach().flatten() for k in sorted(nets) for p in nets[k].parameters()])
