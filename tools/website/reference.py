"""The page with every public name, its first sentence and the place where it is explained."""
import ast
import re
from pathlib import Path
from typing import NamedTuple

from .convert import label


class Name(NamedTuple):
    "A public name of the package."
    name: str
    says: str # the first sentence of its docstring, or the comment beside a constant
    methods: tuple # public methods of a class


class Module(NamedTuple):
    "A module of the package."
    name: str # dotted, without the package
    says: str
    names: list # of Name


def first_sentence(doc):
    "The first sentence of a docstring in one line."
    line = " ".join((doc or "").split())
    return re.split(r"(?<=[.!?])\s+(?=[A-Z`\"])", line)[0]


def beside(lines, node):
    "The comment at the end of a statement's first line."
    line = lines[node.lineno - 1]
    return line.split(" # ", 1)[1].strip() if " # " in line else ""


def public_names(tree, lines):
    "The names that a module exports, in the order of its text."
    exported = next((ast.literal_eval(n.value) for n in tree.body if isinstance(n, ast.Assign)
                     and ast.unparse(n.targets[0]) == "__all__"), [])
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and node.name in exported:
            inside = node.body if isinstance(node, ast.ClassDef) else []
            methods = [m.name for m in inside if isinstance(m, ast.FunctionDef)]
            public = tuple(m for m in methods if not m.startswith("_") and m != "forward")
            yield Name(node.name, first_sentence(ast.get_docstring(node)), public)
        elif isinstance(node, ast.Assign):
            for target in ast.walk(node.targets[0]):
                if isinstance(target, ast.Name) and target.id in exported:
                    yield Name(target.id, beside(lines, node), ())


def read_module(path, package):
    "A module of the package with its public names."
    source = path.read_text(encoding="utf-8")
    tree = ast.parse(source)
    name = ".".join(path.relative_to(package).with_suffix("").parts)
    return Module(name, first_sentence(ast.get_docstring(tree)),
                  list(public_names(tree, source.splitlines())))


def top_names(package):
    "The names that `import litevae_diffae` gives, with their modules."
    tree = ast.parse((package / "__init__.py").read_text(encoding="utf-8"))
    table = next(n.value for n in tree.body if isinstance(n, ast.Assign)
                 and ast.unparse(n.targets[0]) == "_names")
    return {name: module for module, names in ast.literal_eval(table).items() for name in names}


def row(entry, module, labels, shown=None):
    "A name as an item of the list: name, sentence, methods."
    target = label(module, entry.name)
    text = f"`{shown or entry.name}`"
    link = f"[{text}](#{target})" if target in labels else text
    methods = f" Methods: {', '.join(f'`{m}`' for m in entry.methods)}." if entry.methods else ""
    return f"{link}\n: {entry.says or 'A constant.'}{methods}\n"


def reference_page(package, pages, labels):
    """The page as Markdown.

    `pages` are the pages of the modules in reading order; `labels` the names that have a place."""
    modules = {}
    for path in sorted(Path(package).rglob("*.py")):
        if path.name.startswith("_") and path.name != "_showdoc.py": continue
        module = read_module(path, package)
        modules[module.name.lstrip("_")] = module
    top = top_names(package)
    blocks = ["---\nnosearch: true\n---", "# Every public name",
              "*What the package exports, with its first sentence; a name leads to the chapter "
              "that builds it.*", "## From the package itself",
              "`from litevae_diffae import ...`; each name is loaded when it is asked for."]
    for name, home in sorted(top.items()):
        found = [(key, n) for key, m in modules.items() for n in m.names if n.name == name]
        found.sort(key=lambda pair: pair[0] != home)
        if found: blocks.append(row(found[0][1], found[0][0], labels))
    for page in pages:
        module = modules.get(page)
        if module is None or not module.names: continue
        blocks += [f"## litevae_diffae.{module.name}",
                   f"{module.says} [The chapter](/{page}.ipynb)"]
        blocks += [row(entry, page, labels) for entry in module.names]
    return "\n\n".join(blocks) + "\n"
