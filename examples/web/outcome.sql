-- What run.sh prints of its pair table. The folder in a URL says how the server behaved there.

SELECT split_part(url, '/', 4) AS folder, count(*) AS urls, count(*) FILTER (WHERE error IS NULL) AS fetched,
       count(*) FILTER (WHERE kept) AS web_texts_kept, min(error) AS error
FROM pairs WHERE source = 'web' GROUP BY folder ORDER BY urls DESC, folder;
