"""Tokens that move through depth-time, as one piece of HTML: drawn without a script, moved by a slider and a button.

Nothing is loaded; lines and letters have the colour of the text around, light or dark. Without a script, and on paper,
the tokens stand at the last depth with their whole paths behind them.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from html import escape

import numpy as np

from .information_flow import token_colours

SIDE, EDGE = 320, 14
# Times and places in pixels (times, tokens, 2), by the title of a panel.
Panels = Mapping[str, tuple[Sequence[float], np.ndarray]]
_STYLE = """<style>
.moving-tokens{color:inherit;max-width:44rem;margin:0 auto}
.moving-tokens .panels{display:flex;flex-wrap:wrap;gap:.5rem}
.moving-tokens figure{flex:1 1 15rem;margin:0;text-align:center}
.moving-tokens svg{width:100%;height:auto;border:1px solid currentColor;border-radius:4px}
.moving-tokens .controls{display:flex;gap:.75rem;align-items:center;margin:.5rem 0}
.moving-tokens input{flex:1}
.moving-tokens button{min-width:5rem;color:inherit;background:transparent;border:1px solid currentColor;
 border-radius:4px}
.moving-tokens :focus-visible{outline:3px solid #de8f05;outline-offset:2px}
@media print{.moving-tokens .controls{display:none}}
</style>"""
_SCRIPT = """(function(){
const box=document.getElementById(NAME),all=DATA,slide=box.querySelector("input"),
 play=box.querySelector("button"),tell=box.querySelector("output"),
 dots=[...box.querySelectorAll("svg")].map(s=>[...s.querySelectorAll("circle")]);
function show(t){all.forEach((one,k)=>{let n=1;while(n<one.t.length-1&&one.t[n]<t)n++;
 const a=one.t[n-1],b=one.t[n],w=Math.min(1,Math.max(0,(t-a)/(b-a))),p=one.p[n-1],q=one.p[n];
 dots[k].forEach((d,i)=>{d.setAttribute("cx",p[2*i]+w*(q[2*i]-p[2*i]));
  d.setAttribute("cy",p[2*i+1]+w*(q[2*i+1]-p[2*i+1]));});});
 tell.textContent="depth "+t.toFixed(2);}
let last=null,on=false;
function step(now){if(!on)return;const dt=last===null?0:(now-last)/1500;last=now;
 let t=+slide.value+dt;if(t>=+slide.max){t=+slide.max;stop();}slide.value=t;show(t);if(on)requestAnimationFrame(step);}
function stop(){on=false;last=null;play.textContent="play";}
slide.addEventListener("input",()=>{stop();show(+slide.value);});
play.addEventListener("click",()=>{if(on){stop();return;}if(+slide.value>=+slide.max)slide.value=0;
 on=true;play.textContent="pause";requestAnimationFrame(step);});
box.querySelector(".controls").hidden=false;})();"""


def corners(every: Iterable[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Return the lower left and the upper right corner of all paths (times, tokens, 2)."""
    rows = np.concatenate([np.asarray(paths).reshape(-1, 2) for paths in every])
    return rows.min(0), rows.max(0)


def frames(paths: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Return paths (times, tokens, 2) as whole pixels of a panel, upwards as on a page: (times, tokens, 2).

    `low`, `high` (2,) are the corners that the panel shows; one scale for both directions.
    """
    scale = (SIDE - 2 * EDGE) / float((high - low).max())
    middle = (np.asarray(low) + np.asarray(high)) / 2
    places = (np.asarray(paths) - middle) * scale * np.array([1, -1]) + SIDE / 2
    return np.rint(places).astype(int)


def html(name: str, panels: Panels, told: str, names: Sequence[str]) -> str:
    """Return the animation: for each panel's title its times and its frames (times, tokens, 2) in whole pixels.

    `name` is its element's; `told` says in words what is shown, for those who do not see it; `names` are the tokens',
    shown where one is pointed at. Between two times tokens
    go straight. Nothing moves until it is asked to; slider and button are reached by the keyboard.
    """
    data = [
        {"t": list(map(float, times)), "p": np.asarray(p).reshape(len(p), -1).tolist()} for times, p in panels.values()
    ]
    end = max(one["t"][-1] for one in data)
    drawn = "".join(_panel(title, np.asarray(places), told, names) for title, (_, places) in panels.items())
    script = _SCRIPT.replace("NAME", json.dumps(name)).replace("DATA", json.dumps(data, separators=(",", ":")))
    controls = (
        f'<div class="controls" hidden><button type="button">play</button><label for="{name}-depth">depth-time</label>'
        f'<input id="{name}-depth" type="range" min="0" max="{end:g}" step="0.01" value="{end:g}">'
        f'<output for="{name}-depth">depth {end:.2f}</output></div>'
    )
    return (
        f'{_STYLE}<div class="moving-tokens" id="{name}"><div class="panels">{drawn}</div>{controls}</div>'
        f"<script>{script}</script>"
    )


def show(name: str, panels: Panels, told: str, names: Sequence[str], instead: str) -> None:
    """Show the animation in a notebook; where no HTML can be shown, the sentence `instead`."""
    from IPython.display import display

    display({"text/html": html(name, panels, told, names), "text/plain": instead}, raw=True)


def _panel(title: str, places: np.ndarray, told: str, names: Sequence[str]) -> str:
    colours = token_colours(places.shape[1])
    lines, dots = [], []
    for token, colour in enumerate(colours):
        way = " ".join(f"{x},{y}" for x, y in places[:, token].tolist())
        lines.append(f'<polyline points="{way}" fill="none" stroke="{colour}" stroke-opacity=".45"/>')
        x, y = places[-1, token].tolist()
        look = f'r="4.5" fill="{colour}" stroke="currentColor" stroke-width=".6"'
        dots.append(f'<circle cx="{x}" cy="{y}" {look}><title>{escape(names[token])}</title></circle>')
    label = escape(f"{title}: {told}")
    return (
        f'<figure><svg viewBox="0 0 {SIDE} {SIDE}" role="img" aria-label="{label}">{"".join(lines + dots)}</svg>'
        f"<div>{escape(title)}</div></figure>"
    )
