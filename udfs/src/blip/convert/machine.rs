//! Pickle reader that executes no code.
//!
//! A pickle is a program for a small stack machine, and Python's reader lets it call any function. This reader only
//! builds containers and tensors and has no way to call anything.
//!
//! Nothing is copied out of the file, and memory is bounded by [`MAX_STEPS`], not by sizes in the file.

use std::collections::HashMap;

use super::pickle::{Name, Pickle, Storage, Tensor, Value};

/// Maximum instructions of one pickle: twenty times those of a whole MED with momentum encoders and optimiser.
pub(super) const MAX_STEPS: usize = 1 << 21;

/// Maximum rank of a tensor; BLIP's have at most four dimensions.
const MAX_RANK: usize = 8;

/// Reads the pickle at the start of `bytes`.
///
/// # Errors
/// A truncated or invalid pickle, or one with names that a checkpoint does not need.
pub(super) fn read(bytes: &[u8]) -> Result<Pickle<'_>, String> {
    let pickle = Pickle::default();
    let mut machine = Machine { bytes, at: 0, stack: vec![], marks: vec![], memo: HashMap::new(), pickle };
    for _ in 0..MAX_STEPS {
        let start = machine.at;
        let ended = machine.step().map_err(|e| format!("{e} (byte {start} of the pickle)"))?;
        if let Some(root) = ended {
            return Ok(Pickle { root: Some(root), len: machine.at, ..machine.pickle });
        }
    }
    Err(format!("its pickle has over {MAX_STEPS} instructions: no checkpoint of BLIP has"))
}

struct Machine<'a> {
    bytes: &'a [u8],
    at: usize,
    stack: Vec<Value<'a>>,
    marks: Vec<usize>,
    memo: HashMap<usize, Value<'a>>,
    pickle: Pickle<'a>,
}

