"""Tiling by hand: grids, scaled sizes, masks and token counts. Then a slow reference, Pillow's pixels and the model.

The derivation of a row, with S the crop, P the patch and M the most crops:

    grid     ceil(W/S) x ceil(H/S), or if that is over M, the grid of at most M crops whose ratio is nearest to W/H;
             of equally near grids the later (larger) one if W*H > S*S*grid/2
    scaled   both sides times the larger factor that fits them; the other side is cut to an integer
    unmasked patches across and down: all less floor(padding / P)
    tokens   p*p + p (global view, p = S/2P), 1, and C*R + R, where C and R are every second of the unmasked patches

For S 448 and P 14, p is 16 and the first part 273. A crop then has 32 patches per side.
"""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import Phi4MultimodalConfig
from transformers.models.phi4_multimodal.modeling_phi4_multimodal import Phi4MultimodalImageEmbedding

from swift.llm.images.dynamic_hd import DynamicHDImageProcessor, ProcessedImage, collate
from swift.llm.images.source import ImageSource, View, image_size, open_image
from tests.support.builders import tiny_config

CASES = [
    # W, H, S, P, M -> columns, rows, scaled W, scaled H, patches across, down, tokens
    # landscape film of 3000 x 2500 = 7 x 6 crops, ratio 1.2
    (3000, 2500, 448, 14, 1, 1, 1, 448, 373, 32, 27, 511),  # pad 75 = 5 patches; 273 + 16*14 + 14
    (3000, 2500, 448, 14, 2, 1, 1, 448, 373, 32, 27, 511),  # 0.5 and 2 are farther than 1
    (3000, 2500, 448, 14, 3, 1, 1, 448, 373, 32, 27, 511),  # so are 1/3 and 3
    (3000, 2500, 448, 14, 4, 2, 2, 896, 746, 64, 54, 1164),  # ties with 1, large; pad 150 = 10: 273 + 32*27 + 27
    (3000, 2500, 448, 14, 6, 2, 2, 896, 746, 64, 54, 1164),  # 3:2 is 0.3 off, 1 only 0.2
    (3000, 2500, 448, 14, 9, 3, 3, 1344, 1120, 96, 80, 2233),  # 7.5M > 0.9M; pad 224 = 16: 273 + 48*40 + 40
    (3000, 2500, 448, 14, 12, 4, 3, 1612, 1344, 116, 96, 3105),  # 4:3 is 0.13 off; pad 180 = 12: 273 + 58*48 + 48
    # portrait of 1000 x 3000 = 3 x 7 crops, ratio 1/3, under every M from 1 to 12
    (1000, 3000, 448, 14, 1, 1, 1, 149, 448, 11, 32, 385),  # pad 299 = 21; 6 of 11: 273 + 6*16 + 16
    (1000, 3000, 448, 14, 2, 1, 2, 298, 896, 22, 64, 657),  # 1:2; pad 150 = 10: 273 + 11*32 + 32
    (1000, 3000, 448, 14, 3, 1, 3, 448, 1344, 32, 96, 1089),  # 1:3 fits: 273 + 16*48 + 48
    (1000, 3000, 448, 14, 4, 1, 3, 448, 1344, 32, 96, 1089),
    (1000, 3000, 448, 14, 5, 1, 3, 448, 1344, 32, 96, 1089),
    (1000, 3000, 448, 14, 6, 1, 3, 448, 1344, 32, 96, 1089),
    (1000, 3000, 448, 14, 7, 1, 3, 448, 1344, 32, 96, 1089),
    (1000, 3000, 448, 14, 8, 1, 3, 448, 1344, 32, 96, 1089),
    (1000, 3000, 448, 14, 9, 1, 3, 448, 1344, 32, 96, 1089),
    (1000, 3000, 448, 14, 10, 1, 3, 448, 1344, 32, 96, 1089),
    (1000, 3000, 448, 14, 11, 1, 3, 448, 1344, 32, 96, 1089),
    (1000, 3000, 448, 14, 12, 2, 6, 896, 2688, 64, 192, 3441),  # ties; 3M > 1.2M: 273 + 32*96 + 96
    # squares
    (448, 448, 448, 14, 4, 1, 1, 448, 448, 32, 32, 545),  # 273 + 16*16 + 16
    (449, 449, 448, 14, 4, 2, 2, 896, 896, 64, 64, 1329),  # one pixel over takes a second crop: 273 + 32*32 + 32
    (896, 896, 448, 14, 4, 2, 2, 896, 896, 64, 64, 1329),
    (1000, 1000, 448, 14, 1, 1, 1, 448, 448, 32, 32, 545),
    (1344, 1344, 448, 14, 9, 3, 3, 1344, 1344, 96, 96, 2625),  # 3 x 3 = 9 is allowed: 273 + 48*48 + 48
    (1345, 1345, 448, 14, 9, 3, 3, 1344, 1344, 96, 96, 2625),  # 4 x 4 > 9
    (2688, 2688, 448, 14, 36, 6, 6, 2688, 2688, 192, 192, 9585),  # 273 + 96*96 + 96
    # 2 x 2 crops > 3; 1.11 is nearest to 1, and of ratio 1 there is only (1, 1)
    (500, 449, 448, 14, 3, 1, 1, 448, 402, 32, 29, 528),  # 449 * 0.896 = 402.3; pad 46 = 3; 15 of 29: 273 + 16*15 + 15
    # 1.5 ties 1 and 2; 675 * 450 = 303,750 > 0.5 * 2 * 200,704: (2, 1); 450 * 896/675 = 597 is too tall: 672 x 448
    (675, 450, 448, 14, 3, 2, 1, 672, 448, 48, 32, 673),  # pad 224 = 16: 273 + 24*16 + 16
    # sides
    (300, 200, 448, 14, 4, 1, 1, 448, 298, 32, 22, 460),  # pad 150 = 10: 273 + 16*11 + 11
    (200, 300, 448, 14, 4, 1, 1, 298, 448, 22, 32, 465),  # 273 + 11*16 + 16
    (448, 440, 448, 14, 4, 1, 1, 448, 440, 32, 32, 545),  # pad 8 is no whole patch
    (448, 435, 448, 14, 4, 1, 1, 448, 435, 32, 32, 545),  # nor is 13
    (448, 434, 448, 14, 4, 1, 1, 448, 434, 32, 31, 545),  # pad 14 = 1; rows 0, 2 .. 30 of 31 are 16
    (448, 420, 448, 14, 4, 1, 1, 448, 420, 32, 30, 528),  # pad 28 = 2; 15: 273 + 16*15 + 15
    (1000, 500, 448, 14, 4, 2, 1, 896, 448, 64, 32, 801),  # 3 x 2 > 4; 2.0 is (2, 1): 273 + 32*16 + 16
    (500, 2000, 448, 14, 4, 1, 4, 448, 1792, 32, 128, 1361),  # 273 + 16*64 + 64
    (2544, 3056, 448, 14, 4, 2, 2, 745, 896, 54, 64, 1169),  # a usual film; pad 151 = 10: 273 + 27*32 + 32
    (3056, 2544, 448, 14, 4, 2, 2, 896, 745, 64, 54, 1164),  # 273 + 32*27 + 27
    (1575, 450, 448, 14, 4, 4, 1, 1568, 448, 112, 32, 1185),  # 3.5 ties 3 and 4, large; pad 224: 273 + 56*16 + 16
    (2000, 1000, 448, 14, 36, 5, 3, 2240, 1120, 160, 80, 3513),  # 5 x 3 <= 36; pad 224 = 16: 273 + 80*40 + 40
    # tiny
    (1, 1, 448, 14, 4, 1, 1, 448, 448, 32, 32, 545),
    (20, 11, 448, 14, 4, 1, 1, 448, 246, 32, 18, 426),  # 11 * 22.4 = 246.4; pad 202 = 14: 273 + 16*9 + 9
    # extreme ratios
    (4480, 100, 448, 14, 4, 4, 1, 1792, 40, 128, 3, 403),  # 10 > 4, nearest 4; pad 408 = 29; 2 of 3: 273 + 64*2 + 2
    (100, 4480, 448, 14, 12, 1, 10, 100, 4480, 8, 320, 1073),  # pad 348 = 24: 273 + 4*160 + 160
    (449, 10, 448, 14, 4, 2, 1, 896, 19, 64, 2, 306),  # 10 * 896/449 = 19.96; pad 429 = 30: 273 + 32*1 + 1
    (448, 10, 448, 14, 4, 1, 1, 448, 10, 32, 1, 290),  # pad 438 = 31; the narrowest allowed: 273 + 16 + 1
    # other crops and patches; S 112, P 14: p = 4, 21 first
    (448, 448, 112, 14, 4, 2, 2, 224, 224, 16, 16, 93),  # 4 x 4 > 4: 21 + 8*8 + 8
    (100, 50, 112, 14, 4, 1, 1, 112, 56, 8, 4, 31),  # pad 56 = 4: 21 + 4*2 + 2
    # S 126: 9 patches, every second of them is 5; 5*5 + 5 + 1 = 31
    (126, 126, 126, 14, 4, 1, 1, 126, 126, 9, 9, 61),  # 31 + 5*5 + 5
    (200, 126, 126, 14, 4, 2, 1, 200, 126, 15, 9, 76),  # pad 52 = 3; 5 of the first crop's 9, 3 of the second's 6
    # S 64, P 16: 4 patches, p = 2, 7 first
    (100, 64, 64, 16, 4, 2, 1, 100, 64, 7, 4, 17),  # pad 28 = 1; 4 of 7: 7 + 4*2 + 2
    (64, 10, 64, 8, 4, 1, 1, 64, 10, 8, 2, 26),  # P 8: p = 4, 21 first; pad 54 = 6; 1 of 2: 21 + 4*1 + 1
]


