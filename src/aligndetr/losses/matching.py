"""Matching: which queries answer for which targets, at the smallest total cost.

    cost = class_cost * focal cost + l1 * |box - target| - giou * GIoU

An object that may have k positives enters the assignment problem k times, so the result is the
cheapest one-to-k assignment.
"""

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import batched

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import NonNegativeFloat
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from aligndetr.boxes import cxcywh_to_xyxy, giou
from aligndetr.settings import Settings
from aligndetr.types import Assignment, Targets