impl<'a> Machine<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8], String> {
        let end = self.at.checked_add(len).filter(|end| *end <= self.bytes.len());
        let end = end.ok_or("it ends in the middle of its pickle; fetch the file again")?;
        let taken = &self.bytes[self.at..end];
        self.at = end;
        Ok(taken)
    }

    /// An unsigned little-endian number of `len` bytes, at most eight.
    fn number(&mut self, len: usize) -> Result<usize, String> {
        let bytes = self.take(len)?;
        let number = bytes.iter().rev().fold(0u64, |number, byte| (number << 8) | u64::from(*byte));
        usize::try_from(number).map_err(|_| format!("{number} is out of range"))
    }

    fn line(&mut self) -> Result<&'a str, String> {
        let rest = &self.bytes[self.at..];
        let len = rest.iter().take(1024).position(|byte| *byte == b'\n').ok_or("a name in it does not end")?;
        self.at += len + 1;
        std::str::from_utf8(&rest[..len]).map_err(|_| "a name in it is not UTF-8".into())
    }

    fn pop(&mut self) -> Result<Value<'a>, String> {
        let floor = self.marks.last().copied().unwrap_or(0);
        if self.stack.len() <= floor {
            return Err("it takes a value from an empty stack: damaged".into());
        }
        self.stack.pop().ok_or_else(|| "empty stack".into())
    }

    fn top(&self) -> Result<Value<'a>, String> {
        self.stack.last().copied().ok_or_else(|| "it reads an empty stack: damaged".into())
    }

    /// Removes the last mark and returns the index of the first value after it.
    fn mark(&mut self) -> Result<usize, String> {
        self.marks.pop().ok_or_else(|| "it has no mark where one must be: damaged".into())
    }

    fn text(&mut self, len: usize) -> Result<Value<'a>, String> {
        // Python's strings may hold lone surrogates, and its byte strings any bytes; no tensor's name does.
        Ok(std::str::from_utf8(self.take(len)?).map_or(Value::Inert, Value::Str))
    }

    /// Replaces the values from `start` on by a tuple of them.
    fn tuple(&mut self, start: usize) -> Result<(), String> {
        if start > self.stack.len() || self.marks.last().is_some_and(|mark| *mark > start) {
            return Err("it makes a tuple of values that are not there: damaged".into());
        }
        let first = self.pickle.items.len();
        self.pickle.items.extend(self.stack.drain(start..));
        self.stack.push(Value::Tuple(first, self.pickle.items.len() - first));
        Ok(())
    }

    fn dict(&mut self, entries: Vec<(Value<'a>, Value<'a>)>) -> Value<'a> {
        self.pickle.dicts.push(entries);
        Value::Dict(self.pickle.dicts.len() - 1)
    }

    /// Executes one instruction; returns the pickle's value when it ends.
    fn step(&mut self) -> Result<Option<Value<'a>>, String> {
        let code = self.take(1)?[0];
        let value = match code {
            // PROTO, FRAME: the version, and the length of what follows.
            0x80 => {
                let version = self.number(1)?;
                if version > 5 {
                    return Err(format!("version {version} of pickle is not known"));
                }
                return Ok(None);
            }
            0x95 => {
                self.take(8)?;
                return Ok(None);
            }
            b'.' => return self.pop().map(Some),
            b'(' => {
                self.marks.push(self.stack.len());
                return Ok(None);
            }
            b'0' => {
                self.pop()?;
                return Ok(None);
            }
            b'1' => {
                let start = self.mark()?;
                self.stack.truncate(start);
                return Ok(None);
            }
            // NONE, BINFLOAT.
            b'N' => Value::Inert,
            b'G' => {
                self.take(8)?;
                Value::Inert
            }
            0x88 => Value::Bool(true),
            0x89 => Value::Bool(false),
            b'J' => Value::Int(i64::from(self.number(4)? as u32 as i32)),
            b'K' => Value::Int(self.number(1)? as i64),
            b'M' => Value::Int(self.number(2)? as i64),
            0x8a => {
                let len = self.number(1)?;
                self.long(len)?
            }
            0x8b => {
                let len = self.number(4)?;
                self.long(len)?
            }
            b'X' | b'T' => {
                let len = self.number(4)?;
                self.text(len)?
            }
            0x8c | b'U' => {
                let len = self.number(1)?;
                self.text(len)?
            }
            0x8d => {
                let len = self.number(8)?;
                self.text(len)?
            }
            // Bytes with a length of one, four or eight bytes, and bytearrays.
            b'C' | b'B' | 0x8e | 0x96 => {
                let len = self.number(match code {
                    b'C' => 1,
                    b'B' => 4,
                    _ => 8,
                })?;
                self.take(len)?;
                Value::Inert
            }
            b'}' => self.dict(vec![]),
            b']' => {
                self.pickle.lists.push(vec![]);
                Value::List(self.pickle.lists.len() - 1)
            }
            // EMPTY_SET.
            0x8f => Value::Inert,
            // FROZENSET.
            0x91 => {
                let start = self.mark()?;
                self.stack.truncate(start);
                Value::Inert
            }
            b')' => Value::Tuple(0, 0),
            b't' => {
                let start = self.mark()?;
                return self.tuple(start).map(|()| None);
            }
            0x85..=0x87 => {
                let start = self.stack.len().checked_sub(usize::from(code - 0x84)).ok_or("its stack is too short")?;
                return self.tuple(start).map(|()| None);
            }
            b'q' | b'r' | 0x94 => {
                let key = match code {
                    b'q' => self.number(1)?,
                    b'r' => self.number(4)?,
                    _ => self.memo.len(),
                };
                let value = self.top()?;
                self.memo.insert(key, value);
                return Ok(None);
            }
            b'h' | b'j' => {
                let key = self.number(if code == b'h' { 1 } else { 4 })?;
                *self.memo.get(&key).ok_or_else(|| format!("it has nothing under its number {key}: damaged"))?
            }
            // APPEND, APPENDS, ADDITEMS.
            b'a' | b'e' | 0x90 => {
                let start = if code == b'a' { self.stack.len().saturating_sub(1) } else { self.mark()? };
                let items = self.stack.split_off(start.min(self.stack.len()));
                match self.top()? {
                    Value::List(list) => self.pickle.lists[list].extend(items),
                    Value::Inert => {}
                    other => return Err(format!("it appends to {}", other.what())),
                }
                return Ok(None);
            }
            // SETITEM, SETITEMS.
            b's' | b'u' => {
                let start = if code == b's' { self.stack.len().saturating_sub(2) } else { self.mark()? };
                let items = self.stack.split_off(start.min(self.stack.len()));
                match self.top()? {
                    Value::Dict(dict) if items.len().is_multiple_of(2) => {
                        self.pickle.dicts[dict]
                            .extend(items.as_chunks::<2>().0.iter().map(|[key, value]| (*key, *value)));
                    }
                    Value::Inert => {}
                    other => return Err(format!("it sets items of {}", other.what())),
                }
                return Ok(None);
            }
            b'c' => {
                let (module, name) = (self.line()?, self.line()?);
                Value::Name(Name::of(module, name)?)
            }
            0x93 => match (self.pop()?, self.pop()?) {
                (Value::Str(name), Value::Str(module)) => Value::Name(Name::of(module, name)?),
                _ => return Err("it names a function by something that is not a string".into()),
            },
            // INST: a name, and a call of it.
            b'i' => {
                let (module, name) = (self.line()?, self.line()?);
                Name::of(module, name)?;
                return Err(format!("it calls {module}.{name} by an instruction that torch does not write"));
            }
            b'Q' => {
                let id = self.pop()?;
                self.storage(id)?
            }
            // REDUCE, NEWOBJ: a call, and the construction of an object.
            b'R' | 0x81 => {
                let (arguments, function) = (self.pop()?, self.pop()?);
                self.call(function, arguments)?
            }
            // BUILD: the attributes of an object.
            b'b' => {
                self.pop()?;
                // In an OrderedDict they are torch's _metadata: module versions.
                return match self.top()? {
                    Value::Dict(_) | Value::Inert => Ok(None),
                    other => Err(format!("it sets attributes of {}", other.what())),
                };
            }
            code => {
                return Err(format!(
                    "its instruction 0x{code:02x} does not occur in checkpoints that torch writes; nothing of the file was run"
                ));
            }
        };
        self.stack.push(value);
        Ok(None)
    }

    /// An integer of `len` bytes, little-endian, in two's complement.
    fn long(&mut self, len: usize) -> Result<Value<'a>, String> {
        let bytes = self.take(len)?;
        if len > 8 {
            return Ok(Value::Long(bytes));
        }
        let mut wide = [if bytes.last().is_some_and(|b| *b >= 0x80) { 0xff } else { 0 }; 8];
        wide[..len].copy_from_slice(bytes);
        Ok(Value::Int(i64::from_le_bytes(wide)))
    }

    fn call(&mut self, function: Value<'a>, arguments: Value<'a>) -> Result<Value<'a>, String> {
        let Value::Name(name) = function else { return Err(format!("it calls {}", function.what())) };
        let Value::Tuple(start, len) = arguments else { return Err("it calls with no tuple of arguments".into()) };
        match (name, &self.pickle.items[start..start + len]) {
            (Name::Data, _) => Ok(Value::Inert),
            (Name::OrderedDict, []) => Ok(self.dict(vec![])),
            (Name::RebuildTensor, [storage, offset, shape, strides, ..]) => {
                let tensor = self.view(*storage, *offset, *shape, *strides)?;
                self.pickle.tensors.push(tensor);
                Ok(Value::Tensor(self.pickle.tensors.len() - 1))
            }
            (Name::RebuildParameter, [tensor @ Value::Tensor(_), ..]) => Ok(*tensor),
            _ => Err(format!("it calls {name:?} with {len} arguments, other than torch writes")),
        }
    }

    /// Resolves a persistent id to a storage.
    fn storage(&mut self, id: Value<'a>) -> Result<Value<'a>, String> {
        let storage = match self.pickle.list(id) {
            [
                Value::Str("storage"),
                Value::Name(Name::Storage(dtype)),
                Value::Str(key),
                _,
                Value::Int(len),
                rest @ ..,
            ] => {
                if matches!(rest, [Value::Tuple(..), ..]) {
                    return Err(format!(
                        "storage {key} is a part of another, as torch before 0.4 wrote them: not supported"
                    ));
                }
                let len = usize::try_from(*len).map_err(|_| format!("storage {key} has a length of {len}"))?;
                Storage { key, dtype: *dtype, len }
            }
            _ => return Err("it refers to something that is not a storage of numbers".into()),
        };
        self.pickle.storages.push(storage);
        Ok(Value::Storage(self.pickle.storages.len() - 1))
    }

    /// Builds a tensor, checked to stay within its storage.
    fn view(
        &self,
        storage: Value<'a>,
        offset: Value<'a>,
        shape: Value<'a>,
        strides: Value<'a>,
    ) -> Result<Tensor<'a>, String> {
        let (Value::Storage(storage), Value::Tuple(..), Value::Tuple(..)) = (storage, shape, strides) else {
            return Err("its tensor has no storage, shape or strides".into());
        };
        let storage = self.pickle.storages[storage];
        let size = |value: &Value<'a>| match value {
            Value::Int(size) => usize::try_from(*size).map_err(|_| format!("its tensor has a size of {size}")),
            other => Err(format!("its tensor has a size that is {}", other.what())),
        };
        let sizes = |value| {
            let values = self.pickle.list(value);
            if values.len() > MAX_RANK {
                return Err(format!("its tensor has {} dimensions", values.len()));
            }
            values.iter().map(size).collect::<Result<Vec<_>, _>>()
        };
        let tensor = Tensor { storage, offset: size(&offset)?, shape: sizes(shape)?, strides: sizes(strides)? };
        if tensor.shape.len() != tensor.strides.len() {
            return Err("its tensor has not as many strides as dimensions".into());
        }
        let numbers = tensor.shape.iter().try_fold(1usize, |product, size| product.checked_mul(*size));
        let steps = tensor.shape.iter().zip(&tensor.strides);
        let last = steps.clone().try_fold(tensor.offset, |last, (size, stride)| {
            last.checked_add(size.saturating_sub(1).checked_mul(*stride)?)
        });
        let inside = match (numbers, last) {
            (Some(0), _) => true,
            (Some(_), Some(last)) => last < storage.len,
            _ => false,
        };
        if !inside {
            let Tensor { offset, shape, strides, .. } = tensor;
            let Storage { key, len, .. } = storage;
            return Err(format!(
                "its tensor of shape {shape:?}, strides {strides:?} from {offset} on leaves its storage {key} of {len}"
            ));
        }
        Ok(tensor)
    }
}
