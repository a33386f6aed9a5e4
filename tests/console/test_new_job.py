"""The form of a new job, on an API whose worker is played by the test."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from retalking_core.vocabulary.options import FaceTrackId
from tests.api.running import RunningApi
from tests.console.browser import open_page
from tests.console.test_main_job import choose_inputs, job_id_of

pytestmark = pytest.mark.e2e

PERSON = Path(__file__).parents[2] / "docs" / "pictures" / "console-result.jpg"


def submit(page: Page) -> None:
    page.get_by_role("button", name="Make the video").click()


def test_what_is_missing_is_said_where_it_is_missing(browser: Browser, live: RunningApi) -> None:
    with open_page(browser, live.url) as watched:
        submit(watched.page)
        expect(watched.page.get_by_role("region", name="Face").get_by_role("alert")).to_contain_text("Choose a video")
        expect(watched.page.get_by_role("region", name="Speech").get_by_role("alert")).to_contain_text("the speech")
        assert watched.call("document.activeElement.type") == "file"
        assert watched.audit() == []


def test_a_file_of_the_wrong_kind(browser: Browser, live: RunningApi, files: tuple[Path, Path], tmp_path: Path) -> None:
    letter = tmp_path / "letter.mp4"
    letter.write_text("Dear service, this is no video.")
    with open_page(browser, live.url) as watched:
        choose_inputs(watched.page, letter, files[1])
        submit(watched.page)
        notice = watched.page.locator(".problem [role=alert]")
        expect(notice).to_contain_text("The `video` file is text. Send mp4")
        expect(notice).to_contain_text("container_unsupported")
        expect(watched.page.get_by_role("region", name="Face").get_by_role("alert")).to_contain_text("is text")
        expect(watched.page.get_by_role("button", name="Make the video")).to_be_enabled()
        assert watched.audit() == []


def test_a_refused_option_is_led_to(browser: Browser, live: RunningApi, files: tuple[Path, Path]) -> None:
    """In a part of the form that was folded away again before sending."""
    with open_page(browser, live.url) as watched:
        page = watched.page
        choose_inputs(page, *files)
        page.get_by_text("Delivery", exact=True).click()
        page.get_by_label("Webhook URL").fill("http://127.0.0.1:1/hook")
        page.get_by_text("Delivery", exact=True).click()
        submit(page)
        field = page.get_by_label("Webhook URL")
        expect(field).to_be_focused()
        expect(field).to_have_attribute("aria-invalid", "true")
        expect(page.locator(".problem")).to_contain_text("url_not_allowed")


def test_a_number_out_of_its_range_is_not_even_sent(
    browser: Browser, live: RunningApi, files: tuple[Path, Path]
) -> None:
    with open_page(browser, live.url) as watched:
        page = watched.page
        choose_inputs(page, *files)
        page.get_by_text("More options").click()
        page.locator("input[name='output.crf']").fill("52")
        submit(page)
        expect(page.locator("input[name='output.crf']")).to_be_focused()
        expect(page.locator(".field", has=page.locator("input[name='output.crf']"))).to_contain_text("51")


def test_unsupported_options_are_marked(browser: Browser, live: RunningApi) -> None:
    """Its offer: no `smile`, no `image`, and `upper_face` at its default only."""
    with open_page(browser, live.url) as watched:
        page = watched.page
        expect(page.locator("select[name=upper_face]")).to_be_disabled()
        smile = page.locator("select[name=expression] option[value=smile]")
        assert smile.is_disabled()
        expect(smile).to_have_text("smile (not with preview)")
        missing = page.locator("select[name=engine] option[value=videoretalking]")
        assert missing.is_disabled()
        expect(missing).to_contain_text("not offered now")


def test_every_option_of_the_service_is_in_the_form(browser: Browser, live: RunningApi) -> None:
    offer = live.client.get("/engines").json()
    with open_page(browser, live.url) as watched:
        watched.page.locator("form.new-job").wait_for()
        names = set(
            watched.call("[...document.querySelectorAll('form [name]')].map((field) => field.name.split('.')[0])")
        )
        assert set(offer["options"]) <= names
        for option in ("length_mode", "engine", "missing_face"):
            chosen = watched.page.locator(f"select[name={option}]")
            for word, meaning in offer["options"][option]["values"]["x-enumDescriptions"].items():
                if chosen.locator(f"option[value={word}]").is_enabled():
                    chosen.evaluate(
                        "(select, word) => { select.value = word; select.dispatchEvent(new Event('change')); }", word
                    )
                    expect(watched.page.locator(".field", has=chosen).locator(".meaning").first).to_have_text(meaning)


def test_a_face_is_picked_on_the_picture(
    browser: Browser, live: RunningApi, face: Path, files: tuple[Path, Path]
) -> None:
    with open_page(browser, live.url) as watched:
        page = watched.page
        choose_inputs(page, face, files[1])
        page.locator("select[name=face]").select_option("FacePoint")
        page.get_by_role("button", name="Pick on the picture").first.click()
        box = page.locator(".preview img").bounding_box()
        page.locator(".preview img").click(position={"x": box["width"] / 2, "y": box["height"] / 4})
        expect(page.get_by_text("Picked.")).to_be_visible()
        submit(page)
        job = live.client.get(f"/jobs/{job_id_of(page)}").json()
        assert job["options"]["face"]["x"] == pytest.approx(128, abs=1)
        assert job["options"]["face"]["y"] == pytest.approx(64, abs=1)
        live.client.delete(f"/jobs/{job['id']}")


# What a person's drop looks like to the page.
DROP = """(zone, [name, type, text]) => {
  const carried = new DataTransfer();
  carried.items.add(new File([text], name, { type }));
  zone.dispatchEvent(new DragEvent("drop", { dataTransfer: carried, bubbles: true, cancelable: true }));
}"""


def test_files_are_dropped(browser: Browser, live: RunningApi) -> None:
    """One on its place; one beside it, which must not replace the page. A file over the limit is refused at once."""
    with open_page(browser, live.url) as watched:
        page = watched.page
        zone = page.get_by_role("region", name="Speech").locator(".zone")
        zone.evaluate(DROP, ["words.wav", "audio/wav", "RIFF"])
        expect(page.get_by_text("words.wav, 4 B")).to_be_visible()
        page.locator("h1").evaluate(DROP, ["beside.wav", "audio/wav", "RIFF"])
        expect(page.get_by_text("words.wav, 4 B")).to_be_visible()
        page.get_by_role("button", name="Remove: Speech").click()
        expect(zone.get_by_text("drop it here")).to_be_visible()
        watched.call("Object.defineProperty(File.prototype, 'size', { get: () => 3e9 })")
        zone.evaluate(DROP, ["long.wav", "audio/wav", "RIFF"])
        expect(page.get_by_role("alert")).to_contain_text("3.0 GB; the service takes 2.1 GB at most")


def test_the_upload_shows_how_far_it_is_and_can_be_stopped(
    browser: Browser, live: RunningApi, files: tuple[Path, Path], tmp_path: Path
) -> None:
    """Through a line of 100 kB a second. What was stopped leaves no job; sent again, it is one."""
    large = tmp_path / "large.mp4"
    large.write_bytes(files[0].read_bytes() + bytes(600_000))
    before = len(live.client.get("/jobs").json()["jobs"])
    with open_page(browser, live.url) as watched:
        page = watched.page
        choose_inputs(page, large, files[1])
        line = page.context.new_cdp_session(page)
        slow = {"offline": False, "latency": 0, "downloadThroughput": -1, "uploadThroughput": 100_000}
        line.send("Network.emulateNetworkConditions", slow)
        submit(page)
        watched.wait("document.querySelector('.sending progress').value > 0.1")
        assert 0 < watched.call("document.querySelector('.sending progress').value") < 1
        expect(page.locator(".sending")).to_contain_text(" of 61")
        assert watched.audit() == []
        page.get_by_role("button", name="Stop the upload").click()
        expect(page.get_by_role("button", name="Make the video")).to_be_enabled()
        assert len(live.client.get("/jobs").json()["jobs"]) == before
        line.send("Network.emulateNetworkConditions", slow | {"uploadThroughput": -1})
        submit(page)
        job_id = job_id_of(page)
    assert len(live.client.get("/jobs").json()["jobs"]) == before + 1
    live.client.delete(f"/jobs/{job_id}")


def test_several_speakers_on_a_timeline(browser: Browser, live: RunningApi, files: tuple[Path, Path]) -> None:
    with open_page(browser, live.url) as watched:
        page = watched.page
        page.get_by_role("region", name="Face").locator("input[type=file]").set_input_files(files[0])
        page.get_by_role("switch", name="Several speakers").check()
        expect(page.get_by_role("region", name="Speech")).to_be_hidden()
        speakers = page.get_by_role("region", name="Speakers")
        submit(page)
        expect(speakers.get_by_role("alert")).to_have_text("Add the speech of each speaker.")
        speakers.get_by_label("Add speech").set_input_files([files[1]])
        speakers.get_by_label("Add speech").set_input_files([files[1]])
        rows = speakers.get_by_role("listitem")
        expect(rows).to_have_count(2)
        blocks = speakers.get_by_role("group", name="Timeline").get_by_role("button")
        first, second = (float(rows.nth(k).get_by_label("Starts at").input_value()) for k in (0, 1))
        assert (first, second > 0) == (0, True), "the second begins where the first ends"
        drawn = "canvas => canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data.some(Boolean)"
        assert blocks.nth(0).locator("canvas").evaluate(drawn), "no waveform"

        blocks.nth(1).press("ArrowRight")
        box = blocks.nth(0).bounding_box()
        assert box
        page.mouse.move(box["x"] + 5, box["y"] + 5)
        page.mouse.down()
        page.mouse.move(box["x"] + 5 + box["width"] / 2, box["y"] + 5)
        page.mouse.up()
        assert float(rows.nth(0).get_by_label("Starts at").input_value()) > 0, "dragged"
        rows.nth(0).get_by_label("Starts at").fill("1")
        rows.nth(0).get_by_label("Ends at").fill("0.5")
        assert watched.audit() == []
        submit(page)
        expect(rows.nth(0).get_by_role("alert")).to_contain_text("It ends at 0.5 s")
        rows.nth(0).get_by_label("Ends at").fill("3")
        rows.nth(1).get_by_label("Skip in the file").fill("0.1")
        submit(page)
        segments = live.store.jobs.get(job_id_of(page)).spec.segments
    assert [each.face for each in segments] == ["left_most", "right_most"]
    assert [each.audio for each in segments] == ["audio_1", "audio_1"], "one file is sent once"
    assert (segments[0].start_s, segments[0].end_s) == (1, 3)
    assert segments[1].start_s == pytest.approx(second + 0.1)
    assert (segments[1].end_s, segments[1].audio_offset_s) == (None, 0.1)


def test_the_people_of_a_video_are_clicked_on(browser: Browser, live: RunningApi, files: tuple[Path, Path]) -> None:
    """The whole video for one of them, then a segment for one of them."""
    with open_page(browser, live.url) as watched:
        page = watched.page
        page.get_by_role("button", name="Find the people in it").click()
        expect(page.get_by_role("region", name="Face").get_by_role("alert")).to_contain_text("Choose a video")
        choose_inputs(page, *files)
        page.get_by_role("button", name="Find the people in it").click()
        expect(page.get_by_text("Waiting for a worker")).to_be_visible()
        (analysis,) = [
            job for job in live.store.jobs.page(status=None, cursor=None, limit=10).jobs if job.spec.kind == "analyze"
        ]
        live.finish_analysis(analysis.id, PERSON.read_bytes())
        person = page.get_by_role("button", name="Person 1")
        person.click()
        expect(person).to_have_attribute("aria-pressed", "true")
        watched.wait("document.querySelector('.people img').naturalWidth > 0")
        expect(page.locator("select[name=face]")).to_have_value("FaceTrackId")
        assert watched.audit() == []
        page.get_by_text("Several speakers").click()
        speakers = page.get_by_role("region", name="Speakers")
        speakers.get_by_label("Add speech").set_input_files([files[1]])
        expect(speakers.get_by_role("listitem")).to_have_count(1)
        expect(speakers.get_by_role("combobox", name="Face")).to_have_value("left_most")
        person.click()
        expect(speakers.get_by_role("combobox", name="Face")).to_have_value("person_1")
        expect(page.get_by_text("Person 1 speaks speech.wav, speech 1.").first).to_be_visible()
        submit(page)
        spec = live.store.jobs.get(job_id_of(page)).spec
    assert spec.request.face == FaceTrackId("person_1")
    assert [segment.face for segment in spec.segments] == [FaceTrackId("person_1")]


def test_people_are_those_of_the_chosen_video(browser: Browser, live: RunningApi, files: tuple[Path, Path]) -> None:
    with open_page(browser, live.url) as watched:
        page = watched.page
        choose_inputs(page, *files)
        before = {job.id for job in live.store.jobs.page(status=None, cursor=None, limit=50).jobs}
        page.get_by_role("button", name="Find the people in it").click()
        expect(page.get_by_text("Waiting for a worker")).to_be_visible()
        (analysis,) = [
            job for job in live.store.jobs.page(status=None, cursor=None, limit=50).jobs if job.id not in before
        ]
        live.finish_analysis(analysis.id, PERSON.read_bytes())
        expect(page.get_by_role("button", name="Person 1")).to_be_visible()
        page.get_by_role("button", name="Remove: Face").click()
        expect(page.get_by_role("button", name="Person 1")).to_have_count(0)
        page.goto(f"{live.url}/#/jobs/{analysis.id}")
        expect(page.locator(".people li")).to_have_text(["Person 1seen 100 %, speaks 0.1 s"])
        assert watched.audit() == []
