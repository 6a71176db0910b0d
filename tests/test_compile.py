"""A compiler, an exporter and `torch.func` see every network as one graph of plain operations, and compute what eager mode computes."""
import kill_runs
import pytest
import torch
from litevae_diffae import DDIM, DiffAE, KLVAE, LiteVAE
from litevae_diffae.checkpoint import newest_checkpoint, read_log
from litevae_diffae.files import read_tensors
from litevae_diffae.norm import group_norm_silu
from litevae_diffae.litevae.smc import SMCResBlock
from litevae_diffae.litevae.wavelets import dwt2, idwt2, wavedec2, waverec2
from litevae_diffae.monitor import TrainingStopped
from litevae_diffae.optim import TrainConfig
from litevae_diffae.train import Trainer
from torch.export import Dim, export
from torch.func import functional_call, grad, hessian, jacrev, vmap
from toy_run import Toy, data

small = dict(extractor_channels=8, extractor_mult=(1,), aggregator_channels=8, aggregator_mult=(1,), n_res_blocks=1, z_channels=4,
             decoder_channels=8, decoder_mult=(1, 1, 2, 2), decoder_res_blocks=1)
unet = dict(image_size=32, model_channels=32, channel_mult=(1, 1), n_res_blocks=1, attention_resolutions=(8,), embed_channels=32, dropout=0.)
haar_unet = dict(stem="haar", prediction_type="v", band_rms=(1., .5, .5, .3), loss_weight="band")
diffae = dict(unet, z_dim=16, enc_channel_mult=(1, 1), enc_n_res_blocks=1, attention_resolutions=(16,))


def image(n=2, c=3, h=16, w=16):
    return torch.rand(n, c, h, w, generator=torch.Generator().manual_seed(0))*2 - 1


def vae(**fields):
    torch.manual_seed(0)
    return LiteVAE.from_preset("litevae-tiny", **{**small, **fields}).eval()


def awake(model):
    "Give layers that start at zero something to say."
    torch.manual_seed(1)
    for p in model.parameters():
        if not p.any():
            torch.nn.init.normal_(p.data, std=0.1)
    return model.eval()


class Eps(torch.nn.Module):
    "The network's noise, as a module."
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x_t, t, z_sem=None):
        return self.model.eps(x_t, t) if z_sem is None else self.model.eps(x_t, t, z_sem)


def encoder(**fields):
    return vae(**{"band_levels": (3,), **fields}).encoder, (image(h=16, w=24),)


def decoder(**fields):
    return awake(vae(**fields)).decoder, (torch.randn(2, 4, 2, 3),)


def whole(**fields):
    return awake(vae(**fields)), (image(h=17, w=24),)


def klvae():
    torch.manual_seed(0)
    return KLVAE.from_preset("sd-vae-f8", block_out_channels=(8, 16), n_res_blocks=1).eval(), (image(),)


def smc():
    return SMCResBlock(4, 8), (torch.randn(2, 4, 6, 5),)


t = torch.tensor([3, 500])


def denoiser(**fields):
    return Eps(awake(DDIM.from_preset("ddim-tiny", **{**unet, **fields}))), (image(h=32, w=32), t)


def conditional():
    return Eps(awake(DiffAE.from_preset("diffae-tiny", **diffae))), (image(h=32, w=32), t, torch.randn(2, 16))


def semantic():
    return awake(DiffAE.from_preset("diffae-tiny", **diffae)).encoder, (image(h=32, w=32),)


networks = {"encoder": encoder, "nafnet and transformer": lambda: encoder(extractor="nafnet", aggregator="vit"),
            "decoder": decoder, "decoder gn": lambda: decoder(decoder="gn", output="image", decoder_final_norm=True, decoder_attention=True),
            "litevae": lambda: whole(decoder="mixed", decoder_final_norm=True, band_levels=(2, 3), shared_extractor=True), "klvae": klvae, "smc": smc,
            "denoiser haar": lambda: denoiser(**haar_unet), "conditional": conditional, "semantic": semantic}


def run(net, args, precision):
    "Output and all gradients, in float32."
    args = [a.clone().requires_grad_() if a.is_floating_point() else a for a in args]
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "autocast"):
        y = net(*args)
    y = (getattr(y, "sample", y)).float()
    weights = torch.randn(y.shape, generator=torch.Generator().manual_seed(2))
    net.zero_grad()
    (y*weights).sum().backward()
    grads = [a.grad for a in args if a.is_floating_point()] + [p.grad for p in net.parameters()]
    return [y.detach(), *(torch.zeros(1) if g is None else g.float().clone() for g in grads)]


