-- The best share of a finished pair table, as DataComp's baselines choose it: kept is set anew, true for the $fraction of
-- the scored pairs that have the highest itm_score (and for those that tie with the last of them). No model runs.
--
--   $fraction  the share to keep, 0.3 for the best 30 %
--
-- How to run it, and how to save the result:
--   capfilt sql --table pairs=pairs --param fraction=0.3 -f sql/top_fraction.sql
--   capfilt sql --table pairs=pairs --param fraction=0.3 -c "COPY ($(cat sql/top_fraction.sql)) TO 'best.parquet'"
--
-- capfilt run leaves the image out of dropped pairs. Where the best share may go beyond what it kept, write the pair table
-- with --write-images all.

WITH ranked AS (
    SELECT itm_score, row_number() OVER (ORDER BY itm_score DESC) AS place, count(*) OVER () AS places
    FROM pairs
    WHERE itm_score IS NOT NULL AND error IS NULL
),
threshold AS (
    SELECT min(itm_score) AS itm_score FROM ranked WHERE place <= ceil($fraction * places)
)
SELECT * REPLACE (error IS NULL AND coalesce(itm_score >= (SELECT itm_score FROM threshold), false) AS kept)
FROM pairs
