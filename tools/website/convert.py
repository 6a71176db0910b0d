"""One processed notebook as a page: its parts, then MyST for Sphinx or plain Markdown for machines.

nbdev has processed the notebook: front matter, links from names in backticks, and the tables of
`show_doc`. Here every definition is shown once, with its table folded below it.
"""
import ast
import json
import re
from pathlib import Path
from typing import NamedTuple

import yaml

from .sections import page_name

WORDS_A_MINUTE = 200
CODE_LINES_A_MINUTE = 20
FIGURE_SECONDS = 10
SIGNATURE_COLUMNS = 80  # a longer line of parameters becomes one line for each
DEFAULT_COLUMNS = 30  # a longer default that is a call is shown as `Name(...)`
FOLDED_FIGURE_LINES = 8  # a longer cell that draws is folded
ANSWER = re.compile(r"# @title (Answer(?: \d+)?)\n") # first line: folded, on Colab too
EXERCISE = re.compile(r"^\*\*Exercise (\d+), (predict|change|break)\.\*\*", flags=re.M)


class Doc(NamedTuple):
    "What show_doc says of a name."
    name: str # `f`, or `Class.method`
    url: str # of its source
    signature: str # without comments
    says: str # the docstring, in Markdown
    table: str # of parameters, in Markdown


class Markdown(NamedTuple):
    "A piece of prose."
    text: str


class Code(NamedTuple):
    "A cell with what it printed and drew."
    source: str # without options
    options: dict # Quarto's, by name
    outputs: list


class Definition(NamedTuple):
    "A public function or class of the package, shown once."
    name: str # `f`, or `Class.method`
    source: str # empty: only the signature is shown
    doc: Doc | None
    members: tuple = () # methods, which links may name


class Page(NamedTuple):
    "A page of the site."
    source: Path # the notebook, relative to nbs/
    name: str # of the page, without a suffix
    title: str
    says: str # the sentence below the title
    parts: list


def text(value): return value if isinstance(value, str) else "".join(value)


def cell_options(source):
    "Quarto's options of a code cell, `#| fig-cap: \"...\"`, by name."
    found = re.findall(r"^#\| *([\w-]+)(?::| *$) *(.*?) *$", source, flags=re.M)
    return {k: v[1:-1] if len(v) > 1 and v[:1] == v[-1:] == '"' else v for k, v in found}


def without_options(source): return re.sub(r"^#\|.*\n?", "", source, flags=re.M)


def read_doc(cell):
    "What a cell with show_doc says; None for another cell."
    source = text(cell["source"])
    if cell["cell_type"] != "code" or not re.search(r"^show_doc\(", source, flags=re.M): return None
    said = [text(o["data"]["text/markdown"]) for o in cell["outputs"]
            if "text/markdown" in o.get("data", {})]
    if not said: raise RuntimeError(f"no output of {source.splitlines()[-1]}")
    head = re.search(r"^#{2,6} (\S+)$", said[0], flags=re.M)
    url = re.search(r"\[source\]\(([^)]+)\)", said[0])
    signature = re.search(r"```python\n(.*?)\n```", said[0], flags=re.S)
    rest = said[0][signature.end():] if signature else said[0][head.end():]
    says, _, table = rest.partition("\n| |")
    return Doc(head[1].replace("\\", ""), url[1] if url else "", signature[1] if signature else "",
               says.strip(), f"| |{table}" if table else "")


def defined_name(node):
    "The name of a definition as show_doc has it: a patched method belongs to its class."
    patched = any("patch" in ast.dump(d) for d in node.decorator_list)
    if not patched or not node.args.args or node.args.args[0].annotation is None: return node.name
    return f"{ast.unparse(node.args.args[0].annotation)}.{node.name}"


def split_definitions(source):
    "(definition or None, code) in order: each public definition with what belongs to it."
    nodes = ast.parse(source).body
    lines = source.split("\n")
    named = [n for n in nodes if isinstance(n, (ast.FunctionDef, ast.ClassDef))
             and not n.name.startswith("_")]
    starts, end = [], 0
    for node in nodes: # comments and decorators above a definition are its own
        if node in named: starts.append(end)
        end = node.end_lineno
    if not named: return [(None, source)]
    starts[0] = 0
    return [(node, "\n".join(lines[start:stop]).strip("\n"))
            for node, start, stop in zip(named, starts, starts[1:] + [len(lines)])]


