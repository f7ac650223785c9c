use crate::{
    model::config::{AnchorConfig, AnchorLayout},
    structures::BBox,
};

/// Pixels per cell of P2 to P6.
const STRIDES: [usize; 5] = [4, 8, 16, 32, 64];

/// Lays reference boxes over a feature map (torchvision 0.26 `AnchorGenerator`).
///
/// An anchor of size s and ratio r has width `s / sqrt(r)` and height `s sqrt(r)`; half of each, rounded to a whole pixel
/// (half to even), lies on each side of the top left corner of the map's cell: cell (row, column) is at
/// `(column * stride, row * stride)`. [`AnchorLayout`] has the other ways.
#[derive(Clone, Debug, PartialEq)]
pub struct AnchorGenerator {
    /// Anchors around the origin, for each level: ratios outermost, sizes innermost.
    cells: Vec<Vec<BBox>>,
    layout: AnchorLayout,
}

impl AnchorGenerator {
    /// Anchors of this configuration.
    pub fn new(config: &AnchorConfig, layout: AnchorLayout) -> Self {
        let cell = |(level, sizes): (usize, &Vec<f32>)| match layout {
            AnchorLayout::Corners | AnchorLayout::CornersByQuotient => cell_anchors(sizes, &config.aspect_ratios),
            AnchorLayout::CornersUnrounded => unrounded_cell_anchors(sizes, &config.aspect_ratios),
            AnchorLayout::InclusivePixels => {
                inclusive_cell_anchors(sizes, &config.aspect_ratios, STRIDES[level] as f32)
            }
        };
        Self { cells: config.sizes.iter().enumerate().map(cell).collect(), layout }
    }

    /// The anchors of a level's map in a batch of `padded` rows and columns of pixels: rows, then columns, then the anchors of a position fastest.
    pub fn on_level(&self, level: usize, [height, width]: [usize; 2], padded: [usize; 2]) -> Vec<BBox> {
        let cell = &self.cells[level];
        let [row_stride, column_stride] = match self.layout {
            AnchorLayout::CornersByQuotient => [padded[0] / height, padded[1] / width],
            AnchorLayout::Corners | AnchorLayout::CornersUnrounded | AnchorLayout::InclusivePixels => {
                [STRIDES[level]; 2]
            }
        };
        let mut anchors = Vec::with_capacity(height * width * cell.len());
        for row in 0..height {
            for column in 0..width {
                let (x, y) = ((column * column_stride) as f32, (row * row_stride) as f32);
                anchors.extend(cell.iter().map(|at| BBox::new(at.x1 + x, at.y1 + y, at.x2 + x, at.y2 + y)));
            }
        }
        anchors
    }
}

fn cell_anchors(sizes: &[f32], aspect_ratios: &[f32]) -> Vec<BBox> {
    let mut anchors = Vec::with_capacity(sizes.len() * aspect_ratios.len());
    for ratio in aspect_ratios {
        let height_ratio = ratio.sqrt();
        let width_ratio = 1.0 / height_ratio;
        for size in sizes {
            let half_width = (width_ratio * size / 2.0).round_ties_even();
            let half_height = (height_ratio * size / 2.0).round_ties_even();
            anchors.push(BBox::new(-half_width, -half_height, half_width, half_height));
        }
    }
    anchors
}

/// The same with the numbers of detectron2 0.6 `DefaultAnchorGenerator.generate_cell_anchors`, which has `f64` until here.
fn unrounded_cell_anchors(sizes: &[f32], aspect_ratios: &[f32]) -> Vec<BBox> {
    let mut anchors = Vec::with_capacity(sizes.len() * aspect_ratios.len());
    for &ratio in aspect_ratios {
        for &size in sizes {
            let width = (f64::from(size).powi(2) / f64::from(ratio)).sqrt();
            let height = f64::from(ratio) * width;
            let [half_width, half_height] = [width, height].map(|side| (side / 2.0) as f32);
            anchors.push(BBox::new(-half_width, -half_height, half_width, half_height));
        }
    }
    anchors
}

/// The same with the numbers of mmdetection 0.6 `AnchorGenerator`: around the middle of the first
/// cell's pixels, first and last pixel rounded (half to even). A box is kept as the area that its pixels cover.
fn inclusive_cell_anchors(sizes: &[f32], aspect_ratios: &[f32], stride: f32) -> Vec<BBox> {
    let centre = 0.5 * (stride - 1.0);
    let mut anchors = Vec::with_capacity(sizes.len() * aspect_ratios.len());
    for ratio in aspect_ratios {
        let height_ratio = ratio.sqrt();
        let width_ratio = 1.0 / height_ratio;
        for size in sizes {
            let [half_width, half_height] = [width_ratio, height_ratio].map(|ratio| 0.5 * (ratio * size - 1.0));
            let [x1, y1] = [half_width, half_height].map(|half| (centre - half).round_ties_even());
            let [x2, y2] = [half_width, half_height].map(|half| (centre + half).round_ties_even());
            anchors.push(BBox::new(x1, y1, x2 + 1.0, y2 + 1.0));
        }
    }
    anchors
}

#[cfg(test)]
mod tests {
    use super::*;

    // Expected values: torchvision 0.26 AnchorGenerator(((32,), (64, 90)), ((0.5, 1.0, 2.0),) * 2).
    fn generator() -> AnchorGenerator {
        AnchorGenerator::new(
            &AnchorConfig { sizes: vec![vec![32.0], vec![64.0, 90.0]], aspect_ratios: vec![0.5, 1.0, 2.0] },
            AnchorLayout::Corners,
        )
    }

