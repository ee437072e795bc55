//! A pickle as plain data. This reads the opcodes of protocols 2 to 4 that `torch.save` writes and builds a graph of
//! nodes from them; it runs nothing, and a class is only ever a name. Unknown classes become objects that keep their
//! arguments, so that ballast in a checkpoint does no harm.
//!
//! Nodes live in one arena and point at each other by index, so sharing costs nothing, cycles are harmless, and
//! dropping a deep structure does not recurse.

use std::collections::HashMap;

/// Real checkpoints need some hundred kilobytes; all bounds on memory follow from this one.
const MAX_BYTES: usize = 16 << 20;
/// Bound on values, on the stack, on marks and on the memo; real checkpoints need some ten thousand values.
const MAX_NODES: usize = 1 << 19;

/// Index of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Id(u32);

/// One value of the pickle; text and bytes are borrowed from it.
#[derive(Debug)]
pub(super) enum Node<'a> {
    None,
    Bool(bool),
    Int(i64),
    /// An integer beyond 64 bits.
    BigInt,
    Float(f64),
    Text(&'a str),
    Bytes,
    /// A list, a set or a frozen set.
    List(Vec<Id>),
    Tuple(Vec<Id>),
    Dict(Vec<(Id, Id)>),
    /// A class or a function, by name only.
    Global {
        module: &'a str,
        name: &'a str,
    },
    /// What a class or function would have made of its arguments.
    Object(Box<Object>),
    /// A reference to something outside the pickle, such as a storage.
    Persistent(Id),
}

/// An unmade object: the recipe that the pickle gives for it.
#[derive(Debug)]
pub(super) struct Object {
    pub(super) class: Id,
    pub(super) arguments: Id,
    pub(super) state: Option<Id>,
    pub(super) items: Vec<(Id, Id)>,
    pub(super) elements: Vec<Id>,
}

/// A whole pickle.
#[derive(Debug)]
pub(super) struct Pickle<'a> {
    nodes: Vec<Node<'a>>,
    root: Id,
}

impl<'a> Pickle<'a> {
    /// Reads the pickle at the start of `bytes`.
    pub(super) fn read(bytes: &'a [u8]) -> Result<Self, String> {
        if bytes.len() > MAX_BYTES {
            return Err(format!("its pickle has {} bytes, more than the {MAX_BYTES} allowed", bytes.len()));
        }
        let mut machine =
            Machine { bytes, at: 0, nodes: Vec::new(), stack: Vec::new(), marks: Vec::new(), memo: HashMap::new() };
        match machine.run() {
            Ok(root) => Ok(Self { nodes: machine.nodes, root }),
            Err(reason) => Err(format!("its pickle is damaged at byte {}: {reason}", machine.at)),
        }
    }

    pub(super) fn root(&self) -> Id {
        self.root
    }

    pub(super) fn node(&self, id: Id) -> &Node<'a> {
        &self.nodes[id.0 as usize]
    }

    /// The text at `id`.
    pub(super) fn text(&self, id: Id) -> Option<&'a str> {
        match self.node(id) {
            Node::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The members of the tuple or list at `id`.
    pub(super) fn sequence(&self, id: Id) -> Option<&[Id]> {
        match self.node(id) {
            Node::Tuple(members) | Node::List(members) => Some(members),
            _ => None,
        }
    }

    /// Module and name of the class or function at `id`.
    pub(super) fn global(&self, id: Id) -> Option<(&'a str, &'a str)> {
        match self.node(id) {
            Node::Global { module, name } => Some((module, name)),
            _ => None,
        }
    }

    /// The object at `id` with its class's module and name.
    pub(super) fn object(&self, id: Id) -> Option<(&Object, &'a str, &'a str)> {
        match self.node(id) {
            Node::Object(object) => self.global(object.class).map(|(module, name)| (&**object, module, name)),
            _ => None,
        }
    }

    /// What stands at `id`, for messages.
    pub(super) fn kind(&self, id: Id) -> String {
        match self.node(id) {
            Node::None => "None".to_string(),
            Node::Bool(_) => "a truth value".to_string(),
            Node::Int(_) | Node::BigInt | Node::Float(_) => "a number".to_string(),
            Node::Text(_) | Node::Bytes => "a string".to_string(),
            Node::List(_) => "a list".to_string(),
            Node::Tuple(_) => "a tuple".to_string(),
            Node::Dict(_) => "a dict".to_string(),
            Node::Global { module, name } => format!("the class {module}.{name}"),
            Node::Persistent(_) => "a storage".to_string(),
            Node::Object(object) => match self.node(object.class) {
                Node::Global { module, name } => format!("an object of {module}.{name}"),
                _ => "an object".to_string(),
            },
        }
    }
}

