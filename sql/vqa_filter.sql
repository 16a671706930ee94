-- The filter behind a question. A web text is kept if the answerer finds the given answer to a question about the image
-- likely enough, and the text matches the image: without watermarks, for example. Images that fail the question cost no
-- pass of the filter; their itm_score is NULL.
--
--   $question    'is there a watermark?'
--   $answer      the answer that images must have: 'no'
--   $min_answer  least probability of the answer, from 0 to 1; it depends on the answerer and the question, so look at
--                answer_score on a sample first
--   $min_itm     least probability of a match; BLIP dropped what was below 0.5
--
-- How to run it:
--   capfilt run web.parquet pairs --filter DIR --set capfilt.answerer=DIR --recipe sql/vqa_filter.sql \
--     --param question='is there a watermark?' --param answer=no --param min_answer=0.5 [--min-itm 0.5]

WITH asked AS (
    SELECT *, vqa_score(image, $question, $answer) AS answer_score
    FROM web
),
scored AS (
    SELECT
        *,
        CASE WHEN answer_score >= $min_answer THEN itm_score(image, text) END AS itm_score,
        -- NULL where all is well.
        CASE
            WHEN image_error(image) IS NOT NULL THEN image_error(image)
            WHEN trim(text) <> '' THEN NULL
            ELSE 'no text'
        END AS error
    FROM asked
)
SELECT
    * EXCLUDE (image, text, answer_score, itm_score, error),
    encode(sha256(image), 'hex') AS image_sha256,
    'web' AS source,
    text,
    answer_score,
    itm_score,
    error IS NULL AND coalesce(itm_score >= $min_itm, false) AS kept,
    error,
    image
FROM scored
