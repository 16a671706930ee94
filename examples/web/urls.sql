-- Sixty pictures for the server, and a list of their URLs with the texts that a crawler found beside them. The folder in a URL
-- says how the server behaves there. $server is its address. Both are written where the query runs.

COPY (SELECT lpad(CAST(id AS VARCHAR), 2, '0') AS key, image FROM web WHERE id < 60) TO 'pictures.tar';

COPY (
    SELECT
        $server || CASE
            WHEN id IN (5, 20, 35, 50) THEN '/gone/'
            WHEN id IN (8, 18, 28, 38, 48, 58) THEN '/hiccup/'
            WHEN id = 33 THEN '/noai/'
            WHEN id = 43 THEN '/slow/'
            ELSE '/well/'
        END || lpad(CAST(id AS VARCHAR), 2, '0') || '.png' AS url,
        text
    FROM web WHERE id < 60 ORDER BY id
) TO 'urls.csv';
