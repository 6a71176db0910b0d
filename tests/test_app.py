"""The app in a real browser: every button is pressed, and nothing is asked of another machine."""
import os
import shutil
import sys
from pathlib import Path
from urllib.parse import urlparse

import pytest

BROWSER = next((path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None)
PICTURES = os.environ.get("APP_PICTURES")                                      # a folder: keep a picture of each tab; nbs/images/app.png is its edit.png
T = 20 if PICTURES else 6
SECONDS = 120_000                                                              # milliseconds, on a busy machine


@pytest.fixture(scope="module")
def model():
    from litevae_diffae import DiffAE
    return DiffAE.from_pretrained("avatars")


def test_without_gradio_it_says_what_to_install(monkeypatch):
    from litevae_diffae.demo.app import need_gradio
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(ImportError, match=r'app: this needs Gradio; pip install "gradio>=6"'): need_gradio()


def test_the_command_without_gradio_is_one_line(monkeypatch, capsys):
    from litevae_diffae.cli import main
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(SystemExit) as stopped: main(["app"])
    said = capsys.readouterr().err
    assert stopped.value.code == 2 and len(said.splitlines()) == 1 and 'pip install "gradio>=6"' in said


def test_bad_input_is_a_note_on_the_page(model):
    gradio = pytest.importorskip("gradio", reason='no Gradio: pip install "gradio>=6"')
    from litevae_diffae.demo.app import Studio, edit, reconstruct, told
    studio = Studio(model)
    with pytest.raises(gradio.Error, match="picture: choose or upload one first"): told(lambda: reconstruct(studio, None))()
    with pytest.raises(gradio.Error, match="strengths: expected"): told(lambda: edit(studio, studio.faces[0], 5, 0.1))()
    with pytest.raises(ZeroDivisionError): told(lambda: 1 / 0)()                # a mistake of ours is not hidden


def test_the_command_opens_the_page_and_a_taken_port_is_one_line(monkeypatch, capsys):
    pytest.importorskip("gradio", reason='no Gradio: pip install "gradio>=6"')
    import urllib.request
    from litevae_diffae import cli
    from litevae_diffae.demo import app
    opened, run_app = [], app.run_app
    monkeypatch.setattr(app, "run_app", lambda *args, **kwargs: opened.append(run_app(*args, **{**kwargs, "port": None, "block": False})))
    cli.main(["app", "--device", "cpu"])
    page = opened[0]
    try:
        assert urlparse(page.local_url).hostname == "127.0.0.1"
        assert b"<html" in urllib.request.urlopen(page.local_url, timeout=30).read(2000).lower()
        monkeypatch.setattr(app, "run_app", lambda *args, **kwargs: run_app(*args, **{**kwargs, "block": False}))
        with pytest.raises(SystemExit) as stopped: cli.main(["app", "--device", "cpu", "--port", str(page.server_port)])
        assert stopped.value.code == 2 and str(page.server_port) in capsys.readouterr().err
    finally: page.close()


@pytest.fixture(scope="module")
def seen(model):
    "An open page, and the hosts it asked."
    pytest.importorskip("gradio", reason='no Gradio: pip install "gradio>=6"')
    sync_api = pytest.importorskip("playwright.sync_api", reason="no driver of browsers: pip install playwright")
    if not BROWSER: pytest.skip("no browser: apt-get install chromium")
    from litevae_diffae.demo.app import run_app
    app = run_app(model, port=None, block=False)
    with sync_api.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=BROWSER, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": 1240, "height": 780})
        page.set_default_timeout(SECONDS)
        asked, wrong = set(), []
        page.on("request", lambda r: asked.add(urlparse(r.url).hostname or urlparse(r.url).scheme))
        page.on("pageerror", lambda e: wrong.append(str(e)))
        page.goto(app.local_url)
        page.wait_for_selector("#reconstruct")
        yield page, asked, wrong
        browser.close()
    app.close()


def picture(page, name):
    if PICTURES: page.wait_for_timeout(9000); page.screenshot(path=Path(PICTURES) / f"{name}.png")


def sources(page, where): return page.eval_on_selector_all(f"{where} img", "found => found.map(i => i.naturalWidth + ' ' + i.src)")


def wait_for_pictures(page, where, n, other_than=()):
    page.wait_for_function("([where, n, old]) => { const s = [...document.querySelectorAll(where + ' img')].map(i => i.naturalWidth + ' ' + i.src);"
                           " return s.length == n && s.every(x => !x.startsWith('0 ')) && s.join() != old.join() }", arg=[where, n, list(other_than)])
    return sources(page, where)


def set_slider(page, where, value):
    field = page.locator(f"{where} input[type=number]")
    field.fill(str(value)); field.press("Tab")
    page.wait_for_timeout(500) # until the page has told the server


def test_reconstruct(seen):
    page, _, _ = seen
    set_slider(page, "#n_steps", T)
    page.click("#reconstruct")
    assert {s.split()[0] for s in wait_for_pictures(page, "#reconstructions", 5)} == {"64"}
    assert "Mean squared error" in page.inner_text("#reconstruct_said") and f"T = {T}" in page.inner_text("#reconstruct_said")
    picture(page, "reconstruct")


def test_pick_draw_and_upload(seen, tmp_path):
    import numpy as np
    from PIL import Image
    page, _, _ = seen
    before = sources(page, "#picture")
    page.locator("#picture_faces img").nth(7).click()
    picked = wait_for_pictures(page, "#picture", 1, before)
    page.click("#picture_draw")
    drawn = wait_for_pictures(page, "#picture", 1, picked)
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (9, 14, 4), dtype=np.uint8)).resize((140, 90)).save(tmp_path / "mine.png")
    page.click("#picture button[aria-label='Remove Image']")
    page.wait_for_selector("#picture input[type=file]", state="attached")
    page.click("#reconstruct")                                                 # nothing chosen
    page.get_by_text("picture: choose or upload one first").first.wait_for()
    picture(page, "note")
    page.set_input_files("#picture input[type=file]", tmp_path / "mine.png")
    wait_for_pictures(page, "#picture", 1, drawn)
    old = sources(page, "#reconstructions")
    page.click("#reconstruct")
    wait_for_pictures(page, "#reconstructions", 5, old)
    picture(page, "upload")


