//! Contents of a pickle: containers, numbers, strings, and torch's tensors and storages.
//!
//! Pickles refer to functions and classes by name. All names are refused except the few with which torch saves tensors
//! and those of some plain data classes.

use safetensors::Dtype;

/// A stack value. Containers are indices into [`Pickle`], so that a value can occur in several places and deeply nested
/// files need no deep recursion.
#[derive(Debug, Clone, Copy)]
pub(super) enum Value<'a> {
    /// Anything that weights do not depend on: None, floats, bytes, objects of plain data classes.
    Inert,
    Bool(bool),
    Int(i64),
    /// An integer of more than eight bytes, little-endian.
    Long(&'a [u8]),
    Str(&'a str),
    /// Index of the first item, and number of items.
    Tuple(usize, usize),
    List(usize),
    Dict(usize),
    Storage(usize),
    Tensor(usize),
    Name(Name),
}

/// Supported names.
#[derive(Debug, Clone, Copy)]
pub(super) enum Name {
    OrderedDict,
    RebuildTensor,
    RebuildParameter,
    Storage(Dtype),
    /// A plain data class, whose objects are [`Value::Inert`].
    Data,
}

impl Name {
    /// Looks up a supported name.
    ///
    /// # Errors
    /// Any other name, given in full.
    pub(super) fn of(module: &str, name: &str) -> Result<Self, String> {
        Self::find(module, name).ok_or_else(|| {
            format!(
                "its pickle asks for {module}.{name}, which no weights need: refused, and nothing of the file was run. If you trust \
                 where it is from, load it with torch and save the weights alone: torch.save(model.state_dict(), FILE)"
            )
        })
    }

    fn find(module: &str, name: &str) -> Option<Self> {
        Some(match (module, name) {
            ("collections", "OrderedDict") => Self::OrderedDict,
            ("torch._utils", "_rebuild_tensor_v2" | "_rebuild_tensor") => Self::RebuildTensor,
            ("torch._utils", "_rebuild_parameter" | "_rebuild_parameter_with_state") => Self::RebuildParameter,
            ("torch" | "torch.cuda", name) if name.ends_with("Storage") => Self::Storage(match name {
                "FloatStorage" => Dtype::F32,
                "HalfStorage" => Dtype::F16,
                "BFloat16Storage" => Dtype::BF16,
                "DoubleStorage" => Dtype::F64,
                "LongStorage" => Dtype::I64,
                "IntStorage" => Dtype::I32,
                "ShortStorage" => Dtype::I16,
                "CharStorage" => Dtype::I8,
                "ByteStorage" => Dtype::U8,
                "BoolStorage" => Dtype::BOOL,
                "ComplexFloatStorage" => Dtype::C64,
                _ => return None,
            }),
            ("torch.storage", "UntypedStorage") => Self::Storage(Dtype::U8),
            // Values that training scripts store beside the weights: arguments, numbers, paths. Their objects hold data
            // and are dropped. Everything else is refused even there: a file that names a function was not made to
            // carry weights, and converting it would suggest that it is harmless.
            ("argparse", "Namespace")
            | ("collections", "Counter" | "defaultdict")
            | ("numpy", "dtype" | "ndarray")
            | ("numpy.core.multiarray" | "numpy._core.multiarray", "scalar" | "_reconstruct")
            | ("_codecs", "encode")
            | ("pathlib", "PosixPath" | "PurePosixPath" | "WindowsPath" | "PureWindowsPath")
            | (
                "builtins" | "__builtin__",
                "set" | "frozenset" | "bytearray" | "complex" | "int" | "float" | "list" | "dict" | "str",
            )
            | ("torch", "Size" | "device" | "float16" | "bfloat16" | "float32" | "float64" | "int64") => Self::Data,
            _ => return None,
        })
    }
}

/// Location of a tensor's elements: a member of the file, by key.
#[derive(Debug, Clone, Copy)]
pub(super) struct Storage<'a> {
    pub(super) key: &'a str,
    pub(super) dtype: Dtype,
    /// Number of elements, not bytes.
    pub(super) len: usize,
}

/// A view within the bounds of a storage.
#[derive(Debug, Clone)]
pub(super) struct Tensor<'a> {
    pub(super) storage: Storage<'a>,
    /// Index of the first element.
    pub(super) offset: usize,
    pub(super) shape: Vec<usize>,
    /// Stride of each dimension, in elements.
    pub(super) strides: Vec<usize>,
}

/// A parsed pickle.
#[derive(Debug, Default)]
pub(super) struct Pickle<'a> {
    /// Top-level value.
    pub(super) root: Option<Value<'a>>,
    /// Length in bytes; another pickle may follow.
    pub(super) len: usize,
    pub(super) items: Vec<Value<'a>>,
    pub(super) lists: Vec<Vec<Value<'a>>>,
    pub(super) dicts: Vec<Vec<(Value<'a>, Value<'a>)>>,
    /// All storages referred to, possibly repeated.
    pub(super) storages: Vec<Storage<'a>>,
    pub(super) tensors: Vec<Tensor<'a>>,
}

impl<'a> Pickle<'a> {
    /// Entries of a dictionary, including duplicate keys; empty for any other value.
    pub(super) fn entries(&self, value: Value<'a>) -> &[(Value<'a>, Value<'a>)] {
        match value {
            Value::Dict(dict) => &self.dicts[dict],
            _ => &[],
        }
    }

    /// Value of a dictionary under `key`.
    pub(super) fn get(&self, value: Value<'a>, key: &str) -> Option<Value<'a>> {
        self.entries(value).iter().rev().find(|(k, _)| matches!(k, Value::Str(k) if *k == key)).map(|(_, value)| *value)
    }

    /// Items of a list or tuple; empty for any other value.
    pub(super) fn list(&self, value: Value<'a>) -> &[Value<'a>] {
        match value {
            Value::List(list) => &self.lists[list],
            Value::Tuple(start, len) => &self.items[start..start + len],
            _ => &[],
        }
    }

    pub(super) fn tensor(&self, value: Value<'a>) -> Option<&Tensor<'a>> {
        match value {
            Value::Tensor(tensor) => self.tensors.get(tensor),
            _ => None,
        }
    }
}

impl Value<'_> {
    /// Kind of value, for error messages.
    pub(super) fn what(&self) -> &'static str {
        match self {
            Self::Inert => "a value that is not kept",
            Self::Bool(_) => "a truth value",
            Self::Int(_) | Self::Long(_) => "a number",
            Self::Str(_) => "a string",
            Self::Tuple(..) => "a tuple",
            Self::List(_) => "a list",
            Self::Dict(_) => "a dictionary",
            Self::Storage(_) => "a storage",
            Self::Tensor(_) => "a tensor",
            Self::Name(_) => "a function",
        }
    }
}
