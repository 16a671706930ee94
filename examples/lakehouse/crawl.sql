-- Rows of a crawl as they came, so that they can stand in a Delta table: no model runs, and nothing is judged but whether the
-- image can be used.

SELECT
    * EXCLUDE (image),
    encode(sha256(image), 'hex') AS image_sha256,
    'web' AS source,
    CAST(NULL AS REAL) AS itm_score,
    image_error(image) IS NULL AS kept,
    image_error(image) AS error,
    image
FROM web
