"""Makes the pictures of the console in docs/pictures: `python -m tests.console.pictures`.

The demo's own input (a NASA portrait, public domain, and synthesized speech) goes through the whole service in a real
Chromium; takes about a minute.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from PIL import Image, ImageOps
from playwright.sync_api import Browser, Page

from cli.demo_input import write_demo_speech, write_portrait
from tests.console.browser import find_chromium, open_browser, open_page
from tests.console.stack import ROOT, run_stack
from tests.console.test_main_job import RENDER_MS, RESULT, choose_inputs, job_id_of

TARGET = ROOT / "docs" / "pictures"
DESK, PHONE = {"width": 1200, "height": 860}, {"width": 390, "height": 844}
QUALITY = 82
# Person, start and end in seconds.
SPOKEN = ((1, 0.2, 2.0), (2, 1.6, 3.4), (1, 3.6, 4.8))


def make_pictures(browser: Browser, url: str, face: Path, speech: Path) -> None:
    with open_page(browser, url, viewport=DESK) as watched:
        page = watched.page
        choose_inputs(page, face, speech)
        page.get_by_text("speech.wav,").wait_for()
        shoot(page, "console-new")
        page.get_by_role("button", name="Make the video").click()
        job_id = job_id_of(page)
        page.locator(".stages .now", has_text="Synthesize").wait_for(timeout=RENDER_MS)
        page.locator(".history").evaluate("(log) => { log.closest('details').open = true; }")
        shoot(page, "console-running", {"x": 0, "y": 0, "width": DESK["width"], "height": 560})
        page.locator(RESULT).wait_for(timeout=RENDER_MS)
        show_result(page)
        shoot(page, "console-result")
        page.locator(".plots").scroll_into_view_if_needed()
        page.locator(".plot").first.evaluate("(plot) => scrollTo(0, plot.offsetTop - 470)")
        page.wait_for_timeout(300)
        shoot(page, "console-evaluation")
    with open_page(browser, f"{url}/#/jobs/{job_id}", viewport=PHONE, color_scheme="dark") as watched:
        watched.page.locator(RESULT).wait_for()
        show_result(watched.page)
        shoot(watched.page, "console-phone")


def shoot_speakers(browser: Browser, url: str, scene: Path, speech: Path) -> None:
    """Who is in the picture, and three segments on the timeline."""
    with open_page(browser, url, viewport=DESK) as watched:
        page = watched.page
        page.get_by_role("region", name="Face").locator("input[type=file]").set_input_files(scene)
        page.get_by_role("switch", name="Several speakers").check()
        page.get_by_role("button", name="Find the people in it").click()
        page.locator(".people").get_by_role("button", name="Person 2").wait_for(timeout=RENDER_MS)
        speakers = page.get_by_role("region", name="Speakers")
        rows = speakers.get_by_role("listitem")
        for number, (person, start_s, end_s) in enumerate(SPOKEN):
            speakers.get_by_label("Add speech").set_input_files(speech)
            rows.nth(number).get_by_label("Starts at").fill(str(start_s))
            rows.nth(number).get_by_label("Ends at").fill(str(end_s))
            page.locator(".people").get_by_role("button", name=f"Person {person}").click()
        page.locator(".people-finder").evaluate("(part) => scrollTo(0, part.offsetTop - 90)")
        page.wait_for_timeout(300)
        shoot(page, "console-speakers")


def make_scene(portrait: Path, target: Path) -> Path:
    """The portrait twice, once mirrored."""
    face = Image.open(portrait).convert("RGB").crop((96, 0, 352, 256))
    scene = Image.new("RGB", (512, 256))
    scene.paste(face, (0, 0))
    scene.paste(ImageOps.mirror(face), (256, 0))
    scene.save(target)
    return target


def show_result(page: Page) -> None:
    """A moment with an open mouth, in view."""
    page.locator(RESULT).evaluate("(video) => { video.currentTime = 2.36; }")
    page.locator(".comparison").evaluate("(part) => scrollTo(0, part.offsetTop - 90)")
    page.wait_for_timeout(1500)


def shoot(page: Page, name: str, clip: dict[str, float] | None = None) -> None:
    TARGET.mkdir(exist_ok=True)
    target = TARGET / f"{name}.jpg"
    page.screenshot(path=target, type="jpeg", quality=QUALITY, clip=clip)
    print(f"{target.relative_to(ROOT)}: {target.stat().st_size / 1000:.0f} kB")


def main() -> None:
    program = find_chromium()
    if program is None:
        sys.exit("No Chromium is installed: apt-get install chromium, or name one in RETALKING_CHROMIUM.")
    with tempfile.TemporaryDirectory(prefix="retalking-pictures-") as name:
        folder = Path(name)
        face, speech = write_portrait(folder), folder / "speech.wav"
        write_demo_speech(speech)
        with run_stack(folder / "service") as stack, open_browser(program) as browser:
            make_pictures(browser, stack.url, face, speech)
            shoot_speakers(browser, stack.url, make_scene(face, folder / "scene.png"), speech)


if __name__ == "__main__":
    main()
