"""A picture of noise."""

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def picture():
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
