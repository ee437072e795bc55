//! The page's text: markup, style sheet, scripts, and the scene as data between them.

use std::fmt;
use std::io::{self, Write};

use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::blocks::Block;

/// The markup, with `{{name}}` where something belongs.
const PAGE: &str = include_str!("page/page.html");
const STYLE: &str = include_str!("page/style.css");
/// The library, which defines `THREE`.
const THREE: &str = include_str!("three/three.min.js");
/// Our modules, each after those that it imports.
const MODULES: [&str; 9] = [
    include_str!("page/data.js"),
    include_str!("page/navigation.js"),
    include_str!("page/input.js"),
    include_str!("page/cloud.js"),
    include_str!("page/cameras.js"),
    include_str!("page/measuring.js"),
    include_str!("page/stage.js"),
    include_str!("page/panel.js"),
    include_str!("page/main.js"),
];
/// Bytes that become base64 at a time: a multiple of three, so that the parts join.
const BASE64_CHUNK: usize = 3 << 14;

/// What the page is made of.
pub(super) struct Parts<'a> {
    pub title: &'a str,
    pub description: &'a Value,
    pub blocks: &'a [Block],
    pub images: &'a [Vec<u8>],
}

impl Parts<'_> {
    /// Writes the page.
    ///
    /// # Errors
    /// Only the writer's own.
    pub fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        let script = joined_modules();
        let mut rest = PAGE;
        while let Some((text, tail)) = rest.split_once("{{") {
            let (name, tail) = tail.split_once("}}").unwrap_or((tail, ""));
            out.write_all(text.as_bytes())?;
            match name {
                "policy" => write!(out, "{}", policy(&script))?,
                "title" => write!(out, "{}", Escaped(self.title))?,
                "style" => out.write_all(STYLE.as_bytes())?,
                "scene" => self.write_scene(out)?,
                "three" => out.write_all(THREE.as_bytes())?,
                "modules" => out.write_all(script.as_bytes())?,
                _ => unreachable!("the page has no other places"),
            }
            rest = tail;
        }
        out.write_all(rest.as_bytes())
    }

    /// Elements with data, which browsers neither show nor run.
    fn write_scene(&self, out: &mut dyn Write) -> io::Result<()> {
        // A name such as `</script>` must not end the element, nor `<!--` change its meaning.
        let description = self.description.to_string().replace('<', "\\u003c");
        writeln!(
            out,
            "<script type=\"application/json\" id=\"scene\">{description}</script>"
        )?;
        let blocks = self.blocks.iter().map(|block| &block.bytes);
        let named = |kind| move |(index, bytes)| (kind, index, bytes);
        let parts = blocks
            .enumerate()
            .map(named("block"))
            .chain(self.images.iter().enumerate().map(named("image")));
        for (kind, index, bytes) in parts {
            write!(out, "<script type=\"text/plain\" id=\"{kind}-{index}\">")?;
            for chunk in bytes.chunks(BASE64_CHUNK) {
                out.write_all(&base64(chunk))?;
            }
            out.write_all(b"</script>\n")?;
        }
        Ok(())
    }
}

/// One script of all modules: a page on a disk cannot import others. Names at the top level of a
/// module are therefore names of all; a line that begins with `import` says which it takes.
fn joined_modules() -> String {
    let lines = MODULES.iter().flat_map(|module| module.lines());
    lines
        .filter(|line| !line.starts_with("import "))
        .map(|line| line.strip_prefix("export ").unwrap_or(line))
        .flat_map(|line| [line, "\n"])
        .collect()
}

/// The content security policy: these scripts and styles alone, and no network.
fn policy(script: &str) -> String {
    let hash = |text: &str| {
        let digest = base64(&Sha256::digest(text.as_bytes()));
        format!("'sha256-{}'", String::from_utf8_lossy(&digest))
    };
    format!(
        "default-src 'none'; script-src {} {}; style-src {}; img-src blob: data:; base-uri 'none'; form-action 'none'",
        hash(THREE),
        hash(script),
        hash(STYLE)
    )
}

/// RFC 4648, with padding.
fn base64(bytes: &[u8]) -> Vec<u8> {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = Vec::with_capacity(bytes.len().div_ceil(3) * 4);
    for three in bytes.chunks(3) {
        let byte = |at: usize| u32::from(three.get(at).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for at in 0..4 {
            let digit = bits >> (18 - 6 * at) & 63;
            text.push(match at <= three.len() {
                true => DIGITS[digit as usize],
                false => b'=',
            });
        }
    }
    text
}

/// Text between tags.
struct Escaped<'a>(&'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.chars().try_for_each(|char| match char {
            '<' => out.write_str("&lt;"),
            '>' => out.write_str("&gt;"),
            '&' => out.write_str("&amp;"),
            '"' => out.write_str("&quot;"),
            char => write!(out, "{char}"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_that_of_the_standard() {
        let cases = [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foobar", "Zm9vYmFy"),
        ];
        for (text, expected) in cases {
            assert_eq!(base64(text.as_bytes()), expected.as_bytes());
        }
    }

    #[test]
    fn modules_join_into_one_script() {
        let script = joined_modules();
        for line in script.lines() {
            assert!(
                !line.starts_with("import") && !line.starts_with("export"),
                "{line}"
            );
        }
        // Either would end the element early.
        for text in [THREE, &script] {
            assert!(!text.to_lowercase().contains("</script") && !text.contains("<!--"));
        }
        assert!(!STYLE.to_lowercase().contains("</style"));
    }

    #[test]
    fn every_import_is_of_a_module_before() {
        let names = [
            "data",
            "navigation",
            "input",
            "cloud",
            "cameras",
            "measuring",
            "stage",
            "panel",
            "main",
        ];
        for (index, module) in MODULES.iter().enumerate() {
            for line in module.lines().filter(|line| line.starts_with("import ")) {
                let (_, from) = line.split_once(" from './").unwrap();
                let name = from.trim_end_matches(".js';");
                let at = names.iter().position(|known| *known == name).unwrap();
                assert!(at < index, "{}: {line}", names[index]);
            }
        }
    }
}
