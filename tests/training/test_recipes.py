"""Every recipe: its values, what is built of it, and what it says of itself."""

import dataclasses

import keras
import numpy as np
import pytest

import keras_metaformer as km
from keras_metaformer.models import families
from keras_metaformer.training.recipe import Recipe
from keras_metaformer_lite.data.random_augment import RandAugment
from tests.training.fitting import small_model

RECIPES = km.training.list_recipes()
FAMILIES_FROM_SCRATCH = (
    "identityformer randformer poolformerv2 convformer caformer poolformer ffnet "
    "poolformer_hybrids resmlp mlp_mixer gmlp"
).split()

#: Of the official scripts: optimizer, rate, batch, epochs, warmup, cooldown, decay,
#: average.
PUBLISHED = {
    "identityformer-s12": ("adamw", 4e-3, 4096, 300, 5, 10, 0.05, None),
    "randformer-m48": ("adamw", 4e-3, 4096, 300, 5, 10, 0.05, None),
    "poolformerv2-s36": ("adamw", 4e-3, 4096, 300, 5, 10, 0.05, None),
    "convformer-s18": ("adamw", 4e-3, 4096, 300, 20, 10, 0.05, None),
    "caformer-b36": ("lamb", 8e-3, 4096, 300, 20, 10, 0.05, None),
    "convformer-m36-384": ("adamw", 5e-5, 1024, 30, 0, 0, 0.05, 0.9999),
    "caformer-s18-384": ("lamb", 1e-4, 1024, 30, 0, 0, 0.05, 0.9999),
    "caformer-s36-21k-1k": ("lamb", 1e-4, 1024, 30, 0, 0, 0.05, 0.9999),
    "poolformer-m48": ("adamw", 1e-3, 1024, 300, 5, 10, 0.05, None),
    "ffnet-1": ("adamw", 1e-3, 1024, 300, 5, 20, 0.05, 0.9995),
    "ffnet-2-distilled": ("adamw", 1e-3, 1024, 300, 5, 20, 0.05, 0.9995),
    "ffnet-4-384": ("adamw", 5e-6, 512, 30, 0, 0, 1e-8, 0.9995),
    "resmlp-12": ("lamb", 5e-3, 2048, 400, 5, 0, 0.2, 0.99996),
    "mlpmixer-b16": ("adamw", 1e-3, 4096, 300, 32, 0, 0.1, None),
    "gmlp-s16": ("adamw", 1e-3, 4096, 300, 32, 0, 0.05, None),
}
#: Stochastic depth and head dropout, by size from small to large.
RATES = {
    "identityformer": ((0.1, 0.1, 0.2, 0.3, 0.4), (0,) * 5),
    "randformer": ((0.1, 0.1, 0.2, 0.3, 0.3), (0,) * 5),
    "poolformerv2": ((0.1, 0.1, 0.2, 0.3, 0.4), (0,) * 5),
    "poolformer": ((0.1, 0.1, 0.2, 0.3, 0.4), (0,) * 5),
    "convformer": ((0.2, 0.3, 0.4, 0.6), (0,) * 4),
    "caformer": ((0.15, 0.3, 0.4, 0.6), (0, 0.4, 0.4, 0.5)),
    "convformer-384": ((0.3, 0.5, 0.8, 0.8), (0.4, 0.4, 0.5, 0.5)),
    "caformer-384": ((0.3, 0.5, 0.7, 0.8), (0.4, 0.4, 0.4, 0.5)),
    "ffnet": ((0.1, 0.15, 0.35), (0,) * 3),
    "ffnet-distilled": ((0.02, 0.08, 0.2), (0,) * 3),
    "ffnet-384": ((0.4, 0.5), (0,) * 2),
}


def _of_file(stem: str) -> list[Recipe]:
    """The recipes of a file, from small to large."""
    family, _, suffix = stem.partition("-")
    tail = f"-{suffix}" if suffix else ""
    names = [
        f"{family}-{name.removeprefix(family).lstrip('_')}".replace("_", "-") + tail
        for name in (
            variant.constructor.__name__.lower()
            for variant in sorted(
                map(families.get, families.names()),
                key=lambda variant: variant.parameters,
            )
            if variant.family == family
        )
    ]
    return [km.training.load_recipe(name) for name in names if name in RECIPES]


@pytest.mark.backend_independent
def test_every_family_has_a_recipe_from_scratch():
    models = {
        km.training.load_recipe(name).model
        for name in RECIPES
        if km.training.load_recipe(name).weights is None
    }
    found = {families.get(model).family for model in models if model}
    assert found == set(FAMILIES_FROM_SCRATCH)
    assert {"finetune", "linear-probe"} <= set(RECIPES)
    assert km.training.load_recipe().name == "finetune"


