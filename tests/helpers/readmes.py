"""Reads the READMEs: their blocks, spans, links and tables, and finds errors in them."""

import ast
import os
import re
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from pathlib import Path

import cnn
from helpers.command_lines import OPTIONS, commands, problem

ROOT = Path(__file__).resolve().parents[2]

FOREIGN = {"--mpi"}
"""Options in the text that belong to other programs."""

SKIP = re.compile(r"<!-- not run: (.+) -->")
FOLDERS = ("cnn/", "backends/", "datasets/", "tests/", "bench/", ".ci/")


@dataclass(frozen=True)
class Block:
    """A block of code: its language ("" if it is indented), its text, and the reason if it is not run."""

    language: str
    text: str
    not_run: str | None = None


class Readme:
    """One README, of the project in `root`."""

    def __init__(self, path: Path, root: Path = ROOT) -> None:
        self.path, self.root = path, root
        self.name = str(path.relative_to(root))
        self.text = path.read_text(encoding="utf-8")

    @cached_property
    def _parts(self) -> tuple[list[Block], list[str]]:
        """The blocks, and the lines outside them."""
        blocks, prose, lines = [], [], self.text.splitlines()
        place = 0
        while place < len(lines):
            line, start = lines[place], place
            if line.startswith("```"):
                place = lines.index("```", place + 1)
                comment = SKIP.fullmatch(lines[start - 1]) if start else None
                text = "\n".join(lines[start + 1 : place])
                blocks.append(Block(line[3:].strip(), text, comment and comment[1]))
            elif line.startswith("    ") and not lines[place - 1].strip():
                while place + 1 < len(lines) and lines[place + 1].startswith("    "):
                    place += 1
                blocks.append(Block("", "\n".join(each[4:] for each in lines[start : place + 1])))
            else:
                prose.append(line)
            place += 1
        return blocks, prose

    def blocks(self, *languages: str) -> list[Block]:
        """The blocks in those languages."""
        return [block for block in self._parts[0] if block.language in languages]

    @property
    def prose(self) -> str:
        """The text without its blocks."""
        return "\n".join(self._parts[1])

    @property
    def spans(self) -> list[str]:
        """Code within the prose."""
        return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", self.prose)]

    @property
    def anchors(self) -> set[str]:
        """The anchors of the headings, as GitHub makes them."""
        found: set[str] = set()
        for title in re.findall(r"^#+ (.+)$", self.prose, re.MULTILINE):
            slug = re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")
            number = next(k for k in range(99) if (f"{slug}-{k}" if k else slug) not in found)
            found.add(f"{slug}-{number}" if number else slug)
        return found

    def tables(self) -> list[list[list[str]]]:
        """Every table as rows of cells, the heading first."""
        found, rows = [], []
        for line in [*self._parts[1], ""]:
            if line.startswith("|"):
                rows.append([cell.strip() for cell in line.strip().strip("|").split("|")])
            elif rows:
                found.append([row for row in rows if not set("".join(row)) <= set("-: ")])
                rows = []
        return found

    def table(self, first: str, number: int = 0) -> dict[str, list[str]]:
        """The cells of a table by the first cell of their row; `number` counts those headed by `first`."""
        chosen = [rows for rows in self.tables() if rows[0][0] == first][number]
        return {row[0]: row[1:] for row in chosen[1:]}

    # ------------------------------------------------------------------------------------------- what is wrong with it

    def wrong_links(self) -> list[str]:
        """Links to missing files or headings."""
        wrong = []
        for target in re.findall(r"!?\[[^\]]*\]\(([^)\s]+)\)", self.prose):
            if re.match(r"\w+:", target):
                continue
            file, _, anchor = target.partition("#")
            path = (self.path.parent / file).resolve() if file else self.path
            inside = path.is_relative_to(self.root.resolve())
            if not inside or not path.exists() or (anchor and anchor not in Readme(path, self.root).anchors):
                wrong.append(f"{self.name} links to {target}")
        return wrong

    def wrong_names(self) -> list[str]:
        """Files, names of the library and options in the prose that do not exist."""
        wrong = []
        for span in self.spans:
            words = span.split()
            if span.startswith(FOLDERS) and len(words) == 1 and not (self.root / span).exists():
                wrong.append(f"{self.name} names the file {span}")
            dotted = re.match(r"cnn(?:\.\w+)+", span)
            if dotted and not exists(dotted[0]):
                wrong.append(f"{self.name} names {dotted[0]}")
            if words[0].startswith("--") and words[0].partition("=")[0] not in OPTIONS | FOREIGN:
                wrong.append(f"{self.name} names the option {words[0]}")
        return wrong

    def wrong_commands(self) -> list[str]:
        """Command lines that the parser rejects, or that name something that does not exist."""
        whole = [words for block in self.blocks("", "sh") for words in commands(block.text)]
        mentioned = [words for span in self.spans for words in commands(span)]
        problems = [(words, problem(words, False)) for words in whole]
        problems += [(words, problem(words, True)) for words in mentioned]
        return [f"{self.name}: cnn {' '.join(words)}: {why}" for words, why in problems if why]

    def wrong_python(self) -> list[str]:
        """Python blocks that do not compile, names that do not exist, and imports that are not from `cnn` itself."""
        wrong = []
        for block in self.blocks("python"):
            try:
                tree = ast.parse(block.text)
            except SyntaxError as error:
                wrong.append(f"{self.name}: {error}")
                continue
            for node in ast.walk(tree):
                if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "cnn":
                    for alias in node.names:
                        if not exists(f"{node.module}.{alias.name}"):
                            wrong.append(f"{self.name} imports {node.module}.{alias.name}")
                        elif node.module != "cnn" and alias.name in cnn.__all__:
                            wrong.append(f"{self.name} imports {alias.name} from {node.module} and not from cnn")
                elif isinstance(node, ast.Attribute) and re.fullmatch(r"cnn(\.\w+)+", used := ast.unparse(node)):
                    wrong += [] if exists(used) else [f"{self.name} uses {used}"]
        return wrong


def readmes(root: Path = ROOT) -> list[Readme]:
    """Every README.md below `root`; hidden folders, builds and virtual environments left out."""
    found = []
    for folder, inner, files in os.walk(root):
        here = Path(folder)
        inner[:] = [
            each
            for each in inner
            if not each.startswith(".") and each != "build" and not (here / each / "pyvenv.cfg").exists()
        ]
        found += [Readme(here / file, root) for file in files if file == "README.md"]
    return sorted(found, key=lambda each: each.name)


def exists(dotted: str) -> bool:
    """Whether a dotted name is a module or something in one."""
    place, *rest = dotted.split(".")
    value = import_module(place)
    for name in rest:
        place = f"{place}.{name}"
        if not hasattr(value, name):
            try:
                import_module(place)
            except ImportError:
                return False
        value = getattr(value, name)
    return True


def documented() -> dict[str, set[str]]:
    """The keys of each JSON output, by its name in the tables of cnn/commands/README.md; `x`+ stands for three keys."""
    readme, found = Readme(ROOT / "cnn/commands/README.md"), {}
    for rows in readme.tables():
        if rows[0][-1] == "keys":
            for first, cell in rows[1:]:
                keys: set[str] = set()
                for key, three in re.findall(r"`(\w+)`(\+?)", cell.partition(", and")[0]):
                    keys |= {key, f"{key}_low", f"{key}_high"} if three else {key}
                names = re.findall(r"`([^`]+)`", first.partition(", a")[0])
                found |= dict.fromkeys(names, keys)
    return found