def members(node):
    "Public methods and fields of a class."
    if not isinstance(node, ast.ClassDef): return ()
    names = [n.name for n in node.body if isinstance(n, ast.FunctionDef)]
    names += [n.target.id for n in node.body if isinstance(n, ast.AnnAssign)]
    return tuple(n for n in names if not n.startswith("_"))


def is_exported_source(cell):
    "Whether nbdev shows the code of an exported cell here."
    said = cell_options(text(cell["source"])).get("code-summary")
    return cell["cell_type"] == "code" and said == "Exported source"


def read_parts(cells):
    "The parts of a page, from the cells that nbdev made."
    docs = {doc.name: doc for doc in map(read_doc, cells) if doc}
    shown = set()
    for cell in filter(is_exported_source, cells):
        blocks = split_definitions(without_options(text(cell["source"])))
        shown |= {defined_name(node) for node, _ in blocks if node}
    parts = []
    for cell in cells:
        source, doc = text(cell["source"]), read_doc(cell)
        if "AUTOGENERATED! DO NOT EDIT" in source or cell.get("id") == "next-chapter": continue
        if doc:
            if doc.name not in shown: parts.append(Definition(doc.name, "", doc))
        elif is_exported_source(cell):
            for node, code in split_definitions(without_options(source)):
                if node is None: parts.append(Code(code, {"code-fold": "true"}, []))
                else:
                    name = defined_name(node)
                    parts.append(Definition(name, code, docs.get(name), members(node)))
        elif cell["cell_type"] == "code":
            parts.append(Code(without_options(source), cell_options(source), cell["outputs"]))
        elif source.strip(): parts.append(Markdown(source))
    return parts


def read_page(proc, path):
    "A processed notebook, `path` below the folder `proc`, as a page."
    cells = json.loads((proc / path).read_text(encoding="utf-8"))["cells"]
    front = yaml.safe_load(text(cells[0]["source"]).strip().strip("-")) or {}
    name = page_name(path).with_suffix("").as_posix()
    return Page(path, name, front.get("title", ""), front.get("description", ""),
                read_parts(cells[1:]))


def has_figure(outputs):
    return any(mime.startswith("image/") for out in outputs for mime in out.get("data", {}))


def is_answer(part): return ANSWER.match(part.source) is not None


def is_folded(part):
    "Whether the code of a cell is folded away: imports, helpers, answers, long cells that draw."
    if is_answer(part): return True
    if "code-fold" in part.options: return part.options["code-fold"] == "true"
    lines = [line for line in part.source.splitlines() if line.strip()]
    try: nodes = ast.parse(part.source).body
    except SyntaxError: return False # a shell command
    if nodes and all(isinstance(n, (ast.Import, ast.ImportFrom)) for n in nodes): return True
    return has_figure(part.outputs) and len(lines) > FOLDED_FIGURE_LINES


def prompt(part):
    "What the fold of a cell says."
    if is_answer(part): return ANSWER.match(part.source)[1]
    if has_figure(part.outputs): return "Show the code of this figure"
    return "Show the imports" if re.match(r"(?:import|from) ", part.source) else "Show the helpers"


def minutes(page):
    "Minutes to read a page: its words, the code that is not folded, and its figures."
    words, lines, figures = 0, 0, 0
    for part in page.parts:
        if isinstance(part, Markdown): words += len(re.sub(r"\]\([^)]*\)", "]", part.text).split())
        elif isinstance(part, Definition):
            lines += len([s for s in part.source.splitlines() if s.strip()])
        else:
            figures += has_figure(part.outputs) and not is_answer(part)
            if not is_folded(part): lines += len([s for s in part.source.splitlines() if s.strip()])
    total = words/WORDS_A_MINUTE + lines/CODE_LINES_A_MINUTE + figures*FIGURE_SECONDS/60
    return max(1, round(total))


def exercises(page):
    "(number, kind) of the exercises of a page."
    return [found for part in page.parts if isinstance(part, Markdown)
            for found in EXERCISE.findall(part.text)]


# ---- Markdown of the notebooks as MyST


class Site(NamedTuple):
    "What a page must know of the others."
    url: str # of the published site, which nbdev's links begin with
    repo: str # on GitHub, with the branch's `blob` and `edit`
    minutes: dict # to read a page, by name
    titles: dict # of pages, by name


