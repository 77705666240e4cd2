"""Stable Diffusion 1 and 2, and every model in their layout, the built-in one included."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from concepts_cli.errors import UcdError, did_you_mean
from concepts_cli.mini import WEIGHTS
from concepts_cli.models import BUILT_IN
from concepts_cli.models.learned_tokens import LearnedTokens

SCHEDULERS = {
    "ddim": ("DDIMScheduler", {}),
    "ddpm": ("DDPMScheduler", {}),
    "pndm": ("PNDMScheduler", {"skip_prk_steps": True}),
    "euler": ("EulerDiscreteScheduler", {}),
    "euler-a": ("EulerAncestralDiscreteScheduler", {}),
    "heun": ("HeunDiscreteScheduler", {}),
    "lms": ("LMSDiscreteScheduler", {}),
    "dpm++": ("DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver++"}),
    "dpm++karras": ("DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver++", "use_karras_sigmas": True}),
    "dpm++sde": ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}),
    "deis": ("DEISMultistepScheduler", {}),
    "unipc": ("UniPCMultistepScheduler", {}),
    "kdpm2": ("KDPM2DiscreteScheduler", {}),
    "kdpm2-a": ("KDPM2AncestralDiscreteScheduler", {}),
}


class StableDiffusion:
    """A frozen latent diffusion model with a CLIP text encoder, a UNet2DConditionModel and an AutoencoderKL.

    Shapes: B batch, P prompts, T tokens, D embedding width, C H W latents (H and W are pixels / `vae_scale`).
    """

    def __init__(self, pipeline, name: str, *, device: torch.device, dtype: torch.dtype):
        self.name, self.device, self.dtype = name, device, dtype
        self.tokenizer, self.scheduler_config = pipeline.tokenizer, pipeline.scheduler.config
        self.text_encoder, self.unet, self.vae = pipeline.text_encoder, pipeline.unet, pipeline.vae
        for module in (self.text_encoder, self.unet, self.vae):
            module.to(device).requires_grad_(False).eval()
        self.latent_channels: int = self.unet.config.in_channels
        self.vae_scale: int = 2 ** (len(self.vae.config.block_out_channels) - 1)
        self.resolution: int = self.unet.config.sample_size * self.vae_scale
        self.prediction_type: str = self.scheduler_config.get("prediction_type", "epsilon")
        table = self.text_encoder.get_input_embeddings()
        # A table may have rows to spare; but where files are missing, transformers makes a tokenizer that is empty.
        if not table.num_embeddings / 2 <= len(self.tokenizer) <= table.num_embeddings:
            raise UcdError(
                f"the tokenizer of {name} knows {len(self.tokenizer)} tokens, its text encoder {table.num_embeddings}",
                "its tokenizer/ lacks tokenizer.json, or vocab.json and merges.txt: restore or download them again",
            )
        longest = self.text_encoder.config.max_position_embeddings
        self.tokenizer.model_max_length = min(self.tokenizer.model_max_length, longest)
        self._tokens = LearnedTokens(table)
        self.text_encoder.set_input_embeddings(self._tokens)

    @classmethod
    def load(cls, name: str, *, revision: str | None = None, device=None, dtype: torch.dtype | None = None):
        """Load by hub id, folder, or `mini`. Raises UcdError when it is not there or is not of this family."""
        import diffusers
        import transformers

        diffusers.utils.logging.disable_progress_bar()
        transformers.utils.logging.disable_progress_bar()
        device = chosen_device(device)
        dtype = dtype or (torch.float16 if device.type == "cuda" else torch.float32)
        source = str(WEIGHTS) if name == BUILT_IN else name
        _refuse_other_families(name, source)
        release = tuple(int(part) for part in diffusers.__version__.split(".")[:2])
        try:
            pipeline = diffusers.StableDiffusionPipeline.from_pretrained(
                source,
                revision=revision,
                **{"dtype" if release >= (0, 40) else "torch_dtype": dtype},
                safety_checker=None,
                feature_extractor=None,
                image_encoder=None,
                requires_safety_checker=False,
                use_safetensors=True,  # nothing is unpickled
            )
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            reason = str(error).strip().splitlines()
            raise UcdError(
                f"model {name!r} could not be loaded: {reason[0] if reason else type(error).__name__}",
                "give a hub id of a Stable Diffusion 1 or 2 model (needs a network), a folder that holds one, or mini",
            ) from error
        return cls(pipeline, name, device=device, dtype=dtype)

    # ---- text

    @property
    def embedding_dim(self) -> int:
        return self.token_table.shape[1]

    @property
    def token_table(self) -> Tensor:
        """The frozen word embeddings (V, D)."""
        return self._tokens.table.weight

    def set_concepts(self, tokens: Sequence[str], embeddings: Tensor) -> None:
        """Let `tokens` mean the rows of `embeddings` (K, D) in every later prompt; gradients flow to them."""
        known = set(self.tokenizer.get_vocab()) - set(self.tokenizer.get_added_vocab())
        if taken := known.intersection(tokens):
            raise UcdError(
                f"the model's vocabulary already has a word {sorted(taken)[0]!r}", "name the concepts otherwise"
            )
        self.tokenizer.add_tokens(list(tokens))
        self._tokens.learn(self.tokenizer.convert_tokens_to_ids(list(tokens)), embeddings)

    def tokenize(self, prompts: Sequence[str]) -> Tensor:  # P prompts -> (P, T) token ids
        batch = self.tokenizer(
            list(prompts),
            padding="max_length",
            max_length=self.tokenizer.model_max_length,
            truncation=True,
            return_tensors="pt",
        )
        return batch.input_ids.to(self.device)

    def encode_prompts(self, prompts: Sequence[str]) -> Tensor:
        """Hidden states (P, T, D') of prompts, learned tokens included; a long prompt is cut at T tokens."""
        return self.text_encoder(self.tokenize(prompts))[0]

    def is_truncated(self, prompt: str) -> bool:
        """Whether the text encoder sees only the beginning of `prompt`."""
        return len(self.tokenizer(prompt).input_ids) > self.tokenizer.model_max_length

    def token_positions(self, prompt: str, text: str) -> list[int]:
        """Which of the T tokens of `prompt` (0 is the start token) belong to an occurrence of `text`."""
        ids = self.tokenize([prompt])[0].tolist()
        part = self.tokenizer(text, add_special_tokens=False).input_ids
        starts = [i for i in range(len(ids) - len(part) + 1) if part and ids[i : i + len(part)] == part]
        return sorted({start + i for start in starts for i in range(len(part))})

    # ---- images

    def latent_shape(self, height: int | None = None, width: int | None = None) -> tuple[int, int, int]:
        """(C, H, W) of an image of `height` x `width` px, by default the model's own."""
        size = [side or self.resolution for side in (height, width)]
        return (self.latent_channels, size[0] // self.vae_scale, size[1] // self.vae_scale)

    @torch.no_grad()
    def encode_images(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Pixels (B, 3, H, W) in [-1, 1] -> mean and standard deviation (B, C, h, w) of their scaled latents."""
        posterior = self.vae.encode(pixels.to(self.device, self.dtype)).latent_dist
        scale = self.vae.config.scaling_factor
        return posterior.mean.float() * scale, posterior.std.float() * scale

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:  # (B, C, h, w) -> (B, 3, H, W) in [0, 1], float32
        pixels = self.vae.decode((latents / self.vae.config.scaling_factor).to(self.dtype), return_dict=False)[0]
        return (pixels.float() / 2 + 0.5).clamp(0, 1)

    @property
    def vae_fingerprint(self) -> str:
        """A hash of the image encoder's weights: latents are as good as it."""
        settings = {key: value for key, value in self.vae.config.items() if not key.startswith("_")}
        digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode())
        for key, tensor in sorted(self.vae.encoder.state_dict().items()):
            digest.update(key.encode() + tensor.detach().float().cpu().numpy().tobytes())
        return digest.hexdigest()[:16]

    # ---- noise

    def checkpoint_gradients(self) -> None:
        """Keep fewer activations for the backward pass and recompute the rest. Nothing else changes."""
        self.unet.enable_gradient_checkpointing()
        if not self.text_encoder.config.attention_dropout:
            self.text_encoder.gradient_checkpointing_enable({"use_reentrant": False})
            self.text_encoder.train()  # transformers checkpoints in training mode only; without dropout it is the same

    def predict(self, noisy_latents: Tensor, timesteps: Tensor, encoder_hidden_states: Tensor) -> Tensor:
        """The UNet's output, noise or velocity.

        Shapes: noisy_latents (B, C, h, w), timesteps (B,) or (), encoder_hidden_states (B, T, D') -> (B, C, h, w).
        """
        prediction = self.unet(
            noisy_latents.to(self.dtype), timesteps, encoder_hidden_states.to(self.dtype), return_dict=False
        )[0]
        return prediction.float()

    def differs_from(self, other: StableDiffusion) -> str | None:
        """Why this model's scores can't be added to another's, or None when they can: they need one latent space, one
        noise schedule and one target.
        """
        mine, theirs = (model.scheduler("ddpm").alphas_cumprod for model in (self, other))
        if mine.shape != theirs.shape or not torch.allclose(mine, theirs, atol=1e-6):
            return "they have different noise schedules"
        if self.prediction_type != other.prediction_type:
            return f"one predicts {self.prediction_type}, the other {other.prediction_type}"
        if self.vae_fingerprint != other.vae_fingerprint:
            return "they have different latent spaces"
        return None

    def scheduler(self, name: str = "ddim"):
        """A fresh diffusers scheduler of that short name over the model's own noise schedule."""
        import diffusers

        if name not in SCHEDULERS:
            known = f"known: {', '.join(SCHEDULERS)}"
            raise UcdError(
                f"no scheduler {name!r}", " ".join(filter(None, [did_you_mean(name, tuple(SCHEDULERS)), known]))
            )
        class_name, options = SCHEDULERS[name]
        return getattr(diffusers, class_name).from_config(dict(self.scheduler_config), **options)


def chosen_device(name: str | torch.device | None = None) -> torch.device:
    """`name`, or the best there is: the first CUDA device, then Apple's, then the CPU.

    Raises UcdError for a device that isn't there.
    """
    if name is None:
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UcdError(f"no such device: {name!r}", "cuda, cuda:1, mps or cpu") from error
    there = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}.get(
        device.type, 0
    )
    if (device.index or 0) >= there:
        raise UcdError(
            f"no device {name!r} here",
            f"there is {chosen_device()}" + (", and cpu" if chosen_device().type != "cpu" else ""),
        )
    return device


def _refuse_other_families(name: str, source: str) -> None:
    """A local folder that is no Stable Diffusion pipeline is told so by what its index says."""
    folder = Path(source)
    if not folder.is_dir():
        if name.startswith((".", "/", "~")):
            raise UcdError(f"no such model folder: {name}", "give a folder, the id of a model on the hub, or `mini`")
        return
    index = folder / "model_index.json"
    if not index.is_file():
        raise UcdError(
            f"{name} holds no diffusers pipeline", "it needs a model_index.json; `mini` is the model that ships"
        )
    try:
        family = json.loads(index.read_text(encoding="utf-8"))["_class_name"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UcdError(f"{index} is damaged", "restore or download the model again") from error
    if family != "StableDiffusionPipeline":
        raise UcdError(f"{name} is a {family}", "only Stable Diffusion 1 and 2 (StableDiffusionPipeline) are supported")
