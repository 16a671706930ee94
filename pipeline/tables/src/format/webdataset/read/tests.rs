//! Tars made byte by byte, and what is read from them.

use datafusion::arrow::array::{Array as _, AsArray as _};

use crate::format::webdataset::read::*;

fn tar(members: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, bytes) in members {
        let mut header = tar::Header::new_ustar();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, name, *bytes).unwrap();
    }
    builder.into_inner().unwrap()
}

fn read(bytes: &[u8], ranges: &[(u64, u64)], most: usize) -> Result<Vec<RecordBatch>, TarError> {
    samples("x.tar".to_owned(), io::Cursor::new(bytes.to_vec()), ranges.to_vec(), most, Reader::Sql).collect()
}

fn counted(bytes: &[u8]) -> Result<Counted, TarError> {
    count(io::Cursor::new(bytes), &Halt::default())
}

fn keys(batches: &[RecordBatch]) -> Vec<String> {
    batches
        .iter()
        .flat_map(|b| b.column(0).as_string_view().iter().flatten().map(str::to_owned).collect::<Vec<_>>())
        .collect()
}

#[test]
fn samples_are_what_belongs_together() {
    let members: Vec<(String, Vec<u8>)> = (0..5)
        .flat_map(|n| {
            [(format!("{n:03}.jpg"), vec![n; 700]), (format!("{n:03}.txt"), format!("text {n}").into_bytes())]
        })
        .collect();
    let mut members: Vec<(&str, &[u8])> = members.iter().map(|(n, b)| (n.as_str(), b.as_slice())).collect();
    members.push(("005.json", b"{}"));
    members.push(("005.cls", b"7"));
    let bytes = tar(&members);
    let all = read(&bytes, &[(0, 100)], 2).unwrap();
    assert_eq!(all.iter().map(RecordBatch::num_rows).collect::<Vec<_>>(), [2, 2, 2]);
    assert_eq!(keys(&all), ["000", "001", "002", "003", "004", "005"]);
    assert_eq!(all[1].column(1).as_binary_view().value(0), [2; 700]);
    assert_eq!(all[1].column(2).as_string_view().value(1), "text 3");
    assert!(all[2].column(1).is_null(1) && all[2].column(2).is_null(1));
    assert_eq!(all[2].column(3).as_string_view().value(1), "{}");
    assert_eq!(keys(&read(&bytes, &[(1, 2), (4, 1)], 10).unwrap()), ["001", "002", "004"]);
    assert_eq!(keys(&read(&bytes, &[(0, 3)], 2).unwrap()), ["000", "001", "002"]);
    assert_eq!(keys(&read(&bytes, &[(1, 1)], 10).unwrap()), ["001"]);

    assert_eq!(counted(&bytes).unwrap().samples, 6);
}

#[test]
fn the_first_of_two_images_counts() {
    let twice = tar(&[("a.jpg", b"1"), ("a.png", b"2"), ("a.txt", b"x"), ("a.caption", b"y"), ("b.png", b"3")]);
    let rows = read(&twice, &[(0, 9)], 9).unwrap();
    assert_eq!(keys(&rows), ["a", "b"]);
    assert_eq!(rows[0].column(1).as_binary_view().iter().flatten().collect::<Vec<_>>(), [b"1", b"3"]);
    assert_eq!(rows[0].column(2).as_string_view().value(0), "x");
}

#[test]
fn what_is_broken_is_an_error() {
    let bytes = tar(&[("a.jpg", &[1; 2000]), ("a.txt", b"x"), ("b.jpg", &[2; 2000])]);
    assert!(read(&bytes[..bytes.len() - 2500], &[(0, 9)], 9).unwrap_err().to_string().contains("broken"));
    assert!(read(b"not a tar file at all", &[(0, 9)], 9).is_err());
    assert!(read(&tar(&[]), &[(0, 9)], 9).unwrap().is_empty());
    assert_eq!(counted(&tar(&[])).unwrap().samples, 0);
    assert!(counted(&[]).err().unwrap().to_string().contains("empty"));
}

/// A row as a job reads it: key, bytes of the image, text, problem.
type Row = (String, Option<usize>, Option<String>, Option<String>);

/// Rows as a job reads them.
fn rows(bytes: &[u8]) -> Vec<Row> {
    let job = Reader::Job { max_image_bytes: 1000 };
    let batches = samples("x.tar".to_owned(), io::Cursor::new(bytes.to_vec()), vec![(0, 99)], 9, job);
    let mut rows = Vec::new();
    for batch in batches.map(Result::unwrap) {
        let text = |column: usize, row: usize| {
            let texts = batch.column(column).as_string_view();
            texts.is_valid(row).then(|| texts.value(row).to_owned())
        };
        let images = batch.column(1).as_binary_view();
        rows.extend((0..batch.num_rows()).map(|row| {
            let image = images.is_valid(row).then(|| images.value(row).len());
            (text(0, row).unwrap(), image, text(2, row), text(4, row))
        }));
    }
    assert_eq!(counted(bytes).unwrap().samples, rows.len() as u64);
    rows
}

