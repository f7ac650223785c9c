use std::io::Cursor;
use std::path::{Path, PathBuf};

use image::{ImageFormat, ImageReader, RgbImage};
use libjpeg_turbo_rs::{DecodeLimits, Decoder, JpegError, PixelFormat};
use serde::Serialize;

use crate::structures::ImageSize;

/// What is wrong with an image file.
#[derive(Debug, Clone, PartialEq, Serialize, thiserror::Error)]
#[serde(tag = "fault", rename_all = "snake_case")]
pub enum ImageError {
    /// The file cannot be read.
    #[error("cannot read {}: {reason}; check the image folder", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        reason: String,
    },
    /// The file ends before the picture does.
    #[error("{} is truncated: the JPEG data has no end marker; fetch the file again", path.display())]
    Truncated {
        /// The file.
        path: PathBuf,
    },
    /// The file is not a picture that can be decoded.
    #[error("cannot decode {}: {reason}; JPEG and PNG files can be read", path.display())]
    Undecodable {
        /// The file.
        path: PathBuf,
        /// What the decoder said.
        reason: String,
    },
    /// The picture is not the one that the JSON describes.
    #[error("{} is {found}, but the JSON says {expected}; boxes and masks would not fit", path.display())]
    WrongSize {
        /// The file.
        path: PathBuf,
        /// Size of the picture.
        found: ImageSize,
        /// Size in the JSON.
        expected: ImageSize,
    },
}

/// More than any camera has; the `image` crate, which reads the PNG files, has a like limit.
const MAX_PIXELS: u64 = 1 << 28;

/// Reads a JPEG or PNG file as 8-bit RGB: grey is repeated, alpha dropped.
///
/// A JPEG's pixels are those of libjpeg-turbo's defaults (slow integer IDCT, triangle filter for colours), which Pillow, OpenCV and torchvision read with: an
/// equal detector finds equal scores there. Orientation in EXIF is ignored, as by `PIL.Image.open` and `torchvision.io.decode_image`; annotations refer to the
/// stored picture.
///
/// # Errors
///
/// If the file is missing, truncated or not a picture.
pub fn read_rgb(path: &Path) -> Result<RgbImage, ImageError> {
    let bytes = std::fs::read(path)
        .map_err(|error| ImageError::Unreadable { path: path.to_owned(), reason: error.to_string() })?;
    let undecodable = |reason: String| ImageError::Undecodable { path: path.to_owned(), reason };
    let reader =
        ImageReader::new(Cursor::new(&bytes)).with_guessed_format().map_err(|error| undecodable(error.to_string()))?;
    if reader.format() != Some(ImageFormat::Jpeg) {
        return Ok(reader.decode().map_err(|error| undecodable(error.to_string()))?.into_rgb8());
    }
    // Looked for first, so that a file that was cut off is told from one that is damaged.
    if !jpeg_is_complete(&bytes) {
        return Err(ImageError::Truncated { path: path.to_owned() });
    }
    decode_jpeg(&bytes).map_err(|error| undecodable(error.to_string()))
}

fn decode_jpeg(bytes: &[u8]) -> Result<RgbImage, JpegError> {
    let limits = DecodeLimits { max_pixels: MAX_PIXELS, ..DecodeLimits::default() };
    let mut decoder = Decoder::new_with_limits(bytes, limits)?;
    decoder.set_output_format(PixelFormat::Rgb);
    let decoded = decoder.decode_image()?;
    let (width, height) = (decoded.width as u32, decoded.height as u32);
    Ok(RgbImage::from_raw(width, height, decoded.data).expect("three bytes per pixel were asked for"))
}

/// Size of a decoded image.
pub(crate) fn size_of(image: &RgbImage) -> ImageSize {
    ImageSize::new(image.height() as usize, image.width() as usize)
}

/// [`read_rgb`], and the picture has the size that the JSON promises.
pub(crate) fn read_rgb_of_size(path: &Path, expected: ImageSize) -> Result<RgbImage, ImageError> {
    let image = read_rgb(path)?;
    let found = size_of(&image);
    if found != expected {
        return Err(ImageError::WrongSize { path: path.to_owned(), found, expected });
    }
    Ok(image)
}

/// True if the last start-of-scan marker is followed by an end-of-image marker. Scan data cannot contain either by chance:
/// a byte 0xFF in it is always followed by a stuffed 0x00 or a restart marker (ITU T.81, B.1.1.5).
fn jpeg_is_complete(bytes: &[u8]) -> bool {
    const START_OF_SCAN: [u8; 2] = [0xFF, 0xDA];
    const END_OF_IMAGE: [u8; 2] = [0xFF, 0xD9];
    let last = |marker: [u8; 2]| bytes.windows(2).rposition(|pair| pair == marker);
    last(END_OF_IMAGE) > last(START_OF_SCAN)
}
