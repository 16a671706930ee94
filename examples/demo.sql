-- What `make demo` shows of the pair table that it wrote.

-- A few pictures, each with its web text and its synthetic text.
SELECT id, source, text, round(itm_score, 3) AS itm_score, kept, error
FROM pairs WHERE id IN (43, 53, 529, 1030, 1044, 1100, 1011) ORDER BY id, source DESC;

-- What was kept, by source.
SELECT source, count(*) AS pairs, count(*) FILTER (WHERE kept) AS kept,
       round(100.0 * count(*) FILTER (WHERE kept) / count(*), 1) AS "kept %", round(avg(itm_score), 3) AS mean_itm_score
FROM pairs GROUP BY source ORDER BY source DESC;

-- How well the verdicts on web texts agree with the truth, which this table knows: rows are the truth, columns the verdict.
SELECT CASE WHEN text_is_true THEN 'true text' ELSE 'false text' END AS truth, count(*) AS texts,
       count(*) FILTER (WHERE kept) AS kept, count(*) FILTER (WHERE NOT kept) AS dropped,
       round(100.0 * count(*) FILTER (WHERE kept = text_is_true) / count(*), 1) AS "right %"
FROM pairs WHERE source = 'web' GROUP BY text_is_true ORDER BY truth DESC;
