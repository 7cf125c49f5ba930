"""The image processor's own setting, the channel order."""

import base64
import io
import json

import numpy as np
import pytest
import torch
from huggingface_hub.errors import StrictDataclassFieldValidationError
from PIL import Image
from transformers import AutoImageProcessor

from hf_face import FaceImageProcessor

CROP = np.stack([np.full((112, 112), value, np.uint8) for value in (10, 20, 30)], axis=-1)


def test_channels_come_in_the_models_order():
    for order, first in (("rgb", 10), ("bgr", 30)):
        pixels = FaceImageProcessor(channel_order=order)(CROP, return_tensors="pt").pixel_values
        assert pixels[0, 0, 0, 0].item() == pytest.approx((first - 127.5) / 127.5)


@pytest.mark.parametrize("order", ["BGR", "gbr", "", None])
def test_another_order_is_refused(order, tmp_path):
    message = "channel_order must be 'rgb' or 'bgr', found "
    with pytest.raises(ValueError, match=message):
        FaceImageProcessor(channel_order=order)
    FaceImageProcessor().save_pretrained(tmp_path)
    file = tmp_path / "preprocessor_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "channel_order": order}))
    for load in (FaceImageProcessor, AutoImageProcessor):
        with pytest.raises(ValueError, match=message):
            load.from_pretrained(tmp_path)


def test_floats_stay_as_they_are():
    """As in transformers, floats are pixels from 0 to 255 too, and are not rounded."""
    crop = CROP + 0.25
    for image in (crop, torch.from_numpy(crop).permute(2, 0, 1)):
        pixels = FaceImageProcessor()(image, return_tensors="pt").pixel_values
        assert pixels[0, :, 0, 0].tolist() == pytest.approx([(value - 127.25) / 127.5 for value in (10, 20, 30)])


def test_base64_without_a_prefix_is_read_as_in_transformers():
    buffer = io.BytesIO()
    Image.fromarray(CROP).save(buffer, "PNG")
    text = base64.b64encode(buffer.getvalue()).decode()
    pixels = FaceImageProcessor(do_normalize=False)(text, return_tensors="pt").pixel_values
    assert (pixels[0, :, 0, 0] * 255).round().tolist() == [10, 20, 30]


def test_another_order_is_refused_when_called():
    with pytest.raises(StrictDataclassFieldValidationError, match="'rgb', 'bgr'"):
        FaceImageProcessor()(CROP, channel_order="BGR")