def near(ours, theirs, tol):
    total = sum(b.square().sum() for b in theirs[1:]).sqrt()
    assert (ours[0] - theirs[0]).norm() <= tol*theirs[0].norm()
    assert sum((a - b).square().sum() for a, b in zip(ours[1:], theirs[1:], strict=True)).sqrt() <= tol*total


@pytest.fixture(autouse=True)
def fresh():
    torch.manual_seed(0)
    torch._dynamo.reset()


@pytest.mark.parametrize("name, precision", [*((n, "float32") for n in networks), *((n, p) for n in ("encoder", "decoder gn") for p in ("autocast", "bfloat16"))])
def test_one_graph_forward_and_backward(name, precision):
    net, args = networks[name]()
    if precision == "bfloat16":
        net, args = net.bfloat16(), [a.bfloat16() if a.is_floating_point() else a for a in args]
    compiled = torch.compile(net, fullgraph=True, backend="aot_eager" if name == "smc" else "eager")
    near(run(compiled, args, precision), run(net, args, precision), 1e-4 if precision == "float32" else 0.06)


def verbs():
    model, (x,) = whole(band_levels=(3,))
    ae, (x_t, _, _) = conditional()
    ae = ae.model
    return {"sample of the posterior": (lambda x: model(x, sample_posterior=True).sample, x), "code": (ae.encode, x_t), "dropout": (DDIM.from_preset("ddim-tiny", **{**unet, "dropout": 0.5}).loss, x_t)}


@pytest.mark.parametrize("name", ["sample of the posterior", "code", "dropout"])
def test_verbs_in_one_graph(name):
    f, x = verbs()[name]
    y = torch.compile(f, fullgraph=True, backend="eager")(x)
    if name == "code":
        torch.testing.assert_close(y, f(x), rtol=1e-4, atol=1e-5)
    assert y.isfinite().all()


