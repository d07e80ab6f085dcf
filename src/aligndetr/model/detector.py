"""The whole network: from images to predictions of every layer."""

import torch
from torch import Tensor, nn

from aligndetr.backbones.backbone import Backbone
from aligndetr.model.decoder import Decoder
from aligndetr.model.denoising import Denoising, Noise
from aligndetr.model.encoder import Encoder
from aligndetr.model.neck import Neck
from aligndetr.model.queries import QuerySource
from aligndetr.types import DetectorOutput, Features, ImageBatch, Targets


class DetectorModel(nn.Module):
    """Backbone, neck, encoder, query selection, denoising (training only) and decoder.

    Everything but heads and boxes runs in `precision`; the weights stay as they are.
    """

    def __init__(
        self,
        *,
        backbone: Backbone,
        neck: Neck,
        encoder: Encoder,
        queries: QuerySource,
        denoising: Denoising | None,
        decoder: Decoder,
        precision: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.neck = neck
        self.encoder = encoder
        self.queries = queries
        self.denoising = denoising
        self.decoder = decoder
        self.precision = precision

    def forward(
        self,
        images: ImageBatch | Features,
        targets: Targets | None = None,
        noise: Noise | None = None,
    ) -> DetectorOutput:
        """Predict.

        Args:
            images: Normalised images, or their backbone maps where these are at hand.
            targets: The objects; in training mode they become denoising queries.
            noise: Pinned draws for the denoising queries, for tests.
        """
        features = self.features(images)
        with self._autocast(features.sizes):
            memory = self.encoder(self.neck(features))
            queries = self.queries(memory)
            if self.training and self.denoising is not None and targets is not None:
                queries = self.denoising(queries, targets, noise)
            layers = self.decoder(queries, memory)
        return DetectorOutput(layers, queries.groups, queries.proposals)

    @property
    def can_renew(self) -> bool:
        """Whether maps that are at hand do, though upper stages of the backbone are trained."""
        return self.backbone.can_renew

    def features(self, images: ImageBatch | Features) -> Features:
        """Return the backbone maps of the images, or those that are at hand.

        Of maps that were kept those of trained stages are made anew, if the backbone `can_renew`.
        """
        if isinstance(images, ImageBatch):
            return self.backbone(images, precision=self.precision)
        if images.is_kept:
            return self.backbone.renew(images, precision=self.precision)
        return images

    def _autocast(self, tensor: Tensor) -> torch.autocast:
        return torch.autocast(
            tensor.device.type, dtype=torch.bfloat16, enabled=self.precision == torch.bfloat16
        )
