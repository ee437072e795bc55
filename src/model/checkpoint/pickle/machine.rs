//! The pickle's stack machine: one opcode after the other, each checked against the bytes and the
//! stack there are.

use std::collections::HashMap;

use super::{Id, MAX_NODES, Node, Object};

/// The pickle's stack machine.
pub(super) struct Machine<'a> {
    bytes: &'a [u8],
    pub(super) at: usize,
    pub(super) nodes: Vec<Node<'a>>,
    stack: Vec<Id>,
    /// Heights of the stack at which marks were set.
    marks: Vec<usize>,
    memo: HashMap<u32, Id>,
}

impl<'a> Machine<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self {
            bytes,
            at: 0,
            nodes: Vec::new(),
            stack: Vec::new(),
            marks: Vec::new(),
            memo: HashMap::new(),
        }
    }

    /// Runs to the end of the pickle and returns its value.
    pub(super) fn run(&mut self) -> Result<Id, String> {
        loop {
            let [opcode] = self.take()?;
            match opcode {
                // PROTO; FRAME, whose length only helps buffered readers
                0x80 => {
                    let [protocol] = self.take()?;
                    if !(2..=5).contains(&protocol) {
                        return Err(format!("it is of protocol {protocol}, and 2 to 5 are read"));
                    }
                }
                0x95 => drop(self.take::<8>()?),
                b'.' => return self.pop(),
                b'(' => {
                    self.marks.push(self.stack.len());
                    within_bounds(self.marks.len())?;
                }
                b'0' => drop(self.pop()?),
                b'1' => drop(self.pop_mark()?),
                b'2' => {
                    let top = self.peek()?;
                    self.push_id(top)?;
                }

                b'N' => self.push(Node::None)?,
                0x88 => self.push(Node::Bool(true))?,
                0x89 => self.push(Node::Bool(false))?,
                b'J' => {
                    let value = i32::from_le_bytes(self.take()?);
                    self.push(Node::Int(value.into()))?;
                }
                b'K' => {
                    let [value] = self.take()?;
                    self.push(Node::Int(value.into()))?;
                }
                b'M' => {
                    let value = u16::from_le_bytes(self.take()?);
                    self.push(Node::Int(value.into()))?;
                }
                0x8a => {
                    let [length] = self.take()?;
                    self.long(length.into())?;
                }
                0x8b => {
                    let length = self.length::<4>()?;
                    self.long(length)?;
                }
                b'G' => {
                    let value = f64::from_be_bytes(self.take()?);
                    self.push(Node::Float(value))?;
                }

                // BINUNICODE and BINSTRING of three widths; the latter are Python 2's, and text all
                // the same
                b'X' | b'T' => self.text::<4>()?,
                0x8c | b'U' => self.text::<1>()?,
                0x8d => self.text::<8>()?,
                b'B' => self.binary::<4>()?,
                b'C' => self.binary::<1>()?,
                0x8e | 0x96 => self.binary::<8>()?,

                b'}' => self.push(Node::Dict(Vec::new()))?,
                b']' | 0x8f => self.push(Node::List(Vec::new()))?,
                b')' => self.push(Node::Tuple(Vec::new()))?,
                b't' => {
                    let members = self.pop_mark()?;
                    self.push(Node::Tuple(members))?;
                }
                0x85..=0x87 => {
                    let count = usize::from(opcode - 0x84);
                    let start = self.floor(count)?;
                    let members = self.stack.split_off(start);
                    self.push(Node::Tuple(members))?;
                }
                // LIST and FROZENSET
                b'l' | 0x91 => {
                    let members = self.pop_mark()?;
                    self.push(Node::List(members))?;
                }
                b'd' => {
                    let members = self.pop_mark()?;
                    let items = pairs(&members)?;
                    self.push(Node::Dict(items))?;
                }
                b'a' => {
                    let member = self.pop()?;
                    self.append(vec![member])?;
                }
                // APPENDS and ADDITEMS
                b'e' | 0x90 => {
                    let members = self.pop_mark()?;
                    self.append(members)?;
                }
                b's' => {
                    let (value, key) = (self.pop()?, self.pop()?);
                    self.set_items(&[key, value])?;
                }
                b'u' => {
                    let members = self.pop_mark()?;
                    self.set_items(&members)?;
                }

                b'q' => {
                    let [index] = self.take()?;
                    self.memoize(index.into())?;
                }
                b'r' => {
                    let index = u32::from_le_bytes(self.take()?);
                    self.memoize(index)?;
                }
                0x94 => self.memoize(self.memo.len() as u32)?,
                b'h' => {
                    let [index] = self.take()?;
                    self.recall(index.into())?;
                }
                b'j' => {
                    let index = u32::from_le_bytes(self.take()?);
                    self.recall(index)?;
                }

                b'c' => {
                    let (module, name) = (self.line()?, self.line()?);
                    self.push(Node::Global { module, name })?;
                }
                0x93 => {
                    let (name, module) = (self.pop()?, self.pop()?);
                    let (&Node::Text(name), &Node::Text(module)) =
                        (self.node(name), self.node(module))
                    else {
                        return Err("the name of a class is not text".to_string());
                    };
                    self.push(Node::Global { module, name })?;
                }
                // REDUCE and NEWOBJ; NEWOBJ_EX has keyword arguments on top, which nothing here
                // needs
                b'R' | 0x81 => self.object()?,
                0x92 => {
                    self.pop()?;
                    self.object()?;
                }
                b'b' => {
                    let state = self.pop()?;
                    let top = self.peek()?;
                    match self.node_mut(top) {
                        Node::Object(object) => object.state = Some(state),
                        _ => {
                            return Err(
                                "a state is set on something that is not an object".to_string()
                            );
                        }
                    }
                }
                b'Q' => {
                    let id = self.pop()?;
                    self.push(Node::Persistent(id))?;
                }
                other => {
                    return Err(format!(
                        "opcode 0x{other:02x} is not one that torch.save writes"
                    ));
                }
            }
        }
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let mut taken = [0; N];
        taken.copy_from_slice(self.slice(N)?);
        Ok(taken)
    }

    /// The next `length` bytes, which are checked to exist and never copied.
    fn slice(&mut self, length: usize) -> Result<&'a [u8], String> {
        let left = self.bytes.len() - self.at;
        if length > left {
            return Err(format!("{length} bytes are announced and {left} are left"));
        }
        let slice = &self.bytes[self.at..self.at + length];
        self.at += length;
        Ok(slice)
    }

    /// A little-endian length of `N` bytes.
    fn length<const N: usize>(&mut self) -> Result<usize, String> {
        let mut wide = [0; 8];
        wide[..N].copy_from_slice(&self.take::<N>()?);
        Ok(usize::try_from(u64::from_le_bytes(wide)).unwrap_or(usize::MAX))
    }

    fn line(&mut self) -> Result<&'a str, String> {
        let rest = &self.bytes[self.at..];
        let Some(end) = rest.iter().position(|&byte| byte == b'\n') else {
            return Err("a class's name does not end".to_string());
        };
        self.at += end + 1;
        std::str::from_utf8(&rest[..end]).map_err(|_| "the name of a class is not text".to_string())
    }

    fn text<const N: usize>(&mut self) -> Result<(), String> {
        let length = self.length::<N>()?;
        let bytes = self.slice(length)?;
        // Python also writes lone surrogates, which no name that matters holds.
        self.push(std::str::from_utf8(bytes).map_or(Node::Bytes, Node::Text))
    }

    fn binary<const N: usize>(&mut self) -> Result<(), String> {
        let length = self.length::<N>()?;
        self.slice(length)?;
        self.push(Node::Bytes)
    }

    /// A two's complement integer of `length` bytes, little endian.
    fn long(&mut self, length: usize) -> Result<(), String> {
        let bytes = self.slice(length)?;
        let fill = if bytes.last().is_some_and(|&byte| byte >= 0x80) {
            0xFF
        } else {
            0
        };
        let (low, high) = bytes.split_at(length.min(8));
        let mut wide = [fill; 8];
        wide[..low.len()].copy_from_slice(low);
        let value = i64::from_le_bytes(wide);
        let fits =
            high.iter().all(|&byte| byte == fill) && (length < 8 || (value < 0) == (fill != 0));
        self.push(if fits { Node::Int(value) } else { Node::BigInt })
    }

    fn node(&self, id: Id) -> &Node<'a> {
        &self.nodes[id.0 as usize]
    }

    fn node_mut(&mut self, id: Id) -> &mut Node<'a> {
        &mut self.nodes[id.0 as usize]
    }

    fn push(&mut self, node: Node<'a>) -> Result<(), String> {
        let id = Id(self.nodes.len() as u32);
        self.nodes.push(node);
        within_bounds(self.nodes.len())?;
        self.push_id(id)
    }

    fn push_id(&mut self, id: Id) -> Result<(), String> {
        self.stack.push(id);
        within_bounds(self.stack.len())
    }

    /// Height of the stack after `count` values above the last mark are taken.
    fn floor(&self, count: usize) -> Result<usize, String> {
        let mark = self.marks.last().copied().unwrap_or(0);
        let height = self
            .stack
            .len()
            .checked_sub(count)
            .filter(|&height| height >= mark);
        height.ok_or_else(|| "the stack is empty".to_string())
    }

    fn pop(&mut self) -> Result<Id, String> {
        self.floor(1)?;
        self.stack
            .pop()
            .ok_or_else(|| "the stack is empty".to_string())
    }

    fn peek(&self) -> Result<Id, String> {
        self.floor(1).map(|top| self.stack[top])
    }

    /// Everything above the last mark, and the mark.
    fn pop_mark(&mut self) -> Result<Vec<Id>, String> {
        let mark = self.marks.pop().ok_or("there is no mark")?;
        Ok(self.stack.split_off(mark))
    }

    fn append(&mut self, members: Vec<Id>) -> Result<(), String> {
        let top = self.peek()?;
        match self.node_mut(top) {
            Node::List(list) => list.extend(members),
            Node::Object(object) => object.elements.extend(members),
            _ => return Err("something is appended to what is not a list".to_string()),
        }
        Ok(())
    }

    fn set_items(&mut self, members: &[Id]) -> Result<(), String> {
        let new = pairs(members)?;
        let top = self.peek()?;
        match self.node_mut(top) {
            Node::Dict(items) => items.extend(new),
            Node::Object(object) => object.items.extend(new),
            _ => return Err("an item is set on something that is not a dict".to_string()),
        }
        Ok(())
    }

    fn memoize(&mut self, index: u32) -> Result<(), String> {
        let top = self.peek()?;
        self.memo.insert(index, top);
        within_bounds(self.memo.len())
    }

    fn recall(&mut self, index: u32) -> Result<(), String> {
        let id = self.memo.get(&index).copied();
        self.push_id(id.ok_or_else(|| format!("value {index} is recalled and was never memoized"))?)
    }

    fn object(&mut self) -> Result<(), String> {
        let (arguments, class) = (self.pop()?, self.pop()?);
        if !matches!(self.node(arguments), Node::Tuple(_)) {
            return Err("a call's arguments are no tuple".to_string());
        }
        let (items, elements) = (Vec::new(), Vec::new());
        self.push(Node::Object(Box::new(Object {
            class,
            arguments,
            state: None,
            items,
            elements,
        })))
    }
}

fn within_bounds(count: usize) -> Result<(), String> {
    if count > MAX_NODES {
        Err(format!("it has more than {MAX_NODES} values"))
    } else {
        Ok(())
    }
}

fn pairs(members: &[Id]) -> Result<Vec<(Id, Id)>, String> {
    let (pairs, rest) = members.as_chunks::<2>();
    if rest.is_empty() {
        Ok(pairs.iter().map(|&[key, value]| (key, value)).collect())
    } else {
        Err("a key has no value".to_string())
    }
}
