"""The pages in a real browser, as users see them."""

from __future__ import annotations

import hashlib
import re
import zipfile
from pathlib import Path
from urllib.parse import quote

import pytest
from axe_playwright_python.sync_playwright import Axe, AxeResults
from playwright.sync_api import expect

from tests.browser.conftest import CONTACT, PHONE, SAVED, TITLE, WIDE, WIDTHS, Visitor
from tests.support.browsing import CT, EVIL, FOUND, JAPANESE, MR, PASSWORD, TWINS, Browse

PAGES = {
    "home": "/",
    "studies": "/dicom",
    "nothing-found": "/dicom?q=zzz",
    "study": f"/dicom/{CT}",
    "series": f"/dicom/{MR}",
    "flagged": f"/dicom/{TWINS}",
    "pipeline": "/studies/ct-1",
    "quarantined": "/studies/gone-1",
    "attention": "/attention",
    "entry": "/ledger/entries/1",
    "ledger": "/ledger/entries?_size=5",
    "data": "/index",
    "table": "/index/files?_facet=modality&_size=5",
    "row": "/index/files/ct-1,ct-1~2Edcm",
    "sql": "/index?sql=select+modality%2C+count(*)+as+files+from+files+group+by+modality",
    "sql-wrong": "/index?sql=select+nothing",
    "query": "/ledger/what_happened?study_id=gone-1",
    "unknown": "/studies/nobody",
}

SHOWN = ("home", "studies", "study", "pipeline", "quarantined", "attention", "entry", "ledger", "table", "row", "sql", "unknown")
"""Pages whose screenshots are saved."""

AXE = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "best-practice"], "resultTypes": ["violations"]}
"""The axe rules to check: all standards and best practices. Only violations are reported."""

AXE_DARK = {"runOnly": ["color-contrast", "scrollable-region-focusable"], "resultTypes": ["violations"]}


def test_from_the_start_page_by_search_to_a_picture_and_its_file(reader: Visitor):
    page = reader.go("/")
    expect(page.get_by_text("DICOM studies")).to_be_visible()
    expect(page.get_by_role("contentinfo")).to_contain_text("No login required")
    page.get_by_label("Find a study").fill("jan do")
    page.keyboard.press("Enter")
    expect(page).to_have_url(re.compile(r"/dicom\?q=jan\+do$"))
    expect(page.locator("table.studies tbody tr")).to_have_count(1)
    page.get_by_role("link", name="Doe, Jane").click()
    page.wait_for_url(f"**/dicom/{CT}", wait_until="domcontentloaded")
    expect(page.get_by_role("heading", level=1)).to_have_text("Doe, Jane")
    expect(page.locator("#image-told")).to_have_text("3 / 6")
    page.keyboard.press("ArrowRight")
    expect(page.locator("#image-told")).to_have_text("4 / 6")
    expect(page).to_have_url(re.compile(r"file=ct-4%2Fct-4\.dcm$"))
    expect(page.locator("#images a[aria-current=true]")).to_have_attribute("data-name", "ct-4.dcm")
    expect(page.locator("[data-fact=name]")).to_have_text("ct-4.dcm")
    expect(page.locator("[data-fact=sha256]")).to_have_text(re.compile("^[0-9a-f]{64}$"))
    expect(page.locator("#download")).to_have_attribute("href", "/file/ct-4/ct-4.dcm")
    expect(page.get_by_role("link", name="Download as ZIP")).to_have_attribute("href", f"/zip/{CT}")
    page.locator("[data-fact=pipeline]").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Doe, Jane")
    expect(page.locator("#study-id")).to_have_text("ct-4")
    expect(page.get_by_role("link", name="Download as ZIP")).to_have_attribute("href", "/zip-study/ct-4")
    expect(page.locator(".timeline li")).to_have_count(2)
    page.get_by_role("link", name=CT).click()
    expect(page).to_have_url(re.compile(f"/dicom/{CT}$"))