def noise(width: int, height: int) -> Image.Image:
    """Levels under 250, so that no pixel of the image is as white as the padding."""
    values = np.random.default_rng(width * 10_000 + height).integers(0, 250, (height, width, 3), np.uint8)
    return Image.fromarray(values)


@pytest.fixture(scope="module")
def models() -> dict[tuple[int, int], Phi4MultimodalImageEmbedding]:
    """The image part of a tiny Phi-4-multimodal for each crop and patch size of the table."""
    made = {}
    for crop, patch in {case[2:4] for case in CASES}:
        config = tiny_config().to_dict()
        config["vision_config"] |= {"crop_size": crop, "image_size": crop, "patch_size": patch}
        torch.manual_seed(0)
        made[crop, patch] = Phi4MultimodalImageEmbedding(Phi4MultimodalConfig(**config)).eval()
    return made


def features_of(model: Phi4MultimodalImageEmbedding, image: ProcessedImage) -> int:
    """The number of features that the model makes of an image, independent of the room in its prompt."""
    counts = []
    hook = model.img_projection_down.register_forward_hook(lambda *passed: counts.append(passed[-1].shape[1]))
    token, hidden = model.config.vision_config.image_token_id, model.config.hidden_size
    with torch.no_grad():
        model(torch.full((1, image.num_tokens), token), torch.zeros(1, image.num_tokens, hidden), **collate([image]))
    hook.remove()
    return counts[0]


