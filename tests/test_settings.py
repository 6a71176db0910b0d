"""Every setting passes one door: a wrong one is a sentence that names the field, in no time and without memory; a right one gives a network."""
import json
import math
import re
import resource
import time
from dataclasses import asdict, dataclass, fields, replace

import numpy as np
import pytest
import torch

from litevae_diffae import (DDIM, AttributeClassifier, AttributeClassifierConfig, DDIMConfig, DiffAE, DiffAEConfig, DiscriminatorConfig, Editor,
                            EditorConfig, KLVAE, KLVAEConfig, LatentDDIM, LatentDDIMConfig, LiteVAE, LiteVAEConfig, TrainConfig)
from litevae_diffae.core import asset
from litevae_diffae.pretrained import build_empty
from litevae_diffae.settings import (check_counts, check_number, check_positive, check_types,
                                     make_config)
from litevae_diffae.experiments.judge import PixelJudge
from litevae_diffae.litevae.adversarial import AdversarialConfig
from litevae_diffae.litevae.losses import LossWeights
from litevae_diffae.settings import check_limits, field_types, shown

MODELS = {c.__name__: c for c in (LiteVAE, KLVAE, DiffAE, DDIM, LatentDDIM, AttributeClassifier, Editor, PixelJudge)}
OTHERS = (TrainConfig, LossWeights, DiscriminatorConfig, AdversarialConfig)
OWN = {"KLVAE": {"plain": KLVAEConfig(block_out_channels=(32, 64), n_res_blocks=1, norm_num_groups=32)}, "AttributeClassifier": {"plain": AttributeClassifierConfig(8, ("a", "b"))}, "Editor": {"plain": EditorConfig(64, ("a", "b"))}, "PixelJudge": {"plain": PixelJudge.config_class()}}
PRESETS = [(name, preset, config) for name, cls in MODELS.items() for preset, config in {**cls.presets, **OWN.get(name, {})}.items()]
SMALL = {"LiteVAE": "litevae-tiny", "DiffAE": "diffae-tiny", "DDIM": "ddim-tiny", "LatentDDIM": "latent-tiny"}

deep = []
for _ in range(3000): deep = [deep]
VALUES = ["wide", "", "False", None, True, -1, 0, 1, 2, 7, 64, 3.0, 2.5, 10**9, 2**31, 10**400, math.nan, math.inf, -math.inf, 1e308, [], {}, {"a": 1}, [0], [-1], [7],
          [10**9], [1]*5000, ["a"], [[1]], [None], [True], [1.5], [math.nan], deep, np.int64(2), np.float32(2.5), np.float64("nan"), np.bool_(True), np.arange(3), b"x", 1j, object()]


def one_sentence(error, *words):
    text = str(error)
    assert all(w in text for w in words), text
    assert "\n" not in text and len(text) < 600, text


@pytest.mark.parametrize("name, preset, config", PRESETS, ids=lambda v: v if isinstance(v, str) else "")
def test_one_wrong_field(name, preset, config):
    "A configuration with one strange value is built, or one sentence names the field; the smallest of each class is built as a network."
    cls, before = MODELS[name], resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for field in field_types(cls.config_class):
        for value in VALUES:
            start = time.process_time()
            try:
                new = make_config(cls.config_class, {**{f.name: getattr(config, f.name) for f in fields(config)}, field: value})
                if preset in (SMALL.get(name), "plain"): build_empty(cls, new)
            except ValueError as error: one_sentence(error, field)
            assert time.process_time() - start < 2, (field, shown(value))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200*1024


@pytest.mark.parametrize("config_class", OTHERS, ids=lambda c: c.__name__)
def test_one_wrong_field_of_other_settings(config_class):
    for field in field_types(config_class):
        for value in VALUES:
            if config_class is TrainConfig and field == "log_with": continue                  # a tracker may be any object
            try: new = config_class(**{field: value})
            except ValueError as error: one_sentence(error, field)
            else: asdict(new)


