-- sql/capfilt.sql with the mean of two filters' scores.
--
--   $second   the other filter's checkpoint
--   $min_itm  least probability of a match

WITH candidates AS (
    SELECT
        * EXCLUDE (text),
        unnest(['web', 'synthetic']) AS source,
        unnest([text, caption(image, named_struct(
            'strategy', 'nucleus', 'top_k', 50, 'top_p', 0.9, 'repetition_penalty', 1.1, 'min_length', 5))]) AS text
    FROM web
),
scored AS (
    SELECT
        *,
        CAST((itm_score(image, text) + itm_score(image, text, named_struct('model', $second))) / 2 AS REAL) AS itm_score,
        CASE
            WHEN image_error(image) IS NOT NULL THEN image_error(image)
            WHEN trim(text) <> '' THEN NULL
            WHEN source = 'web' THEN 'no text'
            ELSE 'no caption'
        END AS error
    FROM candidates
)
SELECT
    * EXCLUDE (image, source, text, itm_score, error),
    encode(sha256(image), 'hex') AS image_sha256,
    source,
    text,
    itm_score,
    error IS NULL AND coalesce(itm_score >= $min_itm, false) AS kept,
    error,
    image
FROM scored