@pytest.mark.parametrize("case", CASES, ids=lambda case: "{}x{} S{} P{} M{}".format(*case[:5]))
def test_by_hand_by_pillow_and_by_the_model(case, models):
    width, height, crop, patch, most, columns, rows, scaled_w, scaled_h, across, down, tokens = case
    processor = DynamicHDImageProcessor(crop, patch, most)
    assert processor.count_tokens(width, height) == tokens
    image = noise(width, height)
    processed = processor(image)
    assert processed.num_tokens == tokens
    assert processed.size == (rows * crop, columns * crop)
    assert processed.pixel_values.shape == (1 + rows * columns, 3, crop, crop)

    patches = crop // patch
    mask = np.zeros((rows * patches, columns * patches), dtype=bool)
    mask[:down, :across] = True
    assert processed.attention_mask[0].all()
    assert np.array_equal(whole(processed.attention_mask[1:, None], rows, columns)[..., 0], mask)

    canvas = Image.new("RGB", (columns * crop, rows * crop), "white")
    canvas.paste(image.resize((scaled_w, scaled_h), Image.Resampling.BILINEAR), (0, 0))
    levels = (whole(processed.pixel_values[1:], rows, columns) + 1) * 127.5
    assert np.abs(levels - np.asarray(canvas, np.float32)).max() < 1
    assert features_of(models[crop, patch], processed) == tokens


