-- What run.sh prints of its pair table. `noise` says what is wrong with a web text, so that verdicts can be held against the truth.

CREATE VIEW texts AS
SELECT *, noise = 'none' AS is_true, array_position(['en', 'de', 'fr', 'es', 'ja', 'hi'], lang) AS place FROM pairs WHERE source = 'web';

-- The same pictures and the same noise in each language. 60 % of the texts are true, so a precision of 60 % is that of drawn lots.
SELECT lang, count(*) AS texts, count(*) FILTER (WHERE kept) AS kept, round(100 * avg(CAST(kept AS INT)), 1) AS "kept %",
       round(100 * avg(CAST(is_true AS INT)) FILTER (WHERE kept), 1) AS "precision %",
       round(100 * avg(CAST(kept AS INT)) FILTER (WHERE is_true), 1) AS "recall %"
FROM texts GROUP BY lang, place ORDER BY place;

-- Kept, in percent, by what is wrong with the text.
SELECT noise, count(*) AS texts,
       round(100 * avg(CAST(kept AS INT)) FILTER (WHERE lang = 'en'), 1) AS en,
       round(100 * avg(CAST(kept AS INT)) FILTER (WHERE lang = 'de'), 1) AS de,
       round(100 * avg(CAST(kept AS INT)) FILTER (WHERE lang = 'fr'), 1) AS fr,
       round(100 * avg(CAST(kept AS INT)) FILTER (WHERE lang = 'es'), 1) AS es,
       round(100 * avg(CAST(kept AS INT)) FILTER (WHERE lang = 'ja'), 1) AS ja,
       round(100 * avg(CAST(kept AS INT)) FILTER (WHERE lang = 'hi'), 1) AS hi
FROM texts GROUP BY noise ORDER BY texts DESC, noise DESC;

-- True texts, by whether they have a word that this table's English names have too: "Panda", "T-Shirt", "trombone".
CREATE VIEW words AS
SELECT key, lang, unnest(string_to_array(trim(regexp_replace(lower(text), '[^\p{L}\p{M}\p{N}]+', ' ', 'g')), ' ')) AS word
FROM texts WHERE noise <> 'boilerplate';

CREATE VIEW readable AS
SELECT texts.*, english.key IS NOT NULL AS has_english_word
FROM texts LEFT JOIN (SELECT DISTINCT key FROM words WHERE word IN (SELECT word FROM words WHERE lang = 'en')) AS english
ON texts.key = english.key;

SELECT lang, count(*) FILTER (WHERE has_english_word) AS with_english_word,
       round(100 * avg(CAST(kept AS INT)) FILTER (WHERE has_english_word), 1) AS "kept %",
       count(*) FILTER (WHERE NOT has_english_word) AS without,
       round(100 * avg(CAST(kept AS INT)) FILTER (WHERE NOT has_english_word), 1) AS "kept % of these"
FROM readable WHERE is_true AND lang <> 'en' GROUP BY lang, place ORDER BY place;

-- A word that the tokenizer does not know is [UNK], whatever it says. So two texts of as many unknown words are one text to the filter:
-- for the same picture they have the same score, to the last digit, the true one and the false one.
SELECT split_part(a.key, '.', 1) AS picture, a.text AS true_text, b.text AS false_text, a.itm_score, a.kept
FROM texts a JOIN texts b ON a.picture = b.picture AND a.lang <> b.lang AND a.itm_score = b.itm_score
WHERE a.is_true AND b.noise IN ('other', 'near miss') ORDER BY a.itm_score DESC LIMIT 5;

-- What the captioner says, where the English text is the picture's name. (WordPiece sets hyphens and apostrophes apart.)
CREATE VIEW captions AS
SELECT a.image_sha256, lower(a.text) AS name, replace(replace(b.text, ' - ', '-'), ' '' ', '''') AS caption, b.itm_score, b.kept
FROM texts a JOIN pairs b ON a.key = b.key WHERE a.lang = 'en' AND a.is_true AND b.source = 'synthetic';

SELECT name, caption, round(itm_score, 3) AS itm_score, kept FROM captions ORDER BY image_sha256 LIMIT 6;

SELECT CASE WHEN kept THEN 'kept' ELSE 'dropped' END AS captions, count(*) AS pictures,
       count(*) FILTER (WHERE caption = name) AS that_are_the_name
FROM captions GROUP BY kept ORDER BY kept DESC;

-- What the kept pairs are. A picture has one caption, in English, whatever languages stand beside it.
SELECT CASE source WHEN 'web' THEN 'web, ' || lang ELSE 'captions, en' END AS kept_pairs, count(DISTINCT (picture, text)) AS number
FROM pairs WHERE kept GROUP BY kept_pairs ORDER BY number DESC;
