"""Reports in a real browser: what people see and do."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from skanomaly.cli._reviews import read_review
from skanomaly.regions import map_regions
from skanomaly.report import Report

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")

# name, decision, label; the second one tries to break out of the page
PARTS = [
    ("part 10", -3.0, -1),
    ("</script><b>\"'ü 2", 1.0, 1),
    ("part 9", -1.0, 1),
    ("part 1", 2.0, -1),
    ("side/wide", 0.5, 1),
    ("side/tall", -0.25, -1),
]
SHAPES = {"side/wide": (60, 200), "side/tall": (200, 60)}


def add_part(made, name, decision, label):
    shape = SHAPES.get(name, (100, 120))
    rng = np.random.default_rng(len(made))
    image = rng.integers(60, 120, (*shape, 3)).astype(np.uint8)
    scores = np.zeros(shape, np.float32)
    scores[20:40, 30:50], scores[45:50, 10:20] = 5 - decision, 3
    spot = {"top": 28, "left": 36, "bottom": 32, "right": 40, "peak": 5 - decision, "distance": 2.0}
    spot |= {"good_top": 0, "good_left": 0, "good_bottom": 4, "good_right": 4}
    spot |= {"good": image, "good_name": "good/7"}
    made.add(
        image,
        scores,
        decision,
        name=name,
        label=label,
        regions=map_regions([scores], 2),
        nearest_good=[spot] if decision < 0 else [],
    )


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as tools:
        browser = tools.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    made = Report(title="Line <3>", map_threshold=2)
    for part in PARTS:
        add_part(made, *part)
    return made.save(tmp_path_factory.mktemp("report") / "a b#c.html")


@pytest.fixture
def visit(browser):
    """Open a file; afterwards check that nothing was downloaded and no error was logged."""
    contexts, requests, complaints = [], [], []

    def visit(path, **options):
        context = browser.new_context(**{"viewport": {"width": 1200, "height": 800}, **options})
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(5000)
        page.on("request", lambda request: requests.append(request.url))
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(path.as_uri())
        page.wait_for_selector("html[data-ready]")
        return page

    yield visit
    for context in contexts:
        context.close()
    assert complaints == []
    files = [url for url in requests if not url.startswith(("blob:", "data:"))]
    assert len(files) == len(contexts)
    assert all(url.startswith("file://") for url in files)


def names(page):
    return page.locator(".card .name").all_text_contents()


def opened(page):
    """Name of the image in full view, or None."""
    return page.text_content("#viewer-name") if page.locator("#viewer").is_visible() else None


def open_part(page, name):
    page.locator(".open", has_text=name).click()
    page.wait_for_selector('#stage[aria-busy="false"] .heat-panel')


def focused(page):
    return page.evaluate("document.activeElement.querySelector('.name')?.textContent")


BY_SCORE = ["part 10", "part 9", "side/tall", "side/wide", PARTS[1][0], "part 1"]


def test_summary_and_titles(visit, path):
    page = visit(path)
    assert page.title() == page.text_content("h1") == "Line <3>"
    counts = dict(
        zip(
            page.locator(".count dt").all_text_contents(),
            page.locator(".count dd").all_text_contents(),
            strict=True,
        )
    )
    assert counts == {
        "Images": "6",
        "Defect": "3",
        "Good": "3",
        "Defects found": "2 of 3",
        "False alarms": "1 of 3 good",
    }
    assert page.locator("#histogram .bar").count() > 3
    assert page.locator("#threshold").count() == 1


def test_thumbnails_are_drawn(visit, path):
    page = visit(path)
    page.wait_for_function("() => document.querySelectorAll('.thumb').length === 6")
    page.wait_for_function("() => [...document.images].every((image) => image.naturalWidth > 0)")
    widths = page.evaluate("() => [...document.images].map((image) => image.naturalWidth)")
    assert len(widths) >= 6 and min(widths) > 0


def test_sorting(visit, path):
    page = visit(path)
    assert names(page) == BY_SCORE  # the most anomalous first
    page.click("[data-sort=score]")
    assert names(page) == BY_SCORE[::-1]
    page.click("[data-sort=name]")
    by_name = ["part 1", "part 9", "part 10", "side/tall", "side/wide"]  # numbers as numbers
    assert [name for name in names(page) if name in by_name] == by_name
    page.click("[data-sort=verdict]")
    assert set(names(page)[:3]) == {"part 10", "part 9", "side/tall"}
    page.click("[data-sort=label]")
    assert set(names(page)[:3]) == {"part 10", "part 1", "side/tall"}
    assert page.get_attribute("[data-sort=label]", "aria-pressed") == "true"
    assert page.get_attribute("[data-sort=name]", "aria-pressed") == "false"


def test_mistakes_come_first_if_asked(visit, tmp_path):
    made = Report(first="mistakes")
    for part in (("a", -2, -1), ("b", -1, 1), ("c", 1, -1), ("d", 2, 1), ("e", -3, None)):
        add_part(made, *part)
    page = visit(made.save(tmp_path / "mistakes.html"))
    assert names(page) == ["c", "b", "e", "a", "d"]  # missed, false alarm, and others by score
    page.click("[data-sort=score]")
    assert names(page) == ["e", "a", "b", "c", "d"]


def test_filters(visit, path):
    page = visit(path)
    page.fill("#search", "SIDE")
    assert names(page) == ["side/tall", "side/wide"]
    page.select_option("#show", "good")
    assert names(page) == ["side/wide"]
    assert page.text_content("#status") == "1 of 6 images"
    page.click("#reset")
    assert names(page) == BY_SCORE
    page.select_option("#show", "defect")
    assert names(page) == ["part 10", "part 9", "side/tall"]
    page.select_option("#show", "missed")
    assert names(page) == ["part 1"]
    page.select_option("#show", "alarm")
    assert names(page) == ["part 9"]
    page.select_option("#show", "all")
    page.fill("#low", "-1")
    page.fill("#high", "0.5")
    assert names(page) == ["part 9", "side/tall", "side/wide"]
    page.fill("#search", "nothing is called so")
    assert names(page) == []
    assert page.locator("#nothing").is_visible()


def test_a_bar_of_the_histogram_is_a_filter(visit, path):
    page = visit(path)
    page.locator("#histogram .bar").first.click(position={"x": 1, "y": 60}, force=True)
    assert names(page) == ["part 10"]


def test_heat_maps_and_their_opacity(visit, path):
    page = visit(path)
    page.wait_for_selector(".card .heat", state="attached")
    opacity = "Number(getComputedStyle(document.querySelector('.card .heat')).opacity)"
    page.mouse.move(5, 5)
    assert page.evaluate(opacity) == 0
    page.hover(".card .open")
    page.wait_for_function(f"() => Math.abs({opacity} - 0.8) < 1e-6")
    page.mouse.move(5, 5)
    page.wait_for_function(f"() => {opacity} === 0")
    page.keyboard.press("m")
    page.wait_for_function(f"() => Math.abs({opacity} - 0.8) < 1e-6")
    page.locator(".tools .opacity").fill("30")
    page.wait_for_function(f"() => Math.abs({opacity} - 0.3) < 1e-6")
    assert page.locator("#viewer .opacity").input_value() == "30"
    page.click("#maps")
    page.wait_for_function(f"() => {opacity} === 0")


def test_keys_in_the_overview(visit, path):
    page = visit(path)
    page.keyboard.press("ArrowRight")
    assert focused(page) == BY_SCORE[0]
    page.keyboard.press("j")
    page.keyboard.press("ArrowRight")
    assert focused(page) == BY_SCORE[2]
    page.keyboard.press("k")
    assert focused(page) == BY_SCORE[1]
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")  # there is none before the first
    assert focused(page) == BY_SCORE[0]
    page.click("[data-view=list]")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    assert focused(page) == BY_SCORE[1]
    page.keyboard.press("/")
    page.keyboard.type("jkm?")
    assert page.input_value("#search") == "jkm?"


def test_keys_in_full_view(visit, path):
    page = visit(path)
    page.keyboard.press("j")
    page.keyboard.press("Enter")
    assert opened(page) == BY_SCORE[0]
    page.keyboard.press("ArrowRight")
    page.keyboard.press("j")
    page.keyboard.press("k")
    assert opened(page) == BY_SCORE[1]
    assert page.get_attribute("#viewer", "data-mode") == "overlay"
    page.keyboard.press("m")
    assert page.get_attribute("#viewer", "data-mode") == "image"
    page.keyboard.press("m")
    assert page.get_attribute("#viewer", "data-mode") == "overlay"
    page.keyboard.press("?")
    assert page.locator("#help").is_visible()
    page.keyboard.press("Escape")
    assert opened(page) == BY_SCORE[1]
    page.keyboard.press("Escape")
    assert opened(page) is None
    is_focused = "(name) => document.activeElement.querySelector('.name')?.textContent === name"
    page.wait_for_function(is_focused, arg=BY_SCORE[1])  # where one was, not where one began


def test_full_view(visit, path):
    page = visit(path)
    open_part(page, "part 10")
    minus = "\N{MINUS SIGN}"
    assert page.text_content("#viewer-verdict") == f"defect score {minus}3.00 · label: defect"
    assert page.locator(".heat-panel").is_visible()
    assert not page.locator(".plain-panel").is_visible()
    page.click("[data-mode=both]")
    assert page.locator(".heat-panel").is_visible()
    assert page.locator(".plain-panel").is_visible()
    page.click("[data-mode=image]")
    assert not page.locator(".heat-panel").is_visible()
    assert page.text_content("#place") == "1 / 6"
    page.click("#next")
    page.wait_for_selector('#stage[aria-busy="false"]')
    assert opened(page) == "part 9"
    page.click("#close")
    assert opened(page) is None


def test_boxes_lie_on_their_regions(visit, path):
    page = visit(path)
    open_part(page, "part 10")
    boxes = page.locator(".heat-panel .region rect:not(.halo)")
    sides = [[box.get_attribute(n) for n in ("x", "y", "width", "height")] for box in boxes.all()]
    assert sides == [["30", "20", "20", "20"], ["10", "45", "10", "5"]]
    rows = [row.locator("td").all_text_contents() for row in page.locator("tbody tr").all()]
    to = "\N{EN DASH}"
    assert rows == [
        [f"30{to}49", f"20{to}39", "400", "8"],
        [f"10{to}19", f"45{to}49", "50", "3"],
    ]
    # Also in pixels of the screen: a third of the image's height is a third of the panel's.
    image, box = page.locator(".heat-panel .full").bounding_box(), boxes.first.bounding_box()
    assert (box["x"] - image["x"]) / image["width"] == pytest.approx(30 / 120, abs=0.01)
    assert (box["y"] - image["y"]) / image["height"] == pytest.approx(20 / 100, abs=0.01)
    assert box["width"] / image["width"] == pytest.approx(20 / 120, abs=0.02)
    page.keyboard.press("b")
    assert not boxes.first.is_visible()


def test_spots_beside_the_good_patches_nearest_to_them(visit, path):
    page = visit(path)
    open_part(page, "part 10")
    assert page.locator(".spot svg").count() == 2
    text = page.text_content(".spot")
    assert "Hot spot" in text
    assert "in image good/7, distance 2" in text
    page.keyboard.press("Escape")
    open_part(page, "side/wide")  # called good
    assert page.locator(".spot").count() == 0


@pytest.mark.parametrize("name", ["side/wide", "side/tall"])
def test_images_keep_their_shape(visit, path, name):
    page = visit(path)
    card = page.locator(".open", has_text=name)
    frame, tile = card.locator(".frame").bounding_box(), card.locator(".tile").bounding_box()
    height, width = SHAPES[name]
    assert frame["width"] / frame["height"] == pytest.approx(width / height, rel=0.02)
    assert max(frame["width"], frame["height"]) == pytest.approx(tile["width"], abs=2)
    open_part(page, name)
    image = page.locator(".heat-panel .full").bounding_box()
    assert image["width"] / image["height"] == pytest.approx(width / height, rel=0.02)


def background(page):
    return page.evaluate("getComputedStyle(document.documentElement).backgroundColor")


def test_dark_and_light(visit, path):
    light, dark = (visit(path, color_scheme=scheme) for scheme in ("light", "dark"))
    colors = background(light), background(dark)
    assert sum(map(int, colors[0][4:-1].split(","))) > 700
    assert sum(map(int, colors[1][4:-1].split(","))) < 100
    light.click("#theme")
    dark.click("#theme")
    assert (background(dark), background(light)) == colors
    assert light.get_attribute("#theme", "aria-pressed") == "true"


CONTRASTS = """() => {
  const light = (text) => {
    const [r, g, b] = text.match(/[\\d.]+/g).map((n) => n / 255)
      .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (element) => {
    const color = getComputedStyle(element).backgroundColor;
    return color === "rgba(0, 0, 0, 0)" && element.parentElement
      ? behind(element.parentElement) : color;
  };
  const texts = [...document.querySelectorAll("body *")].filter((element) =>
    element.checkVisibility() && !element.closest("svg") && !element.matches("script, :disabled")
    && [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim()));
  return texts.map((element) => {
    const pair = [getComputedStyle(element).color, behind(element)].map(light);
    const contrast = (Math.max(...pair) + 0.05) / (Math.min(...pair) + 0.05);
    return [contrast, element.textContent.slice(0, 40)];
  });
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_can_be_read(visit, path, scheme):
    """Contrast of at least 4.5, in the overview and in full view."""
    page = visit(path, color_scheme=scheme)
    found = page.evaluate(CONTRASTS)
    open_part(page, "part 10")
    found += page.evaluate(CONTRASTS)
    assert len(found) > 80
    assert [text for contrast, text in found if contrast < 4.5] == []


def test_everything_that_can_be_used_has_a_name(visit, path):
    page = visit(path)
    open_part(page, "part 10")
    nameless = page.evaluate(
        """() => [...document.querySelectorAll("button, input, select, svg[role=img]")]
          .filter((one) => !(one.ariaLabel || one.textContent.trim() || one.labels?.length))
          .map((one) => one.outerHTML)"""
    )
    assert nameless == []


def test_a_phone(visit, tmp_path):
    made = Report()
    for i in range(8):  # enough for cards out of sight, which are not laid out
        for part in PARTS:
            add_part(made, f"{part[0]} {i}", *part[1:])
    page = visit(
        made.save(tmp_path / "many.html"),
        viewport={"width": 360, "height": 700},
        has_touch=True,
        is_mobile=True,
    )
    fits = """document.documentElement.scrollWidth <= innerWidth && innerWidth === 360
      && [...document.querySelectorAll(".card")].every(
        (card) => card.getBoundingClientRect().right < innerWidth)"""
    assert page.evaluate(fits)
    page.click("[data-view=list]")
    assert page.evaluate(fits)
    page.locator(".open", has_text="part 10 0").tap()
    page.wait_for_selector('#stage[aria-busy="false"] .heat-panel')
    for mode in ("image", "overlay", "both"):
        page.click(f"[data-mode={mode}]")
        assert page.evaluate("document.querySelector('#viewer').scrollWidth") <= 360
    assert page.locator("#close").bounding_box()["x"] + 30 < 360


def test_no_images(visit, tmp_path):
    page = visit(Report().save(tmp_path / "empty.html"))
    assert page.locator(".empty").is_visible()
    page.keyboard.press("j")
    page.keyboard.press("?")
    assert page.locator("#help").is_visible()


def test_one_image(visit, tmp_path):
    made = Report()
    add_part(made, "only", 1.0, None)
    page = visit(made.save(tmp_path / "one.html"))
    assert names(page) == ["only"]
    assert page.text_content("#status") == "1 image"
    assert page.locator("[data-sort=label]").count() == 0
    open_part(page, "only")
    assert page.locator("#previous").is_disabled()
    assert page.locator("#next").is_disabled()


@pytest.mark.parametrize("cut", [700, 3000])
def test_a_file_that_was_cut_off_says_so(visit, tmp_path, cut):
    made = Report()
    add_part(made, "only", -1.0, None)
    path = made.save(tmp_path / "cut.html")
    path.write_bytes(path.read_bytes()[:-cut])
    page = visit(path)
    page.click(".open")
    page.wait_for_selector("#trouble")
    assert "not complete" in page.text_content("#trouble")
    assert opened(page) is None


def test_images_out_of_sight_wait(visit, tmp_path):
    made = Report()
    for i in range(200):
        made.add(np.full((20, 20), i, np.uint8), np.zeros((20, 20)), i, name=f"{i}")
    page = visit(made.save(tmp_path / "many.html"))
    page.wait_for_selector(".thumb")
    assert page.locator(".thumb").count() < 150
    page.evaluate("scrollTo(0, document.documentElement.scrollHeight)")
    page.wait_for_selector(".card:last-child .thumb")


# Outlines and reviews ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def reviewed(tmp_path_factory):
    """A report on files: a defect found, a false alarm and an image without a label."""
    folder = tmp_path_factory.mktemp("reviewed")
    mask, roi = np.zeros((2, 100, 120), bool)
    mask[20:40, 30:50], roi[10:90, 10:110] = True, True
    made = Report()
    for i, (decision, label) in enumerate([(-2, -1), (-1, 1), (1, None)]):
        name = f'=part {i} "<b>.png'
        Image.fromarray(np.full((100, 120), 90 + i, np.uint8)).save(folder / name)
        scores = np.where(mask, 5.0, 0)
        made.add(
            folder / name, scores, decision, name=name, label=label, roi=roi,
            mask=mask if label == -1 else None, regions=map_regions([scores], 2),
        )  # fmt: skip
    return made.save(folder / "report.html")


def test_outlines_lie_on_the_image_and_can_be_hidden(visit, reviewed):
    page = visit(reviewed)
    open_part(page, "part 0")
    truth, roi = (page.locator(f".heat-panel .{kind} path:not(.halo)") for kind in ("truth", "roi"))
    image, drawn = page.locator(".heat-panel .full").bounding_box(), truth.bounding_box()
    assert (drawn["x"] - image["x"]) / image["width"] == pytest.approx(30 / 120, abs=0.01)
    assert drawn["height"] / image["height"] == pytest.approx(20 / 100, abs=0.02)
    looks = "one => [getComputedStyle(one).stroke, getComputedStyle(one).strokeDasharray]"
    lines = [tuple(one.evaluate(looks)) for one in (truth, roi)]
    lines.append(tuple(page.locator(".heat-panel .region rect:not(.halo)").evaluate(looks)))
    assert len({color for color, _ in lines}) == 3
    assert [dash != "none" for _, dash in lines] == [False, True, False]
    for kind, key in (("truth", "t"), ("roi", "r")):
        drawn = page.locator(f".heat-panel .{kind}")
        page.keyboard.press(key)
        assert not drawn.is_visible()
        assert page.get_attribute(f".head [data-outline={kind}]", "aria-pressed") == "false"
        page.click(f".head [data-outline={kind}]")
        assert drawn.is_visible()
    page.keyboard.press("Escape")
    page.click(".tools [data-outline=roi]")
    assert page.locator(".card .roi").first.is_hidden()
    assert page.locator(".card .truth").count() == 1


def test_a_report_without_outlines_has_no_switches(visit, path):
    page = visit(path)
    assert page.locator("[data-outline]").count() == 0
    page.keyboard.press("t")
    assert page.locator("#save-review").is_hidden()  # images that are no files
    open_part(page, "part 10")
    assert page.locator("#review").is_hidden()
    page.keyboard.press("x")
    assert page.locator("[data-corrected]").count() == 0


def saved_review(page, folder):
    with page.expect_download() as download:
        page.click("#save-review")
    assert download.value.suggested_filename == "review.json"
    download.value.save_as(folder / "review.json")
    return folder / "review.json"


def test_corrected_verdicts_are_saved_as_a_review_file(visit, reviewed, tmp_path):
    page = visit(reviewed)
    assert page.locator("#save-review").is_disabled()
    good, defect = (page.locator(f"#review [data-verdict={kind}]") for kind in ("good", "defect"))
    open_part(page, "part 0")  # verdict and label: defect
    assert good.is_enabled() and defect.is_disabled()
    page.keyboard.press("x")
    assert good.get_attribute("aria-pressed") == "true"
    page.keyboard.press("j")
    page.wait_for_selector('#stage[aria-busy="false"]')
    assert good.is_enabled() and defect.is_enabled()  # verdict or label may be the wrong one
    good.click()
    defect.click()
    page.keyboard.press("j")
    page.wait_for_selector('#stage[aria-busy="false"]')
    assert good.is_disabled() and defect.is_enabled()
    page.keyboard.press("x")
    page.keyboard.press("x")  # taken back
    page.keyboard.press("Escape")
    labels = page.locator(".card .label").all_text_contents()
    assert labels == ["corrected: good", "corrected: defect", ""]
    assert page.text_content("#save-review") == "Save 2 corrections"
    page.select_option("#show", "corrected")
    assert page.text_content("#status") == "2 of 3 images"
    review = read_review(saved_review(page, tmp_path))
    files = sorted(map(str, reviewed.parent.glob("*.png")))
    assert review == {files[0]: 1, files[1]: -1}


def test_a_review_names_files_whose_names_are_not_utf_8(visit, tmp_path):
    made = Report()
    made.add(np.zeros((20, 20), np.uint8), np.zeros((20, 20)), -1, name="a", file="/b/\udcff.png")
    page = visit(made.save(tmp_path / "r.html"))
    page.click(".open")
    page.wait_for_selector('#stage[aria-busy="false"]')
    page.keyboard.press("x")
    page.keyboard.press("Escape")
    entries = json.loads(saved_review(page, tmp_path).read_text(encoding="utf-8"))
    assert entries == [{"image": "/b/\udcff.png", "verdict": "good"}]


def test_leaving_the_page_asks_where_corrections_are_not_saved(visit, reviewed, tmp_path):
    page = visit(reviewed)
    asked = []
    page.on("dialog", lambda dialog: (asked.append(dialog.type), dialog.dismiss()))
    page.click(".open >> nth=0")
    page.wait_for_selector('#stage[aria-busy="false"]')
    page.keyboard.press("x")
    page.keyboard.press("Escape")
    with page.expect_event("dialog"):
        page.evaluate("setTimeout(() => location.reload())")
    assert asked == ["beforeunload"]
    saved_review(page, tmp_path)
    with page.expect_event("close"):  # without a question now
        page.close(run_before_unload=True)
    assert asked == ["beforeunload"]