def test_edit(seen, model):
    page, _, _ = seen
    page.locator("#picture_faces img").first.click()
    page.get_by_role("tab", name="Edit").click()
    page.wait_for_selector("#edit")
    assert page.locator(".attribute input[type=number]").count() == len(model.classifier.names)
    page.click("#edit")
    plain = wait_for_pictures(page, "#edited", 2)
    name = model.classifier.names[1]
    set_slider(page, f"#slider_{name}", 0.45)
    page.click("#edit")
    wait_for_pictures(page, "#edited", 2, plain)
    page.get_by_text("+0.45").first.wait_for()
    assert name.replace("_", " ") in page.inner_text("#probabilities")
    picture(page, "edit")
    page.click("#zero")
    page.get_by_text("all sliders at 0").first.wait_for()


@pytest.mark.parametrize("tab, slider, n, gallery", [("Interpolate", "#n_between", 4, "#walk"), ("Sample", "#n_samples", 8, "#samples")])
def test_pictures_in_a_row(seen, tab, slider, n, gallery):
    page, name = seen[0], tab.lower()
    page.get_by_role("tab", name=tab).click()
    page.wait_for_selector(f"#{name}")
    set_slider(page, slider, n)
    page.click(f"#{name}")
    assert len(set(wait_for_pictures(page, gallery, n))) == n
    picture(page, name)


def test_nothing_is_asked_of_another_machine(seen):
    _, asked, wrong = seen
    assert asked <= {"127.0.0.1", "localhost", "data", "blob"}, asked
    assert not wrong
