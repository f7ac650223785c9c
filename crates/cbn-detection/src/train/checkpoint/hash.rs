//! Whether a file is still what was written.

use safetensors::tensor::TensorView;
use xxhash_rust::xxh3::Xxh3;

/// 128 bits of XXH3 over the description and every tensor: name, element type, shape, values; as hexadecimal digits.
///
/// It finds what disks, memory and copies do to a file, not what an adversary does.
pub(super) fn content_hash(description: &str, tensors: &[(&str, TensorView<'_>)]) -> String {
    let mut hasher = Xxh3::new();
    // Every part with its length, so that no two contents run together to the same bytes.
    let mut part = |bytes: &[u8]| {
        hasher.update(&(bytes.len() as u64).to_le_bytes());
        hasher.update(bytes);
    };
    part(description.as_bytes());
    for (name, view) in tensors {
        part(name.as_bytes());
        part(format!("{:?} {:?}", view.dtype(), view.shape()).as_bytes());
        part(view.data());
    }
    format!("{:032x}", hasher.digest128())
}
