//! How graphs name a checkpoint's tensors.

/// Form of a checkpoint tensor in a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Form {
    /// Float32 as stored.
    Float,
    /// The same in float16.
    Half,
    /// A linear layer's weight `[out, in]` as int8 `[in, out]`, quantised per output channel.
    Int8,
    /// The scales of [`Form::Int8`]: float `[out]`.
    Int8Scale,
}

/// A checkpoint tensor in one form, as referenced by a graph.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct WeightRef {
    pub(crate) tensor: String,
    pub(crate) form: Form,
}

impl WeightRef {
    /// Initialiser name, the same in every graph.
    pub(crate) fn name(&self) -> String {
        match self.form {
            Form::Float => self.tensor.clone(),
            Form::Half => format!("{}#half", self.tensor),
            Form::Int8 => format!("{}#int8", self.tensor),
            Form::Int8Scale => format!("{}#scale", self.tensor),
        }
    }
}

/// Shapes of the checkpoint's tensors, by name.
pub(crate) trait Shapes {
    fn shape(&self, tensor: &str) -> Option<&[usize]>;
}

/// Tensor names of a mode of the text transformer. A decoder tensor missing in the file is the encoder's: BLIP shares
/// everything but self-attention, and shared tensors need not be stored twice.
pub(crate) trait TextNames {
    /// Tensor or layer of the embeddings.
    fn embeddings(&self, name: &str) -> String;
    /// Tensor or layer of block `i`.
    fn layer(&self, i: usize, name: &str) -> String;
    /// Tensor or layer of the LM head.
    fn head(&self, name: &str) -> String {
        format!("text_decoder.cls.predictions.{name}")
    }
    /// Weight of the LM head's last product.
    fn head_weight(&self) -> String;
    /// Bias that the LM head adds last.
    fn head_bias(&self) -> String;
}