@pytest.mark.backend_independent
@pytest.mark.parametrize("name", PUBLISHED)
def test_the_optimization_is_the_published_one(name):
    recipe = km.training.load_recipe(name)
    assert PUBLISHED[name] == (
        recipe.optimizer,
        recipe.learning_rate,
        recipe.update_size,
        recipe.epochs,
        recipe.warmup_epochs,
        recipe.cooldown_epochs,
        recipe.weight_decay,
        recipe.average_decay,
    )


@pytest.mark.backend_independent
@pytest.mark.parametrize("stem", RATES)
def test_stochastic_depth_and_head_dropout_are_the_published_ones(stem):
    recipes = _of_file(stem)
    depths, dropouts = RATES[stem]
    assert tuple(recipe.stochastic_depth_rate for recipe in recipes) == depths
    assert tuple(recipe.head_dropout for recipe in recipes) == dropouts


@pytest.mark.backend_independent
@pytest.mark.parametrize("name", ["convformer-s18", "caformer-s18", "poolformer-s12"])
def test_the_augmentation_is_the_published_one(name):
    recipe = km.training.load_recipe(name)
    assert recipe.image_size == 224
    assert recipe.random_resized_crop_scale == (0.08, 1.0)
    assert recipe.random_resized_crop_ratio == (3 / 4, 4 / 3)
    assert recipe.interpolation == "random"
    assert recipe.horizontal_flip == 0.5
    assert recipe.rand_augment == "rand-m9-mstd0.5-inc1"
    assert recipe.color_jitter == 0.4
    assert (recipe.random_erasing, recipe.random_erasing_mode) == (0.25, "pixel")
    assert (recipe.mixup_alpha, recipe.cutmix_alpha) == (0.8, 1.0)
    assert (recipe.mixup_probability, recipe.mixup_switch_probability) == (1.0, 0.5)
    assert recipe.label_smoothing == 0.1


@pytest.mark.backend_independent
@pytest.mark.parametrize("name", RECIPES)
def test_the_policy_of_every_recipe_can_be_drawn_from(name):
    recipe = km.training.load_recipe(name)
    if recipe.rand_augment is None:
        assert name == "linear-probe"
        return
    policy = RandAugment.from_name(recipe.rand_augment)
    published = (10.0, 0.0, 2, 1.0) if "mixer" in name else (9.0, 0.5, 2, 0.5)
    assert published == (
        policy.magnitude,
        policy.magnitude_std,
        policy.layers,
        policy.probability,
    )


@pytest.mark.backend_independent
def test_fine_tuning_at_384_mixes_nothing_and_keeps_the_rest():
    for name in ("convformer-s18-384", "caformer-b36-384"):
        recipe = km.training.load_recipe(name)
        assert recipe.image_size == 384
        assert (recipe.mixup_alpha, recipe.cutmix_alpha) == (0, 0)
        assert recipe.label_smoothing == 0.1
        assert recipe.random_erasing == 0.25
        assert recipe.rand_augment == "rand-m9-mstd0.5-inc1"
        assert (recipe.weights, recipe.head) == ("imagenet", "keep")
        np.testing.assert_array_equal(recipe.learning_rates(), recipe.learning_rate)


@pytest.mark.backend_independent
def test_what_other_families_publish():
    recipe = km.training.load_recipe
    assert [recipe(f"ffnet-{n}").mixup_alpha for n in (1, 2, 3)] == [0.2, 0.2, 0.8]
    assert (recipe("ffnet-1").interpolation, recipe("ffnet-1").image_size) == (
        "bicubic",
        256,
    )
    distilled = recipe("ffnet-3-distilled")
    assert (distilled.distillation, distilled.distillation_alpha) == ("hard", 0.5)
    assert distilled.teacher == "RegNetY-160"
    assert recipe("ffnet-3").distillation is None
    assert recipe("resmlp-b24").repeated_augmentation == 3
    assert recipe("resmlp-b24").stochastic_depth_rate == 0.05
    assert recipe("caformer-m36-21k-1k").head == "imagenet21k_to_1k"
    assert recipe("caformer-m36-21k-1k").weights == "imagenet21k"


