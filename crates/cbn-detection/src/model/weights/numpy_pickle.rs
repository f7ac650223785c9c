//! Dictionaries of NumPy arrays as `pickle.dump` writes them: the files of detectron2's model zoo.
//!
//! The pickle is read as data: where Python would call a function, its arguments are kept instead. An array is then the list that
//! `ndarray.__setstate__` takes: version, shape, element type, whether it is in Fortran order, bytes.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, File};
use std::io::BufReader;
use std::path::Path;

use burn::tensor::{DType, TensorData};
use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_pickle::DeOptions;

use super::{WeightsError, state_dict::to_f32};

/// The arrays under `model`, or of the file's only dictionary, by name.
pub(super) fn read(path: &Path) -> Result<BTreeMap<String, TensorData>, WeightsError> {
    let failed = |error: &dyn fmt::Display| WeightsError::read(path, &error.to_string());
    let size = fs::metadata(path).map_err(|error| failed(&error))?.len();
    let file = BufReader::new(File::open(path).map_err(|error| failed(&error))?);
    let options = DeOptions::new().keep_restore_state().replace_unresolved_globals();
    let mut pickle = serde_pickle::Deserializer::new(file, options);
    let budget = Cell::new(size.saturating_mul(COST_OF_A_BYTE));
    let root = NodeSeed { budget: &budget }.deserialize(&mut pickle).map_err(|error| failed(&error))?;
    let Node::Dict(mut root) = root else { return Err(failed(&"there is no dictionary of arrays in it")) };
    let weights = match root.remove("model") {
        Some(Node::Dict(model)) => model,
        _ => root,
    };
    let mut tensors = BTreeMap::new();
    for (name, node) in weights {
        if name.ends_with(COUNTER) {
            continue;
        }
        let Node::Array(array) = node else {
            let reason =
                "is no NumPy array of its own, but some other object, or an array that has another name as well";
            return Err(failed(&format!("{name} {reason}; nothing was executed")));
        };
        if let Some(tensor) = array.into_f32().map_err(|reason| failed(&format!("{name}: {reason}")))? {
            tensors.insert(name, tensor);
        }
    }
    Ok(tensors)
}

/// Batch norm's counters, the only integers among weights. The reader cannot tell the first of them from a 64-bit float.
const COUNTER: &str = "num_batches_tracked";

/// A pickle may refer to a value again and again. What is made of one in memory is paid from a budget by the file's size: this for a byte,
/// 1 for a number, a name or a list.
const COST_OF_A_BYTE: u64 = 4;

/// A value of the pickle.
enum Node {
    Dict(BTreeMap<String, Node>),
    List(Vec<Node>),
    Array(Array),
    Bytes(Vec<u8>),
    Text(String),
    Int(i64),
    Bool(bool),
    Other,
}

impl Node {
    /// A text, or Python 2's `str`.
    fn text(&self) -> Option<String> {
        match self {
            Self::Text(text) => Some(text.clone()),
            Self::Bytes(bytes) => Some(String::from_utf8_lossy(bytes).into_owned()),
            _ => None,
        }
    }
}

/// The state of a `numpy.ndarray`.
struct Array {
    shape: Vec<usize>,
    /// As in `f4`. The reader keeps it of all arrays but the first of a type.
    element_type: Option<String>,
    is_big_endian: bool,
    is_fortran: bool,
    bytes: Vec<u8>,
}

impl Array {
    fn of(state: &mut [Node]) -> Option<Self> {
        let (shape, element_type, is_fortran, bytes) = match state {
            // `_reconstruct` and `__setstate__`.
            [Node::Int(_), Node::List(shape), Node::List(dtype), Node::Bool(is_fortran), Node::Bytes(bytes)] => {
                (shape, dtype, *is_fortran, bytes)
            }
            // `_frombuffer`, from pickle protocol 5 on.
            [Node::Bytes(bytes), Node::List(dtype), Node::List(shape), Node::Text(order)] => {
                (shape, dtype, order != "C", bytes)
            }
            _ => return None,
        };
        let shape = shape.iter().map(|side| match side {
            Node::Int(side) => usize::try_from(*side).ok(),
            _ => None,
        });
        let (element_type, is_big_endian) = match element_type.as_slice() {
            [Node::Int(_), order, ..] => (None, order.text()? == ">"),
            [name, ..] => (Some(name.text()?), name.text()?.starts_with('>')),
            [] => return None,
        };
        let shape = shape.collect::<Option<Vec<usize>>>()?;
        Some(Self { shape, element_type, is_big_endian, is_fortran, bytes: std::mem::take(bytes) })
    }

