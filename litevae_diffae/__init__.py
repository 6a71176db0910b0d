"LiteVAE and Diff-AE: two ideas in image autoencoding, built step by step in notebooks."
__version__ = "0.1.0"
from importlib import import_module

_names = {"litevae.model": ("LiteVAE", "LiteVAEConfig"),
          "litevae.autoencoder": ("Autoencoder", "DiagonalGaussian"),
          "litevae.latents": ("compute_latent_stats",),
          "litevae.klvae": ("KLVAE", "KLVAEConfig"),
          "litevae.train": ("train_litevae", "train_schedule"),
          "litevae.discriminator": ("DiscriminatorConfig", "build_discriminator"),
          "litevae.adversarial": ("train_adversarial", "AdversarialConfig"),
          "litevae.distill": ("distill_decoder",),
          "diffusion.model": ("DDIM", "DDIMConfig"),
          "diffae.model": ("DiffAE", "DiffAEConfig"),
          "diffae.latent": ("LatentDDIM", "LatentDDIMConfig"),
          "diffae.prior": ("train_prior",),
          "diffae.codes": ("Codes",),
          "diffae.code_cache": ("cache_codes", "load_codes"),
          "diffae.labels": ("read_labels",),
          "diffae.manipulate": ("AttributeClassifier", "AttributeClassifierConfig",
                                "fit_classifier"),
          "diffae.editor": ("Editor", "EditorConfig", "fit_editor"),
          "diffae.classcond": ("draw_codes", "fit_class"),
          "diffae.align": ("align_photo", "paste_back"),
          "diffae.faces": ("MTCNN",),
          "diffae.train": ("train_diffae",),
          "latent.model": ("LatentDiffusion",),
          "latent.unet": ("LatentDiffusionConfig",),
          "latent.cache": ("cache_latents", "load_latents"),
          "train": ("Trainer", "TrainConfig"),
          "hub": ("load",),
          "interop": ("to_diffusers", "load_diffae_checkpoint", "load_diffae_state_dict"),
          "data": ("load_avatars", "load_photos", "counterfactual_pairs", "open_source",
                   "ImageFolder"),
          "images": ("read_image",),
          "pixels": ("ImageError",),
          "files": ("FileError",)}
_where = {name: module for module, names in _names.items() for name in names}
__all__ = sorted(_where)

def __getattr__(name): # importing the package is quick: PyTorch is loaded with the first class
    if name not in _where:
        raise AttributeError(f"module 'litevae_diffae' has no attribute {name!r}")
    return getattr(import_module(f".{_where[name]}", __name__), name)

def __dir__(): return sorted([*globals(), *__all__])
