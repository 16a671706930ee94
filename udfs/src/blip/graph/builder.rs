//! Builder of ONNX graphs: values, nodes and layers.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use prost::Message;

use super::proto::{
    AttributeProto, DataType, Dimension, DimensionValue, GraphProto, ModelProto, NodeProto, OperatorSetId, StringEntry,
    TensorProto, TensorShape, TensorType, TypeProto, ValueInfo,
};
use super::tensors::{Form, Shapes, WeightRef};
use crate::blip::med::Precision;
use crate::blip::operators::DOMAIN;

/// com.microsoft: ONNX Runtime's own operators.
pub(super) const MS: &str = "com.microsoft";

/// Folder of the external-data file that the graphs' initialisers name.
pub(crate) const EXTERNAL_FOLDER: &str = "/dev";

/// An ONNX model and the tensors that its session must receive.
pub(crate) struct Graph {
    pub(crate) model: Vec<u8>,
    pub(crate) weights: Vec<WeightRef>,
}

/// A dimension: a fixed number, or the name of one known at run time.
#[derive(Clone, Copy)]
pub(super) enum Dim<'a> {
    N(usize),
    S(&'a str),
}

/// Graph builder. It names the values; its methods return the name of their result.
pub(super) struct Builder<'a> {
    shapes: &'a dyn Shapes,
    precision: Precision,
    /// Whether values and weights are in float16 here.
    is_half: bool,
    nodes: Vec<NodeProto>,
    weights: BTreeSet<WeightRef>,
    initializers: BTreeMap<String, TensorProto>,
    inputs: Vec<ValueInfo>,
    outputs: Vec<ValueInfo>,
    /// Inputs already quantised per row: value -> (bytes, row scale).
    quantised: HashMap<String, [String; 2]>,
}

impl<'a> Builder<'a> {
    pub(super) fn new(shapes: &'a dyn Shapes, precision: Precision) -> Self {
        Self {
            shapes,
            precision,
            is_half: false,
            nodes: vec![],
            weights: BTreeSet::new(),
            initializers: BTreeMap::new(),
            inputs: vec![],
            outputs: vec![],
            quantised: HashMap::new(),
        }
    }

    pub(super) fn precision(&self) -> Precision {
        self.precision
    }

    pub(super) fn finish(self, name: &str) -> Graph {
        let mut initializer: Vec<TensorProto> = self.initializers.into_values().collect();
        let weights: Vec<WeightRef> = self.weights.into_iter().collect();
        for weight in &weights {
            let shape = self.shapes.shape(&weight.tensor).unwrap_or_default();
            let (dims, data_type) = match weight.form {
                Form::Float => (shape.to_vec(), DataType::Float),
                Form::Half => (shape.to_vec(), DataType::Float16),
                Form::Int8 => (shape.iter().rev().copied().collect(), DataType::Int8),
                Form::Int8Scale => (shape[..1].to_vec(), DataType::Float),
            };
            initializer.push(TensorProto {
                name: weight.name(),
                dims: dims.iter().map(|&d| d as i64).collect(),
                data_type: data_type as i32,
                // The session receives the tensor under this name and never reads the file, but ONNX Runtime checks
                // that it exists (`EXTERNAL_FOLDER`).
                external_data: vec![StringEntry { key: "location".into(), value: "null".into() }],
                data_location: 1,
                ..Default::default()
            });
        }
        let graph =
            GraphProto { node: self.nodes, name: name.into(), initializer, input: self.inputs, output: self.outputs };
        let model = ModelProto {
            ir_version: 9,
            producer_name: "capfilt".into(),
            graph: Some(graph),
            // A session of another device does not know the last.
            opset_import: [("", 17), (MS, 1), (DOMAIN, 1)][..if self.precision == Precision::Int8 { 3 } else { 2 }]
                .iter()
                .map(|(domain, version)| OperatorSetId { domain: (*domain).into(), version: *version })
                .collect(),
        };
        Graph { model: model.encode_to_vec(), weights }
    }

    // Inputs, outputs, constants.