    fn edges(anchors: &[BBox]) -> Vec<[f32; 4]> {
        anchors.iter().map(|anchor| anchor.to_array()).collect()
    }

    #[test]
    fn one_size_per_level_as_torchvision() {
        let anchors = generator().on_level(0, [2, 3], [8, 12]);
        assert_eq!(anchors.len(), 2 * 3 * 3);
        assert_eq!(
            edges(&anchors)[..6],
            [
                [-23.0, -11.0, 23.0, 11.0],
                [-16.0, -16.0, 16.0, 16.0],
                [-11.0, -23.0, 11.0, 23.0],
                [-19.0, -11.0, 27.0, 11.0],
                [-12.0, -16.0, 20.0, 16.0],
                [-7.0, -23.0, 15.0, 23.0],
            ]
        );
        assert_eq!(
            edges(&anchors)[9..12],
            [[-23.0, -7.0, 23.0, 15.0], [-16.0, -12.0, 16.0, 20.0], [-11.0, -19.0, 11.0, 27.0]]
        );
    }

    #[test]
    fn released_anchors_are_whole_inclusive_pixels() {
        // RELEASED_RECIPES 2.3, written down there; the last pixel is one before the edge.
        let anchors = AnchorGenerator::new(&AnchorConfig::default(), AnchorLayout::InclusivePixels);
        let inclusive = |level: usize| -> Vec<[f32; 4]> {
            let cell = anchors.on_level(level, [1, 1], [64, 64]);
            cell.iter().map(|at| [at.x1, at.y1, at.x2 - 1.0, at.y2 - 1.0]).collect()
        };
        assert_eq!(inclusive(0), [[-21., -9., 24., 12.], [-14., -14., 17., 17.], [-9., -21., 12., 24.]]);
        assert_eq!(inclusive(1), [[-41., -19., 48., 26.], [-28., -28., 35., 35.], [-19., -41., 26., 48.]]);
        assert_eq!(inclusive(2), [[-83., -37., 98., 52.], [-56., -56., 71., 71.], [-37., -83., 52., 98.]]);
        assert_eq!(inclusive(3), [[-165., -75., 196., 106.], [-112., -112., 143., 143.], [-75., -165., 106., 196.]]);
        assert_eq!(inclusive(4), [[-330., -149., 393., 212.], [-224., -224., 287., 287.], [-149., -330., 212., 393.]]);
    }

    #[test]
    fn unrounded_anchors_are_those_of_detectron2() {
        // detectron2 0.6 `DefaultAnchorGenerator(sizes = [[32], .., [512]], aspect_ratios = [[0.5, 1.0, 2.0]], strides = [4, .., 64], offset = 0.0)`.
        let anchors = AnchorGenerator::new(&AnchorConfig::default(), AnchorLayout::CornersUnrounded);
        let cell = |level: usize| edges(&anchors.on_level(level, [1, 1], [64, 64]));
        let of_side = |square: f32, short: f32, long: f32| {
            [[-long, -short, long, short], [-square, -square, square, square], [-short, -long, short, long]]
        };
        assert_eq!(cell(0), of_side(16.0, 11.313_708, 22.627_417));
        assert_eq!(cell(1), of_side(32.0, 22.627_417, 45.254_833));
        assert_eq!(cell(4), of_side(256.0, 181.019_33, 362.038_67));
        // Of a map of 2 x 3 cells, the last three of P3.
        assert_eq!(
            edges(&anchors.on_level(1, [2, 3], [16, 24]))[15..],
            [
                [-29.254_833, -14.627_417, 61.254_833, 30.627_417],
                [-16.0, -24.0, 48.0, 40.0],
                [-6.627_416_6, -37.254_833, 38.627_42, 53.254_833],
            ]
        );
    }

    #[test]
    fn a_quotient_is_smaller_than_the_stride_where_the_map_was_rounded_up() {
        // torchvision 0.26: a padded side of 800 gives P6 13 cells, 800 / 13 = 61.
        let anchors = AnchorGenerator::new(&AnchorConfig::default(), AnchorLayout::CornersByQuotient);
        assert_eq!(
            anchors.on_level(4, [13, 13], [800, 800])[3].x1 - anchors.on_level(4, [13, 13], [800, 800])[0].x1,
            61.0
        );
    }

    #[test]
    fn several_sizes_per_level_as_torchvision() {
        let anchors = generator().on_level(1, [1, 2], [8, 16]);
        assert_eq!(
            edges(&anchors),
            [
                [-45.0, -23.0, 45.0, 23.0],
                [-64.0, -32.0, 64.0, 32.0],
                [-32.0, -32.0, 32.0, 32.0],
                [-45.0, -45.0, 45.0, 45.0],
                [-23.0, -45.0, 23.0, 45.0],
                [-32.0, -64.0, 32.0, 64.0],
                [-37.0, -23.0, 53.0, 23.0],
                [-56.0, -32.0, 72.0, 32.0],
                [-24.0, -32.0, 40.0, 32.0],
                [-37.0, -45.0, 53.0, 45.0],
                [-15.0, -45.0, 31.0, 45.0],
                [-24.0, -64.0, 40.0, 64.0],
            ]
        );
    }
}
