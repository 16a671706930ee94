//! What is in a pickle: containers, numbers, strings, and the tensors and storages of torch.
//!
//! Pickles refer to functions and classes by name. Here a name is one of the few with which torch saves tensors, or it is refused.

use safetensors::Dtype;

/// What lies on the stack. Containers are numbers of entries in [`Pickle`], so that a value can be in several places, and so that a
/// deeply nested file takes no deep recursion.
#[derive(Debug, Clone, Copy)]
pub(super) enum Value<'a> {
    /// Something that no weights depend on: None, floats, bytes, objects of plain data classes.
    Inert,
    Bool(bool),
    Int(i64),
    /// An integer of more than eight bytes, little-endian.
    Long(&'a [u8]),
    Str(&'a str),
    /// Where its items begin, and how many they are.
    Tuple(usize, usize),
    List(usize),
    Dict(usize),
    Storage(usize),
    Tensor(usize),
    Name(Name),
}

/// The names that are known.
#[derive(Debug, Clone, Copy)]
pub(super) enum Name {
    OrderedDict,
    RebuildTensor,
    RebuildParameter,
    Storage(Dtype),
    /// A class of plain data, whose objects are [`Value::Inert`].
    Data,
}

impl Name {
    /// The known one.
    ///
    /// # Errors
    /// Every other, by its full name.
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
            // What training scripts put beside the weights: arguments, numbers, paths. Their objects hold data and are dropped.
            // Everything else is refused even there: a file that names a function was not made to carry weights, and its
            // conversion would pass for a clean bill.
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

/// Where a tensor's numbers are: a part of the file that has a key.
#[derive(Debug, Clone, Copy)]
pub(super) struct Storage<'a> {
    pub(super) key: &'a str,
    pub(super) dtype: Dtype,
    /// Numbers, not bytes.
    pub(super) len: usize,
}

/// A view of a storage, which it does not leave.
#[derive(Debug, Clone)]
pub(super) struct Tensor<'a> {
    pub(super) storage: Storage<'a>,
    /// The first number.
    pub(super) offset: usize,
    pub(super) shape: Vec<usize>,
    /// Numbers from one index to the next, by dimension.
    pub(super) strides: Vec<usize>,
}

/// A pickle that was read.
#[derive(Debug, Default)]
pub(super) struct Pickle<'a> {
    /// What the pickle holds.
    pub(super) root: Option<Value<'a>>,
    /// Its bytes: another may follow.
    pub(super) len: usize,
    pub(super) items: Vec<Value<'a>>,
    pub(super) lists: Vec<Vec<Value<'a>>>,
    pub(super) dicts: Vec<Vec<(Value<'a>, Value<'a>)>>,
    /// Every storage that is spoken of; the same one may come again.
    pub(super) storages: Vec<Storage<'a>>,
    pub(super) tensors: Vec<Tensor<'a>>,
}

impl<'a> Pickle<'a> {
    /// The entries of a dictionary, a key that occurs twice included; none of another value.
    pub(super) fn entries(&self, value: Value<'a>) -> &[(Value<'a>, Value<'a>)] {
        match value {
            Value::Dict(dict) => &self.dicts[dict],
            _ => &[],
        }
    }

    /// What a dictionary has under `key`.
    pub(super) fn get(&self, value: Value<'a>, key: &str) -> Option<Value<'a>> {
        self.entries(value).iter().rev().find(|(k, _)| matches!(k, Value::Str(k) if *k == key)).map(|(_, value)| *value)
    }

    /// The items of a list or tuple; none of another value.
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
    /// A kind of value, for messages.
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
