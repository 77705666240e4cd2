"""Reading recipes: values, every mistake with its line, and the way back to YAML."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import get_args, get_type_hints

import pytest

from concepts_cli.errors import UcdError
from concepts_cli.recipe.loading import choose_recipe, load_recipe, shipped_recipes
from concepts_cli.recipe.schema import ConceptSettings, Recipe, SampleSettings, Schedule
from concepts_cli.recipe.writing import dump_recipe

MINIMAL = "model: mini\ndata:\n  images: pictures\n"


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Write a recipe and return its path, relative to the current folder."""
    monkeypatch.chdir(tmp_path)

    def write(text: str | bytes, name: str = "x.yaml") -> Path:
        path = tmp_path / name
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return Path(name)

    return write


def mistakes_of(path: Path, *overrides: str) -> list[str]:
    with pytest.raises(UcdError) as caught:
        load_recipe(path, overrides)
    assert caught.value.exit_code == 2
    return caught.value.message.splitlines()


# -- values ----------------------------------------------------------------------------------------------------------


def test_defaults_are_what_works_best(write):
    recipe = load_recipe(write("model: x/y\ndata: {images: a}\n", "my recipe.yaml"))
    assert recipe.name == "my-recipe"
    assert recipe.data.resize == "squash"
    assert recipe.data.flip_probability == 0.5
    train = recipe.train
    assert (train.learning_rate, train.weights_learning_rate, train.scale_learning_rate) == (None, None, False)
    assert [train.steps(images) for images in (1, 25, 1000)] == [1, 12, 500]
    assert (train.schedule, train.warmup_steps) == ("constant", 0)
    assert (recipe.concepts.start, recipe.weights.constraint) == ("images", "softmax")
    assert recipe.starts_from_images
    assert recipe.sample == SampleSettings(num_images=64, steps=50, guidance_scale=7.5)
    assert (recipe.evaluate.clip_threshold, recipe.evaluate.resnet_threshold) == (None, None)  # the scorer's


def test_values_are_read_by_their_setting_not_by_their_look(write):
    recipe = load_recipe(
        write(
            "name: 2026\nmodel: mini\ndata: {images: [no, 1e3]}\nevaluate: {class_names: [yes, null_, 'null', 12:30]}\n"
            "train: {mixed_precision: no, learning_rate: 5e-3, adam_betas: [.8, 0.99], max_steps: null, seed: +7}\n"
            "concepts: {initial: dog, property: ~}\n"
        )
    )
    assert recipe.name == "2026"
    assert [Path(p).name for p in recipe.data.images] == ["no", "1e3"]
    assert recipe.evaluate.class_names == ("yes", "null_", "null", "12:30")
    assert recipe.train.mixed_precision == "no"
    assert recipe.train.learning_rate == 5e-3
    assert recipe.train.adam_betas == (0.8, 0.99)
    assert recipe.train.max_steps is None and recipe.train.seed == 7
    assert recipe.concepts.initial == ("dog",) and recipe.concepts.property is None


def test_a_section_with_every_line_commented_out_keeps_its_defaults(write):
    assert load_recipe(write(MINIMAL + "train:\n  # max_steps: 3\n")).train.max_steps is None


def test_paths_start_from_the_recipe_and_those_of_set_from_here(write, tmp_path, monkeypatch):
    monkeypatch.setenv("PHOTOS", "/photos")
    monkeypatch.setenv("HOME", "/home/me")
    (tmp_path / "sub").mkdir()
    images = "[a, ../b, /c, ~/d, $PHOTOS/e, '${PHOTOS}s', f$$g]"
    path = write(f"model: ./model\ndata: {{images: {images}}}\nevaluate: {{labels: l.json}}", "sub/x.yaml")
    recipe = load_recipe(path)
    here = str(tmp_path)
    assert recipe.data.images == (
        f"{here}/sub/a", f"{here}/b", "/c", "/home/me/d", "/photos/e", "/photoss", f"{here}/sub/f$g",
    )  # fmt: skip
    assert recipe.evaluate.labels == f"{here}/sub/l.json"
    assert recipe.model == f"{here}/sub/model"
    assert load_recipe(path, ["data.images=other"]).data.images == (f"{here}/other",)
    assert load_recipe(path, ["model=org/name"]).model == "org/name"


