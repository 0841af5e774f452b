//! The frames of an h2 client: what a client has spent does not depend on how its bytes are cut.

use std::time::Instant;

use wardgate::listen::FrameWatch;

pub(crate) fn check(data: &[u8]) {
    let now = Instant::now();
    // A cheap frame again and again, so that short inputs come near the limit.
    let mut bytes = vec![0; 24];
    for _ in 0..data.first().copied().unwrap_or_default() {
        bytes.extend_from_slice(&data[1..data.len().min(64)]);
    }
    bytes.extend_from_slice(data);
    let whole = FrameWatch::new(now).receive(&bytes, || now);
    for step in [1, 5, 9, 100] {
        let mut budget = FrameWatch::new(now);
        let mut fits = true;
        for piece in bytes.chunks(step) {
            let still = budget.receive(piece, || now);
            assert!(fits || !still, "what is spent stays so while no time passes");
            fits = still;
        }
        assert_eq!(fits, whole, "{step} at a time");
    }
}
