//! Parameters in one contiguous tensor, so that the optimiser and the momentum update take a handful of operations
//! rather than thousands.

use std::collections::HashMap;

use tch::{Device, Kind, Tensor, no_grad};

use crate::config::Shapes;
use crate::error::{Error, Result};

/// Named float32 tensors, stored one after the other in a flat one.
#[derive(Debug)]
pub struct Params {
    flat: Tensor,
    names: Vec<String>,
    index: HashMap<String, usize>,
    /// Views into the flat tensor, each its own leaf for autograd.
    leaves: Vec<Tensor>,
}

impl Params {
    /// Creates zeros of these shapes. `trained` turns on gradients.
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

    /// All parameters as one flat vector.
    pub fn flat(&self) -> &Tensor {
        &self.flat
    }

    /// Total number of values.
    pub fn len(&self) -> i64 {
        self.flat.size1().unwrap_or_default()
    }

    /// Whether there are no values.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Names in the order of the flat vector.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// The parameter of this name.
    pub fn get(&self, name: &str) -> Option<&Tensor> {
        self.index.get(name).map(|i| &self.leaves[*i])
    }

    /// Sets a parameter's values. Fails for an unknown name or a shape mismatch.
    pub fn set(&self, name: &str, value: &Tensor) -> Result<()> {
        let Some(leaf) = self.get(name) else { return Err(Error::Option(format!("there is no parameter {name}"))) };
        if leaf.size() != value.size() {
            let (own, given) = (leaf.size(), value.size());
            return Err(Error::Option(format!("parameter {name} has shape {own:?}, not {given:?}")));
        }
        no_grad(|| leaf.shallow_clone().copy_(value));
        Ok(())
    }

    /// Gradient of a scalar with respect to all parameters, as one vector; 0 where the scalar does not depend on a
    /// parameter. Frees the graph.
    pub fn gradient(&self, loss: &Tensor) -> Result<Tensor> {
        let gradients = Tensor::f_run_backward(&[loss], &self.leaves, false, false)?;
        let flat = gradients.iter().zip(&self.leaves).map(|(gradient, leaf)| match gradient.defined() {
            true => gradient.reshape([-1]),
            false => Tensor::zeros([leaf.numel() as i64], (Kind::Float, leaf.device())),
        });
        Ok(Tensor::cat(&flat.collect::<Vec<_>>(), 0))
    }

    /// A parameter's part of a flat vector such as the result of [`Self::gradient`].
    pub fn part_of(&self, flat: &Tensor, name: &str) -> Option<Tensor> {
        let i = *self.index.get(name)?;
        let offset = self.leaves[..i].iter().map(|leaf| leaf.numel() as i64).sum();
        Some(flat.narrow(0, offset, self.leaves[i].numel() as i64).view(self.leaves[i].size().as_slice()))
    }

    /// Momentum update towards the first [`Self::len`] values of `live`: `momentum * self + (1 - momentum) * live`.
    pub fn follow(&self, live: &Self, momentum: f64) {
        no_grad(|| {
            let target = live.flat.narrow(0, 0, self.len());
            let _ = self.flat.shallow_clone().lerp_(&target, 1.0 - momentum);
        });
    }
}
