"""Two workers with one thread each, and fixtures of a file made once."""
import os
import sys
from pathlib import Path

from xdist.scheduler import LoadScopeScheduling

ROOT = Path(__file__).resolve().parents[1]
# before anything imports PyTorch; every subprocess inherits it
os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1", MPLBACKEND="Agg", HF_HUB_OFFLINE="1")
sys.path.insert(0, str(ROOT / "tools"))


class ByFile(LoadScopeScheduling):
    "The tests of a file stay on one worker and share its fixtures; every notebook is on its own."
    def _split_scope(self, nodeid): return nodeid if "test_notebooks.py" in nodeid else nodeid.split("::")[0]


def pytest_xdist_make_scheduler(config, log): return ByFile(config, log)
