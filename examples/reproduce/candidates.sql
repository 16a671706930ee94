-- sql/capfilt.sql with several synthetic texts a picture, by a strategy of one's choice.
--
--   $strategy    'nucleus' or 'beam'
--   $candidates  how many texts
--   $min_itm     least probability of a match

WITH candidates AS (
    SELECT
        * EXCLUDE (text),
        unnest(array_prepend('web', array_repeat('synthetic', $candidates))) AS source,
        unnest(array_prepend(text, captions(image, $candidates, named_struct(
            'strategy', $strategy, 'top_k', 50, 'top_p', 0.9, 'repetition_penalty', 1.1, 'min_length', 5)))) AS text
    FROM web
),
scored AS (
    SELECT
        *,
        itm_score(image, text) AS itm_score,
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
