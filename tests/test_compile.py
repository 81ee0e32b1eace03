"""Promise: `torch.compile` sees one whole graph, and serves every batch size and number of prompts with it."""

import pytest
import torch
from conftest import IMAGE_SIZE, tiny_model

from sfrecsam_hf.modeling.model_outputs import SFRecSamImageEmbeddings

pytestmark = pytest.mark.filterwarnings("ignore:TF32 acceleration")


@pytest.fixture(autouse=True)
def fresh_compiler():
    """
    Compiles anew, with one kernel for all convolutions.

    PyTorch itself has several on a CPU: it chooses by batch size and asks for a second graph from 16 maps on.
    """
    torch._dynamo.reset()
    with torch.backends.mkldnn.flags(enabled=False), torch.backends.nnpack.flags(enabled=False):
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


def assert_same(given, expected) -> None:
    for name in ("pred_masks", "predictive_entropy", "prompt_boxes", "iou_scores"):
        torch.testing.assert_close(given[name], expected[name], atol=1e-4, rtol=1e-4)
    assert torch.equal(given.suspicious_region, expected.suspicious_region)


@torch.no_grad()
def test_encoder_is_one_graph_for_every_batch_size():
    model, backend = tiny_model(fusion="none"), CountingBackend()
    encode = torch.compile(model.encode, fullgraph=True, dynamic=True, backend=backend)
    for count in (2, 5, 17):
        expected, given = model.encode(images(count)), encode(images(count))
        assert isinstance(given, SFRecSamImageEmbeddings)
        torch.testing.assert_close(given.image_embeddings, expected.image_embeddings, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(given.coarse_masks, expected.coarse_masks, atol=1e-5, rtol=1e-4)
    assert backend.graphs == 1


@torch.no_grad()
def test_automatic_path_is_one_graph_for_every_batch_size_and_number_of_samples(model):
    backend = CountingBackend()
    compiled = torch.compile(model.forward, fullgraph=True, dynamic=True, backend=backend)
    for count, samples in ((2, 5), (7, 4), (17, 6)):
        assert_same(compiled(images(count), mc_samples=samples), model(images(count), mc_samples=samples))
    assert backend.graphs == 1


@torch.no_grad()
def test_given_prompts_are_one_graph_for_every_number_of_them(model):
    backend = CountingBackend()
    compiled = torch.compile(model.forward, fullgraph=True, dynamic=True, backend=backend)

    def prompts(count: int, each: int, points: int) -> dict[str, torch.Tensor]:
        return {
            "input_points": torch.rand(count, each, points, 2, generator=torch.Generator().manual_seed(points)) * 50,
            "input_labels": torch.ones(count, each, points, dtype=torch.int),
            "input_boxes": torch.tensor([4.0, 6, 50, 40]).repeat(count, each, 1),
        }

    for count, each, points in ((5, 6, 7), (2, 8, 9), (9, 2, 4)):
        given = prompts(count, each, points)
        assert_same(compiled(images(count), **given, mc_samples=0), model(images(count), **given, mc_samples=0))
    assert backend.graphs == 1

    # What is wrong is refused as the eager model does it, and so is what only the eager model can answer.
    given = prompts(4, 3, 2)
    with pytest.raises(ValueError, match="input_boxes lie outside the 64 pixels of the model's input"):
        compiled(images(4), **given | {"input_boxes": given["input_boxes"] + 40}, mc_samples=0)
    given["input_labels"][2, 1] = -10
    with pytest.raises(ValueError, match=r"input_labels hold -10.*run it eagerly"):
        compiled(images(4), **given, mc_samples=0)
