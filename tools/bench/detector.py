"""torchvision's Mask R-CNN R-50-FPN as the peer of ours."""

import numpy as np
import torch
from PIL import Image
from torchvision.models.detection import maskrcnn_resnet50_fpn


def mask_rcnn(weights=None):
    """Its norms are batch norms: in evaluation mode they compute what torchvision's frozen ones do, and faster."""
    model = maskrcnn_resnet50_fpn(weights=None, weights_backbone=None)
    if weights is not None:
        missing = model.load_state_dict(torch.load(weights), strict=False)
        assert not missing.unexpected_keys
        assert all(name.endswith("num_batches_tracked") for name in missing.missing_keys)
    return model


def read(path):
    """RGB between 0 and 1, [3, H, W]."""
    pixels = torch.from_numpy(np.array(Image.open(path).convert("RGB")))
    return pixels.permute(2, 0, 1).float() / 255
