use crate::{model::config::AnchorConfig, structures::BBox};

/// Lays reference boxes over a feature map (torchvision 0.26 `AnchorGenerator`).
///
/// An anchor of size s and ratio r has width `s / sqrt(r)` and height `s sqrt(r)`; half of each, rounded to a whole pixel
/// (half to even), lies on each side of the top left corner of the map's cell: cell (row, column) is at
/// `(column * stride, row * stride)`. Other than in torchvision, the stride is the level's own and not the quotient of image
/// and map size, which is smaller at P6 when the image is not a multiple of 64.
#[derive(Clone, Debug, PartialEq)]
pub struct AnchorGenerator {
    /// Anchors around the origin, for each level: ratios outermost, sizes innermost.
    cells: Vec<Vec<BBox>>,
}

impl AnchorGenerator {
    /// Anchors of this configuration.
    pub fn new(config: &AnchorConfig) -> Self {
        let cells = config.sizes.iter().map(|sizes| cell_anchors(sizes, &config.aspect_ratios)).collect();
        Self { cells }
    }

    /// The anchors of a level's map: rows, then columns, then the anchors of a position fastest.
    pub fn on_level(&self, level: usize, [height, width]: [usize; 2], stride: usize) -> Vec<BBox> {
        let cell = &self.cells[level];
        let mut anchors = Vec::with_capacity(height * width * cell.len());
        for row in 0..height {
            for column in 0..width {
                let (x, y) = ((column * stride) as f32, (row * stride) as f32);
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

#[cfg(test)]
mod tests {
    use super::*;

    // Expected values: torchvision 0.26 AnchorGenerator(((32,), (64, 90)), ((0.5, 1.0, 2.0),) * 2).
    fn generator() -> AnchorGenerator {
        AnchorGenerator::new(&AnchorConfig {
            sizes: vec![vec![32.0], vec![64.0, 90.0]],
            aspect_ratios: vec![0.5, 1.0, 2.0],
        })
    }

    fn edges(anchors: &[BBox]) -> Vec<[f32; 4]> {
        anchors.iter().map(|anchor| anchor.to_array()).collect()
    }

    #[test]
    fn one_size_per_level_as_torchvision() {
        let anchors = generator().on_level(0, [2, 3], 4);
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
    fn several_sizes_per_level_as_torchvision() {
        let anchors = generator().on_level(1, [1, 2], 8);
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