@pytest.mark.parametrize("wavelet", ["haar", "db2"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_wavelets_in_one_graph(wavelet, dtype):
    def there_and_back(x):
        coeffs = wavedec2(x, wavelet, 2)
        return coeffs[0], waverec2(coeffs, wavelet)
    x = image().to(dtype).requires_grad_()
    ours, theirs = torch.compile(there_and_back, fullgraph=True, backend="aot_eager")(x), there_and_back(x)
    for a, b in zip(ours, theirs):
        torch.testing.assert_close(a, b, rtol=0, atol=0 if wavelet == "haar" else 2e-2 if dtype == torch.bfloat16 else 1e-6)
    a, b = (torch.autograd.grad((y[0].float()*y[0].float()).sum() + y[1].float().sum(), x)[0] for y in (ours, theirs))
    torch.testing.assert_close(a, b, rtol=2e-2 if dtype == torch.bfloat16 else 1e-5, atol=1e-5)


def test_inductor():
    x = image(h=8, w=8).requires_grad_()
    ours, theirs = torch.compile(lambda x: dwt2(x)[1][0], fullgraph=True)(x), dwt2(x)[1][0]
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)
    torch.testing.assert_close(*(torch.autograd.grad(y.square().sum(), x)[0] for y in (ours, theirs)), rtol=0, atol=1e-6)


class Wavelets(torch.nn.Module):
    "Two levels, there and back, with a learned gain."
    def __init__(self):
        super().__init__()
        self.gain = torch.nn.Parameter(torch.ones(1))

    def forward(self, x):
        return waverec2(wavedec2(self.gain*x, "db2", 2), "db2")


B, H, W = Dim("B", min=1, max=64), Dim("H", min=2, max=64), Dim("W", min=2, max=64)
exports = {  # module and arguments, what is free, other arguments
    "wavelets": (lambda: (Wavelets(), (image(h=32, w=24),)), {0: B, 2: 4*H, 3: 4*W}, [(image(5, h=8, w=20),)]),
    "encoder": (encoder, {0: B, 2: 8*H, 3: 8*W}, [(image(3, h=32, w=16),), (image(1),)]),
    "decoder": (networks["decoder gn"], {0: B, 2: H, 3: W}, [(torch.ones(3, 4, 5, 2),), (torch.ones(1, 4, 2, 2),)]),
    "litevae": (lambda: whole(band_levels=(3,)), {0: B}, [(image(3, h=17, w=24),)]),
    "conditional": (conditional, {0: B}, [(image(1, h=32, w=32), torch.tensor([9]), torch.ones(1, 16))]),
    "semantic": (semantic, {0: B}, [(image(5, h=32, w=32),)]),
}


@pytest.mark.parametrize("name", exports)
def test_export_with_a_free_batch(name):
    make, free, others = exports[name]
    net, args = make()
    if name == "encoder":
        args = (image(h=24, w=40),)
    if name == "decoder":
        args = (torch.randn(2, 4, 3, 5),)
    program = export(net, args, dynamic_shapes=tuple(free if a.ndim == 4 else {0: B} for a in args), strict=False).module()
    for a in (args, *others):
        ours, theirs = (getattr(y, "sample", y) for y in (program(*a), net(*a)))
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    ours.sum().backward()
    assert all(p.requires_grad for p in program.parameters()) and any(p.grad is not None for p in program.parameters())


def flat(coeffs):
    return [b for level in coeffs for b in (level if isinstance(level, (tuple, list)) else [level])]


@pytest.mark.parametrize("wavelet", ["haar", "db2", "db10"])
def test_wavelets_under_vmap(wavelet):
    x = image(3)
    coeffs = flat(wavedec2(x, wavelet, 2))
    for a, b in zip(flat(vmap(lambda x: wavedec2(x, wavelet, 2))(x)), coeffs, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-5)
    back = vmap(lambda *c: waverec2([c[0], c[1:4], c[4:]], wavelet))(*coeffs)
    torch.testing.assert_close(back, x, rtol=0, atol=1e-5)
    torch.testing.assert_close(vmap(lambda x: dwt2(x, wavelet)[0], in_dims=1, out_dims=1)(x), dwt2(x, wavelet)[0], rtol=0, atol=1e-5)
    torch.testing.assert_close(vmap(vmap(lambda x: dwt2(x, wavelet)[0]))(x), dwt2(x, wavelet)[0], rtol=0, atol=1e-5)
    ll, high = dwt2(x, wavelet)
    one = vmap(lambda ll, h: idwt2((ll, (h, h, h)), wavelet), in_dims=(0, None))(ll, high[0][0])
    torch.testing.assert_close(one, idwt2((ll, (high[0][:1].expand_as(ll),)*3), wavelet), rtol=0, atol=1e-5)


@pytest.mark.parametrize("wavelet", ["haar", "db2"])
def test_jacobians_of_wavelets(wavelet):
    x = torch.randn(4, 4, dtype=torch.float64)
    ll, high = dwt2(x, wavelet)
    for f, at in ((lambda x: dwt2(x, wavelet)[1][0], x), (lambda ll: idwt2((ll, high), wavelet), ll)):
        torch.testing.assert_close(jacrev(f)(at), torch.autograd.functional.jacobian(f, at))
    J = torch.cat([j.reshape(-1, 16) for j in flat(jacrev(lambda x: dwt2(x, wavelet))(x))])
    torch.testing.assert_close(J@J.T, torch.eye(16, dtype=torch.float64), rtol=0, atol=1e-9)
    identity = jacrev(lambda x: waverec2(wavedec2(x, wavelet, 2), wavelet))(x).reshape(16, 16)
    torch.testing.assert_close(identity, torch.eye(16, dtype=torch.float64), rtol=0, atol=1e-9)
    quadratic = hessian(lambda x: dwt2(x, wavelet)[0].square().sum())(x).reshape(16, 16)
    torch.testing.assert_close(quadratic@quadratic, 2*quadratic, rtol=0, atol=1e-9)  # twice a projection
    each = vmap(grad(lambda x: dwt2(x, wavelet)[0].square().sum()))(x[None].expand(3, 4, 4))
    torch.testing.assert_close(each[1], idwt2((2*ll, (torch.zeros_like(ll),)*3), wavelet))


@pytest.mark.parametrize("name", ["encoder", "decoder gn", "conditional", "semantic"])
def test_gradients_per_image_and_jacobians_of_networks(name):
    net, args = networks[name]()
    net, args = net.double(), [a.double() if a.is_floating_point() else a for a in args]
    params = dict(net.named_parameters())

    def one(params, *args):
        return functional_call(net, params, tuple(a[None] for a in args))[0]
    axes = (None,) + (0,)*len(args)
    torch.testing.assert_close(vmap(one, in_dims=axes)(params, *args), net(*args))
    each = vmap(grad(lambda *a: one(*a).square().sum()), in_dims=axes)(params, *args)
    whole = torch.autograd.grad(net(*args).square().sum(), list(params.values()), allow_unused=True)
    for g, total in zip(each.values(), whole, strict=True):
        torch.testing.assert_close(g.sum(0), torch.zeros_like(g[0]) if total is None else total, rtol=1e-6, atol=1e-8)

    def few(x):
        return net(x[None], *[a[:1] for a in args[1:]]).flatten()[:3]
    torch.testing.assert_close(jacrev(few)(args[0][0]), torch.autograd.functional.jacobian(few, args[0][0]))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_jacobian_of_group_norm(layout):
    x = torch.randn(2, 8, 3, 3, dtype=torch.float64).contiguous(memory_format=layout)
    w, b, s = torch.randn(8, dtype=torch.float64), torch.randn(8, dtype=torch.float64), torch.randn(2, 8, dtype=torch.float64)

    def f(x, w, b, s):
        return group_norm_silu(x, 2, w, b, scale=s)[0, :2]
    ours = jacrev(f, argnums=(0, 1, 2, 3))(x, w, b, s)
    for a, b in zip(ours, torch.autograd.functional.jacobian(f, (x, w, b, s)), strict=True):
        torch.testing.assert_close(a, b)
    with torch.no_grad():
        torch.testing.assert_close(jacrev(lambda x: f(x, w, w, s))(x), torch.autograd.functional.jacobian(lambda x: f(x, w, w, s), x))


def test_a_trace_of_the_encoder_takes_other_batches():
    net, (x,) = encoder()
    torch.testing.assert_close(torch.jit.trace(net, (x,))(image(5)), net(image(5)), rtol=1e-4, atol=1e-5)


# the Trainer

def train(name, out, monkeypatch, steps, compile):
    "A small run of a model; its last checkpoint."
    changes = dict(steps=steps, compile=compile, save_every=0, log_every=1)
    monkeypatch.setattr(kill_runs, "CONFIG", kill_runs.CONFIG.with_changes(**changes))
    monkeypatch.setattr(kill_runs, "tiny_diffae", tiny_diffae)
    kill_runs.KINDS[name](out)
    return newest_checkpoint(out)


def tiny_diffae():
    "Without dropout, for which a compiled network on a CPU draws other random numbers."
    torch.manual_seed(0)
    return DiffAE.from_preset("diffae-tiny", image_size=16, z_dim=16, channel_mult=(1,), enc_channel_mult=(1, 1), attention_resolutions=(), dropout=0.)


def files_of(folder): return {p.name: read_tensors(p) for p in sorted(folder.glob("*.safetensors"))}


@pytest.fixture
def one_graph(monkeypatch):
    "The compiler that only traces: what it computes differs by rounding at most, and it is quick."
    compile = torch.nn.Module.compile
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self: compile(self, backend="eager"))


