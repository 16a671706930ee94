'use strict';
const PAGE = 60;        // cards shown at a time
const NEAR = 12;        // pairs nearest the threshold shown at first
const TOP = 12;         // lines of a table of counts that are not folded
const CUT = 320;        // longer texts are cut until asked for
const SIGNS = { kept: '✓ kept', dropped: '✕ dropped', unjudged: '– not judged' };
const SVG = 'http://www.w3.org/2000/svg';

const byId = id => document.getElementById(id);
const body = id => document.querySelector(`#${id} > .body`);
const list = value => Array.isArray(value) ? value : [];
const known = value => typeof value === 'number' && Number.isFinite(value);
const whole = new Intl.NumberFormat('en-US', { maximumFractionDigits: 0 });
const count = n => known(n) ? whole.format(n) : '–';
const percent = (part, all) => known(part) && all > 0 ? `${(100 * part / all).toFixed(1)} %` : '–';

/** An element; whatever is a string becomes text, never markup. */
function el(tag, attributes = {}, ...children) {
  const node = tag.startsWith('svg:') ? document.createElementNS(SVG, tag.slice(4)) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) if (value != null && value !== false) node.setAttribute(name, value);
  node.append(...children.filter(child => child != null));
  return node;
}
const note = text => el('p', { class: 'note' }, text);

function size(bytes) {
  const units = ['bytes', 'kB', 'MB', 'GB', 'TB'];
  let n = bytes, unit = 0;
  while (n >= 1000 && unit < units.length - 1) { n /= 1000; unit += 1; }
  return `${unit ? n.toFixed(1) : count(n)} ${units[unit]}`;
}

/** A score with as many digits as show on which side of the threshold it is. */
function scoreText(score, threshold) {
  let digits = 3;
  while (known(threshold) && digits < 9 && (Number(score.toFixed(digits)) >= threshold) !== (score >= threshold)) digits += 1;
  return score.toFixed(digits);
}

