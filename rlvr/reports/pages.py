"""One self-contained HTML page: the figures are inside it, and it fetches nothing."""

import base64
import html
from collections.abc import Sequence

# Colours follow the reader's light or dark mode, as the figures do.
_STYLE = """
:root{color-scheme:light dark;--ink:#1f2328;--soft:#57606a;--line:#e1e4e8;--page:#fff;
--card:#f6f8fa;--accent:#0072b2}
@media(prefers-color-scheme:dark){:root{--ink:#e6e8eb;--soft:#98a1ad;--line:#2d333b;
--page:#161a20;--card:#1d232b;--accent:#5aa9e6}}
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--ink);
font:16px/1.6 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif}
main{max-width:1120px;margin:0 auto;padding:40px 24px 80px}
h1{font-size:30px;line-height:1.25;margin:0 0 6px;letter-spacing:-.01em}
h2{font-size:21px;margin:52px 0 10px;padding-top:18px;border-top:1px solid var(--line)}
p{max-width:74ch;margin:10px 0}.lead{font-size:17.5px}.sub{color:var(--soft);margin:0 0 22px;
overflow-wrap:anywhere}
.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(215px,1fr));gap:14px;
margin:26px 0}
.card{background:var(--card);border-radius:12px;padding:16px 18px}
.card b{display:block;font-size:27px;line-height:1.2;letter-spacing:-.01em;
font-variant-numeric:tabular-nums}
.card span{color:var(--soft);font-size:14px;line-height:1.45;display:block;margin-top:4px}
.card em{display:block;font-style:normal;font-size:14px;margin-top:8px}
figure{margin:18px 0 0}figure img{width:100%;height:auto;display:block;border-radius:8px}
dl.read{display:grid;grid-template-columns:max-content 1fr;gap:4px 16px;margin:12px 0 0;
max-width:84ch}
dl.read dt{color:var(--soft);font-size:14.5px}dl.read dd{margin:0}
.scroll{overflow-x:auto;margin-top:12px}
table{border-collapse:collapse;font-size:14px;font-variant-numeric:tabular-nums;width:100%}
th,td{padding:5px 7px;text-align:right;border-bottom:1px solid var(--line);white-space:nowrap}
th{color:var(--soft);font-weight:600;vertical-align:bottom;white-space:normal;line-height:1.3}
th:first-child,td:first-child{text-align:left}
table.sort th{cursor:pointer}table.sort th:hover{color:var(--accent)}
details{margin-top:14px}summary{cursor:pointer;color:var(--accent)}
table.text td,table.text th{text-align:left;white-space:normal;vertical-align:top}
code{font:13.5px/1.5 ui-monospace,SFMono-Regular,Menlo,Consolas,monospace}
@media print{details{display:block}}
"""
# A second click on a title reverses; the number in data-v wins over the shown text.
_SORT = """
document.querySelectorAll("table.sort").forEach(t=>{t.querySelectorAll("th").forEach((h,i)=>{
h.addEventListener("click",()=>{const up=h.dataset.up=h.dataset.up==="1"?"0":"1";
const key=r=>{const c=r.cells[i],v=parseFloat(c.dataset.v??c.textContent);
return isNaN(v)?c.textContent:v};
[...t.tBodies[0].rows].sort((a,b)=>{const x=key(a),y=key(b);
const d=typeof x==="number"&&typeof y==="number"?x-y:String(x).localeCompare(String(y));
return up==="1"?d:-d}).forEach(r=>t.tBodies[0].append(r))})})});
"""


def text(words: object) -> str:
    # Names of arms and folders are a user's text.
    return html.escape(str(words))


def paragraph(words: str, kind: str = "") -> str:
    return f'<p class="{kind}">{text(words)}</p>' if kind else f"<p>{text(words)}</p>"


def heading(words: str) -> str:
    return f"<h2>{text(words)}</h2>"


def cards(items: Sequence[tuple[str, str, str]]) -> str:
    """Return a row of large numbers: (number, what it is, what to compare it with)."""
    # Each number comes with what to compare it with: by itself it says nothing.
    parts = (
        f'<div class="card"><b>{text(number)}</b><span>{text(what)}</span>'
        f"<em>{text(against)}</em></div>"
        for number, what, against in items
    )
    return f'<div class="cards">{"".join(parts)}</div>'


def figure(images: dict[str, bytes], alternative: str, reading: dict[str, str]) -> str:
    """Return a figure in light and dark, and under it how it is read: (term, words)."""
    # Inside the page, so that it can be moved and mailed as one file.
    light, dark = (
        "data:image/png;base64," + base64.b64encode(images[theme]).decode()
        for theme in ("light", "dark")
    )
    terms = "".join(f"<dt>{text(t)}</dt><dd>{text(words)}</dd>" for t, words in reading.items())
    return (
        f'<figure><picture><source media="(prefers-color-scheme: dark)" srcset="{dark}">'
        f'<img alt="{text(alternative)}" src="{light}"></picture></figure>'
        f'<dl class="read">{terms}</dl>'
    )


def table(
    titles: Sequence[str], rows: Sequence[Sequence[tuple[str, float | None]]], *, kind: str = "sort"
) -> str:
    """Return a table of cells (text, number to sort by); a click on a title sorts."""
    head = "".join(f"<th>{text(title)}</th>" for title in titles)
    body = "".join(
        f"<tr>{''.join(_cell(words, value) for words, value in row)}</tr>" for row in rows
    )
    return (
        f'<div class="scroll"><table class="{kind}"><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _cell(words: str, value: float | None) -> str:
    # Text such as "1.2e-3 [..]" does not sort by itself; the script reads the number instead.
    number = "" if value is None else f' data-v="{value!r}"'
    return f"<td{number}>{text(words)}</td>"


def details(summary: str, inside: str) -> str:
    return f"<details><summary>{text(summary)}</summary>{inside}</details>"


def page(title: str, subtitle: str, parts: Sequence[str]) -> str:
    """Return the whole document."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{text(title)}</title><style>{_STYLE}</style></head><body><main>"
        f'<h1>{text(title)}</h1><p class="sub">{text(subtitle)}</p>'
        + "\n".join(parts)
        + f"</main><script>{_SORT}</script></body></html>\n"
    )
