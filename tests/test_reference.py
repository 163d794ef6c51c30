"""Every document, section and equation that code, tests and notebooks cite exists.

A citation is a document's name, and after it, if need be, where in the document: `method.md 5.2.1`, `bagel.md sections
2 to 4, 7`, `method.md, equation 4.1`. It may be wrapped over two lines.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
REFERENCE = ROOT / "notebooks" / "reference"
PAGES = sorted(REFERENCE.glob("*.md"))
LONGEST = {"method.md": 470, "bagel.md": 350}  # lines: each page is read in one sitting

GAP = r"[\s#]*"  # a citation in a comment may go on after the next line's mark
NUMBER = r"\d+(?:\.\d+)*"
NUMBERS = rf"{NUMBER}(?:(?:{GAP},{GAP}|{GAP}\b(?:and|to)\b{GAP}){NUMBER})*"
WHERE = rf"(?P<kind>sections?|equations?)\b{GAP}(?P<numbers>{NUMBERS})"
CITATION = re.compile(rf"(?P<file>[\w./-]*\w\.md)\b(?:[`)\]]*{GAP}[,:;]?{GAP}(?:{WHERE}|(?P<bare>\d+(?:\.\d+)+)))?")
OWN = re.compile(rf"\b{WHERE}")


@dataclass(frozen=True)
class Source:
    """A text that may cite: a file, or one cell of a notebook."""

    file: Path
    text: str
    cell: int | None = None

    def place(self, at: int) -> str:
        """Where character number `at` stands, for messages."""
        name = self.file.relative_to(ROOT)
        return f"{name}:{self.text.count(chr(10), 0, at) + 1}" if self.cell is None else f"{name}, cell {self.cell}"


def sources() -> Iterator[Source]:
    """Everything that may cite, but this file: its examples are wrong on purpose."""
    files = [*ROOT.glob("hb/**/*.py"), *ROOT.glob("tests/**/*.py"), *ROOT.glob("tests/**/*.md"), *PAGES]
    files += [ROOT / "README.md", ROOT / "data" / "README.md", *ROOT.glob("notebooks/*.py")]
    for file in sorted(files):
        if file != Path(__file__).resolve():
            yield Source(file, file.read_text())
    for file in sorted(ROOT.glob("notebooks/**/*.ipynb")):
        for number, cell in enumerate(json.loads(file.read_text())["cells"]):
            yield Source(file, "".join(cell["source"]), number)


def find(source: Source, name: str) -> Path | None:
    """The document of this name: beside the source, in the repository, a reference page, or among the results."""
    for folder in (source.file.parent, ROOT, REFERENCE, ROOT / "data" / "results"):
        path = (folder / name).resolve()
        if path.is_file() and path.is_relative_to(ROOT):
            return path
    return None


def single(numbers: str) -> list[str]:
    """Each number of a list: "2 to 4, 7" is 2, 3, 4 and 7; "2.1 to 2.3" is 2.1, 2.2 and 2.3."""
    out = []
    for part in re.split(rf"{GAP},{GAP}|{GAP}\band\b{GAP}", numbers):
        first, *last = re.split(rf"{GAP}\bto\b{GAP}", part)
        head, _, low = first.rpartition(".")
        high = last[0].rpartition(".")[2] if last else low
        out += [f"{head}.{n}".lstrip(".") for n in range(int(low), int(high) + 1)]
    return out


def addresses(page: Path) -> set[tuple[str, str]]:
    """("section", number) of every numbered heading, ("equation", number) of every tagged equation."""
    text = page.read_text()
    sections = re.findall(rf"^#+ ({NUMBER})\.? ", text, re.MULTILINE)
    equations = re.findall(r"\\tag\{([\d.]+)\}", text)
    return {("section", n) for n in sections} | {("equation", n) for n in equations}


def cited(match: re.Match) -> set[tuple[str, str]]:
    """What a citation, or an "equation 4.1" without a document, points to."""
    groups = match.groupdict()
    if groups.get("bare"):
        return {("section", groups["bare"])}
    return {(groups["kind"].rstrip("s"), n) for n in single(groups["numbers"])} if groups["kind"] else set()


def absent_documents(source: Source) -> list[str]:
    """Citations of documents that are not in the repository."""
    matches = CITATION.finditer(source.text)
    return [f"{source.place(m.start())} cites {m['file']}" for m in matches if find(source, m["file"]) is None]


def absent_addresses(source: Source) -> list[str]:
    """Citations of sections and equations that their document does not have."""
    out = []
    matches = list(CITATION.finditer(source.text))
    pairs = [(m, find(source, m["file"])) for m in matches]
    if source.file in PAGES:  # "section 4.1" without a document is the page's own
        inside = [range(*m.span()) for m in matches]
        pairs += [(m, source.file) for m in OWN.finditer(source.text) if not any(m.start() in span for span in inside)]
    for match, page in pairs:
        if page is not None:
            missing = sorted(cited(match) - addresses(page))
            out += [f"{source.place(match.start())}: {page.name} has no {kind} {number}" for kind, number in missing]
    return out


def test_every_cited_section_and_equation_exists():
    wrong = [complaint for source in sources() for complaint in absent_addresses(source)]
    assert not wrong, "\n" + "\n".join(wrong)


def test_every_cited_document_exists():
    wrong = [complaint for source in sources() for complaint in absent_documents(source)]
    assert not wrong, "\n" + "\n".join(wrong)


def test_citations_are_found():
    """Without it a pattern that finds nothing would pass."""
    pages = {
        m["file"]
        for source in sources()
        for m in CITATION.finditer(source.text)
        if source.file not in PAGES and cited(m)
    }
    assert {"method.md", "bagel.md"} <= pages


@pytest.mark.parametrize(
    "text",
    [
        "(method.md 5.2.9)",
        "(method.md, 4.9)",
        "see `method.md`, section 77",
        "method.md equation 4.9",
        "(Peebles & Xie; method.md\n    4.9.9)",
        "# method.md\n# 4.9.9: a comment that goes on",
        "bagel.md sections 2 to 4, 77",
        "bagel.md sections 2 and 77",
        "bagel.md sections 11 to 77",
        "[bagel.md](bagel.md), section 77",
    ],
)
def test_a_wrong_address_is_seen(text):
    assert absent_addresses(Source(ROOT / "hb" / "flow.py", text))


@pytest.mark.parametrize(
    "text", ["(nowhere.md section 7)", "nowhere.md, principle 9", "../design/bagel.md", "../nowhere/method.md 4.1"]
)
def test_a_document_that_is_not_here_is_seen(text):
    assert absent_documents(Source(ROOT / "hb" / "flow.py", text))


@pytest.mark.parametrize(
    "text",
    [
        "(method.md, 4.1)",
        "method.md equation 4.1",
        "bagel.md sections 2 to 4, 7, 8).",
        "bagel.md 49 steps",
        "data/README.md",
    ],
)
def test_a_right_address_is_left_alone(text):
    source = Source(ROOT / "hb" / "flow.py", text)
    assert not absent_addresses(source) + absent_documents(source)


def test_a_page_that_cites_itself_is_checked():
    assert absent_addresses(Source(REFERENCE / "method.md", "as in section 4.9"))
    assert not absent_addresses(Source(REFERENCE / "method.md", "as in section 4.1, and bagel.md section 12"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_is_short(page):
    assert len(page.read_text().splitlines()) <= LONGEST.get(page.name, 350)


def formulas(text: str) -> list[str]:
    """What stands between dollar signs, code left out."""
    text = re.sub(r"```.*?```|`[^`\n]*`", "", text, flags=re.DOTALL)
    return [a or b for a, b in re.findall(r"\$\$(.+?)\$\$|\$([^$]+)\$", text, re.DOTALL)]


def unsafe(formula: str) -> bool:
    """Does Markdown change this formula before it is typeset? Escapes lose their backslash, * and _ can begin
    emphasis."""
    escaped, starred, bracket = r"\\[!-/:-@\[-`{-~]", r"\*", r"[<>|]"
    emphasis = r"(?:^|[^\w\s]|\s)_(?=\w)"
    return bool(re.search("|".join((escaped, starred, bracket, emphasis)), formula))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_formulas_survive_markdown(page):
    text = page.read_text()
    found = formulas(text)
    assert [f for f in found if unsafe(f)] == []
    assert all(f.count("{") == f.count("}") and f.count(r"\left") == f.count(r"\right") for f in found)
    assert re.sub(r"```.*?```|`[^`\n]*`", "", text, flags=re.DOTALL).count("$") % 2 == 0
    for line in text.splitlines():  # a displayed formula is one line of its own
        assert "$$" not in line or (line.startswith("$$ ") and line.endswith(" $$"))


@pytest.mark.parametrize("formula", [r"\{a\}", "a * b", r"\mathrm{E}_t", r"a \, b", "a < b", r"\|v\|", r"a \\ b"])
def test_an_unsafe_formula_is_seen(formula):
    assert unsafe(formula)


def test_the_citation_file_names_this_version_and_the_papers():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()
    assert (citation["cff-version"], citation["title"], citation["license"]) == ("1.2.0", "hb", "Apache-2.0")
    newest = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)[1]
    assert str(citation["version"]) == newest
    assert all({"title", "authors", "type"} <= reference.keys() for reference in citation["references"])
    assert {"2509.18824", "2505.14683"} <= {r["doi"].removeprefix("10.48550/arXiv.") for r in citation["references"]}


def test_the_license_is_apache():
    text = (ROOT / "LICENSE").read_text()
    assert "Apache License" in text and "Version 2.0, January 2004" in text and "END OF TERMS AND CONDITIONS" in text
