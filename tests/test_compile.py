"""Promise: `torch.compile` sees one whole graph, and serves every batch size with it."""

import pytest
import torch
from conftest import IMAGE_SIZE, tiny_model

from sfrecsam_hf.outputs_sfrecsam import SFRecSamImageEmbeddings


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def images(count: int) -> torch.Tensor:
    return torch.randn(count, 3, IMAGE_SIZE, IMAGE_SIZE, generator=torch.Generator().manual_seed(count))


class CountingBackend:
    """Runs graphs as they are, and counts how many were made."""

    def __init__(self):
        self.graphs = 0

    def __call__(self, graph, example_inputs):
        self.graphs += 1
        return graph.forward


@torch.no_grad()
@pytest.mark.parametrize("fusion", ["spatial-frequency", "none"])
def test_encoder_is_one_graph_for_every_batch_size(fusion):
    model, backend = tiny_model(fusion=fusion), CountingBackend()
    encode = torch.compile(model.encode, fullgraph=True, dynamic=True, backend=backend)
    for count in (2, 3, 5):
        expected, given = model.encode(images(count)), encode(images(count))
        assert isinstance(given, SFRecSamImageEmbeddings)
        torch.testing.assert_close(given.image_embeddings, expected.image_embeddings, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(given.coarse_masks, expected.coarse_masks, atol=1e-5, rtol=1e-4)
    assert backend.graphs == 1


@torch.no_grad()
@pytest.mark.parametrize("samples", [0, 2])
def test_automatic_path_is_one_graph_for_every_batch_size(model, samples):
    # Three passes of five images stay below 16 maps, where PyTorch's CPU convolution changes its kernel and guards it.
    backend = CountingBackend()
    noise = model.draw_noise(samples) if samples else None
    compiled = torch.compile(model.forward, fullgraph=True, dynamic=True, backend=backend)
    for count in (2, 3, 5):
        expected = model(images(count), mc_samples=samples)
        given = compiled(images(count), mc_samples=samples, noise=noise)
        for name in ("pred_masks", "predictive_entropy", "prompt_boxes"):
            torch.testing.assert_close(given[name], expected[name], atol=1e-4, rtol=1e-4)
        assert torch.equal(given.suspicious_region, expected.suspicious_region)
    assert backend.graphs == 1