@pytest.mark.backend_independent
def test_where_a_script_slipped_both_are_kept():
    for name, said in {
        "caformer-b36": "--model caformer_s36",
        "caformer-s36-384": "--model caformer_s18_384",
        "caformer-m36-384": "--model caformer_s18_384",
    }.items():
        recipe = km.training.load_recipe(name)
        assert recipe.origins["model"].script == said
        assert f"the script says: {said}" in recipe.describe()
    assert km.training.load_recipe("caformer-s18").origins["model"].script is None


@pytest.mark.backend_independent
@pytest.mark.parametrize("name", RECIPES)
def test_every_field_of_every_recipe_is_shown_with_its_source(name):
    recipe = km.training.load_recipe(name)
    text = recipe.describe()
    assert text.startswith(f"{name}: ")
    for field in dataclasses.fields(recipe):
        if field.name in ("name", "title", "model", "origins"):
            continue
        line = next(
            line for line in text.splitlines() if line.split(" ")[0] == field.name
        )
        shown, source = line[27:51].strip(), line[52:]
        assert shown
        assert source
        origin = recipe.origins.get(field.name)
        assert source == (origin.source if origin else "default")
        if origin:  # the name of a source is written out
            assert len(origin.source) > 6


@pytest.fixture(scope="module")
def model() -> keras.Model:
    return small_model()


@pytest.mark.one_backend
@pytest.mark.parametrize("name", RECIPES)
def test_the_optimizer_of_every_recipe_is_built(name, model):
    recipe = km.training.load_recipe(name, overrides={"batch_size": 256})
    optimizer = km.training.build_optimizer(recipe, model, updates_per_epoch=10)
    kinds = {"adamw": km.training.AdamW, "lamb": km.training.LAMB}
    assert type(optimizer) is kinds[recipe.optimizer]
    assert optimizer.epsilon == recipe.epsilon
    assert (optimizer.beta_1, optimizer.beta_2) == (recipe.beta_1, recipe.beta_2)
    assert optimizer.global_clipnorm == recipe.clip_norm
    assert (optimizer.gradient_accumulation_steps or 1) == recipe.accumulate
    decays = {g.weight_decay for g in optimizer.parameter_groups}
    assert decays == {recipe.weight_decay, 0.0}
    decayed = {
        path
        for group in optimizer.parameter_groups
        for path in group.paths
        if group.weight_decay
    }
    kernels = {"stem/kernel", "predictions/kernel"}
    assert decayed == (kernels if recipe.weight_decay else set())
    rates = recipe.learning_rates()
    assert len(rates) == recipe.total_epochs == recipe.epochs + recipe.cooldown_epochs
    schedule = optimizer._learning_rate
    for epoch in (0, 1, recipe.warmup_epochs, recipe.total_epochs - 1):
        assert float(schedule(10 * epoch)) == pytest.approx(rates[epoch], rel=1e-6)
    each_update = recipe.schedule_interval == "update"
    moves = float(schedule(9)) != float(schedule(0))
    assert moves == each_update
    if recipe.schedule != "constant":
        assert rates.max() <= recipe.learning_rate
        end = float(schedule(10 * recipe.total_epochs))
        expected = recipe.floor_rate if each_update else rates[-1]
        assert end == pytest.approx(expected, rel=1e-5, abs=1e-12)


@pytest.mark.backend_independent
def test_rate_and_accumulation_follow_the_batch():
    load = km.training.load_recipe
    given = load("caformer-s18", overrides={"batch_size": 128})
    assert (given.accumulate, given.learning_rate) == (32, 8e-3)
    fewer = load("caformer-s18", overrides={"batch_size": 128, "accumulate": 2})
    assert fewer.learning_rate == pytest.approx(8e-3 * 256 / 4096)
    assert fewer.warmup_rate == pytest.approx(1e-6 * 256 / 4096)
    assert fewer.floor_rate == pytest.approx(1e-5 * 256 / 4096)
    assert "0.008 for 4096 images, times 0.0625" in fewer.describe()
    more = load("poolformer-s12", overrides={"batch_size": "2048"})
    assert (more.accumulate, more.learning_rate) == (1, 2e-3)
    fixed = load("poolformer-s12", overrides={"batch_size": 512, "learning_rate": 0.1})
    assert fixed.learning_rate == 0.1
    assert fixed.origins["learning_rate"].source == "given"
    assert fixed.updates_per_epoch(10_000) == 9
    with pytest.raises(ValueError, match=r"takes 1024 images.*images=1000"):
        fixed.updates_per_epoch(1000)