@pytest.mark.parametrize("name", ["litevae", "diffae"])
def test_compiled_runs_go_on_without_it_and_plain_ones_with_it(name, tmp_path, monkeypatch, one_graph):
    plain = files_of(train(name, tmp_path/"plain", monkeypatch, 4, False))
    runs = {"compiled": (True, True), "goes on plain": (True, False), "goes on compiled": (False, True)}
    for title, compiled in runs.items():
        torch._dynamo.reset()
        for steps, compile in zip((2, 4), compiled): folder = train(name, tmp_path/title, monkeypatch, steps, compile)
        found = files_of(folder)
        assert folder.name == "00000004" and found.keys() == plain.keys() == {"model.safetensors", "model_ema.safetensors"}
        for file, tensors in found.items():
            assert tensors.keys() == plain[file].keys() and not any("_orig_mod" in k for k in tensors)
            ours, theirs = (torch.cat([v.flatten().float() for v in t.values()]) for t in (tensors, plain[file]))
            assert (ours - theirs).norm() <= 1e-3*theirs.norm()
        rows = [[r["loss" if "loss" in r else "l1"] for r in read_log(tmp_path/t)] for t in ("plain", title)]
        assert rows[1] == pytest.approx(rows[0], rel=1e-3)


def toy(out, task=None, **changes):
    config = TrainConfig(steps=3, batch_size=4, lr=1e-2, precision="fp32", save_every=1, compile=True)
    return Trainer(task or Toy(dropout=0.), data, config.with_changes(**changes), out, device="cpu", progress=False).fit()


def test_a_run_by_the_real_compiler(tmp_path):
    "Networks are bare again afterwards, and what they learned is what they learn without it."
    run, plain = toy(tmp_path/"a"), toy(None, compile=False)
    for k, net in run.task.nets.items():
        assert net._compiled_call_impl is None and "forward" not in net.__dict__
        for a, b in zip(net.parameters(), plain.task.nets[k].parameters()): torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)
    state = torch.load(newest_checkpoint(tmp_path/"a")/"optimizer.pt", weights_only=True)
    assert set(state["optimizers"]) == {"model", "head"} and toy(tmp_path/"a", compile=False).step == 3


def test_a_compiled_module_that_makes_a_nan_is_named(tmp_path, one_graph):
    class Bad(Toy):
        def train_step(self, batch, step):
            if step == 2: torch.nn.init.constant_(self.nets["model"].norm.weight, float("nan"))
            return super().train_step(batch, step)
    with pytest.raises(TrainingStopped, match=r"step 2: loss term 'rec' is nan; it came out of module 'model.norm' \(GroupNorm\)"): toy(tmp_path, Bad(dropout=0.))
