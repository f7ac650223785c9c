//! JPEG files are read as Pillow and torchvision read them, pixel by pixel: `tools/fixtures/jpeg_files.py` wrote the files and, as PNG, Pillow's pixels.

use std::path::{Path, PathBuf};

use cbn_detection::data::read_rgb;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/jpeg")
}

/// No tolerance: the decoder repeats libjpeg-turbo's integer arithmetic. One grey level moves a detector's scores by more than 1e-4.
#[test]
fn pixels_are_those_of_libjpeg_turbo() {
    let names =
        ["444", "422", "420", "411", "440", "420_progressive", "420_coarse", "420_restarts", "grey", "rgb", "cmyk"];
    for name in names {
        let jpeg = read_rgb(&folder().join(format!("{name}.jpg"))).unwrap();
        let expected = read_rgb(&folder().join(format!("{name}.png"))).unwrap();
        assert_eq!(jpeg.dimensions(), expected.dimensions(), "{name}");
        let differing = jpeg.as_raw().iter().zip(expected.as_raw()).filter(|(a, b)| a != b).count();
        assert_eq!(differing, 0, "{name}: so many of {} values differ", jpeg.as_raw().len());
    }
}

#[test]
fn an_orientation_in_exif_turns_nothing() {
    let turned = read_rgb(&folder().join("turned.jpg")).unwrap();
    assert_eq!(turned.dimensions(), (53, 45));
    assert!(turned == read_rgb(&folder().join("turned.png")).unwrap());
}

#[test]
fn a_jpeg_that_claims_gigapixels_is_refused() {
    let mut bytes = std::fs::read(folder().join("grey.jpg")).unwrap();
    let frame = bytes.windows(2).position(|pair| pair == [0xFF, 0xC0]).unwrap();
    // Height and width follow marker, length and precision (ITU T.81, B.2.2).
    bytes[frame + 5..frame + 9].copy_from_slice(&[0xFF, 0x00, 0xFF, 0x00]);
    let path = tempfile::tempdir().unwrap().keep().join("huge.jpg");
    std::fs::write(&path, bytes).unwrap();
    let error = read_rgb(&path).unwrap_err().to_string();
    std::fs::remove_dir_all(path.parent().unwrap()).unwrap();
    assert!(error.contains("cannot decode") && error.contains("exceeds limit"), "{error}");
}
