"""Workers with one thread each, and fixtures of a file made once."""
import os
import sys
from pathlib import Path

from xdist.scheduler import LoadScopeScheduling

ROOT = Path(__file__).resolve().parents[1]
# before anything imports PyTorch; every subprocess inherits it
os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1", MPLBACKEND="Agg", HF_HUB_OFFLINE="1")
sys.path.insert(0, str(ROOT / "tools"))


LONG = ("test_site", "test_experiments", "test_runs", "test_devices", "test_fp16", "test_compile", "test_memory", "test_fuzz",
        "test_cli", "test_cli_doors", "test_repo", "test_plan", "test_colab_pins", "test_train", "test_app", "test_bench")


class ByFile(LoadScopeScheduling):
    "The tests of a file stay on one worker and share its fixtures; every notebook is on its own."
    def _split_scope(self, nodeid): return nodeid if "test_notebooks.py" in nodeid else nodeid.split("::")[0]


def pytest_xdist_make_scheduler(config, log):
    config.option.loadscopereorder = False # as they are ordered below
    return ByFile(config, log)


def pytest_collection_modifyitems(config, items):
    """Long files first, the notebooks last: they are many small pieces, and keep all workers busy to the end.

    Tests marked `cuda` are left out where there is no NVIDIA GPU."""
    import torch
    there = torch.cuda.is_available()
    left_out = [item for item in items if item.get_closest_marker("cuda") and not there]
    if left_out: config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]
    def place(item):
        name = item.path.stem
        return LONG.index(name) if name in LONG else len(LONG) + (name == "test_notebooks")
    items.sort(key=place)


def pytest_sessionfinish(session, exitstatus):
    "Where NO_SKIPS is set, a skipped test is a failure: everything that tests need is there."
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    skipped = reporter.stats.get("skipped", []) if reporter else []
    if os.environ.get("NO_SKIPS") and skipped and exitstatus == 0: session.exitstatus = 1
