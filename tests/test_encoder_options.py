"The encoder's other networks, NAFNet and ViT, as training starts them."
import pytest
import torch
from torch import nn
from litevae_diffae.core import seed_everything
from litevae_diffae.litevae.linear_start import delta_init
from litevae_diffae.litevae.model import LiteVAE

SMALL = dict(extractor_channels=4, extractor_mult=(1, 2), aggregator_channels=8, aggregator_mult=(1, 2), decoder_channels=8)


@pytest.mark.parametrize("fields", [dict(extractor="nafnet"), dict(aggregator="vit"), dict(extractor="nafnet", aggregator="vit")], ids=str)
def test_linear_start(fields):
    seed_everything(0)
    model = LiteVAE.from_preset("litevae-tiny", **SMALL, **fields)
    before = {k: v.clone() for k, v in model.encoder.state_dict().items() if ".blocks." in k}
    delta_init(model)
    assert before and all(torch.equal(model.encoder.state_dict()[k], v) for k, v in before.items())       # residual branches keep their weights
    assert isinstance(model.encoder.aggregator.conv_out, nn.Conv2d)
    with torch.no_grad(): dist = model.encode(torch.rand(2, 3, 32, 48)*2 - 1).latent_dist
    assert (dist.logvar == -6).all() and dist.mean.std() > 0


def test_nafnets_start_linear():
    seed_everything(0)
    encoder = delta_init(LiteVAE.from_preset("litevae-tiny", **SMALL, extractor="nafnet")).encoder
    a, b = torch.rand(2, 1, 3, 32, 32)*2 - 1
    zero = encoder(torch.zeros_like(a))
    torch.testing.assert_close(encoder(a + b) - zero, encoder(a) + encoder(b) - 2*zero, atol=1e-5, rtol=0)
