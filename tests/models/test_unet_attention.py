"""Recorded maps against an explicit softmax(Q K^T), and outputs that recording never touches."""

import pytest
import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0

from concepts_cli.core.attention import normalise, token_map
from concepts_cli.errors import UcdError
from concepts_cli.models.interface import Selection
from concepts_cli.models.unet_attention import layer_size, record_attention

TOKENS, WIDTH = 7, 16


@pytest.fixture(scope="module")
def unet():
    """Cross-attention at 1/1, 1/2 and, in the middle, 1/2 of the latents' size, with unlike numbers of heads."""
    torch.manual_seed(0)
    return UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(16, 32),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=WIDTH,
        attention_head_dim=(2, 4),
        norm_num_groups=8,
    ).eval()


def inputs(batch, height=8, width=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    text = torch.randn(batch, TOKENS, WIDTH, generator=generator)
    return torch.randn(batch, 4, height, width, generator=generator), torch.tensor(500), text


def plain_maps(unet, calls):
    """DAAM, spelled out: every layer's softmax(Q K^T / sqrt(d)), head by head, from what goes into the layer."""
    seen = []

    def watch(layer, args, kwargs):
        hidden, text = args[0] if args else kwargs["hidden_states"], kwargs["encoder_hidden_states"]
        query, key = layer.to_q(hidden), layer.to_k(text)
        width = query.shape[-1] // layer.heads
        for head in range(layer.heads):
            part = slice(head * width, (head + 1) * width)
            scores = torch.einsum("bpd,btd->bpt", query[..., part], key[..., part]) / width**0.5
            seen.append(((id(layer), head), scores.exp() / scores.exp().sum(dim=-1, keepdim=True)))

    hooks = [
        module.register_forward_pre_hook(watch, with_kwargs=True)
        for name, module in unet.named_modules()
        if name.endswith("attn2")
    ]
    with torch.no_grad():
        for call in calls:
            unet(*call)
    for hook in hooks:
        hook.remove()
    height, width = calls[0][0].shape[-2:]
    sums = {}
    for key, probabilities in seen:
        sums[key] = sums.get(key, 0) + probabilities / len(calls)
    maps = []
    for mean in sums.values():
        scale = round((height * width / mean.shape[1]) ** 0.5)
        small = mean.transpose(1, 2).unflatten(2, (-(-height // scale), -(-width // scale)))
        maps.append(F.interpolate(small, (height, width), mode="bicubic").clamp(min=0))
    return torch.stack(maps).mean(dim=0)


@pytest.mark.parametrize("height, width", [(8, 8), (12, 8), (6, 10)])
@torch.no_grad()
def test_maps_are_the_mean_softmax_of_every_head_layer_and_step(unet, height, width):
    calls = [inputs(3, height, width, seed) for seed in range(2)]
    with record_attention(unet) as recorder:
        for call in calls:
            unet(*call)
    assert recorder.maps().shape == (3, TOKENS, height, width)
    torch.testing.assert_close(recorder.maps(), plain_maps(unet, calls))


@pytest.mark.parametrize("processor", [AttnProcessor, AttnProcessor2_0])
@torch.no_grad()
def test_outputs_are_the_same_to_the_last_bit(unet, processor):
    unet.set_attn_processor(processor())
    before = unet(*inputs(2)).sample
    with record_attention(unet):
        during = unet(*inputs(2)).sample
    assert torch.equal(before, during)
    assert torch.equal(before, unet(*inputs(2)).sample)


@pytest.mark.parametrize("rows", [slice(2, None), [2, 3], slice(1, None, 2)])
@torch.no_grad()
def test_only_the_rows_asked_for_are_recorded(unet, rows):
    call = inputs(4)
    with record_attention(unet, rows=rows) as recorder:
        unet(*call)
    torch.testing.assert_close(recorder.maps(), plain_maps(unet, [call])[rows])


@torch.no_grad()
def test_tokens_masked_out_get_nothing(unet):
    latents, timestep, text = inputs(2)
    mask = torch.ones(2, TOKENS)
    mask[:, 4:] = 0
    with record_attention(unet, rows=slice(1, None)) as recorder:
        unet(latents, timestep, text, encoder_attention_mask=mask)
    maps = recorder.maps()
    assert maps[:, 4:].max() < 1e-6 < maps[:, :4].min()


@torch.no_grad()
def test_memory_does_not_grow_with_steps(unet):
    with record_attention(unet) as recorder:
        unet(*inputs(1))
        sizes = {layer: maps.numel() for layer, maps in recorder.sums.items()}
        unet(*inputs(1, seed=1))
    assert sizes == {layer: maps.numel() for layer, maps in recorder.sums.items()}
    assert set(recorder.steps.values()) == {2}


def test_everything_is_taken_out_again_after_an_exception(unet):
    before, hooks = dict(unet.attn_processors), len(unet._forward_pre_hooks)
    with pytest.raises(KeyboardInterrupt), record_attention(unet):
        assert unet.attn_processors != before
        raise KeyboardInterrupt
    after = unet.attn_processors
    assert after.keys() == before.keys() and all(after[name] is before[name] for name in before)
    assert len(unet._forward_pre_hooks) == hooks


@torch.no_grad()
def test_self_attention_is_left_alone(unet):
    with record_attention(unet) as recorder:
        untouched = [p for name, p in unet.attn_processors.items() if "attn1" in name]
        unet(*inputs(1))
    assert not any(hasattr(processor, "recorder") for processor in untouched)
    assert recorder.sums and all(layer.endswith("attn2") for layer in recorder.sums)


def test_nothing_recorded_is_an_error(unet):
    with record_attention(unet) as recorder:
        pass
    with pytest.raises(RuntimeError, match="no attention was recorded"):
        recorder.maps()


def test_layer_sizes_round_up_as_strided_convolutions_do():
    assert layer_size((64, 64), 4096) == (64, 64)
    assert layer_size((96, 64), 24 * 16) == (24, 16)
    assert layer_size((7, 5), 12) == (4, 3)
    with pytest.raises(ValueError, match="not a halving"):
        layer_size((8, 8), 15)


def test_a_words_map_is_the_mean_of_its_tokens():
    maps = torch.arange(12.0).view(3, 2, 2)
    torch.testing.assert_close(token_map(maps, [0, 2]), (maps[0] + maps[2]) / 2)


def test_normalised_maps_span_zero_to_one_image_by_image():
    heat = torch.stack([torch.tensor([[2.0, 4.0], [3.0, 6.0]]), torch.full((2, 2), 0.3)])
    expected = torch.tensor([[[0, 0.5], [0.25, 1]], [[0, 0], [0, 0]]])
    torch.testing.assert_close(normalise(heat), expected)


# ---- a selection


@pytest.mark.parametrize(
    "selection",
    [
        Selection(layers=("up_blocks",)),
        Selection(layers=("mid_block", "down_blocks.0")),
        Selection(resolutions=(8,)),
        Selection(heads=(0, 3)),
    ],
)
@torch.no_grad()
def test_a_selection_takes_layers_resolutions_and_heads(unet, selection):
    with record_attention(unet, selection=selection) as recorder:
        unet(*inputs(1))
    with record_attention(unet) as everything:
        unet(*inputs(1))
    for layer, maps in recorder.sums.items():
        assert not selection.layers or any(part in layer for part in selection.layers)
        assert not selection.resolutions or max(maps.shape[-2:]) in selection.resolutions
        heads = [head for head in selection.heads if head < everything.sums[layer].shape[1]]
        torch.testing.assert_close(maps, everything.sums[layer][:, heads] if heads else everything.sums[layer])
    taken = {
        layer
        for layer, maps in everything.sums.items()
        if (not selection.layers or any(part in layer for part in selection.layers))
        and (not selection.resolutions or max(maps.shape[-2:]) in selection.resolutions)
    }
    assert set(recorder.sums) == taken


@torch.no_grad()
def test_a_selection_takes_timesteps(unet):
    latents, _, text = inputs(1)
    with record_attention(unet, selection=Selection(timesteps=(100, 500))) as recorder:
        for timestep in (900, 500, 300, 100, 99):
            unet(latents, torch.tensor(timestep), text)
    assert set(recorder.steps.values()) == {3}
    inside = [(latents, torch.tensor(timestep), text) for timestep in (500, 300, 100)]
    torch.testing.assert_close(recorder.maps(), plain_maps(unet, inside))


@torch.no_grad()
def test_a_selection_that_takes_nothing_is_said_with_what_there_is(unet):
    with pytest.raises(UcdError) as caught, record_attention(unet, selection=Selection(layers=("side_block",))):
        unet(*inputs(1))
    assert "mid_block.attentions.0 (4)" in caught.value.hint and "up to 4 heads" in caught.value.hint
    assert not unet._forward_hooks and not unet._forward_pre_hooks


# ---- the layers of daam


@pytest.fixture(scope="module")
def deep_unet():
    """Cross-attention at 1/1 to 1/8 of the latents' size and, in the middle, at 1/8."""
    torch.manual_seed(0)
    return UNet2DConditionModel(
        sample_size=16,
        block_out_channels=(8, 8, 8, 16),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D",) * 4,
        up_block_types=("CrossAttnUpBlock2D",) * 4,
        cross_attention_dim=WIDTH,
        attention_head_dim=2,
        norm_num_groups=4,
    ).eval()


@pytest.mark.parametrize("height, width, eighth", [(16, 16, (2, 2)), (24, 16, (3, 2)), (20, 16, (3, 2))])
@torch.no_grad()
def test_daam_leaves_out_the_middle_block_and_an_eighth_of_the_size(deep_unet, height, width, eighth):
    with record_attention(deep_unet) as everything, record_attention(deep_unet, selection=Selection(daam=True)) as daam:
        deep_unet(*inputs(1, height, width))
    sizes = {layer: maps.shape[-2:] for layer, maps in everything.sums.items()}
    assert {layer for layer, size in sizes.items() if size != eighth} == set(daam.sums)
    assert any(size == eighth and not layer.startswith("mid_block") for layer, size in sizes.items())


@torch.no_grad()
def test_in_a_shallow_unet_daam_leaves_out_the_middle_block_alone(unet):
    with record_attention(unet, selection=Selection(layers=("down_blocks", "up_blocks"))) as expected:
        unet(*inputs(1))
    with record_attention(unet, selection=Selection(daam=True)) as daam:
        unet(*inputs(1))
    torch.testing.assert_close(daam.maps(), expected.maps())


@torch.no_grad()
def test_a_selection_narrows_the_layers_of_daam(deep_unet):
    for narrow in ({"layers": ("up_blocks",)}, {"resolutions": (2, 8)}, {"heads": (1,)}, {"timesteps": (0, 999)}):
        with record_attention(deep_unet, selection=Selection(**narrow)) as everything:
            deep_unet(*inputs(1, 16, 16))
        with record_attention(deep_unet, selection=Selection(daam=True, **narrow)) as daam:
            deep_unet(*inputs(1, 16, 16))
        kept = {layer for layer, maps in everything.sums.items() if maps.shape[-1] != 2}
        assert kept == set(daam.sums)
        for layer in kept:
            torch.testing.assert_close(daam.sums[layer], everything.sums[layer])


@torch.no_grad()
def test_a_selection_of_layers_that_daam_leaves_out_is_said_with_those_that_it_counts(deep_unet):
    selection = Selection(layers=("mid_block",), daam=True)
    with pytest.raises(UcdError) as caught, record_attention(deep_unet, selection=selection):
        deep_unet(*inputs(1, 16, 16))
    hint = caught.value.hint
    assert "up_blocks.3.attentions.0 (16)" in hint and "daam leaves out the others" in hint
    assert "mid_block" not in hint and "(2)" not in hint


@torch.no_grad()
def test_a_unet_without_layers_of_daam_is_refused():
    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8, 8),
        layers_per_block=1,
        down_block_types=("DownBlock2D",) * 2,
        up_block_types=("UpBlock2D",) * 2,
        cross_attention_dim=WIDTH,
        attention_head_dim=2,
        norm_num_groups=4,
    )
    with (
        pytest.raises(UcdError, match="daam counts none of the model's layers"),
        record_attention(unet, selection=Selection(daam=True)),
    ):
        unet(*inputs(1))
