//! Annotation files of one format from those of another, with COCO's between; hotcoco has the readers and writers.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};

use hotcoco::convert::{coco_to_cvat, coco_to_voc, coco_to_yolo, cvat_to_coco, voc_to_coco, yolo_to_coco};
use image::ImageReader;
use serde_json::Value;

use super::DataError;
use super::coco::read_coco;
use crate::files::write_atomically;

/// How annotations are written down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AnnotationFormat {
    /// One JSON file.
    Coco,
    /// A folder with `Annotations/*.xml`: boxes.
    Voc,
    /// A folder with `*.txt` and `data.yaml`: boxes.
    Yolo,
    /// One XML file of CVAT for images 1.1: boxes and polygons.
    Cvat,
}

impl AnnotationFormat {
    /// Its name in messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::Coco => "COCO",
            Self::Voc => "VOC",
            Self::Yolo => "YOLO",
            Self::Cvat => "CVAT",
        }
    }

    /// Whether it is a folder with a file for each image.
    fn is_folder(self) -> bool {
        matches!(self, Self::Voc | Self::Yolo)
    }

    /// Whether it has outlines of objects, not only boxes.
    fn has_masks(self) -> bool {
        matches!(self, Self::Coco | Self::Cvat)
    }
}

/// What is converted into what.
#[derive(Debug, Clone)]
pub struct Conversion {
    /// Format of the input.
    pub from: AnnotationFormat,
    /// File or folder that is read.
    pub input: PathBuf,
    /// Format of the output.
    pub to: AnnotationFormat,
    /// File or folder that is written.
    pub output: PathBuf,
    /// Folder of the images, for names and sizes that the annotations lack; VOC's `JPEGImages` is found.
    pub images: Option<PathBuf>,
    /// Keep the images that this file lists, a name without extension at the start of each line, as VOC's `ImageSets/Main/*.txt`.
    pub only: Option<PathBuf>,
}

/// What was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConversionReport {
    /// Images.
    pub images: usize,
    /// Annotations.
    pub annotations: usize,
    /// What the output's format cannot hold, and how often it was there.
    pub left_out: Vec<(usize, &'static str)>,
}

/// Why annotations were not converted.
#[derive(Debug, thiserror::Error)]
pub enum ConversionError {
    /// The input or output is wrong in a way that the converter names.
    #[error("{} as {format}: {reason}", path.display())]
    Format {
        /// The input or output.
        path: PathBuf,
        /// Its format.
        format: &'static str,
        /// What the converter says.
        reason: String,
    },
    /// There is nothing to convert.
    #[error("{} has no {format} annotations: looked for {expected}", path.display())]
    Nothing {
        /// The input.
        path: PathBuf,
        /// Its format.
        format: &'static str,
        /// The files that it should have.
        expected: &'static str,
    },
    /// The list of images names one that has no annotations.
    #[error("{}: \"{name}\" has no annotations in {}", list.display(), input.display())]
    NotAnnotated {
        /// The list.
        list: PathBuf,
        /// The image's name in it.
        name: String,
        /// The input.
        input: PathBuf,
    },
    /// An image's size is neither in the annotations nor to be read from its file.
    #[error(
        "the size of image \"{name}\" is not in the annotations, and no file of that name was found: give the folder of the images"
    )]
    NoSize {
        /// The image's name.
        name: String,
    },
    /// Two image files differ in their extension alone.
    #[error("{} has two images called \"{stem}\": annotations tell images by their names without extension", dir.display())]
    TwoImages {
        /// The folder.
        dir: PathBuf,
        /// Their name.
        stem: String,
    },
    /// The output would mix with what is there.
    #[error("{} is there and not empty: name a new folder", path.display())]
    NotEmpty {
        /// The folder.
        path: PathBuf,
    },
    /// Reading or writing failed.
    #[error(transparent)]
    Data(#[from] DataError),
}

