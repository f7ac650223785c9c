//! How large tiles are, and which size is faster.

use super::fourier;
use crate::conv::ConvShape;

/// The outputs of a Winograd tile: with more of them each costs fewer products and more rounding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TileSize {
    /// 4 x 4 outputs of 6 x 6 products, 2.25 each.
    Four,
    /// 6 x 6 outputs of 8 x 8 products, 1.78 each.
    Six,
}

impl TileSize {
    /// The faster size for a convolution and its data gradient whose error stays within 1e-5.
    ///
    /// Large tiles have an error of 6e-6 at 256 channels, twice that of small ones, and both grow with the root of the channels. Some tiles must share
    /// the weight, of which they transform 64 numbers for each 9 instead of 36.
    pub(crate) fn choose(shape: &ConvShape) -> Self {
        /// Of a map, whatever the batch: processes that share a batch compute what one would. Measured of a batch, between 16 and 24 at 128, 256 and 512
        /// channels.
        const MIN_TILES: usize = 12;
        let tiles = Self::Six.count(1, shape.out_height(), shape.out_width());
        Self::large_if(Self::Six.is_accurate(shape) && tiles >= MIN_TILES, shape)
    }

    /// Whether the error of the convolution and its data gradient stays within 1e-5.
    pub(crate) fn is_accurate(self, shape: &ConvShape) -> bool {
        const MOST_CHANNELS: usize = 512;
        self == Self::Four || shape.in_channels.max(shape.out_channels) <= MOST_CHANNELS
    }

    /// The faster size for the weight gradient, whose error does not depend on the channels.
    ///
    /// Its sums are 64 matrices instead of 36, which some tiles must share.
    pub(crate) fn choose_for_weight_gradient(shape: &ConvShape) -> Self {
        /// Measured between 70 and 250.
        const MIN_TILES: usize = 100;
        let tiles = Self::Six.count(shape.batch, shape.out_height(), shape.out_width());
        Self::large_if(tiles >= MIN_TILES, shape)
    }

    /// Large tiles if they may be and have fewer products.
    fn large_if(may_be: bool, shape: &ConvShape) -> Self {
        if may_be && Self::has_large_fewer_products(shape) { Self::Six } else { Self::Four }
    }

    /// Whether large tiles have a tenth fewer products, those of tiles that reach over the edge included.
    ///
    /// They have a fifth fewer on a map that they fill. At equal numbers they are up to 4 % slower.
    fn has_large_fewer_products(shape: &ConvShape) -> bool {
        let products = |size: Self| size.count(shape.batch, shape.out_height(), shape.out_width()) * size.frequencies();
        10 * products(Self::Six) <= 9 * products(Self::Four)
    }

    pub(crate) fn tile(self) -> Tile {
        match self {
            Self::Four => Tile::F4x3,
            Self::Six => Tile::F6x3,
        }
    }

    /// The size with so many outputs per side, if there is one.
    pub(crate) fn of_side(side: usize) -> Option<Self> {
        [Self::Four, Self::Six].into_iter().find(|size| size.side() == side)
    }

    /// Outputs of a tile, per side.
    pub(crate) fn side(self) -> usize {
        self.tile().sides()[0]
    }

    /// Products per tile and channel pair.
    pub(crate) fn frequencies(self) -> usize {
        self.tile().frequencies()
    }

    /// Tiles of all outputs.
    pub(crate) fn count(self, batch: usize, height: usize, width: usize) -> usize {
        batch * height.div_ceil(self.side()) * width.div_ceil(self.side())
    }
}

/// Why some matches have no tile with four.
pub(super) const HAS_3_TAPS: &str = "the weight is 3x3";

/// The rectangles that an algorithm works on: `FMxR` has M outputs of R taps per side, `FMNxR` M rows and N columns of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tile {
    F4x3,
    F6x3,
    /// Of [`super::mixed`].
    F46x3,
    /// Of [`super::mixed`].
    F64x3,
    /// A whole map, of [`fourier`].
    Whole,
    /// Of [`super::strided`].
    F5x4,
}

impl Tile {
    /// How many there are with three taps: the first.
    pub(crate) const WITH_3_TAPS: usize = 5;

    /// Rows and columns of outputs.
    pub(crate) fn sides(self) -> [usize; 2] {
        match self {
            Self::F4x3 => [4, 4],
            Self::F6x3 => [6, 6],
            Self::F46x3 => [4, 6],
            Self::F64x3 => [6, 4],
            Self::Whole => [fourier::SIDE; 2],
            Self::F5x4 => [5, 5],
        }
    }

    /// Products per channel pair.
    pub(crate) fn frequencies(self) -> usize {
        let [rows, columns] = self.sides();
        match self {
            Self::Whole => fourier::PRODUCTS,
            Self::F5x4 => (rows + 3) * (columns + 3),
            Self::F4x3 | Self::F6x3 | Self::F46x3 | Self::F64x3 => (rows + 2) * (columns + 2),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(batch: usize, channels: usize, [in_height, in_width]: [usize; 2]) -> ConvShape {
        ConvShape {
            batch,
            in_channels: channels,
            in_height,
            in_width,
            out_channels: channels,
            kernel: [3, 3],
            stride: [1, 1],
            padding: [1, 1],
            dilation: [1, 1],
            groups: 1,
        }
    }

    #[test]
    fn large_tiles_are_for_maps_that_they_fill() {
        // 34 x 56 tiles of 64 products against 50 x 84 of 36.
        assert_eq!(TileSize::choose(&shape(1, 256, [200, 336])), TileSize::Six);
        // 9 * 64 against 16 * 36, as many.
        assert_eq!(TileSize::choose(&shape(100, 256, [14, 14])), TileSize::Four);
        // 4 * 64 against 4 * 36.
        assert_eq!(TileSize::choose(&shape(100, 256, [7, 7])), TileSize::Four);
        // Too inaccurate.
        assert_eq!(TileSize::choose(&shape(1, 1024, [200, 336])), TileSize::Four);
    }

    #[test]
    fn weight_gradients_of_few_tiles_take_small_ones() {
        let [few, many] = [1, 4].map(|batch| shape(batch, 256, [25, 42]));
        assert_eq!(TileSize::choose_for_weight_gradient(&few), TileSize::Four);
        assert_eq!(TileSize::choose_for_weight_gradient(&many), TileSize::Six);
    }
}
