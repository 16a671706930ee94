-- CapFilt as BLIP's authors ran it: the captioner writes one synthetic text for each image, the filter judges the web text
-- and the synthetic one, and a text is kept if it matches the image. An image keeps 0, 1 or 2 texts.
--
--   $min_itm   least probability of a match; BLIP dropped what was below 0.5
--   $prompt    what the caption goes on from: 'a picture of ' for captioners finetuned on COCO, '' for others
--
-- How to run it:
--   capfilt run web.parquet pairs --captioner DIR --filter DIR [--min-itm 0.5] [--prompt 'a picture of ']

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
scored AS (
    SELECT
        *,
        itm_score(image, text) AS itm_score,
        -- NULL where all is well.
        CASE
            WHEN image_error(image) IS NOT NULL THEN image_error(image)
            WHEN trim(text) <> '' THEN NULL
            WHEN source = 'web' THEN 'no text'
            ELSE 'no caption'
        END AS error
    FROM pairs
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
