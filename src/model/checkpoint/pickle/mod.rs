//! A pickle as plain data. This reads the opcodes of protocols 2 to 4 that `torch.save` writes and
//! builds a graph of nodes from them; it runs nothing, and a class is only ever a name. Unknown
//! classes become objects that keep their arguments, so that ballast in a checkpoint does no harm.
//!
//! Nodes live in one arena and point at each other by index, so sharing costs nothing, cycles are
//! harmless, and dropping a deep structure does not recurse.

mod machine;

use self::machine::Machine;

/// Real checkpoints need some hundred kilobytes; all bounds on memory follow from this one.
const MAX_BYTES: usize = 16 << 20;
/// Bound on values, on the stack, on marks and on the memo; real checkpoints need some ten thousand
/// values.
const MAX_NODES: usize = 1 << 19;

/// Index of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Id(u32);

/// One value of the pickle; text and bytes are borrowed from it.
#[derive(Debug)]
pub enum Node<'a> {
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
pub struct Object {
    pub class: Id,
    pub arguments: Id,
    pub state: Option<Id>,
    pub items: Vec<(Id, Id)>,
    pub elements: Vec<Id>,
}

/// A whole pickle.
#[derive(Debug)]
pub struct Pickle<'a> {
    nodes: Vec<Node<'a>>,
    root: Id,
}

impl<'a> Pickle<'a> {
    /// Reads the pickle at the start of `bytes`.
    pub fn read(bytes: &'a [u8]) -> Result<Self, String> {
        if bytes.len() > MAX_BYTES {
            return Err(format!(
                "its pickle has {} bytes, more than the {MAX_BYTES} allowed",
                bytes.len()
            ));
        }
        let mut machine = Machine::new(bytes);
        match machine.run() {
            Ok(root) => Ok(Self {
                nodes: machine.nodes,
                root,
            }),
            Err(reason) => Err(format!(
                "its pickle is damaged at byte {}: {reason}",
                machine.at
            )),
        }
    }

    pub fn root(&self) -> Id {
        self.root
    }

    pub fn node(&self, id: Id) -> &Node<'a> {
        &self.nodes[id.0 as usize]
    }

    /// The text at `id`.
    pub fn text(&self, id: Id) -> Option<&'a str> {
        match self.node(id) {
            Node::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The members of the tuple or list at `id`.
    pub fn sequence(&self, id: Id) -> Option<&[Id]> {
        match self.node(id) {
            Node::Tuple(members) | Node::List(members) => Some(members),
            _ => None,
        }
    }

    /// Module and name of the class or function at `id`.
    pub fn global(&self, id: Id) -> Option<(&'a str, &'a str)> {
        match self.node(id) {
            Node::Global { module, name } => Some((module, name)),
            _ => None,
        }
    }

    /// The object at `id` with its class's module and name.
    pub fn object(&self, id: Id) -> Option<(&Object, &'a str, &'a str)> {
        match self.node(id) {
            Node::Object(object) => self
                .global(object.class)
                .map(|(module, name)| (&**object, module, name)),
            _ => None,
        }
    }

    /// What stands at `id`, for messages.
    pub fn kind(&self, id: Id) -> String {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(bytes: &[u8]) -> String {
        Pickle::read(bytes).map(|_| ()).unwrap_err()
    }

    #[test]
    fn containers_numbers_and_text_are_read() {
        // {'a': (1, 256, -2, 1.5), 'b': [None, True]} as protocol 2 writes it
        let bytes =
            b"\x80\x02}q\x00(X\x01\x00\x00\x00a(K\x01M\x00\x01J\xfe\xff\xff\xffG?\xf8\0\0\0\0\0\0t\
                      X\x01\x00\x00\x00b](N\x88eu.";
        let pickle = Pickle::read(bytes).unwrap();
        let Node::Dict(items) = pickle.node(pickle.root()) else {
            panic!("{pickle:?}")
        };
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
        let bytes =
            b"\x80\x02cnumpy.core.multiarray\nscalar\nK\x05\x85R}X\x01\x00\x00\x00xK\x07sb.";
        let pickle = Pickle::read(bytes).unwrap();
        let (object, module, name) = pickle.object(pickle.root()).unwrap();
        assert_eq!((module, name), ("numpy.core.multiarray", "scalar"));
        assert_eq!(pickle.sequence(object.arguments).unwrap().len(), 1);
        assert!(
            matches!(pickle.node(object.state.unwrap()), Node::Dict(items) if items.len() == 1)
        );
        assert_eq!(
            pickle.kind(pickle.root()),
            "an object of numpy.core.multiarray.scalar"
        );
    }

    #[test]
    fn protocol_4_frames_memo_and_stack_globals_are_read() {
        let bytes =
            b"\x80\x04\x95\x10\0\0\0\0\0\0\0\x8c\x01a\x94\x8c\x01b\x94\x93\x94)\x81\x94h\x02\x86.";
        let pickle = Pickle::read(bytes).unwrap();
        let pair = pickle.sequence(pickle.root()).unwrap();
        assert_eq!(pickle.object(pair[0]).unwrap().1, "a");
        assert_eq!(pickle.global(pair[1]), Some(("a", "b")));
    }

    #[test]
    fn announced_lengths_are_never_trusted() {
        assert!(
            refusal(b"\x80\x02X\xff\xff\xff\xffabc.")
                .contains("4294967295 bytes are announced and 4 are left")
        );
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
            (b"\x80\x02NNa.", "not a list"),
            (b"\x80\x02NNNs.", "not a dict"),
            (b"\x80\x02NNb.", "not an object"),
            (b"\x80\x02NNR.", "no tuple"),
            (b"\x80\x02h\x07.", "never memoized"),
            (b"\x80\x04NN\x93.", "not text"),
            (b"\x80\x02I1\n.", "opcode 0x49"),
            (b"\x80\x01N.", "protocol 1"),
        ] {
            let message = refusal(bytes);
            assert!(message.contains(reason), "{message}");
        }
    }

    #[test]
    fn deep_shared_and_cyclic_structures_cost_no_more_than_their_bytes() {
        let deep = [
            b"\x80\x02".to_vec(),
            vec![b']'; 400_000],
            vec![b'a'; 399_999],
            b".".to_vec(),
        ]
        .concat();
        assert!(Pickle::read(&deep).is_ok());
        // ((x, x), (x, x)) and so on, thirty levels: 2^30 leaves if sharing were lost
        let shared = [b"\x80\x02N".to_vec(), b"2\x86".repeat(30), b".".to_vec()].concat();
        assert_eq!(Pickle::read(&shared).unwrap().nodes.len(), 31);
        assert!(Pickle::read(b"\x80\x02]q\x00h\x00a.").is_ok());
        for opcode in *b"N(" {
            let many = [
                b"\x80\x02".to_vec(),
                vec![opcode; MAX_NODES + 1],
                b".".to_vec(),
            ]
            .concat();
            assert!(refusal(&many).contains("more than"));
        }
    }
}
