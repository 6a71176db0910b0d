"""Runs notebooks for tests/test_notebooks.py: what all of them import is imported once, and each runs in a child of this process, as `nbdev_test` would run it.

Reads one JSON line for each notebook, its path; answers with one: exit code, CPU seconds of the child, and what it printed.
"""
import json
import os
import sys
import tempfile
from pathlib import Path

import matplotlib.pyplot  # noqa: F401, imported for the children
import torch
import torch._dynamo  # noqa: F401, the first optimizer would import it in each child anew
import torchvision  # noqa: F401
from nbdev.config import get_config
from nbdev.test import test_nb


def run(path, out):
    "Run a notebook in this process and leave."
    os.dup2(out, 1)
    os.dup2(out, 2)
    sys.stdout, sys.stderr = (os.fdopen(n, "w", buffering=1) for n in (1, 2))
    config = get_config()
    os.chdir(config.nbs_path)
    passed, _ = test_nb(Path(path), skip_flags=config.tst_flags.split(), do_print=True, basepath=config.config_path)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0 if passed else 1)


def main():
    assert torch.get_num_threads() >= 1
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what imports print is no answer
    for line in sys.stdin:
        with tempfile.TemporaryFile() as out:
            child = os.fork()
            if not child:
                try: run(json.loads(line), out.fileno())
                finally: os._exit(3)
            _, status, used = os.wait4(child, 0)
            out.seek(0)
            said = out.read().decode("utf-8", "replace")
        answers.write(json.dumps({"code": os.waitstatus_to_exitcode(status), "seconds": used.ru_utime + used.ru_stime, "said": said}) + "\n")


if __name__ == "__main__": main()
