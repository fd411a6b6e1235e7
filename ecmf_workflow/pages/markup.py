"""Safe HTML: whatever comes from data is text, and nothing points outside the page."""

from __future__ import annotations

import ast
import html
import io
import re
import tokenize
from functools import lru_cache
from typing import Any

import mistune
import nh3
from bs4 import BeautifulSoup, Tag
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer

from ecmf_utils.files import data_uri

TAGS = set(
    "a abbr audio b blockquote br caption code col colgroup dd del details div dl dt em figcaption "
    "figure h2 h3 h4 h5 hr i img li ol p pre s small source span strong sub summary sup table "
    "tbody td tfoot th thead tr u ul video".split()
)
ATTRIBUTES = {
    "*": {"class", "title", "style"},
    "a": {"href"},
    "audio": {"controls", "src"},
    "video": {"controls", "preload", "src", "width"},
    "col": {"span"},
    "details": {"open"},
    "img": {"src", "alt", "width", "height"},
    "source": {"src", "type"},
    "td": {"colspan", "rowspan"},
    "th": {"colspan", "rowspan", "scope"},
}
# no `background` or `content`: both may name a file
STYLES = {"background-color", "color", "font-weight", "text-align", "width", "white-space"}
MEDIA = re.compile(r"data:(image/(png|jpeg|gif)|(audio|video)/[\w.+-]+);base64,")  # media that the page itself holds
NUMBER = re.compile(r"[-+−]?[\d,.\s]*\d(?:e[-+]?\d+)?\s*(?:%|s|min|ms|MB|KB)?(?:\s*±.*)?|nan|NaN|<NA>|–|")
ABSENT = re.compile(r"^\s*(NaN|<NA>)\s*$")  # what pandas writes where there is nothing
SHORT_NAME = 25  # letters of the name of a row that stay in one line
ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


class _Renderer(mistune.HTMLRenderer):
    """Markdown as HTML: raw HTML is shown as text, links and pictures stay inside the page."""

    def link(self, text: str, url: str, title: str | None = None) -> str:
        if url.startswith("#") or re.fullmatch(r"[\w.-]+\.html(#[\w-]*)?", url):
            return super().link(text, url, title)
        shown = html.escape(re.sub(r"^\w+://", "", url))
        return text if shown in text else f'{text} <span class="address">({shown})</span>'

    def image(self, text: str, url: str, title: str | None = None) -> str:
        if re.match(r"data:image/(png|jpeg|gif);base64,", url):
            return super().image(text, url, title)
        return f'<span class="address">[{text}]</span>'

    def heading(self, text: str, level: int, **attrs: Any) -> str:
        return f'<h{level} id="{anchor(text)}">{text}</h{level}>\n'


def anchor(text: str) -> str:
    """The id of a heading, from its HTML."""
    plain = html.unescape(re.sub(r"<[^>]+>", "", text)).lower()
    return re.sub(r"\W+", "-", plain).strip("-") or "section"


def markdown(source: str) -> str:
    """Markdown, from us or from data, as safe HTML."""
    render = mistune.create_markdown(renderer=_Renderer(escape=True), plugins=["strikethrough", "table", "def_list"])
    return arrange_tables(render(source))


def clean(source: str) -> str:
    """HTML that a cell put out, without scripts, styles, handlers or anything that loads a file."""
    safe = nh3.clean(
        source,
        tags=TAGS,
        clean_content_tags={"script", "style"},
        attributes=ATTRIBUTES,
        attribute_filter=_keep_inside,
        filter_style_properties=STYLES,
        url_schemes={"data"},
        link_rel=None,
    )
    return arrange_tables(re.sub(r"<(img|source)(?![^>]*\ssrc=)[^>]*>", "", safe))


def _keep_inside(tag: str, name: str, value: str) -> str | None:
    """The value of an attribute, or None where it leads out of the page."""
    leads_out = (name == "src" and not MEDIA.match(value)) or (name == "href" and not value.startswith("#"))
    return None if leads_out else value


