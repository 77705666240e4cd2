"""Heat maps of transformers with joint attention, against a plain implementation and where they must lie."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from concepts_cli.core.heat_maps import Subject, tokens_of
from concepts_cli.errors import UcdError
from concepts_cli.models.flux2 import Flux2Klein
from concepts_cli.models.interface import Selection
from concepts_cli.models.joint_attention import Call, JointAttention, JointLayer
from concepts_cli.models.z_image import ZImage
from tests.models.tiny_flux2 import build_flux2
from tests.models.tiny_z_image import build_z_image

CPU = torch.device("cpu")
PROMPTS = ["a cat", "a photo of the dog in the style of a red painting"]
# The family, its module in diffusers, its calls of attention that count, and whether text comes first in them.
FAMILIES = {
    "z-image": (ZImage, build_z_image, "z_image", [3], False),  # after a call for the image and one for the text
    "flux2": (Flux2Klein, build_flux2, "flux2", [1, 2], True),  # the later half of three with two streams
}


@pytest.fixture(scope="module", params=FAMILIES)
def family(request):
    own, build, *_ = FAMILIES[request.param]
    return request.param, own(build(), "tiny", device=CPU, dtype=torch.float32)


@torch.no_grad()
def predicted(model, sides=(32, 16)):
    """Predictions for the prompts, at noise of different levels."""
    conditioning = model.encode_prompts(PROMPTS)
    noise = torch.randn(2, *model.latent_shape(*sides), generator=torch.Generator().manual_seed(0))
    return [model.predict(noise, torch.tensor(time), conditioning) for time in (900.0, 300.0)]


def scores_of(outputs, text_first, places, used, heads=slice(None)):
    """Dot products of one image's attention outputs (S, heads, D), places by words, at an independent temperature."""
    start = 0 if text_first else -(-places // 32) * 32
    image = outputs[-places:] if text_first else outputs[:places]
    text = outputs[start : start + used]
    scores = torch.einsum("phd,thd->pt", image[:, heads], text[:, heads])
    centred = scores - scores.mean(dim=1, keepdim=True)
    return scores / centred.pow(2).mean().sqrt()


@pytest.mark.parametrize("heads", [(), (1,)])
def test_maps_equal_a_plain_implementation_and_nothing_else_changes(family, heads, monkeypatch):
    name, model = family
    *_, module, counted, text_first = FAMILIES[name]
    before, seen = predicted(model), []
    module = f"diffusers.models.transformers.transformer_{module}.dispatch_attention_fn"
    attend = pytest.importorskip(module.rpartition(".")[0]).dispatch_attention_fn
    monkeypatch.setattr(module, lambda *args, **kwargs: seen.append(attend(*args, **kwargs)) or seen[-1])
    with model.attention.record(selection=Selection(heads=heads)) as record:
        after = predicted(model)
    assert all(torch.equal(*both) for both in zip(before, after, strict=True))
    height, width = record.call.places
    maps, calls = record.maps((height, width)), len(seen) // 2
    mask = model.encode_prompts(PROMPTS).tensors["mask"]
    assert maps.shape == (2, model.max_tokens, height, width) and (height, width) == (8, 4)
    torch.testing.assert_close(maps.sum(dim=1), torch.ones(2, height, width))
    for row, real in enumerate(mask):
        used = int(real.sum())
        layers = [seen[call + layer][row] for call in (0, calls) for layer in counted]
        shares = [
            scores_of(outputs, text_first, height * width, used, heads or slice(None)).softmax(dim=1)
            for outputs in layers
        ]
        expected = torch.stack(shares).mean(dim=0).T.unflatten(1, (height, width))
        torch.testing.assert_close(maps[row][real], expected, rtol=1e-4, atol=1e-5)
        assert not maps[row][~real].any()
    large = record.maps()
    assert large.shape[2:] == model.latent_shape(32, 16)[1:] and large.min() >= 0
    assert not model.attention._recorder and all(
        not projection._forward_pre_hooks
        for layer in model.attention.layers.values()
        for projection in (layer.image, layer.text)
    )


def test_rows_layers_and_timesteps_are_chosen(family):
    name, model = family

    def maps(**chosen):
        rows = chosen.pop("rows", slice(None))
        with model.attention.record(rows=rows, selection=Selection(**chosen)) as record:
            predicted(model)
        return record.maps(record.call.places)

    usual, names = maps(), list(model.attention.layers)
    assert names == (
        ["layers.0", "layers.1"] if name == "z-image" else ["double.0", "double.1", "double.2", "single.0", "single.1"]
    )
    torch.testing.assert_close(maps(rows=[1]), usual[1:])
    torch.testing.assert_close(maps(layers=tuple(model.attention.usual)), usual)
    early, late = maps(timesteps=(0, 500)), maps(timesteps=(501, 1000))
    torch.testing.assert_close((early + late) / 2, usual)
    others = maps(layers=(names[-1] if name == "flux2" else names[0],))
    assert (others - usual).abs().max() > 1e-3
    torch.testing.assert_close(others.sum(dim=1), torch.ones_like(others[:, 0]))


def test_what_matches_nothing_is_said_before_the_network_runs(family, monkeypatch):
    _, model = family
    monkeypatch.setattr(model.network, "forward", lambda *_, **__: pytest.fail("it ran"))
    for chosen in ({"layers": ("nowhere",)}, {"heads": (7,)}, {"resolutions": (5,)}):
        with (
            pytest.raises(UcdError, match="no layer of the model matches") as caught,
            model.attention.record(selection=Selection(**chosen)),
        ):
            predicted(model)
        assert f"{model.attention.usual[0]} (8)" in caught.value.hint and "up to 2 heads" in caught.value.hint
    monkeypatch.undo()
    with model.attention.record(selection=Selection(timesteps=(100, 200))) as record:
        predicted(model)
    with pytest.raises(UcdError, match="no step has a timestep from 100 to 200"):
        record.maps()
    with model.attention.record() as record, pytest.raises(RuntimeError, match="no attention was recorded"):
        record.maps()
    with (
        pytest.raises(UcdError, match="daam counts none of the model's layers"),
        model.attention.record(selection=Selection(daam=True)),
    ):
        pass


def test_a_word_is_mapped_by_its_own_tokens_in_every_prompt(family):
    _, model = family
    prompt = "a photo of a cat"
    positions = model.positions(prompt, "cat")
    assert tokens_of(model, prompt, Subject("cat", prompt)) == positions and len(positions) == 1


@pytest.mark.parametrize(
    ("reads_padding", "mask", "token"), [(True, [1, 1, 1, 1, 0, 0], 2), (False, [0, 0, 1, 1, 1, 1], 4)]
)
@torch.no_grad()
def test_a_map_lies_in_the_corner_that_the_word_and_nothing_else_attends_to(reads_padding, mask, token):
    """16 places and 6 tokens, two of them padding: the third word and the first four places share a topic."""
    generator = torch.Generator().manual_seed(0)
    corner, word, places = torch.tensor([0, 1, 4, 5]), 2, 16
    topics = torch.zeros(places + 6, 8)
    topics[:, 0] = 1
    topics[corner] = topics[places + word] = torch.eye(8)[1]
    values = torch.randn(places + 6, 8, generator=generator)
    project = nn.Linear(8, 8)
    probe = JointAttention({"only": JointLayer(project, project, 2, 8)}, reads_padding=reads_padding)
    query = (8 * topics)[None].unflatten(2, (1, -1)).movedim(1, 2)
    with probe.record() as record:
        probe.begin(Call(torch.tensor(500.0), (4, 4), (4, 4), torch.tensor([mask]), image_from=0, text_from=places))
        project(F.scaled_dot_product_attention(query, query, values[None, None])[:, 0])
    heat = record.maps()[0, token]
    inside = torch.zeros(16, dtype=torch.bool)
    inside[corner] = True
    assert heat.flatten()[inside].min() > 2 * heat.flatten()[~inside].max()
