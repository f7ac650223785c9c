//! `cbn detect`: find objects in pictures.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread;

use anyhow::{Context, Result, bail, ensure};
use burn::tensor::Device;
use cbn::process_group::Peers;
use cbn_detection::data::{Category, ImageError, TestBatch, TransformConfig, read_rgb};
use cbn_detection::eval::{CocoDetection, collect, detect};
use cbn_detection::structures::ImageSize;
use cbn_report::overlay::{Item, Scale, class_color, render};
use image::RgbImage;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::cli::DetectArgs;
use crate::model_file::TrainedModel;

/// Pictures whose longer side is at most half of this are enlarged.
const MIN_SIDE_PX: u32 = 1024;
/// What folders are searched for.
const ENDINGS: [&str; 3] = ["jpg", "jpeg", "png"];

/// A file, and where its overlay goes.
struct Task {
    path: PathBuf,
    overlay: Option<PathBuf>,
}

/// One picture in detections.json, or one line of the stream.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum PictureRecord {
    Seen {
        file_name: String,
        width: u32,
        height: u32,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        overlay: Option<String>,
        detections: Vec<NamedDetection>,
    },
    Unusable {
        file_name: String,
        error: String,
    },
}

#[derive(Serialize, Deserialize)]
struct NamedDetection {
    category: String,
    #[serde(flatten)]
    detection: CocoDetection,
}

/// Batch k belongs to process k mod N, which draws its overlays; rank 0 tells of all, in order.
pub fn run(args: &DetectArgs, peers: &Peers) -> Result<()> {
    let device = args.device.open()?;
    let tasks = tasks(args)?;
    let json = args.out_dir.as_deref().filter(|_| peers.is_first()).map(open_json).transpose()?;
    let model = TrainedModel::load(&args.checkpoint, &device)?;
    let num_rounds = tasks.len().div_ceil(args.batch.get()).div_ceil(peers.size());
    let own: Vec<&Task> = tasks.chunks(args.batch.get()).skip(peers.rank()).step_by(peers.size()).flatten().collect();
    let (mut records, mut num_unusable) = (Vec::new(), 0);
    let result = thread::scope(|scope| -> Result<()> {
        let readers: Vec<_> = (0..args.workers.get())
            .map(|worker| {
                let (sender, pictures) = sync_channel(2 * args.batch.get());
                let own = &own;
                scope.spawn(move || {
                    let of_worker = own.iter().skip(worker).step_by(args.workers.get());
                    // An error from `send` means that nobody listens any more.
                    let _ = of_worker.map(|task| read_rgb(&task.path)).try_for_each(|picture| sender.send(picture));
                });
                pictures
            })
            .collect();
        let places: Vec<usize> = (0..own.len()).collect();
        let mut batches = places.chunks(args.batch.get());
        for _ in 0..num_rounds {
            // In the last round some processes have none.
            let batch = batches.next().unwrap_or_default();
            let found = detect_batch(&model, (&own, batch), &readers, &device, args.score)?;
            for record in gather(found, peers)? {
                num_unusable += usize::from(matches!(record, PictureRecord::Unusable { .. }));
                if peers.is_first() {
                    tell(&record, args.jsonl)?;
                }
                if json.is_some() {
                    records.push(record);
                }
            }
        }
        Ok(())
    });
    result?;
    if let Some((path, file)) = json {
        let mut file = BufWriter::new(file);
        serde_json::to_writer_pretty(&mut file, &records)?;
        file.flush().with_context(|| format!("cannot write {}", path.display()))?;
        eprintln!("{}", path.display());
    }
    if !peers.is_first() {
        return Ok(());
    }
    ensure!(num_unusable == 0, "{num_unusable} of {} pictures could not be used; see above", tasks.len());
    Ok(())
}

/// The records of all processes, by rank.
fn gather(own: Vec<PictureRecord>, peers: &Peers) -> Result<Vec<PictureRecord>> {
    if peers.is_alone() {
        return Ok(own);
    }
    let parts = peers.gather(&serde_json::to_vec(&own)?);
    let parts: Vec<Vec<PictureRecord>> =
        parts.iter().map(|part| serde_json::from_slice(part)).collect::<Result<_, _>>()?;
    Ok(parts.into_iter().flatten().collect())
}

