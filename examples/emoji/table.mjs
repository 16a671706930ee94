// A table of emoji in six languages, with noise of known place: pictures and the texts beside them.
//
//   node table.mjs OUT      in a folder with the npm packages that run.sh names
//
// OUT gets:
//   pictures/CODE.png   Twemoji's drawings, 72 px on white, each once
//   texts.jsonl         six rows for each picture, one a language: key, picture, lang, text, noise
//
// Texts are Unicode's names of emoji (CLDR). In each language the same share of them is spoilt, each time for other pictures, and
// `noise` says how:
//   none         60 %  the picture's own name
//   other        15 %  the name of something of another subgroup: "pear" for a bus
//   near miss    15 %  the name of something of the same subgroup: "peach" for a pear
//   boilerplate  10 %  what stands beside pictures on the web: "click to enlarge", "IMG_2041.jpg"

import { mkdirSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { dice } from '../dice.mjs';

const packages = createRequire(join(process.cwd(), 'package.json'));
const sharp = packages('sharp');
const [, , out] = process.argv;

const SIDE = 72;
const SHARES = [['other', 0.15], ['near miss', 0.15], ['boilerplate', 0.1]];
// Emojibase's numbers of the groups whose names the example's models have seen: smileys, animals, food, travel, activities, objects.
// They have not seen the clock's hours.
const GROUPS = [0, 3, 4, 5, 6, 7];
const LEFT_OUT = /o[’']clock|thirty$/;
// Also the list of the languages, whose places are their seeds.
const BOILERPLATE = {
  en: ['click to enlarge', 'untitled', 'all rights reserved', 'stock photo #'],
  de: ['zum Vergrößern klicken', 'ohne Titel', 'alle Rechte vorbehalten', 'Symbolbild #'],
  fr: ['cliquez pour agrandir', 'sans titre', 'tous droits réservés', "photo d'illustration #"],
  es: ['haz clic para ampliar', 'sin título', 'todos los derechos reservados', 'foto de archivo #'],
  ja: ['クリックして拡大', '無題', '無断転載禁止', 'イメージ写真 #'],
  hi: ['बड़ा करने के लिए क्लिक करें', 'शीर्षकहीन', 'सर्वाधिकार सुरक्षित', 'फ़ाइल फ़ोटो #'],
};
const FILE_NAMES = ['IMG_#.jpg', 'DSC0#.JPG'];

const { icons, aliases = {}, width, height } = packages('@iconify-json/twemoji/icons.json');
const chars = packages('@iconify-json/twemoji/chars.json');

/** What is drawn: its code, which is its file's name, its group and subgroup, and its drawing. */
const things = packages('emojibase-data/en/data.json')
  .filter(({ group, label }) => GROUPS.includes(group) && !LEFT_OUT.test(label))
  .map(({ hexcode, subgroup }) => {
    const code = hexcode.toLowerCase().split('-').filter((c) => c !== 'fe0f').join('-');
    return { hexcode, code, subgroup, icon: icons[chars[code]] ?? icons[aliases[chars[code]]?.parent] };
  })
  .filter(({ icon }) => icon)
  // One that is alone in its subgroup (the frog) has no near miss.
  .filter(({ subgroup }, _, all) => all.filter((thing) => thing.subgroup === subgroup).length > 1);

async function draw({ code, icon }) {
  const box = `${icon.left ?? 0} ${icon.top ?? 0} ${icon.width ?? width} ${icon.height ?? height}`;
  const svg = `<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" viewBox="${box}">${icon.body}</svg>`;
  const picture = sharp(Buffer.from(svg), { density: (72 * SIDE * 2) / (icon.height ?? height) });
  const resized = picture.resize(SIDE, SIDE, { fit: 'contain', background: 'white' }).flatten({ background: 'white' });
  await resized.png({ compressionLevel: 9 }).toFile(join(out, 'pictures', `${code}.png`));
}

/** A language's rows, in the order of `things`. */
function rows(lang, seed) {
  const random = dice(seed);
  const pick = (all) => all[Math.floor(random() * all.length)];
  const labels = new Map(packages(`emojibase-data/${lang}/data.json`).map(({ hexcode, label }) => [hexcode, label]));
  const named = things.map((thing) => ({ ...thing, name: labels.get(thing.hexcode) }));
  const number = () => String(1000 + Math.floor(random() * 9000));
  const spoilt = {
    other: ({ subgroup, name }) => pick(named.filter((t) => t.subgroup !== subgroup && t.name !== name)).name,
    'near miss': ({ subgroup, name }) => pick(named.filter((t) => t.subgroup === subgroup && t.name !== name)).name,
    boilerplate: () => pick(random() < 0.5 ? FILE_NAMES : BOILERPLATE[lang]).replaceAll('#', number),
  };
  // Fisher and Yates: which pictures get which noise.
  const order = named.map((_, i) => i);
  for (let i = order.length - 1; i > 0; i--) {
    const j = Math.floor(random() * (i + 1));
    [order[i], order[j]] = [order[j], order[i]];
  }
  const noise = new Map();
  for (const [kind, share] of SHARES) for (const i of order.splice(0, Math.round(share * named.length))) noise.set(i, kind);
  return named.map((thing, i) => ({
    key: `${thing.code}.${lang}`,
    picture: `pictures/${thing.code}.png`,
    lang,
    text: noise.has(i) ? spoilt[noise.get(i)](thing) : thing.name,
    noise: noise.get(i) ?? 'none',
  }));
}

mkdirSync(join(out, 'pictures'), { recursive: true });
for (const thing of things) await draw(thing);
const languages = Object.keys(BOILERPLATE).map((lang, i) => rows(lang, i + 1));
// All that is said of a picture stands together.
const table = things.flatMap((_, i) => languages.map((language) => language[i]));
writeFileSync(join(out, 'texts.jsonl'), table.map((row) => JSON.stringify(row) + '\n').join(''));
console.error(`${things.length} pictures, ${table.length} texts`);
