use serde::{Deserialize, Serialize};

use crate::structures::BBox;

/// Largest `dw` and `dh` that are decoded, `ln(1000 / 16)`: a predicted size cannot overflow.
const MAX_LOG_SIZE_RATIO: f32 = 4.135_166_6;

/// Which `dw` and `dh` are cut to a size that can be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeltaClamp {
    /// Growth, at 62.5 times (torchvision 0.26 `BoxCoder.bbox_xform_clip`).
    #[default]
    Growth,
    /// Growth and shrinking alike (the released recipes: +-|ln(16 / 1000)|).
    Both,
}

impl DeltaClamp {
    fn apply(self, log_ratio: f32) -> f32 {
        let cut = log_ratio.min(MAX_LOG_SIZE_RATIO);
        match self {
            Self::Growth => cut,
            Self::Both => cut.max(-MAX_LOG_SIZE_RATIO),
        }
    }
}

/// Writes a box as four deltas from a reference box (anchor or proposal), and back.
///
/// `dx = wx (x - x_r) / w_r`, `dy = wy (y - y_r) / h_r`, `dw = ww ln(w / w_r)`, `dh = wh ln(h / h_r)`
///
/// with (x, y) the centre, (w, h) the size, `_r` the reference and `wx, wy, ww, wh` the weights (R-CNN, appendix C;
/// torchvision 0.26 `BoxCoder`).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BoxCoder {
    weights: [f32; 4],
    clamp: DeltaClamp,
}

impl BoxCoder {
    /// A coder with the weights of dx, dy, dw, dh.
    pub const fn new(weights: [f32; 4], clamp: DeltaClamp) -> Self {
        Self { weights, clamp }
    }

    /// The deltas that lead from `reference` to `bbox`; both must have an area.
    pub fn encode(&self, bbox: &BBox, reference: &BBox) -> [f32; 4] {
        let [wx, wy, ww, wh] = self.weights;
        let (x, y) = centre(bbox);
        let (x_reference, y_reference) = centre(reference);
        [
            wx * (x - x_reference) / reference.width(),
            wy * (y - y_reference) / reference.height(),
            ww * (bbox.width() / reference.width()).ln(),
            wh * (bbox.height() / reference.height()).ln(),
        ]
    }

    /// The box that lies `deltas` from `reference`. It may leave the image.
    pub fn decode(&self, deltas: [f32; 4], reference: &BBox) -> BBox {
        let [dx, dy, dw, dh] = std::array::from_fn(|k| deltas[k] / self.weights[k]);
        let (x_reference, y_reference) = centre(reference);
        let x = dx * reference.width() + x_reference;
        let y = dy * reference.height() + y_reference;
        let half_width = 0.5 * (self.clamp.apply(dw).exp() * reference.width());
        let half_height = 0.5 * (self.clamp.apply(dh).exp() * reference.height());
        BBox::new(x - half_width, y - half_height, x + half_width, y + half_height)
    }
}

fn centre(bbox: &BBox) -> (f32, f32) {
    (bbox.x1 + 0.5 * bbox.width(), bbox.y1 + 0.5 * bbox.height())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn deltas_are_centre_offsets_and_log_size_ratios() {
        let reference = BBox::new(0.0, 0.0, 10.0, 20.0);
        let bbox = BBox::new(5.0, 0.0, 25.0, 10.0);
        let ln2 = 2f32.ln();
        assert_eq!(BoxCoder::new([1.0; 4], DeltaClamp::Growth).encode(&bbox, &reference), [1.0, -0.25, ln2, -ln2]);
        assert_eq!(
            BoxCoder::new([10.0, 10.0, 5.0, 5.0], DeltaClamp::Growth).encode(&bbox, &reference),
            [10.0, -2.5, 5.0 * ln2, -5.0 * ln2]
        );
    }

    #[test]
    fn sizes_grow_by_at_most_62_5() {
        let bbox = BoxCoder::new([1.0; 4], DeltaClamp::Growth)
            .decode([0.0, 0.0, 50.0, f32::INFINITY], &BBox::new(0.0, 0.0, 2.0, 4.0));
        // exp(4.1351666) is 62.5 to one part in 1e6, the resolution of f32 at 4.
        assert!((bbox.width() - 125.0).abs() < 1e-3 && (bbox.height() - 250.0).abs() < 1e-3, "{bbox:?}");
    }

    proptest! {
        #[test]
        fn decode_undoes_encode(a in (0f32..500.0, 0f32..500.0, 4f32..200.0, 4f32..200.0),
                                b in (0f32..500.0, 0f32..500.0, 4f32..200.0, 4f32..200.0)) {
            let [bbox, reference] = [a, b].map(|(x, y, w, h)| BBox::new(x, y, x + w, y + h));
            let coder = BoxCoder::new([10.0, 10.0, 5.0, 5.0], DeltaClamp::Growth);
            let decoded = coder.decode(coder.encode(&bbox, &reference), &reference);
            // Coordinates up to 700, each through about ten f32 roundings (6e-8 relative).
            for (found, expected) in decoded.to_array().into_iter().zip(bbox.to_array()) {
                prop_assert!((found - expected).abs() < 2e-3, "{decoded:?} {bbox:?}");
            }
        }
    }
}