def test_picture_window_header_metadata_and_downloads(reader: Visitor):
    page = reader.go(f"/dicom/{CT}?file=ct-4%2Fct-4.dcm")
    picture = page.locator("#picture")
    page.wait_for_function("document.getElementById('picture').naturalWidth > 0")
    page.get_by_label("Window").select_option(label="Bone (480 / 2500)")
    windows = page.locator("#window option").all_inner_texts()
    assert len(set(windows)) == len(windows)
    expect(picture).to_have_attribute("src", re.compile(r"/image/ct-4/ct-4\.dcm\?size=1024&window=480,2500$"))
    page.wait_for_function("document.getElementById('picture').naturalWidth > 0")
    page.get_by_text("Header of this file").click()
    expect(page.locator("#header-rows tr").first).to_be_visible()
    page.get_by_label("Find", exact=True).fill("patient name")
    expect(page.locator("#header-rows tr:visible")).to_have_count(1)
    expect(page.locator("#header-rows tr:visible")).to_contain_text("DOE^JANE")
    for tag in ("0010,0010", "(0010,0010)", "00100010"):
        page.get_by_label("Find", exact=True).fill(tag)
        expect(page.locator("#header-rows tr:visible")).to_have_count(1)
    page.get_by_text("metadata.json of its pipeline study").click()
    expect(page.locator("#metadata-groups")).to_contain_text("Validation")
    found = Axe().run(page, options=AXE)
    assert found.violations_count == 0, found.generate_report()
    reader.shoot("study-open")
    with page.expect_download() as download:
        page.locator("#download").click()
    told = page.locator("[data-fact=sha256]").inner_text()
    assert hashlib.sha256(Path(download.value.path()).read_bytes()).hexdigest() == told
    with page.expect_download() as download:
        page.get_by_role("link", name="Download as ZIP").click()
    assert zipfile.ZipFile(download.value.path()).testzip() is None
    reader.go(f"/dicom/{EVIL}")
    page.get_by_text("Header of this file").click()
    page.get_by_text("metadata.json of its pipeline study").click()
    expect(page.locator("#header-rows")).to_contain_text("<script>")
    expect(page.locator("#metadata-groups")).to_contain_text("<script>")
    assert page.title() != "owned"


@pytest.mark.parametrize("name", PAGES)
def test_axe_finds_nothing_in_light_or_dark_wide_or_on_a_phone(reader: Visitor, name: str):
    reader.go(PAGES[name])
    look_at(reader, name, shown=name in SHOWN)


def look_at(visitor: Visitor, name: str, *, shown: bool = True) -> None:
    """Check the page that is open with axe, wide and light, then on a phone and dark; it never scrolls sideways. Save screenshots."""
    page = visitor.page
    page.set_viewport_size(WIDE)
    page.evaluate(Axe().axe_script)  # once for both schemes: it is half a megabyte
    for scheme, rules in (("light", AXE), ("dark", AXE_DARK)):
        page.emulate_media(color_scheme=scheme)
        if shown and SAVED != "all":
            visitor.shoot(f"{name}-{scheme}")
        found = AxeResults(page.evaluate("rules => axe.run(rules)", rules))
        assert found.violations_count == 0, found.generate_report()
        for width in WIDTHS if SAVED == "all" or scheme == "light" else ():
            page.set_viewport_size({"width": width, "height": 900})
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), width
            if shown and SAVED == "all":
                visitor.shoot(f"{name}-{scheme}-{width}")
        page.set_viewport_size(PHONE)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_a_page_that_fails_is_in_the_middle_and_has_a_search_and_a_reference_that_the_log_has(one_page: Visitor, broken: Browse):
    visitor = Visitor(one_page.page.context, broken.url)
    page = visitor.go("/dicom")
    look_at(visitor, "failed")
    reference = re.search(r"under reference ([0-9a-f]{8})\.$", page.locator("main h1 + p").inner_text())
    assert reference
    assert f"event=browse.failed reference={reference[1]} " in broken.said()
    is_in_the_middle(visitor)
    assert visitor.complaints == []
    page.close()


