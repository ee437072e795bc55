//! Settings as data: a parser for Python constructor calls such as `AsymmetricMASt3R(enc_depth=24,
//! …)` and for the JSON that Python writes (which has `Infinity`), and the few typed questions we
//! ask of them.

use std::fmt;

/// Brackets within brackets; the files we read need three.
const MAX_DEPTH: usize = 32;

/// A constant.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Literal {
    None,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(String),
    /// A tuple or a list.
    Sequence(Vec<Literal>),
    Map(Vec<(String, Literal)>),
    /// A name, a call or an object: something that is not a constant.
    Other(String),
}

/// Named settings, and where they were found.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Settings {
    /// For messages: `the constructor string`, `config.json`.
    pub(super) origin: &'static str,
    pub(super) values: Vec<(String, Literal)>,
}

impl fmt::Display for Literal {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => write!(out, "None"),
            Self::Bool(value) => write!(out, "{value}"),
            Self::Int(value) => write!(out, "{value}"),
            Self::Float(value) => write!(out, "{value}"),
            Self::Text(value) => write!(out, "'{value}'"),
            Self::Sequence(values) => {
                write!(out, "(")?;
                for (i, value) in values.iter().enumerate() {
                    write!(out, "{}{value}", if i > 0 { ", " } else { "" })?;
                }
                write!(out, ")")
            }
            Self::Map(_) => write!(out, "{{…}}"),
            Self::Other(text) => write!(out, "{text}"),
        }
    }
}

impl Literal {
    /// The value as a number.
    pub(super) fn number(&self) -> Option<f64> {
        match self {
            Self::Int(value) => Some(*value as f64),
            Self::Float(value) => Some(*value),
            _ => None,
        }
    }
}

impl Settings {
    /// The arguments of the call `text`.
    pub(super) fn from_call(text: &str) -> Result<Self, String> {
        let origin = "the constructor string";
        let mut parser = Parser { text, at: 0 };
        let values = parser
            .identifier()
            .and_then(|_| parser.arguments(0))
            .and_then(|values| {
                parser.skip_space();
                if parser.at == text.len() {
                    Ok(values)
                } else {
                    Err(parser.unexpected())
                }
            });
        match values {
            Ok(values) => Ok(Self { origin, values }),
            Err(reason) => Err(format!(
                "{origin} '{}' cannot be read: {reason}",
                shortened(text)
            )),
        }
    }

    /// The entries of the JSON object `text`.
    pub(super) fn from_json(text: &str) -> Result<Self, String> {
        let mut parser = Parser { text, at: 0 };
        match parser.value(0)? {
            Literal::Map(values) => Ok(Self {
                origin: "config.json",
                values,
            }),
            _ => Err("it is no JSON object".to_string()),
        }
    }

    /// The setting called `name`; `None` counts as absent.
    pub(super) fn get(&self, name: &str) -> Option<&Literal> {
        self.values
            .iter()
            .find(|(key, value)| key == name && *value != Literal::None)
            .map(|(_, value)| value)
    }

    /// The whole number called `name`.
    pub(super) fn size(&self, name: &str) -> Result<Option<usize>, String> {
        match self.get(name) {
            None => Ok(None),
            Some(Literal::Int(value)) if (1..=1 << 20).contains(value) => Ok(Some(*value as usize)),
            Some(other) => Err(format!(
                "{} says {name}={other}, which is not a size",
                self.origin
            )),
        }
    }

    /// The truth value called `name`.
    pub(super) fn flag(&self, name: &str) -> Result<Option<bool>, String> {
        match self.get(name) {
            None => Ok(None),
            Some(Literal::Bool(value)) => Ok(Some(*value)),
            Some(other) => Err(format!(
                "{} says {name}={other}, which is neither true nor false",
                self.origin
            )),
        }
    }
}

/// The beginning of `text`, for messages.
pub(super) fn shortened(text: &str) -> String {
    let start: String = text
        .chars()
        .take(80)
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    if start.len() < text.len() {
        format!("{start}…")
    } else {
        start
    }
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
}

