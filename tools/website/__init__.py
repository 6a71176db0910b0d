"""The docs site: notebooks in, pages out. `python tools/site.py build` runs it."""
