"""From a configuration to a region detector."""

import math

import torch
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead
from torchvision.ops import FeaturePyramidNetwork, MultiScaleRoIAlign
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool
from torchvision.ops.poolers import LevelMapper

from aligndetr.backbones.backbone import Backbone
from aligndetr.config.schema import RegionConfig
from aligndetr.regions.detector import AnchorGrid, Reduced, RegionDetector

# Of torchvision's published detectors.
PROPOSAL_IOUS = (0.7, 0.3)
"""An anchor box with more IoU holds an object, one with less none; between it is not trained."""
PROPOSAL_SAMPLES = 256
"""Anchor boxes of an image that are trained on, at most half of them with an object."""
PROPOSAL_NMS_IOU = 0.7
REGION_IOU = 0.5
"""A proposal with more IoU holds an object, one with less none."""
REGION_POSITIVES = 0.25
"""Share of the trained proposals that may hold an object."""
BINS = 7
"""Each region is read at so many places in height and width, ..."""
POINTS = 2
"""... as the mean of so many by so many points."""
LOWEST_SCORE = 0.05
"""What is less likely is not found at all."""


def build_regions(
    config: RegionConfig, backbone: Backbone, *, precision: torch.dtype = torch.float32
) -> RegionDetector:
    """Return the network with that backbone, the rest of it freshly drawn."""
    return RegionDetector(
        backbone=backbone,
        pyramid=FeaturePyramidNetwork(list(backbone.channels), config.width, LastLevelMaxPool()),
        proposals=_build_proposals(config, backbone, precision),
        heads=_build_heads(config, backbone, precision),
        precision=precision,
    )


def _build_proposals(
    config: RegionConfig, backbone: Backbone, precision: torch.dtype
) -> RegionProposalNetwork:
    options = config.proposals
    strides = (*backbone.strides, 2 * backbone.strides[-1])
    head = RPNHead(config.width, len(options.ratios))
    head.conv = Reduced(*head.conv, precision=precision)
    counts = {"training": options.training_count, "testing": options.count}
    return RegionProposalNetwork(
        AnchorGrid(options.sizes, options.ratios, strides),
        head,
        *PROPOSAL_IOUS,
        batch_size_per_image=PROPOSAL_SAMPLES,
        positive_fraction=0.5,
        pre_nms_top_n=counts,
        post_nms_top_n=counts,
        nms_thresh=PROPOSAL_NMS_IOU,
    )


def _build_heads(config: RegionConfig, backbone: Backbone, precision: torch.dtype) -> RoIHeads:
    hidden, found = config.head.hidden, config.postprocess
    return RoIHeads(
        _build_pool(backbone.strides),
        Reduced(TwoMLPHead(config.width * BINS**2, hidden), precision=precision),
        FastRCNNPredictor(hidden, config.num_classes + 1),
        REGION_IOU,
        REGION_IOU,
        config.head.samples,
        REGION_POSITIVES,
        bbox_reg_weights=None,
        score_thresh=LOWEST_SCORE,
        nms_thresh=1.0 if found.nms_iou is None else found.nms_iou,
        detections_per_img=found.top,
    )


def _build_pool(strides: tuple[int, ...]) -> MultiScaleRoIAlign:
    """Return the pool that reads each region from the level of its size, but the coarsest.

    It is told the strides, which it would else guess, once and for all, from the first images.
    """
    pool = MultiScaleRoIAlign([str(level) for level in range(len(strides))], BINS, POINTS)
    pool.scales = [1 / stride for stride in strides]
    pool.map_levels = LevelMapper(int(math.log2(strides[0])), int(math.log2(strides[-1])))
    return pool
