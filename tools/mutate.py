"""Does a test notice when a default, a split, a seed or a detach is changed? Each change is made in a copy of the package, and its test must fail.

    python tools/mutate.py               all of them, some seconds each
    python tools/mutate.py losses kl     those with one of the words in file, old text or test
    python tools/mutate.py --list        only say what they are

tests/test_mutations.py looks that every old text is there exactly once, so that this list stays true."""
import importlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "litevae_diffae"
TESTS = "tests/test_recipes.py"


class Mutation(NamedTuple):
    "A change of the package that a test must notice."
    file: str # below the package
    old: str # there exactly once
    new: str # what stands there instead
    test: str # function of tests/test_recipes.py, or a whole node


def by_file(table):
    "Mutations of {file: [(old, new, test)]}."
    return [Mutation(file, *row) for file, rows in table.items() for row in rows]


MUTATIONS = by_file({
    "litevae/losses.py": [
        ("return posterior.kl().mean()", "return posterior.kl().mean()/len(posterior.kl())", "test_kl_is_summed_over_the_latent_and_averaged_over_the_batch"),
        ("/x[0].numel()*area", "/x[0].numel()", "test_kl_counts_the_values_of_the_encoded_image"),
        ("kl_loss(posterior)/x[0].numel()", "kl_loss(posterior)/x.numel()", "test_kl_counts_the_values_of_the_encoded_image"),
        ("- eps\n", "- 0.\n", "test_charbonnier_is_a_triangle_of_three_four_five"),
        ("eps:float=1e-3, # width of the rounded kink, in the units", "eps:float=1e-2, # width of the rounded kink, in the units", "test_charbonnier_is_a_triangle_of_three_four_five"),
        ("eps:float=1e-3, # width of the rounded kink\n", "eps:float=1e-2, # width of the rounded kink\n", "test_charbonnier_is_a_triangle_of_three_four_five"),
        ("eps:float=1e-3, # width of the rounded kink of `charbonnier`", "eps:float=1e-2, # width of the rounded kink of `charbonnier`", "test_wavelet_loss_sees_detail_bands_alone"),
        ("torch.stack(d)/s", "torch.stack(d)", "test_wavelet_loss_sees_detail_bands_alone"),
        ("wavelet, levels)[1:] # coarse to fine", "wavelet, levels); details = [(details[0], *details[1])] # coarse to fine", "test_wavelet_loss_sees_detail_bands_alone"),
        ("wavedec2(x_rec.float() - x.detach().float(), wavelet", "wavedec2(x_rec.detach().float() - x.detach().float(), wavelet", "tests/test_adversarial.py::test_the_wavelet_loss_has_a_gradient"),
        ("kernel_size:int=5, # taps, odd", "kernel_size:int=7, # taps, odd", "test_the_blur_of_the_gaussian_loss_has_five_taps_and_sigma_one"),
        ("sigma:float=1., # standard deviation of the blur, pixels\n", "sigma:float=2., # standard deviation of the blur, pixels\n", "test_the_blur_of_the_gaussian_loss_has_five_taps_and_sigma_one"),
        ("kernel_size:int=5, # taps of the blur", "kernel_size:int=7, # taps of the blur", "test_the_blur_of_the_gaussian_loss_has_five_taps_and_sigma_one"),
        ("sigma:float=1., # standard deviation of the blur, pixels; from", "sigma:float=2., # standard deviation of the blur, pixels; from", "test_the_blur_of_the_gaussian_loss_has_five_taps_and_sigma_one"),
        ('mode="reflect"', 'mode="constant"', "test_the_blur_of_the_gaussian_loss_has_five_taps_and_sigma_one"),
        ("l1: float = 1.", "l1: float = 2.", "test_loss_weights"),
        ("lpips: float = 1.", "lpips: float = 0.1", "test_loss_weights"),
        ("wavelet: float = 1.", "wavelet: float = 0.", "test_loss_weights"),
        ("gaussian: float = 0.5", "gaussian: float = 0.", "test_loss_weights"),
        ("kl: float = 1e-6", "kl: float = 1e-5", "test_loss_weights"),
        ("return sum(getattr(weights, name)*value", "return sum(value", "test_a_weight_multiplies_its_term"),
        ("return lpips(x_rec, x.detach(), net, dtype", "return lpips(x_rec/2 + .5, x.detach()/2 + .5, net, dtype", "test_lpips_is_told_that_images_are_in_minus_one_to_one")],
    "litevae/detail_losses.py": [
        ("keepdim=True)**0.2", "keepdim=True)**0.5", "test_ldl_is_the_published_weight"),
        ("window:int=7, # pixels, odd; LDL has 7", "window:int=5, # pixels, odd; LDL has 7", "test_ldl_is_the_published_weight"),
        ("window:int=7, # pixels, odd, side", "window:int=5, # pixels, odd, side", "test_ldl_is_the_published_weight")],
    "litevae/autoencoder.py": [
        (".flatten(1).sum(1)", ".flatten(1).mean(1)", "test_kl_is_summed_over_the_latent_and_averaged_over_the_batch"),
        ("logvar.clamp(-30, 20)", "logvar.clamp(-10, 10)", "test_a_posterior_is_clamped_as_latent_diffusion_does"),
        ("torch.exp(0.5 * self.logvar)", "torch.exp(self.logvar)", "test_a_posterior_is_clamped_as_latent_diffusion_does"),
        ("(config.shift_factor or 0.,)", "(0.,)", "test_latents_are_shifted_then_scaled"),
        ("(1 / config.scaling_factor,)", "(config.scaling_factor,)", "test_latents_are_shifted_then_scaled"),
        ("return mean + self.std * draw_normal", "return mean + 0 * draw_normal", "test_training_decodes_a_sample_of_the_posterior"),
        ("sample_posterior:bool=False, # True: a sample", "sample_posterior:bool=True, # True: a sample", "test_using_a_model_decodes_the_mode")],
    "litevae/latents.py": [
        ("scale = (power.mean() - shift**2).rsqrt()", "scale = power.mean().rsqrt()", "test_statistics_are_of_the_posterior_means"),
        ("sample_posterior:bool=False, # statistics", "sample_posterior:bool=True, # statistics", "test_statistics_are_of_the_posterior_means"),
        ("model.config = replace(model.config, **stats._asdict())", "pass", "test_statistics_are_of_the_posterior_means")],
    "litevae/encoder.py": [
        ("dwt2(ll/2)", "dwt2(ll)", "test_bands_are_divided_by_two_to_the_level")],
    "litevae/smc.py": [
        ("eps:float=1e-8", "eps:float=1e-6", "test_smc_has_the_guard_of_stylegan3"),
        ("self.gain = nn.Parameter(torch.ones(1))", "self.gain = nn.Parameter(torch.zeros(1))", "test_smc_has_the_guard_of_stylegan3"),
        ("s = s * s.square().mean().rsqrt()", "s = s", "test_smc_has_the_guard_of_stylegan3")],
    "litevae/train.py": [
        ("z = posterior.sample()", "z = posterior.mode()", "test_training_decodes_a_sample_of_the_posterior"),
        ("part.requires_grad_(not freeze_encoder)", "part.requires_grad_(True)", "test_a_frozen_encoder_stays"),
        ('vae = run.averaged("model").vae.requires_grad_', 'vae = run.task.nets["model"].vae.requires_grad_', "test_a_litevae_comes_back_averaged"),
        ("vae = model_to_train(model, config.seed)", "vae = model_to_train(model)", "test_the_seed_of_a_run_decides_its_random_weights"),
        ("max(128, size), train=False", "max(128, size), train=True", "test_nothing_is_mirrored_in_evaluation"),
        ("SchedulePart(sum(lengths[:i]), sum(lengths), min(sizes)", "SchedulePart(0, sum(lengths), min(sizes)", "tests/test_schedule.py::test_the_adversary_begins_once"),
        ("SchedulePart(sum(lengths[:i]), sum(lengths), min(sizes)", "SchedulePart(sum(lengths[:i]), lengths[i], min(sizes)", "tests/test_schedule.py::test_the_adversary_begins_once"),
        ("sum(lengths), min(sizes), after", "sum(lengths), max(sizes), after", "tests/test_schedule.py::test_the_named_discriminator_is_made_for_the_smallest_size"),
        ('after = root/f"phase_{i - 1}" if i else None', "after = None", "tests/test_schedule.py::test_networks_and_moments_go_on"),
        ("carry:bool=True, # optimizers", "carry:bool=False, # optimizers", "tests/test_schedule.py::test_the_adversary_begins_once"),
        ('settings.setdefault("grad_accum", 1)', "pass", "tests/test_schedule.py::test_a_preset_takes_the_recipes_step"),
        ("config = (config or divide_batch(r.config))", "config = (config or r.config)", "test_a_step_stays_the_published_step_on_any_number_of_gpus"),
        ("config = config or divide_batch(r.config)", "config = config or r.config", "test_a_step_stays_the_published_step_on_any_number_of_gpus")],
    "litevae/recipes.py": [
        ('loss:str = "hinge"', 'loss:str = "logistic"', "test_the_game_as_it_is_played_by_default"),
        ("weight:float = 0.1", "weight:float = 1.0", "test_the_game_as_it_is_played_by_default"),
        ("start:float = 0.2", "start:float = 0.0", "test_the_game_as_it_is_played_by_default"),
        ("warmup:float = 0.05", "warmup:float = 0.0", "test_the_game_as_it_is_played_by_default"),
        ("ramp:float = 0.1", "ramp:float = 0.0", "test_the_game_as_it_is_played_by_default"),
        ("adaptive:bool = False", "adaptive:bool = True", "test_the_game_as_it_is_played_by_default"),
        ("betas:tuple[float, ...] = (0.5, 0.9)", "betas:tuple[float, ...] = (0.9, 0.999)", "test_the_game_as_it_is_played_by_default"),
        ('4.5e-6 x images a step", 1e-4, "config.lr"', '4.5e-6 x images a step", 4.5e-6, "config.lr"', "test_every_line_of_the_recipe"),
        ('"0.5, 0.9", "0.5, 0.9", (.5, .9), "config.betas"', '"0.5, 0.9", "0.5, 0.9", (.9, .999), "config.betas"', "test_every_line_of_the_recipe"),
        ('"12 on each GPU", 16,', '"12 on each GPU", 8,', "test_every_line_of_the_recipe"),
        ('"not said", "2", 2, "config.grad_accum"', '"not said", "2", 1, "config.grad_accum"', "test_every_line_of_the_recipe"),
        ('"not compared", 100_000, "config.steps"', '"not compared", 200_000, "config.steps"', "test_every_line_of_the_recipe"),
        ('"constant", "constant", "config.schedule"', '"constant", "cosine", "config.schedule"', "test_every_line_of_the_recipe"),
        ('"none", 0, "config.warmup"', '"none", 1000, "config.warmup"', "test_every_line_of_the_recipe"),
        ('"float32", "auto", "config.precision"', '"float32", "fp32", "config.precision"', "test_every_line_of_the_recipe"),
        ('"none", 1., "config.clip"', '"none", None, "config.clip"', "test_every_line_of_the_recipe"),
        ('.999, "config.ema"', '.9999, "config.ema"', "test_every_line_of_the_recipe"),
        ('"256 px", 256, "size"', '"256 px", 128, "size"', "test_every_line_of_the_recipe"),
        ('(.5, 1.), "scale"', '(.8, 1.), "scale"', "test_every_line_of_the_recipe"),
        ('1., "weights.l1"', '2., "weights.l1"', "test_every_line_of_the_recipe"),
        ('1., "weights.lpips"', '.1, "weights.lpips"', "test_every_line_of_the_recipe"),
        ('"alex", "lpips_net"', '"vgg", "lpips_net"', "test_every_line_of_the_recipe"),
        ('1e-6, "weights.kl"', '1e-5, "weights.kl"', "test_every_line_of_the_recipe"),
        ('1e-6, "weights.kl"', '2e-6, "weights.kl"', "test_the_weight_of_kl_is_latent_diffusions"),
        ('1., "weights.wavelet"', '0., "weights.wavelet"', "test_every_line_of_the_recipe"),
        ('.5, "weights.gaussian"', '1., "weights.gaussian"', "test_every_line_of_the_recipe"),
        ('"hinge", "game.loss"', '"logistic", "game.loss"', "test_every_line_of_the_recipe"),
        ('.1, "game.weight"', '.5, "game.weight"', "test_every_line_of_the_recipe"),
        ('False, "game.adaptive"', 'True, "game.adaptive"', "test_every_line_of_the_recipe"),
        ('.2, "game.start"', '.25, "game.start"', "test_every_line_of_the_recipe"),
        ('.05, "game.warmup"', '0., "game.warmup"', "test_every_line_of_the_recipe"),
        ('.1, "game.ramp"', '0., "game.ramp"', "test_every_line_of_the_recipe"),
        ('None, "game.lr"', '2e-4, "game.lr"', "test_every_line_of_the_recipe"),
        ('(.5, .9), "game.betas"', '(.9, .999), "game.betas"', "test_every_line_of_the_recipe"),
        ('0., "game.cutmix"', '1., "game.cutmix"', "test_every_line_of_the_recipe"),
        ('"Adam, 1e-4"', '"Adam, 2e-4"', "test_the_table_says_what_was_printed"),
        ("4.5e-6 x images a step", "4.5e-6", "test_the_table_says_what_was_printed"),
        ('"16 on two GPUs"', '"16 on one GPU"', "test_the_table_says_what_was_printed"),
        ('"12 on each GPU"', '"8 on each GPU"', "test_the_table_says_what_was_printed"),
        ('"200,000 for ImageNet at 128 px; 100,000', '"100,000 for ImageNet at 128 px; 200,000', "test_the_table_says_what_was_printed"),
        ("begins at 40,000 of 200,000", "begins at 20,000 of 200,000", "test_the_table_says_what_was_printed"),
        ('"step 50,001"', '"step 5,001"', "test_the_table_says_what_was_printed"),
        ('"adaptive x 0.5"', '"adaptive"', "test_the_table_says_what_was_printed"),
        ('"not said", "VGG-16"', '"not said", "AlexNet"', "test_the_table_says_what_was_printed"),
        ('"weight not said", "1e-6"', '"weight not said", "1e-4"', "test_the_table_says_what_was_printed"),
        ('"constant; value not said"', '"constant, 0.5"', "test_the_table_says_what_was_printed"),
        ('"dropped", "yes"', '"kept", "yes"', "test_the_table_says_what_was_printed"),
        ("size:int=256 # pixels, side of a training crop", "size:int=128 # pixels, side of a training crop", "test_recipe_of_the_published_sizes"),
        ("scale:tuple=(0.5, 1.) # side", "scale:tuple=(0.8, 1.) # side", "test_recipe_of_the_published_sizes"),
        ('lpips_net:str="alex"', 'lpips_net:str="vgg"', "test_recipe_of_the_published_sizes"),
        ("return RECIPES.get(name, PAPER)", "return RECIPES.get(name, TINY)", "test_recipe_of_the_published_sizes"),
        ("dict(size=side//part, steps=steps*share//shares)", "dict(size=side, steps=steps*share//shares)", "test_phases_share_the_steps"),
        ("dict(size=side//part, steps=steps*share//shares)", "dict(size=side//part, steps=steps//len(plan))", "test_phases_share_the_steps"),
        ('"half": {2: 2, 1: 1}', '"half": {2: 1, 1: 1}', "test_the_study_of_resolutions"),
        ('"half": {2: 2, 1: 1}', '"half": {1: 1, 2: 2}', "test_the_study_of_resolutions"),
        ('"quarter": {4: 2, 1: 1}', '"quarter": {4: 1, 1: 2}', "test_the_study_of_resolutions"),
        ("PAPER_STEPS = 150_000", "PAPER_STEPS = 100_000", "test_the_study_of_resolutions"),
        ("PAPER_SIDE = 256", "PAPER_SIDE = 128", "test_the_study_of_resolutions"),
        ('"half" if name == "paper"', '"quarter" if name == "paper"', "test_the_study_of_resolutions")],
    "litevae/distill.py": [
        ("freeze_encoder:bool=True, # no other", "freeze_encoder:bool=False, # no other", "test_a_student_learns_with_the_teachers_encoder_and_the_teacher_stays"),
        ("teacher.eval().requires_grad_(False)", "teacher.eval().requires_grad_(True)", "test_a_student_learns_with_the_teachers_encoder_and_the_teacher_stays"),
        ("share:float=0.5, # part of the comparison with the teacher's images, in [0, 1]", "share:float=0., # part of the comparison with the teacher's images, in [0, 1]",
         "test_a_student_learns_with_the_teachers_encoder_and_the_teacher_stays"),
        ("load_strict(getattr(student, name)", "load_strict(copy.deepcopy(getattr(student, name))", "test_a_student_learns_with_the_teachers_encoder_and_the_teacher_stays")],
    "litevae/discriminator.py": [
        ("torch.cat([x, skips.pop()], 1)", "torch.cat([x, skips.pop()*(len(skips) > 1)], 1)", "test_every_halving_has_its_skip"),
        ("skips.append(block(skips[-1]))", "skips.append(block(skips[-1]).detach())", "test_each_player_is_moved_by_its_own_loss"),
        ("6: (1, 2, 4, 8, 8, 16)", "6: (1, 2, 4, 8, 16, 16)", "test_published_widths_of_the_unet"),
        ("return (F.relu(1 - real).mean() + F.relu(1 + fake).mean())/2", "return (F.relu(1 - real).mean() + F.relu(1 + fake).mean())", "test_losses_of_the_game_where_the_logit_is_zero"),
        ("return (F.softplus(-real).mean() + F.softplus(fake).mean())/2", "return (F.softplus(-real).mean() + F.softplus(fake).mean())", "test_losses_of_the_game_where_the_logit_is_zero"),
        ("return F.softplus(-logits_fake.float()).mean()", "return 2*F.softplus(-logits_fake.float()).mean()", "test_losses_of_the_game_where_the_logit_is_zero")],
    "litevae/adversarial.py": [
        ("x_rec = x_rec.detach()", "x_rec = x_rec", "test_each_player_is_moved_by_its_own_loss"),
        ("with frozen(disc):", "if True:", "test_each_player_is_moved_by_its_own_loss"),
        ("progress - config.start - config.warmup", "progress - config.start", "test_the_weight_of_the_game_rises_after_the_warm_up"),
        ("(before + step)/total", "step/total", "tests/test_schedule.py::test_the_adversary_begins_once"),
        ("if progress >= c.start:", "if weight:", "tests/test_schedule.py::test_the_adversary_begins_once"),
        ("unet_mult(smallest or size)", "unet_mult(size)", "test_the_discriminator_is_made_for_the_smallest_size"),
        ("sizes = (part.smallest, part.largest) if part else ()", "sizes = (part.largest, part.largest) if part else ()", "tests/test_schedule.py::test_the_named_discriminator_is_made_for_the_smallest_size"),
        ("config.weight*min(1., since/config.ramp)", "config.weight*min(1., since)", "test_the_weight_of_the_game_rises_after_the_warm_up"),
        ("Adam(disc.parameters(), lr, self.config.betas)", "Adam(disc.parameters(), lr, config.betas)", "test_the_discriminator_has_its_own_adam"),
        ("lr, disc = self.config.lr or config.lr", "lr, disc = config.lr", "test_the_discriminator_has_its_own_adam")],
    "litevae/adaptive.py": [
        ("delta:float=1e-4, # added", "delta:float=1e-2, # added", "test_the_adaptive_weight_has_latent_diffusions_guard_and_limit"),
        ("delta:float=1e-4, # latent", "delta:float=1e-2, # latent", "test_the_adaptive_weight_has_latent_diffusions_guard_and_limit"),
        ("limit:float=1e4, # largest", "limit:float=1e6, # largest", "test_the_adaptive_weight_has_latent_diffusions_guard_and_limit")],
    "litevae/analysis.py": [
        ("s*(z.shape[1]/4096)**.5", "s*(z.shape[1]/4096)", "test_the_width_of_table_6_is_for_4096_numbers")],
    "optim.py": [
        ("lr:float = 1e-4", "lr:float = 2e-4", "test_settings_of_every_run"),
        ("betas:tuple[float, ...] = (0.9, 0.999)", "betas:tuple[float, ...] = (0.9, 0.99)", "test_settings_of_every_run"),
        ("clip:float|None = 1.0", "clip:float|None = None", "test_settings_of_every_run"),
        ("ema:float = 0.999", "ema:float = 0.99", "test_settings_of_every_run"),
        ("seed:int = 0 ", "seed:int = 1 ", "test_settings_of_every_run"),
        ("warmup:int = 0 ", "warmup:int = 100 ", "test_settings_of_every_run"),
        ("batch_size:int = 16 ", "batch_size:int = 32 ", "test_settings_of_every_run"),
        ("return self.steps or 10_000", "return self.steps or 1_000", "test_settings_of_every_run"),
        ("(step + 1)/warmup", "step/warmup", "test_learning_rate_over_a_run"),
        ("rise*.5*(1 + math.cos", "rise*(1 + math.cos", "test_learning_rate_over_a_run"),
        ('group["lr"] = group["peak_lr"]*factor', 'group["lr"] = group["peak_lr"]', "test_steps_follow_the_schedule"),
        ("min(decay, (1 + n)/(10 + n))", "decay", "test_the_average_begins_near_the_weights"),
        ("decay:float=0.999, # final decay", "decay:float=0.99, # final decay", "test_the_average_begins_near_the_weights"),
        ("averages, weights, 1 - ema_decay(", "averages, weights, ema_decay(", "test_the_average_begins_near_the_weights"),
        ("Adam(params, config.lr, tuple(config.betas), fused=fused)", "Adam(params, config.lr, fused=fused)", "test_the_discriminator_has_its_own_adam")],
    "train.py": [
        ("limit = self.config.clip if clip and self.config.clip else math.inf", "limit = math.inf", "test_a_step_is_no_longer_than_the_clip"),
        ("self.acc.num_processes, seed=c.seed,", "self.acc.num_processes, seed=0,", "test_the_data_are_told_the_seed"),
        ("seed_everything((c.seed + acc.process_index) % 2**32)", "seed_everything(acc.process_index)", "test_the_data_are_told_the_seed"),
        ("ema.update(self.task.nets[k])", "pass", "test_a_litevae_comes_back_averaged"),
        ("start=self.step*c.grad_accum", "start=0", "tests/test_train.py::test_continued_equals_uninterrupted")],
    "data.py": [
        ("if i not in test]", "if True]", "test_a_collection_is_split"),
        ("min(n, len(source)//10)", "min(n, len(source)//2)", "test_a_collection_is_split"),
        ("n:int=8, # images to hold out", "n:int=16, # images to hold out", "test_a_collection_is_split"),
        ('open_source(data, split="test", **given)', 'open_source(data, split="train", **given)', "test_the_packages_own_sets_are_split")],
    "crops.py": [
        ("mirror = self.train and self.flip and", "mirror = self.flip and rng is not None and", "test_nothing_is_mirrored_in_evaluation"),
        ("flip:bool=True, # mirror half", "flip:bool=False, # mirror half", "test_half_of_the_training_crops_are_mirrored_and_order_and_crops_follow_the_seed"),
        ("rng.random() < 0.5", "rng.random() < 0.1", "test_half_of_the_training_crops_are_mirrored_and_order_and_crops_follow_the_seed"),
        ("default_rng([seed, 1, p])", "default_rng([1, p])", "test_half_of_the_training_crops_are_mirrored_and_order_and_crops_follow_the_seed"),
        ("default_rng([self.seed, 0, epoch])", "default_rng([0, epoch])", "test_half_of_the_training_crops_are_mirrored_and_order_and_crops_follow_the_seed"),
        ("default_rng([self.seed, 0, epoch])", "default_rng([self.seed, 0])", "test_half_of_the_training_crops_are_mirrored_and_order_and_crops_follow_the_seed"),
        ("scale:tuple=(0.5, 1.0)", "scale:tuple=(0.8, 1.0)", "test_sides_of_training_crops_are_between_half_and_all"),
        ("round(short*rng.uniform(*scale))", "round(short*scale[0])", "test_sides_of_training_crops_are_between_half_and_all")],
    "perceptual.py": [
        ("return model(x, y).flatten().float()", "return model(x, y, normalize=True).flatten().float()", "test_lpips_is_told_that_images_are_in_minus_one_to_one")],
    "metrics.py": [
        ("c1, c2 = 0.01**2, 0.03**2", "c1, c2 = 0.02**2, 0.03**2", "test_ssim_of_two_flat_images"),
        ("c1, c2 = 0.01**2, 0.03**2", "c1, c2 = 0.01**2, 0.02**2", "test_ssim_of_stripes"),
        ("gaussian_window(11, 1.5)", "gaussian_window(11, 2.)", "tests/test_metrics.py::test_ssim_equal_to_skimage_and_torchmetrics"),
        ("x, y = to_unit(x, y)\n    return (x - y)", "return (x - y)", "test_errors_are_measured_on_zero_to_one"),
        ('padding:str="zero", # borders included, as Diff-AE', 'padding:str="valid", # borders included, as Diff-AE', "test_ssim_of_two_flat_images")],
    "distances.py": [
        ("- 2 * overlap\n", "- overlap\n", "tests/test_fid.py::test_closed_form_of_two_gaussians"),
        ("distance = between + values.sum()", "distance = values.sum()", "tests/test_fid.py::test_closed_form_of_two_gaussians"),
        ("* 127.5).round().to(torch.uint8)", "* 127.5).to(torch.uint8)", "test_centres_of_all_images_are_measured_as_bytes"),
        ("size:int=128, # input size of the network, pixels\n               batch_size:int=64, # images at a time\n               device:str|torch.device|None=None, # None: where the images are\n              )",
         "size:int=64, # input size of the network, pixels\n               batch_size:int=64, # images at a time\n               device:str|torch.device|None=None, # None: where the images are\n              )",
         "test_the_input_of_alexnet_is_128_pixels_wide")],
    "diffusion/schedule.py": [
        ("torch.linspace(1e-4*1000/n, 0.02*1000/n", "torch.linspace(1e-4*1000/n, 0.012*1000/n", "test_noise_levels_are_the_published_ones"),
        ("beta:float=0.008", "beta:float=0.01", "test_noise_levels_are_the_published_ones")],
    "diffusion/ddim.py": [
        ("(1 - abar_from/abar_to))**0.5", "(1 - abar_from/abar_to))", "tests/test_eta.py::test_the_noise_of_eta_one_has_the_variance_of_the_posterior"),
        ("eta*((1 - abar_to)/(1 - abar_from)*(1", "eta*((1", "tests/test_eta.py::test_the_noise_of_eta_one_has_the_variance_of_the_posterior"),
        ("return eta*((1 - abar_to)", "return eta**2*((1 - abar_to)", "tests/test_eta.py::test_decode_is_that_of_diffusers"),
        ("kept = (1 - abar_to - sigma**2)**0.5", "kept = (1 - abar_to)**0.5", "tests/test_eta.py::test_decode_is_that_of_diffusers"),
        ("eta:float=0., # part of fresh noise", "eta:float=1., # part of fresh noise", "tests/test_eta.py::test_zero_is_the_sampler_as_it_was"),
        ("eps = predict_eps(x, x_0, abar_from)", "pass", "test_a_clamped_image_changes_the_noise"),
        ("clip:bool=True, # clamp each predicted image to [-1, 1]; never", "clip:bool=False, # clamp each predicted image to [-1, 1]; never", "test_images_are_clamped_and_codes_never")],
    "diffusion/inversion.py": [
        ("alphas_cumprod[steps].tolist() + [0.]", "alphas_cumprod[steps].tolist() + [schedule.alphas_cumprod[-1].item()]", "test_the_official_inversion_ends_in_noise_alone")],
    "diffusion/weights.py": [
        ("gamma:float=5.", "gamma:float=1.", "test_min_snr"),
        ('"v": snr + 1', '"v": snr', "test_min_snr"),
        ('"flow": (snr**0.5 + 1)**2', '"flow": snr + 1', "test_min_snr"),
        ("error.square().mean((1, 2, 3))", "error.square().sum((1, 2, 3))", "test_the_loss_draws_every_step_and_weighs_all_alike")],
    "diffusion/model.py": [
        ("fresh = dict(eta=eta, generator=generator) if eta else {}", "fresh = dict(eta=eta) if eta else {}", "tests/test_eta.py::test_decode_is_that_of_diffusers"),
        ("return abar.sqrt()*eps - (1 - abar).sqrt()*x_0", "return abar.sqrt()*eps + (1 - abar).sqrt()*x_0", "test_targets_of_the_network"),
        ("return eps - x_0", "return x_0 - eps", "test_targets_of_the_network"),
        ("told = network_time(unet.config, t, schedule)", "told = t", "tests/test_flow.py::test_the_loss_by_hand"),
        ('loss_weight: str = "none"', 'loss_weight: str = "min_snr"', "test_the_loss_draws_every_step_and_weighs_all_alike"),
        ("torch.randint(len(schedule), x_0", "torch.randint(len(schedule)//2, x_0", "test_the_loss_draws_every_step_and_weighs_all_alike"),
        ("return torch.randn_like(x_0)", "return torch.rand_like(x_0)", "test_the_loss_draws_every_step_and_weighs_all_alike")],
    "diffusion/flow.py": [
        ("return abar**0.5 + (1 - abar)**0.5", "return 1.", "tests/test_flow.py::test_both_paths_visit_the_same_states")],
    "latent/flow.py": [
        ("torch.linspace(1, 1e-3, n_steps", "torch.linspace(1, 0, n_steps", "tests/test_flow.py::test_first_order_of_dpm_is_euler"),
        ('kind:str="logit-normal"', 'kind:str="uniform"', "tests/test_flow.py::test_times_of_training"),
        ("mean:float=0., # mean of the logit", "mean:float=0.5, # mean of the logit", "tests/test_flow.py::test_the_defaults_of_the_times"),
        ("std:float=1., # standard deviation of the logit", "std:float=2., # standard deviation of the logit", "tests/test_flow.py::test_the_defaults_of_the_times")],
    "diffusion/unet.py": [
        ("(1000*flow_time(", "(flow_time(", "tests/test_flow.py::test_target_and_time_of_a_network"),
        ("dropout: float = 0.1", "dropout: float = 0.", "test_recipe_of_diffae")],
    "diffae/model.py": [
        ("fresh = dict(eta=eta, generator=generator) if eta else {}", "fresh = dict(eta=eta) if eta else {}", "tests/test_eta.py::test_decode_is_that_of_diffusers"),
        ("fresh = dict(eta=eta, generator=generator) if eta else {}", "fresh = {}", "tests/test_eta.py::test_decode_is_that_of_diffusers"),
        ("torch.sin((1 - alpha)*theta)*a", "torch.sin(alpha*theta)*a", "test_latents_of_two_images_meet_on_an_arc"),
        ("strength:float=0.3, # on a line", "strength:float=1., # on a line", "test_an_edit_goes_strength_times_the_root_of_the_size")],
    "diffae/train.py": [
        ("_published = dict(lr=1e-4", "_published = dict(lr=2e-4", "test_recipe_of_diffae"),
        ("_published = dict(lr=1e-4, ema=0.9999", "_published = dict(lr=1e-4, ema=0.999", "test_recipe_of_diffae"),
        ('64 if preset.endswith("256") else 128', "128", "test_recipe_of_diffae"),
        ('"diffae-ffhq128": {"130M": "Tables 1 and 4", "72M": _released', '"diffae-ffhq128": {"72M": _released, "130M": "Tables 1 and 4"', "test_recipe_of_diffae"),
        ('"diffae-bedroom128": {"120M"', '"diffae-bedroom128": {"130M"', "test_recipe_of_diffae"),
        ("*1_000_000", "*100_000", "test_recipe_of_diffae"),
        ('averaged = run.averaged("model").net', 'averaged = run.task.nets["model"].net', "test_a_diffae_comes_back_averaged"),
        ("crops = Crops(source, size, scale=(1., 1.)", "crops = Crops(source, size, scale=(.5, 1.)", "test_diffae_trains_on_whole_faces_mirrored_or_not"),
        ("z_sem.roll(1, 0)", "z_sem", "test_swapped_codes_are_other_peoples"),
        ("t:tuple=(100, 300, 500, 700, 900)", "t:tuple=(900,)", "test_swapped_codes_are_other_peoples"),
        ("model = _new_model(preset, config.seed)", "model = _new_model(preset, 0)", "test_the_seed_of_a_run_decides_its_random_weights")],
    "diffae/prior.py": [
        ('averaged = run.averaged("model").net', 'averaged = run.task.nets["model"].net', "test_a_prior_comes_back_averaged_and_knows_its_training_codes"),
        ("partial(code_batches, codes.normalized())", "partial(code_batches, codes.z_sem)", "test_a_prior_is_trained_on_normalised_codes"),
        ("prior.z_sem_std.copy_(codes.std)", "prior.z_sem_std.fill_(1.)", "test_a_prior_comes_back_averaged_and_knows_its_training_codes"),
        ("_ffhq = dict(images=101_000_000", "_ffhq = dict(images=10_000_000", "test_recipe_of_the_latent_ddim"),
        ("_ffhq = dict(images=101_000_000, batch_size=256, weight_decay=0.01)", "_ffhq = dict(images=101_000_000, batch_size=256, weight_decay=0.)", "test_recipe_of_the_latent_ddim"),
        ("batch_size=2048, weight_decay=0.)", "batch_size=2048, weight_decay=0.01)", "test_recipe_of_the_latent_ddim"),
        ("images=301_000_000, batch_size=512, weight_decay=0.01", "images=301_000_000, batch_size=256, weight_decay=0.01", "test_recipe_of_the_latent_ddim"),
        ('"latent-horse128": _lsun', '"latent-horse128": _ffhq', "test_recipe_of_the_latent_ddim"),
        ("published_priors.get(preset, _ffhq)", "published_priors.get(preset, _lsun)", "test_recipe_of_the_latent_ddim"),
        ("images=2_001_000_000, batch_size=2048", "images=2_001_000_000, batch_size=256", "test_recipe_of_the_latent_ddim"),
        ("TrainConfig(**run, lr=1e-4, ema=0.9999", "TrainConfig(**run, lr=1e-4, ema=0.999", "test_recipe_of_the_latent_ddim"),
        ('loss:str="l1", # as in the paper', 'loss:str="mse", # as in the paper', "test_recipe_of_the_latent_ddim"),
        ("weight_decay:float=0.01, # for AdamW\n", "weight_decay:float=0., # for AdamW\n", "test_recipe_of_the_latent_ddim"),
        ("start_prior(prior, codes, config.seed)", "start_prior(prior, codes)", "test_the_seed_of_a_run_decides_its_random_weights")],
    "diffae/latent.py": [
        ("schedule, clip=False, callback=callback)", "schedule, clip=True, callback=callback)", "test_images_are_clamped_and_codes_never"),
        ('(gap.abs() if kind == "l1" else gap.square())', "gap.square()", "test_recipe_of_the_latent_ddim"),
        ("return z*self.z_sem_std + self.z_sem_mean", "return z", "test_a_generator_decides_the_noise"),
        ("_deep = LatentDDIMConfig(n_layers=20)", "_deep = LatentDDIMConfig()", "test_recipe_of_the_latent_ddim"),
        ("schedule = Schedule(const_betas())", "schedule = Schedule(const_betas(0.01))", "test_noise_levels_are_the_published_ones")],
    "diffae/codes.py": [
        ("for z in pieces)/(n - 1)", "for z in pieces)/n", "test_a_prior_is_trained_on_normalised_codes"),
        ("return replace(self, z_sem=self.z_sem[keep], files=files, attributes=attributes)",
         "return Codes.of(self.z_sem[keep], files=files, attributes=attributes, names=self.names)", "test_some_of_the_codes_keep_the_statistics_of_all"),
        ("order = Order(len(z), seed)", "order = Order(len(z), 0)", "test_codes_in_a_fresh_order_every_epoch")],
    "diffae/code_cache.py": [
        ("crops.size, train=False, in_channels=crops.in_channels)", "crops.size, train=True, in_channels=crops.in_channels)", "test_images_are_encoded_unmirrored")],
    "diffae/scores.py": [
        ('open_source("avatars", split=split)', 'open_source("avatars", split="train")', "test_faces_of_the_tables_are_held_out")],
    "diffae/manipulate.py": [
        ("strength*D**0.5*direction", "strength*direction", "test_an_edit_goes_strength_times_the_root_of_the_size"),
        ("return w/w.norm()", "return w", "test_an_edit_goes_strength_times_the_root_of_the_size"),
        ("direction.to(z_sem)*self.z_sem_std", "direction.to(z_sem)", "test_an_edit_goes_strength_times_the_root_of_the_size"),
        ("z = (z_sem - self.z_sem_mean)/self.z_sem_std", "z = z_sem - self.z_sem_mean", "test_an_edit_goes_strength_times_the_root_of_the_size"),
        ("n_samples:int=300_000", "n_samples:int=100_000", "test_recipe_of_the_classifiers"),
        ("lr:float=1e-3, # learning rate", "lr:float=1e-2, # learning rate", "test_recipe_of_the_classifiers")],
    "diffae/official.py": [
        ('name.startswith("ema_classifier.")', 'name.startswith("classifier.")', "test_the_plain_classifier_of_a_checkpoint_is_used"),
        ('prefixes = ("ema_model.", "model.")', 'prefixes = ("model.", "ema_model.")', "tests/test_official.py::test_autoencoder")],
    "diffae/classcond.py": [
        ("< logits.sigmoid()", "< (2*logits).sigmoid()", "test_codes_are_accepted_with_their_probability"),
        ("return logits > 0", "return logits > 0.5", "test_codes_are_accepted_with_their_probability"),
        ("(-logits if negative else logits)", "logits", "test_codes_are_accepted_with_their_probability"),
        ("n_samples:int=100_000", "n_samples:int=10_000", "test_recipe_of_the_classifiers"),
        ("generator=torch.Generator().manual_seed(seed))[:n]]", "generator=torch.Generator().manual_seed(0))[:n]]", "test_labels_of_an_experiment_follow_the_seed"),
        ("labels == value", "labels == 1 - value", "test_labels_of_an_experiment_follow_the_seed"),
        ("half, rows = (batch_size + 1)//2,", "half, rows = (batch_size + 1)//4,", "test_as_many_positives_as_others")],
    "experiments/measures.py": [
        ("y = model(x).sample.float()", "y = model(x, sample_posterior=True).sample.float()", "test_centres_of_all_images_are_measured_as_bytes"),
        ("measure(x, y).double().sum().item()", "measure(x, y).double().mean().item()", "test_centres_of_all_images_are_measured_as_bytes"),
        ("n += len(x)", "n += batch_size", "test_centres_of_all_images_are_measured_as_bytes"),
        ("zip(stats[name], (x, y))", "zip(stats[name], (x, x))", "test_centres_of_all_images_are_measured_as_bytes"),
        ("net(image_bytes(to_rgb(images)))", "net(((to_rgb(images) + 1)*127.5).clamp(0, 255).to(torch.uint8))", "test_centres_of_all_images_are_measured_as_bytes"),
        ('columns = dict(alexnet="fd", inception="rfid")', 'columns = dict(alexnet="rfid", inception="fd")', "test_centres_of_all_images_are_measured_as_bytes"),
        ("crops = Crops(source, size, train=False, in_channels", "crops = Crops(source, size, train=True, in_channels", "test_centres_of_all_images_are_measured_as_bytes"),
        ('source = open_images(data, "test")', 'source = open_images(data, "train")', "test_held_out_crops_are_of_held_out_photographs"),
        ("default_rng([2026, i])", "default_rng()", "test_held_out_crops_are_of_held_out_photographs"),
        ("default_rng([2026, i])", "default_rng([2027, i])", "test_the_crops_of_the_tables_are_these"),
        ("default_rng([2026, i])", "default_rng(2026)", "test_held_out_crops_are_of_held_out_photographs"),
        ("tuple(scale), flip=False)", "tuple(scale), flip=True)", "test_held_out_crops_are_of_held_out_photographs"),
        ("fd_size:int=128", "fd_size:int=64", "test_the_input_of_alexnet_is_128_pixels_wide")],
    "experiments/runs.py": [
        ("divide_batch(recipe),", "recipe,", "test_a_step_stays_the_published_step_on_any_number_of_gpus"),
        ('config.get("carry", False)', "True", "test_a_row_is_trained_as_it_says"),
        ('config.get("carry", False)', "False", "test_a_row_is_trained_as_it_says"),
        ("max(sizes), min(sizes)", "max(sizes), max(sizes)", "test_the_discriminator_is_made_for_the_smallest_size"),
        ("row_key(config, seed, this_setting(scale))", "row_key(config, seed)", "test_a_run_at_paper_scale_is_named_by_its_setting"),
        ('"paper" if isinstance(config["data"], list) else "small"', '"paper"', "test_a_run_at_paper_scale_is_named_by_its_setting"),
        ('open_images(held_out_data(config), "test")', 'open_images(held_out_data(config), "train")', "test_further_scores_are_of_held_out_images"),
        ('TrainConfig().with_changes(**config["train"], seed=seed)', 'TrainConfig().with_changes(**config["train"])', "test_a_row_is_trained_as_it_says"),
        ("model = _first_model(config, seed,", "model = _first_model(config, 0,", "test_a_row_is_trained_as_it_says"),
        ('lpips_net=config.get("lpips_net", "alex")', 'lpips_net="alex"', "test_a_row_is_trained_as_it_says"),
        ('equivariance=config.get("equivariance", 0.)', "equivariance=0.", "test_a_row_is_trained_as_it_says"),
        ('LossWeights(**config["weights"]), config["scale"]', 'LossWeights(), config["scale"]', "test_a_row_is_trained_as_it_says"),
        ('if "adversarial" not in config: return train_litevae', "return train_litevae", "test_a_row_is_trained_as_it_says"),
        ('config["measure"].get("data", config["data"])', 'config["data"]', "test_paper_rows_are_measured_on_other_images")],
    "experiments/latents.py": [
        ('open_images(held_out_data(of), "test")', 'open_images(held_out_data(of), "train")', "test_further_scores_are_of_held_out_images")],
    "experiments/recipes.py": [
        ('("imagenet", 128): 200_000', '("imagenet", 128): 100_000', "test_paper_rows_have_the_published_training"),
        ("paper_steps.get((data, size), PAPER.config.steps)", 'paper_steps[("imagenet", 128)]', "test_paper_rows_have_the_published_training"),
        ('"batch_size", "grad_accum", "lr", "ema", "clip", "log_every"', '"batch_size", "lr", "ema", "clip", "log_every"', "test_paper_rows_have_the_published_training"),
        ('"batch_size", "grad_accum", "lr", "ema", "clip", "log_every"', '"grad_accum", "ema", "clip", "log_every"', "tests/test_paper_rows.py::test_what_is_published_is_in_the_row"),
        ('"lr", "ema", "clip", "log_every"', '"lr", "log_every"', "test_paper_rows_have_the_published_training"),
        ("betas=list(PAPER.config.betas)", "betas=[.9, .999]", "test_paper_rows_have_the_published_training"),
        ("scale=list(PAPER.scale), train=paper_train", "scale=photo_scale, train=paper_train", "test_paper_rows_have_the_published_training"),
        ("{**paper_weights, **weights}", "{**small_weights, **weights}", "test_paper_rows_have_the_published_training"),
        ("carry=True)", "carry=False)", "test_paper_rows_have_the_published_training"),
        ("no_details = dict(wavelet=0., gaussian=0.)", "no_details = dict(wavelet=0.)", "tests/test_paper_rows.py::test_what_is_published_is_in_the_row"),
        ('data=[data, "train"]', 'data=[data, "test"]', "test_paper_rows_are_measured_on_other_images"),
        ('data=[data, "test"], rfid=True', 'data=[data, "train"], rfid=True', "test_paper_rows_are_measured_on_other_images"),
        ('data=[data, "test"], rfid=True', 'data=[data, "test"], rfid=False', "test_paper_rows_are_measured_on_other_images"),
        ('crops="centre"', 'crops="random"', "test_paper_rows_are_measured_on_other_images"),
        ("share = old.batch_size*old.grad_accum/total", "share = old.batch_size/total", "tests/test_paper_rows.py::test_another_batch_is_another_row")],
    "experiments/schedules.py": [
        ('"half, then full": {2: 4, 1: 2}}', '"half, then full": {2: 2, 1: 4}}', "test_half_the_resolution_first_takes_two_thirds_of_the_steps"),
        ("phases=phases_of(plan, PAPER_SIDE, PAPER_STEPS)", "phases=phases_of(plan, PAPER_SIDE, 100_000)", "test_paper_rows_have_the_published_training"),
        ("paper_row(model, size=PAPER_SIDE", "paper_row(model, size=128", "test_sizes_of_the_paper_rows")],
    "experiments/networks.py": [
        ("changed_model(four_paper, quant_conv=True)", "four_paper", "test_an_ablation_changes_what_it_says"),
        ("changed_model(four_small, quant_conv=True)", "four_small", "test_an_ablation_changes_what_it_says"),
        ("changed_model(four_paper, band_levels=[2, 3])", "changed_model(four_paper, band_levels=[1, 2])", "test_an_ablation_changes_what_it_says"),
        ("changed_model(long_paper, shared_extractor=True)", "long_paper", "test_an_ablation_changes_what_it_says"),
        ('changed_model(base_paper, extractor="nafnet")', "base_paper", "test_an_ablation_changes_what_it_says"),
        ('changed_model(base_paper, aggregator="vit")', "base_paper", "test_an_ablation_changes_what_it_says"),
        ('"LiteVAE-M": full_row("LiteVAE-M", 12)', '"LiteVAE-M": full_row("LiteVAE-B", 12)', "test_no_two_rows_of_a_table_are_the_same"),
        ('four_paper = paper_row(lite("b", z_channels=4), size=256)', 'four_paper = paper_row(lite("b", z_channels=4))', "test_sizes_of_the_paper_rows"),
        ("_costs(batch=32,", "_costs(batch=16,", "test_sizes_of_the_paper_rows")],
    "experiments/losses.py": [
        ('"+ Gaussian": dict(weights=dict(gaussian=.5))', '"+ Gaussian": dict(weights=dict(gaussian=.1))', "test_an_ablation_changes_what_it_says"),
        ("dict(adaptive=True, weight=.5)", "dict(adaptive=True)", "test_an_ablation_changes_what_it_says")],
    "experiments/adversary.py": [
        ('dict(adversary=dict(loss="logistic"))', "dict(adversary={})", "test_an_ablation_changes_what_it_says")],
    "experiments/autoencoding.py": [
        ("x_T = model.invert(x, *z, n_steps=T)\n        found", "x_T = model.invert(x.roll(1, 0), *z, n_steps=T)\n        found", "test_an_image_is_decoded_from_its_own_noise"),
        ("model.decode(x_T, *z, n_steps=T)), f", "model.decode(x_T, *z, n_steps=10)), f", "test_an_image_is_decoded_from_its_own_noise"),
        ("alone = model.decode(noise, *z, n_steps=T)", "alone = model.decode(x_T, *z, n_steps=T)", "test_random_noise_keeps_the_code_and_follows_the_seed"),
        ("total, n, g = {}, 0, torch.Generator().manual_seed(seed)", "total, n, g = {}, 0, torch.Generator().manual_seed(0)", "test_random_noise_keeps_the_code_and_follows_the_seed"),
        ("[torch.randn(x.shape[1:], generator=generator) for _ in range(len(x))]", "torch.randn(x.shape, generator=generator).unbind()", "tests/test_paper_diffae.py::test_the_noise_of_an_image_is_its_own"),
        ("total.get(k, 0.) + v*len(x)", "total.get(k, 0.) + v", "tests/test_paper_diffae.py::test_autoencoding_is_a_mean_over_images_whatever_the_batch"),
        ("own_noise(x, g), n_steps)", "own_noise(x, torch.Generator().manual_seed(seed)), n_steps)", "tests/test_paper_diffae.py::test_autoencoding_is_a_mean_over_images_whatever_the_batch"),
        ("fit(fit, a).score(ask, b)", "fit(fit, a).score(fit, a)", "test_a_probe_is_asked_about_other_codes"),
        ('x, _, _ = load_faces("test", n, model', 'x, _, _ = load_faces("train", n, model', "test_faces_of_the_tables_are_held_out")],
    "experiments/classcond.py": [
        ("return rows[spare*n:], rows", "return rows, rows", "test_images_of_a_class_are_set_aside_for_the_floor"),
        ("rows[n*seed:n*(seed + 1)]\n", "rows[:n]\n", "test_images_of_a_class_are_set_aside_for_the_floor")],
    "processes.py": [
        ("n = n_processes() if n is None else n", "n = n or 1", "test_a_step_stays_the_published_step_on_any_number_of_gpus"),
        ("total = config.batch_size*config.grad_accum\n    if total % n", "total = config.batch_size\n    if total % n", "test_a_step_stays_the_published_step_on_any_number_of_gpus"),
        ("own, most = total//n, min(", "own, most = total, min(", "test_a_step_stays_the_published_step_on_any_number_of_gpus"),
        ("largest = max(b for b in range(1, most + 1) if own", "largest = min(b for b in range(1, most + 1) if own", "test_a_step_stays_the_published_step_on_any_number_of_gpus"),
        ("if total % n:", "if False:", "test_a_batch_that_cannot_be_divided"),
        ("_most[0] or config.batch_size", "config.batch_size", "test_micro_batches_are_as_large_as_they_may_be"),
        ("_most[0] = before", "pass", "test_micro_batches_are_as_large_as_they_may_be"),
        ("was = config.batch_size*config.grad_accum", "was = config.batch_size", "test_another_batch_sees_as_many_images"),
        ("round(config.steps/k)", "round(config.steps*k)", "test_another_batch_sees_as_many_images"),
        ("config.steps and max(1, round(config.steps/k))", "config.steps", "test_another_batch_sees_as_many_images"),
        ("lr=config.lr*math.sqrt(k)", "lr=config.lr*k", "test_another_batch_sees_as_many_images"),
        ("ema=config.ema**k", "ema=config.ema", "test_another_batch_sees_as_many_images"),
        ("warmup=round(config.warmup/k)", "warmup=config.warmup", "test_another_batch_sees_as_many_images"),
        ("largest = max(b for b in range(1, config.batch_size + 1)", "largest = min(b for b in range(1, config.batch_size + 1)", "test_another_batch_sees_as_many_images")],
    "resume.py": [
        ('carry=False"\n    _load_nets(run, folder, ways)', 'carry=False"', "test_what_is_carried_from_phase_to_phase"),
        ('ema.n = state.get("averages", {}).get(k, state["step"])\n    saved = ', "ema.n = 0\n    saved = ", "test_what_is_carried_from_phase_to_phase"),
        ('ema.n = state.get("averages", {}).get(k, state["step"])\n    saved, rank', "ema.n = 0\n    saved, rank", "tests/test_train.py::test_continued_equals_uninterrupted"),
        ("opt.load_state_dict(dict(state=state, param_groups=own))", "pass", "test_what_is_carried_from_phase_to_phase"),
        ("opt.load_state_dict(dict(state=state, param_groups=own))", 'opt.load_state_dict(saved["optimizers"][k])', "test_what_is_carried_from_phase_to_phase")],
    "experiments/places.py": [
        ("ranges=dict(train=(10_000, 70_000), test=(0, 10_000))", "ranges=dict(train=(0, 60_000), test=(60_000, 70_000))", "test_the_first_images_are_held_out"),
        ("train=(10_000, 70_000)", "train=(0, 70_000)", "test_the_first_images_are_held_out"),
        ("test=(0, 10_000)", "test=(0, 20_000)", "test_the_first_images_are_held_out"),
        ("train=(5_000, None)", "train=(0, None)", "test_the_first_images_are_held_out"),
        ("test=(0, 5_000)", "test=(0, 6_000)", "test_the_first_images_are_held_out"),
        ("range(first, last or len(source))", "range(first, last or len(source) - 1)", "test_the_first_images_are_held_out"),
        ('test=("val", "validation")', 'test=("train",)', "test_imagenet_is_measured_on_its_validation_set"),
        ('test=("ILSVRC/imagenet-1k", "validation")', 'test=("ILSVRC/imagenet-1k", "train")', "test_splits_on_the_hub"),
        ('"train[10000:]"', '"train"', "test_splits_on_the_hub"),
        ('"train[:10000]"', '"train"', "test_splits_on_the_hub"),
        ('"train+validation"', '"train"', "test_splits_on_the_hub"),
        ("test=50_000", "test=100_000", "test_published_numbers_of_images"),
        ("dict(all=202_599)", "dict(all=202_500)", "test_published_numbers_of_images"),
        ('crop="d2c"', 'crop=""', "test_published_numbers_of_images")],
    "experiments/records.py": [
        ("[config, seed] + ([setting] if setting else [])", "[config, seed]", "test_a_run_at_paper_scale_is_named_by_its_setting"),
        ("[config, seed] + ([setting] if setting else [])", "[config] + ([setting] if setting else [])", "test_a_run_at_paper_scale_is_named_by_its_setting"),
        ('if scale == "small": return None', 'if scale == "paper": return None', "test_a_run_at_paper_scale_is_named_by_its_setting"),
        ("dict(processes=n_processes(), versions=found)", "dict(processes=1, versions=found)", "test_a_run_at_paper_scale_is_named_by_its_setting"),
        ('v.split(".")[:2]', 'v.split(".")[:1]', "test_a_run_at_paper_scale_is_named_by_its_setting"),
        ('in_key = ("litevae_diffae", "torch")', 'in_key = ("litevae_diffae",)', "test_a_run_at_paper_scale_is_named_by_its_setting")],
    "fid.py": [
        ("return self.scatter/(self.n - 1)", "return self.scatter/self.n", "tests/test_fid.py::test_statistics_are_those_of_all_features_at_once"),
        ("alpha=self.n*n/total", "alpha=n/total", "tests/test_fid.py::test_statistics_are_those_of_all_features_at_once"),
        ("self.mean + gap*(n/total)", "self.mean + gap/2", "tests/test_fid.py::test_statistics_are_those_of_all_features_at_once"),
        ("f = f.detach().cpu().double()\n        mean", "f = f.detach().cpu().float()\n        mean", "tests/test_fid.py::test_digits_are_not_lost_to_a_large_mean"),
        ("x.float()/127.5 - 1, 128)", "x.float()/127.5 - 1, 64)", "tests/test_fid.py::test_alexnet_features_are_those_of_the_lpips_network")],
    "core.py": [
        ("torch.randn(shape, generator=generator, device=source", "torch.randn(shape, device=source", "test_a_generator_decides_the_noise"),
        ("torch.randn(shape, generator", "torch.rand(shape, generator", "test_a_generator_decides_the_noise"),
        ("    torch.manual_seed(seed)\n", "", "test_the_seed_of_a_run_decides_its_random_weights")],
    "avatars.py": [
        ("avatars/{name}.npy.xz", "avatars/train.npy.xz", "test_the_packages_own_sets_are_split")],
    "photos.py": [
        ('if check_split(split) == "test": return _held_out()', 'if not check_split(split): return _held_out()', "test_the_packages_own_sets_are_split")],
    "litevae/cutmix.py": [
        ("side = (share.sqrt()*length).round()", "side = (share*length).round()", "test_cutmix_boxes_have_an_area_uniform_in_the_image")],
    "experiments/faces.py": [
        ("g = torch.Generator().manual_seed(seed)\n    if z_sem", "g = torch.Generator().manual_seed(0)\n    if z_sem", "test_drawn_images_follow_the_seed_and_keep_their_codes")],
    "experiments/samples.py": [
        ("code_scores(codes[order[n:]]", "code_scores(codes[order]", "test_the_floor_of_codes_is_of_other_images")]})


