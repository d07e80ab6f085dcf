"""What papers report of the presets.

Of the Align-DETR paper (arXiv:2304.07527) Tables 2, 3 and 7, where they have a row; a dash there
is None here. Nobody has trained these presets on COCO with this code yet.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Published:
    """AP on COCO val2017, millions of parameters, and GFLOPS, which are multiply-adds."""

    ap: float | None = None
    params_m: float | None = None
    gflops: float | None = None


PUBLISHED = {
    # Table 2, single-scale: R50, R101, DC5-R50, DC5-R101.
    "detr-r50": Published(42.0, 41, 86),
    "detr-r101": Published(43.5, 60, 152),
    "detr-dc5-r50": Published(43.3, 41, 187),
    "detr-dc5-r101": Published(44.9, 60, 253),
    "anchor-detr-r50": Published(42.1, 39),
    "anchor-detr-r101": Published(43.5, 58),
    "anchor-detr-dc5-r50": Published(44.2, 39, 151),
    "anchor-detr-dc5-r101": Published(45.1, 58),
    "conditional-detr-r50": Published(40.9, 44, 90),
    "conditional-detr-r101": Published(42.8, 63, 156),
    "conditional-detr-dc5-r50": Published(43.8, 44, 195),
    "conditional-detr-dc5-r101": Published(45.0, 63, 262),
    "dab-detr-r50": Published(42.2, 44, 94),
    "dab-detr-r101": Published(43.5, 63, 174),
    "dab-detr-dc5-r50": Published(44.5, 44, 202),
    "dab-detr-dc5-r101": Published(45.8, 63, 282),
    "dn-detr-r50": Published(44.1, 44, 94),
    "dn-detr-r101": Published(45.2, 63, 174),
    "dn-detr-dc5-r50": Published(46.3, 44, 202),
    "dn-detr-dc5-r101": Published(47.3, 63, 282),
    # Table 2, "Align-DETR": on DAB-DETR.
    "align-dab-detr-r50": Published(46.0, 42, 94),
    "align-dab-detr-r101": Published(46.9, 61, 174),
    "align-dab-detr-dc5-r50": Published(48.3, 42, 200),
    "align-dab-detr-dc5-r101": Published(49.3, 61, 280),
    # Table 3, multi-scale. Its "Deformable DETR" has the AP of the refined one.
    "faster-rcnn-r50-fpn": Published(42.0, 42, 180),
    "smca-r50": Published(43.7, 40),
    "deformable-detr-refined-r50": Published(45.4, 40, 235),
    "dn-deformable-detr-r50-12ep": Published(43.4, 48, 195),
    "dab-deformable-detr-r50": Published(46.9, 40, 173),
    # GFLOPS is garbled in the paper's text ("23").
    "dn-deformable-detr-r50": Published(48.6, 47),
    "dino-r50-4scale": Published(49.0, 47, 279),
    "dino-r50-4scale-24ep": Published(50.4, 47, 279),
    "group-detr-r50": Published(49.8, 47),
    "h-deformable-detr-r50": Published(48.7, None, 234),
    # Table 3, "Align-DETR": on DINO.
    "align-dino-r50-4scale": Published(50.2, 47, 279),
    "align-dino-r50-4scale-24ep": Published(51.3, 47, 279),
    # Table 7: IA-BCE alone.
    "align-h-deformable-detr-r50": Published(49.3),
    # Deformable DETR's own Table 1 (arXiv:2010.04159).
    "deformable-detr-r50": Published(43.8),
    "deformable-detr-two-stage-r50": Published(46.2),
    # DINO's own Tables 1 and 2 (arXiv:2203.03605).
    "dino-r50-4scale-36ep": Published(50.9),
    "dino-r50-5scale": Published(49.4),
    # The README of Align-DETR's authors.
    "align-dino-r50-4scale-released": Published(50.3),
}
