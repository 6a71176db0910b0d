"""A chapter shows where it leads, asks the reader to do something, and is read in a quarter of an hour."""
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT
from website.convert import ANSWER, EXERCISE, has_figure, text
from website.sections import notebooks

NBS = notebooks(ROOT / "nbs")
FIRST_PICTURE = 8  # cells, the title included
MAX_MINUTES = 15
TAUGHT = [nb for nb in NBS if re.match(r"[1234]\d\d_", nb.name)]
TUTORIALS = [nb for nb in NBS if nb.parent.name == "tutorials"]


def cells(nb): return json.loads((ROOT / "nbs" / nb).read_text(encoding="utf-8"))["cells"]


def first_picture(found):
    "The number of the first cell with an image, from 1; None without one."
    return next((i for i, c in enumerate(found, 1) if has_figure(c.get("outputs", []))), None)


@pytest.mark.parametrize("nb", TAUGHT, ids=str)
def test_a_picture_comes_first(nb):
    found = cells(nb)
    assert (first_picture(found) or len(found)) <= FIRST_PICTURE


def exercise_faults(found):
    "What is wrong with the exercises of a chapter, cell by cell."
    numbers, pictures = [], 0
    for i, cell in enumerate(found):
        asked = EXERCISE.findall(text(cell["source"])) if cell["cell_type"] == "markdown" else []
        numbers += [int(number) for number, _ in asked]
        if not asked: continue
        answer = found[i + 1] if i + 1 < len(found) else cell
        title = ANSWER.match(text(answer["source"]))
        if len(asked) > 1: yield f"cell {i}: several exercises in one cell"
        elif answer["cell_type"] != "code" or not title or title[1] != f"Answer {asked[0][0]}":
            yield f"cell {i}: exercise {asked[0][0]} has no answer below it"
        elif not re.search(r"\bassert |\btest_\w+\(", text(answer["source"])):
            yield f"cell {i + 1}: an answer that asserts nothing"
        pictures += has_figure(answer.get("outputs", []))
    if numbers != list(range(1, len(numbers) + 1)) or len(numbers) < 3:
        yield f"exercises {numbers}, at least 1, 2, 3 expected"
    if not pictures: yield "no exercise has a picture as its answer"


@pytest.mark.parametrize("nb", TAUGHT, ids=str)
def test_something_to_do(nb):
    faults = list(exercise_faults(cells(nb)))
    if faults: pytest.fail("\n".join(faults), pytrace=False)


def asked(number, kind="predict"): return {"cell_type": "markdown", "source": f"**Exercise {number}, {kind}.** What comes out?"}


def answered(number, code="assert 1", *outputs):
    return {"cell_type": "code", "source": f"# @title Answer {number}\n{code}", "outputs": list(outputs)}


PICTURE = {"data": {"image/png": ""}}
THREE = [asked(1), answered(1), asked(2, "change"), answered(2), asked(3, "break"), answered(3, "test_eq(1, 1)", PICTURE)]


@pytest.mark.parametrize("found, fault", [
    (THREE, None), (THREE[:4], "at least 1, 2, 3"), ([*THREE[:5], answered(3)], "no exercise has a picture"),
    ([*THREE[:3], THREE[1], *THREE[4:]], "exercise 2 has no answer"), ([*THREE, asked(4)], "exercise 4 has no answer"),
    ([asked(1), answered(1, "x = 1"), *THREE[2:]], "asserts nothing"), ([asked(2), answered(2), *THREE[2:]], "exercises [2, 2, 3]")])
def test_faults_of_exercises_are_seen(found, fault):
    assert fault is None if not list(exercise_faults(found)) else any(fault in said for said in exercise_faults(found))


@pytest.mark.parametrize("nb", TUTORIALS, ids=str)
def test_a_tutorial_ends_with_a_check(nb):
    "A heading, and below it a cell that says what holds of the reader's own results."
    found = cells(nb)
    at = [i for i, c in enumerate(found) if re.search(r"^## Check yourself$", text(c["source"]), re.M)]
    assert len(at) == 1 and any(c["cell_type"] == "code" and re.search(r"\bassert ", text(c["source"])) for c in found[at[0] + 1:])


