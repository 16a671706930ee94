-- The captioner without the filter: the web text and a synthetic one, both kept if there is an image and a text at all.
-- For data whose texts are trusted but few, and BLIP's own ablation "C". No filter is needed, and no score is given.
--
--   $prompt    what the caption goes on from: 'a picture of ' for captioners finetuned on COCO, '' for others
--
-- How to run it:
--   capfilt run web.parquet pairs --captioner DIR --recipe sql/caption_only.sql [--prompt 'a picture of ']

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
checked AS (
    SELECT
        *,
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
    * EXCLUDE (image, source, text, error),
    encode(sha256(image), 'hex') AS image_sha256,
    source,
    text,
    CAST(NULL AS REAL) AS itm_score,
    error IS NULL AS kept,
    error,
    image
FROM checked