def is_in_the_middle(visitor: Visitor) -> None:
    page = visitor.page
    page.set_viewport_size(WIDE)
    box = page.locator("main .card").bounding_box()
    assert box
    assert abs(box["x"] + box["width"] / 2 - WIDE["width"] / 2) < 10
    assert box["y"] > 100
    expect(page.get_by_role("search")).to_have_count(1)
    page.get_by_label("Find a study").fill("doe")


def test_no_page_brings_script_or_style_in_line(reader: Visitor):
    """A strict Content-Security-Policy can then forbid them."""
    for path in (*PAGES.values(), "/index/nothing", "/-/login"):
        text = reader.page.request.get(reader.url + path, headers={"Accept": "text/html"}).text()
        assert not re.findall(r"<script(?![^>]*\ssrc=)|<style|\sstyle=|\son[a-z]+=|javascript:", re.sub(r"&lt;.*?&gt;", "", text)), path


def test_a_hostile_name_stays_text(reader: Visitor):
    for path in (f"/dicom/{EVIL}", "/dicom", "/dicom?q=%3Cscript%3Ealert(1)%3C/script%3E", "/studies/evil-1", "/", "/attention",
                 "/index/studies", "/index/dicom_studies", "/ledger/entries", "/ledger/entries/10"):  # fmt: skip
        page = reader.go(path)
        assert page.title() != "owned"
        assert page.locator("main img[src=x], main svg[onload]").count() == 0
        if EVIL in path:
            expect(page.get_by_role("heading", level=1)).to_contain_text("<script>document.title")


def test_names_are_written_as_people_write_them(reader: Visitor):
    page = reader.go(f"/dicom/{JAPANESE}")
    expect(page.get_by_role("heading", level=1)).to_have_text("Yamada, Tarou 山田 太郎 やまだ たろう")
    page = reader.go("/dicom?q=mull")
    expect(page.locator("table.studies tbody tr")).to_have_count(1)
    expect(page.locator("table.studies .person")).to_have_text("Müller, Jörg")
    page = reader.go("/dicom?q=山田")
    expect(page.locator("table.studies tbody tr")).to_have_count(1)


def test_times_are_those_of_the_viewer_with_utc_on_hover(reader: Visitor):
    page = reader.go("/ledger/entries/1")
    time = page.locator("main time").first
    at = time.get_attribute("datetime") or ""
    said = page.evaluate("at => new Date(at).toLocaleTimeString('en-GB', {hour: '2-digit', minute: '2-digit'})", at[:23] + "Z")
    expect(time).to_have_text(re.compile(f", {said}$"))
    assert (time.get_attribute("title") or "").startswith(at[:19].replace("T", " ") + " UTC")


def test_facets_and_order_can_be_chosen_and_taken_back(reader: Visitor):
    page = reader.go("/dicom")
    page.get_by_role("complementary").get_by_role("link", name=re.compile("^MR")).click()
    expect(page.locator("table.studies tbody tr")).to_have_count(1)
    page.get_by_role("complementary").get_by_role("link", name=re.compile("^MR")).click()
    expect(page.locator("table.studies tbody tr")).to_have_count(6)
    # The same links stand above the table for narrow screens: seen for a moment, until the style sheet is there.
    headings = page.get_by_role("columnheader")
    headings.get_by_role("link", name="Patient", exact=True).click()
    first = page.locator("table.studies .row-link").first
    expect(first).to_contain_text("<script>")
    headings.get_by_role("link", name=re.compile("^Patient")).click()
    expect(first).to_contain_text("Yamada")
    page.get_by_role("complementary").get_by_role("link", name="Flagged").click()
    expect(page.locator("table.studies tbody tr")).to_have_count(2)
    assert (
        page.request.get(reader.url + (page.get_by_role("link", name="JSON").get_attribute("href") or "")).json()[
            "filtered_table_rows_count"
        ]
        == 2
    )