def test_anchors_aliases_and_merge_keys(write):
    recipe = load_recipe(
        write(
            MINIMAL
            + "train: &t {batch_size: &b 4, seed: 1}\nsample: {<<: {seed: 5, steps: 9}, batch_size: *b, steps: 10}"
        )
    )
    assert (recipe.train.batch_size, recipe.sample.batch_size) == (4, 4)
    assert (recipe.sample.steps, recipe.sample.seed) == (10, 5)


def test_of_several_merged_mappings_the_first_wins(write):
    recipe = load_recipe(write(MINIMAL + "sample:\n  <<: [{seed: 5}, {seed: 6, steps: 7}]\n"))
    assert (recipe.sample.seed, recipe.sample.steps) == (5, 7)


def test_overrides_win_over_the_file_and_the_last_over_the_first(write):
    path = write(MINIMAL + "train: {max_steps: 3, seed: 4}\n")
    recipe = load_recipe(path, ["train.max_steps=5", "train.max_steps=6", "name=a", "data.images=[p, q]"])
    assert (recipe.train.max_steps, recipe.train.seed, recipe.name) == (6, 4, "a")
    assert [Path(p).name for p in recipe.data.images] == ["p", "q"]
    assert load_recipe(path, ["train.max_steps="]).train.max_steps is None
    assert load_recipe(path, ["train={seed: 9}"]).train.max_steps == 3
    assert load_recipe(path, ["evaluate.class_names=@odd"]).evaluate.class_names == ("@odd",)
    assert load_recipe(path, ["evaluate.class_names=a=b"]).evaluate.class_names == ("a=b",)


def test_a_byte_order_mark_and_windows_line_ends(write):
    assert load_recipe(write(b"\xef\xbb\xbf" + MINIMAL.replace("\n", "\r\n").encode())).model == "mini"


# -- mistakes --------------------------------------------------------------------------------------------------------


