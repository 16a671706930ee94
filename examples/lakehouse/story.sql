-- What run.sh prints: three versions of one pair table, side by side.

CREATE VIEW pairs AS
SELECT version, id, source, text, itm_score, kept, text_is_true
FROM (SELECT 0 AS version, * FROM v0 UNION ALL SELECT 1, * FROM v1 UNION ALL SELECT 2, * FROM v2);

-- Each version: what it keeps, and what that is worth for web texts, whose truth this table knows.
SELECT version, count(DISTINCT id) AS pictures,
       count(*) FILTER (WHERE kept AND source = 'synthetic') AS synthetic_kept,
       count(*) FILTER (WHERE kept AND source = 'web') AS web_kept,
       count(*) FILTER (WHERE kept AND source = 'web' AND NOT text_is_true) AS false_ones,
       count(*) FILTER (WHERE NOT kept AND source = 'web' AND text_is_true) AS true_ones_dropped
FROM pairs GROUP BY version ORDER BY version;

-- `capfilt update` left the pairs of version 0 as they were.
SELECT count(*) AS pairs_of_version_0,
       count(*) FILTER (WHERE (old.text, old.itm_score, old.kept)
                              IS DISTINCT FROM (new.text, new.itm_score, new.kept)) AS changed_by_update
FROM pairs old JOIN pairs new ON old.id = new.id AND old.source = new.source
WHERE old.version = 0 AND new.version = 1;

-- Some of what version 2 drops of version 1.
SELECT old.id, old.source, old.text, CASE old.source WHEN 'web' THEN old.text_is_true END AS is_true,
       round(old.itm_score, 3) AS score
FROM pairs old JOIN pairs new ON old.id = new.id AND old.source = new.source
WHERE old.version = 1 AND new.version = 2 AND old.kept AND NOT new.kept ORDER BY old.id, old.source DESC LIMIT 6;
