"""The CSS and the JavaScript of a page. Both stand inside it: a page loads nothing."""

CSS = """
:root{--ink:#222;--muted:#5f5f5f;--line:#dcdcdc;--soft:#f5f6f7;--blue:#0072b2;--bad:#b34700}
*{box-sizing:border-box}
html{scroll-behavior:smooth;-webkit-text-size-adjust:100%}
body{margin:0;color:var(--ink);background:#fff;font:16px/1.5 system-ui,-apple-system,"Segoe UI",
 Roboto,"Helvetica Neue",Arial,sans-serif;overflow-wrap:anywhere}
main,header,footer{max-width:1080px;margin:0 auto;padding:0 16px}
h1{font-size:1.7rem;line-height:1.2;margin:1.2rem 0 .3rem}
h2{font-size:1.3rem;margin:0 0 .6rem;padding-top:.4rem}
h3{font-size:1.05rem;margin:1.2rem 0 .4rem}
p,ul,ol{max-width:75ch;margin:.5rem 0}
a{color:var(--blue)}
.lead{font-size:1.05rem;color:var(--muted);margin:.2rem 0 1rem}
nav{border-block:1px solid var(--line);padding:.5rem 0;margin:1rem 0;display:flex;flex-wrap:wrap;
 gap:.15rem .9rem;font-size:.92rem}
section{border-bottom:1px solid var(--line);padding:1rem 0 1.4rem}
section section{border:0;padding:.6rem 0}
.missing{color:var(--muted);background:var(--soft);border-left:3px solid #b9b9b9;
 padding:.4rem .7rem;margin:.4rem 0}
.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(15rem,100%),1fr));gap:12px;
 margin:1rem 0}
.card{border:1px solid var(--line);border-radius:8px;padding:.7rem .9rem;background:var(--soft)}
.card .name{font-size:.88rem;color:var(--muted)}
.card .value{font-size:1.75rem;font-weight:650;line-height:1.25}
.card .more{font-size:.88rem}
.scroll{overflow-x:auto;margin:.6rem 0;overscroll-behavior-x:contain}
table{border-collapse:collapse;font-size:.9rem;overflow-wrap:normal}
.caption{color:var(--muted);font-size:.88rem;margin:.6rem 0 -.3rem}
th,td{padding:.25rem .6rem;text-align:left;vertical-align:top;border-bottom:1px solid #ececec}
th{font-weight:600;border-bottom:1px solid #bbb;white-space:nowrap}
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
tr.mine td{background:#e8f2f9}
td.bar{min-width:9rem;width:40%;padding-top:.45rem}
td.bar svg{display:block;width:100%;height:1rem}
td:last-child:not(.n):not(.bar):not(.heat){min-width:9rem}
table.facts{overflow-wrap:anywhere}table.facts td:first-child{min-width:6.5rem}
td.heat{text-align:center;font-variant-numeric:tabular-nums;min-width:3.4rem}
.tag{display:inline-block;border-radius:4px;padding:0 .45em;font-size:.85rem;color:#fff;
 background:#5f5f5f;white-space:nowrap}
.tag.fail{background:var(--bad)}.tag.warn{background:#8a6100}.tag.pass{background:#00694d}
figure{margin:.8rem 0;overflow-x:auto}
figure img.can{cursor:zoom-in}figure img.full{max-width:none;width:auto!important;cursor:zoom-out}
figure img,figure>svg{max-width:100%;height:auto;display:block}
figcaption{font-size:.9rem;color:var(--muted);max-width:75ch;margin-top:.3rem}
.pair{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(22rem,100%),1fr));gap:12px}
details{margin:.6rem 0}
summary{cursor:pointer;font-weight:600;padding:.2rem 0}
pre{background:var(--soft);padding:.7rem;overflow-x:auto;font-size:.82rem;line-height:1.4;
 overflow-wrap:normal}
code{font-size:.9em;background:var(--soft);padding:0 .25em}
.buttons{display:flex;flex-wrap:wrap;gap:6px;margin:.5rem 0}
button{font:inherit;font-size:.92rem;padding:.3rem .8rem;border:1px solid #aaa;border-radius:6px;
 background:#fff;color:var(--ink);cursor:pointer}
button[aria-pressed=true]{background:var(--blue);border-color:var(--blue);color:#fff}
.live h3.choice{display:none}
.matrix .view{overflow:auto;max-height:min(80vh,46rem);border:1px solid var(--line)}
.matrix img{image-rendering:pixelated;width:100%;height:auto;display:block;cursor:crosshair}
.matrix .read{min-height:3em;font-size:.92rem;font-variant-numeric:tabular-nums}
.run{border:2px solid var(--line);border-radius:8px;padding:0 1rem;margin:1rem 0}
footer{color:var(--muted);font-size:.85rem;padding-block:1rem 2rem}
@media (max-width:500px){h1{font-size:1.4rem}th,td{padding:.25rem .4rem}td.bar{min-width:4rem}
 table{font-size:.82rem}
 .run{padding:0 .5rem}}
@media print{nav,.buttons,button,.matrix{display:none!important}h2,h3{break-after:avoid}
 .live h3.choice{display:block}body{font-size:11pt}
 main,header,footer{max-width:none;padding:0}figure,tr,.card{break-inside:avoid}
 .scroll,pre,figure{overflow:visible}pre{white-space:pre-wrap}
 *{print-color-adjust:exact;-webkit-print-color-adjust:exact}[hidden]{display:block!important}}
"""