/// The pickle's stack machine.
struct Machine<'a> {
    bytes: &'a [u8],
    at: usize,
    nodes: Vec<Node<'a>>,
    stack: Vec<Id>,
    /// Heights of the stack at which marks were set.
    marks: Vec<usize>,
    memo: HashMap<u32, Id>,
}

impl<'a> Machine<'a> {
    fn run(&mut self) -> Result<Id, String> {
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

                // BINUNICODE and BINSTRING of three widths; the latter are Python 2's, and text all the same
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
                    let (&Node::Text(name), &Node::Text(module)) = (self.node(name), self.node(module)) else {
                        return Err("a class is named by something that is no text".to_string());
                    };
                    self.push(Node::Global { module, name })?;
                }
                // REDUCE and NEWOBJ; NEWOBJ_EX has keyword arguments on top, which nothing here needs
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
                        _ => return Err("a state is set on something that is no object".to_string()),
                    }
                }
                b'Q' => {
                    let id = self.pop()?;
                    self.push(Node::Persistent(id))?;
                }
                other => return Err(format!("opcode 0x{other:02x} is not one that torch.save writes")),
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
        std::str::from_utf8(&rest[..end]).map_err(|_| "a class's name is no text".to_string())
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
        let fill = if bytes.last().is_some_and(|&byte| byte >= 0x80) { 0xFF } else { 0 };
        let (low, high) = bytes.split_at(length.min(8));
        let mut wide = [fill; 8];
        wide[..low.len()].copy_from_slice(low);
        let value = i64::from_le_bytes(wide);
        let fits = high.iter().all(|&byte| byte == fill) && (length < 8 || (value < 0) == (fill != 0));
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
        let height = self.stack.len().checked_sub(count).filter(|&height| height >= mark);
        height.ok_or_else(|| "the stack is empty".to_string())
    }

    fn pop(&mut self) -> Result<Id, String> {
        self.floor(1)?;
        self.stack.pop().ok_or_else(|| "the stack is empty".to_string())
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
            _ => return Err("something is appended to what is no list".to_string()),
        }
        Ok(())
    }

    fn set_items(&mut self, members: &[Id]) -> Result<(), String> {
        let new = pairs(members)?;
        let top = self.peek()?;
        match self.node_mut(top) {
            Node::Dict(items) => items.extend(new),
            Node::Object(object) => object.items.extend(new),
            _ => return Err("an item is set on what is no dict".to_string()),
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
        self.push(Node::Object(Box::new(Object { class, arguments, state: None, items, elements })))
    }
}

fn within_bounds(count: usize) -> Result<(), String> {
    if count > MAX_NODES { Err(format!("it has more than {MAX_NODES} values")) } else { Ok(()) }
}

