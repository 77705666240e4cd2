"""Every setting of a run, with its default, its meaning and its limits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from concepts_cli.recipe.fields import setting

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
Tracker = Literal["tensorboard", "wandb", "comet_ml", "aim", "mlflow", "clearml", "dvclive", "swanlab", "trackio"]
STEP_RULES = (r"(\d+(\.\d+)?:\d+,)+\d+(\.\d+)?", "FACTOR:STEP,…,FACTOR, such as 1:100,0.1")
HUB_ID = (r"[\w.-]+(/[\w.-]+)?", "a repository's name: user/name")
Scheduler = Literal[
    "ddim", "ddpm", "pndm", "euler", "euler-a", "heun", "lms", "deis", "unipc", "kdpm2", "kdpm2-a",
    "dpm++", "dpm++karras", "dpm++sde",
]  # fmt: skip
MAX_SEED = 2**32 - 1  # numpy's limit


@dataclass(frozen=True, kw_only=True)
class DataSettings:
    images: tuple[str, ...] = setting(doc="folders or image files, relative to this file", path=True)
    resolution: int | None = setting(None, "side in pixels; null: the model's own", at_least=8, multiple_of=8)
    resize: Literal["squash", "crop"] = setting("squash", "squash to a square, or crop the centre")
    flip_probability: float = setting(0.5, "share of images mirrored in a step", at_least=0, at_most=1)
    images_per_folder: int | None = setting(None, "the first so many of each folder, by name; null: all", at_least=1)
    repeats: int = setting(100, "times that an epoch shows each image; they are shuffled together", at_least=1)


@dataclass(frozen=True, kw_only=True)
class ConceptSettings:
    count: int = setting(5, "concepts to discover", at_least=1, at_most=1000)
    property: Literal["object", "style"] | None = setting("object", "chooses the prompts; null: the bare token")
    shared_sentence: bool = setting(False, "put all words of an image into one sentence; false: one each, as published")
    initial: tuple[str, ...] | None = setting(None, "a word to start each concept from, or one for all; null: random")
    initial_spread: float = setting(1.0, "spread of a random start, in units of the token table's own", at_least=0)
    unit_norm: bool = setting(False, "scale each starting embedding to length 1")


@dataclass(frozen=True, kw_only=True)
class WeightSettings:
    initial: float = setting(1.0, "every weight at the start")
    constraint: Literal["none", "softmax"] = setting("none", "none, or softmax: an image's weights sum to one")
    trained: bool = setting(True, "false: the weights stay as they start")
    per_image: bool = setting(True, "false: all images share one row of weights")
    composition: Literal["eq11", "mean"] = setting(
        "eq11", "uncond + sum w (cond - uncond); or mean: sum w cond, with w of sum 1 (initial 1/K) the plain mean"
    )
    update: Literal["auto", "all", "seen"] = setting(
        "auto", "all by AdamW, or only those of a step's images; auto: all up to 10,000 images"
    )


@dataclass(frozen=True, kw_only=True)
class RegularizerSettings:
    """Terms added to the loss, as the published trainer offers them; all are off there by default.

    The first three keep the concepts' scores apart, the others their words.
    """

    score_similarity: float = setting(0.0, "coefficient: dot products of pairs of scores", at_least=0)
    square_similarity: bool = setting(False, "square the dot products")
    score_energy: float = setting(0.0, "coefficient: hyperspherical energy of the scores", at_least=0)
    energy: Literal["euclidean", "log", "arccos"] = setting("log", "mean of 1/d, of log 1/d, or of log 1/angle")
    normalize_scores: bool = setting(False, "scale scores to length 1 first, and words for token_repulsion")
    weighted_scores: bool = setting(False, "multiply scores by their image's weights first")
    token_repulsion: float = setting(0.0, "coefficient: mean log 1/d of pairs of words", at_least=0)
    token_similarity: float = setting(0.0, "coefficient: mean squared dot product of pairs of words", at_least=0)
    token_distance: float = setting(0.0, "coefficient: mean 1/d of pairs of words", at_least=0)
    token_norm: float = setting(0.0, "coefficient: mean length of the words", at_least=0)


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    method: Method = setting("composed", "this method, or a baseline of the paper's Table 1")
    max_steps: int | None = setting(None, "optimizer steps; null: images x iterations_per_image", at_least=1)
    iterations_per_image: int = setting(120, "optimizer steps per image of the collection", at_least=1)
    batch_size: int = setting(2, "images in a forward pass", at_least=1)
    gradient_accumulation: int = setting(8, "passes in an optimizer step", at_least=1)
    learning_rate: float = setting(5e-3, "of words and weights", above=0)
    scale_learning_rate: bool = setting(True, "multiply it by batch_size x gradient_accumulation x processes")
    weights_learning_rate: float | None = setting(None, "of the weights alone; null: as the words", above=0)
    weight_decay: float = setting(1e-2, "AdamW's", at_least=0)
    adam_betas: tuple[float, float] = setting((0.9, 0.999), "AdamW's", at_least=0, below=1)
    adam_epsilon: float = setting(1e-8, "AdamW's", above=0)
    schedule: Schedule = setting("constant", "of the learning rate, by diffusers' name")
    warmup_steps: int = setting(0, "steps over which the learning rate rises", at_least=0)
    schedule_restarts: int = setting(1, "of cosine_with_restarts", at_least=1)
    schedule_power: float = setting(1.0, "of polynomial", above=0)
    schedule_rules: str | None = setting(
        None, "of piecewise_constant: 1:100,0.1 is the whole rate up to step 100, then a tenth", pattern=STEP_RULES
    )
    mixed_precision: Literal["no", "fp16", "bf16"] = setting(
        "no", "of the frozen model; words and weights stay float32"
    )
    timesteps: Literal["uniform", "high-noise", "low-noise"] = setting("uniform", "which are drawn more often")
    revive_every: int | None = setting(
        None,
        "steps, in the first half, between fresh starts for concepts that few images prefer; null: none",
        at_least=1,
    )
    seed: int = setting(0, "of the start, the noise and the order of images", at_least=0, at_most=MAX_SEED)
    patience: int | None = setting(
        None, "stop early when no image has changed its strongest concept for so many steps; null: never", at_least=1
    )
    concept_checkpointing: bool = setting(False, "one concept in memory at a time: slower, memory flat in the count")
    gradient_checkpointing: bool = setting(False, "keep fewer activations of the model and recompute them: slower")
    tf32: bool = setting(False, "TensorFloat-32 on Ampere GPUs and newer: faster, a little coarser")
    compile: bool = setting(False, "torch.compile the model: slow to start, then faster")
    log_every: int = setting(10, "steps between lines of metrics.jsonl", at_least=1)
    checkpoint_every: int = setting(500, "steps between checkpoints", at_least=1)
    keep_checkpoints: int = setting(1, "newest checkpoints to keep", at_least=1)
    preview_every: int | None = setting(None, "steps between previews; null: none", at_least=1)
    preview_images: int = setting(4, "images a concept in a preview", at_least=1)
    trackers: tuple[Tracker, ...] | None = setting(None, "follow the run with these of accelerate's; null: none")
    push_to_hub: str | None = setting(
        None, "publish the finished run as this repository of the Hugging Face hub", pattern=HUB_ID
    )


@dataclass(frozen=True, kw_only=True)
class SampleSettings:
    num_images: int = setting(64, "images a concept", at_least=1)
    steps: int = setting(50, "denoising steps", at_least=1)
    guidance_scale: float = setting(7.5, "1: no guidance", at_least=0, at_most=1000)
    negative_prompt: str | None = setting(None, "what to keep away from; null: nothing")
    scheduler: Scheduler = setting("ddim", "the sampler; dpm++ does with 20 steps")
    corrector_steps: int = setting(0, "Langevin steps at each noise level: several terms hold together", at_least=0)
    corrector_step_size: float = setting(0.05, "of those steps, in units of the noise's variance", above=0, at_most=1)
    eta: float = setting(0.0, "of ddim: 0 adds no noise on the way, 1 as much as ddpm", at_least=0, at_most=1)
    height: int | None = setting(None, "of an image, in pixels; null: the model's own", at_least=8, multiple_of=8)
    width: int | None = setting(None, "of an image, in pixels; null: the model's own", at_least=8, multiple_of=8)
    precision: Literal["fp32", "fp16", "bf16"] | None = setting(None, "of the model; null: fp16 on CUDA, else fp32")
    batch_size: int = setting(8, "images denoised together; changes speed, not images", at_least=1)
    seed: int = setting(0, "image n of a seed is always the same image", at_least=0, at_most=MAX_SEED)


@dataclass(frozen=True, kw_only=True)
class EvaluateSettings:
    metrics: tuple[Metric, ...] = setting(("clip",), "what `ucd evaluate` computes when not told")
    class_names: tuple[str, ...] | None = setting(None, "the hidden classes, for scores only")
    labels: str | None = setting(None, "their JSON, {file name: [class, ...]}; null: the names of folders", path=True)
    held_out: tuple[str, ...] | None = setting(None, "labelled images that are not trained on", path=True)
    held_out_labels: str | None = setting(None, "their JSON; null: the names of their folders", path=True)
    words: str | None = setting(None, "a file of words, one a line, to name concepts with; null: known ones", path=True)
    clip_model: str = setting("ViT-B-32", "by open_clip's name, or a folder such as ./my-clip", model=True)
    clip_pretrained: str = setting("openai", "by open_clip's name")
    clip_threshold: float | None = setting(None, "similarity that makes a sample its class; null: the scorer's own")
    resnet_model: str = setting("resnet50.tv_in1k", "by timm's name")
    resnet_threshold: float | None = setting(None, "logit that makes a sample its class; null: the scorer's own")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Every setting of a run; the defaults are the published ones (Liu et al., ICCV 2023).

    Paths are absolute once loaded.
    """

    name: str = setting(doc="of the run's folder", pattern=(r"\w[\w.+ -]*", "a plain name (letters, digits, . _ + -)"))
    model: str = setting(doc="mini, an id on the Hugging Face hub, or a folder such as ./my-model", model=True)
    data: DataSettings
    concepts: ConceptSettings = ConceptSettings()
    weights: WeightSettings = WeightSettings()
    regularizers: RegularizerSettings = RegularizerSettings()
    train: TrainSettings = TrainSettings()
    sample: SampleSettings = SampleSettings()
    evaluate: EvaluateSettings = EvaluateSettings()
