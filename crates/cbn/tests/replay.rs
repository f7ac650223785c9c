//! The published preset does what the released layer did.

#[path = "../examples/replay/recording.rs"]
mod recording;

use std::path::Path;

use recording::{COMPARED, Recording};

#[test]
fn recordings_of_the_released_layer_are_reproduced() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/cbn_published");
    let mut files = 0;
    for entry in std::fs::read_dir(folder).expect("the fixtures are part of the crate") {
        let path = entry.expect("a readable folder").path();
        let errors = Recording::read(&path).and_then(|recording| recording.replay()).expect("a recording");
        // Both sides sum in f32 in other orders; the running mean of a channel may nearly cancel.
        assert!(errors.largest() < 1e-5, "{}: {:?} of {COMPARED:?}", path.display(), errors.0);
        files += 1;
    }
    assert_eq!(files, 9);
}
