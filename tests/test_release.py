"A release: one command puts the version everywhere, or says in one sentence why not; the workflow that its tag starts."
import configparser
import re
import shutil
import subprocess
import sys
from datetime import date

import pytest
import yaml
from conftest import ROOT

WORKFLOWS = ROOT/".github"/"workflows"
NOTES = "# Release notes\n\n## Unreleased\n\n### New Features\n\n- Something new.\n\n## 0.1.0\n\n- The first.\n"


def git(root, *args): return subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a@b", *args], cwd=root, capture_output=True, text=True, check=True).stdout


def release(root, *args): return subprocess.run([sys.executable, "tools/release.py", *args], cwd=root, capture_output=True, text=True, timeout=120)


@pytest.fixture(scope="module")
def copied(tmp_path_factory):
    "The tracked files of the repository without large ones, as a repository of its own at version 0.1.0."
    root = tmp_path_factory.mktemp("release")/"tree"
    for name in subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines():
        if not (ROOT/name).is_file() or name.startswith(("data/", "results/", "tests/")) or "/assets/" in name or "/images/" in name: continue
        (root/name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT/name, root/name)
    now = re.search(r"^version = (.+)$", (root/"settings.ini").read_text(encoding="utf-8"), re.M)[1]
    for name in ("settings.ini", "CITATION.cff", "nbs/start/60_cite.ipynb", "litevae_diffae/__init__.py"):
        path = root/name
        path.write_text(path.read_text(encoding="utf-8").replace(now, "0.1.0"), encoding="utf-8")
    (root/"CHANGELOG.md").write_text(NOTES, encoding="utf-8")
    git(root, "init", "-q", "-b", "main"); git(root, "add", "-A"); git(root, "commit", "-qm", "tree")
    return root


@pytest.fixture
def tree(copied):
    "The copied tree, clean again."
    yield copied
    git(copied, "reset", "-q", "--hard"); git(copied, "clean", "-qfdx")


def test_the_version_is_everywhere(tree):
    done = release(tree, "0.2.0")
    assert done.returncode == 0, done.stderr
    settings = configparser.ConfigParser(delimiters=["="]); settings.read(tree/"settings.ini", encoding="utf-8")
    assert settings["DEFAULT"]["version"] == "0.2.0"
    assert '__version__ = "0.2.0"' in (tree/"litevae_diffae"/"__init__.py").read_text(encoding="utf-8")
    assert yaml.safe_load((tree/"CITATION.cff").read_text(encoding="utf-8"))["version"] == "0.2.0"
    page = (tree/"nbs/start/60_cite.ipynb").read_text(encoding="utf-8")
    assert "version = {0.2.0}" in page and '"0.2.0\\n"' in page and "0.1.0" not in page
    assert (tree/"CHANGELOG.md").read_text(encoding="utf-8") == NOTES.replace("## Unreleased", f"## 0.2.0 ({date.today().isoformat()})")
    changed = {line.split()[-1] for line in git(tree, "status", "--porcelain").splitlines()}
    assert changed == {"settings.ini", "CITATION.cff", "CHANGELOG.md", "nbs/start/60_cite.ipynb", "litevae_diffae/__init__.py"}
    for command in ("git commit -am 'Release 0.2.0'", "git tag v0.2.0", "git push origin main v0.2.0"): assert command in done.stdout
    git(tree, "commit", "-qam", "Release 0.2.0")
    again = release(tree, "0.3.0")                                       # the next one has no notes yet
    assert again.returncode == 1 and again.stderr == "release: CHANGELOG.md has no notes below '## Unreleased'\n"
    git(tree, "reset", "-q", "--hard", "HEAD~")


@pytest.mark.parametrize("version,says", [("0.1.0", "must be larger than 0.1.0, got 0.1.0"), ("0.0.9", "must be larger than 0.1.0, got 0.0.9"), ("v0.2.0", "a version has three numbers, such as 0.2.0, got 'v0.2.0'"),
                                          ("0.2", "three numbers"), ("0.2.0rc1", "three numbers"), ("00.2.0", "three numbers"), ("0.10.0", ""), ("", "three numbers")])