def test_all_mistakes_at_once_each_with_its_line(write):
    path = write(
        "model: mini\n"
        "data:\n"
        "  images: pictures\n"
        "  resolutoin: 64\n"
        "concepts: {count: 0}\n"
        "train:\n"
        "  learning_rate: fast\n"
        "  max_steps: 3.5\n"
        "  mixed_precision: fp61\n"
        "learning_rate: 1\n"
    )
    assert mistakes_of(path, "train.max_steps=x", "train.sede=1", "nonsense") == [
        "x.yaml:4: data.resolutoin: unknown key; did you mean resolution?",
        "x.yaml:5: concepts.count: got 0, expected a whole number from 1 to 1,000 or auto",
        "x.yaml:7: train.learning_rate: got 'fast', expected a number above 0 and at most 1,000 or null",
        "x.yaml:9: train.mixed_precision: got 'fp61', expected one of no, fp16, bf16; did you mean fp16?",
        "x.yaml:10: learning_rate: unknown key; did you mean train.learning_rate?",
        "--set nonsense: expected KEY=VALUE, such as train.max_steps=100",
        "--set train.max_steps=x: got 'x', expected a whole number from 1 to 1,000,000,000 or null",
        "--set train.sede=1: unknown key; did you mean seed?",
    ]


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("train: {learning_rate: nan}", "got 'nan', expected a number above 0"),
        ("train: {learning_rate: 1e999}", "got 1e999, expected a number above 0"),
        ("train: {batch_size: true}", "got 'true', expected a whole number"),
        ("train: {batch_size: [1]}", "got a list, expected a whole number"),
        ("train: {batch_size: {a: 1}}", "got a mapping, expected a whole number"),
        ("train: {batch_size: }", "got nothing, expected a whole number"),
        ("train: {scale_learning_rate: 1}", "got 1, expected true or false"),
        ("train: {adam_betas: [0.9, 1]}", "train.adam_betas[1]: got 1, expected a number of at least 0 and below 1"),
        ("train: {adam_betas: [0.9]}", "got 1 value, expected 2 values"),
        ("train: {warmup_steps: 5}", "the constant schedule has no warm-up"),
        ("train: {schedule: piecewise_constant}", "schedule: piecewise_constant needs schedule_rules"),
        ("train: {schedule: piecewise_constant, schedule_rules: 'fast'}", "expected FACTOR:STEP,…,FACTOR"),
        ("regularizers: {token_norm: 1}\ntrain: {method: ti-kmeans}", "ti-kmeans has no regularizers"),
        ("train: {revive_every: 5}\nweights: {per_image: false}", "needs a row of weights per image"),
        ("train: {trackers: tensorbord}", "did you mean tensorboard?"),
        ("train: {push_to_hub: a/b/c}", "expected a repository name: user/name"),
        ("train: 3", "train: got 3, expected settings (method, max_steps"),
        ("concepts: {count: 3, initial: [a, b]}", "got 2 words for 3 concepts"),
        ("evaluate: {metrics: [clip, resent]}", "evaluate.metrics[1]: got 'resent', expected one of"),
        ("evaluate: {class_names: []}", "got an empty list, expected a list"),
        ("evaluate: {class_names: [a, {b: c}]}", "class_names[1]: got a mapping, expected text"),
        ("name: a/b", "got 'a/b', expected a plain name"),
        ("name: ..", "expected a plain name"),
        ("sample: {seed: -1}", "got -1, expected a whole number from 0 to 4,294,967,295"),
        ("model: again", "model: given twice, first on line 1"),
        ("train: !env HOME", "the tag !env has no meaning here"),
        ("name: !!python/object/apply:os.getcwd []", "the tag !!python/object/apply:os.getcwd has no meaning here"),
        ("? [a]\n: b", "a key must be a word"),
        ("sample: {<<: 3}", "<< takes a mapping, got 3"),
        ("zzzzzz: 1", "unknown key; known here: name, model, model_revision"),
        ("data: [", "not valid YAML"),
        (
            "evaluate: {labels: $UNSET_FOR_SURE/x}",
            "UNSET_FOR_SURE is not set: UNSET_FOR_SURE=FOLDER ucd train",
        ),
    ],
)
def test_a_mistake_is_named_with_its_line(write, line, problem):
    found = mistakes_of(write(MINIMAL + line + "\n"))
    assert problem in "\n".join(found)
    assert all(mistake.startswith(("x.yaml:4: ", "x.yaml:5: not valid YAML")) for mistake in found)


def test_what_is_missing_is_named(write):
    found = mistakes_of(write("concepts: {count: 3}\n"))
    assert [mistake.partition(" (")[0] for mistake in found] == [
        "x.yaml: model: missing",
        "x.yaml: data.images: missing",
    ]
    assert len(mistakes_of(write(""))) == 2
    assert len(mistakes_of(write("# nothing yet\n"))) == 2


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"\x89PNG\r\n\x1a\n\0\0", "it isn't UTF-8 text"),
        ("model: é".encode("latin-1"), "it isn't UTF-8 text"),
        (b"model: \0\x01", "it contains binary data"),
        ("- model\n", "got a list, expected settings"),
        ("just words", "got 'just words', expected settings"),
        ("a: 1\n\tb: 2\n", "x.yaml:2: not valid YAML"),
        ("a: b: c", "x.yaml:1: not valid YAML"),
        ("model: mini\n---\nmodel: two\n", "expected a single document"),
        ("a: &a [*a]", "contains itself"),
        ("[" * 5000, "nested too deeply"),
    ],
)
def test_files_that_are_no_recipe(write, content, problem):
    (line,) = mistakes_of(write(content))
    assert problem in line and line.startswith("x.yaml")


