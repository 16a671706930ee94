//! Parameters in one piece of memory, so that the optimiser and the momentum update are a handful of operations and not
//! thousands.

use std::collections::HashMap;

use tch::{Device, Kind, Tensor, no_grad};

use crate::config::Shapes;
use crate::error::{Error, Result};

/// Named float32 tensors that lie one after the other in a flat one.
#[derive(Debug)]
pub struct Params {
    flat: Tensor,
    names: Vec<String>,
    index: HashMap<String, usize>,
    /// Share the flat tensor's memory; each is a leaf of its own for autograd.
    leaves: Vec<Tensor>,
}

impl Params {
    /// Zeros of these shapes. `trained`: whether they get gradients.
    pub(crate) fn zeros(shapes: &Shapes, device: Device, trained: bool) -> Self {
        let sizes: Vec<i64> = shapes.iter().map(|(_, shape)| shape.iter().product()).collect();
        let flat = Tensor::zeros([sizes.iter().sum()], (Kind::Float, device));
        let mut leaves = Vec::with_capacity(shapes.len());
        let mut offset = 0;
        for ((_, shape), size) in shapes.iter().zip(&sizes) {
            let leaf = flat.narrow(0, offset, *size).view(shape.as_slice()).detach();
            leaves.push(leaf.set_requires_grad(trained));
            offset += size;
        }
        let names: Vec<String> = shapes.iter().map(|(name, _)| name.clone()).collect();
        let index = names.iter().cloned().enumerate().map(|(i, name)| (name, i)).collect();
        Self { flat, names, index, leaves }
    }

    /// All parameters as one vector.
    pub fn flat(&self) -> &Tensor {
        &self.flat
    }

    /// How many numbers there are.
    pub fn len(&self) -> i64 {
        self.flat.size1().unwrap_or_default()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Names, in their order in the flat vector.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// A parameter by name.
    pub fn get(&self, name: &str) -> Option<&Tensor> {
        self.index.get(name).map(|i| &self.leaves[*i])
    }

    /// Sets a parameter's values. Fails for an unknown name or another shape.
    pub fn set(&self, name: &str, value: &Tensor) -> Result<()> {
        let Some(leaf) = self.get(name) else { return Err(Error::Option(format!("there is no parameter {name}"))) };
        if leaf.size() != value.size() {
            let (own, given) = (leaf.size(), value.size());
            return Err(Error::Option(format!("parameter {name} has shape {own:?}, not {given:?}")));
        }
        no_grad(|| leaf.shallow_clone().copy_(value));
        Ok(())
    }

    /// Gradients of a scalar by all parameters, as one vector; 0 where the scalar does not depend on one. Frees the graph.
    pub fn gradient(&self, loss: &Tensor) -> Result<Tensor> {
        let gradients = Tensor::f_run_backward(&[loss], &self.leaves, false, false)?;
        let flat = gradients.iter().zip(&self.leaves).map(|(gradient, leaf)| match gradient.defined() {
            true => gradient.reshape([-1]),
            false => Tensor::zeros([leaf.numel() as i64], (Kind::Float, leaf.device())),
        });
        Ok(Tensor::cat(&flat.collect::<Vec<_>>(), 0))
    }

    /// One parameter's part of a vector such as [`Self::gradient`] gives.
    pub fn part_of(&self, flat: &Tensor, name: &str) -> Option<Tensor> {
        let i = *self.index.get(name)?;
        let offset = self.leaves[..i].iter().map(|leaf| leaf.numel() as i64).sum();
        Some(flat.narrow(0, offset, self.leaves[i].numel() as i64).view(self.leaves[i].size().as_slice()))
    }

    /// Moves towards the first [`Self::len`] numbers of `live`: `momentum * self + (1 - momentum) * live`.
    pub fn follow(&self, live: &Self, momentum: f64) {
        no_grad(|| {
            let target = live.flat.narrow(0, 0, self.len());
            let _ = self.flat.shallow_clone().lerp_(&target, 1.0 - momentum);
        });
    }
}
