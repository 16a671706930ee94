//! AdamW (Loshchilov and Hutter, "Decoupled weight decay regularization", algorithm 2) over one flat vector.

use tch::{Device, Tensor, no_grad};

/// Number of values updated at a time, so that intermediate results need no memory of the model's size: on a CPU few
/// enough for its cache, on other devices enough to be worth a kernel launch.
fn piece_of(device: Device) -> i64 {
    if device == Device::Cpu { 1 << 20 } else { 1 << 26 }
}

/// Hyperparameters of AdamW. BLIP decays every parameter.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamWOptions {
    /// Decay rate of the mean of gradients.
    pub beta1: f64,
    /// Decay rate of the mean of squared gradients.
    pub beta2: f64,
    /// Constant added to the root of the mean of squared gradients.
    pub epsilon: f64,
    /// Share of a parameter, times the learning rate, that is subtracted in each step.
    pub weight_decay: f64,
}

impl Default for AdamWOptions {
    fn default() -> Self {
        Self { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 0.05 }
    }
}

/// State of the optimiser, which can be stored, unlike that of tch's own.
#[derive(Debug)]
pub struct AdamW {
    /// Hyperparameters.
    pub options: AdamWOptions,
    /// Steps taken.
    pub steps: u64,
    /// Running mean of the gradient.
    pub mean: Tensor,
    /// Running mean of the squared gradient.
    pub square: Tensor,
}

impl AdamW {
    /// Creates the state for this flat vector of parameters.
    pub fn new(flat: &Tensor, options: AdamWOptions) -> Self {
        Self { options, steps: 0, mean: flat.zeros_like(), square: flat.zeros_like() }
    }

    /// Takes one step against `gradient`. `flat` and `gradient` must have the length of the state.
    pub fn step(&mut self, flat: &Tensor, gradient: &Tensor, learning_rate: f64) {
        let AdamWOptions { beta1, beta2, epsilon, weight_decay } = self.options;
        self.steps += 1;
        // Beyond 2^31 steps both corrections are 1.
        let steps = i32::try_from(self.steps).unwrap_or(i32::MAX);
        let (correction1, correction2) = (1.0 - beta1.powi(steps), 1.0 - beta2.powi(steps));
        no_grad(|| {
            let most = piece_of(flat.device());
            for from in (0..flat.numel() as i64).step_by(most as usize) {
                let piece = |of: &Tensor| of.narrow(0, from, most.min(of.numel() as i64 - from));
                let (mut flat, mut mean, mut square) = (piece(flat), piece(&self.mean), piece(&self.square));
                let gradient = piece(gradient);
                let _ = flat.g_mul_scalar_(1.0 - learning_rate * weight_decay);
                let _ = mean.lerp_(&gradient, 1.0 - beta1);
                let _ = square.g_mul_scalar_(beta2).addcmul_(&gradient, &gradient.g_mul_scalar(1.0 - beta2));
                let divisor = (&square / correction2).sqrt_().g_add_scalar_(epsilon);
                let _ = flat.addcdiv_(&mean.g_mul_scalar(-learning_rate / correction1), &divisor);
            }
        });
    }
}

/// Returns the norm of `gradient`, which is scaled down if its norm exceeds `most`.
pub fn clip(gradient: &mut Tensor, most: f64) -> f64 {
    let norm = gradient.norm().double_value(&[]);
    if norm > most {
        let _ = no_grad(|| gradient.g_mul_scalar_(most / norm));
    }
    norm
}