    /// None for integers.
    fn into_f32(self) -> Result<Option<TensorData>, String> {
        let Self { shape, element_type, is_big_endian, is_fortran, bytes } = self;
        if is_big_endian || (is_fortran && shape.len() > 1) {
            return Err("only little-endian arrays in C order are read".to_owned());
        }
        let len = shape.iter().try_fold(1_usize, |len, &side| len.checked_mul(side));
        let of_size = |size: usize| len.and_then(|len| len.checked_mul(size)) == Some(bytes.len());
        let dtype = match element_type.as_deref().map(|name| name.trim_start_matches(['<', '=', '|'])) {
            Some("f2") if of_size(2) => DType::F16,
            // An array of unknown type is the first of it. Weights of four bytes are floats.
            Some("f4") | None if of_size(4) => DType::F32,
            Some("f8") if of_size(8) => DType::F64,
            Some(name) if name.starts_with(['i', 'u', 'b']) => return Ok(None),
            Some(name) => return Err(format!("{} bytes for an array {shape:?} of type {name}", bytes.len())),
            None => {
                return Err(format!("{} bytes for an array {shape:?}, which should be of 32-bit floats", bytes.len()));
            }
        };
        Ok(Some(to_f32(bytes, &shape, dtype)))
    }
}

struct NodeSeed<'a> {
    budget: &'a Cell<u64>,
}

impl NodeSeed<'_> {
    fn pay<E: Error>(&self, cost: u64) -> Result<(), E> {
        let left = self.budget.get().checked_sub(cost);
        self.budget.set(left.ok_or_else(|| E::custom("its values claim more memory than the file has bytes"))?);
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for NodeSeed<'_> {
    type Value = Node;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
        self.pay(1)?;
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for NodeSeed<'_> {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("dictionaries of NumPy arrays")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Node, A::Error> {
        let mut entries = BTreeMap::new();
        while let Some(key) = map.next_key_seed(NodeSeed { budget: self.budget })? {
            let key = key.text().ok_or_else(|| A::Error::custom("a dictionary has a key that is no text"))?;
            entries.insert(key, map.next_value_seed(NodeSeed { budget: self.budget })?);
        }
        Ok(Node::Dict(entries))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Node, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element_seed(NodeSeed { budget: self.budget })? {
            items.push(item);
        }
        Ok(Array::of(&mut items).map_or(Node::List(items), Node::Array))
    }

    fn visit_byte_buf<E: Error>(self, bytes: Vec<u8>) -> Result<Node, E> {
        self.pay(bytes.len() as u64 * COST_OF_A_BYTE)?;
        Ok(Node::Bytes(bytes))
    }

    fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<Node, E> {
        self.visit_byte_buf(bytes.to_vec())
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Node, E> {
        self.pay(text.len() as u64)?;
        Ok(Node::Text(text.to_owned()))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Node, E> {
        Ok(Node::Int(value))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Node, E> {
        Ok(i64::try_from(value).map_or(Node::Other, Node::Int))
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Node, E> {
        Ok(Node::Bool(value))
    }

    fn visit_f64<E: Error>(self, _value: f64) -> Result<Node, E> {
        Ok(Node::Other)
    }

    fn visit_unit<E: Error>(self) -> Result<Node, E> {
        Ok(Node::Other)
    }

    fn visit_none<E: Error>(self) -> Result<Node, E> {
        Ok(Node::Other)
    }
}
