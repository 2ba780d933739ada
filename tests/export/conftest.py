"""Shared fixtures of the export tests."""

import pytest
from tiny_models import aggregation_pair, config_of, pixel_unet

from vsm_fast.model.save import save_model


@pytest.fixture(scope="session")
def small_model(tmp_path_factory):
    """A model whose export takes a second or two."""
    folder = tmp_path_factory.mktemp("small") / "model"
    save_model(folder, config_of(("us2",), 32), pixel_unet(), *aggregation_pair((24,)))
    return str(folder)