def whole(views: torch.Tensor, rows: int, columns: int) -> np.ndarray:
    """Crops [rows * columns, C, s, s] put together again, [rows * s, columns * s, C]."""
    strips = [np.concatenate(list(views[row * columns :][:columns].numpy()), axis=2) for row in range(rows)]
    return np.concatenate(strips, axis=1).transpose(1, 2, 0)


def test_every_dynamic_hd_to_twelve_and_enough_cases_are_in_the_table():
    assert len(set(CASES)) == len(CASES) >= 25
    assert {case[4] for case in CASES} >= set(range(1, 13))


def slow_grid(width: int, height: int, side: int, most: int, larger_first: bool = False) -> tuple[int, int]:
    """The grid in the plainest form. ``larger_first`` reverses the order of grids of equal area, which is not
    specified."""
    columns, rows = -(-width // side), -(-height // side)
    if columns * rows <= most:
        return columns, rows
    sides = range(most, 0, -1) if larger_first else range(1, most + 1)
    nearest = None
    for area in range(1, most + 1):
        for i in sides:
            j = area / i
            if j == int(j):
                gap = abs(width / height - i / j)
                if nearest is None or gap < nearest or (gap == nearest and width * height > side * side * area / 2):
                    nearest, columns, rows = gap, i, int(j)
    return columns, rows


def slow_reference(width: int, height: int, side: int, patch: int, most: int):
    """Grid, scaled size, mask and tokens in the plainest form; None for a sliver."""
    columns, rows = slow_grid(width, height, side, most)
    factors = columns * side / width, rows * side / height
    scaled = [columns * side, rows * side]
    if factors[0] < factors[1]:
        scaled[1] = math.floor(height * factors[0])
    else:
        scaled[0] = math.floor(width * factors[1])
    if min(scaled) < 10:
        return None
    mask = np.zeros((rows * side // patch, columns * side // patch), dtype=bool)
    for y in range(len(mask)):
        for x in range(len(mask[0])):
            mask[y, x] = y * patch < scaled[1] and x * patch < scaled[0]
    # every second patch of every crop, counted one by one
    each = side // patch
    kept_x = [x for x in range(len(mask[0])) if (x % each) % 2 == 0 and mask[0, x]]
    kept_y = [y for y in range(len(mask)) if (y % each) % 2 == 0 and mask[y, 0]]
    pooled = len([x for x in range(each) if x % 2 == 0])
    tokens = 0
    for _ in kept_y:
        tokens += len(kept_x) + 1  # and the separator of a row
    tokens += 1
    for _ in range(pooled):
        tokens += pooled + 1
    return (columns, rows), tuple(scaled), mask, tokens


def test_any_size_setting_and_ratio_is_tiled_as_the_slow_reference_says():
    draw, refused = random.Random(0), 0
    for _ in range(600):
        patch = draw.choice([7, 14, 16])
        side = patch * draw.choice([2, 3, 4, 8, 9, 32])
        most = draw.choice([*range(1, 13), 16, 25, 36])
        width, height = (max(1, round(side * draw.uniform(0.05, 1) * draw.choice([1, 3, 9]))) for _ in "wh")
        processor = DynamicHDImageProcessor(side, patch, most)
        expected = slow_reference(width, height, side, patch, most)
        if expected is None:
            refused += 1
            with pytest.raises(ValueError, match="too narrow"):
                processor.tiling(width, height)
            continue
        tiling = processor.tiling(width, height)
        assert ((tiling.columns, tiling.rows), (tiling.width, tiling.height)) == expected[:2]
        assert processor.count_tokens(width, height) == expected[3]
        if draw.random() < 0.1:
            found = processor(noise(width, height)).attention_mask[1:, None]
            assert np.array_equal(whole(found, tiling.rows, tiling.columns)[..., 0], expected[2])
    assert 5 < refused < 200


@pytest.mark.parametrize("most", [4, 12, 36])
def test_the_order_of_grids_of_one_area_never_matters(most):
    """A ratio half-way between those of two grids of the same area is nearer to a grid of less area."""
    grids = [(i, j) for i in range(1, most + 1) for j in range(1, most // i + 1)]
    for i, j in grids:
        for k, m in grids:
            if i * j == k * m and i < k:
                halfway = 140 * (i * m + k * j), 140 * 2 * j * m  # (i/j + k/m) / 2
                tiling = DynamicHDImageProcessor(140, 14, most).tiling(*halfway)
                assert (tiling.columns, tiling.rows) == slow_grid(*halfway, 140, most, larger_first=True)


def cubic(values: np.ndarray, side: int) -> np.ndarray:
    """[n, ...] resampled to [side, ...]: four taps around each sample's center, edges repeated, no antialiasing."""
    count, out = len(values), []
    for position in range(side):
        center = (position + 0.5) * count / side - 0.5
        first = math.floor(center) - 1
        total = 0.0
        for tap in range(first, first + 4):
            t = abs(center - tap)
            inner, outer = 1.25 * t**3 - 2.25 * t**2 + 1, -0.75 * (t**3 - 5 * t**2 + 8 * t - 4)
            total = total + (inner if t <= 1 else outer) * values[min(max(tap, 0), count - 1)]
        out.append(total)
    return np.stack(out)


@pytest.mark.parametrize(("width", "height", "most"), [(300, 200, 4), (100, 340, 12), (112, 112, 4), (50, 20, 1)])
def test_the_global_view_is_the_padded_image_in_cubic_steps(width, height, most):
    processed = DynamicHDImageProcessor(112, 14, most)(noise(width, height))
    rows, columns = (length // 112 for length in processed.size)
    canvas = whole(processed.pixel_values[1:], rows, columns).astype(np.float64)
    expected = cubic(cubic(canvas, 112).transpose(1, 0, 2), 112).transpose(1, 0, 2)
    found = processed.pixel_values[0].permute(1, 2, 0).numpy()
    assert np.abs(found - expected).max() * 127.5 < 0.01


def test_a_deep_turned_file_is_tiled_as_it_is_shown(tmp_path):
    """200 x 90 pixels of 16 bits, to be turned upright: 90 x 200."""
    exif = Image.Exif()
    exif[0x0112] = 8  # turned by 90 degrees counter-clockwise to be shown
    values = (np.arange(200, dtype=np.uint16) * 20 + 300)[None].repeat(90, axis=0)
    Image.fromarray(values).save(tmp_path / "deep.png", exif=exif)
    source = ImageSource("deep.png", tmp_path / "deep.png", view=View(outliers=0.0))
    shown = np.rint((values - 300.0) / (199 * 20) * 255).astype(np.uint8).T[::-1]
    processor = DynamicHDImageProcessor(112)
    expected = processor(Image.fromarray(shown).convert("RGB"))
    found = processor(open_image(source))
    assert torch.equal(found.pixel_values, expected.pixel_values)
    assert processor.count_tokens(*image_size(source)) == found.num_tokens == expected.num_tokens