SCRIPT = """
'use strict';
for (const box of document.querySelectorAll('.choices')) {
  const parts = [...box.children], row = document.createElement('div');
  row.className = 'buttons';
  const show = chosen => parts.forEach((part, i) => {
    part.hidden = i !== chosen;
    row.children[i].setAttribute('aria-pressed', i === chosen);
  });
  parts.forEach((part, i) => {
    const button = document.createElement('button');
    button.type = 'button';
    button.textContent = part.dataset.name;
    button.addEventListener('click', () => show(i));
    row.append(button);
  });
  box.prepend(row);
  box.classList.add('live');
  show(0);
}
for (const image of document.querySelectorAll('figure > img')) {
  const mark = () => image.classList.toggle('can', image.naturalWidth > image.clientWidth + 20);
  image.addEventListener('pointerenter', mark);
  image.addEventListener('click', () => { mark(); image.classList.toggle('full'); });
}
addEventListener('beforeprint', () => document.querySelectorAll('details')
  .forEach(part => { part.open = true; }));
for (const box of document.querySelectorAll('.matrix')) {
  const view = box.querySelector('.view'), image = box.querySelector('img');
  const read = box.querySelector('.read'), start = read.textContent;
  const data = JSON.parse(box.querySelector('script').textContent), n = data.names.length;
  const counts = new Map(), totals = new Array(n).fill(0);
  for (let i = 0; i < data.cells.length; i += 3) {
    counts.set(data.cells[i] * n + data.cells[i + 1], data.cells[i + 2]);
    totals[data.cells[i]] += data.cells[i + 2];
  }
  let scale = 1;
  const zoom = factor => {
    const x = (view.scrollLeft + view.clientWidth / 2) / image.clientWidth;
    const y = (view.scrollTop + view.clientHeight / 2) / image.clientHeight;
    scale = Math.min(32, Math.max(1, factor ? scale * factor : 1));
    image.style.width = 100 * scale + '%';
    view.scrollLeft = x * image.clientWidth - view.clientWidth / 2;
    view.scrollTop = y * image.clientHeight - view.clientHeight / 2;
  };
  const place = event => {
    const box = image.getBoundingClientRect();
    const column = Math.floor((event.clientX - box.left) / box.width * n);
    const row = Math.floor((event.clientY - box.top) / box.height * n);
    if (row < 0 || column < 0 || row >= n || column >= n) return;
    const count = counts.get(row * n + column) || 0;
    read.textContent = 'true ' + data.names[row] + ', predicted ' + data.names[column] + ': ' +
      count + ' of ' + totals[row] + ' wells';
  };
  image.addEventListener('pointermove', place);
  image.addEventListener('click', place);
  image.addEventListener('dblclick', () => zoom(2));
  image.addEventListener('pointerleave', () => { read.textContent = start; });
  for (const button of box.querySelectorAll('button'))
    button.addEventListener('click', () => zoom(Number(button.dataset.zoom)));
}
"""