def test_the_keyboard_finds_and_opens_a_study(reader: Visitor):
    page = reader.go("/dicom?sort=name&way=asc")
    rows = page.locator("table.studies .row-link")
    page.keyboard.press("j")
    expect(rows.nth(0)).to_be_focused()
    page.keyboard.press("j")
    page.keyboard.press("j")
    page.keyboard.press("k")
    expect(rows.nth(1)).to_be_focused()
    page.keyboard.press("/")
    expect(page.locator("#q")).to_be_focused()
    page.keyboard.type("j/k doe")
    expect(page.locator("#q")).to_have_value("j/k doe")
    page.locator("#q").blur()
    page.keyboard.press("k")
    expect(rows.last).to_be_focused()
    page.keyboard.press("Enter")
    expect(page).to_have_url(re.compile("/dicom/1"))
    page.wait_for_load_state()  # its script listens
    page.keyboard.press("/")
    expect(page.get_by_label("Find a study")).to_be_focused()


def test_a_period_and_a_filter_are_kept_when_the_list_is_sorted_and_searched(reader: Visitor):
    page = reader.go("/dicom")
    page.get_by_label("From").fill("2026-01-01")
    page.get_by_label("To", exact=True).fill("2026-01-01")
    page.get_by_role("button", name="Apply").click()
    page.get_by_role("complementary").get_by_role("link", name=re.compile("^CT")).click()
    page.get_by_role("columnheader", name="Patient").get_by_role("link").click()
    expect(page.locator("th[aria-sort=ascending]")).to_contain_text("Patient")
    page.locator("#q").fill("doe")
    page.keyboard.press("Enter")
    expect(page.locator("table.studies tbody tr")).to_have_count(1)
    for part in ("from=2026-01-01", "to=2026-01-01", "modality=CT", "sort=name", "q=doe"):
        assert part in page.url
    page.get_by_role("link", name="Today").click()
    expect(page.locator("main")).to_contain_text("No study matches")


def test_on_a_tablet_studies_are_cards_and_the_filters_unfold(reader: Visitor):
    page = reader.go("/dicom")
    page.set_viewport_size({"width": 820, "height": 1180})
    expect(page.locator("table.studies thead")).to_be_hidden()
    expect(page.locator(".facets")).to_be_hidden()
    page.get_by_text("Filter", exact=True).click()
    expect(page.locator(".facets")).to_be_visible()


def test_on_a_phone_one_button_holds_the_filters_and_dates_have_labels(reader: Visitor):
    reader.page.set_viewport_size({"width": 360, "height": 800})
    page = reader.go("/dicom?modality=CT&from=2026-01-01&condition=flagged")
    expect(page.locator(".facets")).to_be_hidden()
    card = page.locator("table.studies tbody tr").first
    box = card.bounding_box()
    assert box
    assert box["y"] < 400, "the first study is above the fold"
    for text in ("DOB 1 Jan 1970", "12:00"):
        expect(card).to_contain_text(text)
    labels = card.locator("td[data-label]").evaluate_all("all => all.map(each => getComputedStyle(each, '::before').content)")
    assert {'"Study date "', '"Archived "'} <= set(labels), labels
    page.get_by_text("Filter (3)", exact=True).click()
    expect(page.locator(".facets")).to_be_visible()
    page.get_by_role("link", name="Show all").click()
    expect(page.get_by_text("Filter", exact=True)).to_be_visible()
    page.goto(f"{reader.url}/attention")  # its name is the longest, and bold here
    tops = page.locator(".top nav a").evaluate_all("all => all.map(each => each.getBoundingClientRect().top)")
    assert len(set(tops)) == 1, "the navigation is one line"