def label(page, name):
    "What links call a definition: Sphinx's labels have no capitals, and `Step` is not `step`."
    return f"{page}.{'class.' if name[:1].isupper() else ''}{name}".lower()


def link_chapters(md, site):
    "Backticked names of chapters become links, outside of links and code."
    def link(m):
        name = re.sub(r"^\d+[a-zA-Z0-9]*_", "", m[1])
        return f"[`{name}`](/{name}.ipynb)" if name in site.titles else m[0]
    return re.sub(r"(?<![\[`\w])`([\w./]+)`(?![`\]\w])", link, md)


def convert_markdown(md, site):
    "Quarto's Markdown as MyST's; links to the site and between notebooks become the pages'."
    def symbol(m): return f"[`{m[1]}`](#{label(m[2], m[1])})"
    def other(m): return f"](#{label(m[1], m[2])})" if m[2] else f"](/{m[1]}.ipynb)"
    def with_minutes(m):
        name = page_name(Path(m[1].removeprefix("../"))).with_suffix("").as_posix()
        return f"]({m[1]}) ({site.minutes[name]} min)" if name in site.minutes else f"]({m[1]})"
    blocks = re.split(r"(^```.*?^```$)", md, flags=re.S | re.M)
    for k in range(0, len(blocks), 2):
        md = re.sub(r'\{target="_blank"[^}]*\}', "", blocks[k])
        md = re.sub(r"\[`([\w.]+)`\]\(" + re.escape(site.url) + r"/([^)#\s]+?)\.html#[^)\s]+\)",
                    symbol, md)
        md = re.sub(r"\]\(" + re.escape(site.url) + r"/([^)#\s]+?)\.html(?:#([^)\s]+))?\)",
                    other, md)
        md = re.sub(r"\]\(([^)\s]+\.ipynb)\)\{\.minutes\}", with_minutes, md)
        md = re.sub(r"\]\(((?:[^)\s/:]+/)*)\d+[a-zA-Z0-9]*_([^)\s/:]+\.ipynb)", r"](\1\2", md)
        md = re.sub(r"\$\$\s*\{#(eq-[\w-]+)\}", r"$$ (\1)", md)
        md = re.sub(r"(?<![\w`@])@(eq-[\w-]+)", r"{eq}`\1`", md)
        md = re.sub(r"(?<![\w`@])@((?:fig|tbl)-[\w-]+)", r"{ref}`\1`", md)
        md = re.sub(r"^(:{3,}) *\{\.callout-(\w+)[^}]*\}", r"\1{\2}", md, flags=re.M)
        blocks[k] = link_chapters(md, site)
    return "".join(blocks)


def markdown_cell(source): return {"cell_type": "markdown", "metadata": {}, "source": source}


def code_cell(source, outputs=(), **metadata):
    return {"cell_type": "code", "execution_count": None, "metadata": metadata,
            "source": source, "outputs": list(outputs)}


def convert_code(part):
    "A code cell with MyST-NB's tags and metadata in place of Quarto's options."
    options = part.options
    tags = [tag for key, value, tag in (("echo", "false", "remove-input"),
                                        ("output", "false", "remove-output"),
                                        ("include", "false", "remove-cell"))
            if options.get(key) == value]
    meta = {}
    if is_folded(part) and "remove-input" not in tags:
        tags.append("hide-cell" if is_answer(part) else "hide-input")
        meta |= {"code_prompt_show": options.get("code-summary", prompt(part)),
                 "code_prompt_hide": "Hide"}
    figure = {"caption": options.get("fig-cap"), "name": options.get("label")}
    if any(figure.values()): meta["figure"] = {k: v for k, v in figure.items() if v}
    if "fig-alt" in options: meta["image"] = {"alt": options["fig-alt"]}
    return code_cell(ANSWER.sub("", part.source, count=1), part.outputs, tags=tags, mystnb=meta)


def split_parameters(line):
    "The parameters of a line; commas inside of brackets and quotes belong to them."
    found, depth, quote = [""], 0, ""
    for c in line:
        if quote: quote = "" if c == quote else quote
        elif c in "'\"": quote = c
        else: depth += (c in "([{") - (c in ")]}")
        if c == "," and depth == 0 and not quote: found.append("")
        else: found[-1] += c
    return [p.strip() for p in found if p.strip()]


