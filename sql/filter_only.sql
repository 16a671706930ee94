-- The filter without the captioner: which web texts match their images? One pair an image, and no captioner is needed.
-- This is the cheapest pass over a large crawl, and BLIP's own ablation "F".
--
--   $min_itm   least probability of a match; BLIP dropped what was below 0.5
--
-- How to run it:
--   capfilt run web.parquet pairs --filter DIR --recipe sql/filter_only.sql [--min-itm 0.5]

WITH scored AS (
    SELECT
        *,
        itm_score(image, text) AS itm_score,
        -- NULL where all is well.
        CASE
            WHEN image_error(image) IS NOT NULL THEN image_error(image)
            WHEN trim(text) <> '' THEN NULL
            ELSE 'no text'
        END AS error
    FROM web
)
SELECT
    * EXCLUDE (image, text, itm_score, error),
    encode(sha256(image), 'hex') AS image_sha256,
    'web' AS source,
    text,
    itm_score,
    error IS NULL AND coalesce(itm_score >= $min_itm, false) AS kept,
    error,
    image
FROM scored
