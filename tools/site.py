#!/usr/bin/env python
"""The docs site.

    python tools/site.py build             # writes _site/; ends non-zero on anything that is wrong
    python tools/site.py build --out DIR
    python tools/site.py serve             # shown at http://localhost:8000; changes are built again

What it needs comes with `pip install -e ".[dev]"`.
"""
import argparse
import sys
import time
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

from website.build import ROOT, build, check_out

WATCHED = ("nbs", "litevae_diffae", "tools/website/static", "tools/website/templates",
           "CHANGELOG.md", "CONTRIBUTING.md")


class Quiet(SimpleHTTPRequestHandler):
    "A server of files that reports nothing."
    def log_message(self, *args): pass


def state():
    "When each file that the site is made of was changed last."
    files = [p for name in WATCHED for p in [ROOT / name, *(ROOT / name).rglob("*")]]
    return {p: p.stat().st_mtime for p in files if p.is_file() and "__pycache__" not in p.parts}


def build_and_say(out, force):
    "Build, and print what is wrong."
    began = time.time()
    status, said = build(out, ROOT / "_site_work", force)
    print(said, end="")
    n = len(list(out.rglob("*.html")))
    print(f"{n} pages in {time.time() - began:.0f} s;", "faulty" if status else "nothing is wrong",
          flush=True)
    return int(status)


def build_or_say(out):
    "Build what changed; a notebook that is broken or half written is told, and serving goes on."
    try: build_and_say(out, force=False)
    except (RuntimeError, ValueError, OSError) as error: print(f"{error}\nnot built", flush=True)


def serve(out, port):
    "Show the site, and build what changes, until Ctrl-C."
    seen = state()
    build_or_say(out)
    server = ThreadingHTTPServer(("127.0.0.1", port), partial(Quiet, directory=str(out)))
    Thread(target=server.serve_forever, daemon=True).start()
    print(f"http://localhost:{server.server_address[1]}  (Ctrl-C ends it)", flush=True)
    try:
        while True:
            time.sleep(1)
            try: now = state()
            except OSError: continue # a file went away while it was looked at
            if now != seen:
                seen = now
                build_or_say(out)
    except KeyboardInterrupt: server.shutdown()


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("build", "serve"))
    parser.add_argument("--out", type=Path, default=ROOT / "_site", help="folder of the pages")
    parser.add_argument("--port", type=int, default=8000, help="of serve; 0: any free one")
    args = parser.parse_args()
    out = args.out.resolve()
    try: check_out(out)
    except ValueError as error: parser.error(str(error))
    if args.command == "build": return build_and_say(out, force=True)
    return serve(out, args.port)


if __name__ == "__main__": sys.exit(main())
