#!/usr/bin/env python
"""Make the tree ready for a release: one version everywhere, and a date for the notes.

    python tools/release.py 0.2.0

The version goes into settings.ini, the package (by nbdev_export), CITATION.cff and the page on citing; the heading "Unreleased" of CHANGELOG.md becomes the version with today's
date. Nothing is committed: the git commands that do it are printed. The tag starts .github/workflows/release.yaml, which builds, checks and publishes.
"""
import re
import subprocess
import sys
from datetime import date
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
UNRELEASED = "## Unreleased"
# file -> where the version stands in it; {} is the version
PLACES = {"settings.ini": "version = {}\n", "CITATION.cff": "version: {}\n", "nbs/start/60_cite.ipynb": "  version = {{{}}},"}


def numbers(version):
    "A version as three numbers."
    if not re.fullmatch(r"(0|[1-9]\d*)(\.(0|[1-9]\d*)){2}", version): sys.exit(f"release: a version has three numbers, such as 0.2.0, got {version!r}")
    return tuple(map(int, version.split(".")))


def current_version(root): return re.search(r"^version = (.+)$", (root / "settings.ini").read_text(encoding="utf-8"), re.M)[1].strip()


def with_date(changelog, version, today):
    "The release notes, with the version and its date where they said Unreleased."
    head, found, rest = changelog.partition(f"{UNRELEASED}\n")
    notes = rest.split("\n## ")[0]
    if not found or not re.search(r"^- \S", notes, re.M): sys.exit(f"release: CHANGELOG.md has no notes below {UNRELEASED!r}")
    return f"{head}## {version} ({today})\n{rest}"


def changed_files(root, old, new, today):
    "path -> text of what the release changes; everything is checked before anything is written."
    if numbers(new) <= numbers(old): sys.exit(f"release: the version must be larger than {old}, got {new}")
    dirty = subprocess.run(["git", "status", "--porcelain"], cwd=root, capture_output=True, text=True, check=True).stdout
    if dirty: sys.exit(f"release: commit or stash your changes first: {', '.join(line[3:] for line in dirty.splitlines()[:3])}")
    texts = {"CHANGELOG.md": with_date((root / "CHANGELOG.md").read_text(encoding="utf-8"), new, today)}
    for name, place in PLACES.items():
        text = (root / name).read_text(encoding="utf-8")
        if text.count(place.format(old)) != 1: sys.exit(f"release: {name} should say {place.format(old).strip()!r} once")
        texts[name] = text.replace(place.format(old), place.format(new))
    shown = f'"{old}\\n"'  # what the cell of that page printed
    texts["nbs/start/60_cite.ipynb"] = texts["nbs/start/60_cite.ipynb"].replace(shown, f'"{new}\\n"')
    return {root / name: text for name, text in texts.items()}


def main(args=None, root=ROOT):
    args = sys.argv[1:] if args is None else args
    if len(args) != 1: sys.exit("release: one version expected, such as: python tools/release.py 0.2.0")
    new, old = args[0], current_version(root)
    for path, text in changed_files(root, old, new, date.today().isoformat()).items(): path.write_text(text, encoding="utf-8", newline="\n")
    subprocess.run(["nbdev_export"], cwd=root, check=True)
    print(f"{old} -> {new}. Look at `git diff`, then:\n\n    git commit -am 'Release {new}'\n    git tag v{new}\n    git push origin main v{new}")


if __name__ == "__main__": main()