#[test]
fn an_image_that_is_not_read_is_the_rows_problem() {
    let all = rows(&tar(&[
        ("a.jpg", &[1; 1001]),
        ("a.txt", b"\xef\xbb\xbf large \n"),
        ("b.left.jpg", b"1"),
        ("b.right.jpg", b"2"),
        ("b.txt", b"two"),
        ("c.jfif", b"3"),
        ("c.mask.png", b"4"),
        ("d.txt", b"none"),
    ]));
    let row = |key: &str, image: Option<usize>, text: Option<&str>, problem: Option<&str>| {
        (key.to_owned(), image, text.map(str::to_owned), problem.map(str::to_owned))
    };
    let large = "image: larger than 1000 bytes (capfilt.max_image_bytes)";
    assert_eq!(
        all,
        [
            row("a", None, Some("large"), Some(large)),
            row("b", None, Some("two"), Some("no image: left.jpg is passed over")),
            row("c", Some(1), None, None),
            row("d", None, Some("none"), None),
        ]
    );
}

#[test]
fn members_that_are_passed_over_are_counted() {
    let large = vec![b'x'; usize::try_from(sidecar::MOST_TEXT_BYTES).unwrap() + 1];
    let bytes = tar(&[
        ("a.jpg", b"1"),
        ("a.png", b"2"),
        ("a.cls", b"7"),
        ("b.0.txt", b"x"),
        ("b.txt", &large),
        ("a.txt", b"y"),
    ]);
    let passed = format!("{:?}", counted(&bytes).unwrap().passed);
    let wanted = "{Twice: (1, \"a.png\"), Dotted: (1, \"b.0.txt\"), Field: (1, \"a.cls\"), TooLong: (1, \"b.txt\"), Parted: (1, \"a\")}";
    assert_eq!(passed, format!("Passed({wanted})"));
    let texts: Vec<_> = rows(&bytes).into_iter().map(|row| (row.0, row.2)).collect();
    assert_eq!(texts, [("a".to_owned(), None), ("b".to_owned(), None), ("a".to_owned(), Some("y".to_owned()))]);
}

#[test]
fn names_that_differ_in_bad_bytes_are_two_rows() {
    let mut builder = tar::Builder::new(Vec::new());
    for name in [&b"\xe90.jpg"[..], b"\xe90.txt", b"\xe80.jpg", b"\xe80.txt"] {
        let mut header = tar::Header::new_gnu();
        header.as_mut_bytes()[..name.len()].copy_from_slice(name);
        header.set_size(1);
        header.set_cksum();
        builder.append(&header, &b"x"[..]).unwrap();
    }
    let keys: Vec<String> = rows(&builder.into_inner().unwrap()).into_iter().map(|row| row.0).collect();
    assert_eq!(keys, ["%E90", "%E80"]);
}

/// Member of a special type, whose header the tar crate does not build.
fn member(name: &str, of: u8, bytes: &[u8]) -> Vec<u8> {
    let mut header = tar::Header::new_ustar();
    header.set_path(name).unwrap();
    header.set_size(bytes.len() as u64);
    header.set_mode(0o644);
    header.as_mut_bytes()[156] = of;
    header.set_cksum();
    let mut all = header.as_bytes().to_vec();
    all.extend(bytes);
    all.resize(all.len().next_multiple_of(512), 0);
    all
}

#[test]
fn members_of_old_and_odd_types_are_read_or_counted() {
    let all = [
        member("a/", b'5', b""),
        member("a/0.jpg", b'7', b"image"),
        member("a/0.txt", 0, b"text"),
        member("a/1.jpg", b'1', b""),
        member("a/1.txt", b'0', b"linked"),
        member("a/2.jpg", b'3', b""),
        member("a/2.txt", b'0', b"device"),
        vec![0; 1024],
    ];
    let bytes = all.concat();
    let read: Vec<_> = rows(&bytes).into_iter().map(|row| (row.0, row.1, row.2.unwrap())).collect();
    let row = |key: &str, image: Option<usize>, text: &str| (key.to_owned(), image, text.to_owned());
    assert_eq!(read, [row("a/0", Some(5), "text"), row("a/1", None, "linked"), row("a/2", None, "device")]);
    let passed = format!("{:?}", counted(&bytes).unwrap().passed);
    assert_eq!(passed, "Passed({Link: (1, \"a/1.jpg\"), Special: (1, \"a/2.jpg\")})");
}

#[test]
fn what_is_compressed_is_said_to_be() {
    for begin in [&b"\x1f\x8b\x08\x00"[..], b"\x28\xb5\x2f\xfd\x04", b"\xfd7zXZ\x00", b"BZh91AY"] {
        let bytes = [begin, &[7; 2000]].concat();
        for said in [counted(&bytes).err().unwrap().to_string(), read(&bytes, &[(0, 9)], 9).unwrap_err().to_string()] {
            assert!(said.contains("it is compressed"), "{said}");
        }
    }
    let said = counted(&[0x80_u8, 0x81].repeat(500)).err().unwrap().to_string();
    assert!(said.ends_with("a header is damaged"), "{said}");
}