impl Parser<'_> {
    fn rest(&self) -> &str {
        &self.text[self.at..]
    }

    fn skip_space(&mut self) {
        self.at = self.text.len() - self.rest().trim_start().len();
    }

    fn peek(&mut self) -> Option<char> {
        self.skip_space();
        self.rest().chars().next()
    }

    /// Consumes `expected` if it comes next.
    fn take(&mut self, expected: char) -> bool {
        let found = self.peek() == Some(expected);
        if found {
            self.at += expected.len_utf8();
        }
        found
    }

    fn unexpected(&self) -> String {
        match self.rest().chars().next() {
            Some(found) => format!(
                "unexpected '{}' at byte {}",
                found.escape_default(),
                self.at
            ),
            None => "it ends early".to_string(),
        }
    }

    fn identifier(&mut self) -> Result<String, String> {
        self.skip_space();
        let is_name = |c: char| c.is_alphanumeric() || c == '_' || c == '.';
        let rest = self.rest();
        let name = &rest[..rest.find(|c| !is_name(c)).unwrap_or(rest.len())];
        if !name.starts_with(|c: char| c.is_alphabetic() || c == '_') {
            return Err(self.unexpected());
        }
        let name = name.to_string();
        self.at += name.len();
        Ok(name)
    }

    /// `(name=value, …)`; positional arguments are skipped.
    fn arguments(&mut self, depth: usize) -> Result<Vec<(String, Literal)>, String> {
        let mut values = Vec::new();
        if !self.take('(') {
            return Err(self.unexpected());
        }
        while !self.take(')') {
            let start = self.at;
            let name = self.identifier().ok();
            match name {
                Some(name) if self.take('=') => values.push((name, self.value(depth + 1)?)),
                _ => {
                    self.at = start;
                    self.value(depth + 1)?;
                }
            }
            if !self.take(',') && self.peek() != Some(')') {
                return Err(self.unexpected());
            }
        }
        Ok(values)
    }

    fn value(&mut self, depth: usize) -> Result<Literal, String> {
        if depth > MAX_DEPTH {
            return Err(format!("it is nested more than {MAX_DEPTH} deep"));
        }
        match self.peek() {
            Some('\'' | '"') => self.string().map(Literal::Text),
            Some('(') => self.sequence('(', ')', depth),
            Some('[') => self.sequence('[', ']', depth),
            Some('{') => self.map(depth),
            Some(c) if c.is_ascii_digit() || "+-.".contains(c) => self.number(),
            Some(_) => {
                let name = self.identifier()?;
                if self.peek() == Some('(') {
                    self.arguments(depth + 1)?;
                    return Ok(Literal::Other(name));
                }
                Ok(match name.as_str() {
                    "None" | "null" => Literal::None,
                    "True" | "true" => Literal::Bool(true),
                    "False" | "false" => Literal::Bool(false),
                    "inf" | "Infinity" => Literal::Float(f64::INFINITY),
                    "nan" | "NaN" => Literal::Float(f64::NAN),
                    _ => Literal::Other(name),
                })
            }
            None => Err(self.unexpected()),
        }
    }

    fn sequence(&mut self, open: char, close: char, depth: usize) -> Result<Literal, String> {
        let mut values = Vec::new();
        self.take(open);
        while !self.take(close) {
            values.push(self.value(depth + 1)?);
            if !self.take(',') && self.peek() != Some(close) {
                return Err(self.unexpected());
            }
        }
        Ok(Literal::Sequence(values))
    }

    fn map(&mut self, depth: usize) -> Result<Literal, String> {
        let mut values = Vec::new();
        self.take('{');
        while !self.take('}') {
            self.skip_space();
            let key = self.string()?;
            if !self.take(':') {
                return Err(self.unexpected());
            }
            values.push((key, self.value(depth + 1)?));
            if !self.take(',') && self.peek() != Some('}') {
                return Err(self.unexpected());
            }
        }
        Ok(Literal::Map(values))
    }

    fn string(&mut self) -> Result<String, String> {
        let quote = self
            .rest()
            .chars()
            .next()
            .filter(|c| matches!(c, '\'' | '"'))
            .ok_or_else(|| self.unexpected())?;
        self.at += 1;
        let mut text = String::new();
        let mut escaped = false;
        for (offset, c) in self.rest().char_indices() {
            match c {
                // No setting that matters here holds an escape, so the escaped character stands for
                // itself.
                _ if escaped => {
                    text.push(c);
                    escaped = false;
                }
                '\\' => escaped = true,
                c if c == quote => {
                    self.at += offset + 1;
                    return Ok(text);
                }
                c => text.push(c),
            }
        }
        Err("a string does not end".to_string())
    }

    fn number(&mut self) -> Result<Literal, String> {
        let rest = self.rest();
        let sign = usize::from(rest.starts_with(['+', '-']));
        for infinity in ["inf", "Infinity"] {
            if rest[sign..].starts_with(infinity) {
                let value = if rest.starts_with('-') {
                    f64::NEG_INFINITY
                } else {
                    f64::INFINITY
                };
                self.at += sign + infinity.len();
                return Ok(Literal::Float(value));
            }
        }
        let is_number = |c: char| c.is_ascii_digit() || "+-.eE_".contains(c);
        let digits = &rest[..rest.find(|c| !is_number(c)).unwrap_or(rest.len())];
        let value = match (digits.parse(), digits.parse()) {
            (Ok(value), _) => Literal::Int(value),
            (_, Ok(value)) => Literal::Float(value),
            _ => return Err(self.unexpected()),
        };
        self.at += digits.len();
        Ok(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_constructor_string_gives_its_arguments() {
        let text = "AsymmetricMASt3R(pos_embed='RoPE100', img_size=(512, 512), depth_mode=('exp', -inf, inf), \
                    head=f(x, y=[1]), enc_num_heads=16, two_confs=True, dropout=1e-1, freeze=None, )";
        let settings = Settings::from_call(text).unwrap();
        assert_eq!(
            settings.get("pos_embed"),
            Some(&Literal::Text("RoPE100".into()))
        );
        assert_eq!(settings.size("enc_num_heads"), Ok(Some(16)));
        assert_eq!(settings.flag("two_confs"), Ok(Some(true)));
        assert_eq!(settings.get("head"), Some(&Literal::Other("f".into())));
        assert_eq!(settings.get("dropout"), Some(&Literal::Float(0.1)));
        assert_eq!(settings.get("freeze"), None);
        assert_eq!(
            settings.get("depth_mode").unwrap().to_string(),
            "('exp', -inf, inf)"
        );
    }

    #[test]
    fn json_as_python_writes_it_is_read() {
        let text = r#"{"conf_mode": ["exp", 1, Infinity], "depth_mode": ["exp", -Infinity, NaN], "a": {"b": null}}"#;
        let settings = Settings::from_json(text).unwrap();
        let Some(Literal::Sequence(mode)) = settings.get("conf_mode") else {
            panic!("{settings:?}")
        };
        assert_eq!(mode[2], Literal::Float(f64::INFINITY));
    }

    #[test]
    fn nonsense_is_refused_with_a_place() {
        for text in [
            "",
            "x",
            "x(",
            "x(a=",
            "x(a=1",
            "x(a=1) y",
            "x(a=')",
            "x(a=1 b=2)",
            "x(a=--)",
            "x(é=€)",
            "'a'",
        ] {
            assert!(Settings::from_call(text).is_err(), "{text}");
        }
        assert!(Settings::from_json("[1]").is_err());
        let deep = format!("x(a={})", "[".repeat(100_000));
        assert!(Settings::from_call(&deep).unwrap_err().contains("nested"));
        assert!(
            Settings::from_call("x(n=-3)")
                .unwrap()
                .size("n")
                .unwrap_err()
                .contains("n=-3")
        );
    }
}
