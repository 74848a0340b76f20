"""A Vulkan driver for LiteRT's GPU accelerator where the machine has no GPU."""

import os
from pathlib import Path

import pytest

# In Debian's package chromium.
SWIFTSHADER = Path("/usr/lib/chromium/vk_swiftshader_icd.json")


@pytest.fixture
def vulkan(monkeypatch):
    """Names Chromium's SwiftShader as the Vulkan driver, unless another is named."""
    if SWIFTSHADER.exists() and "VK_ICD_FILENAMES" not in os.environ:
        monkeypatch.setenv("VK_ICD_FILENAMES", str(SWIFTSHADER))
