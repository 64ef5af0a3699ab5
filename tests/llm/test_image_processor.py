"""Tiled images: views and masks, the model's features of them, batches, and the settings of a folder.

Grids, sizes and counts by hand are in test_tiling.py.
"""

from __future__ import annotations

import json
import random

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import Phi4MultimodalConfig
from transformers.models.phi4_multimodal.modeling_phi4_multimodal import Phi4MultimodalImageEmbedding

from swift.llm.images.dynamic_hd import DynamicHDImageProcessor, collate
from swift.utils.errors import UserError


def random_image(width: int, height: int) -> Image.Image:
    values = np.random.default_rng(width * 1000 + height).integers(0, 250, (height, width, 3), np.uint8)
    return Image.fromarray(values)


def test_crops_go_row_by_row_after_the_global_view():
    quarters = np.kron(np.array([[10, 60], [110, 160]], np.uint8), np.ones((448, 448), np.uint8))
    views = DynamicHDImageProcessor()(Image.fromarray(quarters)).pixel_values
    # 10 / 127.5 - 1 = -0.9216 and so on; each crop has one color
    expected = torch.tensor([10, 60, 110, 160]) / 127.5 - 1
    assert views.shape == (5, 3, 448, 448)
    assert torch.allclose(views[1:].amin((1, 2, 3)), expected)
    assert torch.allclose(views[1:].amax((1, 2, 3)), expected)
    assert views[0, 0, 0, 0] < views[0, 0, 0, -1] < views[0, 0, -1, 0] < views[0, 0, -1, -1]


def test_pixels_that_need_no_scaling_are_kept_and_the_global_view_of_one_crop_is_that_crop():
    image = random_image(112, 112)
    views = DynamicHDImageProcessor(112)(image).pixel_values
    expected = torch.from_numpy(np.asarray(image, np.float32)).permute(2, 0, 1) / 127.5 - 1
    assert torch.allclose(views[1], expected, atol=1e-6)
    assert torch.allclose(views[0], expected, atol=1e-5)


def test_the_global_view_is_bicubic_without_antialiasing():
    # At half size each sample is midway between pixels 2x and 2x + 1; the cubic kernel with a = -0.75 is
    # 1.25 t^3 - 2.25 t^2 + 1 = 0.59375 at t = 0.5 and -0.75 (t^3 - 5 t^2 + 8 t - 4) = -0.09375 at t = 1.5.
    row = np.random.default_rng(0).integers(0, 256, 224, np.uint8)
    views = DynamicHDImageProcessor(112)(Image.fromarray(np.tile(row, (224, 1)))).pixel_values
    values = torch.from_numpy(row / 127.5 - 1)
    x = torch.arange(1, 111)
    expected = 0.59375 * (values[2 * x] + values[2 * x + 1]) - 0.09375 * (values[2 * x - 1] + values[2 * x + 2])
    assert torch.allclose(views[0, 0, 50, 1:-1].double(), expected, atol=1e-5)


@pytest.mark.parametrize(("width", "height"), [(200, 90), (90, 200), (223, 224), (150, 111)])
def test_mask_leaves_out_exactly_the_patches_that_are_all_padding(width, height):
    black = Image.new("RGB", (width, height))
    processed = DynamicHDImageProcessor(112)(black)
    patches = processed.pixel_values[1:, 0].unfold(1, 14, 14).unfold(2, 14, 14)  # [crops, 8, 8, 14, 14]
    assert torch.equal(processed.attention_mask[1:], (patches < 1).any(-1).any(-1))
    assert processed.attention_mask[0].all()


def test_a_sliver_is_refused_with_its_size():
    with pytest.raises(UserError, match="448 x 9 pixels is too narrow: a side would scale to 9"):
        DynamicHDImageProcessor()(Image.new("RGB", (448, 9)))


def vision_model(side: int) -> Phi4MultimodalImageEmbedding:
    vision = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": side,
        "crop_size": side,
        "image_token_id": 5,
    }
    torch.manual_seed(0)
    return Phi4MultimodalImageEmbedding(Phi4MultimodalConfig(hidden_size=8, vision_config=vision)).eval()