def test_a_chain_of_aliases_does_not_explode(write):
    text = "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 30))
    assert len(mistakes_of(write(text + MINIMAL))) == 21  # 20, and how many more


def test_folders_and_missing_files(write, tmp_path):
    (tmp_path / "run").mkdir()
    with pytest.raises(UcdError, match="is a folder, not a recipe") as caught:
        load_recipe("run")
    assert caught.value.hint is None
    write(MINIMAL, "run/recipe.yaml")
    with pytest.raises(UcdError) as caught:
        load_recipe("run")
    assert caught.value.hint == "its recipe: run/recipe.yaml"
    with pytest.raises(UcdError, match="no such recipe") as caught:
        load_recipe("xyz.yaml")
    assert "`ucd recipes`" in caught.value.hint
    with pytest.raises(UcdError, match="no such recipe"):
        load_recipe("x" * 5000)


# -- back to YAML ----------------------------------------------------------------------------------------------------


def test_what_is_dumped_reads_back_equal(write):
    path = write(MINIMAL + "train: {mixed_precision: no, adam_epsilon: 1e-10, max_steps: 7}\n")
    odd = ["no", "null", "~", "5e-3", " a: b #c", "line\nbreak", "'quoted\"", "ünï 🐼", "[x]", "\x85\udc80", "&a", "-"]
    recipe = load_recipe(path)
    recipe = dataclasses.replace(
        recipe,
        name="no",
        model="/home/$USER/$$",
        data=dataclasses.replace(recipe.data, images=("/a b/$c", "/#/:", "/tmp/\n")),
        concepts=ConceptSettings(property=None, initial=("null",) * 5),
        evaluate=dataclasses.replace(recipe.evaluate, class_names=tuple(odd)),
    )
    text = dump_recipe(recipe)
    assert load_recipe(write(text, "recipe.yaml")) == recipe
    assert dump_recipe(load_recipe("recipe.yaml")) == text


def test_every_setting_has_a_line_of_documentation(write):
    text = dump_recipe(load_recipe(write(MINIMAL)))
    for line in filter(None, text.splitlines()):
        assert "  # " in line or line.endswith(":") or line.lstrip().startswith("- "), line


def test_a_setting_of_a_few_words_lists_them_all(write):
    lines = {line.split(":")[0].strip(): line for line in dump_recipe(load_recipe(write(MINIMAL))).splitlines()}
    assert lines["timesteps"].endswith("(uniform, high-noise, low-noise)")
    assert "cosine_with_restarts, polynomial" in lines["schedule"] and "trackio" in lines["trackers"]
    assert lines["constraint"].endswith(
        "# softmax, where the weights of an image sum to one, or none"
    )  # names them itself


# -- shipped recipes -------------------------------------------------------------------------------------------------


def test_a_shipped_recipe_is_found_by_its_bare_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load_recipe("quickstart").name == "quickstart"
    (tmp_path / "quickstart").mkdir()
    assert load_recipe("quickstart").name == "quickstart"
    assert load_recipe(Path("quickstart.yaml")).name == "quickstart"
    with pytest.raises(UcdError) as caught:
        load_recipe("elsewhere/quickstart.yaml")
    assert caught.value.hint == "did you mean quickstart?"
    (tmp_path / "quickstart.yaml").write_text(MINIMAL + "name: mine\n")
    assert load_recipe("quickstart.yaml").name == "mine"
    assert "quickstart" in shipped_recipes()


