"""Runs notebooks for tests/test_notebooks.py as a reader on Colab runs them.

    python tests/notebook_server.py FOLDER_OF_THE_UNPACKED_WHEEL

Each runs in an empty folder, cell by cell in IPython, against the wheel and not the repository. Packages
that neither the wheel requires nor Colab has are hidden, but for those that the notebook installs itself.
What all notebooks import is imported once, and each runs in a child of this process.

Reads one JSON line for each notebook: path, and "pretend" if its device is that of pretend_device.py; answers
with one: exit code, CPU seconds of the child, and what it printed.
"""
import json
import os
import re
import sys
import tempfile
from contextlib import ExitStack
from importlib import import_module
from importlib.metadata import DistributionFinder, PackageNotFoundError, distribution, packages_distributions
from pathlib import Path

from packaging.requirements import Requirement

# what notebooks may use of the hundreds that Colab has (its backend-info, 2026)
COLAB = ("ipython", "ipykernel", "ipywidgets", "diffusers", "datasets", "gradio", "pandas", "pyyaml",
         "nbformat", "nbconvert", "requests", "setuptools", "pip", "wheel", "psutil", "packaging")
SHARED = ("matplotlib.pyplot", "torch", "torch._dynamo", "torchvision") # dynamo comes with an optimizer


def plain(name): return re.sub(r"[-_.]+", "-", name).lower()


def needs(requirements):
    "Names of all packages that come with some requirements."
    todo, found = [Requirement(r) for r in requirements], set()
    while todo:
        r = todo.pop()
        asked = {"extra": ""}, *({"extra": e} for e in r.extras)
        if plain(r.name) in found and not r.extras: continue
        found.add(plain(r.name))
        try: further = distribution(r.name).requires or ()
        except PackageNotFoundError: continue
        for one in map(Requirement, further):
            if not one.marker or any(one.marker.evaluate(a) for a in asked): todo.append(one)
    return found


class Hidden:
    "A finder of modules, and of what is installed, that does not see packages which a reader does not have."
    allowed, packages, everything = set(), packages_distributions(), False

    def __init__(self, finder): self.finder = finder

    def find_spec(self, name, path=None, target=None):
        owners = set(map(plain, self.packages.get(name.split(".")[0], ())))
        if owners and not owners & Hidden.allowed: return None
        return self.finder.find_spec(name, path, target)

    def find_distributions(self, context=DistributionFinder.Context()):
        found = getattr(self.finder, "find_distributions", lambda _: ())(context)
        return (d for d in found if Hidden.everything or plain(d.name) in Hidden.allowed)

    def __getattr__(self, name): return getattr(self.finder, name)


def installed(cells):
    "Names of what a notebook installs on Colab beside the package."
    first = "\n".join("".join(c["source"]) for c in cells[:3] if c["cell_type"] == "code")
    asked = re.search(r"pip install -qU (\S.*)", first)
    own, _, others = (asked[1] if asked else "").partition(" @ {source}\"")
    extras = re.findall(r"\[([\w,]+)\]", own)
    packages = re.findall(r"[\w-]+", others)
    return needs([*(f"litevae_diffae[{extra}]" for extra in extras), *packages])


def run_cells(cells):
    "Run code cells in IPython; True if none failed."
    from IPython.core.interactiveshell import InteractiveShell
    from matplotlib import pyplot
    shell = InteractiveShell.instance(colors="NoColor", history_length=0)
    for cell in cells:
        source = "".join(cell["source"])
        unrun = re.search(r"^#\| *eval: *false", source, re.M)
        if cell["cell_type"] != "code" or unrun: continue
        shell.user_ns["__name__"] = "__main__"
        if not shell.run_cell(source, store_history=True).success:
            print(f"in this cell:\n{source}")
            return False
        pyplot.close("all") # as the inline backend does
    return True


def pretending():
    "Context in which the default device is that of pretend_device.py."
    sys.path.append(str(Path(__file__).parent))
    import pretend_device
    sys.path.pop()
    pretend_device.start()
    for name in ("train", "hub", "optim"): import_module(f"litevae_diffae.{name}")
    stack = ExitStack()
    stack.enter_context(pretend_device.PretendDevice())
    stack.enter_context(pretend_device.default_device_is("sham"))
    return stack


def run(path, pretend, out):
    "Run a notebook in this process and leave."
    os.dup2(out, 1)
    os.dup2(out, 2)
    sys.stdout, sys.stderr = (os.fdopen(n, "w", buffering=1) for n in (1, 2))
    text = Path(path).read_text(encoding="utf-8")
    cells = json.loads(text)["cells"]
    Hidden.everything = True # what an extra needs is looked up among all
    Hidden.allowed |= installed(cells)
    Hidden.everything = False
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        if pretend:
            with pretending(): passed = run_cells(cells)
        else: passed = run_cells(cells)
        os.chdir("/")
    if passed: print(f"- Completed {path}")
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0 if passed else 1)


def main(wheel):
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what imports print is no answer
    os.environ["IN_TEST"] = "1"
    sys.path[0] = wheel # in place of the folder of this file: the tests' modules are none of a reader's
    requirements = [r for r in distribution("litevae_diffae").requires if "extra ==" not in r]
    Hidden.allowed = needs([*requirements, *COLAB]) | {"litevae-diffae"}
    sys.meta_path[:] = map(Hidden, sys.meta_path)
    for name in SHARED: import_module(name)
    for line in sys.stdin:
        asked = json.loads(line)
        with tempfile.TemporaryFile() as out:
            child = os.fork()
            if not child:
                try: run(asked["path"], asked.get("pretend"), out.fileno())
                finally: os._exit(3)
            _, status, used = os.wait4(child, 0)
            out.seek(0)
            said = out.read().decode("utf-8", "replace")
        seconds = used.ru_utime + used.ru_stime
        answers.write(json.dumps({"code": os.waitstatus_to_exitcode(status), "seconds": seconds, "said": said}) + "\n")


if __name__ == "__main__": main(sys.argv[1])