def test_a_checksum_is_short_and_copied_whole_and_no_name_stands_twice(reader: Visitor):
    page = reader.go(f"/dicom/{CT}?file=ct-4%2Fct-4.dcm")
    for name in ("ct-4", "ct-5"):
        checksum = page.locator("[data-fact=sha256]")
        whole = checksum.inner_text()
        assert re.fullmatch("[0-9a-f]{64}", whole)
        box = checksum.bounding_box()
        assert box
        assert (box["width"], box["height"]) < (140, 30), "it is on one line, cut off"
        page.locator("#file-facts .copy").click()
        expect(page.locator("#file-facts .copy")).to_have_text("Copied")
        assert page.evaluate("navigator.clipboard.readText()") == checksum.get_attribute("title") == whole
        expect(page.locator("[data-fact=name]")).to_have_text(f"{name}.dcm")
        expect(page.locator("[data-fact=pipeline]")).to_have_text("of the same name")
        expect(page.locator("[data-fact=pipeline]")).to_have_attribute("href", f"/studies/{name}")
        page.keyboard.press("ArrowRight")
    reader.go("/studies/ct-5")
    page.locator(".file-list .copy").click()
    assert page.evaluate("navigator.clipboard.readText()") == page.locator(".file-list .hash").inner_text() == whole


def test_on_a_phone_entries_are_cards_with_their_summaries(reader: Visitor):
    reader.page.set_viewport_size({"width": 360, "height": 800})
    page = reader.go("/ledger/entries?_sort=position&kind=archived")
    summary = page.locator(".entries summary").first
    expect(summary).to_have_text(re.compile(r"^ct-1\.dcm, \d+ bytes, copied$"))
    box = summary.bounding_box()
    assert box
    assert box["x"] + box["width"] <= 360
    assert box["height"] < 50
    expect(page.locator(".entries pre").first).to_be_hidden()
    summary.click()
    expect(page.locator(".entries pre").first).to_contain_text('"placement": "copied"')


def test_a_search_for_a_date_is_exported_as_it_is_shown(reader: Visitor):
    page = reader.go("/dicom?q=2026-01-01+doe")
    expect(page.locator("table.studies tbody tr")).to_have_count(1)
    exported = page.request.get(reader.url + (page.get_by_role("link", name="JSON").get_attribute("href") or "")).json()
    assert exported["filtered_table_rows_count"] == 1
    exported = page.request.get(reader.url + "/index/dicom_studies.json?study_date=20260102").json()
    assert exported["filtered_table_rows_count"] == 0, "the filter is one that filters"


def test_paging_keeps_when_a_file_was_verified_and_says_what_cannot_be_downloaded(reader: Visitor):
    page = reader.go(f"/dicom/{CT}?file=ct-4%2Fct-4.dcm")
    expect(page.locator("#download")).to_be_visible()
    page.evaluate("""() => {
      const at = (name) => document.querySelector(`#images a[data-name="${name}"]`).dataset;
      Object.assign(at("ct-5.dcm"), { fixity: "intact", verified: "2026-01-02T03:04:05.000000Z" });
      Object.assign(at("ct-6.dcm"), { fixity: "missing" });
    }""")
    page.keyboard.press("ArrowRight")
    expect(page.locator("[data-fact=fixity] time")).to_have_attribute("datetime", "2026-01-02T03:04:05.000000Z")
    expect(page.locator("[data-fact=fixity]")).to_contain_text("2 Jan 2026")
    page.keyboard.press("ArrowRight")
    expect(page.locator("#download")).to_be_hidden()
    expect(page.locator("#no-download")).to_be_visible()
    page.keyboard.press("ArrowLeft")
    expect(page.locator("#download")).to_be_visible()
    gone = {"frames": 0, "windows": [], "why": "file-missing", "text": "This file is missing from the archive.", "downloadable": False}
    page.route("**/about", lambda route: route.fulfill(json=gone))
    page.keyboard.press("ArrowLeft")
    expect(page.locator("#download")).to_be_hidden()
    expect(page.locator("#picture-why")).to_have_text(gone["text"])
    page.unroute("**/about")