WRONG_TYPES = [(LiteVAEConfig, "z_channels", "4", "a whole number expected, got '4'"), (LiteVAEConfig, "z_channels", 4., "a whole number expected, got 4.0"),
               (LiteVAEConfig, "quant_conv", "False", "True or False expected, got 'False'; write it without quotation marks"),
               (LiteVAEConfig, "decoder_attention", 1, "True or False expected, got 1"), (LiteVAEConfig, "extractor_mult", 3, "a tuple of whole numbers expected, got 3"),
               (LiteVAEConfig, "extractor_mult", ("1", 2), "a tuple of whole numbers expected, got ('1', 2)"),
               (LiteVAEConfig, "scaling_factor", math.inf, "a finite number or None expected, got inf"), (LiteVAEConfig, "decoder", 3, "a text expected, got 3"),
               (LiteVAEConfig, "decoder_channels", 10**9, "must be at most 16384, got 1000000000"), (KLVAEConfig, "sample_size", "big", "a whole number or a tuple of whole numbers expected"),
               (KLVAEConfig, "norm_num_groups", 0, "must be at least 1"), (KLVAEConfig, "block_out_channels", (64,)*13, "at most 12 widths"),
               (DiffAEConfig, "z_dim", "wide", "a whole number expected, got 'wide'"), (DiffAEConfig, "attention_resolutions", 16, "a tuple of whole numbers expected, got 16"),
               (DiffAEConfig, "dropout", math.nan, "a finite number expected, got nan"), (DiffAEConfig, "enc_channel_mult", (1, 0), "whole numbers above 0 expected"),
               (DDIMConfig, "channel_mult", (0, 1), "whole numbers above 0 expected"), (DDIMConfig, "stem_levels", -1, "must be positive, got -1"),
               (DDIMConfig, "resblock_updown", None, "True or False expected, got None"), (LatentDDIMConfig, "skip_layers", (0,), "numbers from 1 to 9 expected"),
               (LatentDDIMConfig, "n_layers", 10**6, "must be at most 256"), (LatentDDIMConfig, "time_channels", 1, "must be at least 2"),
               (AttributeClassifierConfig, "names", ("a", 3), "a tuple of texts expected"), (AttributeClassifierConfig, "names", "Hat", "a tuple of texts expected, got 'Hat'"),
               (EditorConfig, "hidden", True, "a whole number expected, got True"), (TrainConfig, "batch_size", 2., "a whole number expected, got 2.0"),
               (TrainConfig, "lr", math.inf, "a finite number expected, got inf"), (TrainConfig, "channels_last", "no", "True or False expected, got 'no'"),
               (LossWeights, "l1", "1", "a finite number expected, got '1'"), (DiscriminatorConfig, "image_logit", "False", "True or False expected"),
               (AdversarialConfig, "betas", (0.5,), "must be two numbers in [0, 1)"), (AdversarialConfig, "weight", math.nan, "a finite number expected, got nan")]


@pytest.mark.parametrize("cls, field, value, says", WRONG_TYPES, ids=lambda v: v.__name__ if isinstance(v, type) else str(v)[:20])
def test_constructors_replace_and_presets_meet_the_same_check(cls, field, value, says):
    needed = dict(names=("a",)) if cls in (EditorConfig, AttributeClassifierConfig) else {}
    ways = [lambda: cls(**{**needed, field: value}), lambda: replace(cls(**needed), **{field: value}), lambda: make_config(cls, {**needed, field: value})]
    ways += [lambda c=c, p=p: c.from_preset(p, **{field: value}) for c in MODELS.values() if c.config_class is cls for p in list(c.presets)[:1]]
    for way in ways:
        with pytest.raises(ValueError, match=f"^{field}: .*{re.escape(says)}"): way()


def test_numbers_of_other_libraries_become_pythons():
    config = LiteVAEConfig(z_channels=np.int32(8), extractor_mult=np.array([1, 2]), quant_conv=np.bool_(True), shift_factor=np.float32(0.5))
    assert config == LiteVAEConfig(z_channels=8, extractor_mult=(1, 2), quant_conv=True, shift_factor=0.5)
    assert [type(v) for v in (config.z_channels, config.extractor_mult[0], config.quant_conv, config.shift_factor)] == [int, int, bool, float]
    json.dumps(asdict(config))


def test_an_int_in_a_float_field_stays_one():
    config = make_config(LossWeights, {"l1": 2})
    assert config.l1 == 2 and type(config.l1) is int


def test_unknown_fields_and_missing_ones():
    with pytest.raises(ValueError, match="^DiffAEConfig: unknown field 'zdim'; valid fields: image_size, .*; the nearest is 'z_dim'$"): make_config(DiffAEConfig, {"zdim": 3})
    with pytest.raises(ValueError, match="^DiffAEConfig: field names with values expected, got"): make_config(DiffAEConfig, ["z_dim"])

    @dataclass
    class Needs:
        size: int
        def __post_init__(self): check_types(self)
    with pytest.raises(ValueError, match="^Needs: field 'size' is missing$"): make_config(Needs, {})