def embed(model: Phi4MultimodalImageEmbedding, images: list, tokens: int) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.full((1, tokens), 5), torch.zeros(1, tokens, 8), **collate(images))[0]


@pytest.mark.parametrize(("side", "most", "count"), [(112, 4, 25), (112, 9, 25), (126, 6, 25), (448, 4, 2)])
def test_the_model_makes_as_many_features_as_there_are_tokens(side, most, count):
    model, processor, draw = vision_model(side), DynamicHDImageProcessor(side, 14, most), random.Random(side + most)
    for _ in range(count):
        width, height = draw.randint(side // 4, side * 4), draw.randint(side // 4, side * 4)
        processed = processor(random_image(width, height))
        assert processor.count_tokens(width, height) == processed.num_tokens
        assert embed(model, [processed], processed.num_tokens).shape == (processed.num_tokens, 8)
    with pytest.raises((RuntimeError, IndexError)):
        embed(model, [processed], processed.num_tokens + 1)


def test_features_do_not_depend_on_the_other_images_of_the_batch():
    model, processor = vision_model(112), DynamicHDImageProcessor(112)
    small, large = processor(random_image(100, 60)), processor(random_image(300, 220))
    together = embed(model, [small, large], small.num_tokens + large.num_tokens)
    alone = torch.cat([embed(model, [small], small.num_tokens), embed(model, [large], large.num_tokens)])
    assert torch.isfinite(together).all()
    assert torch.allclose(together, alone, atol=1e-6)


def test_collate_pads_crops_with_zeros_that_are_not_masked():
    processor = DynamicHDImageProcessor(112)
    batch = collate([processor(random_image(100, 60)), processor(random_image(300, 220))])
    assert {name: tuple(value.shape) for name, value in batch.items()} == {
        "image_pixel_values": (2, 5, 3, 112, 112),
        "image_sizes": (2, 2),
        "image_attention_mask": (2, 5, 8, 8),
    }
    assert batch["image_sizes"].tolist() == [[112, 112], [224, 224]]
    assert batch["image_pixel_values"][0, 2:].abs().max() == 0
    assert batch["image_attention_mask"][0, 2:].all()
    assert collate([]) == {}


@pytest.mark.parametrize(
    ("stated", "expected"),
    [
        (None, (448, 14, 4)),
        ({"image_processor_type": "Phi4MMImageProcessor", "dynamic_hd": 36}, (448, 14, 4)),
        ({"dynamic_hd": 9, "size": {"height": 112, "width": 112}, "patch_size": 14}, (112, 14, 9)),
        ({"dynamic_hd": 2, "crop_size": 224}, (224, 14, 2)),
        ({"image_processor": {"dynamic_hd": 2}}, (448, 14, 2)),
    ],
    ids=["nothing", "Microsoft's remote code", "native", "crop size", "nested"],
)
def test_settings_of_a_checkpoint_folder(tmp_path, stated, expected):
    """The vision tower of a loaded policy decides on the crop size (see test_both_layouts_are_one_model)."""
    if stated is not None:
        (tmp_path / "preprocessor_config.json").write_text(json.dumps(stated))
    processor = DynamicHDImageProcessor.from_config(tmp_path)
    assert (processor.crop_size, processor.patch_size, processor.dynamic_hd) == expected


@pytest.mark.parametrize("most", [1, 4, 36])
def test_saved_settings_come_back(tmp_path, most):
    DynamicHDImageProcessor(112, 14, most).save(tmp_path)
    processor = DynamicHDImageProcessor.from_config(tmp_path)
    assert (processor.crop_size, processor.patch_size, processor.dynamic_hd) == (112, 14, most)
    assert DynamicHDImageProcessor.from_config(tmp_path, dynamic_hd=7).dynamic_hd == 7


@pytest.mark.parametrize("text", ["{", '{"crop_size": 100}', '{"size": {"shortest_edge": 448}}', '{"dynamic_hd": "x"}'])
def test_a_broken_settings_file_is_named(tmp_path, text):
    (tmp_path / "preprocessor_config.json").write_text(text)
    with pytest.raises(UserError, match=r"preprocessor_config\.json"):
        DynamicHDImageProcessor.from_config(tmp_path)
