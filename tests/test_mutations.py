"The list of changes in tools/mutate.py is true of the package as it is; whether tests notice them is for that tool to say."
import ast
import re

import pytest
from conftest import ROOT
from mutate import MUTATIONS, PACKAGE, copy_package, node, noticed, occurrences


@pytest.mark.parametrize("file", sorted({m.file for m in MUTATIONS}))
def test_every_old_text_is_there_once(file):
    found = {m.old: occurrences(m) for m in MUTATIONS if m.file == file}
    assert set(found.values()) == {1}, {old: n for old, n in found.items() if n != 1}


def test_every_change_is_code_and_another_one():
    for m in MUTATIONS:
        source = (ROOT/PACKAGE/m.file).read_text(encoding="utf-8")
        assert ast.dump(ast.parse(source)) != ast.dump(ast.parse(source.replace(m.old, m.new))), m
    assert len(set(MUTATIONS)) == len(MUTATIONS) > 100


def test_every_test_is_there():
    for name in {node(m) for m in MUTATIONS}:
        file, _, function = name.partition("::")
        assert re.search(rf"^def {function}\(", (ROOT/file).read_text(encoding="utf-8"), re.M), name


def test_a_change_is_noticed_and_undone(tmp_path):
    "One from the audit, and one that no test can see."
    package = copy_package(tmp_path)
    m = next(m for m in MUTATIONS if m.old == "lpips: float = 1.")
    before = (package/m.file).read_text()
    assert noticed(m, package) and not noticed(m._replace(new="lpips: float = 1.0"), package)
    assert (package/m.file).read_text() == before
