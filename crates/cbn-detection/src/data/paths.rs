use std::path::{Path, PathBuf};

use super::DataError;

/// Which part of a data set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Split {
    /// What is learned from.
    Train,
    /// What is evaluated on.
    Val,
}

impl Split {
    /// "train" or "val".
    pub fn name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Val => "val",
        }
    }
}

/// Where one split lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SplitPaths {
    /// COCO JSON.
    pub annotations: PathBuf,
    /// Folder that the JSON's `file_name`s are relative to.
    pub images: PathBuf,
}

impl SplitPaths {
    /// Finds a split in a data folder.
    ///
    /// Known layouts: `train.json`, `val.json`, `images/`; and COCO's own `annotations/instances_{train,val}2017.json`,
    /// `train2017/`, `val2017/`.
    ///
    /// # Errors
    ///
    /// If the folder has neither annotation file.
    pub fn in_dir(dir: &Path, split: Split) -> Result<Self, DataError> {
        let name = split.name();
        let layouts = [
            Self { annotations: dir.join(format!("{name}.json")), images: dir.join("images") },
            Self {
                annotations: dir.join(format!("annotations/instances_{name}2017.json")),
                images: dir.join(format!("{name}2017")),
            },
        ];
        let found = layouts.iter().find(|layout| layout.annotations.is_file());
        found.cloned().ok_or_else(|| DataError::Layout {
            dir: dir.to_owned(),
            split: name,
            tried: layouts.into_iter().map(|layout| layout.annotations).collect(),
        })
    }
}

/// A data folder, single paths, or a folder with some paths replaced.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DataPaths {
    /// Data folder, see [`SplitPaths::in_dir`].
    pub dir: Option<PathBuf>,
    /// Replaces the folder's training annotations.
    pub train_annotations: Option<PathBuf>,
    /// Replaces the folder's training images.
    pub train_images: Option<PathBuf>,
    /// Replaces the folder's validation annotations.
    pub val_annotations: Option<PathBuf>,
    /// Replaces the folder's validation images.
    pub val_images: Option<PathBuf>,
}

impl DataPaths {
    /// Everything from one data folder.
    pub fn from_dir(dir: impl Into<PathBuf>) -> Self {
        Self { dir: Some(dir.into()), ..Self::default() }
    }

    /// Where `split` lies.
    ///
    /// # Errors
    ///
    /// If a path is neither given nor found in the data folder.
    pub fn split(&self, split: Split) -> Result<SplitPaths, DataError> {
        let (annotations, images) = match split {
            Split::Train => (&self.train_annotations, &self.train_images),
            Split::Val => (&self.val_annotations, &self.val_images),
        };
        if let (Some(annotations), Some(images)) = (annotations, images) {
            return Ok(SplitPaths { annotations: annotations.clone(), images: images.clone() });
        }
        let dir = self.dir.as_deref().ok_or(DataError::NoPaths { split: split.name() })?;
        // With the annotations given, only the images are left to find, whichever layout the folder has.
        if let Some(annotations) = annotations {
            let own = dir.join(format!("{}2017", split.name()));
            let images = if own.is_dir() { own } else { dir.join("images") };
            return Ok(SplitPaths { annotations: annotations.clone(), images });
        }
        let found = SplitPaths::in_dir(dir, split)?;
        Ok(SplitPaths { images: images.clone().unwrap_or(found.images), ..found })
    }
}