def test_the_choices_are_those_of_the_code_that_serves_them():
    from diffusers.optimization import TYPE_TO_SCHEDULER_FUNCTION

    from concepts_cli.recipe.prompts import TEMPLATES

    assert set(get_args(get_args(get_type_hints(ConceptSettings)["property"])[0])) | {None} == set(TEMPLATES)
    assert set(get_args(Schedule)) <= {kind.value for kind in TYPE_TO_SCHEDULER_FUNCTION}
    assert {field.name for field in dataclasses.fields(Recipe)} >= {"data", "concepts", "weights", "train"}


def test_a_preset_is_under_what_the_recipe_and_the_command_say(write):
    given = write(MINIMAL + "preset: paper\ntrain: {seed: 7}\n")
    recipe = load_recipe(given, ["weights.initial=0.2"])
    assert (recipe.preset, recipe.concepts.start, recipe.train.epoch_ends_step) == ("paper", "normal", True)
    assert (recipe.weights.initial, recipe.train.seed, recipe.train.batch_size) == (0.2, 7, 2)
    plain = load_recipe(write(MINIMAL))
    assert (plain.preset, plain.concepts.start, plain.train.epoch_ends_step) == (None, "images", False)
    assert load_recipe(write(MINIMAL), ["preset=paper", "train.seed=7", "weights.initial=0.2"]) == recipe
    assert choose_recipe(recipe) == recipe


def test_what_suits_the_model_and_the_method_is_under_what_the_recipe_says(write):
    built_in = load_recipe(write("model: mini\ndata: {images: a}\nsample: {steps: 7}\n"))
    assert (built_in.concepts.prompt_beside, built_in.sample.steps, built_in.sample.guidance_scale) == ("a {}", 7, 5)
    style = load_recipe(write("model: mini\ndata: {images: a}\nconcepts: {property: style}\n"))
    assert style.concepts.prompt_beside is None and style.sample.steps == 25
    rival = load_recipe(write("model: mini\ndata: {images: a}\ntrain: {method: ti-kmeans, seed: 3}\n"))
    assert (rival.concepts.start, rival.train.learning_rate, rival.train.seed) == ("table", 5e-3, 3)
    assert (rival.train.steps(24), rival.concepts.prompt_beside) == (240, "a {}")
    before = load_recipe(write("model: mini\ndata: {images: a}\nconcepts: {initial_spread: 2}\n"))
    assert (before.concepts.start, before.concepts.initial_spread, before.train.steps(24)) == ("table", 2, 240)
    paper = load_recipe(write("model: mini\npreset: paper\ndata: {images: a}\ntrain: {method: ti-kmeans}\n"))
    assert (paper.concepts.start, paper.concepts.prompt_beside, paper.train.learning_rate) == ("normal", None, 5e-3)


def test_an_unknown_preset_is_a_mistake_with_its_line(write):
    assert mistakes_of(write(MINIMAL + "preset: papre\n")) == [
        "x.yaml:4: preset: got 'papre', expected one of paper or null; did you mean paper?"
    ]


@pytest.mark.parametrize(
    ("concepts", "prompt"),
    [
        ("{}", "a photo of <t1>"),
        ("{property: object}", "a photo of <t1>"),
        ("{property: style}", "a painting in the style of <t1>"),
        ("{property: null}", "<t1>"),
        ("{properties: [style]}", "a painting in the style of <t1>"),
        ("{properties: [object]}", "a photo of <t1>"),
        ("{properties: null}", "a photo of <t1>"),
        ("{property: null, prompt: 'my {}'}", "my <t1>"),
    ],
)
def test_the_preset_samples_objects_without_an_article(write, concepts, prompt):
    assert load_recipe(write(f"{MINIMAL}preset: paper\nconcepts: {concepts}\n")).concepts.prompt_of("<t1>") == prompt
    default = load_recipe(write(f"{MINIMAL}concepts: {concepts}\n")).concepts.prompt_of("<t1>")
    assert default == ("a photo of a <t1>" if prompt == "a photo of <t1>" else prompt)