def test_saved_configurations_of_earlier_versions_load():
    for folder in ("litevae-photos", "litevae-photos-tiny", "diffae-avatars", "diffae-avatars/prior", "diffae-avatars/classifier", "diffae-avatars/editor"):
        values = json.loads((asset(folder)/"config.json").read_text())
        cls = MODELS[values.pop("model")]
        assert {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(make_config(cls.config_class, values)).items() if k in values} == values


@pytest.mark.parametrize("value", [True, "3", None, math.nan, math.inf, -math.inf, 1j, [1], 10**400, np.float64("nan")], ids=str)
def test_numbers_are_finite_numbers(value):
    for check in (lambda: check_positive(lr=value), lambda: check_number("lr", value)):
        with pytest.raises(ValueError, match="^lr: a finite number expected, got"): check()


@pytest.mark.parametrize("value", [True, "3", None, math.nan, 3.0, 2.5, [1]], ids=str)
def test_counts_are_whole(value):
    with pytest.raises(ValueError, match="^n: a whole number expected, got"): check_counts(n=value)


def test_ranges():
    assert check_number("x", 3, 1, 5, whole=True) == 3 and check_number("x", np.float32(0.5)) == 0.5
    for args, says in (((0, 1, 5), "from 1 to 5, got 0"), ((0, 1), "at least 1, got 0"), ((9, None, 5), "at most 5, got 9")):
        with pytest.raises(ValueError, match=f"^x: must be {says}$"): check_number("x", *args)
    with pytest.raises(ValueError, match="^n: must be positive, got -3$"): check_counts(n=-3)
    with pytest.raises(ValueError, match="^n: must be positive, got 0$"): check_positive(n=0)


def test_values_are_shown_on_one_short_line():
    for value in (*VALUES, "a\nb", torch.zeros(100, 100), list(range(10**5)), 10**5000):
        text = shown(value)
        assert len(text) <= 60 and "\n" not in text


def test_sizes_are_refused_before_memory_is_asked_for():
    "Widths that are allowed one by one may be too much together."
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for make in (lambda: LiteVAE(LiteVAEConfig(decoder_channels=2**14, decoder_mult=(256,)*4)), lambda: KLVAE.from_preset("sd-vae-f8", block_out_channels=(2**16,)*4),
                 lambda: DiffAE.from_preset("diffae-tiny", model_channels=2**13, channel_mult=(64, 64)), lambda: LatentDDIM.from_preset("latent-tiny", hidden=2**16, n_layers=200)):
        with pytest.raises(ValueError, match="Config: weights of [0-9,]+ GiB do not fit into the [0-9,]+ GiB of this machine; smaller widths or fewer blocks expected"): make()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200*1024


def test_a_name_is_no_configuration():
    for wrong in ("litevae-b", {"z_channels": 4}):
        with pytest.raises(ValueError, match="LiteVAE: a LiteVAEConfig expected, got .*; see from_preset and from_pretrained"): LiteVAE(wrong)
    for wrong in (None, 3, ["litevae-b"], "litevae-x"):
        with pytest.raises(ValueError, match="preset: must be one of litevae-s"): LiteVAE.from_preset(wrong)


@pytest.mark.parametrize("cls, preset", [(LiteVAE, "litevae-tiny"), (DiffAE, "diffae-tiny"), (LatentDDIM, "latent-tiny")], ids=lambda v: v if isinstance(v, str) else "")
def test_the_check_draws_no_random_numbers(cls, preset):
    "A network of given settings gets the weights it always had."
    torch.manual_seed(0)
    one = cls.from_preset(preset)
    config = replace(one.config, **({"dropout": 0.25} if cls is DiffAE else {"n_layers": 5} if cls is LatentDDIM else {"zero_init": False}))
    torch.manual_seed(0)
    with_check = cls(config)
    torch.manual_seed(0)
    without = torch.nn.Module.__new__(cls)
    without.__init__(config)
    assert all(torch.equal(v, without.state_dict()[k]) or v.isnan().all() for k, v in with_check.state_dict().items())


def test_limits_name_the_field():
    @dataclass
    class Toy:
        mult: tuple = (1, 99)
        size: int = 10**6
    with pytest.raises(ValueError, match=r"^mult: must be at most 16, got \(1, 99\)$"): check_limits(Toy(), mult=16)
    with pytest.raises(ValueError, match="^size: must be at most 1024, got 1000000$"): check_limits(Toy(), size=1024)
