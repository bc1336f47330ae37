"""What tests of pages do with a browser: its screen, its scheme, a photograph."""

from __future__ import annotations

import base64
import io

import numpy as np
from PIL import Image


def look(browser, width: int, scheme: str) -> None:
    """Set the size of the screen and the reader's light or dark scheme."""
    screen = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})


def photograph(browser) -> np.ndarray:
    """The whole page: (H, W, 3)."""
    content = base64.b64decode(
        browser.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": True})["data"]
    )
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))
