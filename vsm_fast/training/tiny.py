"""Make the embedded model from photographs: ``python -m vsm_fast.training.tiny``.

Four stages, each resumable, each reading what the one before wrote under ``--out``::

    backbone     denoising training                        backbone.safetensors
    features     frozen features of controlled triplets    features/NNNN.safetensors
    aggregation  contrastive training                      aggregation.safetensors
    calibrate    thresholds on validation subjects,        model/, model/evaluation.json
                 figures on test subjects
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn

from vsm_fast.aggregation import AggregationNetwork
from vsm_fast.backbones.unet import UNetFeatures
from vsm_fast.checkpoints import save_model
from vsm_fast.data import splits
from vsm_fast.data.alterations import KINDS
from vsm_fast.data.bank import image_bank
from vsm_fast.data.controlled import ControlledPair, controlled_pairs, other_subject_pairs
from vsm_fast.data.photographs import load_photographs
from vsm_fast.data.triplets import Triplet, photograph_triplet, procedural_triplet
from vsm_fast.model import (
    AggregationConfig,
    BackboneConfig,
    DescriptorNetwork,
    ModelConfig,
    Thresholds,
)
from vsm_fast.scorer import VSMScorer
from vsm_fast.training.aggregation import AggregationTraining, train_aggregation
from vsm_fast.training.backbone import BackboneTraining, make_unet, train_backbone
from vsm_fast.training.calibration import calibrate, match_points, report
from vsm_fast.training.features import load_features, save_features, triplet_features
from vsm_fast.training.state import load_state

_log = logging.getLogger(__name__)
SIZE = 256
SHARD = 16
UNSEEN_KIND = "shuffle"  # never trained on: the test set shows how far the model generalises


def tiny_config(semantic: float, visual: float) -> ModelConfig:
    """The configuration of the embedded model at given thresholds."""
    return ModelConfig()
