"""The frame of a report: one HTML file that needs no network and can be read on a phone.

Figures are plain dicts of plotly's schema (https://plotly.com/javascript/reference/); its script
stands in the page once, and draws each figure when it comes into view, so that a page of many
figures opens at once.
"""

import html
import json
from typing import Any

Figure = dict[str, Any]
_FOLDS = 4  # short columns beside each other on a phone, at most

_STYLE = """body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:68rem;padding:0 1rem;color:#1c1c1c;background:#fff}
h1{font-size:1.6rem;margin-bottom:.3rem}h2{font-size:1.2rem;margin:2.2rem 0 .4rem;padding-top:.6rem;border-top:1px solid #ddd}
table{border-collapse:collapse;margin:1rem 0;font-size:.92rem}th,td{padding:.35rem .7rem;border-bottom:1px solid #ddd;text-align:left;
vertical-align:top}th{border-bottom:2px solid #888}td{font-variant-numeric:tabular-nums}.wide{overflow-x:auto}img{max-width:100%}
td.num,th.num{text-align:right}td.long{min-width:16rem;overflow-wrap:anywhere}tr.best td{background:#eaf3ea}
li{margin:.25rem 0}small,.said{color:#555}.verdict{font-size:1.1rem;border-left:4px solid #2b6cb0;padding:.3rem .9rem;background:#f2f6fb}
.facts{display:grid;grid-template-columns:repeat(auto-fit,minmax(9rem,1fr));gap:.6rem;margin:1rem 0}
.facts div{border:1px solid #ddd;border-radius:6px;padding:.5rem .8rem}.facts b{display:block;font-size:1.25rem}
.doubt{border-left:4px solid #d08700;background:#fdf6e7;padding:.3rem .9rem;margin:.4rem 0}
.fine{border-left:4px solid #3a8a3a;background:#eff7ef;padding:.3rem .9rem}
.slices{display:grid;grid-template-columns:repeat(auto-fill,minmax(18rem,1fr));gap:.4rem}
.pictures{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,24rem),1fr));gap:1rem}figure{margin:0;min-width:0}
figcaption{color:#555;font-size:.9rem}pre{background:#f5f5f5;padding:.7rem;white-space:pre-wrap;overflow-wrap:anywhere;border-radius:6px}
nav{font-size:.92rem}nav a{margin-right:.9rem;white-space:nowrap}summary{cursor:pointer;color:#2b6cb0}
@media(max-width:40rem){body{margin:1rem auto;padding:0 .8rem}th,td{padding:.3rem .45rem}h1{font-size:1.35rem}
.folds,.folds thead,.folds tbody{display:block}.folds tr{display:grid;grid-template-columns:repeat(var(--short),minmax(0,1fr));
border-bottom:1px solid #ddd}.folds th,.folds td{border:0;min-width:0;overflow-wrap:anywhere}.folds thead tr{border-bottom:2px solid #888}
.folds th.long{display:none}.folds td.long{grid-column:1/-1;min-width:0;color:#555;padding-top:0}.folds td.long:empty{display:none}
.folds td.long[data-of]::before{content:attr(data-of) ": "}}
@media print{.wide{overflow:visible}}"""

# A finger that drags across a figure scrolls the page; a mouse zooms.
_SCRIPT = """const touch=matchMedia('(pointer:coarse)').matches;
function draw(f){if(f.dataset.drawn)return;f.dataset.drawn=1;const spec=JSON.parse(f.querySelector('script').textContent);
if(touch)spec.layout.dragmode=false;
Plotly.newPlot(f.querySelector('div'),spec.data,spec.layout,{responsive:true,displayModeBar:false,scrollZoom:false});}
const all=[...document.querySelectorAll('.plot')];
if('IntersectionObserver'in window){const seen=new IntersectionObserver(found=>found.forEach(e=>{if(e.isIntersecting){
seen.unobserve(e.target);draw(e.target);}}),{rootMargin:'400px'});all.forEach(f=>seen.observe(f));}else all.forEach(draw);
addEventListener('beforeprint',()=>all.forEach(draw));"""


def escape(value: object) -> str:
    """Text in HTML."""
    return html.escape(str(value))


def table(
    header: list[str],
    rows: list[list[str]],
    *,
    numeric: tuple[int, ...] = (),
    long: tuple[int, ...] = (),
    best: int = -1,
) -> str:
    """A table of texts. Where the screen is narrow it scrolls sideways; with few columns, its long
    ones go below the others.

    Args:
        numeric: columns set to the right.
        long: columns whose text may break anywhere, the last ones.
        best: the row that stands out.
    """
    kinds = ["num" if i in numeric else "long" if i in long else "" for i in range(len(header))]
    marks = [f' class="{kind}"' if kind else "" for kind in kinds]
    names = [
        f' data-of="{escape(name)}"' if kind == "long" and name else ""
        for name, kind in zip(header, kinds, strict=True)
    ]
    cells = [mark + name for mark, name in zip(marks, names, strict=True)]
    head = "".join(
        f"<th{mark}>{escape(cell)}</th>" for cell, mark in zip(header, marks, strict=True)
    )
    body = "".join(
        f"<tr{' class=best' if i == best else ''}>"
        + "".join(f"<td{m}>{escape(c)}</td>" for c, m in zip(row, cells, strict=True))
        + "</tr>"
        for i, row in enumerate(rows)
    )
    short = len(header) - len(long)
    folds = f' class=folds style="--short:{short}"' if long and short <= _FOLDS else ""
    return f"<div class=wide><table{folds}><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"


def plot(figure: Figure, label: str, *, height: int, min_width: int = 0) -> str:
    """A figure; where it must be `min_width` pixels wide and the screen is narrower, it scrolls
    sideways.

    Raises:
        ValueError: a number in it is not finite, which JSON cannot hold.
    """
    layout = {
        "margin": {"l": 55, "r": 15, "t": 30, "b": 45},
        "font": {"size": 12},
        "height": height,
        "hovermode": "closest",
    }
    spec = json.dumps(
        {"data": figure["data"], "layout": layout | figure["layout"]},
        allow_nan=False,
        separators=(",", ":"),
    )
    spec = spec.replace("</", "<\\/")  # no text in it may end the script
    width = f"min-width:{min_width}px;" if min_width else ""
    return (
        f'<figure class="plot wide"><div role=img aria-label="{escape(label)}" style="{width}height:{height}px"></div>'
        f'<script type="application/json">{spec}</script></figure>'
    )


def page(title: str, body: str) -> str:
    """A whole document. plotly's script is in it where there are figures."""
    script = ""
    if 'class="plot' in body:
        from plotly.offline import get_plotlyjs

        script = f"<script>{get_plotlyjs()}</script><script>{_SCRIPT}</script><noscript>The figures need JavaScript.</noscript>"
    return (
        '<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content="width=device-width,initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style>{body}{script}</html>\n"
    )
