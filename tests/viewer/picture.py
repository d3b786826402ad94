"""The README's picture of the token viewer, from the lab's reference: `make picture` draws it."""

from __future__ import annotations

import base64
import io
import sys
import tempfile
import time
from pathlib import Path

from browser import Browser
from PIL import Image

from rockstudy import runs
from rockstudy.viewer import study

WIDTH, HEIGHT, MARGIN = 1180, 580, 16
PROMPT = 7  # a right solution whose worst tokens are rocks
SHOW = f"""(async () => {{
  const rollout = document.querySelector(".rollout");
  rollout.value = [...rollout.options].find((one) => one.text.startsWith("prompt {PROMPT},")).value;
  rollout.dispatchEvent(new Event("change"));
  await new Promise((done) => setTimeout(done, 500));
  const chosen = [...document.querySelectorAll("#text-a > span")]
    .find((one) => one.classList.contains("rock") && one.classList.contains("stay"));
  chosen.click();
  await new Promise((done) => setTimeout(done, 300));
}})()"""


def main(path: Path) -> None:
    """Write the picture: twice as many pixels as it is shown with, in a palette of 224 colours."""
    with tempfile.TemporaryDirectory() as folder, Browser(Path(folder) / "profile") as browser:
        file = study.write(runs.opened(runs.reference_dir("lab")), Path(folder) / "viewer.html")
        browser.open(file, WIDTH, 2 * HEIGHT)
        size = {"width": WIDTH, "height": 2 * HEIGHT, "deviceScaleFactor": 2, "mobile": False}
        browser("Emulation.setDeviceMetricsOverride", **size)
        browser("Emulation.setScrollbarsHidden", hidden=True)
        while browser["document.documentElement.dataset.ready"] != "yes":
            time.sleep(0.05)
        browser("Runtime.evaluate", expression=SHOW, awaitPromise=True)
        top = browser["document.getElementById('desk').getBoundingClientRect().top"] - MARGIN
        clip = {"x": 0, "y": top, "width": WIDTH, "height": HEIGHT, "scale": 1}
        shot = browser("Page.captureScreenshot", format="png", clip=clip)["data"]
    image = Image.open(io.BytesIO(base64.b64decode(shot))).convert("RGB")
    path.parent.mkdir(parents=True, exist_ok=True)
    image.quantize(224, dither=Image.Dither.NONE).save(path, optimize=True)
    print(f"{path}: {path.stat().st_size / 1e3:.0f} kB, {image.width} x {image.height}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