def test_what_is_printed_has_all_images_the_payloads_and_the_time_zone(reader: Visitor):
    page = reader.go(f"/dicom/{CT}")
    page.emulate_media(media="print")
    grid = page.locator("#images")
    assert grid.evaluate("each => each.scrollHeight <= each.clientHeight")
    assert grid.evaluate("each => getComputedStyle(each).maxHeight") == "none"
    expect(page.locator("#zone")).to_contain_text("Asia/Calcutta (now UTC+05:30)")
    expect(page.locator("#zone")).to_be_visible()
    expect(page.locator("#download")).to_be_hidden()
    reader.go("/studies/ct-1")
    expect(page.locator(".timeline pre").first).to_be_visible()
    page.emulate_media(media="screen")
    expect(page.locator(".timeline pre").first).to_be_hidden()
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    expect(page.locator(".timeline pre").first).to_be_visible()
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    expect(page.locator(".timeline pre").first).to_be_hidden()


def test_figures_for_zero_are_quiet(reader: Visitor):
    page = reader.go("/")
    figures = {each.inner_text().split("\n")[0]: each.locator("dd").get_attribute("class") for each in page.locator(".figures > div").all()}
    assert (figures["Damaged"], figures["Failed"], figures["Quarantined"], figures["Files"]) == ("zero", "zero", "bad", "")


def test_series_can_be_changed(reader: Visitor):
    page = reader.go(f"/dicom/{MR}")
    expect(page.locator("nav.rail a")).to_have_count(2)
    page.locator("nav.rail a").nth(1).click()
    expect(page.locator("#images a")).to_have_attribute("data-name", "mr-2.dcm")


def test_a_long_word_in_the_name_of_a_series_is_not_broken(reader: Visitor):
    page = reader.go(f"/dicom/{MR}")
    name = page.locator("nav.rail strong").first
    name.evaluate("name => name.textContent = 'Segmentation'")
    assert (
        name.evaluate("name => { const all = document.createRange(); all.selectNodeContents(name); return all.getClientRects().length }")
        == 1
    )


def test_what_needs_a_person_is_explained_with_its_command(reader: Visitor):
    page = reader.go("/")
    expect(page.get_by_role("region", name="State")).to_contain_text("1 study quarantined")
    page.get_by_role("link", name="See what to do").click()
    expect(page.locator("main")).to_contain_text("No such file in uploads")
    for text in ("not-json", "Same SOP Instance UID, different bytes", "Message and file disagree"):
        expect(page.locator("main")).to_contain_text(text)
    expect(page.locator(".command code")).to_contain_text("storage-ledger quarantine retry gone-1 --by")
    page.get_by_role("link", name="gone-1", exact=True).click()
    expect(page.locator("main")).to_contain_text("Needs manual review: upload-missing")
    expect(page.locator(".command code")).to_have_count(2)


def test_the_state_in_the_head_is_refreshed_and_announced_only_when_it_changes(reader: Visitor):
    page = reader.go("/attention")
    said, count = page.locator("#live [role=status]"), page.locator("#needs")
    expect(said).to_contain_text("Service not running")
    look = "document.dispatchEvent(new Event('visibilitychange'))"  # what also happens every 15 seconds
    state = page.request.get(f"{reader.url}/state").text()
    changed = state.replace("Service not running", "Service ready").replace('data-needs="2"', 'data-needs="1"').replace("Entry ", "Entry 9")
    assert changed.count("Service ready") == changed.count('data-needs="1"') == 1
    expect(count).to_have_text("2")
    page.route("**/state", lambda route: route.fulfill(body=changed, content_type="text/html"))
    page.evaluate(look)
    expect(said).to_contain_text("Service ready")
    expect(count).to_have_text("1")
    expect(page.locator("#live .position")).to_contain_text("Entry 9")
    page.evaluate("document.querySelector('#live [role=status]').firstElementChild.id = 'kept'")
    page.evaluate(look)
    expect(page.locator("#kept")).to_have_count(1)
    page.unroute("**/state")
    page.route("**/state", lambda route: route.fulfill(status=403, body="Log in"))
    page.evaluate(look)
    expect(said).to_have_text("State unknown: reload the page")
    page.unroute("**/state")
    page.evaluate(look)
    expect(said).to_contain_text("Service not running")
    reader.complaints.clear()  # the 403