def arrange_tables(source: str) -> str:
    """Tables as a reader wants them: numbers to the right, a dash for nothing, one row of heads; wide ones scroll."""
    if "<table" not in source:
        return source
    soup = BeautifulSoup(source, "html.parser")
    for table in soup.find_all("table"):
        _join_heads(table)
        _align_numbers(table)
        for name in table.select("tbody th:not(.num)"):
            if len(name.get_text()) <= SHORT_NAME:
                name["class"] = [*name.get("class", []), "name"]
        for cell in table.select("th.num, tbody th:not(.name), td code"):
            _let_break(soup, cell)
        for cell in table.find_all("td", string=ABSENT):
            cell.string = "–"
        table.wrap(soup.new_tag("div", attrs={"class": "scroll"}))
    return str(soup)


def _join_heads(table: Tag) -> None:
    """One row of heads instead of two: pandas sets the names of the index below those of the columns."""
    rows = [row.find_all("th") for row in table.select("thead tr")]
    if len(rows) != 2 or len(rows[0]) != len(rows[1]) or table.select("thead [colspan], thead [rowspan]"):
        return
    said = [[cell.get_text().strip() for cell in row] for row in rows]
    if any(above and below for above, below in zip(*said, strict=True)):
        return
    lower = rows[1][0].parent
    for above, below, name in zip(*rows, said[1], strict=True):
        if name:
            above.replace_with(below.extract())
    lower.decompose()


def _let_break(soup: BeautifulSoup, cell: Tag) -> None:
    """A name may break where its parts meet (`seed_mean`, `scene+face`, `data/demo`) if the table has no room."""
    parts = re.split(r"(?<=[_+/])(?=\w)", cell.string or "")
    if len(parts) > 1:
        cell.clear()
        for part in parts[:-1]:
            cell.extend([part, soup.new_tag("wbr")])
        cell.append(parts[-1])


def _align_numbers(table: Tag) -> None:
    """Mark the columns that hold numbers only (class `num`)."""
    rows = [row.find_all(["td", "th"]) for row in table.find_all("tr")]
    body = [row for row in rows if any(cell.name == "td" for cell in row)]
    width = max((len(row) for row in body), default=0)
    for column in range(1, width + 1):  # from the right: a cell over several rows shortens those below it
        cells = [row[-column] for row in body if len(row) >= column]
        texts = [cell.get_text().strip() for cell in cells]
        if any(texts) and all(NUMBER.fullmatch(text) for text in texts):
            heads = [row[-column] for row in rows if row not in body and len(row) == width]
            for cell in (*cells, *heads):
                cell["class"] = [*cell.get("class", []), "num"]
                del cell["style"]


def code(source: str) -> str:
    """Python source, coloured."""
    return highlight(source, PythonLexer(), HtmlFormatter(nowrap=True))


@lru_cache
def code_css() -> str:
    """The colours of `code`."""
    return HtmlFormatter(style="friendly").get_style_defs(".code")


def unquoted(text: str) -> str:
    """What a cell says in a sentence, without the quotes of a Python string."""
    try:
        value = ast.literal_eval(text) if text[:1] in "'\"" else None
    except (SyntaxError, ValueError):
        value = None
    return value if isinstance(value, str) else text


def console(text: str) -> str:
    """Terminal output as text, without its colour codes."""
    return html.escape(ANSI.sub("", text))


def svg_uri(source: str) -> str:
    """An SVG as an image, in which scripts do not run."""
    return data_uri("".join(source).encode(), "image/svg+xml")


def parameter_rows(source: str, given: dict[str, Any]) -> list[dict[str, Any]]:
    """The parameters cell as rows of name, value, default, changed and remark."""
    remarks = {}
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT and token.line.strip() != token.string.strip():
            remarks[token.start[0]] = token.string.lstrip("# ")
    rows = []
    for name, default, line in assignments(source):
        value = given.get(name, default)
        row = {"name": name, "value": value, "default": default, "changed": value != default}
        rows.append({**row, "remark": remarks.get(line, "")})
    return rows


def assignments(source: str) -> list[tuple[str, Any, int]]:
    """Name, literal value and last line of each top-level assignment."""
    found = []
    for node in ast.parse(source).body:
        targets = getattr(node, "targets", [getattr(node, "target", None)])
        if isinstance(node, ast.Assign | ast.AnnAssign) and isinstance(targets[0], ast.Name):
            try:
                value = ast.literal_eval(node.value)
            except (ValueError, TypeError):
                value = ast.unparse(node.value) if node.value else None
            found.append((targets[0].id, value, node.end_lineno))
    return found