@pytest.mark.backend_independent
def test_overrides_may_be_text():
    recipe = km.training.load_recipe(
        "finetune",
        "caformer_s18",
        {
            "rand_augment": "none",
            "random_resized_crop_scale": "0.5,1",
            "mixup_alpha": "0.2",
            "epochs": "3",
        },
    )
    assert recipe.model == "CAFormerS18"
    assert recipe.rand_augment is None
    assert recipe.random_resized_crop_scale == (0.5, 1.0)
    assert (recipe.mixup_alpha, recipe.epochs) == (0.2, 3)
    assert "given, instead of rand-m9-mstd0.5-inc1" in recipe.describe()


@pytest.mark.backend_independent
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("caformer-s81",), "Did you mean 'caformer-s18'"),
        (("fintune",), "Did you mean 'finetune'"),
        (("caformer",), "recipes of 'caformer' are for.*model_name=None"),
        (("caformer", "ConvFormerS18"), "model_name='ConvFormerS18'"),
        (("finetune", "CAFormerS81"), "Unknown model"),
        (("finetune", None, {"epoch": 3}), "Did you mean 'epochs'.*epoch=3"),
        (("finetune", None, {"epochs": 0}), "`epochs` must be a whole number from 1"),
        (("finetune", None, {"mixup_alpha": "much"}), "`mixup_alpha` must be a number"),
        (("finetune", None, {"optimizer": "sgd"}), "one of 'adamw', 'lamb'.*'sgd'"),
        (("finetune", None, {"random_erasing": 2}), r"in \[0, 1\].*random_erasing=2"),
        (("finetune", None, {"warmup_epochs": 30}), "must not exceed `epochs`"),
    ],
)
def test_what_is_no_recipe_is_an_error_with_the_nearest_name(arguments, message):
    with pytest.raises(ValueError, match=message):
        km.training.load_recipe(*arguments)


@pytest.mark.backend_independent
def test_a_recipe_of_ones_own_is_a_file(tmp_path):
    path = tmp_path / "flowers.toml"
    path.write_text(
        'title = "Flowers"\nextends = "finetune"\n[fields]\nepochs = 7\n'
        'mixup_alpha = { value = 0.2, source = "tried on 200 flowers" }\n'
    )
    recipe = km.training.load_recipe(path, "ConvFormerS18")
    assert (recipe.name, recipe.title) == ("flowers", "Flowers")
    assert (recipe.epochs, recipe.mixup_alpha, recipe.optimizer) == (7, 0.2, "adamw")
    assert recipe.origins["mixup_alpha"].source == "tried on 200 flowers"
    assert recipe.origins["epochs"].source == str(path)
    for text, message in (
        ("[fields]\nepoch = 7\n", "Did you mean 'epochs'"),
        ("[field]\n", "Did you mean 'fields'"),
        ("epochs = [", "is no TOML file"),
        ("[fields]\nepochs = { value = 7, because = 1 }\n", "Received: 'because'"),
        ("[fields]\nepochs = 7\n", "lacks the fields.*'weight_decay'"),
        ('extends = "finetun"\n', "Did you mean 'finetune'"),
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match=message):
            km.training.load_recipe(path, "ConvFormerS18")
    with pytest.raises(FileNotFoundError):
        km.training.load_recipe(tmp_path / "missing.toml")


@pytest.mark.backend_independent
def test_a_resolved_recipe_is_plain_data():
    import json

    recipe = km.training.load_recipe("ffnet-1", overrides={"batch_size": 64})
    values = json.loads(json.dumps(recipe.to_dict()))
    assert values["learning_rate"] == recipe.learning_rate
    assert values["random_resized_crop_scale"] == [0.08, 1.0]
    assert set(values) == {f.name for f in dataclasses.fields(recipe)} - {"origins"}


def test_the_loss_fits_what_the_model_gives():
    recipe = km.training.load_recipe("finetune")
    targets = keras.ops.convert_to_tensor([[0.7, 0.2, 0.1]])
    logits = keras.ops.convert_to_tensor([[2.0, -1.0, 0.5]])
    expected = -np.sum(
        np.array([0.7, 0.2, 0.1])
        * np.asarray([2, -1, 0.5] - np.logaddexp.reduce([2, -1, 0.5]))
    )
    plain = km.training.build_loss(recipe, small_model(activation=None))
    soft = km.training.build_loss(recipe, small_model(activation="softmax"))
    assert float(plain(targets, logits)) == pytest.approx(expected, rel=1e-5)
    probabilities = keras.ops.softmax(logits)
    assert float(soft(targets, probabilities)) == pytest.approx(expected, rel=1e-5)