def test_versions(tree, version, says):
    done = release(tree, version)
    assert (done.returncode == 0) == (not says) and says in done.stderr and done.stderr.count("\n") == bool(says)
    if says: assert not git(tree, "status", "--porcelain")


@pytest.mark.parametrize("name,text,says", [("README.md", "changed\n", "commit or stash your changes first: README.md"), ("new.txt", "new\n", "commit or stash your changes first: new.txt")])
def test_a_dirty_tree(tree, name, text, says):
    (tree/name).write_text(text)
    done = release(tree, "0.2.0")
    assert done.returncode == 1 and says in done.stderr and done.stderr.count("\n") == 1
    assert "0.2.0" not in (tree/"settings.ini").read_text(encoding="utf-8")


@pytest.mark.parametrize("notes", ["## 0.1.0\n\n- The first.\n", "## Unreleased\n\n### New Features\n\n## 0.1.0\n\n- The first.\n", "## Unreleased\n"])
def test_no_notes(tree, notes):
    (tree/"CHANGELOG.md").write_text(notes); git(tree, "commit", "-qam", "notes")
    done = release(tree, "0.2.0")
    git(tree, "reset", "-q", "--hard", "HEAD~")
    assert done.returncode == 1 and done.stderr == "release: CHANGELOG.md has no notes below '## Unreleased'\n"


def test_usage(tree): assert release(tree).stderr == "release: one version expected, such as: python tools/release.py 0.2.0\n"


def test_this_tree_could_be_released():
    "Every place says the version once, in the form that the command looks for."
    import release as tool
    version = tool.current_version(ROOT)
    for name, place in tool.PLACES.items(): assert (ROOT/name).read_text(encoding="utf-8").count(place.format(version)) == 1, name
    if tool.UNRELEASED in (ROOT/"CHANGELOG.md").read_text(encoding="utf-8"):      # not right after a release
        assert tool.with_date((ROOT/"CHANGELOG.md").read_text(encoding="utf-8"), "9.9.9", "2030-01-01").count("## 9.9.9 (2030-01-01)") == 1


# workflows: what can be known of them without running them

def steps(job): return "\n".join(str(step.get("run", "")) + str(step.get("uses", "")) for step in job["steps"])


def test_the_workflow_of_a_release():
    doc = yaml.safe_load((WORKFLOWS/"release.yaml").read_text(encoding="utf-8"))
    jobs = doc["jobs"]
    assert doc[True] == {"push": {"tags": ["v*"]}}                       # YAML reads "on" as true
    assert "python -m build" in steps(jobs["build"]) and "tools/check_installed.py" in steps(jobs["build"]) and "-m venv" in steps(jobs["build"])
    assert jobs["pypi"]["permissions"] == {"id-token": "write"} and "pypa/gh-action-pypi-publish" in steps(jobs["pypi"]) and jobs["pypi"]["needs"] == "build"
    assert jobs["github"]["permissions"] == {"contents": "write"} and "gh release create" in steps(jobs["github"]) and "dist/*" in steps(jobs["github"])
    assert doc["permissions"] == {"contents": "read"} and "password" not in str(doc)


def test_the_workflow_of_the_tests():
    doc = yaml.safe_load((WORKFLOWS/"test.yaml").read_text(encoding="utf-8"))
    whole, some = doc["jobs"]["test"], doc["jobs"]["platforms"]
    assert any(step.get("run") == "pytest" for step in whole["steps"])
    tried = {(row["os"].split("-")[0], row["python"]) for row in some["strategy"]["matrix"]["include"]}
    assert {"windows", "macos"} <= {system for system, _ in tried}
    assert {p for _, p in tried} == {"3.10", "3.11", "3.12", "3.13", "3.14"}
    command = next(step["run"] for step in some["steps"] if "pytest" in step.get("run", "") and "install" not in step["run"])
    names = re.findall(r"tests/\w+\.py", command)
    assert len(names) >= 5 and all((ROOT/name).is_file() for name in names)
