"""Promise: the mask decoder is SAM's, weight for weight and answer for answer, at less work while prompts are few."""

import pytest
import torch
from conftest import randomised, tiny_config
from torch.utils.flop_counter import FlopCounterMode
from transformers.models.sam.configuration_sam import SamMaskDecoderConfig
from transformers.models.sam.modeling_sam import SamMaskDecoder

from sfrecsam_hf.modeling.mask_decoder import SFRecSamMaskDecoder

FEW, MANY = 3, 40


def decoders(implementation: str = "sdpa"):
    config = tiny_config().mask_decoder_config
    config.num_attention_heads = 2
    config._attn_implementation = implementation
    theirs = randomised(SamMaskDecoder(config))
    ours = SFRecSamMaskDecoder(config).eval()
    ours.load_state_dict(theirs.state_dict())
    return theirs, ours


def inputs(rows: int, prompts: int) -> dict:
    generator = torch.Generator().manual_seed(prompts)

    def drawn(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    return {
        "image_embeddings": drawn(rows, 32, 8, 8),
        "image_positional_embeddings": drawn(1, 32, 8, 8),
        "sparse_prompt_embeddings": drawn(rows, 1, prompts, 32),
        "dense_prompt_embeddings": drawn(rows, 32, 8, 8),
    }


def of_sam(given: dict) -> dict:
    """SAM's decoder wants the positions once per row."""
    positions = given["image_positional_embeddings"].expand(len(given["image_embeddings"]), -1, -1, -1)
    return given | {"image_positional_embeddings": positions}


@torch.no_grad()
@pytest.mark.parametrize("multimask", [False, True])
@pytest.mark.parametrize("prompts", [FEW, MANY])
@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_answers_as_sams(implementation, prompts, multimask):
    theirs, ours = decoders(implementation)
    given = inputs(3, prompts)
    expected = theirs(**of_sam(given), multimask_output=multimask)
    for value, reference in zip(ours(**given, multimask_output=multimask), expected, strict=True):
        assert (value - reference).abs().max() < 1e-5 * max(1.0, float(reference.abs().max()))


def test_gradients_are_sams():
    theirs, ours = decoders()
    given = inputs(2, FEW)
    theirs(**of_sam(given), multimask_output=True)[0].square().mean().backward()
    ours(**given, multimask_output=True)[0].square().mean().backward()
    mine = dict(ours.named_parameters())
    for name, parameter in theirs.named_parameters():
        if parameter.grad is None:
            assert mine[name].grad is None, name
        elif not name.endswith("k_proj.bias"):  # softmax does not see it; SAM's gradient for it is rounding
            torch.testing.assert_close(mine[name].grad, parameter.grad, rtol=1e-3, atol=1e-6, msg=name)


@torch.no_grad()
def test_few_prompts_cost_less():
    """At SAM's own width, for 9 passes over 32x32 tokens with a box and a click."""
    flops = []
    for decoder in (SFRecSamMaskDecoder, SamMaskDecoder):
        config = SamMaskDecoderConfig()
        config._attn_implementation = "sdpa"
        with torch.device("meta"), FlopCounterMode(display=False) as counter:
            transformer = decoder(config).eval().transformer
            points, image = torch.zeros(9, 1, 8, 256), torch.zeros(9, 256, 32, 32)
            positions = torch.zeros(1 if decoder is SFRecSamMaskDecoder else 9, 256, 32, 32)
            transformer(points, image, positions, attention_similarity=None)
        flops.append(counter.get_total_flops())
    assert flops[0] < 0.8 * flops[1]
