//! Tensors that stay on a device, and what crosses between it and the host.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Mutex;

use ort::session::{IoBinding, Session, SessionOutputs};
use ort::value::DynValue;

use super::device::Device;
use super::values::lock;

/// A tensor on a device. It can be an input of a run there, and its values can be read in no other way.
#[derive(Debug)]
pub struct Resident {
    value: DynValue,
    device: Device,
    /// Tokens of a question before its padding.
    tokens: Option<usize>,
}

impl Resident {
    /// Size in bytes.
    pub fn bytes(&self) -> usize {
        bytes(&self.value)
    }

    /// The tensor as the states of a question of `tokens`, which padding follows.
    pub(super) fn of_question(self, tokens: usize) -> Self {
        Self { tokens: Some(tokens), ..self }
    }

    /// Tokens of a question; `None` if it is not one's states.
    pub(super) fn tokens(&self) -> Option<usize> {
        self.tokens
    }

    /// Size of a dimension; 0 if the tensor does not have it.
    pub(super) fn dimension(&self, dimension: usize) -> usize {
        let size = self.value.dtype().tensor_shape().and_then(|shape| shape.get(dimension).copied());
        size.map_or(0, |size| usize::try_from(size).unwrap_or(0))
    }
}

/// An input of a run on a device.
pub(super) enum Feed<'v> {
    Resident(&'v Resident),
    Host(DynValue),
}

/// Inputs of a run on a device, by name.
pub(super) type Feeds<'v> = Vec<(Cow<'static, str>, Feed<'v>)>;

/// Outputs of a run on a device, each kind in the graph's order.
pub(super) struct Outputs {
    pub(super) resident: Vec<Resident>,
    pub(super) host: Vec<DynValue>,
}

/// Bytes that crossed between the host and a device in the runs of one stage, in either direction.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Crossed {
    /// Number of runs.
    pub runs: u64,
    /// Bytes of all runs.
    pub bytes: u64,
    /// Bytes of the run with most.
    pub most: u64,
}

/// Counts what crosses, by the stage of the runs.
#[derive(Debug, Default)]
pub(super) struct Meter(Mutex<BTreeMap<&'static str, Crossed>>);

impl Meter {
    pub(super) fn read(&self) -> BTreeMap<&'static str, Crossed> {
        lock(&self.0).clone()
    }

    fn count(&self, stage: &'static str, bytes: usize) {
        let mut stages = lock(&self.0);
        let crossed = stages.entry(stage).or_default();
        crossed.runs += 1;
        crossed.bytes += bytes as u64;
        crossed.most = crossed.most.max(bytes as u64);
    }
}

/// Runs a session on `device`. Its outputs stay there, but for those named in `to_host`.
pub(super) fn run(
    session: &mut Session,
    device: Device,
    feeds: Feeds<'_>,
    to_host: &[&str],
    (meter, stage): (&Meter, &'static str),
) -> ort::Result<Outputs> {
    let names: Vec<String> = session.outputs().iter().map(|output| output.name().to_string()).collect();
    // A binding's outputs would be overwritten by its next run, so each run has its own.
    let mut binding = session.create_binding()?;
    let mut crossed = 0;
    for (name, feed) in &feeds {
        match feed {
            Feed::Resident(tensor) if tensor.device == device => binding.bind_input(name.as_ref(), &tensor.value)?,
            Feed::Resident(tensor) => {
                return Err(ort::Error::new(format!("{name} is on {}, not on {device}", tensor.device)));
            }
            Feed::Host(tensor) => crossed += send(&mut binding, name, tensor)?,
        }
    }
    let (here, there) = (Device::Cpu.memory()?, device.memory()?);
    for name in &names {
        let memory = if to_host.contains(&name.as_str()) { &here } else { &there };
        binding.bind_output_to_device(name, memory)?;
    }
    binding.synchronize_inputs()?;
    let mut found = session.run_binding(&binding)?;
    let mut outputs = Outputs { resident: vec![], host: vec![] };
    for name in &names {
        if to_host.contains(&name.as_str()) {
            let (value, bytes) = fetch(&mut found, name)?;
            crossed += bytes;
            outputs.host.push(value);
        } else {
            outputs.resident.push(Resident { value: take(&mut found, name)?, device, tokens: None });
        }
    }
    meter.count(stage, crossed);
    Ok(outputs)
}

/// Copies a tensor to the device, as an input. Returns its bytes.
fn send(binding: &mut IoBinding, name: &str, tensor: &DynValue) -> ort::Result<usize> {
    binding.bind_input(name, tensor)?;
    Ok(bytes(tensor))
}

/// Takes an output that the run has copied to the host, and its bytes.
fn fetch(outputs: &mut SessionOutputs<'_>, name: &str) -> ort::Result<(DynValue, usize)> {
    let value = take(outputs, name)?;
    let bytes = bytes(&value);
    Ok((value, bytes))
}

fn take(outputs: &mut SessionOutputs<'_>, name: &str) -> ort::Result<DynValue> {
    outputs.remove(name).ok_or_else(|| ort::Error::new(format!("no output {name}")))
}

fn bytes(value: &DynValue) -> usize {
    let (shape, kind) = (value.dtype().tensor_shape(), value.dtype().tensor_type());
    shape.zip(kind).and_then(|(shape, kind)| kind.byte_size(shape.num_elements())).unwrap_or(0)
}