impl Conversion {
    /// Reads the input and writes the output. Ids of images and annotations are new where the input has none.
    ///
    /// # Errors
    ///
    /// The input is missing, malformed or empty; an image's size is unknown; or the output cannot be written.
    pub fn run(&self) -> Result<ConversionReport, ConversionError> {
        if self.to.is_folder() && !is_empty_or_missing(&self.output)? {
            return Err(ConversionError::NotEmpty { path: self.output.clone() });
        }
        let mut left_out = Vec::new();
        let mut dataset = self.read(&mut left_out)?;
        if let Some(list) = &self.only {
            self.keep_only(&mut dataset, list)?;
        }
        if !self.to.has_masks() {
            let masks = dataset.annotations.iter().filter(|annotation| annotation.segmentation.is_some()).count();
            left_out.push((masks, "masks: the format has boxes only"));
        }
        let annotations = self.write(&dataset, &mut left_out)?;
        left_out.retain(|(count, _)| *count > 0);
        Ok(ConversionReport { images: dataset.images.len(), annotations, left_out })
    }

    fn read(&self, left_out: &mut Vec<(usize, &'static str)>) -> Result<hotcoco::Dataset, ConversionError> {
        let input = &self.input;
        let fails = |error: hotcoco::convert::ConvertError| self.malformed(input, self.from, error);
        let folder = ImageFolder::scan(self.images_dir())?;
        let mut dataset = match self.from {
            AnnotationFormat::Coco => read_coco(input)?,
            AnnotationFormat::Voc => voc_to_coco(input).map_err(fails)?,
            AnnotationFormat::Yolo => yolo_to_coco(input, &folder.sizes()?).map_err(fails)?,
            AnnotationFormat::Cvat => {
                let (dataset, stats) = cvat_to_coco(input).map_err(fails)?;
                left_out.push((stats.skipped_degenerate, "polygons of fewer than three points"));
                left_out.push((stats.skipped_unsupported, "shapes that are neither box nor polygon"));
                dataset
            }
        };
        if dataset.images.is_empty() {
            let (path, format) = (input.clone(), self.from.name());
            let expected = match self.from {
                AnnotationFormat::Coco => "\"images\"",
                AnnotationFormat::Voc => "Annotations/*.xml",
                AnnotationFormat::Yolo => "*.txt",
                AnnotationFormat::Cvat => "<image>",
            };
            return Err(ConversionError::Nothing { path, format, expected });
        }
        dataset.images.iter_mut().try_for_each(|image| folder.complete(image))?;
        Ok(dataset)
    }

    fn images_dir(&self) -> Option<PathBuf> {
        let of_voc =
            || Some(self.input.join("JPEGImages")).filter(|dir| self.from == AnnotationFormat::Voc && dir.is_dir());
        self.images.clone().or_else(of_voc)
    }

    fn keep_only(&self, dataset: &mut hotcoco::Dataset, list: &Path) -> Result<(), ConversionError> {
        let text = std::fs::read_to_string(list).map_err(|source| DataError::Read { path: list.to_owned(), source })?;
        let wanted: HashSet<&str> = text.lines().filter_map(|line| line.split_whitespace().next()).collect();
        let there: HashSet<&str> = dataset.images.iter().map(|image| stem(&image.file_name)).collect();
        if let Some(name) = wanted.iter().filter(|name| !there.contains(**name)).min() {
            let (list, name, input) = (list.to_owned(), (*name).to_owned(), self.input.clone());
            return Err(ConversionError::NotAnnotated { list, name, input });
        }
        dataset.images.retain(|image| wanted.contains(stem(&image.file_name)));
        let kept: HashSet<u64> = dataset.images.iter().map(|image| image.id).collect();
        dataset.annotations.retain(|annotation| kept.contains(&annotation.image_id));
        Ok(())
    }

    /// How many annotations were written.
    fn write(
        &self,
        dataset: &hotcoco::Dataset,
        left_out: &mut Vec<(usize, &'static str)>,
    ) -> Result<usize, ConversionError> {
        let output = &self.output;
        let fails = |error: hotcoco::convert::ConvertError| self.malformed(output, self.to, error);
        const NO_BOX: &str = "annotations without a box";
        Ok(match self.to {
            AnnotationFormat::Coco => {
                let json = serde_json::to_value(dataset).and_then(|json| serde_json::to_vec(&plain(json)));
                let json = json.map_err(std::io::Error::from);
                json.and_then(|json| write_atomically(output, &json)).map_err(DataError::write(output))?;
                dataset.annotations.len()
            }
            AnnotationFormat::Voc => {
                let stats = coco_to_voc(dataset, output).map_err(fails)?;
                left_out.push((stats.skipped_no_bbox, NO_BOX));
                stats.annotations
            }
            AnnotationFormat::Yolo => {
                let stats = coco_to_yolo(dataset, output).map_err(fails)?;
                left_out.push((stats.skipped_crowd, "crowds"));
                left_out.push((stats.skipped_no_bbox, NO_BOX));
                stats.annotations
            }
            AnnotationFormat::Cvat => {
                let stats = coco_to_cvat(dataset, output).map_err(fails)?;
                left_out.push((stats.skipped_no_geometry, "annotations with neither polygon nor box"));
                dataset.annotations.len() - stats.skipped_no_geometry
            }
        })
    }

    fn malformed(
        &self,
        path: &Path,
        format: AnnotationFormat,
        error: hotcoco::convert::ConvertError,
    ) -> ConversionError {
        ConversionError::Format { path: path.to_owned(), format: format.name(), reason: error.to_string() }
    }
}

/// Image files by their names without extension.
struct ImageFolder {
    dir: PathBuf,
    files: BTreeMap<String, String>,
}

impl ImageFolder {
    fn scan(dir: Option<PathBuf>) -> Result<Self, ConversionError> {
        let Some(dir) = dir else { return Ok(Self { dir: PathBuf::new(), files: BTreeMap::new() }) };
        let unreadable = |source| DataError::Read { path: dir.clone(), source };
        let mut files = BTreeMap::new();
        for entry in std::fs::read_dir(&dir).map_err(unreadable)? {
            let Ok(name) = entry.map_err(unreadable)?.file_name().into_string() else { continue };
            let extension = Path::new(&name).extension().and_then(|extension| extension.to_str()).unwrap_or_default();
            if !["jpg", "jpeg", "png"].contains(&extension.to_ascii_lowercase().as_str()) {
                continue;
            }
            if files.insert(stem(&name).to_owned(), name.clone()).is_some() {
                return Err(ConversionError::TwoImages { stem: stem(&name).to_owned(), dir });
            }
        }
        Ok(Self { dir, files })
    }

    /// Width and height of all images.
    fn sizes(&self) -> Result<HashMap<String, (u32, u32)>, ConversionError> {
        self.files.iter().map(|(stem, name)| Ok((stem.clone(), self.size(name)?))).collect()
    }

    fn size(&self, name: &str) -> Result<(u32, u32), ConversionError> {
        let path = self.dir.join(name);
        let unreadable = |source| DataError::Read { path: path.clone(), source };
        let reader = ImageReader::open(&path).and_then(ImageReader::with_guessed_format).map_err(unreadable)?;
        let dimensions = reader.into_dimensions().map_err(|error| unreadable(std::io::Error::other(error)))?;
        Ok(dimensions)
    }

    /// Gives an image the name of its file, if it is there, and a size, if it has none.
    fn complete(&self, image: &mut hotcoco::Image) -> Result<(), ConversionError> {
        if !self.dir.join(&image.file_name).is_file()
            && let Some(name) = self.files.get(stem(&image.file_name))
        {
            image.file_name.clone_from(name);
        }
        if image.width > 0 && image.height > 0 {
            return Ok(());
        }
        if !self.files.contains_key(stem(&image.file_name)) {
            return Err(ConversionError::NoSize { name: image.file_name.clone() });
        }
        (image.width, image.height) = self.size(&image.file_name)?;
        Ok(())
    }
}

/// COCO's own form: what is not known is not there instead of `null`, flags are 0 and 1.
fn plain(json: Value) -> Value {
    match json {
        Value::Object(entries) => {
            let known = entries.into_iter().filter(|(_, value)| !value.is_null());
            known.map(|(key, value)| (key, plain(value))).collect()
        }
        Value::Array(values) => values.into_iter().map(plain).collect(),
        Value::Bool(flag) => u8::from(flag).into(),
        other => other,
    }
}

/// A file's name without folder and extension.
fn stem(name: &str) -> &str {
    Path::new(name).file_stem().and_then(|stem| stem.to_str()).unwrap_or(name)
}

fn is_empty_or_missing(dir: &Path) -> Result<bool, ConversionError> {
    match std::fs::read_dir(dir) {
        Ok(mut entries) => Ok(entries.next().is_none()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(true),
        Err(error) => Err(DataError::write(dir)(error).into()),
    }
}