def test_each_place_may_have_its_property(write):
    recipe = load_recipe(write("model: mini\ndata: {images: [a, b]}\nconcepts: {properties: [style, object]}\n"))
    templates = recipe.concepts.templates()
    assert len(templates) == 19 + 27
    of_places = [[templates[i] for i in recipe.concepts.templates_of(place)] for place in range(2)]
    assert all("style" in template for template in of_places[0]) and of_places[1][0] == "a photo of a {}"
    assert [len(each) for each in of_places] == [19, 27]
    both = dataclasses.replace(recipe.concepts, properties=("object", "object"))
    assert both.templates_of(0) == both.templates_of(1) == range(27)


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        ("concepts: {tokens: [a, b]}", "concepts.tokens: got 2 names for 5 concepts, expected one per concept"),
        ("concepts: {count: 2, tokens: [a, <A>]}", "concepts.tokens: names must differ"),
        ("concepts: {count: 2, tokens: [a, ../b]}", "concepts.tokens[1]: got '../b', expected a word"),
        ("concepts: {count: 1, tokens: <koala}", "concepts.tokens: got '<koala', expected a word"),
        ("concepts: {count: 1, tokens: -b}", "concepts.tokens: got '-b', expected a word"),
        ("evaluate: {class_names: [a, b], resnet_class_names: [c, c]}", "resnet_class_names: names each class once"),
        ("train: {start_from: r, start_from_weights: true, method: ti-kmeans}", "ti-kmeans trains no weights"),
        ("concepts: {count: 1, tokens: ALL}", "concepts.tokens: got 'ALL', expected a word"),
        ("concepts: {count: 1, tokens: all}", "concepts.tokens: got 'all', expected a word"),
        ("concepts: {prompt: a photo}", "concepts.prompt: got 'a photo', expected text with one {} in it"),
        (
            "concepts: {properties: [style, object]}",
            "concepts.properties: data.images has 1 entry, expected one property for each",
        ),
        ("concepts: {count: auto, start: table}", "concepts.count: auto is found by the start from the images"),
        ("concepts: {count: auto, initial: dog}", "concepts.count: auto is found by the start from the images"),
        ("concepts: {start: images}\ntrain: {method: ti-kmeans}", "concepts.start: ti-kmeans starts at random"),
        ("concepts: {count: auto, start: images, tokens: [a]}", "concepts.tokens: names need a number of concepts"),
        ("concepts: {count: null}", "concepts.count: got nothing, expected a whole number from 1 to 1,000 or auto"),
        ("model_revision: main", "model_revision: only a model on the hub has revisions"),
        ("train: {start_from_weights: true}", "train.start_from_weights: name the run in train.start_from"),
        ("train: {start_from: r}\nconcepts: {initial: dog}", "start from words or from another run's concepts"),
        (
            "evaluate: {class_names: [a], resnet_class_names: [b, c]}",
            "evaluate.resnet_class_names: class_names has 1 name, expected one for each",
        ),
        (
            "data: {images: a, skip_images: -1}",
            "data.skip_images: got -1, expected a whole number from 0 to 1,000,000,000",
        ),
    ],
)
def test_mistakes_in_what_the_published_scripts_offer(write, lines, problem):
    given = lines if lines.startswith("data") else f"data: {{images: pictures}}\n{lines}"
    assert problem in "\n".join(mistakes_of(write(f"model: mini\n{given}\n")))


def test_images_tell_how_many_unless_a_start_says_otherwise(tmp_path):
    assert choose_recipe(tmp_path, {"model": "mini"}).concepts.count is None
    for own in ({"concepts.start": "table"}, {"concepts.start": "table", "concepts.initial": "dog"}):
        assert choose_recipe(tmp_path, {"model": "mini", **own}).concepts.count == 5
    assert choose_recipe(tmp_path, {"model": "mini", "concepts.count": 3}).concepts.count == 3