def test_flags_lead_to_the_other_file(reader: Visitor):
    page = reader.go(f"/dicom/{TWINS}")
    expect(page.locator(".note-warn").first).to_contain_text("Same SOP Instance UID, different content")
    page.locator(".note-warn a").first.click()
    expect(page.locator("#study-id")).to_have_text(re.compile("twin-"))
    expect(reader.go(f"/dicom/{FOUND}").locator(".note-alarm")).to_contain_text("Its message gives the study")


def test_the_keyboard_gets_everywhere(reader: Visitor):
    page = reader.go(f"/dicom/{CT}")
    page.keyboard.press("Tab")
    expect(page.locator(".skip")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("main")).to_be_focused()
    page.locator("#stage").focus()
    page.keyboard.press("ArrowLeft")
    expect(page.locator("#image-told")).to_have_text("2 / 6")


def test_without_scripts_the_pages_still_show_what_they_have(chromium, opened):
    context = chromium.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(f"{opened.url}/dicom/{CT}")
    page.locator("#images a").nth(5).click()
    expect(page.locator("[data-fact=name]")).to_have_text("ct-6.dcm")
    context.close()


def test_who_is_not_logged_in_sees_the_login_and_who_is_gets_in_and_out(stranger: Visitor):
    wanted = f"{stranger.url}/dicom/{CT}?file=ct-4%2Fct-4.dcm"
    page = stranger.go(f"/dicom/{CT}?file=ct-4%2Fct-4.dcm")
    expect(page).to_have_url(re.compile(r"/-/login\?next="))
    assert "DOE" not in page.content()
    look_at(stranger, "login")
    expect(page.get_by_role("heading", level=1)).to_have_text(TITLE)
    expect(page).to_have_title(f"Log in · {TITLE}")
    expect(page.locator("main")).to_contain_text(f"Help: {CONTACT}")
    page.get_by_label("User").fill("jane")
    page.get_by_label("Password").fill("wrong")
    page.get_by_role("button", name="Log in").click()
    expect(page.get_by_role("alert")).to_be_visible()
    for path in ("/", "/dicom", f"/dicom/{CT}", "/studies/ct-1", "/attention", "/ledger/entries/1"):
        assert page.request.get(stranger.url + path, headers={"Accept": "*/*"}).status == 403
    page.get_by_label("User").fill("jane")
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Log in").click()
    expect(page).to_have_url(wanted)
    expect(page.locator(".actor")).to_have_text("jane")
    expect(page.locator("#image-told")).to_have_text("4 / 6")
    stranger.go("/index?sql=select+1")
    look_at(stranger, "not-allowed")
    expect(page.get_by_role("heading", level=1)).to_have_text("Not allowed")
    expect(page.locator("main")).to_contain_text(f"Help: {CONTACT}")
    expect(page.locator(".brand")).to_have_text(TITLE)
    is_in_the_middle(stranger)
    page.get_by_role("button", name="Log out").click()
    expect(page.get_by_label("User")).to_be_visible()
    page.goto(stranger.url)
    expect(page).to_have_url(f"{stranger.url}/-/login")


def test_a_login_never_redirects_to_another_site(stranger: Visitor):
    for elsewhere in ("//127.0.0.2/", "/%5C127.0.0.2/"):
        page = stranger.go(f"/-/login?next={quote(elsewhere, safe='')}")
        page.get_by_label("User").fill("jane")
        page.get_by_label("Password").fill(PASSWORD)
        page.get_by_role("button", name="Log in").click()
        expect(page).to_have_url(f"{stranger.url}/")
        expect(page.locator(".figures")).to_be_visible()
