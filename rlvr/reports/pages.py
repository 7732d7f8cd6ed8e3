"""One self-contained HTML page: the figures are inside it, and it fetches nothing."""

import base64
import html
from collections.abc import Mapping, Sequence

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
th button{all:unset;cursor:pointer;display:block;width:100%}
th button:hover,th button:focus-visible{color:var(--accent)}
th[aria-sort=ascending] button::after{content:" \25B2"}
th[aria-sort=descending] button::after{content:" \25BC"}
a{color:var(--accent)}
:focus-visible{outline:2px solid var(--accent);outline-offset:2px}
.badges{display:flex;flex-wrap:wrap;gap:8px;margin:14px 0;padding:0;list-style:none}
.badges li{background:var(--card);border:1px solid var(--line);border-radius:999px;
padding:3px 12px;font-size:14px}
.repeat{background:var(--card);border-radius:12px;padding:12px 18px;margin:20px 0}
.repeat code{overflow-wrap:anywhere}
button.copy{font:inherit;font-size:14px;color:var(--accent);background:none;cursor:pointer;
border:1px solid var(--accent);border-radius:8px;padding:2px 12px}
details{margin-top:14px}summary{cursor:pointer;color:var(--accent)}
table.text td,table.text th{text-align:left;white-space:normal;vertical-align:top}
code{font:13.5px/1.5 ui-monospace,SFMono-Regular,Menlo,Consolas,monospace}
@media(max-width:640px){main{padding:24px 16px 60px}dl.read{grid-template-columns:1fr}
dl.read dt{margin-top:6px}figure img{min-width:620px}}
@page{margin:14mm}
@media print{main{max-width:none;padding:0}button.copy{display:none}
details::details-content{content-visibility:visible;display:block}
h2,summary{break-after:avoid}figure,.card,dl.read,tr{break-inside:avoid}
thead{display:table-header-group}.scroll{overflow:visible}figure img{min-width:0}
table{font-size:7.5pt;width:100%}th,td{white-space:normal;padding:2px 3px;overflow-wrap:anywhere}
p,dl.read{max-width:none}}
"""
# A second press on a title reverses; the number in data-v wins over the shown text.
_SCRIPT = """
document.querySelectorAll("table.sort").forEach(t=>{t.querySelectorAll("th").forEach((h,i)=>{
h.firstChild.addEventListener("click",()=>{const up=h.ariaSort!=="ascending";
t.querySelectorAll("th").forEach(o=>o.removeAttribute("aria-sort"));
h.setAttribute("aria-sort",up?"ascending":"descending");
const key=r=>{const c=r.cells[i],v=parseFloat(c.dataset.v??c.textContent);
return isNaN(v)?c.textContent:v};
[...t.tBodies[0].rows].sort((a,b)=>{const x=key(a),y=key(b);
const d=typeof x==="number"&&typeof y==="number"?x-y:String(x).localeCompare(String(y));
return up?d:-d}).forEach(r=>t.tBodies[0].append(r))})})});
document.querySelectorAll("button.copy").forEach(b=>b.addEventListener("click",async()=>{
await navigator.clipboard.writeText(b.dataset.copy);b.textContent="copied"}));
addEventListener("beforeprint",()=>document.querySelectorAll("details").forEach(d=>d.open=true));
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
        f'<figure class="scroll" tabindex="0" role="group" aria-label="{text(alternative)}">'
        f'<picture><source media="(prefers-color-scheme: dark)" srcset="{dark}">'
        f'<img alt="{text(alternative)}" src="{light}"></picture></figure>'
        f'<dl class="read">{terms}</dl>'
    )


def table(
    titles: Sequence[str], rows: Sequence[Sequence[tuple[str, float | None]]], *, kind: str = "sort"
) -> str:
    """Return a table of cells (text, number to sort by); to press a title sorts."""
    shown = [text(title) for title in titles]
    if kind == "sort":
        # A button can be reached and pressed with the keyboard.
        shown = [f'<button type="button">{title}</button>' for title in shown]
    head = "".join(f'<th scope="col">{title}</th>' for title in shown)
    body = "".join(
        f"<tr>{''.join(_cell(words, value) for words, value in row)}</tr>" for row in rows
    )
    return (
        f'<div class="scroll" tabindex="0" role="group" aria-label="table: {text(titles[0])}">'
        f'<table class="{kind}"><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _cell(words: str, value: float | None) -> str:
    # Text such as "1.2e-3 [..]" does not sort by itself; the script reads the number instead.
    number = "" if value is None else f' data-v="{value!r}"'
    return f"<td{number}>{text(words)}</td>"


def details(summary: str, inside: str) -> str:
    return f"<details><summary>{text(summary)}</summary>{inside}</details>"


def badges(words: Sequence[str]) -> str:
    """Return short facts side by side."""
    return f'<ul class="badges">{"".join(f"<li>{text(word)}</li>" for word in words)}</ul>'


def links(files: Mapping[str, str]) -> str:
    """Return links to files that stand in the folder of the page: words by name."""
    parts = (f'<a href="{text(name)}">{text(words)}</a>' for name, words in files.items())
    return f"<p>{' · '.join(parts)}</p>"


def repeat(command: str, words: str, copied: str) -> str:
    """Return the command that makes the page again, and a button that copies ``copied``."""
    return (
        f'<div class="repeat"><code>{text(command)}</code><p>{text(words)}</p>'
        f'<button type="button" class="copy" data-copy="{text(copied)}">copy the finding</button>'
        "</div>"
    )


def page(title: str, subtitle: str, parts: Sequence[str]) -> str:
    """Return the whole document."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{text(title)}</title><style>{_STYLE}</style></head><body><main>"
        f'<h1>{text(title)}</h1><p class="sub">{text(subtitle)}</p>'
        + "\n".join(parts)
        + f"</main><script>{_SCRIPT}</script></body></html>\n"
    )
