"""`from_sam` takes any SAM, in transformers' or the original form, and every original weight arrives."""

import pytest
import torch
from conftest import tiny_model, tiny_sam
from safetensors.torch import load_file, save_file
from transformers import ViTConfig

from sfrecsam_hf import SFRecSamModel

# Width, depth, heads and global-attention blocks of the three released encoders (Kirillov et al., ICCV 2023).
RELEASED = {
    "ViT-B": (768, 12, 12, (2, 5, 8, 11)),
    "ViT-L": (1024, 24, 16, (5, 11, 17, 23)),
    "ViT-H": (1280, 32, 16, (7, 15, 23, 31)),
}


def original_weights(width, depth, heads, global_blocks, grid=64, window=14, patch=16, out=256, mlp=4, decoder=2048):
    """`(original name, transformers' name, shape)` of every weight of a Segment Anything `.pth`."""
    head = width // heads
    yield "image_encoder.pos_embed", "vision_encoder.pos_embed", (1, grid, grid, width)
    yield (
        "image_encoder.patch_embed.proj.weight",
        "vision_encoder.patch_embed.projection.weight",
        (width, 3, patch, patch),
    )
    yield "image_encoder.patch_embed.proj.bias", "vision_encoder.patch_embed.projection.bias", (width,)
    for block in range(depth):
        positions = 2 * (grid if block in global_blocks else window) - 1
        old, new = f"image_encoder.blocks.{block}", f"vision_encoder.layers.{block}"
        yield f"{old}.norm1.weight", f"{new}.layer_norm1.weight", (width,)
        yield f"{old}.norm1.bias", f"{new}.layer_norm1.bias", (width,)
        yield f"{old}.norm2.weight", f"{new}.layer_norm2.weight", (width,)
        yield f"{old}.norm2.bias", f"{new}.layer_norm2.bias", (width,)
        yield f"{old}.attn.rel_pos_h", f"{new}.attn.rel_pos_h", (positions, head)
        yield f"{old}.attn.rel_pos_w", f"{new}.attn.rel_pos_w", (positions, head)
        linear = {"attn.qkv": (3 * width, width), "attn.proj": (width, width)}
        linear |= {"mlp.lin1": (mlp * width, width), "mlp.lin2": (width, mlp * width)}
        for name, shape in linear.items():
            yield f"{old}.{name}.weight", f"{new}.{name}.weight", shape
            yield f"{old}.{name}.bias", f"{new}.{name}.bias", shape[:1]
    yield "image_encoder.neck.0.weight", "vision_encoder.neck.conv1.weight", (out, width, 1, 1)
    yield "image_encoder.neck.2.weight", "vision_encoder.neck.conv2.weight", (out, out, 3, 3)
    for number, name in (("1", "layer_norm1"), ("3", "layer_norm2")):
        for kind in ("weight", "bias"):
            yield f"image_encoder.neck.{number}.{kind}", f"vision_encoder.neck.{name}.{kind}", (out,)

    yield (
        "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix",
        "prompt_encoder.shared_embedding.positional_embedding",
        (2, out // 2),
    )
    for number in range(4):
        old, new = f"prompt_encoder.point_embeddings.{number}.weight", f"prompt_encoder.point_embed.{number}.weight"
        yield old, new, (1, out)
    for name in ("not_a_point_embed", "no_mask_embed"):
        yield f"prompt_encoder.{name}.weight", f"prompt_encoder.{name}.weight", (1, out)
    downscaling = {
        "0": ("conv1", (4, 1, 2, 2)),
        "1": ("layer_norm1", (4,)),
        "3": ("conv2", (16, 4, 2, 2)),
        "4": ("layer_norm2", (16,)),
        "6": ("conv3", (out, 16, 1, 1)),
    }
    for number, (name, shape) in downscaling.items():
        old, new = f"prompt_encoder.mask_downscaling.{number}", f"prompt_encoder.mask_embed.{name}"
        yield f"{old}.weight", f"{new}.weight", shape
        yield f"{old}.bias", f"{new}.bias", shape[:1]

    attention = {"self_attn": out, "cross_attn_token_to_image": out // 2, "cross_attn_image_to_token": out // 2}
    for layer in range(2):
        old = new = f"mask_decoder.transformer.layers.{layer}"
        for name, inner in attention.items():
            yield from attention_weights(f"{old}.{name}", f"{new}.{name}", out, inner)
        for number in range(1, 5):
            for kind in ("weight", "bias"):
                yield f"{old}.norm{number}.{kind}", f"{new}.layer_norm{number}.{kind}", (out,)
        for name, shape in (("mlp.lin1", (decoder, out)), ("mlp.lin2", (out, decoder))):
            yield f"{old}.{name}.weight", f"{new}.{name}.weight", shape
            yield f"{old}.{name}.bias", f"{new}.{name}.bias", shape[:1]
    final = "mask_decoder.transformer.final_attn_token_to_image"
    yield from attention_weights(final, final, out, out // 2)
    for kind in ("weight", "bias"):
        old, new = "mask_decoder.transformer.norm_final_attn", "mask_decoder.transformer.layer_norm_final_attn"
        yield f"{old}.{kind}", f"{new}.{kind}", (out,)
    yield "mask_decoder.iou_token.weight", "mask_decoder.iou_token.weight", (1, out)
    yield "mask_decoder.mask_tokens.weight", "mask_decoder.mask_tokens.weight", (4, out)
    upscaling = {
        "0": ("upscale_conv1", (out, out // 4, 2, 2), out // 4),
        "1": ("upscale_layer_norm", (out // 4,), out // 4),
        "3": ("upscale_conv2", (out // 4, out // 8, 2, 2), out // 8),
    }
    for number, (name, shape, bias) in upscaling.items():
        yield f"mask_decoder.output_upscaling.{number}.weight", f"mask_decoder.{name}.weight", shape
        yield f"mask_decoder.output_upscaling.{number}.bias", f"mask_decoder.{name}.bias", (bias,)
    heads_of_decoder = {f"output_hypernetworks_mlps.{number}": out // 8 for number in range(4)}
    heads_of_decoder["iou_prediction_head"] = 4
    for name, outputs in heads_of_decoder.items():
        chain = {"0": ("proj_in", out), "1": ("layers.0", out), "2": ("proj_out", outputs)}
        for number, (part, rows) in chain.items():
            old, new = f"mask_decoder.{name}.layers.{number}", f"mask_decoder.{name}.{part}"
            yield f"{old}.weight", f"{new}.weight", (rows, out)
            yield f"{old}.bias", f"{new}.bias", (rows,)


def attention_weights(old, new, out, inner):
    for name in ("q_proj", "k_proj", "v_proj"):
        yield f"{old}.{name}.weight", f"{new}.{name}.weight", (inner, out)
        yield f"{old}.{name}.bias", f"{new}.{name}.bias", (inner,)
    yield f"{old}.out_proj.weight", f"{new}.out_proj.weight", (out, inner)
    yield f"{old}.out_proj.bias", f"{new}.out_proj.bias", (out,)


TINY = {"grid": 8, "window": 4, "patch": 8, "out": 32, "mlp": 2, "decoder": 64}


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """A tiny `.pth` with original names, and the same weights in a `SamModel`."""
    sam = tiny_sam()
    weights = sam.state_dict()
    table = list(original_weights(32, 2, 2, (1,), **TINY))
    state = {old: weights[new].clone() for old, new, shape in table if weights[new].shape == shape}
    assert len(state) == len(table) == len(weights) - 1  # SAM's one Fourier matrix has two names in transformers
    path = tmp_path_factory.mktemp("original") / "sam_tiny.pth"
    torch.save(state, path)
    return path, sam


def test_the_original_file_and_the_transformers_folder_give_the_same_model(original, tmp_path):
    path, sam = original
    sam.save_pretrained(tmp_path)
    from_file, from_folder = SFRecSamModel.from_sam(str(path)), SFRecSamModel.from_sam(str(tmp_path))
    for name, value in sam.state_dict().items():
        assert torch.equal(from_file.state_dict()[name], value), name
        assert torch.equal(from_folder.state_dict()[name], value), name
    assert from_file.config.vision_config.mlp_dim == from_folder.config.vision_config.mlp_dim == 64


@torch.no_grad()
def test_the_original_file_answers_as_sam(original, pixels):
    path, sam = original
    boxes = torch.tensor([[[5.0, 10.0, 40.0, 50.0]]] * 2)
    expected = sam(pixels, input_boxes=boxes, multimask_output=False).pred_masks
    assert torch.allclose(SFRecSamModel.from_sam(str(path))(pixels, input_boxes=boxes).pred_masks, expected, atol=1e-4)


@pytest.mark.parametrize("encoder", RELEASED)
@pytest.mark.parametrize("geometry", ["as released", "256 px"])
def test_every_weight_of_the_released_sizes_has_its_place(encoder, geometry, tmp_path):
    table = list(original_weights(*RELEASED[encoder]))
    with torch.device("meta"):
        torch.save({old: torch.empty(shape) for old, _, shape in table}, tmp_path / "sam.pth")
        changes = {"image_size": 256, "patch_stride": 8, "window_size": 16} if geometry == "256 px" else {}
        model = SFRecSamModel.from_sam(str(tmp_path / "sam.pth"), **changes)
    report = model.sam_report
    arrived = {new for _, new, _ in table} | {"shared_image_embedding.positional_embedding"}
    assert {*report.loaded, *report.interpolated} == arrived
    assert {*report.new} == set(model.state_dict()) - arrived
    vision = model.config.vision_config
    width, depth, heads, global_blocks = RELEASED[encoder]
    assert (vision.hidden_size, vision.num_hidden_layers, vision.num_attention_heads) == (width, depth, heads)
    assert tuple(vision.global_attn_indexes) == global_blocks
    if geometry == "as released":
        assert (vision.image_size, vision.patch_size, vision.window_size) == (1024, 16, 14)
        assert not report.interpolated
    else:
        assert (vision.image_size, vision.patch_size, vision.window_size) == (256, 8, 16)
        assert vision.patch_kernel_size == 16
        assert model.vision_encoder.pos_embed.shape == (1, 32, 32, width)
        assert {name.rsplit(".", 1)[1] for name in report.interpolated} == {"pos_embed", "rel_pos_h", "rel_pos_w"}
        assert len(report.interpolated) == 1 + 2 * depth


def test_positions_are_interpolated_to_another_grid(original, pixels):
    path, sam = original
    model = SFRecSamModel.from_sam(
        str(path), image_size=32, patch_stride=2, window_size=8, branch_channels=(8,), mask_stride=2
    )
    assert model.vision_encoder.pos_embed.shape == (1, 16, 16, 32)
    assert torch.equal(
        model.vision_encoder.patch_embed.projection.weight, sam.vision_encoder.patch_embed.projection.weight
    )
    old, new = sam.vision_encoder.pos_embed, model.vision_encoder.pos_embed
    pooled = torch.nn.functional.avg_pool2d(new.permute(0, 3, 1, 2), 2).permute(0, 2, 3, 1)
    assert torch.nn.functional.cosine_similarity(pooled.flatten(), old.flatten(), dim=0) > 0.8
    assert model.vision_encoder.layers[0].attn.rel_pos_h.shape[0] == 15
    assert model.vision_encoder.layers[1].attn.rel_pos_h.shape[0] == 31
    assert model(pixels[..., :32, :32]).pred_masks.shape[-2:] == (16, 16)


def test_the_report_names_what_is_new(original):
    model = SFRecSamModel.from_sam(str(original[0]))
    assert any("adapter" in name for name in model.sam_report.new)
    assert any("corrector" in name for name in model.sam_report.new)
    assert str(len(model.sam_report.new)) in str(model.sam_report)


def test_an_extended_sam_survives_saving(original, pixels, tmp_path):
    model = SFRecSamModel.from_sam(str(original[0]))
    model.save_pretrained(tmp_path)
    again = SFRecSamModel.from_pretrained(tmp_path)
    assert torch.equal(again(pixels).pred_masks, model(pixels).pred_masks)


def test_wrong_checkpoints_are_refused_in_one_sentence(original, tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist"):
        SFRecSamModel.from_sam(str(tmp_path / "missing.pth"))
    (tmp_path / "text.pth").write_text("no checkpoint")
    with pytest.raises(ValueError, match=r"text.pth is no readable PyTorch checkpoint"):
        SFRecSamModel.from_sam(str(tmp_path / "text.pth"))
    (tmp_path / "half.pth").write_bytes(original[0].read_bytes()[:2000])
    with pytest.raises(ValueError, match=r"half.pth is no readable PyTorch checkpoint"):
        SFRecSamModel.from_sam(str(tmp_path / "half.pth"))
    torch.save({"encoder.weight": torch.zeros(2)}, tmp_path / "unet.pth")
    with pytest.raises(ValueError, match=r"unet.pth is not a Segment Anything checkpoint"):
        SFRecSamModel.from_sam(str(tmp_path / "unet.pth"))
    state = torch.load(original[0])
    state.pop("mask_decoder.iou_token.weight")
    torch.save(state, tmp_path / "partial.pth")
    with pytest.raises(ValueError, match=r"partial.pth.*mask_decoder.iou_token.weight"):
        SFRecSamModel.from_sam(str(tmp_path / "partial.pth"))
    state = torch.load(original[0]) | {"mask_decoder.text_head.weight": torch.zeros(2)}
    torch.save(state, tmp_path / "more.pth")
    with pytest.raises(ValueError, match=r"no place for mask_decoder.text_head.weight"):
        SFRecSamModel.from_sam(str(tmp_path / "more.pth"))
    tiny_model().save_pretrained(tmp_path / "extended")
    with pytest.raises(ValueError, match="from_pretrained"):
        SFRecSamModel.from_sam(str(tmp_path / "extended"))


def test_wrong_folders_are_refused_in_one_sentence(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none is neither a folder with a SAM"):
        SFRecSamModel.from_sam(str(tmp_path / "none"))
    vit = tmp_path / "vit"
    ViTConfig().save_pretrained(vit)
    with pytest.raises(ValueError, match=r"vit is a 'vit' checkpoint and not a SAM"):
        SFRecSamModel.from_sam(str(vit))
    sam = tmp_path / "sam"
    tiny_sam().save_pretrained(sam)
    file = sam / "model.safetensors"
    whole = file.read_bytes()
    weights = load_file(file)
    weights.pop("mask_decoder.iou_token.weight")
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"sam lacks 1 of \d+ weights \(mask_decoder\.iou_token\.weight"):
        SFRecSamModel.from_sam(str(sam))
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"The weight file of .*sam is truncated or damaged"):
        SFRecSamModel.from_sam(str(sam))