/// Takes a batch from its readers, and makes a record of each of its pictures, in order.
fn detect_batch(
    model: &TrainedModel,
    (tasks, batch): (&[&Task], &[usize]),
    readers: &[Receiver<Result<RgbImage, ImageError>>],
    device: &Device,
    score: f64,
) -> Result<Vec<PictureRecord>> {
    let pictures: Vec<Result<RgbImage, ImageError>> = batch
        .iter()
        .map(|place| readers[place % readers.len()].recv().context("a thread that reads pictures ended early"))
        .collect::<Result<_>>()?;
    let usable: Vec<&RgbImage> = pictures.iter().flatten().collect();
    let mut found = detect_in(model, &usable, device, score).into_iter();
    let seen: Vec<_> = batch
        .iter()
        .zip(&pictures)
        .map(|(&place, picture)| {
            let found = if picture.is_ok() { found.next().unwrap_or_default() } else { Vec::new() };
            (tasks[place], picture, found)
        })
        .collect();
    let categories = &model.categories;
    seen.into_par_iter().map(|(task, picture, found)| record(categories, task, picture.as_ref(), found)).collect()
}

fn record(
    categories: &[Category],
    task: &Task,
    picture: Result<&RgbImage, &ImageError>,
    found: Vec<CocoDetection>,
) -> Result<PictureRecord> {
    let file_name = task.path.display().to_string();
    let picture = match picture {
        Ok(picture) => picture,
        Err(error) => return Ok(PictureRecord::Unusable { file_name, error: error.to_string() }),
    };
    if let Some(overlay) = &task.overlay {
        draw(categories, picture, &found, overlay)?;
    }
    let named = |detection: CocoDetection| NamedDetection {
        category: class_name(categories, &detection).to_owned(),
        detection,
    };
    Ok(PictureRecord::Seen {
        file_name,
        width: picture.width(),
        height: picture.height(),
        overlay: task.overlay.as_ref().map(|path| path.display().to_string()),
        detections: found.into_iter().map(named).collect(),
    })
}

fn tell(record: &PictureRecord, as_json: bool) -> Result<()> {
    if let PictureRecord::Unusable { error, .. } = record {
        eprintln!("cbn: {error}");
    }
    if as_json {
        println!("{}", serde_json::to_string(record)?);
    } else if let PictureRecord::Seen { file_name, overlay, detections, .. } = record {
        let arrow = overlay.as_ref().map_or_else(String::new, |overlay| format!(" -> {overlay}"));
        println!("{file_name}: {} objects{arrow}", detections.len());
    }
    Ok(())
}

/// What the detector finds in each picture with at least this score, in the picture's pixels.
pub fn detect_in(model: &TrainedModel, pictures: &[&RgbImage], device: &Device, score: f64) -> Vec<Vec<CocoDetection>> {
    let mut found = vec![Vec::new(); pictures.len()];
    for places in of_one_size(pictures, &model.plan.transform) {
        let together: Vec<&RgbImage> = places.iter().map(|&place| pictures[place]).collect();
        for (&place, of_picture) in places.iter().zip(detect_together(model, &together, device, score)) {
            found[place] = of_picture;
        }
    }
    found
}

/// The places of pictures that are padded to the same size in the network: together they give what each of them gives alone.
fn of_one_size(pictures: &[&RgbImage], transform: &TransformConfig) -> Vec<Vec<usize>> {
    let mut groups: BTreeMap<(usize, usize), Vec<usize>> = BTreeMap::new();
    for (place, picture) in pictures.iter().enumerate() {
        let size = transform.for_test(ImageSize::new(picture.height() as usize, picture.width() as usize)).resized;
        let [height, width] = [size.height, size.width].map(|side| side.next_multiple_of(transform.size_divisor));
        groups.entry((height, width)).or_default().push(place);
    }
    groups.into_values().collect()
}

fn detect_together(
    model: &TrainedModel,
    pictures: &[&RgbImage],
    device: &Device,
    score: f64,
) -> Vec<Vec<CocoDetection>> {
    let named: Vec<(&RgbImage, String)> = pictures.iter().map(|picture| (*picture, String::new())).collect();
    let batch = TestBatch::from_images(&named, &model.plan.transform);
    let category_ids: Vec<u64> = model.categories.iter().map(|category| category.id).collect();
    let found = detect(&model.detector, &batch.images, device, model.plan.test_flip);
    let of_picture = found.iter().zip(&batch.metas).map(|(detections, meta)| {
        let mut found = collect(detections, meta, &category_ids);
        found.retain(|detection| detection.score >= score);
        // Ids belong to data sets; these pictures are told by their names.
        found.iter_mut().for_each(|detection| detection.image_id = 0);
        found
    });
    of_picture.collect()
}

