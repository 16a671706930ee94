//! Requests sent, and responses accepted.

use super::*;

#[test]
fn answers_are_taken_as_browsers_take_them() {
    let place = Place::new();
    let server = Server::new();
    let paths = [
        ("/to-utf8", Ok("/ok/%C3%A9".as_bytes())),
        ("/to-latin1", Ok(b"/ok/%E9")),
        ("/bad-header", Ok(b"/bad-header")),
        ("/coding/GZIP", Ok(ZIPPED)),
        ("/coding/x-gzip", Ok(ZIPPED)),
        ("/proxied", Ok(b"/proxied")),
        ("/range/9", Ok(b"0123456789")),
        ("/range/4", Err("status 206 Partial Content")),
        ("/status/204", Err("status 204 No Content")),
        ("/brotli", Err("encoded by br, which was not asked for")),
    ];
    let rows = fetched(&place, &server.urls(&paths.map(|(path, _)| path)), &["fetch.retries=0"]);
    for (row, (path, expected)) in rows.iter().zip(paths) {
        match expected {
            Ok(body) => {
                assert!(row["error"].is_null(), "{path}: {row}");
                assert_eq!(
                    (&row["bytes"], &row["sha256"]),
                    (&hex::encode(body).into(), &sha256(body).into()),
                    "{path}"
                );
            }
            Err(reason) => lacks(row, reason),
        }
    }
    assert_eq!((server.requests("/ok/%C3%A9"), server.requests("/ok/%E9")), (1, 1));
}

#[test]
fn hosts_of_excluded_rows_are_not_asked() {
    let place = Place::new();
    let server = Server::new();
    let rows: Vec<_> = (1..=6).map(|v| format!("({v}, '{}')", server.url(&format!("/ok/{v}")))).collect();
    let rows = format!("(VALUES {}) AS l(v, url)", rows.join(", "));
    let asks = |query: &str| -> usize {
        let query = query.replace("$l", &rows);
        let before = server.all_requests();
        place.ok(&[&["sql", "-c", &query][..], &PRIVATE].concat());
        server.all_requests() - before
    };
    assert_eq!(asks("SELECT fetch_url(url)['status'] FROM $l"), 6);
    assert_eq!(asks("SELECT v FROM $l WHERE fetch_url(url)['status'] = 200 AND v < 3"), 2);
    assert_eq!(asks("SELECT v, fetch_url(url)['status'] FROM $l ORDER BY v DESC LIMIT 2"), 2);
    assert_eq!(asks("SELECT fetch_url(url)['status'] FROM $l LIMIT 1 OFFSET 2"), 1);
    let fields = "SELECT f['status'], f['error'] FROM (SELECT v, fetch_url(url) AS f FROM $l) ORDER BY v LIMIT 3";
    assert_eq!(asks(fields), 3);
    let joined =
        "SELECT f['status'] FROM (SELECT v, fetch_url(url) AS f FROM $l) JOIN (VALUES (2), (9)) AS few(v) USING (v)";
    assert_eq!(asks(joined), 1);
}