def test_answers_are_folded():
    run = subprocess.run([sys.executable, str(ROOT / "tools" / "answers.py"), "--check"], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


# ---- words

AVOID = {
    r"\bpictures?\b": "image", r"\bprocessors?\b": "CPU", r"\bperceptrons?\b": "MLP", r"\bbells?\b": "Gaussian",
    r"(?<!standard )(?<!standard-)\bdeviations?\b(?!`)": "standard deviation", r"\bartifacts?\b": "artefact",
    r"\bblobs?\b(?! artefact)(?!/main)": "blob artefact", r"\bturn(?:s|ed)? by\b": "rotate", r"\bdear(?:er|est)\b": "expensive",
    r"\bquick(?:er|est)\b": "faster", r"\bnobody (?:listens|hears|asks)\b": "say what does not happen", r"\blights? (?:go|goes|went) out\b": "say what ends",
    r"\bslip of the pen\b": "mistake", r"\bin small\b(?! \w)": "at small scale", r"\bdoors?\b": "function", r"\bof the house\b": "of the project"}
FIGURES = Path("024_viz.ipynb")  # its subject are pictures


def prose(nb):
    "(cell, sentence) of what a notebook says: its Markdown without code and addresses, its captions, comments and docstrings."
    for i, cell in enumerate(cells(nb)):
        said = text(cell["source"])
        if cell.get("id") == "next-chapter": continue # a title
        if cell["cell_type"] == "markdown":
            said = re.sub(r"```.*?```|`[^`\n]*`|\]\([^)]*\)|\$[^$]*\$", " ", said, flags=re.S)
        else: said = "\n".join(re.findall(r"^#\| *fig-\w+:.*$|(?<!\S)# .*$|^ *\"[A-Z][^\"\n]*\.\"$", said, flags=re.M))
        yield i, said


@pytest.mark.parametrize("nb", NBS, ids=str)
def test_words_are_plain(nb):
    words = {word: right for word, right in AVOID.items() if nb != FIGURES or right != "image"}
    faults = [f"cell {i}: {m[0]!r}, say {right!r}: ...{said[max(0, m.start() - 40):m.end() + 30]!r}" for i, said in prose(nb)
              for word, right in words.items() for m in re.finditer(word, said, re.I)]
    if faults: pytest.fail("\n".join([str(nb), *faults]), pytrace=False)


def test_words_to_avoid_are_seen():
    for said in ("a Picture of it", "the dearest stage", "two bells", "one deviation", "it is quicker", "blobs", "turned by 90 degrees"):
        assert any(re.search(word, said, re.I) for word in AVOID), said
    for said in ("blob artefacts", "two standard deviations", "the standard-deviation", "github.com/x/blob/main/y", "CPU", "pictured"):
        assert not any(re.search(word, said, re.I) for word in AVOID), said


# ---- sections of the Diff-AE paper: 3.1 decoder, 3.2 semantic and 3.3 stochastic encoder, 4 sampling, 5.1 to 5.7 experiments

SECTIONS = {"215_diffusion.inversion": "3.3", "300_diffae.encoder": "3.2", "310_diffae.latent": "4", "315_diffae.manipulate": "5.3",
            "325_diffae.editor": "5.3", "345_diffae.prior": "4", "665_experiments.editing": "5.3"}


@pytest.mark.parametrize("name, number", SECTIONS.items())
def test_sections_of_the_paper(name, number):
    "Those in which the paper treats the chapter's subject."
    said = "\n".join(text(c["source"]) for c in cells(f"{name}.ipynb") if c["cell_type"] == "markdown")
    assert re.findall(r"[Ss]ection (\d(?:\.\d)?)", said)[0] == number


def test_no_section_that_the_paper_lacks():
    said = [s for nb in NBS if nb.name[0] == "3" for _, s in prose(nb)]
    assert set(re.findall(r"[Ss]ections? (\d\.\d)", "\n".join(said))) <= {"3.1", "3.2", "3.3", *(f"5.{i}" for i in range(1, 8))}