/// Writes a picture with what was found in it.
pub fn draw(categories: &[Category], picture: &RgbImage, found: &[CocoDetection], path: &Path) -> Result<()> {
    let size = ImageSize::new(picture.height() as usize, picture.width() as usize);
    let item = |detection: &CocoDetection| -> Result<Item> {
        let class = categories.iter().position(|category| category.id == detection.category_id).unwrap_or(0);
        Ok(Item {
            bbox: detection.bbox,
            mask: detection.mask(size)?,
            label: format!("{} {:.2}", class_name(categories, detection), detection.score),
            color: class_color(class),
        })
    };
    let items = found.iter().map(item).collect::<Result<Vec<_>>>()?;
    let overlay = render(picture, &items, Scale::AtLeast(MIN_SIDE_PX));
    overlay.save(path).with_context(|| format!("cannot write {}", path.display()))
}

fn class_name<'a>(categories: &'a [Category], detection: &CocoDetection) -> &'a str {
    let category = categories.iter().find(|category| category.id == detection.category_id);
    category.map_or("?", |category| &category.name)
}

fn open_json(out_dir: &Path) -> Result<(PathBuf, File)> {
    let path = out_dir.join("detections.json");
    let file = File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
    Ok((path, file))
}

/// The files, those of folders by name; overlays keep the folders' structure. Makes the directories for them. What lies in --out-dir is no
/// picture to look at: it may be of an earlier run.
fn tasks(args: &DetectArgs) -> Result<Vec<Task>> {
    let overlays = args.out_dir.as_ref().filter(|_| !args.no_overlays);
    if let Some(dir) = &args.out_dir {
        fs::create_dir_all(dir).with_context(|| format!("cannot write to {}", dir.display()))?;
    }
    let own = args.out_dir.as_deref().map(absolute).transpose()?;
    let mut taken: HashMap<PathBuf, PathBuf> = HashMap::new();
    let mut tasks = Vec::new();
    for given in &args.images {
        let (paths, base) = if given.is_dir() {
            (pictures_in(given, own.as_deref())?, given.as_path())
        } else {
            (vec![given.clone()], given.parent().unwrap_or(given))
        };
        if paths.is_empty() {
            bail!("{} holds no JPEG or PNG files", given.display());
        }
        for path in paths {
            let overlay = match overlays {
                Some(dir) => Some(overlay_path(&path, base, dir, &mut taken)?),
                None => None,
            };
            tasks.push(Task { path, overlay });
        }
    }
    refuse_overwriting(&tasks)?;
    Ok(tasks)
}

/// A picture must not become its own overlay, nor another's.
fn refuse_overwriting(tasks: &[Task]) -> Result<()> {
    let pictures = tasks.iter().filter(|task| task.path.exists()).map(|task| absolute(&task.path));
    let pictures: BTreeSet<PathBuf> = pictures.collect::<Result<_>>()?;
    let overlays = tasks.iter().filter_map(|task| task.overlay.as_ref()).filter(|overlay| overlay.exists());
    for overlay in overlays {
        ensure!(
            !pictures.contains(&absolute(overlay)?),
            "the overlay {} would be written over a picture: name another --out-dir",
            overlay.display()
        );
    }
    Ok(())
}

/// The path without links, by which two names of one file are known.
fn absolute(path: &Path) -> Result<PathBuf> {
    path.canonicalize().with_context(|| format!("cannot read {}", path.display()))
}

fn overlay_path(path: &Path, base: &Path, dir: &Path, taken: &mut HashMap<PathBuf, PathBuf>) -> Result<PathBuf> {
    let overlay = dir.join(path.strip_prefix(base).unwrap_or(path)).with_extension("png");
    if let Some(parent) = overlay.parent() {
        fs::create_dir_all(parent).with_context(|| format!("cannot write to {}", parent.display()))?;
    }
    if let Some(other) = taken.insert(overlay.clone(), path.to_owned()) {
        bail!("{} and {} would have the same overlay {}", other.display(), path.display(), overlay.display());
    }
    Ok(overlay)
}

/// The pictures of a folder and of those in it, by path; but for the folder `own`, unless it is `dir` itself.
fn pictures_in(dir: &Path, own: Option<&Path>) -> Result<Vec<PathBuf>> {
    let mut found = BTreeSet::new();
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        let failed = || format!("cannot read {}", folder.display());
        for entry in fs::read_dir(&folder).with_context(failed)? {
            let path = entry.with_context(failed)?.path();
            let ending = path.extension().map(|ending| ending.to_string_lossy().to_lowercase());
            if path.is_dir() {
                if own != Some(&absolute(&path)?) {
                    folders.push(path);
                }
            } else if ending.is_some_and(|ending| ENDINGS.contains(&ending.as_str())) {
                found.insert(path);
            }
        }
    }
    Ok(found.into_iter().collect())
}