fn pairs(members: &[Id]) -> Result<Vec<(Id, Id)>, String> {
    let (pairs, rest) = members.as_chunks::<2>();
    if rest.is_empty() {
        Ok(pairs.iter().map(|&[key, value]| (key, value)).collect())
    } else {
        Err("a key has no value".to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(bytes: &[u8]) -> String {
        Pickle::read(bytes).map(|_| ()).unwrap_err()
    }

    #[test]
    fn containers_numbers_and_text_are_read() {
        // {'a': (1, 256, -2, 1.5), 'b': [None, True]} as protocol 2 writes it
        let bytes = b"\x80\x02}q\x00(X\x01\x00\x00\x00a(K\x01M\x00\x01J\xfe\xff\xff\xffG?\xf8\0\0\0\0\0\0t\
                      X\x01\x00\x00\x00b](N\x88eu.";
        let pickle = Pickle::read(bytes).unwrap();
        let Node::Dict(items) = pickle.node(pickle.root()) else { panic!("{pickle:?}") };
        assert_eq!(pickle.text(items[0].0), Some("a"));
        let numbers = pickle.sequence(items[0].1).unwrap();
        assert!(matches!(pickle.node(numbers[1]), Node::Int(256)));
        assert!(matches!(pickle.node(numbers[2]), Node::Int(-2)));
        assert!(matches!(pickle.node(numbers[3]), Node::Float(1.5)));
        assert_eq!(pickle.sequence(items[1].1).unwrap().len(), 2);
    }

    #[test]
    fn longs_are_signed_and_big_ones_are_kept_apart() {
        let long = |bytes: &[u8]| {
            let bytes = [b"\x80\x02\x8a", &[bytes.len() as u8][..], bytes, b"."].concat();
            let pickle = Pickle::read(&bytes).unwrap();
            match pickle.node(pickle.root()) {
                Node::Int(value) => Some(*value),
                _ => None,
            }
        };
        assert_eq!(long(b""), Some(0));
        assert_eq!(long(b"\xff"), Some(-1));
        assert_eq!(long(b"\xff\x00"), Some(255));
        assert_eq!(long(&i64::MIN.to_le_bytes()), Some(i64::MIN));
        assert_eq!(long(b"\xff\xff\xff\xff\xff\xff\xff\xff\x00"), None);
        assert_eq!(long(b"\0\0\0\0\0\0\0\0\0"), Some(0));
    }

    #[test]
    fn an_unknown_class_becomes_an_object_with_its_arguments_and_state() {
        let bytes = b"\x80\x02cnumpy.core.multiarray\nscalar\nK\x05\x85R}X\x01\x00\x00\x00xK\x07sb.";
        let pickle = Pickle::read(bytes).unwrap();
        let (object, module, name) = pickle.object(pickle.root()).unwrap();
        assert_eq!((module, name), ("numpy.core.multiarray", "scalar"));
        assert_eq!(pickle.sequence(object.arguments).unwrap().len(), 1);
        assert!(matches!(pickle.node(object.state.unwrap()), Node::Dict(items) if items.len() == 1));
        assert_eq!(pickle.kind(pickle.root()), "an object of numpy.core.multiarray.scalar");
    }

    #[test]
    fn protocol_4_frames_memo_and_stack_globals_are_read() {
        let bytes = b"\x80\x04\x95\x10\0\0\0\0\0\0\0\x8c\x01a\x94\x8c\x01b\x94\x93\x94)\x81\x94h\x02\x86.";
        let pickle = Pickle::read(bytes).unwrap();
        let pair = pickle.sequence(pickle.root()).unwrap();
        assert_eq!(pickle.object(pair[0]).unwrap().1, "a");
        assert_eq!(pickle.global(pair[1]), Some(("a", "b")));
    }

    #[test]
    fn announced_lengths_are_never_trusted() {
        assert!(refusal(b"\x80\x02X\xff\xff\xff\xffabc.").contains("4294967295 bytes are announced and 4 are left"));
        assert!(refusal(b"\x80\x02\x8b\xff\xff\xff\xff\x01.").contains("announced"));
        assert!(refusal(b"\x80\x04\x8d\xff\xff\xff\xff\xff\xff\xff\xffabc.").contains("announced"));
        assert!(refusal(b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x7fabc.").contains("announced"));
        assert!(refusal(b"\x80\x02").contains("0 are left"));
        assert!(refusal(b"\x80\x02cabc").contains("does not end"));
        assert!(refusal(&vec![b'('; MAX_BYTES + 1]).contains("more than"));
    }

    #[test]
    fn a_broken_stack_is_refused() {
        for (bytes, reason) in [
            (&b"\x80\x02."[..], "stack is empty"),
            (b"\x80\x02N(0.", "stack is empty"),
            (b"\x80\x02Nt.", "no mark"),
            (b"\x80\x02N\x86.", "stack is empty"),
            (b"\x80\x02}(Nu.", "no value"),
            (b"\x80\x02NNa.", "no list"),
            (b"\x80\x02NNNs.", "no dict"),
            (b"\x80\x02NNb.", "no object"),
            (b"\x80\x02NNR.", "no tuple"),
            (b"\x80\x02h\x07.", "never memoized"),
            (b"\x80\x04NN\x93.", "no text"),
            (b"\x80\x02I1\n.", "opcode 0x49"),
            (b"\x80\x01N.", "protocol 1"),
        ] {
            let message = refusal(bytes);
            assert!(message.contains(reason), "{message}");
        }
    }

    #[test]
    fn deep_shared_and_cyclic_structures_cost_no_more_than_their_bytes() {
        let deep = [b"\x80\x02".to_vec(), vec![b']'; 400_000], vec![b'a'; 399_999], b".".to_vec()].concat();
        assert!(Pickle::read(&deep).is_ok());
        // ((x, x), (x, x)) and so on, thirty levels: 2^30 leaves if sharing were lost
        let shared = [b"\x80\x02N".to_vec(), b"2\x86".repeat(30), b".".to_vec()].concat();
        assert_eq!(Pickle::read(&shared).unwrap().nodes.len(), 31);
        assert!(Pickle::read(b"\x80\x02]q\x00h\x00a.").is_ok());
        for opcode in *b"N(" {
            let many = [b"\x80\x02".to_vec(), vec![opcode; MAX_NODES + 1], b".".to_vec()].concat();
            assert!(refusal(&many).contains("more than"));
        }
    }
}
