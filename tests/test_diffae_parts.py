"What a `DiffAE` does with the parts that are fitted to its codes: prior, classifier and editor."
import pytest
import torch

from litevae_diffae.diffae.classcond import fit_class
from litevae_diffae.diffae.codes import Codes
from litevae_diffae.diffae.editor import fit_editor
from litevae_diffae.diffae.manipulate import fit_classifier
from litevae_diffae.diffae.model import DiffAE
from litevae_diffae.diffae.prior import train_prior


@pytest.fixture(scope="module")
def codes():
    torch.manual_seed(0)
    return Codes.of(torch.randn(60, 64), attributes=torch.arange(60)[:, None] % 2, names=("Smiling",))


@pytest.fixture(scope="module")
def model(codes):
    torch.manual_seed(0)
    model = DiffAE.from_preset("diffae-tiny", image_size=16).eval()
    torch.nn.init.normal_(model.state_dict()["out.2.weight"], std=.02)  # the output of a new network is zero
    for name, p in model.named_parameters():
        if name.endswith("out_layers.3.weight"): torch.nn.init.normal_(p.data, std=.05)
    train_prior(model, codes, steps=3, batch_size=16, progress=False)
    assert fit_classifier(codes, l2=100., model=model) is model.classifier
    assert fit_editor(codes, n_axes=8, epochs=1, model=model) is model.editor
    return model


@pytest.fixture
def x(): return torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))*2 - 1


def test_edit_takes_the_editor_unless_a_line_is_asked_for(model, x):
    z = model.encode(x)
    def edited(code): return model.decode(model.invert(x, z, 5), code, 5)
    line, curve = model.classifier.move(z, "Smiling"), model.editor.move(z, "Smiling")
    assert not torch.allclose(edited(line), edited(curve), atol=1e-4)
    for kw, want in ((dict(), curve), (dict(path="curve"), curve), (dict(path="line"), line)):
        assert torch.allclose(model.edit(x, "Smiling", n_steps=5, **kw), edited(want), atol=1e-5)
    direction = model.classifier.direction("Smiling")
    assert torch.allclose(model.edit(x, direction, n_steps=5), edited(line), atol=1e-5)
    with pytest.raises(ValueError, match="path: must be auto, line or curve, got 'curve!'"): model.edit(x, "Smiling", path="curve!")


def test_a_part_that_is_missing_is_named(x, codes):
    bare = DiffAE.from_preset("diffae-tiny", image_size=16).eval()
    with pytest.raises(ValueError, match="fit the editor first: model.editor is None"): bare.edit(x, "Smiling", path="curve")
    with pytest.raises(ValueError, match="sample_class: train the latent prior first"): bare.sample_class(fit_class(codes, torch.arange(5)), 2)


def test_parts_are_saved_with_the_model(model, x, tmp_path):
    model.save_pretrained(tmp_path)
    back, z = DiffAE.from_pretrained(tmp_path), model.encode(x)
    assert torch.equal(back.editor.logits(z), model.editor.logits(z)) and torch.equal(back.classifier.logits(z), model.classifier.logits(z))


def test_images_of_a_class_are_decoded_from_accepted_codes(model, codes, monkeypatch):
    clf, seen, decode = fit_class(codes, torch.arange(1, 60, 2), l2=10.), [], model.decode
    def spy(x_T, z_sem, n_steps, sampler):
        seen.append((sampler, z_sem))
        return decode(x_T, z_sem, n_steps, sampler=sampler)
    monkeypatch.setattr(model, "decode", spy, raising=False)
    def draw(**kw): return model.sample_class(clf, 6, n_steps=5, latent_steps=20, accept="threshold", generator=torch.Generator().manual_seed(0), **kw)
    x = draw()
    assert x.shape == (6, 3, 16, 16) and torch.equal(x, draw()) and (clf.logits(seen[0][1]) > 0).all()
    draw(sampler="dpm")
    assert [s for s, _ in seen] == ["ddim", "ddim", "dpm"]
