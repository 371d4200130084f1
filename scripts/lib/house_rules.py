"""Check the rules of the house that ruff and mypy do not know. Usage: house_rules.py ROOT.

Files stay short, imports go one way, object modules do not import each other, only the command
line prints, and everything that a wheel needs is declared in pyproject.toml.
"""

import ast
import fnmatch
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

MAX_LINES = 500
# One target that sets up everything a kernel view shows reads best in one piece.
MAX_TARGET_LINES = 700
SOURCE_SUFFIXES = {".py", ".c", ".h", ".S", ".sh"}

# host, arch <- objects <- plan, tape, image <- snapshot, restore, debug <- commands <- cli
LAYERS = {
    "ckpt.errors": 0,
    "ckpt.host": 1,
    "ckpt.arch": 1,
    "ckpt.bpf": 1,
    "ckpt.objects": 2,
    "ckpt.plan": 3,
    "ckpt.tape": 3,
    "ckpt.image": 3,
    "ckpt.freeze": 4,
    "ckpt.verify": 4,
    "ckpt.snapshot": 4,
    "ckpt.reissue": 4,
    "ckpt.restore": 4,
    "ckpt.restorer": 4,
    "ckpt.target": 4,
    "ckpt.debug": 4,
    "ckpt": 5,
    "ckpt.commands": 5,
    "ckpt.cli": 6,
}
OUTPUTS = {"print", "sys.stdout", "sys.stderr"}
# Bytes for another process, and questions about the stream, are not printing.
NO_TEXT = {"buffer", "fileno", "isatty"}
MAY_PRINT = ("ckpt.cli", "ckpt.commands", "ckpt.__main__", "ckpt.debug.__main__")
# A module of ckpt.objects that defines one of these is an object module; others are shared.
OBJECT_PROTOCOL = {"RECORDS", "survey", "plan"}


def modules(root: Path) -> Iterator[tuple[str, Path]]:
    """Yield every module of the package by the name that it is imported by."""
    for folder, prefix in (("ckpt", "ckpt"), ("arch", "ckpt.arch"), ("bpf", "ckpt.bpf")):
        for path in sorted((root / folder).rglob("*.py")):
            parts = path.relative_to(root / folder).with_suffix("").parts
            yield ".".join([prefix, *(p for p in parts if p != "__init__")]), path


def layer(module: str) -> int | None:
    """Return the layer of the longest listed package that the module is in."""
    name = module
    while name not in LAYERS and "." in name:
        name = name.rpartition(".")[0]
    known = name in LAYERS and (name != "ckpt" or module == "ckpt")
    return LAYERS[name] if known else None


def imported(tree: ast.AST, package: str) -> Iterator[tuple[int, str]]:
    """Yield (line, module) of every ckpt module that is imported anywhere in the file."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, a.name) for a in node.names if a.name.startswith("ckpt"))
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, *filter(None, [node.module])])
            if base.split(".")[0] == "ckpt":
                yield from ((node.lineno, f"{base}.{a.name}") for a in node.names)


def prints(tree: ast.AST) -> Iterator[int]:
    """Yield the line of every use of print, sys.stdout and sys.stderr for text."""
    attributes = [n for n in ast.walk(tree) if isinstance(n, ast.Attribute)]
    no_text = {id(n.value) for n in attributes if n.attr in NO_TEXT}
    for node in ast.walk(tree):
        if not isinstance(node, ast.Name | ast.Attribute) or id(node) in no_text:
            continue
        if ast.unparse(node) in OUTPUTS:
            yield node.lineno


def is_object_module(tree: ast.Module) -> bool:
    """Return whether the module is about one kernel object, by what stands at its top level."""
    names = set()
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            names.add(node.name)
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names.add(node.target.id)
        elif isinstance(node, ast.Assign):
            names.update(t.id for t in node.targets if isinstance(t, ast.Name))
    return bool(names & OBJECT_PROTOCOL)


class Checker:
    """Collects the complaints of all checks over one tree."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.modules = dict(modules(root))
        self.trees = {m: ast.parse(p.read_text(), str(p)) for m, p in self.modules.items()}
        self.complaints: list[str] = []

    def complain(self, path: Path, line: int, text: str) -> None:
        """Note one breach of a rule, once."""
        complaint = f"{path.relative_to(self.root)}:{line}: {text}"
        if complaint not in self.complaints:
            self.complaints.append(complaint)

    def check_lengths(self) -> None:
        """Complain about files that have outgrown one noun."""
        for folder in ("ckpt", "arch", "bpf", "tests", "scripts"):
            for path in sorted((self.root / folder).rglob("*")):
                if path.suffix not in SOURCE_SUFFIXES or "__pycache__" in path.parts:
                    continue
                count = len(path.read_text().splitlines())
                allowed = MAX_TARGET_LINES if path.parent.name == "programs" else MAX_LINES
                if count > allowed:
                    self.complain(path, count, f"{count} lines; {allowed} are allowed")

    def resolve(self, name: str) -> str:
        """Return the module that an imported name lives in."""
        return name if name in self.modules else name.rpartition(".")[0]

    def check_imports(self) -> None:
        """Complain about imports against the direction of the layers."""
        objects = {
            m
            for m, tree in self.trees.items()
            if m.startswith("ckpt.objects.") and is_object_module(tree)
        }
        for module, path in self.modules.items():
            own = layer(module)
            if own is None:
                self.complain(path, 1, f"{module} has no layer; add it to LAYERS or move it")
                continue
            package = module if path.name == "__init__.py" else module.rpartition(".")[0]
            for line, name in imported(self.trees[module], package):
                target = self.resolve(name)
                above = layer(target)
                if above is not None and above > own and target != "ckpt":
                    self.complain(path, line, f"{module} imports {target}, which is above it")
                if module in objects and target in objects and target != module:
                    self.complain(path, line, f"object module imports object module {target}")

    def check_printing(self) -> None:
        """Complain about output from anything but the command line."""
        for module, path in self.modules.items():
            if not module.startswith(MAY_PRINT):
                for line in prints(self.trees[module]):
                    self.complain(path, line, "only ckpt/cli.py and the commands print")

    def check_packaging(self) -> None:
        """Complain about packages and data files that a wheel would leave out."""
        path = self.root / "pyproject.toml"
        tool = tomllib.loads(path.read_text())["tool"]["setuptools"]
        declared, data = set(tool["packages"]), tool["package-data"]
        for module, source in self.modules.items():
            if source.name == "__init__.py" and module not in declared:
                self.complain(path, 1, f"package {module} is not in packages")
        for folder, prefix in (("ckpt", "ckpt"), ("arch", "ckpt.arch"), ("bpf", "ckpt.bpf")):
            for file in sorted((self.root / folder).rglob("*")):
                if file.suffix not in {".S", ".c", ".h"}:
                    continue
                package = ".".join([prefix, *file.parent.relative_to(self.root / folder).parts])
                if not any(fnmatch.fnmatch(file.name, p) for p in data.get(package, [])):
                    self.complain(path, 1, f"{file.name} of {package} is not in package-data")


def main() -> int:
    """Run every check and print one line a complaint."""
    checker = Checker(Path(sys.argv[1]).resolve())
    checker.check_lengths()
    checker.check_imports()
    checker.check_printing()
    checker.check_packaging()
    for complaint in checker.complaints:
        print(complaint)
    print(f"house rules: {len(checker.complaints)} complaints, {len(checker.modules)} modules")
    return 1 if checker.complaints else 0


if __name__ == "__main__":
    sys.exit(main())
