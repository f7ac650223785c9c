//! The sizes of a feature map.

/// A channels-last map, `[B, H, W, C]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapShape {
    /// Images, B.
    pub batch: usize,
    /// Rows, H.
    pub height: usize,
    /// Columns, W.
    pub width: usize,
    /// Channels, C.
    pub channels: usize,
}

impl MapShape {
    /// Elements.
    pub fn len(&self) -> usize {
        self.batch * self.height * self.row_len()
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Elements of a row of pixels.
    pub fn row_len(&self) -> usize {
        self.width * self.channels
    }

    /// Where the channels of a pixel start.
    pub(crate) fn pixel(&self, image: usize, y: usize, x: usize) -> usize {
        ((image * self.height + y) * self.width + x) * self.channels
    }

    /// Rows that a task takes: enough to be worth a task, few enough for all threads. No result depends on it.
    pub(crate) fn rows_per_task(&self) -> usize {
        /// Elements below which a task costs more to start than to run.
        const MIN_ELEMENTS: usize = 16 * 1024;
        let share = (self.batch * self.height).div_ceil(4 * rayon::current_num_threads());
        share.min(MIN_ELEMENTS.div_ceil(self.row_len().max(1)) * 4).max(1)
    }
}
