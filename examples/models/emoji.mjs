// Emoji as image-text tables, for training the project's models and for the demo.
//
//   node emoji.mjs OUT BAD
//
// Pictures are openly licensed drawings from npm packages, rendered at 72 px on white; names are Unicode's. OUT gets JSON lines, with
// images in base64:
//   train.jsonl       drawings of several artists with their names: image, text, artist
//   web.jsonl         drawings of another artist, which training never sees, with the texts of a noisy web: id, url, image, text,
//                     text_is_true; the last rows are the files in BAD
//   validation.jsonl  as web.jsonl, of one more artist, to choose settings by
//   words.json        all words of the names

import { existsSync, readFileSync, readdirSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { dice } from '../dice.mjs';

const packages = createRequire(join(process.cwd(), 'package.json'));
const sharp = packages('sharp');
const [, , out, bad] = process.argv;

const SIDE = 72;
const TRAIN = ['noto', 'noto-v1', 'fluent-emoji-flat', 'fluent-emoji', 'fluent-emoji-3d', 'emojione', 'fxemoji', 'streamline-emojis'];
const VALIDATION = 'openmoji';
const WEB = 'twemoji';
const GROUPS = ['Smileys & Emotion', 'Animals & Nature', 'Food & Drink', 'Travel & Places', 'Activities', 'Objects'];
// Told apart by hands of a clock that 64 pixels hardly show.
const LEFT_OUT = /o[’']clock|thirty$/;
const BOILERPLATE = [
  'image', 'untitled', 'click to enlarge', 'buy now - free shipping', 'download wallpaper hd', 'IMG_#.png', 'stock photo #', 'photo by user#',
  'page # of #', 'all rights reserved',
];

const unicode = Object.entries(packages('unicode-emoji-json/data-by-emoji.json'))
  .map(([emoji, { name, slug, group }]) => ({
    code: [...emoji].map((c) => c.codePointAt(0).toString(16)).filter((c) => c !== 'fe0f').join('-'),
    name: name.toLowerCase().replaceAll('’', "'").replaceAll('“', '"').replaceAll('”', '"'),
    slug: slug.replaceAll('_', '-'),
    group,
  }))
  .filter(({ name, group }) => GROUPS.includes(group) && !LEFT_OUT.test(name));

/** A function from a thing to its vector drawing, if there is one, in a set of Iconify's; sets that know no characters go by names. */
function vectors(artist) {
  const { icons, aliases = {}, width, height } = packages(`@iconify-json/${artist}/icons.json`);
  const file = packages.resolve(`@iconify-json/${artist}/icons.json`).replace('icons.json', 'chars.json');
  const chars = existsSync(file) ? packages(file) : {};
  return ({ code, slug }) => {
    const names = [chars[code], slug, slug.replaceAll('-', ''), `${slug}-1`].filter(Boolean);
    const icon = names.map((name) => icons[name] ?? icons[aliases[name]?.parent]).find(Boolean);
    if (!icon) return null;
    const [w, h] = [icon.width ?? width ?? 16, icon.height ?? height ?? 16];
    const box = `${icon.left ?? 0} ${icon.top ?? 0} ${w} ${h}`;
    const svg = `<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" viewBox="${box}">${icon.body}</svg>`;
    return sharp(Buffer.from(svg), { density: (72 * SIDE * 2) / h });
  };
}

/** The same for Fluent's solid models, which are pictures by their characters' codes. */
function solids() {
  const folder = join(packages.resolve('@lobehub/fluent-emoji-3d/package.json'), '../assets');
  const files = new Map(readdirSync(folder).map((file) => [file.replace('.webp', '').replaceAll('-fe0f', ''), join(folder, file)]));
  return ({ code }) => (files.has(code) ? sharp(files.get(code)) : null);
}

/** An artist's drawings: things with a PNG file. */
async function drawings(artist) {
  const draw = artist === 'fluent-emoji-3d' ? solids() : vectors(artist);
  const found = [];
  for (const thing of unicode) {
    const picture = draw(thing)?.resize(SIDE, SIDE, { fit: 'contain', background: 'white' }).flatten({ background: 'white' });
    if (picture) found.push({ ...thing, image: (await picture.png({ compressionLevel: 9 }).toBuffer()).toString('base64') });
  }
  console.error(`${artist}: ${found.length} drawings`);
  return found;
}

function write(file, rows) {
  writeFileSync(join(out, file), rows.map((row) => JSON.stringify(row) + '\n').join(''));
}

/** What stands beside pictures on the web: half of it true. */
async function noisy(artist, seed) {
  const random = dice(seed);
  const pick = (all) => all[Math.floor(random() * all.length)];
  return (await drawings(artist)).map(({ code, name, image }, i) => {
    const kind = random();
    let text = name;
    if (kind >= 0.96) text = random() < 0.5 ? null : '';
    else if (kind >= 0.82) text = pick(BOILERPLATE).replaceAll('#', () => String(1 + Math.floor(random() * 9999)));
    else if (kind >= 0.54) do text = pick(unicode).name; while (text === name);
    return { id: i, url: `https://example.com/${artist}/${code}.png`, image, text, text_is_true: text === name };
  });
}

const train = [];
for (const artist of TRAIN) train.push(...(await drawings(artist)).map(({ name, image }) => ({ image, text: name, artist })));
write('train.jsonl', train);
const web = await noisy(WEB, 1);
for (const file of readdirSync(bad).sort()) {
  const image = readFileSync(join(bad, file)).toString('base64');
  web.push({ id: web.length, url: `https://example.com/bad/${file}`, image, text: 'a broken image', text_is_true: false });
}
web.push({ id: web.length, url: 'https://example.com/gone.png', image: null, text: 'a picture that is gone', text_is_true: false });
write('web.jsonl', web);
write('validation.jsonl', await noisy(VALIDATION, 2));
const words = unicode.flatMap(({ name }) => name.match(/[\p{L}\p{N}]+/gu) ?? []);
writeFileSync(join(out, 'words.json'), JSON.stringify([...new Set(words)].sort()));
