-- CapFilt in two stages: where the cheap score (ITC, the cosine of image and text) is clear, it decides; the dear one (ITM,
-- a pass of the whole filter) is asked only between its two thresholds. Both scores are returned; itm_score is NULL where
-- it was not needed.
--
--   $itc_low   below it a text is dropped
--   $itc_high  from it on a text is kept
--   $min_itm   between them: least probability of a match
--   $prompt    what the caption goes on from: 'a picture of ' for captioners finetuned on COCO, '' for others
--
-- The thresholds depend on the filter. To find them, run capfilt.sql on a sample, score it with itc_score as well, and take
-- the cosines below which hardly any text has itm_score >= 0.5, and above which hardly any has not.
--
-- How to run it:
--   capfilt run web.parquet pairs --captioner DIR --filter DIR --recipe sql/agreement.sql \
--     --param itc_low=0.2 --param itc_high=0.4 [--min-itm 0.5] [--prompt 'a picture of ']

WITH candidates AS (
    SELECT
        *,
        unnest([
            named_struct('source', 'web', 'text', text),
            named_struct('source', 'synthetic', 'text', caption(image, named_struct(
                'strategy', 'nucleus', 'top_k', 50, 'top_p', 0.9, 'repetition_penalty', 1.1, 'min_length', 5, 'prompt', $prompt)))
        ]) AS candidate
    FROM web
),
pairs AS (
    SELECT * EXCLUDE (text, candidate), candidate['source'] AS source, candidate['text'] AS text
    FROM candidates
),
cheap AS (
    SELECT
        *,
        itc_score(image, text) AS itc_score,
        -- NULL where all is well.
        CASE
            WHEN image_error(image) IS NOT NULL THEN image_error(image)
            WHEN trim(text) <> '' THEN NULL
            WHEN source = 'web' THEN 'no text'
            ELSE 'no caption'
        END AS error
    FROM pairs
),
scored AS (
    SELECT
        *,
        CASE WHEN itc_score >= $itc_low AND itc_score < $itc_high THEN itm_score(image, text) END AS itm_score
    FROM cheap
)
SELECT
    * EXCLUDE (image, source, text, itm_score, itc_score, error),
    encode(sha256(image), 'hex') AS image_sha256,
    source,
    text,
    itm_score,
    itc_score,
    error IS NULL AND coalesce(itc_score >= $itc_high OR itm_score >= $min_itm, false) AS kept,
    error,
    image
FROM scored
