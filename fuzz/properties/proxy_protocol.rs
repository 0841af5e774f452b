//! PROXY headers: the verdict is that of the bytes and not of how they are cut, nothing behind a header
//! counts, and what is written of what was read is read as the same.

use wardgate::net::proxy_protocol::{MAX_BYTES, Said, Verdict, Version, inspect};

pub(crate) fn check(data: &[u8]) {
    let whole = inspect(data);
    // Every cut of a short one, some of a long one.
    let step = data.len() / 512 + 1;
    let mut cuts = (0..data.len()).step_by(step).chain([data.len()]);
    let first = cuts.find_map(|end| match inspect(&data[..end]) {
        Verdict::Incomplete => None,
        decided => Some((end, decided)),
    });
    match whole {
        Verdict::Incomplete => {
            assert_eq!(first, None, "what is decided stays so");
            assert!(data.len() < MAX_BYTES, "an end is found or there is none");
        }
        Verdict::Refuse(_) => assert_eq!(first.map(|(_, verdict)| verdict), Some(whole)),
        Verdict::Header { len, said } => {
            assert!(len <= data.len() && len <= MAX_BYTES);
            let (end, verdict) = first.expect("it is decided at the end at the latest");
            assert_eq!(verdict, whole);
            assert!(end >= len && end < len + step, "decided with the last byte, and not before");
            assert_eq!(inspect(&data[..len]), whole, "nothing behind it counts");
            assert_eq!(inspect(&data[..len - 1]), Verdict::Incomplete);
            again(said);
        }
    }
}

fn again(said: Said) {
    let Said::Client { source, destination } = said else { return };
    assert_eq!(source.ip(), source.ip().to_canonical());
    for version in [Version::V1, Version::V2] {
        let header = version.header(source, destination);
        let len = header.len();
        assert_eq!(inspect(&header), Verdict::Header { len, said }, "{version:?}");
    }
}
