"""A browser of completions inside a page: filter by outcome, pick one, read it; no server.

The completions are JSON in the page, and the script writes them as text only: whatever markup a
policy wrote is shown and never run.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rlvr.reports import pages

LONGEST = 40_000  # characters of a completion; of a longer one the middle is left out
MOST = 24_000_000  # characters of all completions in a page

_STYLE = """
<style>
.browse{display:grid;grid-template-columns:minmax(0,300px) minmax(0,1fr);gap:16px;margin-top:14px}
.bar{display:flex;flex-wrap:wrap;gap:8px;margin-top:12px}
.bar button,.bar input,.bar select{font:inherit;font-size:14px;padding:6px 12px;border-radius:8px;
border:1px solid var(--line);background:var(--card);color:var(--ink);min-width:0}
.bar button{cursor:pointer}.bar button[aria-pressed=true]{background:var(--accent);color:#fff}
.bar button:disabled{opacity:.4;cursor:default}
.list{max-height:640px;overflow-y:auto;border:1px solid var(--line);border-radius:8px}
.list button{display:block;width:100%;text-align:left;font:inherit;font-size:13.5px;
padding:6px 10px;
border:0;border-bottom:1px solid var(--line);background:none;color:var(--ink);cursor:pointer;
overflow-wrap:anywhere}
.list button[aria-current=true]{background:var(--card);box-shadow:inset 3px 0 var(--accent)}
.list small{color:var(--soft);display:block}
.shown h3{margin:0 0 4px;font-size:16px;overflow-wrap:anywhere}
.shown h4{margin:16px 0 4px;font-size:13px;color:var(--soft);font-weight:600}
.shown pre{white-space:pre-wrap;overflow-wrap:anywhere;margin:0;background:var(--card);padding:12px;
border-radius:8px;font:13px/1.5 ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;
max-height:560px;overflow-y:auto}
@media(max-width:700px){.browse{grid-template-columns:minmax(0,1fr)}.list{max-height:220px}}
</style>
"""
# A page of the list holds 200 rows: tens of thousands of buttons would freeze a browser.
_SCRIPT = """
<script>(()=>{const all=JSON.parse(document.getElementById("completions").textContent);
const $=id=>document.getElementById(id),list=$("rows"),shown=$("shown"),bar=$("filters");
const make=(tag,text,kind)=>{const e=document.createElement(tag);e.textContent=text??"";
if(kind)e.className=kind;return e};
let filter="all",found=[],page=0,current=0;
const kinds=["all",...new Set(all.map(r=>r.kind))];
const order=["all","correct","wrong","truncated","unparsable"];
const rank=k=>order.includes(k)?order.indexOf(k):99;kinds.sort((a,b)=>rank(a)-rank(b));
kinds.forEach(k=>{const n=k==="all"?all.length:all.filter(r=>r.kind===k).length;
const b=make("button",`${k} (${n})`);b.dataset.kind=k;
b.onclick=()=>{filter=k;search()};bar.append(b)});
const groups=[...new Set(all.map(r=>r.group))],pick=$("group");
["all groups",...groups].forEach(g=>{const o=make("option",g);o.value=g;pick.append(o)});
pick.hidden=groups.length<2;pick.value="all groups";
function search(){const words=$("words").value.toLowerCase();
found=all.filter(r=>(filter==="all"||r.kind===filter)&&
(pick.value==="all groups"||r.group===pick.value)&&
(!words||(r.id+"\\n"+r.problem+"\\n"+r.text).toLowerCase().includes(words)));
[...bar.children].forEach(b=>b.setAttribute("aria-pressed",b.dataset.kind===filter));
page=0;current=0;rows();show()}
function rows(){list.replaceChildren();found.slice(page*200,page*200+200).forEach((r,i)=>{
const b=make("button",r.id);b.append(make("small",r.about));
b.setAttribute("aria-current",page*200+i===current);
b.onclick=()=>{current=page*200+i;rows();show();
if(innerWidth<700)shown.scrollIntoView()};list.append(b)});
const pages=Math.max(1,Math.ceil(found.length/200));
$("page").textContent=`${found.length} completions, page ${page+1} of ${pages}`;
$("back").disabled=page===0;$("next").disabled=page+1>=pages}
function show(){shown.replaceChildren();const r=found[current];
if(!r){shown.append(make("p","No completion matches."));return}
shown.append(make("h3",r.id),make("p",r.about));
[["problem",r.problem],["gold answer",r.answer],["answer read",r.extracted],["why",r.detail],
["completion",r.text]].forEach(([t,v])=>{if(v!=null&&v!=="")shown.append(make("h4",t),
make("pre",v))})}
$("words").oninput=search;pick.onchange=search;
$("back").onclick=()=>{page--;rows()};$("next").onclick=()=>{page++;rows()};search()})()</script>
"""


def browser(entries: Sequence[Mapping[str, Any]], left_out: int) -> str:
    """Return the part of a page that shows ``entries``.

    Args:
        entries: with the keys ``group, id, kind, about, problem, answer, extracted, detail, text``;
            ``kind`` is what the reader filters by.
        left_out: completions that are in the files only.
    """
    # No "<" in the data: "</script>" in a completion would end it.
    data = json.dumps(list(entries), ensure_ascii=False).replace("<", "\\u003c")
    note = f"{left_out} more completions are in the .jsonl files only." if left_out else ""
    return (
        f'{_STYLE}<div class="bar" id="filters"></div>'
        '<div class="bar"><select id="group" aria-label="group"></select>'
        '<input id="words" placeholder="search id and text" aria-label="search"></div>'
        f"{pages.paragraph(note) if note else ''}"
        '<div class="browse"><div><div class="list" id="rows"></div><div class="bar">'
        '<button id="back">back</button><button id="next">next</button></div>'
        '<p class="sub" id="page"></p></div><div class="shown" id="shown"></div></div>'
        f'<script type="application/json" id="completions">{data}</script>{_SCRIPT}'
    )


def bounded(entries: Iterable[dict[str, Any]]) -> tuple[list[dict[str, Any]], int]:
    """Return the entries that fit in a page, and how many do not; long texts lose their middle."""
    kept, size, left_out = [], 0, 0
    for entry in entries:
        text = entry["text"]
        if len(text) > LONGEST:
            half = LONGEST // 2
            middle = f"\n\n[… {len(text) - LONGEST:,} characters left out …]\n\n"
            entry = {**entry, "text": text[:half] + middle + text[-half:]}
        size += len(entry["text"]) + len(entry["problem"])
        if size > MOST:
            left_out += 1
        else:
            kept.append(entry)
    return kept, left_out