    pub(super) fn input(&mut self, name: &str, data_type: DataType, dims: &[Dim<'_>]) -> String {
        self.inputs.push(value_info(name, data_type, dims));
        name.into()
    }

    pub(super) fn output(&mut self, name: &str, data_type: DataType, dims: &[Dim<'_>]) {
        self.outputs.push(value_info(name, data_type, dims));
    }

    pub(super) fn weight(&mut self, tensor: &str) -> String {
        self.weight_as(tensor, if self.is_half { Form::Half } else { Form::Float })
    }

    fn weight_as(&mut self, tensor: &str, form: Form) -> String {
        let weight = WeightRef { tensor: tensor.into(), form };
        let name = weight.name();
        self.weights.insert(weight);
        name
    }

    pub(super) fn ints(&mut self, values: &[i64]) -> String {
        let name = format!("ints{values:?}");
        let raw_data = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.constant(name, vec![values.len() as i64], DataType::Int64, raw_data)
    }

    pub(super) fn int(&mut self, value: i64) -> String {
        self.constant(format!("int{value}"), vec![], DataType::Int64, value.to_le_bytes().to_vec())
    }

    pub(super) fn float(&mut self, value: f32) -> String {
        self.constant(format!("float{value:e}"), vec![], DataType::Float, value.to_le_bytes().to_vec())
    }

    /// A constant table `[values.len()]`.
    pub(super) fn floats(&mut self, name: &str, values: &[f32]) -> String {
        let raw_data = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.constant(name.into(), vec![values.len() as i64], DataType::Float, raw_data)
    }

    pub(super) fn ints32(&mut self, values: &[i32]) -> String {
        let raw_data = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.constant(format!("ints32{values:?}"), vec![values.len() as i64], DataType::Int32, raw_data)
    }

    pub(super) fn cast(&mut self, x: &str, to: DataType) -> String {
        self.op("Cast", &[x], vec![attr_int("to", to as i64)])
    }

    fn constant(&mut self, name: String, dims: Vec<i64>, data_type: DataType, raw_data: Vec<u8>) -> String {
        self.initializers.entry(name.clone()).or_insert_with(|| TensorProto {
            dims,
            data_type: data_type as i32,
            name: name.clone(),
            raw_data,
            ..Default::default()
        });
        name
    }

    // Nodes.

    pub(super) fn node<const N: usize>(
        &mut self,
        domain: &str,
        op: &str,
        inputs: &[&str],
        attributes: Vec<AttributeProto>,
    ) -> [String; N] {
        let id = self.nodes.len();
        let outputs: [String; N] = std::array::from_fn(|i| format!("v{id}.{i}"));
        self.push(domain, op, inputs, &outputs, attributes);
        outputs
    }

    pub(super) fn push(
        &mut self,
        domain: &str,
        op: &str,
        inputs: &[&str],
        outputs: &[String],
        attribute: Vec<AttributeProto>,
    ) {
        self.nodes.push(NodeProto {
            input: inputs.iter().map(|s| s.to_string()).collect(),
            output: outputs.to_vec(),
            name: format!("{op}{}", self.nodes.len()),
            op_type: op.into(),
            attribute,
            domain: domain.into(),
        });
    }

    /// Adds a node with one output.
    pub(super) fn op(&mut self, op: &str, inputs: &[&str], attributes: Vec<AttributeProto>) -> String {
        let [out] = self.node("", op, inputs, attributes);
        out
    }

    pub(super) fn ms(&mut self, op: &str, inputs: &[&str], attributes: Vec<AttributeProto>) -> String {
        let [out] = self.node(MS, op, inputs, attributes);
        out
    }

    /// Adds a node of an operator of [`crate::blip::operators`].
    pub(super) fn ours(&mut self, op: &str, inputs: &[&str], attributes: Vec<AttributeProto>) -> String {
        let [out] = self.node(DOMAIN, op, inputs, attributes);
        out
    }

    pub(super) fn rename(&mut self, value: &str, name: &str) {
        self.push("", "Identity", &[value], &[name.to_string()], vec![]);
    }

    // Parts in float16: embeddings and heads are in float32 in every precision.

    /// `x` in the precision of the blocks, which begin here.
    pub(super) fn narrow(&mut self, x: &str) -> String {
        self.is_half = self.precision == Precision::Fp16;
        if self.is_half { self.cast(x, DataType::Float16) } else { x.into() }
    }

    /// `x` in float32, after the blocks.
    pub(super) fn widen(&mut self, x: &str) -> String {
        let is_half = std::mem::take(&mut self.is_half);
        if is_half { self.cast(x, DataType::Float) } else { x.into() }
    }

    /// Type of the values that pass between graphs.
    pub(super) fn between(&self) -> DataType {
        if self.precision == Precision::Fp16 { DataType::Float16 } else { DataType::Float }
    }

    /// Begins the graph in the blocks, with values of other graphs.
    pub(super) fn resume(&mut self) {
        self.is_half = self.precision == Precision::Fp16;
    }

    // Layers.

    /// `x W^T` for `weight` `[out, in]`; its weight is not quantised.
    pub(super) fn product(&mut self, x: &str, weight: &str) -> String {
        let w = self.weight(weight);
        self.ms("FusedMatMul", &[x, &w], vec![attr_int("transB", 1)])
    }

    /// `x W^T`, before its bias, in the builder's precision.
    pub(super) fn linear_product(&mut self, x: &str, weight: &str) -> String {
        match self.precision {
            Precision::Fp32 | Precision::Fp16 => self.product(x, weight),
            Precision::Int8 => {
                let [y, row_scale] = self.int8_product(x, weight);
                self.op("Mul", &[&y, &row_scale], vec![])
            }
        }
    }

    /// `x W^T + b`.
    pub(super) fn linear(&mut self, x: &str, layer: &str) -> String {
        let (weight, bias) = (format!("{layer}.weight"), self.weight(&format!("{layer}.bias")));
        match self.precision {
            Precision::Fp32 | Precision::Fp16 => {
                let y = self.product(x, &weight);
                self.op("Add", &[&y, &bias], vec![])
            }
            Precision::Int8 => {
                let [y, row_scale] = self.int8_product(x, &weight);
                self.ours("Rescale", &[&y, &row_scale, &bias], vec![])
            }
        }
    }

    /// Integer product, before the scales of its rows, and these. Activations are quantised per row (absolute maximum to
    /// 127, zero at 128), weights per output channel. A row's scale depends only on that row, so the rest of the batch
    /// has no effect.
    fn int8_product(&mut self, x: &str, weight: &str) -> [String; 2] {
        let known = self.quantised.get(x).cloned();
        let [bytes, row_scale] = known.unwrap_or_else(|| {
            let quantised: [String; 2] = self.node(DOMAIN, "QuantizeRows", &[x], vec![]);
            self.quantised.insert(x.into(), quantised.clone());
            quantised
        });
        let w = self.weight_as(weight, Form::Int8);
        let column_scale = self.weight_as(weight, Form::Int8Scale);
        let (zero, one) = (self.zero_point(), self.float(1.0));
        // Takes one scale for all rows only, so a row's own scale comes after.
        let y = self.ms("MatMulIntegerToFloat", &[&bytes, &w, &one, &column_scale, &zero], vec![]);
        [y, row_scale]
    }

    fn zero_point(&mut self) -> String {
        self.constant("zero128".into(), vec![], DataType::Uint8, vec![128])
    }

    /// A linear layer of the heads, which is not quantised.
    pub(super) fn linear_float(&mut self, x: &str, layer: &str) -> String {
        let y = self.product(x, &format!("{layer}.weight"));
        let bias = self.weight(&format!("{layer}.bias"));
        self.op("Add", &[&y, &bias], vec![])
    }

    /// GELU of `x W^T + b`, by the error function as in BLIP.
    pub(super) fn linear_gelu(&mut self, x: &str, layer: &str) -> String {
        let (weight, bias) = (format!("{layer}.weight"), format!("{layer}.bias"));
        match self.precision {
            Precision::Fp32 | Precision::Fp16 => {
                let y = self.product(x, &weight);
                self.bias_gelu(&y, &bias)
            }
            Precision::Int8 => {
                let [y, row_scale] = self.int8_product(x, &weight);
                let bias = self.weight(&bias);
                self.ours("RescaleGelu", &[&y, &row_scale, &bias], vec![])
            }
        }
    }

    /// GELU of `x + bias`.
    pub(super) fn bias_gelu(&mut self, x: &str, bias: &str) -> String {
        let bias = self.weight(bias);
        self.ms("BiasGelu", &[x, &bias], vec![])
    }

    pub(super) fn layer_norm(&mut self, x: &str, layer: &str, epsilon: f32) -> String {
        let (w, b) = (self.weight(&format!("{layer}.weight")), self.weight(&format!("{layer}.bias")));
        self.op("LayerNormalization", &[x, &w, &b], vec![attr_int("axis", -1), attr_float("epsilon", epsilon)])
    }

    /// Layer norm of `product + bias + residual` in one pass.
    pub(super) fn add_and_norm(
        &mut self,
        product: &str,
        bias: &str,
        residual: &str,
        layer: &str,
        epsilon: f32,
    ) -> String {
        let [normed] = self.skip_norm(product, bias, residual, layer, epsilon, |id| [format!("v{id}.0")]);
        normed
    }

    /// Variant of `add_and_norm` that also returns the sum before the norm, the next residual of a pre-norm block.
    pub(super) fn add_and_norm_both(
        &mut self,
        product: &str,
        bias: &str,
        residual: &str,
        layer: &str,
        epsilon: f32,
    ) -> [String; 2] {
        let outputs = |id| [format!("v{id}.0"), String::new(), String::new(), format!("v{id}.3")];
        let [normed, _, _, sum] = self.skip_norm(product, bias, residual, layer, epsilon, outputs);
        [normed, sum]
    }

    fn skip_norm<const N: usize>(
        &mut self,
        product: &str,
        bias: &str,
        residual: &str,
        layer: &str,
        epsilon: f32,
        outputs: impl Fn(usize) -> [String; N],
    ) -> [String; N] {
        let (w, b) = (self.weight(&format!("{layer}.weight")), self.weight(&format!("{layer}.bias")));
        let bias = self.weight(bias);
        let outputs = outputs(self.nodes.len());
        let inputs = [product, residual, &w, &b, &bias];
        self.push(MS, "SkipLayerNormalization", &inputs, &outputs, vec![attr_float("epsilon", epsilon)]);
        outputs
    }
}

fn value_info(name: &str, data_type: DataType, dims: &[Dim<'_>]) -> ValueInfo {
    let dim = dims
        .iter()
        .map(|d| Dimension {
            value: Some(match d {
                Dim::N(n) => DimensionValue::Size(*n as i64),
                Dim::S(s) => DimensionValue::Symbol((*s).into()),
            }),
        })
        .collect();
    let tensor_type = TensorType { elem_type: data_type as i32, shape: Some(TensorShape { dim }) };
    ValueInfo { name: name.into(), r#type: Some(TypeProto { tensor_type: Some(tensor_type) }) }
}

pub(super) fn attr_int(name: &str, i: i64) -> AttributeProto {
    AttributeProto { name: name.into(), i, r#type: 2, ..Default::default() }
}

pub(super) fn attr_float(name: &str, f: f32) -> AttributeProto {
    AttributeProto { name: name.into(), f, r#type: 1, ..Default::default() }
}

pub(super) fn attr_ints(name: &str, ints: &[i64]) -> AttributeProto {
    AttributeProto { name: name.into(), ints: ints.to_vec(), r#type: 7, ..Default::default() }
}

/// Width of the probe's input.
pub(crate) const PROBE_WIDTH: usize = 8;

/// Small graph with what every model has, to check that a device works: `x` `[1, n, width]`, a weight `[width, width]`
/// and attention -> `y`, of the shape of `x`.
pub(crate) fn probe() -> Graph {
    struct Square;
    impl Shapes for Square {
        fn shape(&self, _: &str) -> Option<&[usize]> {
            Some(&[PROBE_WIDTH; 2])
        }
    }
    let mut b = Builder::new(&Square, Precision::Fp32);
    let x = b.input("x", DataType::Float, &[Dim::N(1), Dim::S("n"), Dim::N(PROBE_WIDTH)]);
    let q = b.product(&x, "weight");
    b.push(MS, "MultiHeadAttention", &[&q, &q, &x], &["y".into()], vec![attr_int("num_heads", 2)]);
    b.output("y", DataType::Float, &[Dim::N(1), Dim::S("n"), Dim::N(PROBE_WIDTH)]);
    b.finish("probe")
}
