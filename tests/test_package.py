"""What one sees of the package from outside: the names that it exports, and methods that need no second import."""
import subprocess
import sys
from importlib import import_module

import litevae_diffae as lib
import pytest

FRESH = """
import torch
from litevae_diffae import AttributeClassifier, AttributeClassifierConfig, DiffAE, LatentDDIM
torch.manual_seed(0)
model = DiffAE.from_preset("diffae-tiny", image_size=16)
model.prior = LatentDDIM.from_preset("latent-tiny")
model.prior.set_stats(torch.randn(9, 64))
classifier = AttributeClassifier(AttributeClassifierConfig(64, ("Smiling",)))
print(tuple(model.sample_class(classifier, 2, 5).shape))
"""


@pytest.mark.parametrize("name", lib.__all__)
def test_an_exported_name_is_public_in_its_module(name):
    module = import_module(f"litevae_diffae.{lib._where[name]}")
    assert getattr(lib, name) is getattr(module, name) and name in module.__all__ and name in dir(lib)


def test_a_model_is_loaded_without_what_only_fitting_needs():
    code = "import sys, litevae_diffae; litevae_diffae.DiffAE; print({'sklearn', 'skimage', 'diffusers', 'pandas'} & sys.modules.keys())"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (result.returncode, result.stdout) == (0, "set()\n"), result.stderr


def test_an_unknown_name_is_refused():
    with pytest.raises(AttributeError, match="no attribute 'DiffVAE'"): lib.DiffVAE


def test_sampling_from_a_class_needs_no_other_import():
    result = subprocess.run([sys.executable, "-c", FRESH], capture_output=True, text=True)
    assert (result.returncode, result.stdout) == (0, "(2, 3, 16, 16)\n"), result.stderr
