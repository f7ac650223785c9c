//! Building blocks of an ONNX graph: nodes, constants, names.

use onnx_rs::ast::{Attribute, AttributeType, DataType, Node, OpType, TensorProto};

/// The name of a value in the graph.
pub(super) type Value = String;

/// A graph that grows.
#[derive(Default)]
pub(super) struct Graph {
    operations: Vec<Operation>,
    constants: Vec<Constant>,
}

struct Operation {
    name: String,
    kind: &'static str,
    inputs: Vec<Value>,
    outputs: Vec<Value>,
    attributes: Vec<Attribute<'static>>,
}

struct Constant {
    name: Value,
    data_type: DataType,
    dims: Vec<i64>,
    bytes: Vec<u8>,
}

impl Graph {
    /// The operations, each after those that it needs.
    pub fn nodes(&self) -> Vec<Node<'_>> {
        let nodes = self.operations.iter().map(|operation| Node {
            name: &operation.name,
            op_type: OpType::from(operation.kind),
            input: operation.inputs.iter().map(String::as_str).collect(),
            output: operation.outputs.iter().map(String::as_str).collect(),
            attribute: operation.attributes.clone(),
            ..Node::default()
        });
        nodes.collect()
    }

    /// The constants.
    pub fn initializers(&self) -> Vec<TensorProto<'_>> {
        let tensors = self.constants.iter();
        tensors.map(|of| TensorProto::from_raw(&of.name, of.dims.clone(), of.data_type, &of.bytes)).collect()
    }

    /// A node with one output.
    pub fn op(&mut self, kind: &'static str, inputs: &[&str], attributes: Vec<Attribute<'static>>) -> Value {
        self.op_many(kind, inputs, attributes, 1).remove(0)
    }

    /// A node with several outputs.
    pub fn op_many(
        &mut self,
        kind: &'static str,
        inputs: &[&str],
        attributes: Vec<Attribute<'static>>,
        num_outputs: usize,
    ) -> Vec<Value> {
        let name = format!("{kind}_{}", self.operations.len());
        let outputs: Vec<Value> = (0..num_outputs).map(|place| format!("{name}_{place}")).collect();
        let inputs = inputs.iter().map(|&input| input.to_owned()).collect();
        self.operations.push(Operation { name, kind, inputs, outputs: outputs.clone(), attributes });
        outputs
    }

    /// A constant tensor of floats.
    pub fn floats(&mut self, values: &[f32], dims: &[usize]) -> Value {
        let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.constant(DataType::Float, bytes, dims)
    }

    /// A constant number.
    pub fn float(&mut self, value: f32) -> Value {
        self.floats(&[value], &[])
    }

    /// A constant list of integers.
    pub fn ints(&mut self, values: &[i64]) -> Value {
        let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.constant(DataType::Int64, bytes, &[values.len()])
    }

    /// A constant integer.
    pub fn int(&mut self, value: i64) -> Value {
        self.constant(DataType::Int64, value.to_le_bytes().to_vec(), &[])
    }

    fn constant(&mut self, data_type: DataType, bytes: Vec<u8>, dims: &[usize]) -> Value {
        let name = format!("constant_{}", self.constants.len());
        let dims = dims.iter().map(|&side| side as i64).collect();
        self.constants.push(Constant { name: name.clone(), data_type, dims, bytes });
        name
    }

    /// Side `axis` of a tensor's shape, as a list of one.
    pub fn side(&mut self, x: &str, axis: i64) -> Value {
        let shape = self.op("Shape", &[x], vec![]);
        let axis = self.ints(&[axis]);
        self.op("Gather", &[&shape, &axis], vec![])
    }

    pub fn reshape(&mut self, x: &str, shape: &[i64]) -> Value {
        let shape = self.ints(shape);
        self.op("Reshape", &[x, &shape], vec![])
    }

    /// Where a condition holds, as a list of positions.
    pub fn positions(&mut self, condition: &str) -> Value {
        let positions = self.op("NonZero", &[condition], vec![]);
        self.reshape(&positions, &[-1])
    }

    /// Rows of a tensor.
    pub fn rows(&mut self, x: &str, indices: &str) -> Value {
        self.op("Gather", &[x, indices], vec![int("axis", 0)])
    }

    /// One column of `[N, M]`, as a list.
    pub fn column(&mut self, x: &str, column: i64) -> Value {
        let column = self.int(column);
        self.op("Gather", &[x, &column], vec![int("axis", 1)])
    }

    /// Positions of the largest values, at most `limit`, largest first.
    pub fn best(&mut self, values: &str, limit: usize) -> Value {
        let len = self.side(values, 0);
        let limit = self.ints(&[limit as i64]);
        let count = self.op("Min", &[&len, &limit], vec![]);
        self.op_many("TopK", &[values, &count], vec![int("axis", 0)], 2).remove(1)
    }

    /// Gives a value a name that users see.
    pub fn name(&mut self, value: &str, name: &str) {
        self.op("Identity", &[value], vec![]);
        let node = self.operations.last_mut().expect("an operation was added");
        node.outputs = vec![name.to_owned()];
    }
}

pub(super) fn int(name: &'static str, i: i64) -> Attribute<'static> {
    Attribute { name, r#type: AttributeType::Int, i, ..Attribute::default() }
}

pub(super) fn ints(name: &'static str, values: &[i64]) -> Attribute<'static> {
    Attribute { name, r#type: AttributeType::Ints, ints: values.to_vec(), ..Attribute::default() }
}

pub(super) fn float(name: &'static str, f: f32) -> Attribute<'static> {
    Attribute { name, r#type: AttributeType::Float, f, ..Attribute::default() }
}

pub(super) fn text(name: &'static str, value: &'static str) -> Attribute<'static> {
    Attribute { name, r#type: AttributeType::String, s: value.as_bytes(), ..Attribute::default() }
}