def occurrences(m, root=ROOT):
    "How often the old text is in its file."
    return (root/PACKAGE/m.file).read_text(encoding="utf-8").count(m.old)


def copy_package(folder, root=ROOT):
    "The package below `folder`; what is no Python is linked."
    def place(source, target): (shutil.copy2 if source.endswith(".py") else os.symlink)(source, target)
    return shutil.copytree(root/PACKAGE, Path(folder)/PACKAGE, copy_function=place, ignore=shutil.ignore_patterns("__pycache__"))


HEAVY = ("torch", "torchvision", "pytest", "xdist", "lpips", "accelerate", "safetensors.torch", "sklearn.linear_model", "skimage.data", "matplotlib.pyplot",
         "torchmetrics.image.fid", "huggingface_hub") # what tests import besides the package: it takes longer than most of them


def pytest_command(nodes): return ["-n", "0", "-x", "-q", "--durations=0", "-p", "no:cacheprovider", *(str(ROOT/node) for node in nodes)]


def run_tests(nodes, package):
    "Exit status and output of pytest in a process of its own, with the copy of the package in front."
    env = dict(os.environ, PYTHONPATH=str(package.parent), OMP_NUM_THREADS="1")
    done = subprocess.run([sys.executable, "-m", "pytest", *pytest_command(nodes)], env=env, cwd=package.parent, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


def run_forked(nodes, package):
    "The same in a child of this process, which has the heavy imports already; the package must not be among them."
    assert PACKAGE not in sys.modules
    with tempfile.TemporaryFile() as said:
        sys.stdout.flush()
        if (child := os.fork()) == 0:
            for number in (1, 2): os.dup2(said.fileno(), number)
            os.chdir(package.parent)
            sys.path.insert(0, str(package.parent))
            os.environ["PYTHONPATH"] = str(package.parent)
            import pytest
            status = pytest.main(pytest_command(nodes))
            sys.stdout.flush()
            os._exit(int(status))
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        said.seek(0)
        return status, said.read().decode(errors="replace")


def node(m): return m.test if "::" in m.test else f"{TESTS}::{m.test}"


def noticed(m, package, run=run_tests, nodes=None):
    "Change the copy, run the test, change it back: did the test fail?"
    path = package/m.file
    source = path.read_text(encoding="utf-8")
    if source.count(m.old) != 1: raise ValueError(f"{m.file}: {m.old!r} must be there once, is there {source.count(m.old)} times")
    path.write_text(source.replace(m.old, m.new), encoding="utf-8")
    for compiled in (path.parent/"__pycache__").glob(f"{path.stem}.*"): compiled.unlink()
    try: status, said = run(nodes or [node(m)], package)
    finally:
        path.write_text(source, encoding="utf-8")
        for compiled in (path.parent/"__pycache__").glob(f"{path.stem}.*"): compiled.unlink()
    if status not in (0, 1): raise RuntimeError(f"{m.file}: {m.old!r}: pytest could not run\n{said[-2000:]}")
    return status == 1


def say(m): return f"{m.file}: {' '.join(m.old.split())[:70]}  ->  {' '.join(m.new.split())[:70]}"


def main(argv):
    words = [a for a in argv if not a.startswith("-")]
    chosen = [m for m in MUTATIONS if not words or any(w in part for w in words for part in (m.file, m.old, m.test))]
    if "--list" in argv:
        for m in chosen: print(f"{say(m)}  ({node(m)})")
        return 0
    survivors, began = [], time.time()
    os.environ["OMP_NUM_THREADS"] = "1"
    for name in HEAVY: importlib.import_module(name)
    with tempfile.TemporaryDirectory() as folder:
        package = copy_package(folder)
        nodes = sorted({node(m) for m in chosen})
        status, said = run_forked(nodes, package)
        if status: raise SystemExit(f"the tests must pass on the package as it is\n{said[-3000:]}")
        for m in chosen:
            seen = noticed(m, package, run_forked)
            if not seen: survivors.append(m)
            print("noticed " if seen else "SURVIVED", say(m), flush=True)
    print(f"{len(chosen) - len(survivors)} of {len(chosen)} changes were noticed, {time.time() - began:.0f} s")
    for m in survivors: print(f"SURVIVED {say(m)}  ({node(m)})")
    return bool(survivors)


if __name__ == "__main__": sys.exit(main(sys.argv[1:]))