def short_default(parameter):
    "A parameter whose long default, if it is a call, is cut: `config:Config=Config(...)`."
    call = re.search(r"=([A-Za-z_][\w.]*)\(.*\)$", parameter, flags=re.S)
    if not call or len(call[0]) <= DEFAULT_COLUMNS: return parameter
    return f"{parameter[:call.start()]}={call[1]}(...)"


def tidy_signature(signature):
    "A signature whose long lines of parameters are one line for each."
    lines = []
    for line in signature.split("\n"):
        if len(line) <= SIGNATURE_COLUMNS or not line.startswith("    "): lines.append(line)
        else: lines += [f"    {short_default(p)}," for p in split_parameters(line)]
    return "\n".join(lines)


def convert_definition(part, page, site):
    "Anchor and source link, the code once, and the table folded below."
    doc = part.doc or Doc(part.name, "", "", "", "")
    head = [f"```{{definition}} {part.name}", f":page: {page.name}"]
    head += [f":source: {doc.url}"] if doc.url else []
    head += [f":members: {','.join(part.members)}"] if part.members else []
    yield markdown_cell("\n".join([*head, "```"]))
    yield code_cell(part.source or tidy_signature(doc.signature), tags=["definition"])
    below = [doc.says] if doc.says and not part.source else []
    if doc.table:
        what = "Fields" if "class " in doc.signature[:6] else "Parameters"
        below += [f'<details class="parameters"><summary>{what} of <code>{part.name}</code>'
                  "</summary>", doc.table, "</details>"]
    if below: yield markdown_cell(convert_markdown("\n\n".join(below), site))


def page_head(page, site):
    "Title, sentence, and a line with the minutes and where the page is written."
    source = f"nbs/{page.source.as_posix()}"
    n = len(exercises(page))
    line = [f"{minutes(page)} min to read", *([f"{n} exercises"] if n else []),
            f'<a href="{site.repo}/blob/main/{source}">{source}</a>']
    says = f"*{page.says}*\n\n" if page.says else ""
    if page.name == "index": return f"# {page.title}\n\n{says}"
    spans = " ".join(f"<span>{item}</span>" for item in line)
    head = f'<p class="page-line">{spans}</p>'
    return f"# {page.title}\n\n{says}{head}"


def to_notebook(page, site):
    "A page as the notebook that MyST-NB renders."
    cells = [markdown_cell(page_head(page, site))]
    for part in page.parts:
        if isinstance(part, Markdown):
            cells.append(markdown_cell(convert_markdown(part.text, site)))
        elif isinstance(part, Code): cells.append(convert_code(part))
        else: cells += convert_definition(part, page, site)
    for k, cell in enumerate(cells): cell["id"] = f"cell{k}"
    kernel = {"display_name": "python3", "language": "python", "name": "python3"}
    return {"cells": cells, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}


# ---- Markdown copies, for machines and for whoever likes text


def plain_outputs(outputs):
    "What a cell printed, as Markdown."
    for out in outputs:
        data = out.get("data", {})
        if has_figure([out]) or out.get("name") == "stderr": continue
        if "text/markdown" in data: yield text(data["text/markdown"])
        else:
            said = text(out.get("text", data.get("text/plain", ""))).rstrip()
            if said: yield f"```text\n{said}\n```"


def plain_part(part):
    "A part of a page as blocks of Markdown."
    if isinstance(part, Markdown): yield part.text
    elif isinstance(part, Definition): yield f"```python\n{part.source or part.doc.signature}\n```"
    else:
        yield f"```python\n{part.source.strip()}\n```"
        yield from plain_outputs(part.outputs)
        words = part.options.get("fig-alt") or part.options.get("fig-cap")
        if has_figure(part.outputs) and words: yield f"*Figure: {words}*"


def to_markdown(page, site):
    "A page as plain Markdown; its links lead to the other copies."
    blocks = [f"# {page.title}", page.says]
    blocks += [block for part in page.parts for block in plain_part(part)]
    md = "\n\n".join(block.strip() for block in blocks if block.strip()) + "\n"
    md = re.sub(r'\{target="_blank"[^}]*\}|(?<=\))\{\.minutes\}', "", md)
    md = re.sub(r"\]\(((?:[^)\s/:]+/)*)(?:\d+[a-zA-Z0-9]*_)?([^)\s/:]+)\.ipynb", r"](\1\2.md", md)
    return re.sub(re.escape(site.url) + r"/([^)#\s]+?)\.html", rf"{site.url}/\1.md", md)
