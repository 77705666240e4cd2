"""Every setting of a run: its default, its meaning and its limits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from concepts_cli.recipe.fields import setting
from concepts_cli.recipe.numbers import SCORE, WEIGHT
from concepts_cli.recipe.prompts import TEMPLATES

Metric = Literal["clip", "resnet", "assignment", "classification", "naming", "composition", "recomposition"]
METRICS: tuple[str, ...] = get_args(Metric)
Method = Literal["composed", "textual-inversion", "ti-kmeans", "ti-clip-kmeans"]
Schedule = Literal[
    "constant",
    "constant_with_warmup",
    "linear",
    "cosine",
    "cosine_with_restarts",
    "polynomial",
    "piecewise_constant",
]
Place = Literal["input", "output"]
Property = Literal["object", "style", "part"]
Tracker = Literal["tensorboard", "wandb", "comet_ml", "aim", "mlflow", "clearml", "dvclive", "swanlab", "trackio"]
STEP_RULES = (
    r"([0-9]{1,9}(\.[0-9]{1,9})?:[0-9]{1,9},)+[0-9]{1,9}(\.[0-9]{1,9})?",
    "FACTOR:STEP,…,FACTOR, such as 1:100,0.1",
)
LONGEST_SIDE, MOST_ROWS, MOST_IMAGES = 16_384, 10_000, 100_000
FIELD = (r"[^/\\\0]{1,200}", "an ending of files, such as .txt, or the name of a column")
HUB_ID = (r"[\w.-]+(/[\w.-]+)?", "a repository name: user/name")
PROMPT = (r"[^{}]*\{\}[^{}]*", "text with one {} in it")
TOKEN = (r"(?!<?(?i:all)>?$)(<\w[\w-]*>|\w[\w-]*)", "a word, such as koala or <koala>")
SIZE = (r"[0-9]{1,6}(\.[0-9]{1,3})? ?[KMG]i?B", "a size, such as 12GB")
MAX_SEED = 2**32 - 1  # numpy's limit


@dataclass(frozen=True, kw_only=True)
class DataSettings:
    images: tuple[str, ...] = setting(
        doc="image folders, files, lists (.csv, .parquet) and WebDatasets (.tar), relative to this file, or datasets "
        "(hf:user/name[train])",
        path=True,
    )
    captions: str | None = setting(
        None,
        "where captions are: .txt beside images, or a column; {} stands for the concept, or it comes first; null: none",
        pattern=FIELD,
    )
    masks: str | None = setting(
        None,
        "where masks are: -mask.png beside images, or a column; only what is white there is learned; null: none",
        pattern=FIELD,
    )
    image_column: str | None = setting(None, "column of a list or dataset that has the images; null: by its usual name")
    resolution: int | None = setting(
        None, "side in pixels; null: the model's native size", at_least=1, at_most=LONGEST_SIDE
    )
    resize: Literal["squash", "crop", "bucket"] = setting(
        "squash",
        "squash the image to a square, or crop its centre; bucket: keep its shape, about as large as the square",
    )
    flip_probability: float = setting(0.5, "probability that an image is mirrored", at_least=0, at_most=1)
    images_per_folder: int | None = setting(
        None, "use this many images of each folder, by name, after skip_images; null: all", at_least=1
    )
    skip_images: int = setting(0, "leave out this many images of each folder, the first by name", at_least=0)
    skip_broken: bool = setting(False, "leave out files that can't be read as images, and name them; false: stop")
    repeats: int = setting(
        1, "how often an epoch repeats each image; repeats are shuffled together", at_least=1, at_most=10_000
    )


@dataclass(frozen=True, kw_only=True)
class ConceptSettings:
    count: int | None = setting(
        5, "number of concepts; auto: found in the images, by start: images", auto=True, at_least=1, at_most=1000
    )
    count_at_most: int = setting(12, "with count: auto, the largest number that is considered", at_least=2, at_most=100)
    vectors: int = setting(
        1, "vectors per concept, each a token of the prompt: more say more, and take longer", at_least=1, at_most=64
    )
    where: Place = setting("input", "input: vectors before the text encoder; output: after it, which is then unloaded")
    property: Property | None = setting(
        "object", "what the prompts describe; part: one of several things; null: the bare token is the prompt"
    )
    properties: tuple[Property, ...] | None = setting(
        None, "one property per entry of data.images, where they differ; null: property for all"
    )
    prompt: str | None = setting(
        None, "prompt for samples, where {} stands for the token; null: the property's first template", pattern=PROMPT
    )
    prompt_beside: str | None = setting(
        None, "prompt in a composition of several concepts, where {} stands for the token; null: prompt", pattern=PROMPT
    )
    tokens: tuple[str, ...] | None = setting(
        None, "names of the concepts, such as koala; null: t1, t2 and so on", pattern=TOKEN
    )
    shared_sentence: bool = setting(
        False, "put all concepts of an image into one sentence; false: one sentence each, as published"
    )
    initial: tuple[str, ...] | None = setting(
        None, "word to start each concept from, or one for all; null: as start says"
    )
    start: Literal["images", "table", "normal"] = setting(
        "images",
        "where words start: learned from single images first; table: at random, around the mean of the token table; "
        "normal: at random, as published",
    )
    start_restarts: int = setting(
        1, "with start: images and softmax weights, how many words to learn from each image", at_least=1, at_most=1000
    )
    initial_spread: float = setting(
        1.0,
        "standard deviation of a random start, relative to that of the table or the normal",
        at_least=0,
        at_most=1000,
    )
    unit_norm: bool = setting(False, "scale every starting embedding to length 1")

    def most(self) -> int:
        """The number of concepts, or the largest that is considered."""
        return self.count or self.count_at_most

    def templates(self) -> tuple[str, ...]:
        """All prompts that training draws from, with one `{}` each."""
        return tuple(t for name in dict.fromkeys(self.properties or (self.property,)) for t in TEMPLATES[name])

    def templates_of(self, place: int) -> range:
        """Which of `templates` are for the images of this place in `data.images`."""
        if not self.properties:
            return range(len(self.templates()))
        first = self.templates().index(TEMPLATES[self.properties[place]][0])
        return range(first, first + len(TEMPLATES[self.properties[place]]))

    def prompt_of(self, token: str) -> str:
        """The prompt that `token` is sampled with by default."""
        return (self.prompt or self.templates()[0]).format(token)

    def prompt_beside_of(self, token: str) -> str:
        """The prompt that `token` has in a composition of several concepts."""
        return (self.prompt_beside or self.prompt or self.templates()[0]).format(token)


@dataclass(frozen=True, kw_only=True)
class WeightSettings:
    initial: float = setting(1.0, "initial value of every weight, without a start from the images", **WEIGHT)
    constraint: Literal["softmax", "none"] = setting(
        "softmax", "softmax, where the weights of an image sum to one, or none"
    )
    trained: bool = setting(True, "false: the weights keep their initial value")
    per_image: bool = setting(True, "false: all images share one row of weights")
    composition: Literal["eq11", "mean"] = setting(
        "eq11", "eq11: uncond + sum w (cond - uncond); mean: sum w cond, a plain mean with initial: 1/K"
    )
    update: Literal["auto", "all", "seen"] = setting(
        "auto", "which weights AdamW updates: all, or those seen in the step; auto: all up to 10,000 images"
    )


@dataclass(frozen=True, kw_only=True)
class RegularizerSettings:
    """Terms added to the loss, as in the published trainer, where all are off by default.

    The first three keep the concepts' scores apart, the others their words.
    """

    score_similarity: float = setting(0.0, "coefficient of the dot products between scores", at_least=0)
    square_similarity: bool = setting(False, "square the dot products")
    score_energy: float = setting(0.0, "coefficient of the scores' hyperspherical energy", at_least=0)
    energy: Literal["euclidean", "log", "arccos"] = setting(
        "log", "mean of 1/d (euclidean), log 1/d (log) or log 1/angle (arccos)"
    )
    normalize_scores: bool = setting(False, "first scale scores to length 1, and words for token_repulsion")
    weighted_scores: bool = setting(False, "first multiply scores by the image's weights")
    token_repulsion: float = setting(0.0, "coefficient of the mean log 1/d between words", at_least=0)
    token_similarity: float = setting(0.0, "coefficient of the mean squared dot product between words", at_least=0)
    token_distance: float = setting(0.0, "coefficient of the mean 1/d between words", at_least=0)
    token_norm: float = setting(0.0, "coefficient of the words' mean length", at_least=0)


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    method: Method = setting(
        "composed", "composed (the paper's method), or a baseline from its Table 1, with defaults of its own"
    )
    max_steps: int | None = setting(None, "optimizer steps; null: images x iterations_per_image", at_least=1)
    iterations_per_image: float = setting(0.5, "optimizer steps per training image", above=0, at_most=1_000_000)
    batch_size: int = setting(8, "images per forward pass", at_least=1, at_most=MOST_ROWS)
    gradient_accumulation: int = setting(1, "forward passes per optimizer step", at_least=1, at_most=MOST_ROWS)
    learning_rate: float | None = setting(
        None, "learning rate; null: a twentieth of the deviation of the model's own words", above=0, at_most=1000
    )
    weights_learning_rate: float | None = setting(
        None,
        "learning rate of the weights; null: learning_rate, or else 0.1 with softmax and 0.02 without",
        above=0,
        at_most=1000,
    )
    scale_learning_rate: bool = setting(False, "multiply the rates by batch_size x gradient_accumulation x processes")
    weight_decay: float = setting(1e-2, "AdamW's weight decay", at_least=0)
    adam_betas: tuple[float, float] = setting((0.9, 0.999), "AdamW's betas", at_least=0, below=1)
    adam_epsilon: float = setting(1e-8, "AdamW's epsilon", above=0)
    schedule: Schedule = setting("constant", "learning-rate schedule, by diffusers' name")
    warmup_steps: int = setting(0, "steps over which the learning rate rises to its full value", at_least=0)
    schedule_restarts: int = setting(1, "number of cycles of cosine_with_restarts", at_least=1)
    schedule_power: float = setting(1.0, "power of polynomial", above=0)
    schedule_rules: str | None = setting(
        None, "rules of piecewise_constant: 1:100,0.1 is the full rate up to step 100, then a tenth", pattern=STEP_RULES
    )
    mixed_precision: Literal["no", "fp16", "bf16"] = setting(
        "no", "precision of the frozen model; words and weights stay float32"
    )
    timesteps: Literal["uniform", "high-noise", "low-noise"] = setting("uniform", "which timesteps to draw more often")
    revive_every: int | None = setting(
        None,
        "steps between restarts of concepts that few images prefer, in the first half; null: never",
        at_least=1,
    )
    seed: int = setting(0, "seed of the initial words, the noise and the image order", at_least=0, at_most=MAX_SEED)
    patience: int | None = setting(
        None, "stop after this many steps in which no image changed its strongest concept; null: never", at_least=1
    )
    epoch_ends_step: bool = setting(
        False, "an epoch's last step has only the images that are left, as published; false: steps span epochs"
    )
    start_from: str | None = setting(None, "run whose concepts training starts from; null: new ones", model=True)
    start_from_weights: bool = setting(False, "start also from that run's weights, for images that it was trained on")
    concepts_per_image: int | None = setting(
        None,
        "how many concepts to score per image and step: the strongest, and one at random for the others; null: all",
        at_least=2,
    )
    memory: str | None = setting(
        None, "memory that training may take, such as 12GB; null: what the GPU has free, all of a CPU's", pattern=SIZE
    )
    concept_checkpointing: bool = setting(
        False, "one concept in memory at a time: slower, but memory does not grow with their number"
    )
    gradient_checkpointing: bool = setting(False, "recompute the model's activations to save memory: slower")
    tf32: bool = setting(False, "use TensorFloat-32 on Ampere GPUs and newer: faster, slightly less precise")
    compile: bool = setting(False, "compile the model with torch.compile: slow to start, then faster")
    log_every: int = setting(
        10, "steps between lines of metrics.jsonl; the first and the last have one too", at_least=1
    )
    checkpoint_every: int = setting(
        500, "steps between checkpoints; there is one at least every two minutes, too", at_least=1
    )
    keep_checkpoints: int = setting(1, "number of checkpoints to keep", at_least=1)
    preview_every: int | None = setting(None, "steps between previews; null: none", at_least=1)
    preview_images: int = setting(4, "images per concept in a preview", at_least=1, at_most=1000)
    trackers: tuple[Tracker, ...] | None = setting(
        None, "experiment trackers to log to, by accelerate's name; null: none"
    )
    push_to_hub: str | None = setting(
        None, "Hugging Face Hub repository to publish the finished run to; null: none", pattern=HUB_ID
    )

    def steps(self, images: int) -> int:
        """The number of optimizer steps for so many images."""
        return self.max_steps or max(1, round(images * self.iterations_per_image))


@dataclass(frozen=True, kw_only=True)
class SampleSettings:
    num_images: int = setting(64, "images per concept", at_least=1, at_most=MOST_IMAGES)
    steps: int = setting(50, "denoising steps", at_least=1, at_most=10_000)
    guidance_scale: float = setting(7.5, "strength of guidance; 1 means none", at_least=0, at_most=1000)
    negative_prompt: str | None = setting(None, "text to steer away from; null: none")
    scheduler: str | None = setting(None, "sampler, by a name from `ucd sample --help`; null: the model's own")
    corrector_steps: int = setting(0, "Langevin steps at each noise level, for compositions", at_least=0, at_most=1000)
    corrector_step_size: float = setting(
        0.6, "size of those steps, relative to the noise's variance", above=0, at_most=1
    )
    eta: float = setting(
        0.0,
        "noise that a sampler like DDIM adds at each step: 0 for none, 1 for as much as DDPM",
        at_least=0,
        at_most=1,
    )
    height: int | None = setting(
        None, "image height in pixels; null: the model's native size", at_least=1, at_most=LONGEST_SIDE
    )
    width: int | None = setting(
        None, "image width in pixels; null: the model's native size", at_least=1, at_most=LONGEST_SIDE
    )
    precision: Literal["fp32", "fp16", "bf16"] | None = setting(
        None, "precision of the model; null: fp16 on CUDA, otherwise fp32"
    )
    batch_size: int = setting(
        8, "images denoised together; affects speed, not the images", at_least=1, at_most=MOST_ROWS
    )
    seed: int = setting(0, "seed of the first image; image n uses seed + n", at_least=0, at_most=MAX_SEED)


@dataclass(frozen=True, kw_only=True)
class EvaluateSettings:
    metrics: tuple[Metric, ...] = setting(("clip",), "metrics that `ucd evaluate` computes by default")
    class_names: tuple[str, ...] | None = setting(None, "the hidden classes, used only for scores")
    labels: str | None = setting(
        None, "JSON of the training images' classes, {file name: [class, ...]}; null: their folders' names", path=True
    )
    held_out: tuple[str, ...] | None = setting(None, "labelled images that training does not see", path=True)
    held_out_labels: str | None = setting(None, "JSON of their classes; null: their folders' names", path=True)
    words: str | None = setting(
        None, "file of words to name concepts with, one per line; null: the scorer's own list", path=True
    )
    clip_model: str = setting("ViT-B-32", "CLIP model: open_clip's name, or a folder such as ./my-clip", model=True)
    clip_pretrained: str = setting("openai", "pretrained weights of the CLIP model, by open_clip's name")
    clip_threshold: float | None = setting(
        None, "similarity from which a sample counts as its class; null: the scorer's own", **SCORE
    )
    resnet_class_names: tuple[str, ...] | None = setting(
        None, "the ResNet's names of the same classes, in the same order; null: class_names"
    )
    resnet_model: str = setting("resnet50.tv_in1k", "ResNet model, by timm's name")
    resnet_threshold: float | None = setting(
        None, "logit from which a sample counts as its class; null: the scorer's own", **SCORE
    )


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Every setting of a run. Paths are absolute once a recipe is loaded."""

    name: str = setting(
        doc="name of the run's folder", pattern=(r"\w[\w.+ -]*", "a plain name (letters, digits, . _ + -)")
    )
    model: str = setting(
        doc="mini, a Hugging Face Hub id, or a folder or .safetensors file such as ./my-model",
        model=True,
    )
    model_revision: str | None = setting(None, "branch, tag or commit of the model on the hub; null: its main branch")
    preset: Literal["paper"] | None = setting(
        None, "values for what the recipe doesn't set: paper, as published; null: those that suit the model"
    )
    data: DataSettings
    concepts: ConceptSettings = ConceptSettings()
    weights: WeightSettings = WeightSettings()
    regularizers: RegularizerSettings = RegularizerSettings()
    train: TrainSettings = TrainSettings()
    sample: SampleSettings = SampleSettings()
    evaluate: EvaluateSettings = EvaluateSettings()

    @property
    def starts_from_images(self) -> bool:
        """Whether words are learned from single images first."""
        return self.concepts.start == "images" and not self.concepts.initial and not self.train.start_from