/** A table of rows of strings or elements; a head that starts with # is over a column of numbers. */
function table(caption, heads, rows, scope = 'row') {
  const numeric = heads.map(h => h.startsWith('#') ? 'number' : null);
  const cell = (value, i) => {
    const isHead = i === 0 && scope;
    const dir = typeof value === 'string' && !numeric[i] ? 'auto' : null;
    return el(isHead ? 'th' : 'td', { scope: isHead ? scope : null, class: numeric[i], dir }, value);
  };
  return el('table', {}, el('caption', { class: 'unseen' }, caption),
    el('thead', {}, el('tr', {}, ...heads.map((h, i) => el('th', { scope: 'col', class: numeric[i] }, h.replace(/^#/, ''))))),
    el('tbody', {}, ...rows.map(row => el('tr', {}, ...row.map(cell)))));
}

function bar(part, all, kind = '') {
  const fill = el('span');
  fill.style.width = `${all > 0 ? Math.min(100, 100 * part / all) : 0}%`;
  return el('span', { class: `bar ${kind}`, 'aria-hidden': 'true' }, fill);
}

function drawHeader(data) {
  const totals = data.totals ?? {};
  byId('title').textContent = data.title ?? 'pairs';
  document.title = `${data.title ?? 'pairs'} · CapFilt report`;
  byId('lead').append(`${count(totals.kept)} of ${count(totals.pairs)} pairs kept`);
  if (totals.pairs > 0) byId('lead').append(` (${percent(totals.kept, totals.pairs)})`);
  const facts = [['rows', count(totals.rows)], ['pairs', count(totals.pairs)], ['kept', count(totals.kept)], ['files', count(totals.files)]];
  if (known(totals.bytes)) facts.push(['size', size(totals.bytes)]);
  byId('totals').append(...facts.map(([name, value]) => el('div', {}, el('dt', {}, name), el('dd', {}, value))));
}

function drawFunnel(steps) {
  if (!steps.length) return body('funnel').append(note('Nothing was counted.'));
  const most = Math.max(...steps.map(s => s.count));
  body('funnel').append(el('ol', { class: 'funnel' }, ...steps.map((step, i) => {
    const before = steps[i - 1];
    const of = before && step.count <= before.count && before.count > 0 ? `${percent(step.count, before.count)} of ${before.label}` : '';
    return el('li', {}, el('span', {}, step.label), bar(step.count, most, step.label === 'kept' ? 'kept' : ''),
      el('span', { class: 'number' }, count(step.count)), el('span', { class: 'of' }, of));
  })));
  const grows = steps.some((s, i) => i && s.count > steps[i - 1].count);
  if (grows) document.querySelector('#funnel .about').append(note('A row gives one pair for each of its texts.'));
}

function drawSources(sources) {
  if (!sources.length) return body('sources').append(note('There are no pairs.'));
  body('sources').append(table('Pairs by source', ['source', '#pairs', '#kept', 'share kept', '#mean ITM'], sources.map(s => [
    s.source, count(s.pairs), count(s.kept),
    el('span', { class: 'share' }, bar(s.kept, s.pairs, 'kept'), el('span', { class: 'number' }, percent(s.kept, s.pairs))),
    known(s.mean_itm) ? s.mean_itm.toFixed(3) : '–'])));
}

/** Values to mark on an axis that ends at `most`. */
function ticks(most, scale) {
  if (scale === 'log') return [1, 10, 100, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9].filter(v => v <= most);
  const nice = v => { const p = 10 ** Math.floor(Math.log10(v)); return Math.max(1, p * [1, 2, 5, 10].find(m => m * p >= v)); };
  const marks = [1, 2, 3, 4].map(i => i * nice(most / 4));
  if (scale === 'sqrt') marks.push(nice(most / 12), nice(most / 60));
  return marks.filter(v => v <= most);
}

function chart({ source, counts }, index, most, scale, threshold, width) {
  const height = 190, left = 46, right = 10, top = 22, bottom = 24;
  const f = { sqrt: Math.sqrt, linear: v => v, log: v => Math.log10(1 + v) }[scale];
  const x = v => left + v * (width - left - right);
  const y = v => height - bottom - (most ? f(v) / f(most) : 0) * (height - top - bottom);
  const total = counts.reduce((a, b) => a + b, 0), step = 1 / counts.length;
  const peak = counts.indexOf(Math.max(...counts));
  const edge = v => String(Number(v.toFixed(3)));
  const range = i => `${edge(i * step)}–${edge((i + 1) * step)}`;
  const told = known(threshold) ? ` The threshold is ${edge(threshold)}.` : '';
  const svg = el('svg:svg', { viewBox: `0 0 ${width} ${height}`, role: 'img', 'aria-labelledby': `chart-${index}-title chart-${index}-desc` },
    el('svg:title', { id: `chart-${index}-title` }, `ITM scores of ${source} texts`),
    el('svg:desc', { id: `chart-${index}-desc` }, `Histogram of ${count(total)} scores in ${counts.length} bins; most, ${count(counts[peak])}, `
      + `are in ${range(peak)}.${told} The numbers are in a table below.`));
  let last = Infinity;
  for (const v of ticks(most, scale).sort((a, b) => a - b)) {
    if (last - y(v) < 13) continue;
    last = y(v);
    svg.append(el('svg:line', { class: 'grid', x1: left, x2: width - right, y1: last, y2: last }),
      el('svg:text', { x: left - 6, y: last + 4, 'text-anchor': 'end' }, count(v)));
  }
  const paths = { kept: '', dropped: '', bar: '' };
  const base = height - bottom;
  const rect = (a, b, c) => `M${x(a).toFixed(2)} ${base}V${Math.min(y(c), base - 1).toFixed(2)}H${x(b).toFixed(2)}V${base}Z`;
  const gap = Math.min(1, (x(step) - x(0)) / 4) / (width - left - right);
  counts.forEach((c, i) => {
    if (!c) return;
    const a = i * step, b = (i + 1) * step - gap;
    if (!known(threshold)) paths.bar += rect(a, b, c);
    else {
      if (a < threshold - 1e-9) paths.dropped += rect(a, Math.min(b, threshold), c);
      if (b > threshold) paths.kept += rect(Math.max(a, threshold), b, c);
    }
  });
  for (const [kind, d] of Object.entries(paths)) if (d) svg.append(el('svg:path', { class: `fill-${kind}`, d }));
  svg.append(el('svg:line', { class: 'axis', x1: left, x2: width - right, y1: base, y2: base }));
  for (const v of [0, .25, .5, .75, 1]) svg.append(el('svg:text', { x: x(v), y: height - 8, 'text-anchor': 'middle' }, String(v)));
  if (known(threshold)) {
    const late = threshold > .6;
    svg.append(el('svg:line', { class: 'cut', x1: x(threshold), x2: x(threshold), y1: 6, y2: base }),
      el('svg:text', { class: 'cut-label', x: x(threshold) + (late ? -5 : 5), y: 14, 'text-anchor': late ? 'end' : 'start' },
        `threshold ${edge(threshold)}`));
  }
  counts.forEach((c, i) => svg.append(el('svg:rect', { x: x(i * step), y: top, width: x(step) - x(0), height: base - top, fill: 'transparent' },
    el('svg:title', {}, `${range(i)}: ${count(c)}`))));
  return svg;
}

function drawHistograms(histograms, threshold) {
  histograms = histograms.filter(h => list(h.counts).length);
  if (!histograms.length) return body('scores').append(note('There are no ITM scores.'));
  const most = Math.max(...histograms.flatMap(h => h.counts));
  const scale = el('select', { id: 'scale' }, el('option', { value: 'sqrt' }, 'square root'), el('option', { value: 'linear' }, 'linear'),
    el('option', { value: 'log' }, 'logarithm'));
  const swatch = (kind, text) => el('span', {}, el('span', { class: `swatch fill-${kind}` }), text);
  const legend = known(threshold) ? [swatch('dropped', 'below the threshold'), swatch('kept', 'at least the threshold')] : [];
  const holders = histograms.map(() => el('div'));
  const charts = el('div', { class: 'charts' }, ...histograms.map((h, i) => el('figure', {},
    el('figcaption', {}, el('strong', {}, el('bdi', {}, h.source)),
      el('span', { class: 'muted' }, ` · ${count(h.counts.reduce((a, b) => a + b, 0))} scores`)), holders[i])));
  const bins = histograms[0].counts.length;
  body('scores').append(el('div', { class: 'legend' }, ...legend, el('label', { class: 'field' }, 'Scale of counts ', scale)), charts,
    el('details', {}, el('summary', {}, 'The numbers as a table'), table('ITM scores by bin', ['ITM from', ...histograms.map(h => '#' + h.source)],
      Array.from({ length: bins }, (_, i) => [(i / bins).toFixed(3), ...histograms.map(h => count(h.counts[i]))]))));
  let width = 0;
  const draw = () => {
    width = charts.clientWidth;
    histograms.forEach((h, i) => holders[i].replaceChildren(chart(h, i, most, scale.value, threshold, Math.max(240, holders[i].clientWidth))));
  };
  scale.addEventListener('change', draw);
  draw();
  new ResizeObserver(() => { if (width !== charts.clientWidth && !matchMedia('print').matches) requestAnimationFrame(draw); }).observe(charts);
}

/** Puts a text into an element that is in its place already; a long one with a button that shows the rest. */
function fold(node, text) {
  const letters = text.length > CUT ? Array.from(text) : [];
  if (letters.length <= CUT) { node.textContent = text; return; }
  const all = el('button', { type: 'button', class: 'whole' }, `Whole text (${count(letters.length)} characters)`);
  node.textContent = `${letters.slice(0, CUT).join('')} …`;
  all.addEventListener('click', () => { node.textContent = text; node.tabIndex = -1; node.focus(); all.remove(); });
  node.after(all);
}

/** The text with the words that were looked for marked. */
function marked(text, words) {
  if (!words.length) return [text];
  const pattern = new RegExp(words.map(w => w.replace(/[\\^$.*+?()[\]{}|/]/g, '\\$&')).join('|'), 'giu');
  const parts = [];
  let end = 0;
  for (const match of text.matchAll(pattern)) {
    parts.push(text.slice(end, match.index), el('mark', {}, match[0]));
    end = match.index + match[0].length;
  }
  return [...parts, text.slice(end)];
}

function picture(image) {
  const box = el('div', { class: 'picture' });
  const missing = () => box.replaceChildren('no picture');
  if (typeof image.src !== 'string' || !image.src.startsWith('data:image/')) missing();
  else {
    const img = el('img', { alt: `picture ${image.key ?? ''}`, decoding: 'async' });
    img.addEventListener('error', missing);
    img.src = image.src;
    box.append(img);
  }
  return box;
}

const verdict = pair => pair.kept === true ? 'kept' : pair.kept === false ? 'dropped' : 'unjudged';

function symbol(source) {
  const letter = source === 'web' ? 'w' : source === 'synthetic' ? 's' : null;
  return letter ? el('span', {}, el('span', { 'aria-hidden': 'true' }, 'T', el('sub', {}, letter), ' '), source) : el('bdi', {}, source ?? 'unknown');
}

function pairNode(pair, threshold, words = [], inside = true) {
  const kind = verdict(pair), text = typeof pair.text === 'string' && pair.text.trim() ? pair.text : null;
  const scores = [];
  if (known(pair.itm)) scores.push(`ITM ${scoreText(pair.itm, threshold)}`);
  if (known(pair.itc)) scores.push(`ITC ${pair.itc.toFixed(3)}`);
  const shown = el('p', { class: text ? 'text' : 'text none', dir: 'auto' });
  const node = el('div', { class: `pair ${kind}${inside ? '' : ' outside'}` },
    el('p', { class: 'head' }, symbol(pair.source), known(pair.captioner) ? ` by captioner ${pair.captioner}` : null, el('span', { class: 'sign' }, SIGNS[kind]),
      inside ? null : el('span', { class: 'unseen' }, 'outside the filter'), el('span', { class: 'scores' }, scores.join(' · ') || 'no score')), shown);
  if (!text) shown.textContent = 'no text';
  else if (inside && words.length) shown.append(...marked(text, words));
  else fold(shown, text);
  if (pair.error) node.append(el('p', { class: 'error', dir: 'auto' }, ...marked(String(pair.error), words)));
  return node;
}

function keyLine({ key, sha256 }) {
  const hash = typeof sha256 === 'string' ? el('span', { class: 'hash', title: `sha256 ${sha256}` }, ` ${sha256.slice(0, 8)}`) : null;
  return el('p', { class: 'key' }, el('bdi', {}, key ?? ''), hash);
}

/** Fills a list a page at a time; the button adds the next page and moves the focus to it. */
function paged(holder, button, items, make, page) {
  let shown = 0;
  const next = () => {
    const added = items.slice(shown, shown + page).map(make);
    holder.append(...added);
    shown += added.length;
    button.hidden = shown === items.length;
    button.textContent = `Show ${count(Math.min(items.length - shown, page))} more (${count(shown)} of ${count(items.length)} shown)`;
    return added[0];
  };
  button.onclick = () => { const first = next(); first.tabIndex = -1; first.focus(); };
  holder.replaceChildren();
  next();
}

function drawNear(near, images, threshold) {
  const items = near.map(([i, j]) => [images[i], list(images[i]?.pairs)[j]]).filter(([image, pair]) => image && pair);
  if (!items.length) return body('near').append(note('There are no scored pairs to show.'));
  const holder = el('ol', { class: 'cards near' }), button = el('button', { type: 'button' });
  const item = ([image, pair]) => el('li', {}, picture(image), el('div', {}, pairNode(pair, threshold), keyLine(image)));
  body('near').append(holder, el('p', { class: 'pager' }, button));
  paged(holder, button, items, item, NEAR);
}

function drawCounts(id, items, field, head, none) {
  if (!items.length) return body(id).append(note(none));
  const row = item => {
    const cell = el('div', {}, el('div', { dir: 'auto' }));
    fold(cell.firstChild, String(item[field] ?? ''));
    return [count(item.count), cell];
  };
  const part = some => table(head, ['#count', head], some.map(row), null);
  body(id).append(part(items.slice(0, TOP)));
  if (items.length > TOP) body(id).append(el('details', {}, el('summary', {}, `${count(items.length - TOP)} more`), part(items.slice(TOP))));
  body(id).querySelectorAll('th:first-child').forEach(th => th.classList.add('count'));
}

function drawProvenance(job) {
  const fact = (name, kind) => [el('dt', {}, name),
    el('dd', {}, job[name] == null ? el('span', { class: 'muted' }, 'not known') : el('bdi', { class: kind }, String(job[name])))];
  const folded = (name, node) => body('provenance').append(el('details', {}, el('summary', {}, name), node));
  body('provenance').append(el('dl', { class: 'facts' }, ...fact('source'), ...fact('captioner', 'hash'), ...fact('filter', 'hash'),
    ...fact('engine')));
  const settings = Object.entries(job.settings ?? {}).map(([name, value]) => [name, String(value)]);
  if (settings.length) folded(`Settings (${count(settings.length)})`, table('Settings', ['setting', 'value'], settings));
  if (job.sql) folded('SQL', el('pre', { dir: 'ltr' }, job.sql));
}

/** As texts are compared in a search. */
const plain = text => text.normalize('NFKC').toLowerCase();

function drawGallery(data) {
  const images = list(data.images), threshold = data.threshold;
  const hays = images.map(image => list(image.pairs).map(pair => plain([pair.text, pair.error, image.key].filter(Boolean).join('\n'))));
  const total = hays.reduce((n, pairs) => n + pairs.length, 0);
  const { images: shownImages, of } = data.sample ?? {};
  if (known(of) && of > shownImages) byId('sample').textContent = `This is a sample: ${count(shownImages)} of ${count(of)} rows.`;
  const sources = new Set([...list(data.sources).map(s => s.source), ...images.flatMap(image => list(image.pairs).map(p => p.source))]);
  byId('source').append(...[...sources].filter(s => typeof s === 'string').map(s => el('option', { value: s }, s)));
  if (!total) {
    byId('filters').hidden = true;
    byId('matches').textContent = '0 of 0 pairs';
    byId('none').textContent = 'There are no pictures in this report.';
    byId('none').hidden = false;
    return;
  }

  let words = [];
  const card = ([image, matched]) => el('li', { class: 'card' }, picture(image),
    ...image.pairs.map((pair, j) => pairNode(pair, threshold, words, matched.includes(j))), keyLine(image));
  const limit = (id, otherwise) => { const v = byId(id).valueAsNumber; return Number.isNaN(v) ? otherwise : v; };
  const filter = () => {
    const kind = byId('verdict').value, source = byId('source').value, order = byId('order').value;
    const low = limit('score-min', 0), high = limit('score-max', 1), scored = low > 0 || high < 1;
    const wanted = plain(byId('search').value).split(/\s+/).filter(Boolean);
    words = byId('search').value.split(/\s+/).filter(Boolean);
    const hash = wanted.length === 1 && /^[0-9a-f]{8,64}$/.test(wanted[0]) ? wanted[0] : null;
    let pairs = 0, found = [];
    images.forEach((image, i) => {
      const matched = [];
      const same = hash && typeof image.sha256 === 'string' && image.sha256.startsWith(hash);
      list(image.pairs).forEach((pair, j) => {
        if (kind !== 'all' && verdict(pair) !== kind) return;
        if (source !== 'all' && pair.source !== source) return;
        if (scored && !(known(pair.itm) && pair.itm >= low && pair.itm <= high)) return;
        if (same || wanted.every(w => hays[i][j].includes(w))) matched.push(j);
      });
      if (matched.length) found.push([image, matched]);
      pairs += matched.length;
    });
    if (order !== 'table') {
      const sign = order === 'high' ? -1 : 1;
      const rank = ([image, matched]) => Math.min(...matched.map(j => known(image.pairs[j].itm) ? sign * image.pairs[j].itm : Infinity));
      found = found.map(f => [rank(f), f]).sort((a, b) => a[0] === b[0] ? 0 : a[0] - b[0]).map(([, f]) => f);
    }
    byId('matches').textContent = `${count(pairs)} of ${count(total)} pairs`;
    byId('aside').hidden = pairs === total || !pairs;
    byId('none').hidden = pairs > 0;
    byId('none').textContent = low > high ? 'ITM from is above ITM to, so nothing can match.' : 'No pair matches. Reset the filter to see all.';
    paged(byId('cards'), byId('more'), found, card, PAGE);
  };
  let timer;
  const later = wait => { clearTimeout(timer); timer = setTimeout(filter, wait); };
  byId('filters').addEventListener('input', event => later(event.target.tagName === 'SELECT' ? 0 : 150));
  byId('filters').addEventListener('reset', () => later(0));
  byId('filters').addEventListener('submit', event => { event.preventDefault(); later(0); });
  byId('filters').reset();
  clearTimeout(timer);
  filter();
}

/** What is folded can't be opened on paper. */
function unfoldForPrint() {
  let folded = [];
  const set = open => folded.forEach(d => { d.open = open; });
  addEventListener('beforeprint', () => { folded = [...document.querySelectorAll('details:not([open])')]; set(true); });
  addEventListener('afterprint', () => set(false));
}

try {
  const data = JSON.parse(byId('data').textContent);
  drawHeader(data);
  drawFunnel(list(data.funnel));
  drawSources(list(data.sources));
  drawHistograms(list(data.histograms), data.threshold);
  drawNear(list(data.near), list(data.images), data.threshold);
  drawCounts('captions', list(data.captions), 'text', 'caption', 'There are no synthetic texts.');
  drawCounts('failures', list(data.failures), 'reason', 'reason', 'Nothing failed.');
  drawGallery(data);
  drawProvenance(data.job ?? {});
  unfoldForPrint();
  document.documentElement.dataset.ready = 'true';
} catch (error) {
  document.documentElement.dataset.error = String(error);
  byId('problem').textContent = `This report could not be drawn: ${error}`;
  byId('problem').hidden = false;
}
